"""Models in any file format behind one call: spectrograms in, class probabilities out."""

from collections.abc import Callable
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from src.checkpoint import load_checkpoint, load_parameters
from src.config import Config
from src.DeepSpeech import DeepSpeech, PredictCell, dynamic_inputs
from src.errors import InputError
from src.labels import Labels
from src.model_info import ModelInfo

# (N, 1, F, T) float32 spectrograms, (N,) int32 frame counts -> (N, T', C) probabilities, (N,) output lengths
Predict = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class CellPredictor:
    """A `Predict` around a MindSpore cell that takes and gives tensors."""

    def __init__(self, cell: nn.Cell):
        self.cell = cell

    def __call__(self, inputs: np.ndarray, input_length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.cell.set_train(False)
        probs, lengths = self.cell(Tensor(inputs), Tensor(input_length))
        return probs.asnumpy(), lengths.asnumpy()


def network_predictor(network: DeepSpeech, num_bins: int) -> CellPredictor:
    """A `Predict` that runs the network as its weights are at the time of each call."""
    cell = PredictCell(network)
    cell.set_inputs(*dynamic_inputs(num_bins))
    return CellPredictor(cell)


def load_network(path: str | Path, config: Config) -> tuple[DeepSpeech, Config, Labels]:
    """The network of a checkpoint with its weights, the configuration that it settles, and its labels.

    Raises:
        InputError: for a bad file, one that contradicts explicit settings, or one that does not fit the network.
    """
    checkpoint = load_checkpoint(path)
    if checkpoint.info:
        config, labels = checkpoint.info.apply(config, str(path)), checkpoint.info.labels
    else:
        labels = Labels.load(config.DataConfig.labels_path)
    network = DeepSpeech(config.ModelConfig, config.DataConfig.SpectConfig.num_bins, len(labels))
    load_parameters(network, checkpoint.network_parameters(), checkpoint.path)
    return network, config, labels


def load_predictor(path: str | Path, config: Config) -> tuple[Predict, Config, Labels]:
    """A stored model by its suffix (`.ckpt` or `.mindir`), ready to predict.

    Raises:
        InputError: as `load_network`, for other suffixes, and for an exported model without its JSON file.
    """
    path = Path(path)
    if path.suffix == ".ckpt":
        network, config, labels = load_network(path, config)
        return network_predictor(network, config.DataConfig.SpectConfig.num_bins), config, labels
    if path.suffix != ".mindir":
        raise InputError(f"{path}: a model file ends in .ckpt or .mindir")
    if not path.is_file():
        raise InputError(f"{path}: no such model")
    sidecar = path.with_suffix(".json")
    if not sidecar.is_file():
        raise InputError(f"{path}: {sidecar.name} is missing beside it: export.py writes both")
    info = ModelInfo.from_json(sidecar.read_text(encoding="utf-8"), str(sidecar))
    config = info.apply(config, str(path))
    return load_mindir(path), config, info.labels


def load_mindir(path: Path) -> CellPredictor:
    """An exported MindIR. Raises InputError when it cannot be loaded."""
    try:
        return CellPredictor(nn.GraphCell(ms.load(str(path))))
    except (RuntimeError, ValueError, TypeError) as error:
        raise InputError(f"{path}: not a whole MindIR model: {str(error).strip().splitlines()[0]}") from None
