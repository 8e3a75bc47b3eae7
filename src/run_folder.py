"""The files of one run: who may write them, which states there are, and which is the newest."""

import csv
import fcntl
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from deepspeech2.errors import InputError, RunError
from deepspeech2.files import atomic_path, parse_json, renamed_onto
from deepspeech2.model_info import ModelInfo
from src.checkpoint import Checkpoint, load_checkpoint, read_progress, save_checkpoint
from src.config import CheckpointConfig

logger = logging.getLogger(__name__)

# [run id, step that the run began at] of the runs that led to a state, the state's own run last
Lineage = list[list]


class RunFolder:
    """The checkpoints of one run.

    Whole epochs are saved as `PREFIX-EPOCH_STEP.ckpt`. `PREFIX-last.ckpt` is the newest state, also
    inside an epoch; `PREFIX-best.ckpt` is the state with the best evaluation. Where the file system
    has hard links, the two take no space beside the numbered files.

    Args:
        config: folder, prefix, and number of numbered files to keep.

    Attributes:
        last: path of the newest state.
        best: path of the state with the best evaluation.
        average: path of the mean of the last epochs.
        word_cuts: path of the cuts between words that the network found.
    """

    def __init__(self, config: CheckpointConfig):
        self.folder, self.prefix = Path(config.ckpt_path), config.ckpt_file_name_prefix
        self.keep = config.keep_checkpoint_max
        self.last = self.folder / f"{self.prefix}-last.ckpt"
        self.best = self.folder / f"{self.prefix}-best.ckpt"
        self.average = self.folder / f"{self.prefix}-average.ckpt"
        self.word_cuts = self.folder / f"{self.prefix}-word-cuts.csv"

    def numbered(self) -> list[Path]:
        """The checkpoints of whole epochs, oldest first."""
        pattern = re.compile(re.escape(self.prefix) + r"-(\d+)_(\d+)\.ckpt")
        found = [
            (tuple(map(int, match.groups())), path)
            for path in self.folder.glob("*.ckpt")
            if (match := pattern.fullmatch(path.name))
        ]
        return [path for _, path in sorted(found)]

    def files(self) -> list[Path]:
        """All files of a run that are there."""
        single = [self.last, self.best, self.average, self.word_cuts]
        return [*self.numbered(), *(path for path in single if path.exists())]

    def ensure_empty(self) -> None:
        """Raises InputError when the folder holds files of a run."""
        if files := self.files():
            raise InputError(
                f"{files[0]}: an earlier run is kept there; go on with --resume auto, or choose "
                "another CheckpointConfig.ckpt_path and TrainingConfig.log_dir"
            )

    def to_resume(self, resume: str) -> Checkpoint | None:
        """The checkpoint that a run goes on from.

        Args:
            resume: its path; `auto` for the newest of this folder; '' to begin a new run.

        Returns:
            None where a new run begins.

        Raises:
            InputError: when it cannot be used, or when a new run would mix with an earlier one.
        """
        if not resume:
            self.ensure_empty()
            return None
        if resume != "auto":
            return load_checkpoint(resume)
        newest = self.newest()
        if not newest:
            logger.info("%s holds no run yet: starting anew", self.folder)
        return newest

    def newest(self) -> Checkpoint | None:
        """The newest state that is whole; None where there is no file of a run.

        Raises:
            InputError: when no state is whole, or when the folder holds states of two runs.
        """
        states, damaged = self._states()
        if len({progress["lineage"][0][0] for progress, _ in states}) > 1:
            names = ", ".join(path.name for _, path in states)
            raise InputError(
                f"{self.folder}: holds states of different runs ({names}): name one with --resume "
                "PATH and another CheckpointConfig.ckpt_path"
            )
        for progress, path in sorted(states, key=lambda state: _age(state[0]), reverse=True):
            try:
                checkpoint = load_checkpoint(path)
            except InputError as error:
                damaged.append(error)
                continue
            for error in damaged:
                logger.warning("%s", error)
            if damaged:
                message = "going on from %s instead: epoch %d, step %d"
                logger.warning(message, path, progress["epoch"] + 1, progress["step"])
            return checkpoint
        if files := self.files():
            reasons = "; ".join(map(str, damaged)) or f"{files[0]} holds weights or cuts only"
            raise InputError(
                f"{self.folder}: no state of a run there can be resumed: {reasons}. Begin anew in "
                "another CheckpointConfig.ckpt_path and TrainingConfig.log_dir"
            )
        return None

    def adopt(self, checkpoint: Checkpoint, new_id: str) -> Lineage:
        """Prepare the folder for going on from a state, and return the lineage from now on.

        States of the same run that are newer than `checkpoint` are moved to a folder
        `PREFIX-abandoned-ID`, and the run gets `new_id`.

        Raises:
            InputError: when the folder holds another run.
        """
        lineage, step = checkpoint.progress["lineage"], checkpoint.progress["step"]
        states, _ = self._states()
        for progress, path in states:
            if progress["lineage"][0][0] != lineage[0][0]:
                raise InputError(
                    f"{path}: belongs to another run than {checkpoint.path}: choose another "
                    "CheckpointConfig.ckpt_path, or begin with its weights by "
                    "--pre_trained_model_path"
                )
        newer = [path for progress, path in states if not _leads_to(progress, lineage, step)]
        if not newer:
            return lineage
        target = self.folder / f"{self.prefix}-abandoned-{new_id}"
        target.mkdir()
        for path in [*newer, *(path for path in [self.average] if path.exists())]:
            os.replace(path, target / path.name)
        message = "going on from %s: %d newer states of this run are in %s now"
        logger.warning(message, checkpoint.path, len(newer), target)
        return [*lineage, [new_id, step]]

    def save(
        self,
        arrays: Mapping[str, np.ndarray],
        info: ModelInfo,
        progress: dict[str, Any],
        best: bool = False,
        numbered: bool = False,
    ) -> Path:
        """Save the state of a run as the last one.

        Args:
            arrays: of the network and the optimizer, by name.
            info: settings and labels of the model.
            progress: with the keys `epoch` and `step`.
            best: whether the evaluation of this state is the best so far; needs `numbered`.
            numbered: whether to keep a file of the epoch too.

        Returns:
            The path of the checkpoint.

        Raises:
            RunError: when the checkpoint could not be written.
        """
        if not numbered:
            save_checkpoint(self.last, arrays, info, progress)
            return self.last
        path = self.folder / f"{self.prefix}-{progress['epoch']}_{progress['step']}.ckpt"
        save_checkpoint(path, arrays, info, progress)
        for name in [self.last, self.best] if best else [self.last]:
            _link(path, name)
        for old in self.numbered()[: -self.keep]:
            old.unlink(missing_ok=True)
        return path

    def ensure_best(self, best: tuple[float, float]) -> bool:
        """Whether `best` is the state with these figures.

        A numbered file takes its place where it is not: a run may end after it saved a state, and
        before the state is the best one.

        Args:
            best: WER and CER in percent of the best evaluation.

        Raises:
            RunError: when the checkpoint could not be written.
        """
        for path in [self.best, *reversed(self.numbered())]:
            try:
                progress = read_progress(path)
            except InputError:  # of a path that is not there too
                continue
            *_, own = progress.get("history") or [{}]  # of its epoch, which may have no evaluation
            if (own.get("val_wer"), own.get("val_cer")) == best:
                if path != self.best:
                    _link(path, self.best)
                    logger.warning("%s: is %s now, the best evaluation", self.best, path.name)
                return True
        return False

    def _states(self) -> tuple[list[tuple[dict[str, Any], Path]], list[InputError]]:
        """(progress, path) of each state that can be resumed, and the files that are damaged."""
        states, damaged = [], []
        for path in [*self.numbered(), self.last, self.best]:
            try:
                progress = read_progress(path) if path.exists() else {}
            except InputError as error:
                damaged.append(error)
                continue
            if progress.get("lineage"):  # not of an earlier version
                states.append((progress, path))
        return states, damaged


