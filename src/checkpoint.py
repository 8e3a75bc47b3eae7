"""Checkpoints of the recipe: what they hold, how they fit a network, their mean."""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspeech2.errors import InputError, RunError, first_line
from deepspeech2.files import atomic_path, parse_json
from deepspeech2.labels import Labels
from deepspeech2.model_info import ModelInfo
from src import checkpoint_file
from src.config import Config

if TYPE_CHECKING:
    from mindspore import Parameter

logger = logging.getLogger(__name__)

STATE_PREFIX = "optimizer."  # of the names of optimizer state
# names of the two strings that a checkpoint contains beside the arrays
_INFO, _PROGRESS = "deepspeech2_info", "deepspeech2_progress"
# of the state of a run, see `src.progress.Progress` and `src.callback.TrainingMonitor`
_KINDS = {
    "lineage": list, "optimizer": str, "val_set": str, "epoch": int, "epoch_ended": bool,
    "batch": int, "plan": dict, "step": int, "skipped_in_row": int, "best": list,
    "evals_since_best": int, "history": list, "sums": dict, "order": dict,
}
PROJECTION = "fc.weight"  # the only parameter with a row for each label
LOOKAHEAD = "lookahead.conv.weight"


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
    parameters: dict[str, np.ndarray]
    info: ModelInfo | None
    progress: dict[str, Any]

    def network_parameters(self) -> dict[str, np.ndarray]:
        """The parameters without the optimizer's state."""
        return {name: a for name, a in self.parameters.items() if not name.startswith(STATE_PREFIX)}

    def settle(self, config: Config, fine_tuning: bool = False) -> tuple[Config, Labels]:
        """`config` with the model settings of the checkpoint, and the labels.

        A checkpoint without settings leaves `config` unchanged; the labels then come from
        `labels_path`.

        Args:
            fine_tuning: whether explicit labels and settings of `config` come first, see
                `Config.with_model`.

        Raises:
            InputError: as `Config.with_model`, and as `check_sizes`.
        """
        if not self.info:
            return config, Labels.load(config.DataConfig.labels_path)
        asked = config.explicit_labels() if fine_tuning else None
        config = config.with_model(self.info, str(self.path), fine_tuning)
        check_sizes(Config().with_model(self.info, str(self.path)), self.parameters, self.path)
        return config, asked or self.info.labels

    def fine_tuned(self, labels: Labels, own: "Iterable[Parameter]") -> dict[str, np.ndarray]:
        """The network's parameters for a network that fine-tuning may have changed.

        The rows of the projection of labels that both have are kept; the others begin as in the new
        network. A lookahead begins with the frames that the checkpoint knows, and without any with
        the present frame alone.

        Args:
            labels: of the new network.
            own: the parameters of the new network.
        """
        parameters, own = self.network_parameters(), {p.name: p for p in own}
        if not self.info:
            return parameters
        if self.info.labels != labels and PROJECTION in parameters:
            parameters[PROJECTION] = self._projection(labels, own[PROJECTION].asnumpy())
        if LOOKAHEAD in own:
            weight = np.zeros(own[LOOKAHEAD].shape, np.float32)  # (H, 1, 1, context)
            known = parameters.get(LOOKAHEAD, np.ones_like(weight[..., :1]))[..., : weight.shape[3]]
            weight[..., : known.shape[3]] = known
            parameters[LOOKAHEAD] = weight
        backward = {name for name in parameters if ".backward_lstm." in name} - own.keys()
        if backward:
            logger.info("%s: the backward LSTMs are left out", self.path)
        return {name: array for name, array in parameters.items() if name not in backward}

    def _projection(self, labels: Labels, initial: np.ndarray) -> np.ndarray:
        """The (C, H) projection for other labels than those of the checkpoint."""
        stored, weight = self.parameters[PROJECTION], initial.copy()
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
        return weight


def arrays_of(parameters: "Iterable[Parameter]") -> dict[str, np.ndarray]:
    """The values of parameters by name."""
    return {p.name: p.asnumpy() for p in parameters}


