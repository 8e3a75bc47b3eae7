"""The training data of each epoch: its utterances, batches and augmentation.

All of it is a function of settings, epoch and row, so that a resumed run equals one that was never
stopped.
"""

import logging
import math
from collections.abc import Sequence

import numpy as np

from deepspeech2.errors import InputError
from deepspeech2.labels import Labels
from src.augment import DROPOUT, Augmenter, WordCuts
from src.batching import BatchPlan, epoch_batches
from src.config import Config
from src.dataset import BatchSource
from src.manifest import Manifest

logger = logging.getLogger(__name__)


class TrainingData:
    """The utterances of a run that CTC can align.

    Args:
        manifest: the training set.
        labels: the alphabet of its transcripts.
        config: settings of data, augmentation and seed.

    Raises:
        InputError: when no utterance can be trained on, or `noise_dir` cannot be used.
    """

    def __init__(self, manifest: Manifest, labels: Labels, config: Config):
        self.manifest, self.labels, self.config = manifest, labels, config
        self.seed = config.TrainingConfig.seed
        self.rows = trainable_rows(manifest, config)
        spect = config.DataConfig.SpectConfig
        hop = config.ModelConfig.time_stride * spect.hop_length
        self.augmenter = Augmenter.create(
            config.DataConfig.AugmentationConfig,
            spect.sample_rate,
            self.seed,
            shortest=(manifest.required_frames - 1) * hop,
        )
        self.longest = config.DataConfig.max_seconds or np.inf
        used = self.within(self.rows)
        if not len(used):
            raise InputError(
                f"{manifest.path}: no utterance is up to DataConfig.max_seconds "
                f"(={self.longest}) long"
            )
        reason = f"longer than DataConfig.max_seconds ({self.longest} s)"
        _report_left_out(manifest, manifest.seconds > self.longest, reason)
        hours = manifest.seconds[used].sum() / 3600
        logger.info("%s: %d utterances, %.2f hours", manifest.path, len(used), hours)

    def shuffle_words(self, word_cuts: Sequence[WordCuts | None]) -> None:
        """Shuffle the words of utterances from now on, by the cuts of each row."""
        self.augmenter = self.augmenter.with_word_cuts(word_cuts)

    def ensure_enough_for(self, ranks: int) -> None:
        """Raises InputError when a process would get no utterance."""
        count = len(self.within(self.rows))
        if count < ranks:
            raise InputError(
                f"{self.manifest.path}: {count} utterances cannot be shared by {ranks} processes: "
                "start fewer (RANK_SIZE)"
            )

    def plan(self, ranks: int) -> BatchPlan:
        """How an epoch that begins now is divided among `ranks` processes."""
        data = self.config.DataConfig
        return BatchPlan(data.batch_size, data.batch_seconds, ranks, self.longest)

    def batches(self, epoch: int, plan: BatchPlan) -> list[np.ndarray]:
        """The rows of each global batch of an epoch (from 0)."""
        rows = self.within(self.rows, plan.max_seconds)
        batches = epoch_batches(self.manifest.seconds[rows], plan, epoch, self.seed)
        return [rows[batch] for batch in batches]

    def largest_share(self, ranks: int) -> tuple[int, float]:
        """How many utterances a process gets of an epoch's largest batch, and the longest one."""
        seconds = self.manifest.seconds
        batches = self.batches(0, self.plan(ranks))  # utterances of like length are together
        shares = [(-(-len(batch) // ranks), seconds[batch].max()) for batch in batches]
        return max(shares, key=math.prod)

    def within(self, rows: np.ndarray, longest: float | None = None) -> np.ndarray:
        """The rows of utterances up to `longest` seconds, which is `max_seconds` by default."""
        return rows[self.manifest.seconds[rows] <= (longest or self.longest)]

    def source(self, epoch: int, batches: list[np.ndarray]) -> BatchSource:
        """A source that loads `batches` with the augmentation of an epoch (from 0)."""
        spect = self.config.DataConfig.SpectConfig
        augmenter = self.augmenter.for_epoch(epoch)
        return BatchSource(self.manifest, batches, self.labels, spect, augmenter)

    def dropout_seeds(self, epoch: int, rows: Sequence[int]) -> np.ndarray:
        """(N,) int32 seeds of `DropoutMasks`; one seed for a batch of silence, see `NO_ROW`."""
        seeds = [self.augmenter.generator(epoch, row, DROPOUT).integers(2**31) for row in rows]
        return np.array(seeds or [0], np.int32)

    def order(self) -> dict[str, int | str]:
        """The values, except the batch size, that determine the order of the utterances."""
        content = self.manifest.fingerprint()
        return {"utterances": len(self.rows), "content": content, "seed": self.seed}


def trainable_rows(manifest: Manifest, config: Config) -> np.ndarray:
    """Rows whose transcripts CTC can align: a frame per label and one between equal labels.

    Raises:
        InputError: when there is no such row.
    """
    frames = config.output_frames(manifest.samples, manifest.sample_rates)
    fits = frames >= manifest.required_frames
    if not fits.any():
        raise InputError(f"{manifest.path}: no utterance is long enough for its transcript")
    _report_left_out(manifest, ~fits, "too short for their transcripts")
    return np.flatnonzero(fits)


def _report_left_out(manifest: Manifest, left_out: np.ndarray, reason: str) -> None:
    """Warn about (rows,) utterances that are left out."""
    if left_out.any():
        logger.warning(
            "%s: %d of %d utterances are %s and left out, the first in line %d",
            manifest.path,
            left_out.sum(),
            len(manifest),
            reason,
            manifest.line_numbers[np.flatnonzero(left_out)[0]],
        )
