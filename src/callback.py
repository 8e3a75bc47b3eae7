"""Watching a training run: progress bar, metrics as CSV, TensorBoard events."""

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from src.files import atomic_path
from src.metrics import ErrorCounts

logger = logging.getLogger(__name__)


@dataclass
class EpochSums:
    """What adds up over the steps of an epoch; it travels in checkpoints, so that a resumed epoch counts all of it."""

    loss: float = 0.0              # over utterances
    utterances: int = 0
    gradient_norm: float = 0.0     # over updates
    updates: int = 0
    skipped: int = 0               # steps whose loss or gradient was not finite
    missing: int = 0               # utterances whose files went bad
    audio_seconds: float = 0.0
    seconds: float = 0.0           # spent training, without evaluation

    def add(self, loss: float, gradient_norm: float, updated: bool, utterances: int, audio_seconds: float) -> None:
        """Count one step; the figures of a skipped one are not numbers and stay out of the means."""
        self.audio_seconds += audio_seconds
        if updated:
            self.loss += loss * utterances
            self.utterances += utterances
            self.gradient_norm += gradient_norm
            self.updates += 1
        else:
            self.skipped += 1


@dataclass(frozen=True)
class EpochMetrics:
    """One line of metrics.csv. Rates are percentages; dev figures are None in epochs without an evaluation."""

    epoch: int                     # whole epochs done, from 1
    step: int
    learning_rate: float           # of its last step
    train_loss: float              # mean over utterances
    gradient_norm: float           # mean over updates, before clipping
    skipped_steps: int
    missing_utterances: int
    dev_wer: float | None
    dev_cer: float | None
    audio_seconds_per_second: float
    minutes: float                 # of this epoch, without evaluation


@dataclass
class TrainingMonitor:
    """Shows and records a run. `history` has one entry a finished epoch, and is what metrics.csv holds."""

    log_dir: Path
    epochs: int
    writes: bool = True    # False in all processes of a group but the first: they only count
    history: list[EpochMetrics] = field(default_factory=list)
    bar: tqdm | None = None
    trained: bool = False    # whether an epoch was finished by this process, not only taken over from a checkpoint

    def begin(self, step: int) -> None:
        """Open the logs; events of a run that went further than `step` before it was resumed are hidden."""
        if not self.writes:
            return
        from tensorboardX import SummaryWriter  # not before MindSpore, which must be the first to load protobuf
        self.log_dir.mkdir(parents=True, exist_ok=True)
        self.events = SummaryWriter(str(self.log_dir), purge_step=step or None)

    def begin_epoch(self, epoch: int, batches: int, done: int, sums: EpochSums) -> None:
        """Start the bar of an epoch (from 0) of which `done` batches were trained before a resume."""
        self.epoch, self.sums = epoch, sums
        # a log file gets a line every 30 seconds instead of an animation
        self.bar = tqdm(total=batches, initial=done, desc=f"epoch {epoch + 1}/{self.epochs}", unit="step",
                        mininterval=0.5 if sys.stderr.isatty() else 30, file=sys.stderr, disable=not self.writes)
        self._started = time.perf_counter() - sums.seconds

    def end_step(self, step: int, loss: float, gradient_norm: float, updated: bool, learning_rate: float) -> None:
        """Call after `sums` took the step in."""
        self.learning_rate = learning_rate
        self.sums.seconds = time.perf_counter() - self._started
        if not self.writes:
            return
        speed = self.sums.audio_seconds / self.sums.seconds
        self.bar.set_postfix_str(f"loss {loss:.2f}, lr {self.learning_rate:.2e}, {speed:.1f} audio-s/s"
                                 + (f", skipped {self.sums.skipped}" if self.sums.skipped else ""), refresh=False)
        self.bar.update()
        if updated:
            self.events.add_scalar("train/loss", loss, step)
            self.events.add_scalar("train/gradient_norm", gradient_norm, step)
        self.events.add_scalar("train/learning_rate", self.learning_rate, step)
        self.events.add_scalar("train/audio_seconds_per_second", speed, step)

    def end_epoch(self, step: int, errors: ErrorCounts | None,
                  examples: Sequence[tuple[str, str]] = ()) -> EpochMetrics:
        """Record the epoch and say it in one line; `examples` are references and hypotheses of the dev set."""
        dev_wer, dev_cer = (errors.wer, errors.cer) if errors else (None, None)
        self.bar.close()
        sums = self.sums
        metrics = EpochMetrics(
            self.epoch + 1, step, self.learning_rate, sums.loss / max(1, sums.utterances),
            sums.gradient_norm / max(1, sums.updates), sums.skipped, sums.missing, dev_wer, dev_cer,
            sums.audio_seconds / sums.seconds, sums.seconds / 60)
        self.history.append(metrics)
        self.trained = True
        if not self.writes:
            return metrics
        if dev_wer is not None:
            self.events.add_scalar("dev/wer", dev_wer, step)
            self.events.add_scalar("dev/cer", dev_cer, step)
            for i, (reference, hypothesis) in enumerate(examples):
                # Markdown: two lines, as they are
                self.events.add_text(f"dev/{i + 1}", f"    {reference}\n    {hypothesis}", step)
        self.events.flush()
        self._write_history()
        logger.info("epoch %d/%d  step %d  loss %.3f  lr %.2e  dev WER %s  dev CER %s  %.1f audio-s/s  %.1f min%s",
                    metrics.epoch, self.epochs, step, metrics.train_loss, metrics.learning_rate,
                    "-" if dev_wer is None else f"{dev_wer:.2f}", "-" if dev_cer is None else f"{dev_cer:.2f}",
                    metrics.audio_seconds_per_second, metrics.minutes, _losses(sums))
        return metrics

    def close(self) -> None:
        """Close bar and logs, in the middle of an epoch too."""
        if self.bar is not None:
            self.bar.close()
        if self.writes:
            self.events.close()

    def progress(self) -> dict[str, Any]:
        """What a checkpoint keeps of the monitor."""
        return {"history": [asdict(m) for m in self.history], "sums": asdict(self.sums)}

    def restore(self, progress: dict[str, Any]) -> EpochSums:
        """Take over what `progress` gave; returns the sums of the unfinished epoch."""
        self.history[:] = [EpochMetrics(**m) for m in progress["history"]]
        return EpochSums(**progress["sums"])

    def _write_history(self) -> None:
        with atomic_path(self.log_dir / "metrics.csv") as temporary:
            pd.DataFrame(asdict(m) for m in self.history).to_csv(temporary, index=False)


def _losses(sums: EpochSums) -> str:
    """What went wrong in an epoch, for the end of its line."""
    text = f"  {sums.skipped} steps skipped (not finite)" if sums.skipped else ""
    return text + (f"  {sums.missing} utterances passed over (unreadable)" if sums.missing else "")
