"""Write a trained network as MindIR, and prove that the file says what the network says."""

import logging
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor

from src.config import Config
from src.DeepSpeech import PredictCell, dynamic_inputs
from src.errors import RunError
from src.files import atomic_path, ensure_writable
from src.model_info import ModelInfo
from src.predictor import CellPredictor, load_mindir, load_network

logger = logging.getLogger(__name__)

TOLERANCE = 1e-5        # of a probability, between the network and the file
CHECK_FRAMES = 61       # of the longest utterance in the comparison


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
        difference = _difference(CellPredictor(cell), load_mindir(temporary), num_bins, batch_size)
        if not difference <= TOLERANCE:
            raise RunError(f"{path}: the exported model differs from the network by {difference:.2e}, not written")
        with atomic_path(path.with_suffix(".json")) as sidecar:
            sidecar.write_text(ModelInfo.of(config, labels).to_json(), encoding="utf-8")
    return path, difference


def _difference(network: CellPredictor, exported: CellPredictor, num_bins: int, batch_size: int) -> float:
    """The largest difference of probabilities over batches of several sizes and lengths."""
    rng = np.random.default_rng(0)
    worst = 0.0
    for size in {batch_size} if batch_size else {1, 3}:
        lengths = np.linspace(CHECK_FRAMES, CHECK_FRAMES // 2, size).astype(np.int32)
        inputs = rng.standard_normal((size, 1, num_bins, CHECK_FRAMES), np.float32)
        inputs *= np.arange(CHECK_FRAMES) < lengths[:, None, None, None]
        (expected, expected_lengths), (found, found_lengths) = network(inputs, lengths), exported(inputs, lengths)
        if not np.array_equal(expected_lengths, found_lengths) or expected.shape != found.shape:
            return float("inf")
        worst = max(worst, float(np.abs(expected - found).max()))
    return worst
