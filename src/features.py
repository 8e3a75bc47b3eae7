"""From an audio file to the spectrogram that the network reads. No MindSpore here."""

import re
import struct
from functools import lru_cache
from pathlib import Path

import numpy as np
import scipy.fft
import soundfile

from src.config import SpectConfig
from src.errors import InputError

# libsndfile clamps a cut WAV to what is there and mentions it only in its log
_CLAMPED = re.compile(r"data : (\d+) \(should be (\d+)\)")
_STREAMED = 0x7FFFF000    # sizes from here on are written by programs that stream and do not know the length
_UNKNOWN_LENGTH = 2**63 - 1    # libsndfile's count of samples for a streamed FLAC
_MAX_OGG_PAGE = 65307    # bytes
_WAV_HEADER = struct.Struct("<4s I 8s I HH II HH 4s I")    # as far as the first sample
_FRAMES_AT_ONCE = 96    # their spectra in double precision fit the cache

# glibc gives freed memory back to the system until it has seen a large block freed, and then keeps up to twice as much
# (mallopt(3), M_MMAP_THRESHOLD). Without this block, which takes no memory, half the time would go to page faults.
np.empty(30 << 20, np.uint8)


class AudioError(InputError):
    """An audio file that cannot be used; the message names the file."""


def read_audio(path: str | Path) -> tuple[np.ndarray, int]:
    """All samples of a WAV, FLAC, OGG or MP3 file: (n,) float32 in [-1, 1], channels averaged, and the rate in Hz.

    Raises:
        AudioError: for a file that is missing, empty, truncated, not audio or not finite.
    """
    plain = _read_plain_wav(path)
    if plain is not None:
        return plain
    try:
        with soundfile.SoundFile(path) as file:
            rate, expected, container, log = file.samplerate, file.frames, file.format, file.extra_info
            if expected == _UNKNOWN_LENGTH:
                raise AudioError(f"{path}: the header does not say the audio's length, as after streaming; "
                                 "convert it to WAV or FLAC from a file")
            samples = file.read(dtype="float32", always_2d=True)
    except (OSError, RuntimeError, TypeError) as error:
        raise AudioError(f"{path}: cannot read the audio: {_reason(path, error)}") from None
    clamped = _CLAMPED.search(log)
    if clamped and int(clamped[2]) < int(clamped[1]) < _STREAMED:
        raise AudioError(f"{path}: the audio is truncated: {clamped[2]} bytes where the header says {clamped[1]}")
    if len(samples) < expected:
        raise AudioError(f"{path}: the audio is truncated: {len(samples)} samples where the header says {expected}")
    if container == "OGG" and _ends_within_ogg_page(path):
        raise AudioError(f"{path}: the audio is truncated: it ends within an Ogg page")
    if len(samples) == 0:
        raise AudioError(f"{path}: the audio has no samples")
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise AudioError(f"{path}: the audio holds values that are not finite numbers")
    return mono, rate


def _read_plain_wav(path: str | Path) -> tuple[np.ndarray, int] | None:
    """What libsndfile would read from a whole 16-bit mono WAV without extra chunks, bit for bit; None for other files.

    The corpora are prepared as such files, and libsndfile takes five times as long, mostly to make floats.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            size = file.seek(0, 2) - _WAV_HEADER.size    # bytes of samples
            file.seek(0)
            header = file.read(_WAV_HEADER.size)
            if size < 2 or size % 2 or len(header) < _WAV_HEADER.size:
                return None
            fields = _WAV_HEADER.unpack(header)
            rate = fields[6]
            plain = b"RIFF", size + 36, b"WAVEfmt ", 16, 1, 1, rate, 2 * rate, 2, 16, b"data", size
            content = file.read(size) if fields == plain and rate > 0 else b""
    except OSError:
        return None
    return (np.frombuffer(content, "<i2") / np.float32(32768), rate) if len(content) == size else None


def _reason(path: str | Path, error: Exception) -> str:
    """Why soundfile could not read a file, where its own words mislead or are missing."""
    try:
        with open(path, "rb") as file:
            if not file.read(1):
                return "the file is empty"
    except OSError as system_error:
        return str(system_error.strerror)
    if isinstance(error, TypeError):    # soundfile wants to be told what a .raw file holds
        return "samples without a header; convert it to WAV or FLAC"
    if "not a regular file" in str(error):    # said of any MP3 without one whole frame
        return "not audio, or cut off at its beginning"
    return str(error).removeprefix(f"Error opening {str(path)!r}: ")


def _ends_within_ogg_page(path: str | Path) -> bool:
    """Whether the last page says that it is longer than what is there; libsndfile ignores it. Source: RFC 3533."""
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, 2) - _MAX_OGG_PAGE))
        tail = file.read()
    page = tail[tail.rfind(b"OggS"):]
    return len(page) < 27 or len(page) < 27 + page[26] + sum(page[27:27 + page[26]])    # header, table, segments


def load_audio(path: str | Path, sample_rate: int) -> np.ndarray:
    """The file's samples as (n,) float32 at `sample_rate` Hz, mono. Raises AudioError as `read_audio`."""
    samples, rate = read_audio(path)
    if rate != sample_rate:
        import librosa  # here: it and numba take seconds to load, and most audio has the right rate

        samples = librosa.resample(samples, orig_sr=rate, target_sr=sample_rate)
    return samples


