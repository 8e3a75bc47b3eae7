"""Augmentation of training utterances: word order, tempo, gain, noise, VTLP, SpecAugment.

The changes to an utterance depend on (seed, epoch, row of the manifest) only, not on its batch or
on resumes. Each effect has a random generator of its own: switching one effect on leaves the draws
of the others unchanged. This module needs no MindSpore.

Axes: n samples, F frequency bins, T frames.
"""

import dataclasses
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepspeech2.audio import AUDIO_SUFFIXES, AudioError, load_audio, read_audio
from deepspeech2.errors import InputError
from deepspeech2.files import files_below
from src.config import AugmentationConfig

logger = logging.getLogger(__name__)

# effects that draw random numbers; a new number for an effect would change every run's draws
_TEMPO, _GAIN, _NOISE, _WARP, _MASKS, _ORDER, DROPOUT = range(7)
# fade at both ends of a moved part: long enough to avoid clicks, too short to lose a sound
_FADE_SECONDS = 0.005
_WARP_KNEE = 0.6  # share of the band that is warped linearly; the rest leads to its upper end
_VOCODER_SECONDS = 0.032  # window of the phase vocoder: two or three periods of a low voice


@dataclass(frozen=True)
class WordCuts:
    """The words of an utterance, and the times at which it can be cut between them.

    Attributes:
        words: the words of the transcript.
        cuts: (words - 1,) times in seconds, in rising order.
        seconds: duration of the utterance.
    """

    words: list[str]
    cuts: np.ndarray
    seconds: float


