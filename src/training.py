"""A training run: epochs, evaluations, checkpoints, resume and stop."""

import logging
import math
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor

from deepspeech2.errors import InputError, RunError, first_line
from deepspeech2.files import ensure_writable
from deepspeech2.labels import Labels
from deepspeech2.metrics import ErrorCounts
from deepspeech2.model import AcousticModel
from deepspeech2.settings import ConfigError
from deepspeech2.stopping import STOP_SIGNALS, StopRequests
from src.batching import BatchPlan, rank_share
from src.callback import METRICS, TrainingMonitor
from src.checkpoint import (
    Checkpoint,
    arrays_of,
    average_checkpoints,
    load_checkpoint,
    load_parameters,
    network_shapes,
    save_checkpoint,
)
from src.config import Config, check_together
from src.dataset import Batch, training_batches, usable_workers
from src.DeepSpeech import DeepSpeech, LossCell, dynamic_loss_inputs
from src.distributed import Group
from src.evaluation import evaluate
from src.graph_cache import cached, own_code
from src.heap import KeptMemory
from src.lr_generator import scheduled_learning_rate
from src.manifest import Manifest, read_manifest
from src.memory import ensure_enough
from src.optimizer import TrainStep, create_optimizer
from src.progress import WORST, Progress
from src.run_folder import RunFolder, can_link, ensure_own_metrics, locked
from src.stored_models import network_model
from src.training_data import TrainingData
from src.word_cuts import find_word_cuts, read_word_cuts, write_word_cuts

logger = logging.getLogger(__name__)

EXAMPLES = 5  # transcripts of the val set to log
# settings that the graph of a step does not depend on
NOT_COMPILED = {"epochs", "max_steps", "patience", "eval_interval", "save_interval", "log_dir"}
MAX_SKIPPED_STEPS = 100  # in a row; then the run has diverged
MAX_UNREAD_BATCHES = 10  # in a row; then a disk is gone, or the network to it
# what MindSpore and oneDNN say when there is no memory left
OUT_OF_MEMORY = ("memory", "could not create a primitive", "bad_alloc", "malloc")


class Interrupted(RunError):
    """A signal stopped the run, after its state was saved.

    Attributes:
        signal_number: one of `STOP_SIGNALS`.
    """

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


def train(
    config: Config, resume: str = "", pretrained: str = "", group: Group | None = None
) -> TrainingMonitor:
    """Train as configured.

    Args:
        config: all settings of the run.
        resume: path of a checkpoint to resume; `auto` for the last checkpoint of this run, if there
            is one; '' to begin a new run.
        pretrained: path of a checkpoint with initial weights; '' for random weights.
        group: the processes that train together; each trains on its share of every batch, and the
            first one writes the files. None for this process alone.

    Returns:
        The monitor with the history of the run.

    Raises:
        InputError: before any training, for settings, manifests or checkpoints that cannot be used.
        RunError: when the run fails. Saved checkpoints stay usable.
        Interrupted: when a signal stopped the run, after its state was saved.
    """
    group = group or Group()
    folder = RunFolder(config.CheckpointConfig)
    folders = {folder.folder.resolve(), Path(config.TrainingConfig.log_dir).resolve()}
    for path in folders:
        ensure_writable(path)
    if group.size > 1:
        group.ensure_shared(folder.folder, "CheckpointConfig.ckpt_path")
    run_id = uuid.uuid4().hex[:8]
    with _locked(group, folders, run_id):
        checkpoint = folder.to_resume(resume)
        metrics = Path(config.TrainingConfig.log_dir) / METRICS
        progress = checkpoint.progress if checkpoint else {}
        group.in_first(lambda: ensure_own_metrics(metrics, progress))
        if checkpoint and pretrained:
            logger.info("%s is resumed; --pre_trained_model_path is not used", checkpoint.path)
        start = checkpoint or (load_checkpoint(pretrained, optimizer=False) if pretrained else None)
        if start:
            config, labels = start.settle(config, fine_tuning=not checkpoint)
            check_together(config)  # the network may be another one than before
        else:
            labels = Labels.load(config.DataConfig.labels_path)
        run = _Run(config, labels, folder, group, run_id)
        if checkpoint:
            run.restore(checkpoint, run_id)
        elif start:
            own = list(run.network.get_parameters())
            load_parameters(own, start.fine_tuned(labels, own), start.path, strict=False)
        group.broadcast(run.step_cell.stored_parameters())
        return run.run()


