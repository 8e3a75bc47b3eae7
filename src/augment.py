"""Random changes to training utterances: tempo, gain, noise, warped and masked spectrograms. No MindSpore here.

What an utterance gets depends on (seed, epoch, row of the manifest) only: not on its batch, nor on
how often a run was resumed. Each effect draws from a generator of its own, so that switching one on
leaves the others as they are.
"""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepspeech2.audio import AudioError, load_audio
from deepspeech2.errors import InputError
from src.config import AugmentationConfig

logger = logging.getLogger(__name__)

AUDIO_SUFFIXES = (".flac", ".mp3", ".ogg", ".wav")
# numbers of the generators: changing one changes every run
_TEMPO, _GAIN, _NOISE, _WARP, _MASKS, _ORDER, DROPOUT = range(7)
# at the ends of a part that changes its place: no click, and hardly a sound lost
_FADE_SECONDS = 0.005
_WARP_KNEE = 0.6  # share of the band that is warped evenly; the rest leads back to its upper end
_VOCODER_SECONDS = 0.032  # window of the phase vocoder: two or three periods of a low voice


@dataclass(frozen=True)
class WordCuts:
    """One utterance: its words, and where it can be cut between them.

    Attributes:
        words: of the transcript.
        cuts: (words - 1,) seconds, rising.
        seconds: of the utterance.
    """

    words: list[str]
    cuts: np.ndarray
    seconds: float


