"""Checkpoint files: write them, read and check them, average them, keep the last and the best."""

import json
import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter

from deepspeech2.errors import InputError, RunError, first_line
from deepspeech2.files import atomic_path, renamed_onto
from deepspeech2.labels import Labels
from deepspeech2.model_info import ModelInfo
from src.config import CheckpointConfig, Config
from src.optimizer import STATE_PREFIX

logger = logging.getLogger(__name__)

# names of the two strings that a checkpoint contains beside the arrays
_INFO, _PROGRESS = "deepspeech2_info", "deepspeech2_progress"
PROJECTION = "fc.weight"  # the only parameter with a row for each label


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        path: the file that it was read from.
        parameters: arrays of the network and the optimizer by name.
        info: settings and labels; None if another program wrote the file.
        progress: state of the training run; empty if another program wrote the file.
    """

    path: Path
    parameters: dict[str, Parameter]
    info: ModelInfo | None
    progress: dict[str, Any]

    def network_parameters(self) -> dict[str, Parameter]:
        """The parameters without the optimizer's state."""
        return {name: p for name, p in self.parameters.items() if not name.startswith(STATE_PREFIX)}

    def settle(self, config: Config, new_labels: bool = False) -> tuple[Config, Labels]:
        """`config` with the model settings of the checkpoint, and the labels.

        A checkpoint without settings leaves `config` unchanged; the labels then come from
        `labels_path`.

        Args:
            new_labels: whether labels that somebody asked for replace those of the checkpoint.

        Raises:
            InputError: as `Config.with_model`.
        """
        if not self.info:
            return config, Labels.load(config.DataConfig.labels_path)
        asked = config.explicit_labels() if new_labels else None
        config = config.with_model(self.info, str(self.path), new_labels)
        return config, asked or self.info.labels

    def with_labels(self, labels: Labels, initial: Parameter) -> dict[str, Parameter]:
        """The network's parameters for other labels than those of the checkpoint.

        The rows of the projection of labels that both have are kept; the others begin with
        `initial`, the (C, H) projection of a new network.
        """
        parameters = self.network_parameters()
        if not self.info or self.info.labels == labels or PROJECTION not in parameters:
            return parameters
        stored, weight = parameters[PROJECTION].asnumpy(), initial.asnumpy().copy()
        known = self.info.labels.characters
        for row, character in enumerate(labels.characters):
            if character in known:
                weight[row] = stored[known.index(character)]
        new = [c for c in labels.characters if c not in known]
        logger.info(
            "%s: %d of %d labels are taken over, %d begin anew: %s",
            self.path,
            len(labels) - len(new),
            len(labels),
            len(new),
            " ".join(map(repr, new)) or "none",
        )
        return parameters | {PROJECTION: Parameter(weight, PROJECTION)}


