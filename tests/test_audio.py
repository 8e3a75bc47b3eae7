"""Reading of audio against libsndfile, other formats, and broken files."""

import os
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile

from deepspeech2.audio import (
    AudioError,
    libsndfile,
    load_audio,
    open_audio,
    read_audio,
    reader,
    resample,
)
from deepspeech2.audio.source import opened


def speech(seconds: float = 2.0, rate: int = 16000, seed: int = 0) -> np.ndarray:
    """Noise and a gliding tone that come and go: nothing that a codec could shrink to nothing."""
    t = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).normal(0, 0.1, len(t))
    return ((noise + 0.4 * np.sin(2 * np.pi * (200 + 300 * t) * t))
            * (0.6 + 0.4 * np.sin(9 * t))).astype(np.float32)


def read_plain_wav(path: Path) -> tuple[np.ndarray, int] | None:
    """What the quick way for 16-bit mono WAV makes of a file."""
    with opened(path) as recording:
        part = libsndfile.read_plain_wav(recording)
    return part and (next(part.blocks)[:, 0], part.rate)


def refusal(path: Path) -> str:
    """The message of the AudioError, which names the file and stays on one line."""
    with pytest.raises(AudioError) as caught:
        read_audio(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_plain_wav_is_what_libsndfile_reads(tmp_path):
    """Every value of 16 bits."""
    path = tmp_path / "a.wav"
    soundfile.write(path, np.arange(-32768, 32768).astype(np.int16), 8000)
    samples, rate = read_plain_wav(path)
    expected, expected_rate = soundfile.read(path, dtype="float32")
    assert rate == expected_rate and samples.dtype == np.float32
    np.testing.assert_array_equal(samples, expected)


@pytest.mark.parametrize(("at", "change"), [
    (0, b"RIFX"), (4, b"\0\0\0\0"), (8, b"AVI "), (16, b"\x12"), (20, b"\3"), (22, b"\2"),
    (24, b"\0\0\0\0"), (32, b"\4"), (34, b"\x08"), (36, b"LIST"), (40, b"\x0e\0\0\0"),
    (40, b"\xff\xff\xff\xff"), (60, b"\0"), (60, b"LIST\4\0\0\0abcd"),
])
def test_any_other_wav_is_read_as_libsndfile_reads_it_or_left_to_it(tmp_path, at, change):
    """Also a file with something after its samples, here 16 bytes from byte 44 on."""
    path = tmp_path / "a.wav"
    soundfile.write(path, np.arange(1, 9).astype(np.int16), 16000)
    content = bytearray(path.read_bytes())
    assert len(content) == 60 and read_plain_wav(path)
    content[at:at + len(change)] = change
    path.write_bytes(content)
    plain = read_plain_wav(path)
    if plain is not None:
        expected, rate = soundfile.read(path, dtype="float32")
        np.testing.assert_array_equal(plain[0], expected)
        assert plain[1] == rate


def test_a_file_object_is_read_like_a_path(tmp_path):
    for name in ("a.wav", "a.ogg"):
        soundfile.write(tmp_path / name, speech(), 16000)
        with open(tmp_path / name, "rb") as file:
            found, rate = read_audio(file)
        np.testing.assert_array_equal(found, read_audio(tmp_path / name)[0])
        assert rate == 16000


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.int32])
def test_samples_of_every_type_have_full_scale_1(dtype):
    scale = 1 if np.dtype(dtype).kind == "f" else -float(np.iinfo(dtype).min)
    found = load_audio(((np.array([0.0, -1.0, 0.5]) * scale).astype(dtype), 16000), 16000)
    np.testing.assert_allclose(found, [0, -1, 0.5], atol=1e-6)
    assert found.dtype == np.float32


def test_channels_of_samples_are_averaged():
    found = load_audio((np.array([[0.5, 0.0], [0.25, 0.25]], np.float32), 16000), 16000)
    np.testing.assert_allclose(found, [0.25, 0.25])


@pytest.mark.parametrize(("samples", "rate", "words"), [
    (np.zeros(0), 16000, "shape (0,)"), (np.zeros((2, 2, 2)), 16000, "shape (2, 2, 2)"),
    (np.zeros(5), 0, "sample rate (=0)"), (np.array(["a"]), 16000, "dtype"),
    (np.array([0.0, np.nan]), 16000, "not finite"),
    (np.zeros((2, 16000)), 16000, "transpose the array"), (np.zeros(5), "16k", "rate (='16k')"),
    (np.zeros(5), 1, "a number from 1000 to 1000000 Hz"),
])
def test_samples_that_are_no_audio(samples, rate, words):
    with pytest.raises(AudioError) as caught:
        load_audio((samples, rate), 16000)
    assert words in str(caught.value)