@dataclass(frozen=True)
class Augmenter:
    """The changes that the configuration asks for.

    Args:
        config: which effects, and how strong.
        sample_rate: of the samples, Hz.
        seed: of the run.
        shortest: (rows,) samples below which a faster tempo must not bring an utterance: CTC needs
            a frame a label.
        epoch: from 0.
        noise_paths: the recordings to draw noise from.
        word_cuts: of each row, None where they are not known; empty to leave all words where they
            are.
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
        """The augmenter of the first epoch. Raises InputError for an unusable `noise_dir`."""
        noise_paths = find_noise(config.noise_dir) if config.noise_dir else ()
        return cls(config, sample_rate, seed, shortest, noise_paths=noise_paths)

    def for_epoch(self, epoch: int) -> "Augmenter":
        """The same for another epoch."""
        return dataclasses.replace(self, epoch=epoch)

    def with_word_cuts(self, word_cuts: Sequence[WordCuts | None]) -> "Augmenter":
        """The same, which from now on can shuffle the words of utterances."""
        return dataclasses.replace(self, word_cuts=word_cuts)

    def shuffle_words(self, samples: np.ndarray, text: str, row: int) -> tuple[np.ndarray, str]:
        """(n,) samples of an utterance and its text -> (n,), text, with the words in another order or as they were."""
        cuts = self.word_cuts[row] if self.word_cuts else None
        rng = self._generator(row, _ORDER)
        # a transcript that was changed since has cuts between other words
        if cuts is None or cuts.words != text.split() or rng.random() >= self.config.shuffle_words:
            return samples, text
        order = rng.permutation(len(cuts.words))
        places = np.round(cuts.cuts * self.sample_rate).astype(int)
        samples = reorder(samples, places, order, self.sample_rate)
        return samples, " ".join(cuts.words[i] for i in order)

    def perturb_waveform(self, samples: np.ndarray, row: int) -> np.ndarray:
        """(n,) float32 of an utterance -> (m,) float32 with another tempo, gain and noise."""
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
        """(F, T) of mean 0 -> (F, T), warped in frequency and masked.

        `spectrogram` itself is left alone.
        """
        config = self.config
        if config.vtlp_max_warp:
            rng = self._generator(row, _WARP)
            spectrogram = warp_frequency(
                spectrogram, 1 + rng.uniform(-config.vtlp_max_warp, config.vtlp_max_warp)
            )
        if config.spec_augment:
            spectrogram = mask_spectrogram(spectrogram, config, self._generator(row, _MASKS))
        return spectrogram

    def generator(self, epoch: int, row: int, effect: int) -> np.random.Generator:
        """The generator of one effect on one utterance in one epoch."""
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
        start = rng.integers(
            max(1, len(noise) - len(samples) + 1) if len(noise) >= len(samples) else len(noise)
        )
        level = rng.uniform(self.config.noise_min, self.config.noise_max)
        return add_noise(
            samples, np.take(noise, np.arange(start, start + len(samples)), mode="wrap"), level
        )


def find_noise(folder: str) -> tuple[Path, ...]:
    """The audio files in a folder and the folders in it, sorted.

    Raises InputError when there is none.
    """
    if not Path(folder).is_dir():
        raise InputError(f"DataConfig.AugmentationConfig.noise_dir (={folder!r}) is not a folder")
    found = sorted(
        path for path in Path(folder).rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES
    )
    if not found:
        raise InputError(
            f"DataConfig.AugmentationConfig.noise_dir (={folder!r}) holds no audio file "
            f"({', '.join(AUDIO_SUFFIXES)})"
        )
    return tuple(found)


def reorder(
    samples: np.ndarray, cuts: np.ndarray, order: Sequence[int], sample_rate: int
) -> np.ndarray:
    """(n,) samples cut at (parts - 1,) of them, the parts put in `order`.

    Each fades in and out over 5 ms.
    """
    fade = max(1, round(_FADE_SECONDS * sample_rate))
    parts = np.split(samples, cuts)
    for i, part in enumerate(parts):
        parts[i] = part = part.copy()
        length = min(fade, len(part) // 2)
        ramp = np.linspace(0, 1, length, dtype=np.float32)
        part[:length] *= ramp
        part[len(part) - length:] *= ramp[::-1]
    return np.concatenate([parts[i] for i in order])


def change_tempo(samples: np.ndarray, rate: float, sample_rate: int) -> np.ndarray:
    """(n,) -> (round(n / rate),): spoken `rate` times as fast at the same pitch and level, by librosa's phase vocoder.

    The vocoder makes slower speech up to 1 dB softer, which is undone. Utterances shorter than its
    window are left alone.
    """
    n_fft = 2 ** round(np.log2(_VOCODER_SECONDS * sample_rate))
    if len(samples) < n_fft:
        return samples
    import librosa  # takes seconds

    changed = librosa.effects.time_stretch(samples, rate=rate, n_fft=n_fft, hop_length=n_fft // 4)
    level = _rms(changed)
    return changed * np.float32(_rms(samples) / level) if level > 0 else changed


def change_gain(samples: np.ndarray, decibels: float) -> np.ndarray:
    """(n,) -> (n,) louder by so many decibels. Nothing is cut off.

    Spectrograms take samples beyond 1.
    """
    return samples * np.float32(10 ** (decibels / 20))


def add_noise(samples: np.ndarray, noise: np.ndarray, level: float) -> np.ndarray:
    """`y + level · rms(y) / rms(noise) · noise`, (n,) each: a signal-to-noise ratio of -20 log10(level) dB.

    Source: deepspeech.pytorch, `NoiseInjection`. Silent noise adds nothing.
    """
    loudness = _rms(noise)
    return (
        samples + np.float32(level * _rms(samples) / loudness) * noise if loudness > 0 else samples
    )


def _rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def warp_frequency(spectrogram: np.ndarray, factor: float) -> np.ndarray:
    """(F, T) -> (F, T) as of a vocal tract `factor` times as short: what was in bin f is in bin f · factor.

    Above 60 % of the band the map bends so that the top bin stays. Source: Jaitly & Hinton 2013
    (VTLP).
    """
    top = len(spectrogram) - 1
    knee = _WARP_KNEE * top * min(1.0, 1 / factor)
    # of each bin of the result
    origin = np.interp(np.arange(top + 1), [0, knee * factor, top], [0, knee, top])
    below = np.minimum(origin.astype(int), top - 1)
    weight = (origin - below).astype(np.float32)[:, None]
    return spectrogram[below] * (1 - weight) + spectrogram[below + 1] * weight


def mask_spectrogram(
    spectrogram: np.ndarray, config: AugmentationConfig, rng: np.random.Generator
) -> np.ndarray:
    """(F, T) of mean 0 -> (F, T) with bands of bins and of frames set to 0. Source: Park et al. 2019 (SpecAugment).

    The width of each band is drawn from 0 to the largest that is configured; that of frames is at
    most `time_mask_share` of the utterance.
    """
    masked = spectrogram.copy()
    bins, frames = masked.shape
    for _ in range(config.frequency_masks):
        masked[_band(bins, config.frequency_mask_bins, rng)] = 0
    for _ in range(config.time_masks):
        masked[
            :,
            _band(frames, min(config.time_mask_frames, int(config.time_mask_share * frames)), rng),
        ] = 0
    return masked


def _band(size: int, widest: int, rng: np.random.Generator) -> slice:
    width = rng.integers(min(size, widest) + 1)
    start = rng.integers(size - width + 1)
    return slice(start, start + width)
