"""Makes tests/data/parity.npz: what PyTorch computes with a small network of deepspeech.pytorch.

    python tests/make_parity.py         # needs PyTorch; only after a change of the network

The arrays have the names of ../shared/reference/deepspeech_pytorch_bilstm.npz, which the original
itself wrote; tests/test_convert_torch.py holds reference.py to that file where both are there.
"""

import importlib
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reference import build, loss_and_gradients, probabilities

FILE = Path(__file__).parent / "data" / "parity.npz"
INPUT_LENGTHS, TARGET_LENGTHS = [60, 47, 31], [7, 5, 4]


def numbers(torch) -> dict[str, np.ndarray]:
    """Weights, a padded batch, its probabilities, and its loss and gradients in training."""
    rng = np.random.default_rng(0)
    model = build(torch, hidden=8, layers=2, channels=3)
    state = {f"state/{name}": value.numpy().copy() for name, value in model.state_dict().items()}
    lengths = np.array(INPUT_LENGTHS, np.int32)
    inputs = rng.integers(-64, 65, (3, 1, 161, 60)).astype(np.float32) / 32
    inputs *= np.arange(60) < lengths[:, None, None, None]
    targets = rng.integers(1, 29, sum(TARGET_LENGTHS)).astype(np.int32)
    probs, output_lengths = probabilities(torch, model, inputs, lengths)
    loss, gradients = loss_and_gradients(torch, model, inputs, lengths, targets, TARGET_LENGTHS)
    return state | {f"grad/{name}": value for name, value in gradients.items()} | {
        "input": inputs, "input_lengths": lengths, "targets": targets,
        "target_lengths": np.array(TARGET_LENGTHS, np.int32), "probs": probs,
        "output_lengths": np.array(output_lengths, np.int32), "train_loss_sum": np.float32(loss)}


if __name__ == "__main__":
    np.savez_compressed(FILE, **numbers(importlib.import_module("torch")))
