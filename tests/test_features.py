"""src/features.py against scipy's STFT, a DFT written out here, and broken audio files."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile

from src.config import SpectConfig
from src.features import AudioError, _read_plain_wav, load_audio, num_frames, read_audio, spectrogram

ROOT = Path(__file__).resolve().parents[1]
SPECT = SpectConfig()


def speech(seconds: float = 2.0, rate: int = 16000, seed: int = 0) -> np.ndarray:
    """Noise and a gliding tone that come and go: nothing that a codec could shrink to nothing."""
    t = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).normal(0, 0.1, len(t))
    return ((noise + 0.4 * np.sin(2 * np.pi * (200 + 300 * t) * t)) * (0.6 + 0.4 * np.sin(9 * t))).astype(np.float32)


def normalised(magnitudes: np.ndarray) -> np.ndarray:
    """log1p, mean 0, unbiased standard deviation 1, in float64."""
    logs = np.log1p(magnitudes)
    return (logs - logs.mean()) / logs.std(ddof=1)


def dft_magnitudes(samples: np.ndarray, n_fft: int, hop: int, window: np.ndarray) -> np.ndarray:
    """(F, T) magnitudes, straight from the definition: zeros around the signal, one frame every hop."""
    padded = np.concatenate([np.zeros(n_fft // 2), samples, np.zeros(n_fft // 2)])
    basis = np.exp(-2j * np.pi * np.outer(np.arange(n_fft // 2 + 1), np.arange(n_fft)) / n_fft)
    frames = [padded[start:start + n_fft] * window for start in range(0, len(padded) - n_fft + 1, hop)]
    return np.abs(basis @ np.array(frames).T)


def peak_frequency(samples: np.ndarray, rate: int) -> float:
    """Hz of the strongest frequency."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return spectrum.argmax() * rate / len(samples)


def refusal(path: Path) -> str:
    """The message of the AudioError, which names the file and stays on one line."""
    with pytest.raises(AudioError) as caught:
        read_audio(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


# spectrogram

def test_spectrogram_is_the_definition():
    samples = speech(0.5)
    hamming = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(320) / 320)     # periodic: the divisor is not 319
    expected = normalised(dft_magnitudes(samples.astype(np.float64), 320, 160, hamming))
    found = spectrogram(samples, SPECT)
    assert found.shape == (161, 51) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [0.5, 100.0])
def test_scaled_and_normalised_by_frequency(scale):
    samples = speech(0.5)
    hamming = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(320) / 320)
    magnitudes = dft_magnitudes(samples.astype(np.float64), 320, 160, hamming)
    found = spectrogram(samples, SpectConfig(magnitude_scale=scale))
    np.testing.assert_allclose(found, normalised(scale * magnitudes), rtol=0, atol=1e-5)
    logs = np.log1p(scale * magnitudes)
    centred = logs - logs.mean(1, keepdims=True)
    found = spectrogram(samples, SpectConfig(magnitude_scale=scale, normalization="frequency"))
    np.testing.assert_allclose(found, centred / centred.std(ddof=1), rtol=0, atol=1e-5)
    assert not spectrogram(np.zeros(3200, np.float32), SpectConfig(normalization="frequency")).any()


@pytest.mark.parametrize("window", ["hamming", "hann", "blackman", "bartlett"])
@pytest.mark.parametrize(("rate", "size", "stride"), [(16000, 0.02, 0.01), (8000, 0.032, 0.008)])
def test_spectrogram_is_that_of_scipy(window, rate, size, stride):
    spect = SpectConfig(sample_rate=rate, window_size=size, window_stride=stride, window=window)
    samples = speech(0.7, rate)[:-17]
    taps = scipy.signal.get_window(window, spect.n_fft, fftbins=True)
    _, _, stft = scipy.signal.stft(samples, window=taps, nperseg=spect.n_fft, noverlap=spect.n_fft - spect.hop_length,
                                   boundary="zeros", padded=False)
    expected = normalised(np.abs(stft) * taps.sum())                     # scipy divides by the sum of the window
    found = spectrogram(samples, spect)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def setting(n_fft: int, hop: int, window: str = "hamming") -> SpectConfig:
    """Windows of `n_fft` samples every `hop` samples."""
    return SpectConfig(window_size=n_fft / 16000, window_stride=hop / 16000, window=window)