@dataclass(frozen=True)
class Augmenter:
    """Augments the utterances of one epoch as configured.

    Args:
        config: which effects to apply, and their strength.
        sample_rate: sample rate of all utterances in Hz.
        seed: seed of the run.
        shortest: (rows,) fewest samples that a faster tempo may leave of each utterance, because
            CTC needs a frame per label.
        epoch: number of the epoch, from 0.
        noise_paths: recordings to draw noise from.
        word_cuts: cuts of each row, None where they are unknown; empty to shuffle no words.
    """

    config: AugmentationConfig
    sample_rate: int
    seed: int
    shortest: np.ndarray
    epoch: int = 0
    noise_paths: Sequence[Path] = ()
    word_cuts: Sequence[WordCuts | None] = ()

    @classmethod
    def create(
        cls, config: AugmentationConfig, sample_rate: int, seed: int, shortest: np.ndarray
    ) -> "Augmenter":
        """Make the augmenter of the first epoch.

        Raises:
            InputError: as `find_noise`.
        """
        noise_paths = find_noise(config.noise_dir) if config.noise_dir else ()
        return cls(config, sample_rate, seed, shortest, noise_paths=noise_paths)

    def for_epoch(self, epoch: int) -> "Augmenter":
        """A copy for another epoch."""
        return dataclasses.replace(self, epoch=epoch)

    def with_word_cuts(self, word_cuts: Sequence[WordCuts | None]) -> "Augmenter":
        """A copy that can shuffle words."""
        return dataclasses.replace(self, word_cuts=word_cuts)

    def shuffle_words(self, samples: np.ndarray, text: str, row: int) -> tuple[np.ndarray, str]:
        """Put the words of an utterance into another order, with the configured probability.

        Args:
            samples: (n,) float32.
            text: the transcript.
            row: row of the manifest.

        Returns:
            (n,) float32 samples and their transcript.
        """
        cuts = self.word_cuts[row] if self.word_cuts else None
        rng = self._generator(row, _ORDER)
        # cuts of other words: the transcript was edited after the alignment
        if cuts is None or cuts.words != text.split() or rng.random() >= self.config.shuffle_words:
            return samples, text
        order = rng.permutation(len(cuts.words))
        places = np.round(cuts.cuts * self.sample_rate).astype(int)
        samples = reorder(samples, places, order, self.sample_rate)
        return samples, " ".join(cuts.words[i] for i in order)

    def perturb_waveform(self, samples: np.ndarray, row: int) -> np.ndarray:
        """Change tempo and gain, and add noise: (n,) float32 samples -> (m,) float32 samples."""
        config = self.config
        if config.speed_volume_perturb:
            slack = max(1.0, len(samples) / max(1, self.shortest[row]))
            rate = min(slack, self._generator(row, _TEMPO).uniform(*config.tempo))
            samples = change_tempo(samples, rate, self.sample_rate)
            samples = change_gain(samples, self._generator(row, _GAIN).uniform(*config.gain))
        if self.noise_paths:
            rng = self._generator(row, _NOISE)
            if rng.random() < config.noise_prob:
                samples = self._with_noise(samples, rng)
        return samples

    def perturb_spectrogram(self, spectrogram: np.ndarray, row: int) -> np.ndarray:
        """Warp and mask a spectrogram of mean 0: (F, T) -> a new (F, T)."""
        config = self.config
        if config.vtlp_max_warp:
            rng = self._generator(row, _WARP)
            factor = 1 + rng.uniform(-config.vtlp_max_warp, config.vtlp_max_warp)
            spectrogram = warp_frequency(spectrogram, factor)
        if config.spec_augment:
            spectrogram = mask_spectrogram(spectrogram, config, self._generator(row, _MASKS))
        return spectrogram

    def generator(self, epoch: int, row: int, effect: int) -> np.random.Generator:
        """The random generator of an effect on one utterance in one epoch."""
        return np.random.default_rng((self.seed, epoch, row, effect))

    def _generator(self, row: int, effect: int) -> np.random.Generator:
        return self.generator(self.epoch, row, effect)

    def _with_noise(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        path = self.noise_paths[rng.integers(len(self.noise_paths))]
        try:
            noise = load_audio(path, self.sample_rate)
        except AudioError as error:
            logger.warning("no noise is added: %s", error)
            return samples
        surplus = len(noise) - len(samples)  # negative: the noise is repeated from any start
        start = rng.integers(surplus + 1 if surplus >= 0 else len(noise))
        level = rng.uniform(self.config.noise_min, self.config.noise_max)
        noise = np.take(noise, np.arange(start, start + len(samples)), mode="wrap")
        return add_noise(samples, noise, level)


def find_noise(folder: str) -> tuple[Path, ...]:
    """The audio files in a folder and its subfolders, sorted; broken files are warned about.

    Raises:
        InputError: when `folder` is not a folder, or has no audio file that can be read.
    """
    if not Path(folder).is_dir():
        raise InputError(f"DataConfig.AugmentationConfig.noise_dir (={folder!r}) is not a folder")
    closed: list[str] = []
    paths = map(Path, files_below(folder, closed))
    found = sorted(path for path in paths if path.suffix.lower() in AUDIO_SUFFIXES)
    for message in closed:
        logger.warning("%s", message)
    if not found:
        raise InputError(
            f"DataConfig.AugmentationConfig.noise_dir (={folder!r}) holds no audio file "
            f"({', '.join(AUDIO_SUFFIXES)})"
        )
    with ThreadPoolExecutor() as pool:
        usable = tuple(path for path in pool.map(_readable, found) if path)
    if not usable:
        raise InputError(
            f"DataConfig.AugmentationConfig.noise_dir (={folder!r}): none of the {len(found)} "
            "audio files there can be read"
        )
    return usable


def _readable(path: Path) -> Path | None:
    """The path if the file can be read, else None and a warning."""
    try:
        read_audio(path)
        return path
    except AudioError as error:
        logger.warning("noise is left out: %s", error)
        return None


def reorder(
    samples: np.ndarray, cuts: np.ndarray, order: Sequence[int], sample_rate: int
) -> np.ndarray:
    """Cut a waveform into parts and put these into another order.

    Each part fades in and out over 5 ms.

    Args:
        samples: (n,) float32.
        cuts: (parts - 1,) indices of samples, in rising order.
        order: (parts,) indices of the parts.
        sample_rate: Hz.

    Returns:
        (n,) float32.
    """
    fade = max(1, round(_FADE_SECONDS * sample_rate))
    parts = np.split(samples, cuts)
    for i, part in enumerate(parts):
        parts[i] = part = part.copy()
        length = min(fade, len(part) // 2)
        ramp = np.linspace(0, 1, length, dtype=np.float32)
        part[:length] *= ramp
        part[len(part) - length :] *= ramp[::-1]
    return np.concatenate([parts[i] for i in order])


def change_tempo(samples: np.ndarray, rate: float, sample_rate: int) -> np.ndarray:
    """Speak `rate` times as fast at the same pitch and level: (n,) -> (round(n / rate),) float32.

    librosa's phase vocoder makes slower speech up to 1 dB softer, so the level is restored.
    Utterances shorter than the vocoder's window are returned unchanged.
    """
    n_fft = 2 ** round(np.log2(_VOCODER_SECONDS * sample_rate))
    if len(samples) < n_fft:
        return samples
    import librosa  # imported late: it takes seconds

    changed = librosa.effects.time_stretch(samples, rate=rate, n_fft=n_fft, hop_length=n_fft // 4)
    level = _rms(changed)
    return changed * np.float32(_rms(samples) / level) if level > 0 else changed


def change_gain(samples: np.ndarray, decibels: float) -> np.ndarray:
    """Multiply (n,) samples by a gain in decibels, without clipping at 1."""
    return samples * np.float32(10 ** (decibels / 20))


def add_noise(samples: np.ndarray, noise: np.ndarray, level: float) -> np.ndarray:
    """Add noise with `level` times the RMS of the speech: an SNR of -20 log10(level) dB.

    Silent noise adds nothing. Source: deepspeech.pytorch, `NoiseInjection`.

    Args:
        samples: (n,) float32 speech.
        noise: (n,) float32.
        level: RMS of the added noise / RMS of the speech.
    """
    noise_rms = _rms(noise)
    if not noise_rms > 0:
        return samples
    return samples + np.float32(level * _rms(samples) / noise_rms) * noise


def _rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def warp_frequency(spectrogram: np.ndarray, factor: float) -> np.ndarray:
    """Scale the frequency axis, as a vocal tract `factor` times as short would: (F, T) -> (F, T).

    Bin f moves to bin f * factor up to 60 % of the band; above that the map bends, so that the top
    bin keeps its place. Source: Jaitly & Hinton 2013 (VTLP).
    """
    top = len(spectrogram) - 1
    knee = _WARP_KNEE * top * min(1.0, 1 / factor)
    # (F,) fractional bin of the input that each bin of the result is read from
    origin = np.interp(np.arange(top + 1), [0, knee * factor, top], [0, knee, top])
    below = np.minimum(origin.astype(int), top - 1)
    weight = (origin - below).astype(np.float32)[:, None]
    return spectrogram[below] * (1 - weight) + spectrogram[below + 1] * weight


def mask_spectrogram(
    spectrogram: np.ndarray, config: AugmentationConfig, rng: np.random.Generator
) -> np.ndarray:
    """Set random bands of bins and of frames to 0, the mean: (F, T) -> a new (F, T).

    The width of each band is uniform from 0 to the configured maximum; a band of frames covers at
    most `time_mask_share` of the utterance. Source: Park et al. 2019 (SpecAugment).
    """
    masked = spectrogram.copy()
    bins, frames = masked.shape
    for _ in range(config.frequency_masks):
        masked[_band(bins, config.frequency_mask_bins, rng)] = 0
    longest = min(config.time_mask_frames, int(config.time_mask_share * frames))
    for _ in range(config.time_masks):
        masked[:, _band(frames, longest, rng)] = 0
    return masked


def _band(size: int, widest: int, rng: np.random.Generator) -> slice:
    """A random band of at most `widest` of `size` indices."""
    width = rng.integers(min(size, widest) + 1)
    start = rng.integers(size - width + 1)
    return slice(start, start + width)