@pytest.mark.parametrize("given", [None, np.zeros(5), b"RIFF", (np.zeros(5),)])
def test_what_is_neither_a_file_nor_samples_with_their_rate(given):
    with pytest.raises(AudioError, match="needed is a path, a binary file object, or a pair"):
        load_audio(given, 16000)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_a_name_that_is_no_utf_8(tmp_path, suffix):
    """Such names come from old archives; Python writes their bytes as surrogates."""
    plain, odd = tmp_path / f"a.{suffix}", tmp_path / os.fsdecode(b"caf\xe9." + suffix.encode())
    soundfile.write(plain, speech(), 16000)
    odd.write_bytes(plain.read_bytes())
    np.testing.assert_array_equal(read_audio(odd)[0], read_audio(plain)[0])
    odd.write_bytes(b"text")
    with pytest.raises(AudioError, match="cannot read the audio: Format not recognised"):
        read_audio(odd)


def test_a_name_with_a_null_byte():
    with pytest.raises(AudioError, match="null byte"):
        read_audio("a\0b.wav")


@pytest.mark.parametrize(("name", "tolerance"),
                         [("a.wav", 1e-4), ("a.flac", 1e-4), ("a.ogg", 0.3), ("a.mp3", 0.3)])
def test_formats(tmp_path, name, tolerance):
    samples = speech()
    soundfile.write(tmp_path / name, samples, 16000)
    found, rate = read_audio(tmp_path / name)
    assert rate == 16000 and found.dtype == np.float32 and found.shape == samples.shape
    assert np.abs(found - samples).max() < tolerance
    assert np.corrcoef(found, samples)[0, 1] > 0.97  # 0.8 when shifted by one sample


@pytest.mark.parametrize("subtype",
                         ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
def test_full_scale_is_1_in_every_sample_format(tmp_path, subtype):
    # 5: odd size
    soundfile.write(tmp_path / "a.wav", np.array([0.0, -1.0, 0.5, 0.25, 0.0]), 16000,
                    subtype=subtype)
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav")[0], [0, -1, 0.5, 0.25, 0], atol=0.02)


def test_channels_are_averaged(tmp_path):
    left, right = np.array([0.5, 0.25, -0.5]), np.array([0.0, 0.25, 0.5])
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 16000)
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav")[0], [0.25, 0.25, 0.0], atol=1e-4)


@pytest.mark.parametrize(("name", "subtype"), [
    ("a.wav", "PCM_24"), ("a.wav", "GSM610"), ("a.wav", "IMA_ADPCM"), ("a.flac", "PCM_16"),
    ("a.ogg", "VORBIS"), ("a.ogg", "OPUS"), ("a.mp3", "MPEG_LAYER_III")])
def test_long_files_are_read_in_blocks(tmp_path, monkeypatch, name, subtype):
    """GSM 6.10 in WAV, as telephony keeps it, can be read only in blocks."""
    soundfile.write(tmp_path / name, speech(5), 16000, subtype=subtype)
    with soundfile.SoundFile(tmp_path / name) as file:
        whole = file.read(file.frames, dtype="float32")
    monkeypatch.setattr(libsndfile, "_BLOCK", 7000)
    tolerance = 1e-6 if name == "a.mp3" else 0  # its decoder rounds in another way after a seek
    np.testing.assert_allclose(read_audio(tmp_path / name)[0], whole, atol=tolerance, rtol=0)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100, 48000])
def test_resampling_equals_librosa(rate):
    samples = speech(0.7, rate)
    expected = librosa.resample(samples, orig_sr=rate, target_sr=16000)
    np.testing.assert_array_equal(resample(samples, rate, 16000), expected)


def test_stereo_mp3_at_another_rate(tmp_path):
    tone = np.sin(2 * np.pi * 500 * np.arange(44100) / 44100) / 2
    soundfile.write(tmp_path / "a.mp3", np.stack([tone] * 2, axis=1), 44100)
    found = load_audio(tmp_path / "a.mp3", 16000)
    assert found.shape == (16000,) and found.dtype == np.float32
    assert np.abs(np.fft.rfft(found)).argmax() == 500


# what is refused

