"""Monitor a training run: progress bar, metrics.csv, TensorBoard events."""

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from deepspeech2.files import atomic_path
from deepspeech2.metrics import ErrorCounts

logger = logging.getLogger(__name__)


@dataclass
class EpochSums:
    """Sums over the steps of an epoch. Checkpoints store them, so a resume loses no step."""

    loss: float = 0.0  # summed over utterances
    utterances: int = 0
    gradient_norm: float = 0.0  # summed over updates
    updates: int = 0
    skipped: int = 0  # steps without an update: loss or gradient was not finite
    missing: int = 0  # utterances whose files can no longer be read
    audio_seconds: float = 0.0
    seconds: float = 0.0  # wall-clock time of training, without evaluation
    learning_rate: float = 0.0  # of the last step

    def add(
        self,
        loss: float,
        gradient_norm: float,
        updated: bool,
        utterances: int,
        audio_seconds: float,
    ) -> None:
        """Add one step to the sums.

        Args:
            loss: sum over the utterances of the batch; ignored for a skipped step.
            gradient_norm: global L2 norm before clipping; ignored for a skipped step.
            updated: whether the step updated the weights, False for a skipped step.
            utterances: utterances in the batch.
            audio_seconds: their total duration.
        """
        self.audio_seconds += audio_seconds
        if updated:
            self.loss += loss
            self.utterances += utterances
            self.gradient_norm += gradient_norm
            self.updates += 1
        else:
            self.skipped += 1


@dataclass(frozen=True)
class EpochMetrics:
    """One line of metrics.csv."""

    epoch: int  # from 1
    step: int  # optimizer steps of the run
    learning_rate: float  # of the last step
    train_loss: float  # mean over utterances
    gradient_norm: float  # mean over updates, before clipping
    skipped_steps: int
    missing_utterances: int
    val_wer: float | None  # percent; None in epochs without an evaluation
    val_cer: float | None  # percent; None in epochs without an evaluation
    audio_seconds_per_second: float
    minutes: float  # wall-clock time of training in this epoch, without evaluation