def _age(progress: dict[str, Any]) -> tuple[int, bool]:
    """Sorts the states of one run: a state with its evaluation comes after the one without."""
    return progress["step"], progress["epoch_ended"]


def _leads_to(progress: dict[str, Any], lineage: Lineage, step: int) -> bool:
    """Whether a run went through the state `progress` on its way to (`lineage`, `step`)."""
    own = progress["lineage"]
    following = lineage[len(own) :]
    return lineage[: len(own)] == own and progress["step"] <= (
        following[0][1] if following else step
    )


def _link(path: Path, name: Path) -> None:
    """Make `name` a hard link to `path`, or a copy where the file system has no links."""
    try:
        with renamed_onto(name) as temporary:
            temporary.unlink(missing_ok=True)  # of a killed process with the same number
            os.link(path, temporary)
        return
    except OSError:
        logger.debug("%s: no hard link: copied", name)
    try:
        with atomic_path(name) as temporary:
            shutil.copyfile(path, temporary)
    except OSError as error:
        raise RunError(f"{name}: the checkpoint could not be written: {error.strerror}") from None


def ensure_own_metrics(path: Path, progress: Mapping[str, Any]) -> None:
    """Raise InputError when a `metrics.csv` belongs to another run.

    Args:
        path: of the file, which need not be there; one that cannot be read belongs to nobody.
        progress: of the state that the run goes on from; empty for a new run.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            found = {row.get("run") for row in csv.DictReader(file)} - {None, ""}
    except (OSError, ValueError, csv.Error):
        return
    own = {run for run, _ in progress.get("lineage", [])}
    own |= {metrics.get("run") for metrics in progress.get("history", [])}
    if found and not found & own:
        runs = ", ".join(sorted(found))
        raise InputError(f"{path}: of another run ({runs}): choose another TrainingConfig.log_dir")


def can_link(folder: Path) -> bool:
    """Whether the file system of `folder` has hard links."""
    first, second = folder / f".link-{os.getpid()}", folder / f".linked-{os.getpid()}"
    try:
        first.touch()
        os.link(first, second)
        return True
    except OSError:
        return False
    finally:
        first.unlink(missing_ok=True)
        second.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, run_id: str) -> Iterator[None]:
    """Let no other run write into `folder` meanwhile, and remove what a killed run left half-done.

    Raises:
        InputError: when another run is writing there.
    """
    with open(folder / ".run.lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{folder}: another run is writing there{_described(file)}: wait for its end, or "
                "choose another folder (CheckpointConfig.ckpt_path, TrainingConfig.log_dir)"
            ) from None
        except OSError as error:
            message = "%s: cannot be locked (%s): take care that no other run writes there"
            logger.warning(message, folder, error.strerror)
        if before := _described(file):
            message = "%s: the run before%s did not end by itself: was it out of memory, or killed?"
            logger.warning(message, folder, before)
        _remove_leftovers(folder)
        file.truncate(0)
        json.dump({"pid": os.getpid(), "run": run_id, "since": _now()}, file)
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _now() -> str:
    return datetime.now().isoformat(" ", "seconds")


def _described(file) -> str:
    """` (process N since TIME)` from the content of a lock file; '' for an empty one."""
    file.seek(0)
    try:
        content = parse_json(file.read())
        return f" (process {content['pid']}, since {content['since']})"
    except (ValueError, KeyError, TypeError):
        return ""


def _remove_leftovers(folder: Path) -> None:
    """Remove temporary files that `deepspeech2.files` made for a run that was killed."""
    for path in folder.glob(".*.*"):
        if re.fullmatch(r"\..+\.(ckpt|csv)\.\w+", path.name) and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif re.fullmatch(r"\..+\.(ckpt|csv)\.\d+\.tmp", path.name):
            path.unlink(missing_ok=True)
