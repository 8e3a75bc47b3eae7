"""Monitor a training run: progress bar, metrics.csv, TensorBoard events."""

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from deepspeech2.files import atomic_path
from deepspeech2.metrics import ErrorCounts

logger = logging.getLogger(__name__)

METRICS = "metrics.csv"


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

    run: str  # id of the run
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


class EventLog:
    """TensorBoard events, written at once: an error is raised where it can be handled.

    `tensorboardX.SummaryWriter` writes in a thread; where a disk is full, the thread dies with a
    traceback, and the training waits for it for ever.

    Args:
        folder: where to write.
        run_id: part of the file's name.
        step: TensorBoard hides events of earlier files after this step; 0 for none.
    """

    def __init__(self, folder: Path, run_id: str, step: int):
        # imported late: MindSpore must load protobuf first
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._event = Event
        self._writer = EventsWriter(str(folder / "events"), f".{os.getpid()}.{run_id}")
        if step:
            self._write(step=step, session_log=SessionLog(status=SessionLog.START))

    def add_scalars(self, step: int, values: dict[str, float]) -> None:
        """Write {tag: value}."""
        from tensorboardX.summary import scalar

        for tag, value in values.items():
            self._write(step=step, summary=scalar(tag, value))

    def add_text(self, step: int, tag: str, text: str) -> None:
        """Write a text."""
        from tensorboardX.summary import text as summary

        self._write(step=step, summary=summary(tag, text))

    def flush(self) -> None:
        """Write everything to the disk."""
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _write(self, **content) -> None:
        self._writer.write_event(self._event(wall_time=time.time(), **content))


class TrainingMonitor:
    """Shows and records the progress of a run. A log that cannot be written never ends the run.

    Args:
        log_dir: folder for metrics.csv and TensorBoard events.
        epochs: epochs of the whole run.
        writes: whether this process shows and writes anything; in a group only the first does.

    Attributes:
        sums: sums of the unfinished epoch.
        history: the lines of metrics.csv, one for each finished epoch.
        trained: whole epochs and steps at the end of the run; None where none were left to do.
    """

    def __init__(self, log_dir: Path, epochs: int, writes: bool = True):
        self.log_dir = log_dir
        self.epochs = epochs
        self.writes = writes
        self.sums = EpochSums()
        self.history: list[EpochMetrics] = []
        self.trained: tuple[int, int] | None = None
        self._bar: tqdm | None = None
        self._events: EventLog | None = None
        self._failed: set[str] = set()

    def begin(self, step: int, run_id: str) -> None:
        """Open the logs; TensorBoard then hides events after `step`, from before a resume."""
        self.run_id = run_id
        if self.writes:
            self._try("TensorBoard events", lambda: self._open_events(step))

    def _open_events(self, step: int) -> None:
        self._events = EventLog(self.log_dir, self.run_id, step)

    def _log(self, write: Callable[[EventLog], None]) -> None:
        """Write TensorBoard events; after a failure none, because a record may be cut."""
        if self._events and not self._try("TensorBoard events", lambda: write(self._events)):
            self._events = None

    def _try(self, what: str, write: Callable[[], None]) -> bool:
        """Write to a log, and return whether it worked; the first failure is a warning."""
        try:
            write()
            return True
        except (OSError, ValueError) as error:
            if what not in self._failed:
                message = "%s: %s cannot be written (%s); the training goes on"
                logger.warning(message, self.log_dir, what, error)
            self._failed.add(what)
            return False

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
        values = {"train/loss": loss, "train/gradient_norm": gradient_norm} if updated else {}
        values |= {
            "train/learning_rate": learning_rate,
            "train/audio_seconds_per_second": speed,
        }
        self._log(lambda events: events.add_scalars(step, values))

    def end_training(self, step: int) -> None:
        """Close the sums of an epoch into its line of metrics, before its evaluation.

        Args:
            step: optimizer steps of the run.
        """
        self._bar.close()
        sums = self.sums
        self.history.append(
            EpochMetrics(
                run=self.run_id,
                epoch=self._epoch + 1,
                step=step,
                learning_rate=sums.learning_rate,
                train_loss=sums.loss / max(1, sums.utterances),
                gradient_norm=sums.gradient_norm / max(1, sums.updates),
                skipped_steps=sums.skipped,
                missing_utterances=sums.missing,
                val_wer=None,
                val_cer=None,
                audio_seconds_per_second=sums.audio_seconds / sums.seconds,
                minutes=sums.seconds / 60,
            )
        )
        self.sums = EpochSums()

    def end_epoch(
        self, errors: ErrorCounts | None, examples: Sequence[tuple[str, str]] = ()
    ) -> EpochMetrics:
        """Complete the last line of metrics, and log it.

        Args:
            errors: errors on the val set; None without an evaluation.
            examples: pairs of reference and hypothesis from the val set.
        """
        if errors:
            rates = {"val_wer": errors.wer_percent, "val_cer": errors.cer_percent}
            self.history[-1] = replace(self.history[-1], **rates)
        metrics = self.history[-1]
        if self.writes:
            self._log(lambda events: _log_evaluation(events, metrics, examples))
            self._try(METRICS, self._write_history)
            logger.info("%s", self._line(metrics))
        return metrics

    def _line(self, metrics: EpochMetrics) -> str:
        """The metrics of an epoch, for the log."""
        wer, cer = (
            "-" if value is None else f"{value:.2f}" for value in (metrics.val_wer, metrics.val_cer)
        )
        text = (
            f"epoch {metrics.epoch}/{self.epochs}  step {metrics.step}  "
            f"loss {metrics.train_loss:.3f}  lr {metrics.learning_rate:.2e}  "
            f"val WER {wer}  val CER {cer}  "
            f"{metrics.audio_seconds_per_second:.1f} audio-s/s  {metrics.minutes:.1f} min"
        )
        if metrics.skipped_steps:
            text += f"  {metrics.skipped_steps} steps skipped (not finite)"
        if metrics.missing_utterances:
            text += f"  {metrics.missing_utterances} utterances passed over (unreadable)"
        return text

    def close(self) -> None:
        """Close the progress bar and the logs; allowed inside an epoch too."""
        if self._bar is not None:
            self._bar.close()
        self._log(EventLog.close)

    def progress(self) -> dict[str, Any]:
        """The JSON-serialisable state that a checkpoint stores."""
        return {"history": [asdict(m) for m in self.history], "sums": asdict(self.sums)}

    def restore(self, progress: dict[str, Any]) -> None:
        """Restore the state that `progress` returned."""
        self.history[:] = [EpochMetrics(**m) for m in progress["history"]]
        self.sums = EpochSums(**progress["sums"])

    def _write_history(self) -> None:
        with atomic_path(self.log_dir / METRICS) as temporary:
            pd.DataFrame(asdict(m) for m in self.history).to_csv(temporary, index=False)


def _log_evaluation(
    events: EventLog, metrics: EpochMetrics, examples: Sequence[tuple[str, str]]
) -> None:
    """Write the figures and examples of an evaluation, and everything before them, to the disk."""
    if metrics.val_wer is not None:
        figures = {"val/wer": metrics.val_wer, "val/cer": metrics.val_cer}
        events.add_scalars(metrics.step, figures)
    for i, (reference, hypothesis) in enumerate(examples):
        # TensorBoard renders Markdown; indented lines stay as they are
        text = f"    {reference}\n    {hypothesis}"
        events.add_text(metrics.step, f"val/{i + 1}", text)
    events.flush()