@pytest.mark.parametrize("window", ["hamming", "hann", "blackman", "bartlett"])
@pytest.mark.parametrize(("n_fft", "hop"), [(320, 160), (320, 150), (221, 110), (333, 100), (64, 100), (7, 1)])
def test_any_setting_is_the_definition(n_fft, hop, window):
    """Odd windows, steps that do not divide them, gaps between them; signals shorter than one, and of many blocks."""
    spect = setting(n_fft, hop, window)
    taps = scipy.signal.get_window(window, n_fft, fftbins=True)
    for length in (5, n_fft - 1, n_fft, 4 * hop, 4 * hop + 1, 20000):
        samples = speech(1.5)[:length]
        expected = normalised(dft_magnitudes(samples.astype(np.float64), n_fft, hop, taps))
        found = spectrogram(samples, spect)
        assert found.shape == expected.shape == (spect.num_bins, num_frames(length, 16000, spect))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


T = np.arange(24000) / 16000
SIGNALS = {
    "loud": np.random.default_rng(0).uniform(-1, 1, len(T)),
    "quiet": 1e-4 * speech(1.5),
    "one bit": np.where(T == 0.5, 1 / 32768, 0),
    "tone": np.sin(2 * np.pi * 1003.7 * T),                              # these two are wrong by 1.5e-5
    "noise on an offset": 0.5 + 1e-4 * speech(1.5),                      # with a transform in single precision
    "quiet tone": 1e-4 * np.sin(2 * np.pi * 1003.7 * T),
    "clipped": np.clip(8 * np.sin(2 * np.pi * 440.3 * T), -1, 1),
    "square wave": np.sign(np.sin(2 * np.pi * 217 * T)),
    "offset": np.ones(len(T)),
}


@pytest.mark.parametrize("signal", SIGNALS.values(), ids=SIGNALS)
def test_any_signal_is_within_1e_5(signal):
    samples = signal.astype(np.float32)
    taps = scipy.signal.get_window("hamming", 320, fftbins=True)
    expected = normalised(dft_magnitudes(samples.astype(np.float64), 320, 160, taps))
    np.testing.assert_allclose(spectrogram(samples, SPECT), expected, rtol=0, atol=1e-5)


def test_spectrogram_has_mean_0_and_unbiased_deviation_1():
    found = spectrogram(speech(0.05), SPECT).astype(np.float64)          # few values: ddof shows
    assert found.mean() == pytest.approx(0, abs=1e-6)
    assert found.std(ddof=1) == pytest.approx(1, abs=1e-6)


def test_spectrogram_does_not_depend_on_what_is_called_around_it():
    samples = speech(0.3)
    before = samples.copy()
    np.testing.assert_array_equal(spectrogram(samples, SPECT), spectrogram(samples, SPECT))
    np.testing.assert_array_equal(samples, before)


