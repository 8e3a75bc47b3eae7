"""Models in any file format behind one call: spectrograms in, class probabilities out.

MindSpore is imported where a format needs it, not with this module: ONNX models run without it, and start in a second.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from src.config import Config
from src.errors import InputError
from src.labels import Labels
from src.model_info import ModelInfo

if TYPE_CHECKING:
    from mindspore import nn

    from src.DeepSpeech import DeepSpeech

# (N, 1, F, T) float32 spectrograms, (N,) int32 frame counts -> (N, T', C) probabilities, (N,) output lengths
Predict = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

ONNX_INPUTS, ONNX_OUTPUTS = ["inputs", "input_length"], ["probs", "output_lengths"]


def load_predictor(path: str | Path, config: Config) -> tuple[Predict, Config, Labels]:
    """A stored model by its suffix (`.ckpt`, `.mindir` or `.onnx`), ready to predict.

    Raises:
        InputError: as `load_network`, for other suffixes, and for an exported model that is damaged, has no JSON file
            or not its own.
    """
    path = Path(path)
    if path.suffix == ".ckpt":
        network, config, labels = load_network(path, config)
        return network_predictor(network, config.DataConfig.SpectConfig.num_bins), config, labels
    if path.suffix not in (".mindir", ".onnx"):
        raise InputError(f"{path}: a model file ends in .ckpt, .mindir or .onnx")
    if not path.is_file():
        raise InputError(f"{path}: no such model")
    sidecar = path.with_suffix(".json")
    if not sidecar.is_file():
        raise InputError(f"{path}: {sidecar.name} is missing beside it: export.py writes both")
    info = ModelInfo.from_json(sidecar.read_text(encoding="utf-8"), str(sidecar))
    config = info.apply(config, str(path))
    if path.suffix == ".mindir":
        return load_mindir(path), config, info.labels
    predictor = OnnxPredictor(path)
    sizes = config.DataConfig.SpectConfig.num_bins, len(info.labels)
    if predictor.sizes != sizes:
        raise InputError(f"{path}: made for {predictor.sizes[0]} frequency bins and {predictor.sizes[1]} classes, but "
                         f"{sidecar.name} says {sizes[0]} and {sizes[1]}: it belongs to another model")
    return predictor, config, info.labels


class OnnxPredictor:
    """A `Predict` that ONNX Runtime computes on all CPU cores that the process may use.

    Attributes:
        sizes: F and C.

    Raises:
        InputError: for a file that ONNX Runtime cannot load, and for a model of something else.
    """

    def __init__(self, path: Path):
        try:
            self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        except Exception as error:    # its errors have nothing closer in common
            raise InputError(f"{path}: not a whole ONNX model: {str(error).strip().splitlines()[0]}") from None
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        if [value.name for value in inputs] != ONNX_INPUTS or [value.name for value in outputs] != ONNX_OUTPUTS:
            raise InputError(f"{path}: an ONNX model, but not one that export.py wrote")
        self.sizes = inputs[0].shape[2], outputs[0].shape[2]

    def __call__(self, inputs: np.ndarray, input_length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return tuple(self.session.run(ONNX_OUTPUTS, dict(zip(ONNX_INPUTS, (inputs, input_length), strict=True))))


def cell_predictor(cell: "nn.Cell") -> Predict:
    """A `Predict` around a MindSpore cell that takes and gives tensors."""
    from mindspore import Tensor

    def predict(inputs: np.ndarray, input_length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        cell.set_train(False)
        probs, lengths = cell(Tensor(inputs), Tensor(input_length))
        return probs.asnumpy(), lengths.asnumpy()

    return predict


def network_predictor(network: "DeepSpeech", num_bins: int) -> Predict:
    """A `Predict` that runs the network as its weights are at the time of each call."""
    from src.DeepSpeech import PredictCell, dynamic_inputs
    cell = PredictCell(network)
    cell.set_inputs(*dynamic_inputs(num_bins))
    return cell_predictor(cell)


def load_network(path: str | Path, config: Config) -> tuple["DeepSpeech", Config, Labels]:
    """The network of a checkpoint with its weights, the configuration that it settles, and its labels.

    Raises:
        InputError: for a bad file, one that contradicts explicit settings, or one that does not fit the network.
    """
    from src.checkpoint import load_checkpoint, load_parameters
    from src.DeepSpeech import DeepSpeech
    checkpoint = load_checkpoint(path)
    if checkpoint.info:
        config, labels = checkpoint.info.apply(config, str(path)), checkpoint.info.labels
    else:
        labels = Labels.load(config.DataConfig.labels_path)
    network = DeepSpeech(config.ModelConfig, config.DataConfig.SpectConfig.num_bins, len(labels))
    load_parameters(network, checkpoint.network_parameters(), checkpoint.path)
    return network, config, labels


def load_mindir(path: Path) -> Predict:
    """An exported MindIR. Raises InputError when it cannot be loaded."""
    import mindspore as ms
    try:
        return cell_predictor(ms.nn.GraphCell(ms.load(str(path))))
    except (RuntimeError, ValueError, TypeError) as error:
        raise InputError(f"{path}: not a whole MindIR model: {str(error).strip().splitlines()[0]}") from None
