"""Checkpoint files.

Written whole or not at all, checked when read, matched with the network by name and shape.
"""

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

from deepspeech2.errors import InputError, RunError
from deepspeech2.files import atomic_path
from deepspeech2.labels import Labels
from deepspeech2.model_info import ModelInfo
from src.config import CheckpointConfig, Config
from src.optimizer import STATE_PREFIX

logger = logging.getLogger(__name__)

# strings that a checkpoint carries beside the arrays
_INFO, _PROGRESS = "deepspeech2_info", "deepspeech2_progress"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    `info` is None and `progress` empty where another program wrote the file.
    """

    path: Path
    parameters: dict[str, Parameter]
    info: ModelInfo | None
    progress: dict[str, Any]

    def network_parameters(self) -> dict[str, Parameter]:
        """The parameters without the optimizer's state."""
        return {name: p for name, p in self.parameters.items() if not name.startswith(STATE_PREFIX)}

    def settle(self, config: Config) -> tuple[Config, Labels]:
        """`config` with the settings of the checkpoint, and its labels; without any, those of `config`.

        Raises:
            InputError: as `Config.with_model`.
        """
        if not self.info:
            return config, Labels.load(config.DataConfig.labels_path)
        return config.with_model(self.info, str(self.path)), self.info.labels


def save_checkpoint(path: str | Path, parameters: Iterable[Parameter], info: ModelInfo,
                    progress: dict[str, Any] | None = None) -> None:
    """Write parameters, settings and (JSON-serialisable) training progress; `path` ends in `.ckpt`.

    Raises:
        RunError: naming the file when it could not be written; a file of that name from before is
            left as it was.
    """
    arrays = [{"name": p.name, "data": p} for p in parameters]
    strings = {_INFO: info.to_json(), _PROGRESS: json.dumps(progress or {})}
    try:
        with atomic_path(path) as temporary:
            ms.save_checkpoint(arrays, str(temporary), append_dict=strings, crc_check=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise RunError(
            f"{path}: the checkpoint could not be written: {_first_line(error)}"
        ) from None


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        InputError: naming the file when it is missing, empty or corrupt.
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
            f"{path}: not a whole MindSpore checkpoint: {_first_line(error)}"
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
    """Copy `parameters` into those of `own` with the same names.

    With `strict`, each must have its counterpart; otherwise those without one are named in a
    warning.

    Raises:
        InputError: naming `source` and the parameters that differ in shape, are missing (strict),
            or when none fits.
    """
    own = {p.name: p for p in own}
    differing = [
        f"{name} has shape {tuple(parameters[name].shape)}, the network needs {tuple(own[name].shape)}"
        for name in own.keys() & parameters.keys()
        if own[name].shape != parameters[name].shape
    ]
    missing, unexpected = (
        sorted(own.keys() - parameters.keys()),
        sorted(parameters.keys() - own.keys()),
    )
    problems = []
    if not own.keys() & parameters.keys():
        raise InputError(
            f"{source}: not a checkpoint of this network: no parameter has a name that the network knows"
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
    """The mean of the network's parameters in several checkpoints of one network, without the optimizer's state.

    Raises:
        InputError: naming the file that cannot be read or has other parameters than the first one.
    """
    sums: dict[str, np.ndarray] = {}
    for path in paths:
        arrays = {
            name: p.asnumpy() for name, p in load_checkpoint(path).network_parameters().items()
        }
        if sums and {n: a.shape for n, a in arrays.items()} != {
            n: a.shape for n, a in sums.items()
        }:
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


class CheckpointFolder:
    """The checkpoints of one run.

    `PREFIX-EPOCH_STEP.ckpt` is written after whole epochs. `PREFIX-last.ckpt` and
    `PREFIX-best.ckpt` are hard links to such files: they cost neither time nor space, and stay when
    the numbered file is deleted. A state inside an epoch overwrites `last` only: it is never
    averaged, and never evicts an epoch.

    Args:
        config: folder, prefix, and how many numbered files to keep.
    """

    def __init__(self, config: CheckpointConfig):
        self.folder, self.prefix = Path(config.ckpt_path), config.ckpt_file_name_prefix
        self.keep = config.keep_checkpoint_max
        self.last = self.folder / f"{self.prefix}-last.ckpt"
        self.best = self.folder / f"{self.prefix}-best.ckpt"
        self.average = self.folder / f"{self.prefix}-average.ckpt"
        self.word_cuts = self.folder / f"{self.prefix}-word-cuts.csv"  # found by the network

    def save(
        self, parameters: Iterable[Parameter], info: ModelInfo, progress: dict[str, Any], best: bool
    ) -> Path:
        """Save the state after `progress["epoch"]` whole epochs, `progress["batch"]` more batches and
        `progress["step"]` steps in all; returns the path. Raises RunError."""
        if progress["batch"]:
            save_checkpoint(self.last, parameters, info, progress)
            return self.last
        path = self.folder / f"{self.prefix}-{progress['epoch']}_{progress['step']}.ckpt"
        save_checkpoint(path, parameters, info, progress)
        for name in [self.last, self.best] if best else [self.last]:
            self._link(path, name)
        for old in self.numbered()[:-self.keep]:
            old.unlink(missing_ok=True)
        return path

    def numbered(self) -> list[Path]:
        """The checkpoints of whole epochs, oldest first."""
        pattern = re.compile(re.escape(self.prefix) + r"-(\d+)_(\d+)\.ckpt")
        found = [(tuple(map(int, match.groups())), path) for path in self.folder.glob("*.ckpt")
                 if (match := pattern.fullmatch(path.name))]
        return [path for _, path in sorted(found)]

    @staticmethod
    def _link(path: Path, name: Path) -> None:
        temporary = name.with_name(f".{name.name}.{os.getpid()}.tmp")
        try:
            temporary.unlink(missing_ok=True)
            os.link(path, temporary)
            os.replace(temporary, name)
        except OSError as error:
            raise RunError(
                f"{name}: the checkpoint could not be written: {error.strerror}"
            ) from None
        finally:
            temporary.unlink(missing_ok=True)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
