"""A training run: epochs, evaluations, checkpoints, resume and stop."""

import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor

from deepspeech2.errors import InputError, RunError
from deepspeech2.files import ensure_writable
from deepspeech2.labels import Labels
from deepspeech2.metrics import ErrorCounts
from src.batching import rank_share
from src.callback import TrainingMonitor
from src.checkpoint import (
    Checkpoint,
    CheckpointFolder,
    average_checkpoints,
    load_checkpoint,
    load_parameters,
    save_checkpoint,
)
from src.config import Config
from src.dataset import Batch, training_batches
from src.DeepSpeech import DeepSpeech, LossCell, dynamic_loss_inputs
from src.distributed import Group
from src.evaluation import evaluate
from src.lr_generator import scheduled_learning_rate
from src.manifest import Manifest, read_manifest
from src.optimizer import TrainStep, create_optimizer
from src.stored_models import network_model
from src.training_data import TrainingData
from src.word_cuts import find_word_cuts, read_word_cuts, write_word_cuts

logger = logging.getLogger(__name__)

EXAMPLES = 5  # transcripts of the val set to log
STOP_SIGNALS = signal.SIGINT, signal.SIGTERM


class Interrupted(RunError):
    """A signal stopped the run, after its state was saved.

    Attributes:
        signal_number: SIGINT or SIGTERM.
    """

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


