"""Write a trained network as MindIR or ONNX, and prove that the file says what the network says."""

from collections.abc import Iterable
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor

from src.config import Config
from src.DeepSpeech import PredictCell, dynamic_inputs
from src.errors import RunError
from src.files import atomic_path, ensure_writable
from src.labels import Labels
from src.model_info import ModelInfo
from src.predictor import OnnxPredictor, Predict, cell_predictor, load_mindir, load_network, network_predictor

TOLERANCE = 1e-5        # of a probability, between the network and the file
INT8_TOLERANCE = 0.5    # rounding costs less by far; this finds a file that says something else
CHECK_SIZES = (1, 3)    # utterances of the batches in the comparison
CHECK_FRAMES = 61       # of the longest of them


def export_mindir(checkpoint: str, config: Config, path: Path, batch_size: int = 0) -> tuple[Path, float]:
    """Export a checkpoint in evaluation mode with the softmax included, and a JSON file with its settings and labels.

    Args:
        batch_size: 0 for any batch size, else the only one that the model takes. Any number of frames is taken.
        path: the final name of the model; the JSON file stands beside it.

    Returns:
        The path of the model, and the largest difference between its probabilities and the network's.

    Raises:
        InputError: for a checkpoint that cannot be used. RunError: when the file differs from the network.
    """
    ensure_writable(path.parent)
    network, config, labels = load_network(checkpoint, config)
    num_bins = config.DataConfig.SpectConfig.num_bins
    cell = PredictCell(network)
    cell.set_inputs(*dynamic_inputs(num_bins))
    cell.set_train(False)    # export would keep the training mode of the batch norm
    inputs = list(dynamic_inputs(num_bins))
    if batch_size:
        inputs = [Tensor(shape=[batch_size, 1, num_bins, None], dtype=ms.float32),
                  Tensor(shape=[batch_size], dtype=ms.int32)]
    with atomic_path(path) as temporary:
        ms.export(cell, *inputs, file_name=str(temporary.with_suffix("")), file_format="MINDIR")
        difference = _compare(cell_predictor(cell), load_mindir(temporary), num_bins, path, TOLERANCE,
                              [batch_size] if batch_size else None)
        _write_info(path, config, labels)
    return path, difference


def export_onnx(checkpoint: str, config: Config, path: Path, quantize: str = "") -> tuple[Path, float]:
    """Export a checkpoint as ONNX for batches of any size and length; otherwise as `export_mindir`.

    Args:
        quantize: `int8` for LSTMs that compute in 8 bits, or '' for float32. Before a model is quantized, it must equal
            the network too; the returned difference is the quantized one's.
    """
    from src.onnx_graph import quantize_onnx, write_onnx
    ensure_writable(path.parent)
    network, config, labels = load_network(checkpoint, config)
    num_bins = config.DataConfig.SpectConfig.num_bins
    predict = network_predictor(network, num_bins)
    parameters = {name: parameter.asnumpy() for name, parameter in network.parameters_dict().items()}
    with atomic_path(path) as temporary:
        write_onnx(temporary, parameters, config.ModelConfig, num_bins, fixed_ranges=bool(quantize))
        difference = _compare(predict, OnnxPredictor(temporary), num_bins, path, TOLERANCE)
        if quantize:
            exact = temporary.rename(temporary.with_stem("float32"))
            quantize_onnx(exact, temporary)
            difference = _compare(predict, OnnxPredictor(temporary), num_bins, path, INT8_TOLERANCE)
        _write_info(path, config, labels)
    return path, difference


def _compare(network: Predict, exported: Predict, num_bins: int, path: Path, tolerance: float,
             sizes: Iterable[int] | None = None) -> float:
    """The largest difference of probabilities over batches of noise of several sizes and lengths.

    Raises:
        RunError: naming `path` when it is more than the tolerance.
    """
    rng = np.random.default_rng(0)
    worst = 0.0
    for size in sizes or CHECK_SIZES:
        lengths = np.linspace(CHECK_FRAMES, CHECK_FRAMES // 2, size).astype(np.int32)
        inputs = rng.standard_normal((size, 1, num_bins, CHECK_FRAMES), np.float32)
        inputs *= np.arange(CHECK_FRAMES) < lengths[:, None, None, None]
        (expected, expected_lengths), (found, found_lengths) = network(inputs, lengths), exported(inputs, lengths)
        if not np.array_equal(expected_lengths, found_lengths) or expected.shape != found.shape:
            worst = float("inf")
            break
        valid = np.arange(expected.shape[1]) < expected_lengths[:, None]
        worst = float(np.maximum(worst, np.abs(expected - found)[valid].max()))    # keeps NaN, unlike Python's max
    if not worst <= tolerance:
        raise RunError(f"{path}: the exported model differs from the network by {worst:.2e}, not written")
    return worst


def _write_info(path: Path, config: Config, labels: Labels) -> None:
    """The JSON file beside a model; without it nobody knows what the model reads and writes."""
    with atomic_path(path.with_suffix(".json")) as sidecar:
        sidecar.write_text(ModelInfo.of(config, labels).to_json(), encoding="utf-8")