@pytest.mark.parametrize(("name", "content", "words"), [
    ("none.wav", None, "No such file"), (".", None, "Is a directory"),
    *((f"a.{suffix}", b"", "the file is empty") for suffix in ("wav", "flac", "ogg", "mp3", "raw")),
    ("a.wav", b"TEXT " * 500, "Format not recognised"), ("a.mp3", b"TEXT " * 500, "not audio"),
    ("a.raw", b"TEXT " * 500, "without a header"),  # soundfile asks for the rate: a TypeError
    ("it's \"a\".wav", b"TEXT " * 500, "Format not recognised"),
    ("a.opus", b"OggS", "ends within an Ogg page"), ("a.ogg", b"OggS" + bytes(22), "Ogg page"),
])
def test_not_audio(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    message = refusal(tmp_path / name)
    assert words in message and "it's" not in message  # named once, at the beginning


@pytest.mark.parametrize("suffix", ["wav", "ogg"])
def test_file_of_no_samples(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.zeros(0), 16000)
    assert "no samples" in refusal(path)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("seconds", [0.5, 20])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_cut_file(tmp_path, suffix, seconds, share):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, speech(seconds), 16000)
    os.truncate(path, int(path.stat().st_size * share))
    refusal(path)


@pytest.mark.parametrize(("suffix", "words"), [
    ("wav", "320022 bytes where the header says 640000"), ("ogg", "it ends within an Ogg page")])
def test_cut_file_says_what_is_missing(tmp_path, suffix, words):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, speech(20), 16000)
    os.truncate(path, 44 + 320022 if suffix == "wav" else path.stat().st_size // 2)
    assert refusal(path) == f"the audio is truncated: {words}"


@pytest.mark.parametrize("suffix", ["flac", "ogg", "mp3"])
def test_damaged_file(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, speech(20), 16000)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle:middle + 300] = bytes(300)
    path.write_bytes(content)
    refusal(path)


@pytest.mark.parametrize("rate", [1, 999, 1_000_001, 2**31 - 1])
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_a_sample_rate_that_no_recording_has(tmp_path, rate, subtype):
    """At 16 kHz, a second at 1 Hz would have 16,000 times its samples."""
    path = tmp_path / "a.wav"
    soundfile.write(path, speech(0.1), rate, subtype=subtype)
    assert refusal(path) == f"the sample rate is {rate} Hz, needed are 1000 to 1000000 Hz"


def test_a_header_that_promises_more_than_the_memory(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, speech(0.5), 16000)
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F  # 36 bits of the STREAMINFO block
    content[22:26] = b"\xff" * 4
    path.write_bytes(content)
    refusal(path)


def test_more_samples_than_a_file_of_its_size_has(tmp_path, monkeypatch):
    """Real silence has 300 samples per byte; files that fill the memory were made for that."""
    path = tmp_path / "a.flac"
    soundfile.write(path, np.zeros(10 * 16000), 16000)
    assert len(read_audio(path)[0]) == 160000
    for name in ("_MIN_LIMIT", "_SAMPLES_PER_BYTE"):
        monkeypatch.setattr(reader, name, 5)
    assert refusal(path).endswith(f"in a file of {path.stat().st_size} bytes: not a recording")


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_a_pipe_is_not_waited_for(tmp_path, suffix):
    os.mkfifo(tmp_path / f"a.{suffix}")
    assert "a pipe or a device" in refusal(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(tmp_path, value):
    samples = speech(0.1)
    samples[5] = value
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    assert "not finite" in refusal(tmp_path / "a.wav")


# programs that write to a pipe cannot go back to write the length

@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])  # ffmpeg, others, sox
def test_streamed_wav_is_read_to_its_end(tmp_path, size):
    path = tmp_path / "a.wav"
    soundfile.write(path, speech(0.5), 16000)
    content = bytearray(path.read_bytes())
    start = content.index(b"data") + 4
    content[4:8] = content[start:start + 4] = size.to_bytes(4, "little")
    path.write_bytes(content)
    assert read_audio(path)[0].shape == (8000,)


# blocks

@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_blocks_joined_are_the_whole_recording(tmp_path, monkeypatch, rate):
    """Also where the blocks are resampled: the state is kept from one to the next."""
    soundfile.write(tmp_path / "a.flac", speech(3, rate), rate)
    whole = resample(soundfile.read(tmp_path / "a.flac", dtype="float32")[0], rate, 16000)
    monkeypatch.setattr(libsndfile, "_BLOCK", 10_000)
    with open_audio(tmp_path / "a.flac", 16000) as found:
        assert found.name == str(tmp_path / "a.flac")
        blocks = list(found)
    assert len(blocks) > 2 and all(block.dtype == np.float32 and len(block) for block in blocks)
    np.testing.assert_allclose(np.concatenate(blocks), whole, atol=1e-6)


def test_a_recording_that_is_left_in_its_middle_is_closed(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.flac", speech(3), 16000)
    monkeypatch.setattr(libsndfile, "_BLOCK", 10_000)
    before = os.listdir("/proc/self/fd")
    with open_audio(tmp_path / "a.flac", 16000) as blocks:
        next(iter(blocks))
        assert len(os.listdir("/proc/self/fd")) > len(before)
    assert len(os.listdir("/proc/self/fd")) == len(before)