class TrainingMonitor:
    """Shows and records the progress of a run.

    Args:
        log_dir: folder for metrics.csv and TensorBoard events.
        epochs: epochs of the whole run.
        writes: whether this process shows and writes anything; in a group only the first does.

    Attributes:
        sums: sums of the unfinished epoch.
        history: the lines of metrics.csv, one for each finished epoch.
        trained: whether this process has finished an epoch itself, after any resume.
    """

    def __init__(self, log_dir: Path, epochs: int, writes: bool = True):
        self.log_dir = log_dir
        self.epochs = epochs
        self.writes = writes
        self.sums = EpochSums()
        self.history: list[EpochMetrics] = []
        self.trained = False
        self._bar: tqdm | None = None

    def begin(self, step: int) -> None:
        """Open the logs; TensorBoard then hides events after `step`, from before a resume."""
        if not self.writes:
            return
        # imported late: MindSpore must load protobuf first
        from tensorboardX import SummaryWriter

        self.log_dir.mkdir(parents=True, exist_ok=True)
        self._events = SummaryWriter(str(self.log_dir), purge_step=step or None)

    def begin_epoch(self, epoch: int, batches: int, done: int) -> None:
        """Start the progress bar of an epoch.

        Args:
            epoch: number of the epoch, from 0.
            batches: batches of the whole epoch.
            done: batches that were trained before a resume.
        """
        self._epoch = epoch
        # mininterval: a log file gets a line every 30 seconds instead of an animation
        self._bar = tqdm(
            total=batches,
            initial=done,
            desc=f"epoch {epoch + 1}/{self.epochs}",
            unit="step",
            mininterval=0.5 if sys.stderr.isatty() else 30,
            file=sys.stderr,
            disable=not self.writes,
        )
        self._started = time.perf_counter() - self.sums.seconds

    def end_step(
        self, step: int, loss: float, gradient_norm: float, updated: bool, learning_rate: float
    ) -> None:
        """Show a step. Call it after the step was added to `sums`."""
        self.sums.learning_rate = learning_rate
        self.sums.seconds = time.perf_counter() - self._started
        if not self.writes:
            return
        speed = self.sums.audio_seconds / self.sums.seconds
        self._bar.set_postfix_str(
            f"loss {loss:.2f}, lr {learning_rate:.2e}, {speed:.1f} audio-s/s"
            + (f", skipped {self.sums.skipped}" if self.sums.skipped else ""),
            refresh=False,
        )
        self._bar.update()
        if updated:
            self._events.add_scalar("train/loss", loss, step)
            self._events.add_scalar("train/gradient_norm", gradient_norm, step)
        self._events.add_scalar("train/learning_rate", learning_rate, step)
        self._events.add_scalar("train/audio_seconds_per_second", speed, step)

    def end_epoch(
        self, step: int, errors: ErrorCounts | None, examples: Sequence[tuple[str, str]] = ()
    ) -> EpochMetrics:
        """Record the metrics of the epoch, and log them in one line.

        Args:
            step: optimizer steps of the run.
            errors: errors on the val set; None without an evaluation.
            examples: pairs of reference and hypothesis from the val set.
        """
        val_wer, val_cer = (errors.wer_percent, errors.cer_percent) if errors else (None, None)
        self._bar.close()
        sums = self.sums
        metrics = EpochMetrics(
            epoch=self._epoch + 1,
            step=step,
            learning_rate=sums.learning_rate,
            train_loss=sums.loss / max(1, sums.utterances),
            gradient_norm=sums.gradient_norm / max(1, sums.updates),
            skipped_steps=sums.skipped,
            missing_utterances=sums.missing,
            val_wer=val_wer,
            val_cer=val_cer,
            audio_seconds_per_second=sums.audio_seconds / sums.seconds,
            minutes=sums.seconds / 60,
        )
        self.history.append(metrics)
        self.sums = EpochSums()
        self.trained = True
        if not self.writes:
            return metrics
        if val_wer is not None:
            self._events.add_scalar("val/wer", val_wer, step)
            self._events.add_scalar("val/cer", val_cer, step)
            for i, (reference, hypothesis) in enumerate(examples):
                # TensorBoard renders Markdown; indented lines stay as they are
                self._events.add_text(f"val/{i + 1}", f"    {reference}\n    {hypothesis}", step)
        self._events.flush()
        self._write_history()
        logger.info(
            "epoch %d/%d  step %d  loss %.3f  lr %.2e  val WER %s  val CER %s  "
            "%.1f audio-s/s  %.1f min%s",
            metrics.epoch,
            self.epochs,
            step,
            metrics.train_loss,
            metrics.learning_rate,
            "-" if val_wer is None else f"{val_wer:.2f}",
            "-" if val_cer is None else f"{val_cer:.2f}",
            metrics.audio_seconds_per_second,
            metrics.minutes,
            _failures(sums),
        )
        return metrics

    def close(self) -> None:
        """Close the progress bar and the logs; allowed inside an epoch too."""
        if self._bar is not None:
            self._bar.close()
        if self.writes:
            self._events.close()

    def progress(self) -> dict[str, Any]:
        """The JSON-serialisable state that a checkpoint stores."""
        return {"history": [asdict(m) for m in self.history], "sums": asdict(self.sums)}

    def restore(self, progress: dict[str, Any]) -> None:
        """Restore the state that `progress` returned."""
        self.history[:] = [EpochMetrics(**m) for m in progress["history"]]
        self.sums = EpochSums(**progress["sums"])

    def _write_history(self) -> None:
        with atomic_path(self.log_dir / "metrics.csv") as temporary:
            pd.DataFrame(asdict(m) for m in self.history).to_csv(temporary, index=False)


def _failures(sums: EpochSums) -> str:
    """The skipped steps and unreadable utterances of an epoch, for the end of its log line."""
    text = f"  {sums.skipped} steps skipped (not finite)" if sums.skipped else ""
    return text + (f"  {sums.missing} utterances passed over (unreadable)" if sums.missing else "")