@pytest.mark.parametrize("length", [1, 159, 160, 16000])
def test_silence_gives_zeros(length):
    found = spectrogram(np.zeros(length, np.float32), SPECT)
    assert found.shape == (161, 1 + length // 160) and found.dtype == np.float32
    assert not found.any()


@pytest.mark.parametrize("length", [2, 159, 160, 161, 319, 320])
def test_audio_shorter_than_a_window(length):
    found = spectrogram(speech()[:length], SPECT)
    assert found.shape == (161, 1 + length // 160)
    assert np.isfinite(found).all() and found.any()


@pytest.mark.parametrize("position", range(0, 160, 13))
def test_a_click_has_a_flat_spectrum_and_gives_zeros(position):
    samples = np.zeros(159, np.float32)
    samples[position] = 0.7
    assert not spectrogram(samples, SPECT).any()


# num_frames

@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
def test_num_frames_is_what_a_file_gives(tmp_path, rate):
    for length in (1, 7, 159, 160, 161, 441, 3199, 3200, 3201, 7056, 7057, 9999):
        soundfile.write(tmp_path / "a.wav", speech()[:length], rate)
        frames = spectrogram(load_audio(tmp_path / "a.wav", 16000), SPECT).shape[1]
        assert num_frames(length, rate, SPECT) == frames, length


def test_num_frames_rounds_like_the_resampler(tmp_path):
    """54 samples are exactly 63 at 22050 Hz, but the resampler's floating point makes them 64: a hop more."""
    spect = SpectConfig(sample_rate=22050, window_size=64 / 22050, window_stride=64 / 22050)
    soundfile.write(tmp_path / "a.wav", speech()[:54], 18900)
    samples = load_audio(tmp_path / "a.wav", 22050)
    assert num_frames(54, 18900, spect) == spectrogram(samples, spect).shape[1] == 2


def test_num_frames_of_arrays():
    frames = num_frames(np.array([16000, 16159, 22050, 0]), np.array([16000, 16000, 22050, 8000]), SPECT)
    assert frames.tolist() == [101, 101, 101, 1]
    assert np.issubdtype(frames.dtype, np.integer)


def test_num_frames_of_windows_of_odd_length():
    """They reach one sample further than the zeros around the signal: whole steps give a frame less."""
    spect = setting(221, 110)
    assert num_frames(np.array([109, 110, 111, 220, 221]), 16000, spect).tolist() == [1, 1, 2, 2, 3]


# reading

def test_importing_does_not_load_what_only_resampling_needs():
    slow = {"librosa", "numba", "sklearn", "scipy.signal"}
    code = f"import sys, src.features; print(sorted({slow} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.stdout == "[]\n", result.stderr


def test_plain_wav_is_what_libsndfile_reads(tmp_path):
    """Every value of 16 bits."""
    path = tmp_path / "a.wav"
    soundfile.write(path, np.arange(-32768, 32768).astype(np.int16), 8000)
    samples, rate = _read_plain_wav(path)
    expected, expected_rate = soundfile.read(path, dtype="float32")
    assert rate == expected_rate and samples.dtype == np.float32
    np.testing.assert_array_equal(samples, expected)


@pytest.mark.parametrize(("at", "change"), [
    (0, b"RIFX"), (4, b"\0\0\0\0"), (8, b"AVI "), (16, b"\x12"), (20, b"\3"), (22, b"\2"), (24, b"\0\0\0\0"),
    (24, b"\1"), (32, b"\4"), (34, b"\x08"), (36, b"LIST"), (40, b"\x0e\0\0\0"), (40, b"\xff\xff\xff\xff"),
    (60, b"\0"), (60, b"LIST\4\0\0\0abcd"),
])
def test_any_other_header_is_left_to_libsndfile(tmp_path, at, change):
    """Also a file with something after its samples, here 16 bytes from byte 44 on."""
    path = tmp_path / "a.wav"
    soundfile.write(path, np.arange(1, 9).astype(np.int16), 16000)
    content = bytearray(path.read_bytes())
    assert len(content) == 60 and _read_plain_wav(path)
    content[at:at + len(change)] = change
    path.write_bytes(content)
    assert _read_plain_wav(path) is None


@pytest.mark.parametrize(("name", "tolerance"), [("a.wav", 1e-4), ("a.flac", 1e-4), ("a.ogg", 0.3), ("a.mp3", 0.3)])
def test_formats(tmp_path, name, tolerance):
    samples = speech()
    soundfile.write(tmp_path / name, samples, 16000)
    found, rate = read_audio(tmp_path / name)
    assert rate == 16000 and found.dtype == np.float32 and found.shape == samples.shape
    assert np.abs(found - samples).max() < tolerance
    assert np.corrcoef(found, samples)[0, 1] > 0.97                      # 0.8 when shifted by one sample


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
def test_full_scale_is_1_in_every_sample_format(tmp_path, subtype):
    soundfile.write(tmp_path / "a.wav", np.array([0.0, -1.0, 0.5, 0.25, 0.0]), 16000, subtype=subtype)    # 5: odd size
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav")[0], [0, -1, 0.5, 0.25, 0], atol=0.02)


def test_channels_are_averaged(tmp_path):
    left, right = np.array([0.5, 0.25, -0.5]), np.array([0.0, 0.25, 0.5])
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 16000)
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav")[0], [0.25, 0.25, 0.0], atol=1e-4)


def test_load_audio_leaves_audio_at_the_right_rate_alone(tmp_path, write_wav):
    samples = write_wav(tmp_path / "a.wav")
    np.testing.assert_allclose(load_audio(tmp_path / "a.wav", 16000), samples, atol=1e-4)


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_resampling_keeps_frequency_level_and_duration(tmp_path, write_wav, rate):
    write_wav(tmp_path / "a.wav", seconds=1, frequency=1000, rate=rate)
    found = load_audio(tmp_path / "a.wav", 16000)
    assert found.shape == (16000,) and found.dtype == np.float32
    assert peak_frequency(found, 16000) == 1000
    assert np.abs(found[1000:-1000]).max() == pytest.approx(0.5, abs=0.01)


def test_resampling_removes_what_the_lower_rate_cannot_hold(tmp_path, write_wav):
    write_wav(tmp_path / "a.wav", seconds=1, frequency=12000, rate=44100)
    assert np.abs(load_audio(tmp_path / "a.wav", 16000)[1000:-1000]).max() < 0.001


def test_stereo_mp3_at_another_rate(tmp_path):
    t = np.arange(44100) / 44100
    soundfile.write(tmp_path / "a.mp3", np.stack([np.sin(2 * np.pi * 500 * t) / 2] * 2, axis=1), 44100)
    found = load_audio(tmp_path / "a.mp3", 16000)
    assert found.shape == (16000,) and peak_frequency(found, 16000) == 500


# what is refused

def test_missing_file(tmp_path):
    assert "No such file" in refusal(tmp_path / "a.wav")


def test_folder(tmp_path):
    assert "Is a directory" in refusal(tmp_path)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "raw"])