def save_checkpoint(
    path: str | Path,
    parameters: Iterable[Parameter],
    info: ModelInfo,
    progress: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint.

    Args:
        path: the file, which ends in `.ckpt`.
        parameters: arrays to store by name.
        info: settings and labels of the model.
        progress: JSON-serialisable state of the training run.

    Raises:
        RunError: naming the file, when it could not be written; an existing file is then unchanged.
    """
    arrays = [{"name": p.name, "data": p} for p in parameters]
    strings = {_INFO: info.to_json(), _PROGRESS: json.dumps(progress or {})}
    try:
        with atomic_path(path) as temporary:
            ms.save_checkpoint(arrays, str(temporary), append_dict=strings, crc_check=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise RunError(
            f"{path}: the checkpoint could not be written: {first_line(error)}"
        ) from None


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        InputError: naming the file, when it is missing, empty or corrupt.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    if path.suffix != ".ckpt":
        raise InputError(f"{path}: a MindSpore checkpoint ends in .ckpt")
    try:
        content = ms.load_checkpoint(str(path), crc_check=True)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{path}: not a whole MindSpore checkpoint: {first_line(error)}"
        ) from None
    info, progress = content.pop(_INFO, None), content.pop(_PROGRESS, None)
    return Checkpoint(
        path,
        {name: value for name, value in content.items() if isinstance(value, Parameter)},
        ModelInfo.from_json(str(info), str(path)) if info else None,
        json.loads(str(progress)) if progress else {},
    )


def load_parameters(
    own: Iterable[Parameter], parameters: dict[str, Parameter], source: Path, strict: bool = True
) -> None:
    """Copy parameters into the parameters of the same names.

    Args:
        own: parameters to copy into.
        parameters: values by name.
        source: the file of the values, for messages.
        strict: whether the names must be the same; otherwise a warning lists the differences.

    Raises:
        InputError: naming `source`, when no name matches, when shapes differ, and (strict) when
            names are missing or unknown.
    """
    own = {p.name: p for p in own}
    differing = [
        f"{name} has shape {tuple(parameters[name].shape)}, "
        f"the network needs {tuple(own[name].shape)}"
        for name in own.keys() & parameters.keys()
        if own[name].shape != parameters[name].shape
    ]
    missing = sorted(own.keys() - parameters.keys())
    unexpected = sorted(parameters.keys() - own.keys())
    problems = []
    if not own.keys() & parameters.keys():
        raise InputError(
            f"{source}: not a checkpoint of this network: no parameter has a name that the network "
            "knows"
        )
    if missing:
        problems.append(f"not in the checkpoint: {', '.join(missing)}")
    if unexpected:
        problems.append(f"not in the network: {', '.join(unexpected)}")
    if differing or (strict and problems):
        raise InputError(
            f"{source}: does not fit the network: " + "; ".join(sorted(differing)[:8] + problems)
        )
    for problem in problems:
        logger.warning("%s: %s", source, problem)
    for name in own.keys() & parameters.keys():
        own[name].set_data(parameters[name].value())


def average_checkpoints(paths: Sequence[str | Path]) -> dict[str, Parameter]:
    """The mean of the network's parameters over several checkpoints, without optimizer state.

    Raises:
        InputError: naming a file that cannot be read, or whose parameters differ from those of the
            first file in name or shape.
    """
    sums: dict[str, np.ndarray] = {}
    for path in paths:
        parameters = load_checkpoint(path).network_parameters()
        arrays = {name: p.asnumpy() for name, p in parameters.items()}
        if sums and _shapes(arrays) != _shapes(sums):
            raise InputError(
                f"{path}: holds another network than {paths[0]}: they cannot be averaged"
            )
        sums = {
            name: array.astype(np.float64) + sums.get(name, 0) for name, array in arrays.items()
        }
    return {
        name: Parameter((array / len(paths)).astype(np.float32), name)
        for name, array in sums.items()
    }


def _shapes(arrays: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}


class CheckpointFolder:
    """The checkpoints of one run.

    Whole epochs are saved as `PREFIX-EPOCH_STEP.ckpt`. `PREFIX-last.ckpt` and `PREFIX-best.ckpt`
    are hard links to these files: a link takes no space, and outlives the numbered file. A
    mid-epoch state overwrites `last` only: it is never averaged, and never evicts an epoch.

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

    def save(
        self, parameters: Iterable[Parameter], info: ModelInfo, progress: dict[str, Any], best: bool
    ) -> Path:
        """Save the state of a run.

        Args:
            parameters: arrays of the network and the optimizer.
            info: settings and labels of the model.
            progress: with the keys `epoch` (whole epochs), `batch` (batches of the epoch after
                these) and `step` (steps of the whole run).
            best: whether the evaluation of this state is the best so far.

        Returns:
            The path of the checkpoint.

        Raises:
            RunError: when the checkpoint could not be written.
        """
        if progress["batch"]:
            save_checkpoint(self.last, parameters, info, progress)
            return self.last
        path = self.folder / f"{self.prefix}-{progress['epoch']}_{progress['step']}.ckpt"
        save_checkpoint(path, parameters, info, progress)
        for name in [self.last, self.best] if best else [self.last]:
            self._link(path, name)
        for old in self.numbered()[: -self.keep]:
            old.unlink(missing_ok=True)
        return path

    def numbered(self) -> list[Path]:
        """The checkpoints of whole epochs, oldest first."""
        pattern = re.compile(re.escape(self.prefix) + r"-(\d+)_(\d+)\.ckpt")
        found = [
            (tuple(map(int, match.groups())), path)
            for path in self.folder.glob("*.ckpt")
            if (match := pattern.fullmatch(path.name))
        ]
        return [path for _, path in sorted(found)]

    @staticmethod
    def _link(path: Path, name: Path) -> None:
        """Make `name` a hard link to `path`."""
        try:
            with renamed_onto(name) as temporary:
                temporary.unlink(missing_ok=True)  # of a killed process with the same number
                os.link(path, temporary)
        except OSError as error:
            raise RunError(
                f"{name}: the checkpoint could not be written: {error.strerror}"
            ) from None