@dataclass
class Progress:
    """The progress of a run, equal in all processes.

    Attributes:
        epoch: whole epochs done.
        batch: global batches done in the unfinished epoch.
        batch_size: utterances per process and batch in the unfinished epoch.
        ranks: number of processes that the batches of the unfinished epoch are planned for; it
            stays the same until the epoch ends, also after a resume with other processes.
        step: optimizer steps done.
        best: (WER, CER) in percent of the best evaluation.
        evals_since_best: evaluations after the best one.
    """

    epoch: int = 0
    batch: int = 0
    batch_size: int = 0
    ranks: int = 1
    step: int = 0
    best: tuple[float, float] = (float("inf"), float("inf"))
    evals_since_best: int = 0


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
        Interrupted: when SIGINT or SIGTERM stopped the run. Saved checkpoints stay usable.
    """
    group = group or Group()
    folder = CheckpointFolder(config.CheckpointConfig)
    for path in (folder.folder, Path(config.TrainingConfig.log_dir)):
        ensure_writable(path)
    if group.size > 1:
        _ensure_shared(folder.folder, group)
    if not resume and folder.last.exists():
        raise InputError(
            f"{folder.last}: an earlier run is kept there; go on with --resume auto, or choose "
            "another CheckpointConfig.ckpt_path"
        )
    checkpoint = _checkpoint_to_resume(resume, folder)
    if checkpoint and pretrained:
        logger.info("%s is resumed; --pre_trained_model_path is not used", checkpoint.path)
    start = checkpoint or (load_checkpoint(pretrained) if pretrained else None)
    if start:
        config, labels = start.settle(config, new_labels=not checkpoint)
    else:
        labels = Labels.load(config.DataConfig.labels_path)
    run = _Run(config, labels, folder, group)
    if checkpoint:
        run.restore(checkpoint)
    elif start:
        parameters = start.with_labels(labels, run.network.fc.weight)
        load_parameters(run.network.get_parameters(), parameters, start.path, strict=False)
    group.broadcast(run.step_cell.stored_parameters())
    return run.run()


class _Run:
    """The parts and stages of one run; see `train`."""

    def __init__(self, config: Config, labels: Labels, folder: CheckpointFolder, group: Group):
        self.config, self.labels = config, labels
        self.folder, self.group = folder, group
        self.progress = Progress()
        self.train_set, self.val_set = self._read_manifests()
        self.data = TrainingData(self.train_set, labels, config)
        training = config.TrainingConfig
        ms.set_seed(training.seed)
        num_bins = config.DataConfig.SpectConfig.num_bins
        self.network = DeepSpeech(config.ModelConfig, num_bins, len(labels), training.dropout)
        self.buffers = [p for p in self.network.get_parameters() if not p.requires_grad]
        self.step_cell = TrainStep(
            LossCell(self.network, labels.blank_index, training.intermediate_ctc_weight),
            create_optimizer(self.network.trainable_params(), config.OptimConfig),
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
        self.model = network_model(self.network, config, labels)
        log_dir = Path(training.log_dir)
        self.monitor = TrainingMonitor(log_dir, training.epochs, writes=group.is_first)
        size = sum(p.size for p in self.network.trainable_params())
        logger.info("network: %.1f M parameters", size / 1e6)

    def _read_manifests(self) -> tuple[Manifest, Manifest | None]:
        """The training and the val set. The first process reads first and writes the indexes."""
        data = self.config.DataConfig
        if not self.group.is_first:
            self.group.wait()
        train_set = read_manifest(data.train_manifest, self.labels)
        val_set = read_manifest(data.val_manifest, self.labels) if data.val_manifest else None
        if self.group.is_first:
            self.group.wait()
        return train_set, val_set

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore weights, optimizer state, progress and history of an earlier run."""
        if not checkpoint.progress:
            raise InputError(
                f"{checkpoint.path}: holds weights only, nothing to resume: "
                "use it with --pre_trained_model_path"
            )
        own = self.step_cell.stored_parameters()
        load_parameters(own, checkpoint.parameters, checkpoint.path)
        known = {f.name for f in fields(Progress)}
        saved = {name: value for name, value in checkpoint.progress.items() if name in known}
        try:
            self.progress = Progress(**saved)
            self.monitor.restore(checkpoint.progress)
        except (TypeError, KeyError):
            raise InputError(
                f"{checkpoint.path}: written by an earlier version, whose runs cannot be resumed: "
                "begin with its weights by --pre_trained_model_path"
            ) from None
        self.progress.best = tuple(self.progress.best)
        self._check_order(checkpoint)
        if self._shuffles_words():
            self._shuffle_words()
        epoch, step = self.progress.epoch + 1, self.progress.step
        logger.info("resuming %s: epoch %d, step %d", checkpoint.path, epoch, step)

    def run(self) -> TrainingMonitor:
        """Train until the end of the run."""
        progress = self.progress
        if self._finished():
            done = progress.epoch, progress.step
            logger.info("nothing left to do: %d epochs and %d steps are trained", *done)
        self.monitor.begin(progress.step)
        with stop_requests() as stop_requested:
            try:
                while not self._finished():
                    self._train_epoch(stop_requested)
            finally:
                self.monitor.close()
        if self.config.CheckpointConfig.average_last:
            self._average()
        return self.monitor

    def _train_epoch(self, stop_requested: Callable[[], int]) -> None:
        """Train the rest of the present epoch.

        Raises:
            Interrupted: when a signal was received, after the state was saved.
        """
        config, progress = self.config, self.progress
        if not progress.batch:
            progress.batch_size, progress.ranks = config.DataConfig.batch_size, self.group.size
        batches = self.data.batches(progress.epoch, progress.batch_size, progress.ranks)
        shares = [rank_share(batch, self.group.rank, self.group.size) for batch in batches]
        source = self.data.source(progress.epoch, shares[progress.batch :])
        self.monitor.begin_epoch(progress.epoch, len(batches), progress.batch)
        self.step_cell.set_train(True)
        for batch in training_batches(source, config.DataConfig.num_workers):
            done = progress.epoch + progress.batch / len(batches)
            rate = scheduled_learning_rate(done, config.TrainingConfig.epochs, config.OptimConfig)
            self._step(batch, len(batches[progress.batch]), rate)
            if signal_number := self._requested_stop(stop_requested()):
                self._save(best=False)
                raise Interrupted(
                    f"stopped at step {progress.step}; {self.folder.last} holds everything up to "
                    "it: go on with --resume auto",
                    signal_number,
                )
            if self._reached_max_steps() and progress.batch < len(batches):
                self._save(best=False)
                return
        self._finish_epoch()

    def _step(self, batch: Batch, planned: int, rate: float) -> None:
        """Train one step.

        Args:
            batch: this process's share of the global batch.
            planned: utterances of the global batch, readable or not.
            rate: learning rate.
        """
        progress = self.progress
        seeds = None
        if self.config.TrainingConfig.dropout:
            seeds = Tensor(self.data.dropout_seeds(progress.epoch, batch.rows))
        outputs = self.step_cell(
            Tensor(batch.inputs),
            Tensor(batch.input_length),
            Tensor(batch.targets),
            Tensor(batch.target_length),
            Tensor(planned, ms.float32),
            Tensor(rate, ms.float32),
            seeds,
        )
        loss, norm, updated = (output.asnumpy().item() for output in outputs)
        progress.batch += 1
        progress.step += 1
        if not updated:
            message = "step %d: loss %s, gradient norm %s: skipped"
            logger.warning(message, progress.step, loss, norm)
        audio_seconds = self.train_set.seconds[batch.rows].sum()
        counts = [len(batch.rows), len(batch.missing), audio_seconds]
        utterances, missing, audio_seconds = self.group.sum(counts)
        sums = self.monitor.sums
        sums.missing += int(missing)
        # the step divides the loss by the planned utterances, whatever could be read
        sums.add(loss * planned, norm, updated, int(utterances), audio_seconds)
        self.monitor.end_step(progress.step, loss, norm, updated, rate)

    def _requested_stop(self, own: int) -> int:
        """The signal that any process received, 0 for none; all then stop after the same step."""
        counts = self.group.sum([own == number for number in STOP_SIGNALS])
        return next((number for number, n in zip(STOP_SIGNALS, counts, strict=True) if n), 0)

    def _finish_epoch(self) -> None:
        """End an epoch: align words, evaluate, log, and save, each if due."""
        config, progress = self.config.TrainingConfig, self.progress
        if not self.monitor.sums.updates:
            raise RunError(
                f"epoch {progress.epoch + 1}: no step had a finite loss and gradient; try a lower "
                "OptimConfig.learning_rate"
            )
        progress.epoch, progress.batch = progress.epoch + 1, 0
        final = progress.epoch == config.epochs
        self.group.average(self.buffers)
        start = self.config.DataConfig.AugmentationConfig.shuffle_start_epoch
        if self._shuffles_words() and progress.epoch == start:
            began = time.perf_counter()
            self._shuffle_words(anew=True)
            self.monitor.sums.seconds += time.perf_counter() - began
        evaluated = final or progress.epoch % config.eval_interval == 0
        errors, examples = self._evaluate() if evaluated else (None, [])
        self.monitor.end_epoch(progress.step, errors, examples)
        best = False
        if errors is not None:
            rates = errors.wer_percent, errors.cer_percent
            best = rates < progress.best
            progress.best = min(rates, progress.best)
            progress.evals_since_best = 0 if best else progress.evals_since_best + 1
        if best or self._finished() or progress.epoch % config.save_interval == 0:
            self._save(best)
        if self._out_of_patience() and not final:
            message = "stopping early: no better val figures in the last %d evaluations"
            logger.info(message, progress.evals_since_best)

    def _shuffles_words(self) -> bool:
        """Whether the words of utterances are shuffled in the present epoch."""
        config = self.config.DataConfig.AugmentationConfig
        return config.shuffle_words > 0 and self.progress.epoch >= config.shuffle_start_epoch

    def _shuffle_words(self, anew: bool = False) -> None:
        """Shuffle the words of utterances from now on.

        Args:
            anew: whether to find the cuts between words again, even if the run's file has them.
        """
        path = self.folder.word_cuts
        if self.group.is_first and (anew or not path.exists()):
            cuts = find_word_cuts(self.model, self.train_set, self.config)
            write_word_cuts(path, self.train_set, cuts)
            logger.info("words are shuffled from now on, by the cuts in %s", path)
        self.group.wait()
        self.data.shuffle_words(read_word_cuts(path, self.train_set))

    def _evaluate(self) -> tuple[ErrorCounts | None, list[tuple[str, str]]]:
        """Evaluate on the val set; each process decodes its share.

        Returns:
            The errors over all processes, None without a val set, and some pairs of reference and
            hypothesis from this process.
        """
        if not self.val_set:
            return None, []
        rows = rank_share(np.arange(len(self.val_set)), self.group.rank, self.group.size)
        evaluation = evaluate(self.model, self.val_set, self.config, rows)
        examples = [(u.reference, u.hypothesis) for u in evaluation.utterances[:EXAMPLES]]
        return ErrorCounts(*map(int, self.group.sum(astuple(evaluation.errors)))), examples

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
            save_checkpoint(self.folder.average, self.network.get_parameters(), info)
            rates = ""
            if errors:
                rates = f": val WER {errors.wer_percent:.2f}  val CER {errors.cer_percent:.2f}"
            message = "saved %s, the mean of %d checkpoints%s"
            logger.info(message, self.folder.average, len(paths), rates)

    def _save(self, best: bool) -> None:
        """Save a checkpoint; inside an epoch, first average the statistics over the processes."""
        if self.progress.batch:
            self.group.average(self.buffers)
        progress = asdict(self.progress) | self.monitor.progress() | {"order": self.data.order()}
        if self.group.is_first:
            parameters = self.step_cell.stored_parameters()
            info = self.config.model_info(self.labels)
            path = self.folder.save(parameters, info, progress, best)
            logger.info("saved %s%s", path, " (best so far)" if best else "")

    def _finished(self) -> bool:
        done = self.progress.epoch >= self.config.TrainingConfig.epochs
        return done or self._reached_max_steps() or self._out_of_patience()

    def _out_of_patience(self) -> bool:
        return 0 < self.config.TrainingConfig.patience <= self.progress.evals_since_best

    def _reached_max_steps(self) -> bool:
        limit = self.config.TrainingConfig.max_steps
        return 0 < limit <= self.progress.step

    def _check_order(self, checkpoint: Checkpoint) -> None:
        """Refuse to resume inside an epoch when the order of its utterances has changed."""
        before, now = checkpoint.progress["order"], self.data.order()
        if self.progress.batch and before != now:
            changed = [f"{k} was {before[k]}, is {now[k]}" for k in now if before[k] != now[k]]
            raise InputError(
                f"{checkpoint.path}: stopped inside an epoch, whose data would change: "
                + ", ".join(changed)
            )


