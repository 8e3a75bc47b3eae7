"""Assemble a training run and carry it through: epochs, evaluations, checkpoints, resume, interruption."""

import logging
import signal
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor

from src.batching import rank_share
from src.callback import EpochSums, TrainingMonitor
from src.checkpoint import (
    Checkpoint,
    CheckpointFolder,
    average_checkpoints,
    load_checkpoint,
    load_parameters,
    save_checkpoint,
)
from src.config import Config
from src.dataset import Batch, iterate_batches
from src.DeepSpeech import DeepSpeech, LossCell, dynamic_inputs, dynamic_keep, dynamic_targets
from src.distributed import Group
from src.errors import InputError, RunError
from src.evaluation import evaluate
from src.files import ensure_writable
from src.interruption import Interrupted, stop_requests
from src.labels import Labels
from src.lr_generator import scheduled_learning_rate
from src.manifest import read_manifest
from src.metrics import ErrorCounts
from src.model_info import ModelInfo
from src.optimizer import TrainStep, create_optimizer
from src.predictor import network_predictor
from src.training_data import TrainingData
from src.word_times import align_words, read_word_times, write_word_times

logger = logging.getLogger(__name__)

EXAMPLES = 5    # transcripts of the dev set that are logged


@dataclass
class Position:
    """How far a run is, the same in all processes."""

    epoch: int = 0         # whole epochs done
    batch: int = 0         # global batches of the unfinished epoch that are done
    batch_size: int = 0    # utterances of a process in these, and processes: with what an epoch began, it ends
    ranks: int = 1
    step: int = 0
    best: tuple[float, float] = (float("inf"), float("inf"))    # dev WER, dev CER
    stale: int = 0         # evaluations since the best one


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
        self.data = TrainingData(self.train_set, labels, config)
        ms.set_seed(config.TrainingConfig.seed)
        num_bins = data.SpectConfig.num_bins
        self.network = DeepSpeech(config.ModelConfig, num_bins, len(labels))
        self.optimizer = create_optimizer(self.network.trainable_params(), config.OptimConfig)
        loss_cell = LossCell(self.network, labels.blank_index, config.TrainingConfig.middle_loss)
        self.step_cell = TrainStep(loss_cell, self.optimizer, config.OptimConfig.loss_scale,
                                   config.TrainingConfig.max_grad_norm, distributed=group.size > 1)
        self.step_cell.set_inputs(*dynamic_inputs(num_bins), *dynamic_targets(), Tensor(shape=[], dtype=ms.float32),
                                  dynamic_keep(config.ModelConfig) if config.TrainingConfig.dropout else None)
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
        known = {f.name for f in fields(Position)}
        self.position = Position(**{name: value for name, value in progress.items() if name in known})
        self.position.best = tuple(progress["best"])
        self.sums = self.monitor.restore(progress)
        self._check_order(checkpoint)
        if self._shuffles_words():
            self._shuffle_words()
        logger.info("resuming %s: epoch %d, step %d", checkpoint.path, self.position.epoch + 1, self.position.step)

    def carry_through(self) -> TrainingMonitor:
        """Train from the position to the end."""
        position = self.position
        if self._finished():
            logger.info("nothing left to do: %d epochs and %d steps are trained", position.epoch, position.step)
        self.monitor.begin(position.step)
        with stop_requests() as requested:
            try:
                while not self._finished():
                    self._train_epoch(requested)
            finally:
                self.monitor.close()
        if self.config.CheckpointConfig.average:
            self._average()
        return self.monitor

    def _train_epoch(self, requested: Callable[[], int]) -> None:
        config, position = self.config, self.position
        if not position.batch:
            position.batch_size, position.ranks = config.DataConfig.batch_size, self.group.size
        batches = self.data.batches(position.epoch, position.batch_size, position.ranks)
        shares = [rank_share(batch, self.group.rank, self.group.size) for batch in batches]
        source = self.data.source(position.epoch, shares[position.batch:])
        self.monitor.begin_epoch(position.epoch, len(batches), position.batch, self.sums)
        self.step_cell.set_train(True)
        for batch in iterate_batches(source, config.DataConfig.num_workers):
            rate = scheduled_learning_rate(position.epoch + position.batch / len(batches),
                                           config.TrainingConfig.epochs, config.OptimConfig)
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
        dropout = self.config.TrainingConfig.dropout
        keep = Tensor(self.data.keep_masks(self.position.epoch, batch.rows)) if dropout else None
        outputs = self.step_cell(Tensor(batch.inputs), Tensor(batch.input_length), Tensor(batch.targets),
                                 Tensor(batch.target_length), Tensor(planned, ms.float32), Tensor(rate, ms.float32),
                                 keep)
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
        self.monitor.end_step(self.position.step, loss, norm, updated, rate)
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
        if self._shuffles_words() and position.epoch == self.config.DataConfig.AugmentationConfig.shuffle_start_epoch:
            self._shuffle_words(anew=True)
        evaluated = final or position.epoch % config.eval_interval == 0
        errors, examples = self._evaluate() if evaluated else (None, [])
        self.monitor.end_epoch(position.step, errors, examples)
        self.sums = self.monitor.sums = EpochSums()
        best = errors is not None and (errors.wer, errors.cer) < position.best
        if best:
            position.best, position.stale = (errors.wer, errors.cer), 0
        elif errors is not None:
            position.stale += 1
        if best or self._finished() or position.epoch % config.save_interval == 0:
            self._save(best)
        if self._finished() and not final:
            logger.info("stopping early: no better dev figures in the last %d evaluations", position.stale)

    def _shuffles_words(self) -> bool:
        """Whether the epochs from here on are to shuffle words."""
        config = self.config.DataConfig.AugmentationConfig
        return config.shuffle_words > 0 and self.position.epoch >= config.shuffle_start_epoch

    def _shuffle_words(self, anew: bool = False) -> None:
        """Shuffle words from now on, by the times that are kept with the checkpoints or are found now."""
        path = self.folder.word_times
        if self.group.is_first and (anew or not path.exists()):
            write_word_times(path, self.train_set, align_words(self.predict, self.train_set, self.labels, self.config))
            logger.info("words are shuffled from now on, by the times in %s", path)
        self.group.wait()
        self.data.shuffle_words(read_word_times(path, self.train_set))

    def _evaluate(self) -> tuple[ErrorCounts | None, list[tuple[str, str]]]:
        """The errors on the dev set, of which each process decodes its share, and some (reference, hypothesis)."""
        if not self.dev_set:
            return None, []
        rows = rank_share(np.arange(len(self.dev_set)), self.group.rank, self.group.size)
        evaluation = evaluate(self.predict, self.dev_set, self.labels, self.config, rows)
        examples = [(u.reference, u.hypothesis) for u in evaluation.utterances[:EXAMPLES]]
        return ErrorCounts(*map(int, self.group.sum(astuple(evaluation.errors)))), examples

    def _average(self) -> None:
        """Evaluate and save the mean of the checkpoints of the last epochs."""
        paths = self.folder.numbered()[-self.config.CheckpointConfig.average:]
        if not paths:
            return
        if self.group.is_first:
            load_parameters(self.network, average_checkpoints(paths), paths[-1])
        self.group.broadcast(self.network.get_parameters())
        errors, _ = self._evaluate()
        if self.group.is_first:
            save_checkpoint(self.folder.average, self.network.get_parameters(), ModelInfo.of(self.config, self.labels))
            logger.info("saved %s, the mean of %d checkpoints%s", self.folder.average, len(paths),
                        f": dev WER {errors.wer:.2f}  dev CER {errors.cer:.2f}" if errors else "")

    def _save(self, best: bool) -> None:
        if self.position.batch:
            self.group.average(self.buffers)
        progress = asdict(self.position) | self.monitor.progress() | {"order": self.data.order()}
        if self.group.is_first:
            path = self.folder.save(self._parameters(), ModelInfo.of(self.config, self.labels), progress, best)
            logger.info("saved %s%s", path, " (best so far)" if best else "")

    def _parameters(self) -> list[Parameter]:
        return list(self.step_cell.get_parameters())

    def _finished(self) -> bool:
        config, position = self.config.TrainingConfig, self.position
        return position.epoch >= config.epochs or self._enough() or 0 < config.patience <= position.stale

    def _enough(self) -> bool:
        limit = self.config.TrainingConfig.max_steps
        return 0 < limit <= self.position.step

    def _check_order(self, checkpoint: Checkpoint) -> None:
        """In the middle of an epoch, a place in the data means something only in the same order."""
        before, now = checkpoint.progress["order"], self.data.order()
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
