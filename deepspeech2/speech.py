"""Tell speech from silence and noise, by the sound before it is normalised.

Normalisation brings silence and noise to the level of speech, and a network then writes letters.

Axes: n samples, T frames of 20 ms, B frequency bands.
"""

from dataclasses import dataclass

import numpy as np

# What a frame is: it begins every 20 ms, and overlaps the next one by half.
FRAMES_PER_SECOND = 50
_BANDS = (100, 200, 300, 400, 510, 630, 770, 920, 1080, 1270, 1480, 1720, 2000, 2320, 2700, 3150,
          3700, 4400, 5300, 6400, 7700)  # Hz; the critical bands of hearing (Zwicker 1961)
_EMPTY = -110.0  # dB of full scale; the lowest bit of 16 bits has more, spread over all bands
_FLOOR_PERCENTILE = 10
# mean dB above the noise floor; frames of steady noise stay below, with 1 exception in 10,000
AUDIBLE = 6.0
_LEAST_CONTRAST = 8.0  # dB that the loudest frames of speech lie above the floor
_LOUD_SHARE = 0.35  # of the dB that the loudest frames lie above the floor

# Speech is voiced at the pitch of voices, and its spectrum changes all the time. Cries and barks
# have a higher pitch, engines a spectrum that stays, water and wind no pitch.
_PITCHES = (70.0, 350.0)  # Hz, of men, women and children
_HIGHEST_PITCH = 1000.0  # Hz
_PITCH_BAND = (60.0, 1500.0)  # Hz
_VOICED = 0.6  # the least correlation of a frame with itself, a period later
_SAME_PEAK = 0.85  # of the highest correlation: the shortest such period is the pitch's
# The score is the sum in a logistic regression, divided by its first weight. It was fitted to clean
# and noisy speech and to noise; docs/transcribing.md says to which.
_DIVERSITY_WEIGHT = 0.155  # per dB
_BIAS = 1.355
# scores below are noise; scores between may be either, and the network's probabilities decide
NOISE_SCORE, SPEECH_SCORE = -0.2, 0.1


@dataclass(frozen=True)
class Frames:
    """What is kept of a stretch of sound.

    Attributes:
        levels: (T, B) float32 level of each band, in dB of full scale.
        pitch: (T,) float32 pitch in Hz; 0 where a frame is not voiced.
    """

    levels: np.ndarray
    pitch: np.ndarray

    def __len__(self) -> int:
        return len(self.pitch)

    def __getitem__(self, part: slice) -> "Frames":
        return Frames(self.levels[part], self.pitch[part])

    def __add__(self, later: "Frames") -> "Frames":
        return Frames(
            np.concatenate([self.levels, later.levels]), np.concatenate([self.pitch, later.pitch])
        )

    def noise_floor(self) -> np.ndarray:
        """(B,) level of the noise in each band in dB: that of the quietest tenth of the frames.

        Digital silence does not count, because it says nothing about the noise.
        """
        heard = self.levels[(self.levels > _EMPTY + 1).any(axis=1)]
        if not len(heard):
            return np.full(self.levels.shape[1], _EMPTY, np.float32)
        return np.percentile(heard, _FLOOR_PERCENTILE, axis=0)

    def above(self, floor: np.ndarray) -> np.ndarray:
        """(T,) mean over the bands of how far they lie above (B,) levels of noise, in dB."""
        return np.maximum(self.levels - floor, 0).mean(axis=1)


def frame_length(sample_rate: int) -> int:
    """Samples from the start of one frame to the start of the next."""
    return round(sample_rate / FRAMES_PER_SECOND)


def find_frames(samples: np.ndarray, sample_rate: int) -> Frames:
    """The frames of (n,) samples: frame t covers 2 * `frame_length` samples from the t-th step on.

    There are n // frame_length - 1 frames.
    """
    hop = frame_length(sample_rate)
    count = max(0, len(samples) // hop - 1)
    cut = np.lib.stride_tricks.sliding_window_view(samples, 2 * hop)[::hop][:count] if count else (
        np.zeros((0, 2 * hop), np.float32))
    parts = [_analyse(cut[i : i + 256], sample_rate) for i in range(0, max(1, count), 256)]
    return Frames(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _analyse(cut: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray]:
    """(T, window) samples -> (T, B) levels in dB and (T,) pitch in Hz; see `Frames`."""
    window = np.hanning(cut.shape[1])
    longest = int(rate / _PITCHES[0])  # lag, in samples
    size = 1 << (cut.shape[1] + longest - 1).bit_length()
    power = np.abs(np.fft.rfft((cut - cut.mean(axis=1, keepdims=True)) * window, size)) ** 2
    frequencies = np.fft.rfftfreq(size, 1 / rate)
    edges = np.searchsorted(frequencies, [edge for edge in _BANDS if edge <= rate / 2])
    # a sine of full scale has 0 dB
    bands = np.add.reduceat(power, edges, axis=1)[:, :-1] * (4 / (size * (window**2).sum()))
    levels = 10 * np.log10(np.maximum(bands, 10 ** (_EMPTY / 10))).astype(np.float32)
    low, high = np.searchsorted(frequencies, _PITCH_BAND)
    power[:, :low] = power[:, high:] = 0
    itself = np.fft.irfft(np.abs(np.fft.rfft(window, size)) ** 2)[: longest + 1]
    lags = np.fft.irfft(power)[:, : longest + 1] / (itself / itself[0])
    return levels, _pitch(lags, int(rate / _HIGHEST_PITCH), rate)


def _pitch(lags: np.ndarray, shortest: int, rate: int) -> np.ndarray:
    """(T, lags) autocorrelation -> (T,) float32 pitch in Hz, 0 where a frame is not voiced."""
    if not len(lags):
        return np.zeros(0, np.float32)
    relative = lags[:, shortest:] / np.maximum(lags[:, :1], 1e-12)
    best = relative.max(axis=1)
    rising = np.diff(relative, axis=1, append=-np.inf) > 0
    # the first peak behind the first lag that is nearly as good as the best lag
    near = np.logical_or.accumulate(relative >= _SAME_PEAK * best[:, None], axis=1)
    period = shortest + (near & ~rising).argmax(axis=1)
    return np.where(best > _VOICED, rate / period, 0).astype(np.float32)


def speech_score(frames: Frames, floor: np.ndarray) -> float:
    """How much a stretch of sound is like speech.

    The loud frames of speech are voiced, at the pitch of voices, and differ from each other.

    Args:
        frames: the sound.
        floor: (B,) level of the noise in dB.

    Returns:
        Below `NOISE_SCORE` for noise, from `SPEECH_SCORE` on for speech.
    """
    above = frames.above(floor)
    audible = above[above > AUDIBLE]
    contrast = np.percentile(audible, 95) if len(audible) > 2 else 0.0
    if contrast < _LEAST_CONTRAST:
        return -_BIAS
    loud = frames[above > max(AUDIBLE, _LOUD_SHARE * contrast)]
    voice = (loud.pitch >= _PITCHES[0]) & (loud.pitch <= _PITCHES[1])
    shapes = loud.levels - loud.levels.mean(axis=1, keepdims=True)
    diversity = shapes.std(axis=0).mean()  # dB
    higher = loud.pitch > _PITCHES[1]
    return float(voice.mean() - higher.mean() + _DIVERSITY_WEIGHT * diversity - _BIAS)