def test_file_of_no_bytes(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"")
    assert refusal(path).endswith("the file is empty")


@pytest.mark.parametrize("suffix", ["wav", "ogg"])
def test_file_of_no_samples(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.zeros(0), 16000)
    assert "no samples" in refusal(path)


@pytest.mark.parametrize(("suffix", "words"), [
    ("wav", "Format not recognised"), ("flac", "Format not recognised"), ("mp3", "not audio"),
    ("raw", "without a header"),                                         # soundfile asks for the rate: a TypeError
])
def test_not_audio(tmp_path, suffix, words):
    path = tmp_path / f"a.{suffix}"
    path.write_text("THIS IS A TRANSCRIPT " * 100)
    assert words in refusal(path)


def test_name_with_quotes(tmp_path):
    path = tmp_path / "it's \"a\".wav"
    path.write_text("text")
    assert refusal(path).count("it's") == 0                              # named once, at the beginning


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("seconds", [0.5, 20])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_cut_file(tmp_path, suffix, seconds, share):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, speech(seconds), 16000)
    os.truncate(path, int(path.stat().st_size * share))
    refusal(path)


def test_cut_wav_says_how_much_is_left(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, speech(1), 16000)
    os.truncate(path, 44 + 20000)
    assert refusal(path) == "the audio is truncated: 20000 bytes where the header says 32000"


def test_cut_ogg_says_so(tmp_path):
    path = tmp_path / "a.ogg"
    soundfile.write(path, speech(20), 16000)
    os.truncate(path, path.stat().st_size // 2)
    assert refusal(path) == "the audio is truncated: it ends within an Ogg page"


@pytest.mark.parametrize("suffix", ["flac", "ogg", "mp3"])
def test_damaged_file(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, speech(20), 16000)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle:middle + 300] = bytes(300)
    path.write_bytes(content)
    refusal(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(tmp_path, value):
    samples = speech(0.1)
    samples[5] = value
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    assert "not finite" in refusal(tmp_path / "a.wav")


# programs that write to a pipe cannot go back to write the length

@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])   # ffmpeg, others, sox
def test_streamed_wav_is_read_to_its_end(tmp_path, size):
    path = tmp_path / "a.wav"
    soundfile.write(path, speech(0.5), 16000)
    content = bytearray(path.read_bytes())
    start = content.index(b"data") + 4
    content[4:8] = content[start:start + 4] = size.to_bytes(4, "little")
    path.write_bytes(content)
    assert read_audio(path)[0].shape == (8000,)


def test_streamed_flac_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, speech(0.5), 16000)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0                                                  # 36 bits of the STREAMINFO block
    content[22:26] = bytes(4)
    path.write_bytes(content)
    message = refusal(path)
    assert "length" in message and "convert" in message