def spectrogram(samples: np.ndarray, spect: SpectConfig) -> np.ndarray:
    """(n,) samples -> (F, T) float32 log1p magnitudes with mean 0 and standard deviation 1 over the utterance.

    Silence (and any flat spectrum) gives zeros. Frames are centred on multiples of the hop, with zeros around the
    signal. Source: deepspeech.pytorch, `SpectrogramParser.parse_audio` (the deviation there is the unbiased one).
    With the normalization `frequency` each bin has mean 0 and the utterance deviation 1: what a microphone or a room
    adds to all frames is gone.
    """
    logs = _log_magnitudes(samples, spect)    # (T, F)
    mean = logs.mean(dtype=np.float64)
    logs -= mean if spect.normalization == "utterance" else logs.mean(0, dtype=np.float64).astype(np.float32)
    deviation = np.sqrt(np.square(logs).sum(dtype=np.float64) / (logs.size - 1))
    if deviation > max(1e-8, 1e-6 * mean):    # below the second, equal values that float32 rounds differently
        logs /= np.float32(deviation)
    else:
        logs[:] = 0
    return logs.T


def _log_magnitudes(samples: np.ndarray, spect: SpectConfig) -> np.ndarray:
    """(n,) samples -> (T, F) float32 log1p of the magnitudes of the STFT, scaled.

    The transform is in double precision: single would save a fifth of the time, but next to a loud tone its errors
    exceed 1e-5. One thread and no BLAS, so that equal samples give equal bits whatever else is running.
    """
    around = np.zeros(spect.n_fft // 2, np.float32)
    padded = np.concatenate([around, samples.astype(np.float32, copy=False), around])
    shape = 1 + (len(padded) - spect.n_fft) // spect.hop_length, spect.n_fft
    frames = np.ndarray(shape, np.float32, padded, strides=(spect.hop_length * padded.itemsize, padded.itemsize))
    logs = np.empty((len(frames), spect.num_bins), np.float32)
    for start in range(0, len(frames), _FRAMES_AT_ONCE):
        some = slice(start, start + _FRAMES_AT_ONCE)
        np.abs(scipy.fft.rfft(frames[some] * _window(spect)).astype(np.complex64), out=logs[some])
    if spect.magnitude_scale != 1:
        logs *= np.float32(spect.magnitude_scale)
    return np.log1p(logs, out=logs)


@lru_cache(maxsize=8)
def _window(spect: SpectConfig) -> np.ndarray:
    """(n_fft,) float64, periodic: of the n_fft + 1 symmetric values, the last repeats the first."""
    symmetric = {"hamming": np.hamming, "hann": np.hanning, "blackman": np.blackman, "bartlett": np.bartlett}
    return symmetric[spect.window](spect.n_fft + 1)[:-1]


def num_frames(num_samples: np.ndarray | int, file_rate: np.ndarray | int, spect: SpectConfig) -> np.ndarray | int:
    """T of the spectrogram of a file with so many samples at `file_rate` Hz, without reading it. Works on arrays."""
    resampled = np.ceil(num_samples * (spect.sample_rate / file_rate))    # in floats, as librosa.resample rounds
    beyond = spect.n_fft % 2    # a centred window of odd length reaches one sample further than the zeros put there
    return 1 + (resampled.astype(np.int64) - beyond) // spect.hop_length
