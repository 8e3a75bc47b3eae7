"""How far a training run is, how good it was so far, and whether it is at its end."""

import logging
from dataclasses import dataclass, field, fields
from typing import Any

from deepspeech2.metrics import ErrorCounts
from src.config import TrainingConfig
from src.run_folder import Lineage

logger = logging.getLogger(__name__)

WORST = (float("inf"), float("inf"))


@dataclass
class Progress:
    """The progress of a run, equal in all processes. Checkpoints store it.

    Attributes:
        lineage: the run, after the runs that it came from.
        optimizer: the kind of optimizer whose state belongs to it.
        val_set: fingerprint of the val set that `best` refers to; '' without one.
        epoch: whole epochs done.
        epoch_ended: False between the last step of an epoch and the end of its evaluation.
        batch: global batches done in the unfinished epoch.
        plan: fields of the `BatchPlan` of the unfinished epoch; it stays the same until the epoch
            ends, also after a resume with other processes or settings.
        step: optimizer steps done.
        skipped_in_row: the last steps that were not finite.
        best: (WER, CER) in percent of the best evaluation.
        evals_since_best: evaluations after the best one.
    """

    lineage: Lineage
    optimizer: str
    val_set: str = ""
    epoch: int = 0
    epoch_ended: bool = True
    batch: int = 0
    plan: dict[str, float] = field(default_factory=dict)
    step: int = 0
    skipped_in_row: int = 0
    best: tuple[float, float] = field(default=WORST)
    evals_since_best: int = 0

    @classmethod
    def restored(cls, saved: dict[str, Any]) -> "Progress":
        """The progress that a checkpoint stores, among other things.

        Raises:
            TypeError: without lineage and optimizer, as in checkpoints of earlier versions.
        """
        known = {f.name for f in fields(cls)}
        progress = cls(**{name: value for name, value in saved.items() if name in known})
        progress.best = tuple(progress.best)
        return progress

    def judge(self, errors: ErrorCounts) -> bool:
        """Count an evaluation, and return whether it is the best so far."""
        rates = errors.wer_percent, errors.cer_percent
        is_best = rates < self.best
        self.best = min(rates, self.best)
        self.evals_since_best = 0 if is_best else self.evals_since_best + 1
        return is_best

    def judge_anew(self, reason: str) -> None:
        """Forget the best evaluation."""
        self.best, self.evals_since_best = WORST, 0
        logger.warning("%s: the best evaluation is judged anew", reason)

    def finished(self, config: TrainingConfig) -> bool:
        """Whether nothing is left to train."""
        done = self.epoch >= config.epochs
        return done or self.reached_max_steps(config) or self.out_of_patience(config)

    def out_of_patience(self, config: TrainingConfig) -> bool:
        """Whether too many evaluations were no better."""
        return 0 < config.patience <= self.evals_since_best

    def reached_max_steps(self, config: TrainingConfig) -> bool:
        """Whether as many steps are done as there may be."""
        return 0 < config.max_steps <= self.step

    def log_as_finished(self, config: TrainingConfig) -> None:
        """Say that, and why, nothing is left to train."""
        done = self.epoch, self.step
        logger.info("nothing left to do: %d epochs and %d steps are trained", *done)
        if self.out_of_patience(config):
            message = "the last %d evaluations were no better: raise TrainingConfig.patience (=%d)"
            logger.info(message, self.evals_since_best, config.patience)