def save_checkpoint(
    path: str | Path,
    arrays: Mapping[str, np.ndarray],
    info: ModelInfo,
    progress: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint.

    Args:
        path: the file, which ends in `.ckpt`.
        arrays: of the network and the optimizer, by name.
        info: settings and labels of the model.
        progress: JSON-serialisable state of the training run.

    Raises:
        RunError: when the file could not be written; an existing file is then unchanged.
    """
    strings = {_INFO: info.to_json(), _PROGRESS: json.dumps(progress or {})}
    try:
        with atomic_path(path) as temporary:
            checkpoint_file.write(temporary, arrays, strings)
    except OSError as error:
        raise RunError(
            f"{path}: the checkpoint could not be written: {first_line(error)}"
        ) from None


def load_checkpoint(path: str | Path, optimizer: bool = True) -> Checkpoint:
    """Read a checkpoint, and verify its checksum.

    Args:
        path: the file.
        optimizer: whether the optimizer's arrays are kept, two thirds of the memory.

    Raises:
        InputError: naming the file, when it is missing, empty or damaged.
    """
    path = _existing(path)
    content = checkpoint_file.read(path, without=None if optimizer else STATE_PREFIX)
    info = content.strings.get(_INFO)
    return Checkpoint(
        path,
        content.arrays,
        ModelInfo.from_json(info, str(path)) if info else None,
        _parse_progress(path, content.strings),
    )


def read_progress(path: str | Path) -> dict[str, Any]:
    """The state of the training run in a checkpoint, without reading or verifying its arrays.

    Raises:
        InputError: naming the file, when its beginning is damaged.
    """
    path = _existing(path)
    return _parse_progress(path, checkpoint_file.read(path, only_strings=True).strings)


def _existing(path: str | Path) -> Path:
    """The path of an existing checkpoint. Raises InputError."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    if path.suffix != ".ckpt":
        raise InputError(f"{path}: a MindSpore checkpoint ends in .ckpt")
    return path


def _parse_progress(path: Path, strings: dict[str, str]) -> dict[str, Any]:
    try:
        progress = parse_json(strings.get(_PROGRESS, "{}"))
    except ValueError as error:
        raise InputError(f"{path}: the state of its run is not JSON: {error}") from None
    if not isinstance(progress, dict):
        raise InputError(f"{path}: the state of its run is no JSON object")
    if "lineage" in progress and (wrong := _wrong_fields(progress)):
        raise InputError(f"{path}: the state of its run is damaged: {', '.join(wrong)}")
    return progress


def _wrong_fields(progress: dict[str, Any]) -> list[str]:
    """The fields of a state that no run could have written."""
    wrong = {name for name, kind in _KINDS.items()
             if type(progress.get(name, kind())) is not kind}
    wrong |= {"epoch", "epoch_ended", "step"} - progress.keys()
    for name, is_item in ("lineage", _is_run), ("history", lambda item: isinstance(item, dict)):
        if name not in wrong and not all(map(is_item, progress.get(name, []))):
            wrong.add(name)
    return sorted(wrong)


def _is_run(item: Any) -> bool:
    """Whether this is [run id, step that the run began at]."""
    return isinstance(item, list) and [type(value) for value in item] == [str, int]


def check_sizes(config: Config, parameters: Mapping[str, np.ndarray], source: Path) -> None:
    """Check that a file holds the parameters of a network, before that network is made.

    A network takes the memory that its settings ask for, and a hostile file can ask for any amount.

    Args:
        config: settings of the network, from the file.
        parameters: arrays of the file by name.
        source: the file, for messages.

    Raises:
        InputError: naming `source` and a parameter that is missing or of another shape.
    """
    for name, shape in network_shapes(config, num_classes=0):
        if name == PROJECTION:  # a row for each label, which may be other labels
            continue
        if name not in parameters:
            raise InputError(f"{source}: does not fit the network: not in the checkpoint: {name}")
        if parameters[name].shape != shape:
            raise InputError(
                f"{source}: does not fit the network: {name} has shape {parameters[name].shape}, "
                f"the network needs {shape}"
            )


def network_shapes(config: Config, num_classes: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the parameters of `src.DeepSpeech.DeepSpeech`, one after the other."""
    model = config.ModelConfig
    hidden, channels, depth = model.hidden_size, model.conv_channels, 1
    for number, kernel in enumerate(model.conv_kernels, 1):
        yield f"conv.conv{number}.weight", (channels, depth, *kernel)
        yield f"conv.conv{number}.bias", (channels,)
        yield from _batch_norm(f"conv.norm{number}", channels)
        depth = channels
    width = channels * model.conv_bins(config.DataConfig.SpectConfig.num_bins)[1]
    for layer in range(model.hidden_layers):
        for direction in ("forward", "backward")[: 1 + model.bidirectional]:
            lstm = f"rnns.{layer}.{direction}_lstm"
            yield f"{lstm}.weight_ih_l0", (4 * hidden, width)
            yield f"{lstm}.weight_hh_l0", (4 * hidden, hidden)
            yield f"{lstm}.bias_ih_l0", (4 * hidden,)
            yield f"{lstm}.bias_hh_l0", (4 * hidden,)
        if layer:
            yield from _batch_norm(f"norms.{layer - 1}.cell", hidden)
        width = hidden
    if not model.bidirectional:
        yield LOOKAHEAD, (hidden, 1, 1, model.lookahead_context)
    yield from _batch_norm("fc_norm.cell", hidden)
    yield PROJECTION, (num_classes, hidden)


def _batch_norm(name: str, size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for part in ("moving_mean", "moving_variance", "gamma", "beta"):
        yield f"{name}.{part}", (size,)


def load_parameters(
    own: "Iterable[Parameter]",
    parameters: dict[str, np.ndarray],
    source: Path,
    strict: bool = True,
) -> None:
    """Give parameters the values of the arrays of the same names.

    Args:
        own: parameters of a network or an optimizer.
        parameters: values by name; their memory becomes that of the parameters, which saves a copy.
        source: the file of the values, for messages.
        strict: as for `check_fit`.

    Raises:
        InputError: as `check_fit`.
    """
    from mindspore import Tensor  # late: reading checkpoints needs no MindSpore

    own = {p.name: p for p in own}
    check_fit({name: tuple(p.shape) for name, p in own.items()}, parameters, source, strict)
    for name in own.keys() & parameters.keys():
        own[name].set_data(Tensor.from_numpy(np.asarray(parameters[name], order="C")))


def check_fit(
    shapes: Mapping[str, tuple[int, ...]],
    parameters: Mapping[str, np.ndarray],
    source: Path,
    strict: bool = True,
) -> None:
    """Check that arrays are those of a network.

    Args:
        shapes: of the network's parameters by name.
        parameters: the arrays by name.
        source: the file of the arrays, for messages.
        strict: whether the names must be the same; otherwise a warning lists the differences.

    Raises:
        InputError: naming `source`, when no name matches, when shapes differ, and (strict) when
            names are missing or unknown.
    """
    if not shapes.keys() & parameters.keys():
        raise InputError(
            f"{source}: not a checkpoint of this network: no parameter has a name that the network "
            "knows"
        )
    differing = [
        f"{name} has shape {parameters[name].shape}, the network needs {shapes[name]}"
        for name in shapes.keys() & parameters.keys()
        if shapes[name] != parameters[name].shape
    ]
    missing = sorted(shapes.keys() - parameters.keys())
    unexpected = sorted(parameters.keys() - shapes.keys())
    problems = []
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


def average_checkpoints(paths: Sequence[str | Path]) -> dict[str, np.ndarray]:
    """The mean of the network's parameters over several checkpoints, without optimizer state.

    Raises:
        InputError: naming a file that cannot be read, or whose parameters differ from those of the
            first file in name or shape.
    """
    sums: dict[str, np.ndarray] = {}
    for path in paths:
        arrays = load_checkpoint(path, optimizer=False).network_parameters()
        if sums and _shapes(arrays) != _shapes(sums):
            raise InputError(
                f"{path}: holds another network than {paths[0]}: they cannot be averaged"
            )
        sums = {
            name: array.astype(np.float64) + sums.get(name, 0) for name, array in arrays.items()
        }
    return {name: (array / len(paths)).astype(np.float32) for name, array in sums.items()}


def _shapes(arrays: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}
