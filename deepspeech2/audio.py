"""Read recordings as mono float32 samples at the sample rate of a model."""

import contextlib
import numbers
import os
import re
import wave
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from deepspeech2.errors import InputError
from deepspeech2.files import is_special

# a path, a binary file object, or (n,) or (n, channels) samples and their rate in Hz
Audio = str | Path | BinaryIO | tuple[np.ndarray, int]

# libsndfile reads a truncated WAV without an error and reports the cut only in its log
_CLAMPED = re.compile(r"data : (\d+) \(should be (\d+)\)")
_STREAMED = 0x7FFFF000  # sizes from here on are placeholders that streaming programs write
_UNKNOWN_LENGTH = 2**63 - 1  # libsndfile's count of samples for a streamed FLAC
_MAX_OGG_PAGE = 65307  # bytes
RATES = (1000, 1_000_000)  # Hz
_BLOCK = 1 << 22  # samples of all channels that are decoded at once
# More samples per byte than silence has in FLAC or Opus (300), and what a short file may have. A
# hostile file can have 60 times as many, and would fill the memory.
_SAMPLES_PER_BYTE, _MIN_LIMIT = 500, 1 << 25
_MAX_CHANNELS = 64  # more are samples and channels in the wrong order

AUDIO_SUFFIXES = (".flac", ".mp3", ".ogg", ".opus", ".wav")


class AudioError(InputError):
    """Audio that cannot be used; the message names the file."""


def load_audio(audio: Audio, sample_rate: int) -> np.ndarray:
    """A recording as (n,) float32 samples at `sample_rate` Hz, channels averaged.

    Raises:
        AudioError: for a file that `read_audio` refuses, for an array of another shape, dtype or
            rate, or with values that are not finite, and for anything else.
    """
    if isinstance(audio, tuple) and len(audio) == 2:
        samples, rate = _check_samples(*audio)
    elif isinstance(audio, str | Path) or hasattr(audio, "read"):
        samples, rate = read_audio(audio)
    else:
        raise AudioError(
            f"audio is a {type(audio).__name__}, needed is a path, a binary file object, or a pair "
            "of samples and their rate in Hz"
        )
    return resample(samples, rate, sample_rate)


def resample(samples: np.ndarray, rate: int, target_rate: int) -> np.ndarray:
    """(n,) float32 at `rate` Hz -> (ceil(n * target_rate / rate),) float32, band-limited."""
    if rate == target_rate:
        return samples
    import soxr  # imported late: most audio has the right rate

    length = int(np.ceil(len(samples) * (target_rate / rate)))
    resampled = soxr.resample(samples, rate, target_rate, quality="HQ")[:length]
    return np.pad(resampled, (0, length - len(resampled)))


def read_audio(source: str | Path | BinaryIO) -> tuple[np.ndarray, int]:
    """All samples of a WAV, FLAC, OGG (Vorbis or Opus) or MP3 file, and their rate in Hz.

    Returns:
        (n,) float32 samples in [-1, 1], channels averaged, and the sample rate.

    Raises:
        AudioError: for a file that is missing, empty, truncated, not audio or not finite, that has
            another sample rate than recordings have, or more samples than its size allows.
    """
    name = source if isinstance(source, str | Path) else getattr(source, "name", "audio")
    if isinstance(source, str | Path) and is_special(source):
        raise AudioError(f"{name}: cannot read the audio: a pipe or a device, not a file")
    samples, rate = _read_plain_wav(source) or _read_with_libsndfile(source, name)
    if not RATES[0] <= rate <= RATES[1]:
        raise AudioError(
            f"{name}: the sample rate is {rate} Hz, needed are {RATES[0]} to {RATES[1]} Hz"
        )
    return samples, rate


def _read_with_libsndfile(
    source: str | Path | BinaryIO, name: str | Path
) -> tuple[np.ndarray, int]:
    """As `read_audio`, for any file; `name` is for messages."""
    try:
        # soundfile encodes text strictly, but a file name may have any bytes
        path = os.fsencode(source) if isinstance(source, str | Path) else source
        limit = max(_MIN_LIMIT, _SAMPLES_PER_BYTE * _size(source))
        with soundfile.SoundFile(path) as file:
            rate, expected, container = file.samplerate, file.frames, file.format
            log = file.extra_info
            if expected == _UNKNOWN_LENGTH:
                raise AudioError(
                    f"{name}: the header does not say the audio's length, as after streaming; "
                    "convert it to WAV or FLAC from a file"
                )
            mono = _decode(file, limit)
    except (OSError, RuntimeError, TypeError) as error:
        raise AudioError(f"{name}: cannot read the audio: {_reason(source, error)}") from None
    if len(mono) > limit:
        raise AudioError(
            f"{name}: more than {limit} samples in a file of {_size(source)} bytes: not a recording"
        )
    _check_whole(source, name, len(mono), expected, container, log)
    if len(mono) == 0:
        raise AudioError(f"{name}: the audio has no samples")
    if not np.isfinite(mono).all():
        raise AudioError(f"{name}: the audio holds values that are not finite numbers")
    return mono, rate


