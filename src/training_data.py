"""What a run learns from, epoch by epoch: which utterances, in which batches, how they are changed, what is dropped.

All of it depends on settings, epoch and row only, so that a resumed run goes on as if it had never stopped.
"""

import logging
from collections.abc import Sequence

import numpy as np

from src.alignment import WordTimes
from src.augment import Augmenter
from src.batching import epoch_batches
from src.config import Config
from src.dataset import BatchSource
from src.DeepSpeech import output_lengths
from src.errors import InputError
from src.features import num_frames
from src.labels import Labels
from src.manifest import Manifest

logger = logging.getLogger(__name__)

_DROPOUT = 100    # number of its generator, see src/augment.py


class TrainingData:
    """The utterances of a run that CTC can align.

    Args:
        manifest: the training set.
        labels: to encode its transcripts.
        config: data, augmentation, seed and dropout.

    Raises:
        InputError: when no utterance is long enough, or `noise_dir` cannot be used.
    """

    def __init__(self, manifest: Manifest, labels: Labels, config: Config):
        self.manifest, self.labels, self.config = manifest, labels, config
        spect, self.seed = config.DataConfig.SpectConfig, config.TrainingConfig.seed
        self.rows = trainable_rows(manifest, config)
        shortest = (manifest.required_frames - 1) * config.ModelConfig.time_stride * spect.hop_length
        self.augmenter = Augmenter.create(config.DataConfig.AugmentationConfig, spect.sample_rate, self.seed, shortest)
        logger.info("%s: %d utterances, %.2f hours", manifest.path, len(self.rows),
                    manifest.seconds[self.rows].sum() / 3600)

    def shuffle_words(self, word_times: Sequence[WordTimes | None]) -> None:
        """Let the words of utterances change their order from now on."""
        self.augmenter = self.augmenter.with_word_times(word_times)

    def batches(self, epoch: int, batch_size: int, ranks: int) -> list[np.ndarray]:
        """The rows of each global batch of an epoch (from 0), of `batch_size` utterances for each of `ranks`."""
        lengths = self.manifest.seconds[self.rows]
        return [self.rows[batch] for batch in epoch_batches(lengths, batch_size, epoch, self.seed, ranks)]

    def source(self, epoch: int, batches: list[np.ndarray]) -> BatchSource:
        """Loads `batches` as they are in that epoch."""
        return BatchSource(self.manifest, batches, self.labels, self.config.DataConfig.SpectConfig,
                           self.augmenter.for_epoch(epoch))

    def keep_masks(self, epoch: int, rows: list[int]) -> np.ndarray:
        """(layers, N, H) float32 factors of dropout for the utterances `rows`: 0, or 1 / (1 - dropout).

        A unit is dropped for a whole utterance. Source: Gal & Ghahramani 2016 (variational dropout).
        """
        model, dropout = self.config.ModelConfig, self.config.TrainingConfig.dropout
        shape = (model.hidden_layers, model.hidden_size)
        kept = [np.random.default_rng((self.seed, epoch, row, _DROPOUT)).random(shape) >= dropout for row in rows]
        return np.stack(kept or [np.ones(shape, bool)], 1).astype(np.float32) / np.float32(1 - dropout)

    def order(self) -> dict[str, int]:
        """What the order of the utterances depends on, beside the size of a batch."""
        return {"utterances": len(self.rows), "seed": self.seed}


def trainable_rows(manifest: Manifest, config: Config) -> np.ndarray:
    """Rows whose transcript CTC can align: an output frame per label plus one per repeated label."""
    frames = output_lengths(num_frames(manifest.samples, manifest.sample_rates, config.DataConfig.SpectConfig),
                            config.ModelConfig.time_stride)
    fits = frames >= manifest.required_frames
    if not fits.any():
        raise InputError(f"{manifest.path}: no utterance is long enough for its transcript")
    if not fits.all():
        logger.warning("%s: %d of %d utterances are too short for their transcripts and left out, the first in line %d",
                       manifest.path, (~fits).sum(), len(manifest), np.flatnonzero(~fits)[0] + 1)
    return np.flatnonzero(fits)
