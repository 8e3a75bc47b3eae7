"""Load stored models as a `Model`: with MindSpore MindIR and checkpoints on GPU, others without."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import deepspeech2
from deepspeech2.decoding.decoders import make_decoder
from deepspeech2.errors import InputError, first_line
from deepspeech2.labels import Labels
from deepspeech2.model import AcousticModel, Model
from deepspeech2.model_info import read_info
from src.config import Config, load_config

if TYPE_CHECKING:
    from mindspore import nn

    from src.DeepSpeech import DeepSpeech


def load_model(path: str | Path, config: Config | None = None, device: str = "CPU") -> Model:
    """Load a model.

    Args:
        path: a `.ckpt`, `.mindir` or `.onnx` file.
        config: explicit settings must not contradict the model, and `LMConfig` says how the model
            decodes; None for the defaults.
        device: `CPU`, where ONNX Runtime computes a checkpoint too; or `GPU`.

    Raises:
        InputError: as `load_network`, for another suffix, and for an exported model that is damaged
            or whose JSON file is missing or another model's.
    """
    path, config = Path(path), config or load_config()
    if path.suffix == ".ckpt" and device == "CPU":
        return _checkpoint_model(path, config)
    if path.suffix == ".ckpt":
        return network_model(*load_network(path, config))
    if path.suffix not in (".mindir", ".onnx"):
        raise InputError(f"{path}: a model file ends in .ckpt, .mindir or .onnx")
    info = read_info(path)
    config.with_model(info, str(path))
    if path.suffix == ".onnx":
        return deepspeech2.load_model(path, config.LMConfig)
    acoustic = in_batches(load_mindir(path), info.batch_size)
    return Model(acoustic, info, make_decoder(config.LMConfig, info.labels))


def _checkpoint_model(path: Path, config: Config) -> Model:
    """A checkpoint as an ONNX model in memory, for which MindSpore is not imported."""
    from deepspeech2.onnx_model import OnnxModel
    from src.checkpoint import check_fit, load_checkpoint, network_shapes
    from src.onnx_graph import make_onnx

    checkpoint = load_checkpoint(path, optimizer=False)
    config, labels = checkpoint.settle(config)
    parameters = checkpoint.network_parameters()
    check_fit(dict(network_shapes(config, len(labels))), parameters, path)
    num_bins = config.DataConfig.SpectConfig.num_bins
    model = make_onnx(parameters, config.ModelConfig, num_bins)
    del checkpoint, parameters  # of which `model` has copies
    content = model.SerializeToString()
    del model
    info = config.model_info(labels)
    return Model(OnnxModel(path, info, content), info, make_decoder(config.LMConfig, labels))


def load_network(path: str | Path, config: Config) -> tuple["DeepSpeech", Config, Labels]:
    """Load the network of a checkpoint.

    Returns:
        The network, `config` with the settings of the checkpoint, and the labels.

    Raises:
        InputError: for a checkpoint that cannot be read, contradicts explicit settings, or does not
            fit the network.
    """
    from src.checkpoint import load_checkpoint, load_parameters
    from src.DeepSpeech import DeepSpeech

    checkpoint = load_checkpoint(path, optimizer=False)
    config, labels = checkpoint.settle(config)
    network = DeepSpeech(config.ModelConfig, config.DataConfig.SpectConfig.num_bins, len(labels))
    own = network.get_parameters()
    load_parameters(own, checkpoint.network_parameters(), checkpoint.path)
    return network, config, labels


def network_model(network: "DeepSpeech", config: Config, labels: Labels) -> Model:
    """A `Model` that uses the current weights of the network at each call."""
    from src.DeepSpeech import PredictCell, dynamic_inputs

    cell = PredictCell(network)
    cell.set_inputs(*dynamic_inputs(config.DataConfig.SpectConfig.num_bins))
    decoder = make_decoder(config.LMConfig, labels)
    info = config.model_info(labels)
    return Model(cell_model(cell, info.settings | {"labels": len(labels)}), info, decoder)


def cell_model(cell: "nn.Cell", settings: dict | None = None) -> AcousticModel:
    """An `AcousticModel` that runs a MindSpore cell in evaluation mode.

    Args:
        cell: takes features and lengths.
        settings: all that its graph depends on; None for a cell that needs no compilation.
    """
    from mindspore import Tensor

    from src.graph_cache import cached

    call = cell if settings is None else cached(cell, settings)

    def predict(inputs: np.ndarray, input_length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        cell.set_train(False)
        probs, lengths = call(Tensor(inputs), Tensor(input_length))
        return probs.asnumpy(), lengths.asnumpy()

    return predict


def in_batches(acoustic: AcousticModel, size: int) -> AcousticModel:
    """An `AcousticModel` that takes any batch, from one that takes batches of `size`; 0: any.

    The last batch is filled up with copies of its last utterance.
    """
    if not size:
        return acoustic

    def predict(inputs: np.ndarray, input_length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count = len(inputs)
        rows = np.minimum(np.arange(-(-count // size) * size), count - 1).reshape(-1, size)
        outputs = [acoustic(inputs[batch], input_length[batch]) for batch in rows]
        probs, lengths = (np.concatenate(arrays)[:count] for arrays in zip(*outputs, strict=True))
        return probs, lengths

    return predict


def load_mindir(path: Path) -> AcousticModel:
    """Load an exported MindIR. Raises InputError when MindSpore cannot load it."""
    import mindspore as ms

    try:
        return cell_model(ms.nn.GraphCell(ms.load(str(path))))
    except (RuntimeError, ValueError, TypeError) as error:
        reason = first_line(error)
        raise InputError(f"{path}: not a whole MindIR model: {reason}") from None