@contextmanager
def stop_requests() -> Iterator[Callable[[], int]]:
    """Yield a function that returns the number of a received SIGINT or SIGTERM, or 0.

    The second signal of the same kind ends the program at once. Ctrl-C can arrive as either signal:
    while MindSpore compiles or loads data, its own handler turns SIGINT into SIGTERM.
    """
    received = [0]

    def note(number: int, _frame) -> None:
        received[0] = number
        signal.signal(number, previous[number])
        logger.warning("stopping after this step; once more to stop at once")

    previous = {number: signal.signal(number, note) for number in STOP_SIGNALS}
    try:
        yield lambda: received[0]
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _ensure_shared(folder: Path, group: Group) -> None:
    """Make sure that all processes see the files that the first process writes to `folder`.

    Raises:
        InputError: in every process, when any process does not see them.
    """
    own = np.random.default_rng().integers(2**24) if group.is_first else 0
    (token,) = group.sum([own])
    marker = folder / f".shared-{token:.0f}"
    if group.is_first:
        marker.touch()
    group.wait()
    unseen = int(not marker.exists())
    hidden = group.sum([unseen])[0]
    if group.is_first:
        marker.unlink()
    if hidden:
        raise InputError(
            f"CheckpointConfig.ckpt_path (={str(folder)!r}): {hidden:.0f} of {group.size} "
            "processes do not see the first one's files there: hosts must share this folder (NFS, "
            "for example)"
        )


def _checkpoint_to_resume(resume: str, folder: CheckpointFolder) -> Checkpoint | None:
    """The checkpoint that `train`'s argument `resume` names; None to begin a new run."""
    if resume == "auto":
        if not folder.last.exists():
            logger.info("%s does not exist yet: starting anew", folder.last)
            return None
        resume = str(folder.last)
    return load_checkpoint(resume) if resume else None
