"""Assemble a training run and carry it through: epochs, evaluations, checkpoints, resume, interruption."""

import logging
import signal
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor

from src.batching import epoch_batches, rank_share
from src.callback import EpochSums, TrainingMonitor
from src.checkpoint import Checkpoint, CheckpointFolder, load_checkpoint, load_parameters
from src.config import Config
from src.dataset import Batch, BatchSource, iterate_batches
from src.DeepSpeech import DeepSpeech, LossCell, dynamic_inputs, dynamic_targets, output_lengths
from src.distributed import Group
from src.errors import InputError, RunError
from src.evaluation import evaluate
from src.features import num_frames
from src.files import ensure_writable
from src.labels import Labels
from src.lr_generator import annealed_learning_rate
from src.manifest import Manifest, read_manifest
from src.metrics import ErrorCounts
from src.model_info import ModelInfo
from src.optimizer import TrainStep, create_optimizer
from src.predictor import network_predictor

logger = logging.getLogger(__name__)


class Interrupted(RunError):
    """SIGINT or SIGTERM arrived; the state was saved. `signal_number` says which."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


@dataclass
class Position:
    """How far a run is, the same in all processes."""

    epoch: int = 0         # whole epochs done
    batch: int = 0         # global batches of the unfinished epoch that are done
    batch_size: int = 0    # utterances of a process in these, and processes: with what an epoch began, it ends
    ranks: int = 1
    step: int = 0
    best: tuple[float, float] = (float("inf"), float("inf"))    # dev WER, dev CER


def train(config: Config, resume: str = "", pretrained: str = "", group: Group | None = None) -> TrainingMonitor:
    """Train as configured and return the monitor with the history of the run.

    Args:
        resume: '' to begin; a checkpoint to go on from; `auto` for this run's last one if there is one.
        pretrained: a checkpoint whose weights to begin with, '' for random ones.
        group: the processes that train together; each gets its share of every batch, the first one writes.

    Raises:
        InputError: for settings, manifests or checkpoints that cannot be used, before anything is trained.
        RunError: when the run fails; Interrupted when it was asked to stop. Checkpoints stay usable in both cases.
    """
    folder = CheckpointFolder(config.CheckpointConfig)
    for path in (folder.folder, Path(config.TrainingConfig.log_dir)):
        ensure_writable(path)
    if not resume and folder.last.exists():
        raise InputError(f"{folder.last}: an earlier run is kept there; go on with --resume auto, or choose another "
                         "CheckpointConfig.ckpt_path")
    checkpoint = _checkpoint_to_resume(resume, folder)
    if checkpoint and pretrained:
        logger.info("%s is resumed; --pre_trained_model_path is not used", checkpoint.path)
    start = checkpoint or (load_checkpoint(pretrained) if pretrained else None)
    if start and start.info:
        config, labels = start.info.apply(config, str(start.path)), start.info.labels
    else:
        labels = Labels.load(config.DataConfig.labels_path)
    run = _Run(config, labels, folder, group or Group())
    if checkpoint:
        run.restore(checkpoint)
    elif start:
        load_parameters(run.network, start.network_parameters(), start.path, strict=False)
    run.group.broadcast(run.step_cell.get_parameters())
    return run.carry_through()


def trainable_rows(manifest: Manifest, config: Config) -> np.ndarray:
    """Rows whose transcript CTC can align: an output frame per label plus one per repeated label."""
    frames = output_lengths(num_frames(manifest.samples, manifest.sample_rates, config.DataConfig.SpectConfig))
    fits = frames >= manifest.required_frames
    if not fits.any():
        raise InputError(f"{manifest.path}: no utterance is long enough for its transcript")
    if not fits.all():
        logger.warning("%s: %d of %d utterances are too short for their transcripts and left out, the first in line %d",
                       manifest.path, (~fits).sum(), len(manifest), np.flatnonzero(~fits)[0] + 1)
    return np.flatnonzero(fits)


class _Run:
    """The parts of one run. Its methods are the stages that `train` goes through."""

    def __init__(self, config: Config, labels: Labels, folder: CheckpointFolder, group: Group):
        self.config, self.labels, self.folder, self.group = config, labels, folder, group
        data = config.DataConfig
        if not group.is_first:
            group.wait()    # until the first process has written the indexes
        self.train_set = read_manifest(data.train_manifest, labels)
        self.dev_set = read_manifest(data.val_manifest, labels) if data.val_manifest else None
        if group.is_first:
            group.wait()
        self.rows = trainable_rows(self.train_set, config)
        logger.info("%s: %d utterances, %.2f hours", self.train_set.path, len(self.rows),
                    self.train_set.seconds[self.rows].sum() / 3600)
        ms.set_seed(config.TrainingConfig.seed)
        num_bins = data.SpectConfig.num_bins
        self.network = DeepSpeech(config.ModelConfig, num_bins, len(labels))
        self.optimizer = create_optimizer(self.network.trainable_params(), config.OptimConfig)
        self.step_cell = TrainStep(LossCell(self.network, labels.blank_index), self.optimizer,
                                   config.OptimConfig.loss_scale, config.TrainingConfig.max_grad_norm,
                                   distributed=group.size > 1)
        self.step_cell.set_inputs(*dynamic_inputs(num_bins), *dynamic_targets(), Tensor(shape=[], dtype=ms.float32))
        self.predict = network_predictor(self.network, num_bins)
        self.monitor = TrainingMonitor(Path(config.TrainingConfig.log_dir), config.TrainingConfig.epochs,
                                       writes=group.is_first)
        self.position, self.sums = Position(), EpochSums()
        self.buffers = [p for p in self.network.get_parameters() if not p.requires_grad]
        logger.info("network: %.1f M parameters", sum(p.size for p in self.network.trainable_params()) / 1e6)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Weights, optimizer state, place in the data and history of an earlier run."""
        if not checkpoint.progress:
            raise InputError(f"{checkpoint.path}: holds weights only, nothing to resume: "
                             "use it with --pre_trained_model_path")
        load_parameters(self.step_cell, checkpoint.parameters, checkpoint.path)
        progress = checkpoint.progress
        self.position = Position(**{f.name: progress[f.name] for f in fields(Position)})
        self.position.best = tuple(progress["best"])
        self.sums = self.monitor.restore(progress)
        self._check_order(checkpoint)
        logger.info("resuming %s: epoch %d, step %d", checkpoint.path, self.position.epoch + 1, self.position.step)

    def carry_through(self) -> TrainingMonitor:
        """Train from the position to the end."""
        config, position = self.config.TrainingConfig, self.position
        if position.epoch >= config.epochs or self._enough():
            logger.info("nothing left to do: %d epochs and %d steps are trained", position.epoch, position.step)
        self.monitor.begin(position.step)
        with _stop_requests() as requested:
            try:
                while position.epoch < config.epochs and not self._enough():
                    self._train_epoch(requested)
            finally:
                self.monitor.close()
        return self.monitor

    def _train_epoch(self, requested: Callable[[], int]) -> None:
        position, data = self.position, self.config.DataConfig
        optim = self.config.OptimConfig
        rate = annealed_learning_rate(position.epoch, learning_rate=optim.learning_rate,
                                      learning_anneal=optim.learning_anneal,
                                      anneal_start_epoch=optim.anneal_start_epoch)
        if not position.batch:
            position.batch_size, position.ranks = data.batch_size, self.group.size
        batches = self._batches()
        shares = [rank_share(batch, self.group.rank, self.group.size) for batch in batches]
        source = BatchSource(self.train_set, shares[position.batch:], self.labels, data.SpectConfig)
        self.monitor.begin_epoch(position.epoch, len(batches), position.batch, rate, self.sums)
        self.step_cell.set_train(True)
        for batch in iterate_batches(source, data.num_workers):
            stop = self._train_batch(batch, len(batches[position.batch]), rate, requested())
            if stop:
                self._save(best=False)
                raise Interrupted(f"stopped at step {position.step}; {self.folder.last} holds everything up to it: "
                                  "go on with --resume auto", stop)
            if self._enough() and position.batch < len(batches):
                self._save(best=False)
                return
        self._finish_epoch()

    def _train_batch(self, batch: Batch, planned: int, rate: float, signal_number: int) -> int:
        """One step on this process's share of `planned` utterances.

        Returns the number of the signal that any process got, or 0: all must stop after the same step.
        """
        before = [b.asnumpy().copy() for b in self.buffers]
        outputs = self.step_cell(Tensor(batch.inputs), Tensor(batch.input_length), Tensor(batch.targets),
                                 Tensor(batch.target_length), Tensor(planned, ms.float32), Tensor(rate, ms.float32))
        loss, norm, updated = (output.asnumpy().item() for output in outputs)
        self.position.batch += 1
        self.position.step += 1
        if not updated:    # the forward pass has already put the bad numbers into the batch-norm statistics
            for buffer, value in zip(self.buffers, before, strict=True):
                buffer.set_data(Tensor(value))
            logger.warning("step %d: loss %s, gradient norm %s: skipped", self.position.step, loss, norm)
        utterances, missing, seconds, *signals = self.group.sum(
            [len(batch.rows), len(batch.missing), self.train_set.seconds[batch.rows].sum(),
             signal_number == signal.SIGINT, signal_number == signal.SIGTERM])
        self.sums.missing += int(missing)
        self.sums.add(loss, norm, updated, int(utterances), seconds)
        self.monitor.end_step(self.position.step, loss, norm, updated)
        return signal.SIGINT if signals[0] else signal.SIGTERM if signals[1] else 0

    def _finish_epoch(self) -> None:
        """Evaluate, record and save what is due at the end of an epoch."""
        config, position = self.config.TrainingConfig, self.position
        if not self.sums.updates:
            raise RunError(f"epoch {position.epoch + 1}: no step had a finite loss and gradient; try a lower "
                           "OptimConfig.learning_rate")
        position.epoch, position.batch = position.epoch + 1, 0
        final = position.epoch == config.epochs
        self.group.average(self.buffers)
        errors = self._evaluate() if final or position.epoch % config.eval_interval == 0 else None
        rates = (errors.wer, errors.cer) if errors else (None, None)
        self.monitor.end_epoch(position.step, *rates)
        self.sums = self.monitor.sums = EpochSums()
        best = errors is not None and rates < position.best
        if best:
            position.best = rates
        if best or final or position.epoch % config.save_interval == 0:
            self._save(best)

    def _evaluate(self) -> ErrorCounts | None:
        """The errors on the dev set, of which each process decodes its share."""
        if not self.dev_set:
            return None
        rows = rank_share(np.arange(len(self.dev_set)), self.group.rank, self.group.size)
        errors = evaluate(self.predict, self.dev_set, self.labels, self.config, rows).errors
        return ErrorCounts(*map(int, self.group.sum(astuple(errors))))

    def _save(self, best: bool) -> None:
        if self.position.batch:
            self.group.average(self.buffers)
        progress = asdict(self.position) | self.monitor.progress() | {"order": self._order()}
        if self.group.is_first:
            path = self.folder.save(self._parameters(), ModelInfo.of(self.config, self.labels), progress, best)
            logger.info("saved %s%s", path, " (best so far)" if best else "")

    def _parameters(self) -> list[Parameter]:
        return list(self.step_cell.get_parameters())

    def _batches(self) -> list[np.ndarray]:
        """The global batches of the epoch that the position is in."""
        position, lengths = self.position, self.train_set.seconds[self.rows]
        batches = epoch_batches(lengths, position.batch_size, position.epoch, self.config.TrainingConfig.seed,
                                position.ranks)
        return [self.rows[batch] for batch in batches]

    def _enough(self) -> bool:
        limit = self.config.TrainingConfig.max_steps
        return 0 < limit <= self.position.step

    def _order(self) -> dict[str, int]:
        """What the order of the data depends on, beside the size of a batch."""
        return {"utterances": len(self.rows), "seed": self.config.TrainingConfig.seed}

    def _check_order(self, checkpoint: Checkpoint) -> None:
        """In the middle of an epoch, a place in the data means something only in the same order."""
        before, now = checkpoint.progress["order"], self._order()
        if self.position.batch and before != now:
            changed = ", ".join(f"{k} was {before[k]}, is {now[k]}" for k in now if before[k] != now[k])
            raise InputError(f"{checkpoint.path}: stopped inside an epoch, whose data would change: {changed}")


def _checkpoint_to_resume(resume: str, folder: CheckpointFolder) -> Checkpoint | None:
    if resume == "auto":
        if not folder.last.exists():
            logger.info("%s does not exist yet: starting anew", folder.last)
            return None
        resume = str(folder.last)
    return load_checkpoint(resume) if resume else None


@contextmanager
def _stop_requests():
    """Yield a function that gives the number of the SIGINT or SIGTERM that arrived, 0 so far; a second one kills.

    MindSpore puts in a handler of its own for SIGINT while it compiles and loads data, which sends a SIGTERM: Ctrl-C
    arrives here as either.
    """
    received = [0]

    def note(number: int, _frame) -> None:
        received[0] = number
        signal.signal(number, previous[number])
        logger.warning("stopping after this step; once more to stop at once")

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received[0]
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
