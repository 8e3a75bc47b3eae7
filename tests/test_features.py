"""Spectrograms against scipy's STFT and a DFT written out here."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile

from deepspeech2.audio import load_audio
from deepspeech2.features import SpectConfig, SpectrogramStream, num_frames, spectrogram

ROOT = Path(__file__).resolve().parents[1]
SPECT = SpectConfig()


def speech(seconds: float = 2.0, rate: int = 16000, seed: int = 0) -> np.ndarray:
    """Noise and a gliding tone that come and go: nothing that a codec could shrink to nothing."""
    t = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).normal(0, 0.1, len(t))
    return ((noise + 0.4 * np.sin(2 * np.pi * (200 + 300 * t) * t))
            * (0.6 + 0.4 * np.sin(9 * t))).astype(np.float32)


def normalised(magnitudes: np.ndarray) -> np.ndarray:
    """log1p, mean 0, unbiased standard deviation 1, in float64."""
    logs = np.log1p(magnitudes)
    return (logs - logs.mean()) / logs.std(ddof=1)


def dft_magnitudes(samples: np.ndarray, n_fft: int, hop: int, window: np.ndarray) -> np.ndarray:
    """(F, T) magnitudes by the definition: zeros around the signal, one frame every hop."""
    padded = np.concatenate([np.zeros(n_fft // 2), samples, np.zeros(n_fft // 2)])
    basis = np.exp(-2j * np.pi * np.outer(np.arange(n_fft // 2 + 1), np.arange(n_fft)) / n_fft)
    frames = [padded[start:start + n_fft] * window
              for start in range(0, len(padded) - n_fft + 1, hop)]
    return np.abs(basis @ np.array(frames).T)


# spectrogram

def test_spectrogram_is_the_definition():
    samples = speech(0.5)
    # periodic: the divisor is not 319
    hamming = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(320) / 320)
    expected = normalised(dft_magnitudes(samples.astype(np.float64), 320, 160, hamming))
    found = spectrogram(samples, SPECT)
    assert found.shape == (161, 51) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("window", ["hamming", "hann", "blackman", "bartlett"])
@pytest.mark.parametrize(("rate", "size", "stride"), [(16000, 0.02, 0.01), (8000, 0.032, 0.008)])
def test_spectrogram_is_that_of_scipy(window, rate, size, stride):
    spect = SpectConfig(sample_rate=rate, window_size=size, window_stride=stride, window=window)
    samples = speech(0.7, rate)[:-17]
    taps = scipy.signal.get_window(window, spect.n_fft, fftbins=True)
    _, _, stft = scipy.signal.stft(samples, window=taps, nperseg=spect.n_fft,
                                   noverlap=spect.n_fft - spect.hop_length,
                                   boundary="zeros", padded=False)
    expected = normalised(np.abs(stft) * taps.sum())  # scipy divides by the sum of the window
    found = spectrogram(samples, spect)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def setting(n_fft: int, hop: int, window: str = "hamming") -> SpectConfig:
    """Windows of `n_fft` samples every `hop` samples."""
    return SpectConfig(window_size=n_fft / 16000, window_stride=hop / 16000, window=window)


@pytest.mark.parametrize("window", ["hamming", "hann", "blackman", "bartlett"])
@pytest.mark.parametrize(("n_fft", "hop"),
                         [(320, 160), (320, 150), (221, 110), (333, 100), (64, 100), (7, 1)])
def test_any_setting_is_the_definition(n_fft, hop, window):
    """Odd windows, steps that do not divide them, gaps; signals shorter than one, and of many."""
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
    "tone": np.sin(2 * np.pi * 1003.7 * T),  # these two are wrong by 1.5e-5
    "noise on an offset": 0.5 + 1e-4 * speech(1.5),  # with a transform in single precision
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
    found = spectrogram(speech(0.05), SPECT).astype(np.float64)  # few values: ddof shows
    assert found.mean() == pytest.approx(0, abs=1e-6)
    assert found.std(ddof=1) == pytest.approx(1, abs=1e-6)


def test_spectrogram_does_not_depend_on_what_is_called_around_it():
    samples = speech(0.3)
    before = samples.copy()
    found = spectrogram(samples, SPECT)
    spectrogram(speech(0.7), SpectConfig(window_size=0.03, window="hann"))
    np.testing.assert_array_equal(spectrogram(samples, SPECT), found)
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

RUNNING = SpectConfig(normalization="running", prior_frames=3, prior_mean=0.1, prior_deviation=0.5)


def test_running_normalisation_is_the_definition():
    """Each frame by the values so far, after three frames of mean 0.1 and deviation 0.5."""
    samples = speech(0.5)
    hamming = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(320) / 320)
    logs = np.log1p(dft_magnitudes(samples.astype(np.float64), 320, 160, hamming))
    prior = np.random.default_rng(0).standard_normal((161, 3))
    prior = 0.1 + 0.5 * (prior - prior.mean()) / prior.std()
    for t, frame in enumerate(spectrogram(samples, RUNNING).T):
        so_far = np.concatenate([prior, logs[:, : t + 1]], axis=1)
        np.testing.assert_allclose(frame, (logs[:, t] - so_far.mean()) / so_far.std(), atol=1e-5)


@pytest.mark.parametrize(("size", "stride"), [(0.02, 0.01), (0.0201, 0.007), (0.01, 0.015)])
def test_any_division_into_blocks_gives_the_same_bits(size, stride):
    """With windows that overlap, of an odd length, and with samples between them."""
    spect = dataclasses.replace(RUNNING, window_size=size, window_stride=stride)
    rng = np.random.default_rng(0)
    samples = rng.standard_normal(9000).astype(np.float32)
    whole = spectrogram(samples, spect)
    for most in (1, 50, 700, 20000):
        cuts = np.cumsum(rng.integers(0, most + 1, 3 * 9000 // most + 3))
        stream = SpectrogramStream(spect)
        parts = [stream.feed(block) for block in np.split(samples, cuts[cuts < 9000])]
        np.testing.assert_array_equal(np.concatenate([*parts, stream.finish()], axis=1), whole)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
def test_num_frames_is_what_a_file_gives(tmp_path, rate):
    for length in (1, 7, 159, 160, 161, 441, 3199, 3200, 3201, 7056, 7057, 9999):
        soundfile.write(tmp_path / "a.wav", speech()[:length], rate)
        frames = spectrogram(load_audio(tmp_path / "a.wav", 16000), SPECT).shape[1]
        assert num_frames(length, rate, SPECT) == frames, length


def test_num_frames_rounds_like_the_resampler(tmp_path):
    """54 samples are 63 at 22050 Hz; the resampler's floating point makes them 64: a hop more."""
    spect = SpectConfig(sample_rate=22050, window_size=64 / 22050, window_stride=64 / 22050)
    soundfile.write(tmp_path / "a.wav", speech()[:54], 18900)
    samples = load_audio(tmp_path / "a.wav", 22050)
    assert num_frames(54, 18900, spect) == spectrogram(samples, spect).shape[1] == 2


def test_num_frames_of_arrays():
    frames = num_frames(np.array([16000, 16159, 22050, 0]), np.array([16000, 16000, 22050, 8000]),
                        SPECT)
    assert frames.tolist() == [101, 101, 101, 1]
    assert np.issubdtype(frames.dtype, np.integer)


def test_num_frames_of_windows_of_odd_length():
    """They reach one sample past the zeros around the signal: whole steps give a frame less."""
    spect = setting(221, 110)
    assert num_frames(np.array([109, 110, 111, 220, 221]), 16000, spect).tolist() == [1, 1, 2, 2, 3]
