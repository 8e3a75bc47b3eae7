"""Band-limited resampling of whole signals and of signals in blocks, with equal results."""

import numpy as np


def resample(samples: np.ndarray, rate: int, target_rate: int) -> np.ndarray:
    """(n,) float32 at `rate` Hz -> (ceil(n * target_rate / rate),) float32, band-limited."""
    if rate == target_rate:
        return samples
    resampler = Resampler(rate, target_rate)
    return np.concatenate([resampler.process(samples), resampler.finish()])


class Resampler:
    """Resamples a signal block by block: the blocks' results, joined, are those of the whole.

    Args:
        rate: sample rate of the signal in Hz.
        target_rate: sample rate of the result in Hz.
    """

    def __init__(self, rate: int, target_rate: int):
        self._ratio = target_rate / rate
        self._taken = self._given = 0  # samples
        self._stream = None
        if rate != target_rate:
            import soxr  # imported late: most audio has the right rate

            self._stream = soxr.ResampleStream(rate, target_rate, 1, quality="HQ")

    def process(self, block: np.ndarray) -> np.ndarray:
        """(n,) float32 -> (m,) float32: the samples that are final, perhaps none."""
        if self._stream is None:
            return block
        self._taken += len(block)
        resampled = self._stream.resample_chunk(np.ascontiguousarray(block, np.float32))
        self._given += len(resampled)
        return resampled

    def finish(self) -> np.ndarray:
        """The (m,) float32 samples that are left, once, after the last block."""
        if self._stream is None:
            return np.zeros(0, np.float32)
        left = int(np.ceil(self._taken * self._ratio)) - self._given
        resampled = self._stream.resample_chunk(np.zeros(0, np.float32), last=True)[: max(0, left)]
        return np.pad(resampled, (0, max(0, left - len(resampled))))
