"""From an audio file to the spectrogram that the network reads. No MindSpore here."""

import re
from pathlib import Path

import librosa
import numpy as np
import soundfile

from src.config import SpectConfig
from src.errors import InputError

# libsndfile clamps a cut WAV to what is there and mentions it only in its log
_CLAMPED = re.compile(r"data : (\d+) \(should be (\d+)\)")
_STREAMED = 0x7FFFF000    # sizes from here on are written by programs that stream and do not know the length
_UNKNOWN_LENGTH = 2**63 - 1    # libsndfile's count of samples for a streamed FLAC
_MAX_OGG_PAGE = 65307    # bytes


class AudioError(InputError):
    """An audio file that cannot be used; the message names the file."""


def read_audio(path: str | Path) -> tuple[np.ndarray, int]:
    """All samples of a WAV, FLAC, OGG or MP3 file: (n,) float32 in [-1, 1], channels averaged, and the rate in Hz.

    Raises:
        AudioError: for a file that is missing, empty, truncated, not audio or not finite.
    """
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
        samples = librosa.resample(samples, orig_sr=rate, target_sr=sample_rate)
    return samples


def spectrogram(samples: np.ndarray, spect: SpectConfig) -> np.ndarray:
    """(n,) samples -> (F, T) float32 log1p magnitudes with mean 0 and standard deviation 1 over the utterance.

    Silence (and any flat spectrum) gives zeros. Frames are centred on multiples of the hop, with zeros around the
    signal. Source: deepspeech.pytorch, `SpectrogramParser.parse_audio` (the deviation there is the unbiased one).
    """
    stft = librosa.stft(samples, n_fft=spect.n_fft, hop_length=spect.hop_length, win_length=spect.n_fft,
                        window=spect.window, center=True, pad_mode="constant")
    magnitude = np.log1p(np.abs(stft))
    magnitude -= magnitude.mean(dtype=np.float64)
    deviation = magnitude.std(ddof=1, dtype=np.float64)
    return magnitude / np.float32(deviation) if deviation > 1e-8 else np.zeros_like(magnitude)


def num_frames(num_samples: np.ndarray | int, file_rate: np.ndarray | int, spect: SpectConfig) -> np.ndarray | int:
    """T of the spectrogram of a file with so many samples at `file_rate` Hz, without reading it. Works on arrays."""
    resampled = np.ceil(num_samples * (spect.sample_rate / file_rate))    # in floats, as librosa.resample rounds
    return 1 + resampled.astype(np.int64) // spect.hop_length