def _decode(file: soundfile.SoundFile, limit: int) -> np.ndarray:
    """The (n,) float32 samples of an open file, channels averaged.

    They are read in blocks: a header may promise any number of samples. Ends soon after `limit`.
    """
    blocks, length = [], 0
    size = _BLOCK // file.channels
    while length <= limit:
        block = file.read(size, dtype="float32", always_2d=True)  # (samples, channels)
        blocks.append(block.mean(axis=1) if block.shape[1] > 1 else block[:, 0].copy())
        length += len(block)
        if len(block) < size:
            break
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def _check_whole(
    source: str | Path | BinaryIO,
    name: str | Path,
    length: int,
    expected: int,
    container: str,
    log: str,
) -> None:
    """Raise AudioError for a truncated file.

    Args:
        source: the file.
        name: its name, for messages.
        length: samples that were read, per channel.
        expected: samples that libsndfile expected, per channel.
        container: libsndfile's name of the format.
        log: what libsndfile noted while it opened the file.
    """
    clamped = _CLAMPED.search(log)
    if clamped and int(clamped[2]) < int(clamped[1]) < _STREAMED:
        raise AudioError(
            f"{name}: the audio is truncated: {clamped[2]} bytes where the header says {clamped[1]}"
        )
    if container == "NIST":
        expected = max(expected, _sphere_count(source))
    if length < expected:
        raise AudioError(
            f"{name}: the audio is truncated: {length} samples where the header says {expected}"
        )
    if container == "OGG" and _ends_within_ogg_page(source):
        raise AudioError(f"{name}: the audio is truncated: it ends within an Ogg page")


def _check_samples(samples: np.ndarray, rate: int) -> tuple[np.ndarray, int]:
    """(n,) or (n, channels) samples, integer or float -> (n,) float32 samples, and the rate."""
    samples = np.asarray(samples)
    if samples.ndim not in (1, 2) or not samples.size:
        raise AudioError(f"samples have shape {samples.shape}, needed is (n,) or (n, channels)")
    if samples.ndim == 2 and samples.shape[1] > _MAX_CHANNELS:
        raise AudioError(
            f"samples have shape {samples.shape}, needed is (n, channels): {samples.shape[1]} "
            "channels are too many; transpose the array"
        )
    if not isinstance(rate, numbers.Real) or not RATES[0] <= rate <= RATES[1]:
        raise AudioError(
            f"the sample rate (={rate!r}) must be a number from {RATES[0]} to {RATES[1]} Hz"
        )
    if samples.dtype.kind == "i":
        samples = samples / np.float32(-float(np.iinfo(samples.dtype).min))
    if samples.dtype.kind != "f":
        raise AudioError(f"samples have dtype {samples.dtype}, needed are floats or integers")
    mono = samples if samples.ndim == 1 else samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise AudioError("samples hold values that are not finite numbers")
    return mono.astype(np.float32), int(rate)


def _read_plain_wav(source: str | Path | BinaryIO) -> tuple[np.ndarray, int] | None:
    """The (n,) samples of a 16-bit mono WAV, equal to libsndfile's bit for bit, and their rate.

    Prepared corpora consist of such files, and libsndfile takes three times as long to read them.

    Returns:
        None for any other file; libsndfile then reads the file or explains what is wrong.
    """
    if not isinstance(source, str | Path):
        return None
    try:
        with wave.open(str(source)) as file:
            channels, width, rate, frames = file.getparams()[:4]
            content = file.readframes(frames) if (channels, width) == (1, 2) else b""
    # RuntimeError: a chunk is longer than the file
    except (OSError, EOFError, RuntimeError, ValueError, wave.Error):
        return None
    if not frames or not rate or len(content) != 2 * frames:
        return None
    return np.frombuffer(content, "<i2") / np.float32(32768), rate


def _size(source: str | Path | BinaryIO) -> int:
    """Size of a file in bytes; 0 for a path that leads to none."""
    if isinstance(source, str | Path):
        with contextlib.suppress(OSError, ValueError):
            return os.stat(source).st_size
        return 0
    position = source.tell()
    size = source.seek(0, os.SEEK_END)
    source.seek(position)
    return size


def _reason(source: str | Path | BinaryIO, error: Exception) -> str:
    """Why soundfile could not read a file; its own message can mislead or be missing."""
    if isinstance(source, str | Path):
        try:
            with open(source, "rb") as file:
                if not (start := file.read(1024)):
                    return "the file is empty"
                if b"embedded-shorten" in start:
                    return "SPHERE compressed with shorten; convert it with sph2pipe"
        except (OSError, ValueError) as system_error:  # ValueError: a name with a null byte
            return str(getattr(system_error, "strerror", None) or system_error)
    if isinstance(error, TypeError):  # for a .raw file soundfile asks for rate and format
        return "samples without a header; convert it to WAV or FLAC"
    if "not a regular file" in str(error):  # libsndfile's words for an MP3 without a whole frame
        return "not audio, or cut off at its beginning"
    opened = os.fsencode(source) if isinstance(source, str | Path) else source
    return str(error).removeprefix(f"Error opening {opened!r}: ")


def _sphere_count(source: str | Path | BinaryIO) -> int:
    """The samples that a SPHERE header promises; libsndfile is silent when there are fewer."""
    if isinstance(source, str | Path):
        with open(source, "rb") as file:
            return _sphere_count(file)
    source.seek(0)
    count = re.search(rb"^sample_count -i (\d+)", source.read(1024), re.MULTILINE)
    return int(count[1]) if count else 0


def _ends_within_ogg_page(source: str | Path | BinaryIO) -> bool:
    """Whether the last Ogg page is cut off, which libsndfile ignores. Source: RFC 3533."""
    if isinstance(source, str | Path):
        with open(source, "rb") as file:
            return _ends_within_ogg_page(file)
    source.seek(max(0, source.seek(0, 2) - _MAX_OGG_PAGE))
    tail = source.read()
    page = tail[tail.rfind(b"OggS") :]
    header, table = 27, page[26] if len(page) > 26 else 0  # bytes
    return len(page) < header or len(page) < header + table + sum(page[header : header + table])
