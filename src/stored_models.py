"""Stored models of every kind as a `Model`: checkpoints and MindIR by MindSpore, ONNX without it."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import deepspeech2
from deepspeech2.errors import InputError
from deepspeech2.labels import Labels
from deepspeech2.model import AcousticModel, Model
from deepspeech2.model_info import read_info
from src.config import Config, load_config

if TYPE_CHECKING:
    from mindspore import nn

    from src.DeepSpeech import DeepSpeech


def load_model(path: str | Path, config: Config | None = None) -> Model:
    """A stored model by its suffix: `.ckpt`, `.mindir` or `.onnx`.

    Args:
        config: settings that somebody wrote explicitly must not contradict the model's.

    Raises:
        InputError: as `load_network`, for other suffixes, and for an exported model that is
            damaged, has no JSON file, or not its own.
    """
    path, config = Path(path), config or load_config()
    if path.suffix == ".ckpt":
        network, config, labels = load_network(path, config)
        return network_model(network, config, labels)
    if path.suffix not in (".mindir", ".onnx"):
        raise InputError(f"{path}: a model file ends in .ckpt, .mindir or .onnx")
    info = read_info(path)
    config.with_model(info, str(path))
    if path.suffix == ".onnx":
        return deepspeech2.load_model(path)
    return Model(load_mindir(path), info)


def load_network(path: str | Path, config: Config) -> tuple["DeepSpeech", Config, Labels]:
    """The network of a checkpoint, the configuration that it settles, and its labels.

    Raises:
        InputError: for a bad file, one that contradicts explicit settings, or one that does not
            fit the network.
    """
    from src.checkpoint import load_checkpoint, load_parameters
    from src.DeepSpeech import DeepSpeech

    checkpoint = load_checkpoint(path)
    config, labels = checkpoint.settle(config)
    network = DeepSpeech(config.ModelConfig, config.DataConfig.SpectConfig.num_bins, len(labels))
    own = network.get_parameters()
    load_parameters(own, checkpoint.network_parameters(), checkpoint.path)
    return network, config, labels


def network_model(network: "DeepSpeech", config: Config, labels: Labels) -> Model:
    """A `Model` that computes with the network's weights as they are at the time of each call."""
    from src.DeepSpeech import PredictCell, dynamic_inputs

    cell = PredictCell(network)
    cell.set_inputs(*dynamic_inputs(config.DataConfig.SpectConfig.num_bins))
    return Model(cell_model(cell), config.model_info(labels))


def cell_model(cell: "nn.Cell") -> AcousticModel:
    """An `AcousticModel` around a MindSpore cell that takes and gives tensors."""
    from mindspore import Tensor

    def predict(inputs: np.ndarray, input_length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        cell.set_train(False)
        probs, lengths = cell(Tensor(inputs), Tensor(input_length))
        return probs.asnumpy(), lengths.asnumpy()

    return predict


def load_mindir(path: Path) -> AcousticModel:
    """An exported MindIR. Raises InputError when it cannot be loaded."""
    import mindspore as ms

    try:
        return cell_model(ms.nn.GraphCell(ms.load(str(path))))
    except (RuntimeError, ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{path}: not a whole MindIR model: {reason}") from None
