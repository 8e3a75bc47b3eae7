"""The original's training: `python -m benchmarks.original MINUTES [GROUP.FIELD=VALUE]...`.

Its network, loader, AdamW and annealing with the published settings of deepspeech.pytorch 3 (Sean
Naren), in float32: `deepspeech_pytorch/configs/train_config.py` and `model.py`, `configs/an4.yaml`,
`configs/librispeech.yaml`. What differs is in its favour: LibriSpeech gets batches of 8 like AN4,
as 64 would leave 30 steps in an epoch of 1,889 utterances, and no SpecAugment; the number of epochs
is not limited. The run ends after MINUTES of training, be it within an epoch.

Our monitor keeps the clock and writes metrics.csv, our evaluation counts the errors on the val set
after every epoch: both as `train.py` does it. `state.pt` in the log folder resumes a stopped run.
It is written after every epoch, and every `CheckpointConfig.save_minutes` inside one.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.pytorch import Network, Side
from deepspeech2 import commands
from deepspeech2.files import atomic_path
from deepspeech2.model import Model
from src.callback import TrainingMonitor
from src.config import Config, load_config
from src.evaluation import evaluate
from src.lr_generator import annealed_learning_rate
from src.manifest import Manifest, read_manifest

# what differs from our defaults, which are 5 x 1024 units and batches of 8 too
PUBLISHED = (
    "ModelConfig.conv2_kernel=[21, 11]",
    "OptimConfig.learning_rate=1.5e-4",
    f"OptimConfig.learning_anneal={1 / 0.99}",  # ours divides
    # 400 for the sum of the losses of 8 utterances; a step here takes their mean
    "TrainingConfig.max_grad_norm=50")


def train(config: Config, minutes: float) -> int:
    """Train for `minutes`, those before a resume included."""
    side, folder = Side(), Path(config.TrainingConfig.log_dir)
    side.build(config)
    train_set, val_set = (
        path and read_manifest(path, side.labels)
        for path in (config.DataConfig.train_manifest, config.DataConfig.val_manifest))
    monitor = TrainingMonitor(folder, config.TrainingConfig.epochs)
    state, done = folder / "state.pt", 0

    def save(done: int) -> None:
        """Write a state after `done` batches of the unfinished epoch."""
        content = [side.network.state_dict(), side.optimizer.state_dict(), monitor.progress(), done]
        with atomic_path(state) as temporary:
            torch.save(content, temporary)

    if state.exists():
        weights, moments, progress, done = torch.load(state)
        side.network.load_state_dict(weights)
        side.optimizer.load_state_dict(moments)
        monitor.restore(progress)
    monitor.begin(monitor.history[-1].step if monitor.history else 0, "original")
    model = Model(partial(probabilities, side.network), config.model_info(side.labels))
    while (left := minutes - sum(epoch.minutes for epoch in monitor.history)) > 0:
        steps = train_epoch(side, train_set, monitor, left, done, save)
        monitor.end_training(steps)
        monitor.end_epoch(evaluate(model, val_set, config).errors if val_set else None)
        save(done := 0)
    monitor.close()
    return 0


def train_epoch(side: Side, manifest: Manifest, monitor: TrainingMonitor, minutes: float, done: int,
                save: Callable[[int], None]) -> int:
    """Train the next epoch, or `minutes` of it; returns the steps of the run.

    Args:
        done: batches of the epoch that were trained before a resume.
        save: called with the trained batches every `CheckpointConfig.save_minutes`.
    """
    optim, epoch = side.config.OptimConfig, len(monitor.history)
    rate = annealed_learning_rate(
        epoch, learning_rate=optim.learning_rate, learning_anneal=optim.learning_anneal)
    batches = side.epoch_batches(epoch, done)
    size = done + len(batches)
    monitor.begin_epoch(epoch, size, done)
    save_seconds, saved = 60 * side.config.CheckpointConfig.save_minutes, monitor.sums.seconds
    for batch in batches:
        loss, norm = side.step(batch, rate)
        utterances, seconds = len(batch.rows), float(manifest.seconds[batch.rows].sum())
        monitor.sums.add(loss * utterances, norm, True, utterances, seconds)
        done += 1
        monitor.end_step(epoch * size + done, loss, norm, True, rate)
        if monitor.sums.seconds >= 60 * minutes:
            break
        if 0 < save_seconds <= monitor.sums.seconds - saved and done < size:
            save(done)
            saved = monitor.sums.seconds
    return epoch * size + done


@torch.inference_mode()
def probabilities(network: Network, inputs: np.ndarray, input_length: np.ndarray,
                  ) -> tuple[np.ndarray, np.ndarray]:
    """An `AcousticModel`: the network with its present weights wants the longest first."""
    order = np.argsort(-input_length, kind="stable")
    logits, lengths = network.eval()(
        torch.from_numpy(inputs[order]), torch.from_numpy(input_length[order]))
    probs = logits.transpose(0, 1).softmax(-1)  # (N, T', C)
    back = np.argsort(order)
    return probs.numpy()[back], lengths.numpy()[back]


def main(argv: list[str] | None = None) -> int:
    minutes, *settings = sys.argv[1:] if argv is None else argv
    return commands.run(lambda: train(load_config(None, settings), float(minutes)))


if __name__ == "__main__":
    sys.exit(main())