def _check_frozen(frozen: int, layers: int) -> None:
    """Raise ConfigError where none of the layers is left to train."""
    if frozen >= layers:
        raise ConfigError(
            f"`OptimConfig.frozen_layers` (={frozen}) must be less than {layers}: the network has "
            f"the convolutions, {layers - 2} recurrent layers and the projection"
        )


class _Run:
    """The parts and stages of one run; see `train`."""

    def __init__(
        self, config: Config, labels: Labels, folder: RunFolder, group: Group, run_id: str
    ):
        self.config, self.labels = config, labels
        self.folder, self.group = folder, group
        self.progress = Progress([[run_id, 0]], config.OptimConfig.optimizer)
        self.train_set, self.val_set = self._read_manifests()
        self.data = TrainingData(self.train_set, labels, config)
        self.data.ensure_enough_for(group.size)
        self._ensure_memory()
        if self.val_set:
            self.progress.val_set = self.val_set.fingerprint()
        training = config.TrainingConfig
        ms.set_seed(training.seed)
        num_bins = config.DataConfig.SpectConfig.num_bins
        self.network = DeepSpeech(config.ModelConfig, num_bins, len(labels), training.dropout)
        layers, frozen = self.network.layers(), config.OptimConfig.frozen_layers
        _check_frozen(frozen, len(layers))
        self.frozen = sum(layers[:frozen], [])  # the cells of the frozen layers
        self.buffers = [p for p in self.network.get_parameters() if not p.requires_grad]
        self.step_cell = TrainStep(
            LossCell(self.network, labels.blank_index, training.intermediate_ctc_weight),
            create_optimizer(layers, config.OptimConfig),
            self.buffers,
            config.OptimConfig.loss_scale,
            training.max_grad_norm,
            distributed=group.size > 1,
        )
        self.step_cell.set_inputs(
            *dynamic_loss_inputs(num_bins),
            Tensor(shape=[], dtype=ms.float32),
            Tensor(shape=[None], dtype=ms.int32) if training.dropout else None,
        )
        self.call_step = cached(self.step_cell, self._graph_settings())
        self.model = network_model(self.network, config, labels)
        self.model.acoustic = self._stoppable(self.model.acoustic)
        self.stop: StopRequests | None = None
        self.num_workers = usable_workers(config.DataConfig.num_workers)
        self.unsaved = False  # whether steps were trained that no file holds
        self.unread: list[int] = []  # utterances of the last batches, where none could be read
        self.saved_at = time.monotonic()
        self.monitor = TrainingMonitor(
            Path(training.log_dir), training.epochs, writes=group.is_first
        )
        size = sum(p.size for p in self.network.trainable_params())
        logger.info("network: %.1f M parameters", size / 1e6)

    def _graph_settings(self) -> dict[str, Any]:
        """All that the graph of a step depends on."""
        training = asdict(self.config.TrainingConfig)
        return self.config.model_info(self.labels).settings | {
            "TrainingConfig": {k: v for k, v in training.items() if k not in NOT_COMPILED},
            "OptimConfig": asdict(self.config.OptimConfig),
            "labels": [len(self.labels), self.labels.blank_index],
            "processes": [self.group.rank, self.group.size],
        }

    def _read_manifests(self) -> tuple[Manifest, Manifest | None]:
        """The training and the val set. The first process reads first and writes the indexes."""
        data = self.config.DataConfig
        if not self.group.is_first:
            self.group.wait()
        train_set = read_manifest(data.train_manifest, self.labels)
        val_set = None
        if data.val_manifest:
            val_set = read_manifest(data.val_manifest, self.labels, allow_empty=True)
        if self.group.is_first:
            self.group.wait()
        if self.group.size > 1:
            self.group.ensure_equal(self.config.common_settings() | {
                "DataConfig.train_manifest": train_set.fingerprint(),
                "DataConfig.val_manifest": val_set.fingerprint() if val_set else "",
                "the labels": str(self.labels),
                "the program": own_code(),
            })
        return train_set, val_set

    def restore(self, checkpoint: Checkpoint, new_id: str) -> None:
        """Restore weights, optimizer state, progress and history of an earlier run.

        Args:
            checkpoint: the state to go on from.
            new_id: id of the run, should it leave newer states behind.
        """
        if not checkpoint.progress:
            raise InputError(
                f"{checkpoint.path}: holds weights only, nothing to resume: "
                "use it with --pre_trained_model_path"
            )
        now = self.progress
        try:
            self.progress = Progress.restored(checkpoint.progress)
            self.monitor.restore(checkpoint.progress)
        except (TypeError, KeyError):
            raise InputError(
                f"{checkpoint.path}: written by an earlier version, whose runs cannot be resumed: "
                "begin with its weights by --pre_trained_model_path"
            ) from None
        if self.progress.optimizer != now.optimizer:
            raise InputError(
                f"{checkpoint.path}: OptimConfig.optimizer was {self.progress.optimizer!r}, is "
                f"{now.optimizer!r}: leave it, or begin a new run with these weights by "
                "--pre_trained_model_path"
            )
        own = self.step_cell.stored_parameters()
        load_parameters(own, checkpoint.parameters, checkpoint.path)
        self._check_order(checkpoint)
        self._settle_in(checkpoint, new_id)
        if self.progress.val_set != now.val_set:
            self.progress.val_set = now.val_set
            self.progress.judge_anew("the val set is another one")
        if self._shuffles_words():
            self._shuffle_words()
        epoch, step = self.progress.epoch + 1, self.progress.step
        logger.info("resuming %s: epoch %d, step %d", checkpoint.path, epoch, step)
        if self.progress.skipped_in_row:
            message = "%s: was saved after %d steps in a row that were not finite%s"
            logger.warning(message, checkpoint.path, self.progress.skipped_in_row, self._way_back())

    def _settle_in(self, checkpoint: Checkpoint, new_id: str) -> None:
        """Prepare the folder for going on from a checkpoint."""
        self.group.wait()  # until all have read
        lineage = self.group.in_first(lambda: self.folder.adopt(checkpoint, new_id))
        self.progress.lineage = lineage or self.progress.lineage
        best = self.progress.best
        if best == WORST:
            return
        known = self.group.in_first(lambda: self.folder.ensure_best(best))
        if not self.group.sum([bool(known)])[0]:
            reason = f"no file holds the state with WER {best[0]} and CER {best[1]}"
            self.progress.judge_anew(reason)

    def _stoppable(self, acoustic: AcousticModel) -> AcousticModel:
        """`acoustic`, but no batch is computed after a request to stop."""

        def predict(inputs: np.ndarray, input_length: np.ndarray):
            if self.stop and self.stop.number:
                raise Interrupted(
                    f"stopped after epoch {self.progress.epoch}; {self.folder.last} holds "
                    "everything up to it: go on with --resume auto",
                    self.stop.number,
                )
            return acoustic(inputs, input_length)

        return predict

    def run(self) -> TrainingMonitor:
        """Train until the end of the run."""
        progress, training = self.progress, self.config.TrainingConfig
        run_id = progress.lineage[-1][0]
        if self.group.is_first:
            logger.info("run %s in %s", run_id, self.folder.folder)
            if not can_link(self.folder.folder):
                message = "%s: has no hard links: -last and -best are copies there"
                logger.warning(message, self.folder.folder)
        first = progress.step
        self.monitor.begin(first, run_id)
        with StopRequests(_announce, may_end=lambda: not self.unsaved) as self.stop:
            try:
                if not progress.epoch_ended:
                    self._end_epoch()
                if progress.finished(training):
                    progress.log_as_finished(training)
                while not progress.finished(training):
                    self._train_epoch()
                if self.config.CheckpointConfig.average_last:
                    self._average()
            finally:
                self.monitor.close()
        if progress.step > first:
            self.monitor.trained = progress.epoch, progress.step
        return self.monitor

    def _ensure_memory(self) -> None:
        """Keep freed memory where there is room for it.

        Raises:
            InputError: when the largest batch needs more memory than this machine has.
        """
        self.kept = None
        if ms.get_context("device_target") != "CPU":
            return
        ranks = self.group.size
        utterances, longest = self.data.largest_share(ranks)
        size = sum(math.prod(shape) for _, shape in network_shapes(self.config, len(self.labels)))
        hosts = int(os.environ.get("NODE_COUNT") or 1) if ranks > 1 else 1
        limit = ensure_enough(self.config, size, utterances, longest, ranks // hosts)
        self.kept = KeptMemory(limit) if limit else None

    def _train_epoch(self) -> None:
        """Train the rest of the present epoch.

        Raises:
            Interrupted: when a signal was received, after the state was saved.
        """
        config, progress, data = self.config, self.progress, self.data
        if not progress.batch:
            progress.plan = asdict(data.plan(self.group.size))
        planned = data.batches(progress.epoch, BatchPlan(**progress.plan))
        batches = [data.within(batch) for batch in planned]
        shares = [rank_share(batch, self.group.rank, self.group.size) for batch in batches]
        source = data.source(progress.epoch, shares[progress.batch :])
        self.unread.clear()
        self.monitor.begin_epoch(progress.epoch, len(batches), progress.batch)
        self.step_cell.set_train(True)
        for cell in self.frozen:
            cell.set_train(False)  # batch norm keeps its statistics too
        training = config.TrainingConfig
        with self._memory_errors(batches):
            for batch in training_batches(source, self.num_workers):
                done = progress.epoch + progress.batch / len(batches)
                rate = scheduled_learning_rate(done, training.epochs, config.OptimConfig)
                self._step(batch, max(1, len(batches[progress.batch])), rate)
                if self.kept:
                    self.kept.after_step()
                self._save_when_due()
                if progress.reached_max_steps(training) and progress.batch < len(batches):
                    self._save()
                    return
        self._finish_epoch()

    def _save_when_due(self) -> None:
        """Save by the clock. Raises Interrupted after a signal, when the state is saved."""
        minutes = self.config.CheckpointConfig.save_minutes
        overdue = 0 < minutes <= (time.monotonic() - self.saved_at) / 60
        requests = [self.stop.number == number for number in STOP_SIGNALS]
        # all processes stop after the same step, and the clock of the first decides
        *requested, due = self.group.sum([*requests, overdue and self.group.is_first])
        number = next((n for n, count in zip(STOP_SIGNALS, requested, strict=True) if count), 0)
        if number or due:
            self._save()
        if number:
            raise Interrupted(
                f"stopped at step {self.progress.step}; {self.folder.last} holds everything up to "
                "it: go on with --resume auto",
                number,
            )

    @contextmanager
    def _memory_errors(self, batches: list[np.ndarray]) -> Iterator[None]:
        """Turn MindSpore's many errors for too little memory into one, after saving."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            text = f"{type(error).__name__} {error}".lower()
            if isinstance(error, RunError) or not any(word in text for word in OUT_OF_MEMORY):
                raise
            saved = f"{self.folder.folder} holds the state that was saved last"
            if self.group.size == 1:  # other processes would have to take part
                self._save()
                saved = f"{self.folder.last} holds the steps before it"
            rows = batches[min(self.progress.batch, len(batches) - 1)]  # after the last one: saving
            longest = self.train_set.seconds[rows].max(initial=0.0)
            raise RunError(
                f"out of memory in step {self.progress.step + 1}, a batch of {len(rows)} "
                f"utterances of up to {longest:.1f} s ({first_line(error)}); {saved}. Leave out "
                f"long utterances by DataConfig.max_seconds below {longest:.1f}, which works with "
                "--resume auto; a smaller DataConfig.batch_size counts from the next epoch on"
            ) from None

    def _step(self, batch: Batch, planned: int, rate: float) -> None:
        """Train one step.

        Args:
            batch: this process's share of the global batch.
            planned: utterances of the global batch, readable or not.
            rate: learning rate.
        """
        progress, sums = self.progress, self.monitor.sums
        audio_seconds = self.train_set.seconds[batch.rows].sum()
        counts = [len(batch.rows), len(batch.missing), audio_seconds]
        utterances, missing, audio_seconds = self.group.sum(counts)
        sums.missing += int(missing)
        progress.batch += 1
        progress.step += 1
        if not utterances:
            self._pass_over(int(missing))
            return
        self.unread.clear()
        loss, norm, updated = self._compute(batch, planned, rate)
        self.unsaved = True
        progress.skipped_in_row = 0 if updated else progress.skipped_in_row + 1
        if not updated:
            message = "step %d: loss %s, gradient norm %s: skipped"
            logger.warning(message, progress.step, loss, norm)
        # the step divides the loss by the planned utterances, whatever could be read
        sums.add(loss * planned, norm, updated, int(utterances), audio_seconds)
        self.monitor.end_step(progress.step, loss, norm, updated, rate)
        if progress.skipped_in_row >= MAX_SKIPPED_STEPS:
            raise RunError(
                f"step {progress.step}: {progress.skipped_in_row} steps in a row had no finite "
                f"loss and gradient: the run has diverged{self._way_back()}"
            )

    def _compute(self, batch: Batch, planned: int, rate: float) -> tuple[float, float, bool]:
        """Loss, gradient norm, and whether the weights were updated; arguments as `_step`."""
        seeds = None
        if self.config.TrainingConfig.dropout:
            seeds = Tensor(self.data.dropout_seeds(self.progress.epoch, batch.rows))
        outputs = self.call_step(
            Tensor(batch.inputs),
            Tensor(batch.input_length),
            Tensor(batch.targets),
            Tensor(batch.target_length),
            Tensor(planned, ms.float32),
            Tensor(rate, ms.float32),
            seeds,
        )
        loss, norm, updated = (output.asnumpy().item() for output in outputs)
        return loss, norm, updated

    def _pass_over(self, missing: int) -> None:
        """Learn nothing from a batch none of whose utterances can be read.

        Args:
            missing: how many they are.

        Raises:
            RunError: after many such batches in a row; the state before them was saved.
        """
        progress = self.progress
        self.unread.append(missing)
        if len(self.unread) < MAX_UNREAD_BATCHES:
            return
        progress.batch -= len(self.unread)
        progress.step -= len(self.unread)
        self.monitor.sums.missing -= sum(self.unread)
        if progress.batch:
            self._save()
        raise RunError(
            f"step {progress.step + 1}: nothing of {len(self.unread)} batches in a row could be "
            "read: see the warnings; go on with --resume auto when the recordings are there"
        )

    def _way_back(self) -> str:
        """How to go on after a divergence: the newest epoch that was sound, and a lower rate."""
        diverged = [m.learning_rate for m in self.monitor.history if m.skipped_steps]
        diverged.append(self.config.OptimConfig.learning_rate)
        rate = f"OptimConfig.learning_rate={diverged[0] / 10:.1e}"
        sound = {(m.epoch, m.step) for m in self.monitor.history if not m.skipped_steps}
        for path in reversed(self.folder.numbered()):
            if tuple(map(int, path.stem.split("-")[-1].split("_"))) in sound:
                return f". Go on from an epoch that was sound: --resume {path} {rate}"
        folders = "another CheckpointConfig.ckpt_path and TrainingConfig.log_dir"
        return f". Begin anew with {rate}, {folders}"

    def _finish_epoch(self) -> None:
        """Save the epoch that was trained, then evaluate it: that can last, and fail."""
        progress, sums = self.progress, self.monitor.sums
        if not sums.updates + sums.skipped:
            raise RunError(
                f"epoch {progress.epoch + 1}: no utterance could be read: see the warnings; go on "
                "with --resume auto when the recordings are there"
            )
        if not sums.updates:
            raise RunError(
                f"epoch {progress.epoch + 1}: no step had a finite loss and gradient"
                + self._way_back()
            )
        progress.epoch, progress.batch, progress.epoch_ended = progress.epoch + 1, 0, False
        self.group.average(self.buffers)
        self.monitor.end_training(progress.step)
        self._save()
        self._end_epoch()

    def _end_epoch(self) -> None:
        """Find words, evaluate, log and save, each if due, after the steps of an epoch."""
        config, progress = self.config.TrainingConfig, self.progress
        final = progress.epoch == config.epochs
        start = self.config.DataConfig.AugmentationConfig.shuffle_start_epoch
        if self._shuffles_words() and progress.epoch == start:
            began = time.perf_counter()
            self._shuffle_words(anew=True)
            # the sums of this epoch are closed: the time counts in the next one
            self.monitor.sums.seconds += time.perf_counter() - began
        evaluated = final or progress.epoch % config.eval_interval == 0
        errors, examples = self._evaluate() if evaluated else (None, [])
        self.monitor.end_epoch(errors, examples)
        best = errors is not None and progress.judge(errors)
        progress.epoch_ended = True
        due = progress.epoch % config.save_interval == 0
        self._save(best, numbered=best or due or progress.finished(config))
        if progress.out_of_patience(config) and not final:
            message = "stopping early: no better val figures in the last %d evaluations"
            logger.info(message, progress.evals_since_best)

    def _shuffles_words(self) -> bool:
        """Whether the words of utterances are shuffled in the present epoch."""
        config = self.config.DataConfig.AugmentationConfig
        return config.shuffle_words > 0 and self.progress.epoch >= config.shuffle_start_epoch

    def _shuffle_words(self, anew: bool = False) -> None:
        """Shuffle the words of utterances from now on.

        Args:
            anew: whether to find the cuts between words again, even if the run's file has those of
                the training set.
        """
        self.group.in_first(lambda: self._ensure_word_cuts(anew))  # the others wait
        self.data.shuffle_words(read_word_cuts(self.folder.word_cuts, self.train_set))

    def _ensure_word_cuts(self, anew: bool) -> None:
        """Find and write the cuts of the training set, unless the run's file has them."""
        path, train_set = self.folder.word_cuts, self.train_set
        if anew or not path.exists() or read_word_cuts(path, train_set) is None:
            write_word_cuts(path, train_set, find_word_cuts(self.model, train_set, self.config))
            logger.info("words are shuffled from now on, by the cuts in %s", path)

    def _evaluate(self) -> tuple[ErrorCounts | None, list[tuple[str, str]]]:
        """Evaluate on the val set; each process decodes its share.

        Returns:
            The errors over all processes, None without a val set, and some pairs of reference and
            hypothesis from this process.
        """
        if not self.val_set:
            return None, []
        rows = rank_share(np.arange(len(self.val_set)), self.group.rank, self.group.size)
        failed, errors, examples = 0, ErrorCounts(), []
        try:
            evaluation = evaluate(self.model, self.val_set, self.config, rows)
            errors = evaluation.errors
            failed = len(evaluation.missing)  # errors of a part compare with nothing
            if failed:
                message = "%d utterances of the val set cannot be read: the evaluation is not used"
                logger.error(message, failed)
            examples = [(u.reference, u.hypothesis) for u in evaluation.utterances[:EXAMPLES]]
        except Interrupted:
            raise
        except Exception as error:  # the training is worth more than its evaluations
            failed = 1
            known = isinstance(error, (RuntimeError, OSError, MemoryError))
            message = "the evaluation failed: %s; the run goes on"
            logger.error(message, first_line(error), exc_info=not known)
        *counts, failed = self.group.sum([*astuple(errors), failed])
        return (None, []) if failed else (ErrorCounts(*map(int, counts)), examples)

    def _average(self) -> None:
        """Evaluate and save the mean of the checkpoints of the last epochs."""
        paths = self.folder.numbered()[-self.config.CheckpointConfig.average_last :]
        if not paths:
            return
        if self.group.is_first:
            own = self.network.get_parameters()
            load_parameters(own, average_checkpoints(paths), paths[-1])
        self.group.broadcast(self.network.get_parameters())
        errors, _ = self._evaluate()
        if self.group.is_first:
            info = self.config.model_info(self.labels)
            arrays = arrays_of(self.network.get_parameters())
            save_checkpoint(self.folder.average, arrays, info)
            rates = ""
            if errors:
                rates = f": val WER {errors.wer_percent:.2f}  val CER {errors.cer_percent:.2f}"
            message = "saved %s, the mean of %d checkpoints%s"
            logger.info(message, self.folder.average, len(paths), rates)

    def _save(self, best: bool = False, numbered: bool = False) -> None:
        """Save a checkpoint; inside an epoch, first average the statistics over the processes."""
        if self.progress.batch:
            self.group.average(self.buffers)
        progress = asdict(self.progress) | self.monitor.progress() | {"order": self.data.order()}
        if self.group.is_first:
            arrays = arrays_of(self.step_cell.stored_parameters())
            info = self.config.model_info(self.labels)
            path = self.folder.save(arrays, info, progress, best, numbered)
            level = logging.INFO if numbered else logging.DEBUG
            logger.log(level, "saved %s%s", path, " (best so far)" if best else "")
        self.unsaved, self.saved_at = False, time.monotonic()

    def _check_order(self, checkpoint: Checkpoint) -> None:
        """Refuse to resume inside an epoch when the order of its utterances has changed."""
        before, now = checkpoint.progress["order"], self.data.order()
        changed = [f"{k} was {before[k]}, is {now[k]}" for k in now if before[k] != now[k]]
        if not changed:
            return
        if not self.progress.batch:
            logger.warning("%s: another training set: %s", checkpoint.path, ", ".join(changed))
            return
        whole = [path for path in self.folder.numbered() if path != checkpoint.path]
        raise InputError(
            f"{checkpoint.path}: stopped inside an epoch, whose data would change: "
            f"{', '.join(changed)}. Finish the epoch with the former manifest and seed"
            + (f", or go on from a whole epoch: --resume {whole[-1]}" if whole else "")
        )


def _announce(_number: int) -> None:
    logger.warning("stopping as soon as everything is saved; once more to stop at once")


@contextmanager
def _locked(group: Group, folders: set[Path], run_id: str) -> Iterator[None]:
    """Lock the folders of a run, in its first process."""
    with ExitStack() as stack:
        group.in_first(lambda: [stack.enter_context(locked(p, run_id)) for p in sorted(folders)])
        yield
