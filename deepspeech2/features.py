"""Compute the log spectrogram that the network reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from deepspeech2.audio import RATES
from deepspeech2.settings import ConfigError, setting

_MAX_N_FFT = 1 << 13  # samples; 170 ms at 48 kHz
_FRAMES_AT_ONCE = 96  # their double-precision spectra fit in the cache


@dataclass(frozen=True)
class SpectConfig:
    """Settings of the spectrogram."""

    sample_rate: int = setting(16000, minimum=1, maximum=RATES[1])  # Hz
    window_size: float = setting(0.02, above=0, maximum=1)  # seconds
    window_stride: float = setting(0.01, above=0, maximum=1)  # seconds
    window: str = setting("hamming", choices=("hamming", "hann", "blackman", "bartlett"))

    @property
    def n_fft(self) -> int:
        """Samples per window."""
        return round(self.sample_rate * self.window_size)

    @property
    def hop_length(self) -> int:
        """Samples between the starts of two frames."""
        return round(self.sample_rate * self.window_stride)

    @property
    def num_bins(self) -> int:
        """Frequency bins of one frame."""
        return self.n_fft // 2 + 1

    def check_together(self) -> None:
        """Check the settings that depend on each other.

        Raises:
            ConfigError: when window or hop is shorter than the sample rate allows, or the window
                longer than any network needs.
        """
        if self.n_fft < 2 or self.hop_length < 1:
            raise ConfigError(
                f"DataConfig.SpectConfig: a window of {self.n_fft} samples every {self.hop_length} "
                "samples is too short: window_size and window_stride are in seconds"
            )
        if self.n_fft > _MAX_N_FFT:
            raise ConfigError(
                f"DataConfig.SpectConfig: a window of {self.n_fft} samples is too long, at most "
                f"{_MAX_N_FFT} are allowed: window_size is in seconds"
            )


def spectrogram(samples: np.ndarray, spect: SpectConfig) -> np.ndarray:
    """(n,) samples -> (F, T) float32 log1p magnitudes, normalised over the utterance.

    The mean becomes 0 and the unbiased standard deviation 1; silence and any other flat spectrum
    become zeros. Frames are centred on multiples of the hop, with zeros around the signal.
    Source: deepspeech.pytorch, `SpectrogramParser.parse_audio`.
    """
    logs = _log_magnitudes(samples, spect)  # (T, F)
    mean = logs.mean(dtype=np.float64)
    logs -= mean
    deviation = np.sqrt(np.square(logs).sum(dtype=np.float64) / (logs.size - 1))
    # 1e-6 * mean: float32 rounding makes equal values differ by less
    if deviation > max(1e-8, 1e-6 * mean):
        logs /= np.float32(deviation)
    else:
        logs[:] = 0
    return logs.T


def _log_magnitudes(samples: np.ndarray, spect: SpectConfig) -> np.ndarray:
    """(n,) samples -> (T, F) float32 log1p of the STFT's magnitudes.

    The transform runs in double precision: single precision would save a fifth of the time, but its
    errors next to a loud tone exceed 1e-5. It uses one thread and no BLAS, so equal samples always
    give equal bits.
    """
    around = np.zeros(spect.n_fft // 2, np.float32)
    padded = np.concatenate([around, samples.astype(np.float32, copy=False), around])
    shape = 1 + (len(padded) - spect.n_fft) // spect.hop_length, spect.n_fft
    frames = np.ndarray(
        shape, np.float32, padded, strides=(spect.hop_length * padded.itemsize, padded.itemsize)
    )
    logs = np.empty((len(frames), spect.num_bins), np.float32)
    for start in range(0, len(frames), _FRAMES_AT_ONCE):
        some = slice(start, start + _FRAMES_AT_ONCE)
        spectra = np.fft.rfft(frames[some] * _window(spect)).astype(np.complex64)
        np.abs(spectra, out=logs[some])
    return np.log1p(logs, out=logs)


def pad_spectrograms(
    spectrograms: Sequence[np.ndarray], multiple: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """N arrays (F, T) -> (N, 1, F, longest T) float32, zero past their ends; (N,) int32 lengths.

    Args:
        spectrograms: the arrays.
        multiple: what the longest T is rounded up to a multiple of.
    """
    lengths = np.array([s.shape[1] for s in spectrograms], np.int32)
    longest = -(-lengths.max() // multiple) * multiple
    inputs = np.zeros((len(spectrograms), 1, len(spectrograms[0]), longest), np.float32)
    for i, s in enumerate(spectrograms):
        inputs[i, 0, :, : s.shape[1]] = s
    return inputs, lengths


@lru_cache(maxsize=8)
def _window(spect: SpectConfig) -> np.ndarray:
    """The periodic window, (n_fft,) float64: a symmetric window of n_fft + 1 without its end."""
    symmetric = {
        "hamming": np.hamming,
        "hann": np.hanning,
        "blackman": np.blackman,
        "bartlett": np.bartlett,
    }
    return symmetric[spect.window](spect.n_fft + 1)[:-1]


def num_frames(
    num_samples: np.ndarray | int, file_rate: np.ndarray | int, spect: SpectConfig
) -> np.ndarray | int:
    """Frames T of the spectrogram of a file that has not been read.

    Args:
        num_samples: samples in the file, an integer or an integer array.
        file_rate: sample rate of the file in Hz, an integer or an array of the same shape.
        spect: settings of the spectrogram.
    """
    resampled = np.ceil(num_samples * (spect.sample_rate / file_rate))  # in floats, as `resample`
    # an odd window is one sample longer than the padding of n_fft // 2 at both ends
    beyond = spect.n_fft % 2
    return 1 + (resampled.astype(np.int64) - beyond) // spect.hop_length
