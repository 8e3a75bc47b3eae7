"""Make one channel of a recording's channels, and mend its scale and its zero line.

Axes: n samples.
"""

import logging

import numpy as np

from deepspeech2.audio.source import AudioError

logger = logging.getLogger(__name__)

# Floats whose full scale is 1 go a little above it; those of another full scale go far above.
_HIGHEST_PEAK = 16
_FULL_SCALES = (1 << 15, 1 << 23, 1 << 31)  # 16, 24 and 32 bits
# the share that is left of the power of channels when they are added up: 1 for different sounds,
# more for equal sounds
_CANCELLED = 0.1
# A constant above this is a fault of the recording. On AN4 it makes 15 more words of a thousand
# wrong, 0.02 makes 130; of a hundred recordings without the fault one has more.
_OFFSET = 0.001
_SURE = 4  # standard errors
_SHORTEST = 0.1  # seconds; the mean of less is the sound itself


def as_floats(samples: np.ndarray) -> np.ndarray:
    """Signed integers or floats of any shape -> float32; the full scale of integers becomes 1."""
    if samples.dtype.kind == "i":
        samples = samples / np.float32(-float(np.iinfo(samples.dtype).min))
    return samples.astype(np.float32)


class Mixer:
    """Makes mono of the blocks of a recording, which it takes in their order.

    - Channels are averaged. Where they cancel each other, the louder one is taken.
    - A constant that is added to all samples (DC offset) is taken out.
    - Floats with the full scale of integers get the full scale 1.

    Which channel and which scale is decided on the first block that shows it, and then holds; the
    constant is that of each block that is long enough to tell.

    Args:
        name: what messages call the recording.
        rate: its sample rate in Hz.
        channel: the channel to take, from 1 on; None for the average.
        floats: whether the samples were stored as floats, which may have any full scale.
    """

    def __init__(self, name: str, rate: int, channel: int | None = None, floats: bool = False):
        self._name, self._channel, self._floats = name, channel, floats
        self._scale = 1.0
        self._offset = 0.0
        self._enough = rate * _SHORTEST  # samples

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """(n, channels) float32 -> (n,) float32.

        Raises:
            AudioError: for a channel that is not there, and for values that are not finite or far
                above any full scale.
        """
        if self._floats:
            block = self._scaled(block)
        return self._without_offset(self._mono(block))

    def _scaled(self, block: np.ndarray) -> np.ndarray:
        peak = max(block.max(), -block.min(), 0) if block.size else 0
        if not np.isfinite(peak):
            raise AudioError(f"{self._name}: the audio holds values that are not finite numbers")
        if peak * self._scale > _HIGHEST_PEAK:
            scale = next((scale for scale in _FULL_SCALES if scale >= peak), None)
            if not scale:
                raise AudioError(
                    f"{self._name}: the samples reach {peak:.3g}, where full scale is 1"
                )
            logger.warning(
                "%s: the samples reach %.0f, where full scale is 1: they are divided by %d",
                self._name, peak, scale,
            )  # fmt: skip
            self._scale = 1 / scale
        return block if self._scale == 1 else block * np.float32(self._scale)

    def _mono(self, block: np.ndarray) -> np.ndarray:
        channels = block.shape[1]
        if self._channel is None and channels > 1 and len(block) >= self._enough and _cancel(block):
            powers = np.square(block - block.mean(axis=0)).sum(axis=0)
            self._channel = int(powers.argmax()) + 1
            logger.warning(
                "%s: the channels cancel each other, one is inverted: channel %d of %d is taken",
                self._name, self._channel, channels,
            )  # fmt: skip
        if self._channel is None:
            return block.mean(axis=1) if channels > 1 else block[:, 0]
        if not 1 <= self._channel <= channels:
            raise AudioError(
                f"{self._name}: there is no channel {self._channel}: the recording has {channels}, "
                "counted from 1"
            )
        return block[:, self._channel - 1]

    def _without_offset(self, mono: np.ndarray) -> np.ndarray:
        mean = mono.mean() if len(mono) else 0.0
        if not np.isfinite(mean):  # quicker than to look at every sample
            raise AudioError(f"{self._name}: the audio holds values that are not finite numbers")
        if len(mono) >= self._enough:
            self._offset = _offset(mono) if abs(mean) > _OFFSET else 0.0
        return mono - np.float32(self._offset) if self._offset else mono


def _offset(mono: np.ndarray) -> float:
    """The mean of (n,) float32 samples; 0 where it can be chance."""
    mean, deviation = mono.mean(dtype=np.float64), mono.std(dtype=np.float64)
    return float(mean) if abs(mean) > _SURE * deviation / len(mono) ** 0.5 else 0.0


def _cancel(block: np.ndarray) -> bool:
    """Whether little is left of (n, channels) float32 samples when the channels are added up."""
    moving = block - block.mean(axis=0)
    power = np.square(moving).sum(dtype=np.float64)
    return power > 0 and np.square(moving.sum(axis=1)).sum(dtype=np.float64) < _CANCELLED * power
