"""What the processes of this project do when they are told: train, predict, load a corpus, decode, save.

The process of the ONNX models uses this module too; MindSpore is only imported by what needs it.
"""

import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.measure import TURN_SECONDS, timed
from deepspeech2.features import SpectConfig
from deepspeech2.labels import Labels
from src.config import Config, load_config

LABELS_PATH = Path(__file__).resolve().parents[1] / "labels.json"


def peak_memory() -> float:
    """GiB of this process at its largest.

    Not `getrusage`: what that says of a child process is never less than the memory of the one that started it.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)[1]) / 2**20


class EpochCount:
    """What one epoch is made of; begins with the clock."""

    def __init__(self):
        self.started = time.perf_counter()
        self.batches = self.utterances = self.frames = self.padded_frames = 0
        self.losses = []

    def add(self, shape: tuple[int, ...], lengths, loss: float) -> None:
        """A step on (N, 1, F, T) inputs of these lengths."""
        self.batches += 1
        self.utterances += shape[0]
        self.frames += int(lengths.sum())
        self.padded_frames += shape[0] * shape[3]
        self.losses.append(loss)

    def result(self) -> dict:
        return {"seconds": time.perf_counter() - self.started, "batches": self.batches, "utterances": self.utterances,
                "frames": self.frames, "padded_frames": self.padded_frames, "mean_loss": statistics.mean(self.losses)}


def per_file(paths: list[str], features: Callable[[str], np.ndarray]) -> tuple[float, list[np.ndarray]]:
    """CPU seconds of `features` for all files after a warm-up, and its results for every tenth of them."""
    outputs = [np.array(features(path)) for path in paths[::10]]
    started = time.process_time()
    for path in paths:
        features(path)
    return time.process_time() - started, outputs


class Side:
    """State of the process: a network, its step, models for inference, and the batch to work on."""

    def __init__(self):
        self.labels = Labels.load(LABELS_PATH)
        self.predictors = {}
        self.network = self.step = self.config = self.batch = None

    def start(self) -> str:
        """Import the framework; returns its version."""
        from src import device
        device.set_device("CPU")
        import mindspore
        return mindspore.__version__

    def peak_memory(self) -> float:
        return peak_memory()

    def matrix_product(self, size: int) -> dict[str, float]:
        """{library: best seconds of a float32 product of two (size, size) matrices}."""
        import mindspore as ms
        a = ms.Tensor(np.random.default_rng(0).standard_normal((size, size), np.float32))
        product = ms.ops.MatMul()
        product(a, a).asnumpy()
        return {"MindSpore": min(timed(lambda: product(a, a).asnumpy()))}

    def build(self, config: Config, weights: str = "") -> None:
        """The network and its training step, with the arrays of the file `weights` or random ones."""
        import mindspore as ms

        from src.checkpoint import load_parameters
        from src.DeepSpeech import DeepSpeech, LossCell, dynamic_inputs, dynamic_targets
        from src.optimizer import TrainStep, create_optimizer
        ms.set_seed(0)
        self.config, num_bins = config, config.DataConfig.SpectConfig.num_bins
        self.network = DeepSpeech(config.ModelConfig, num_bins, len(self.labels))
        if weights:
            with np.load(weights) as arrays:
                load_parameters(self.network, {name: ms.Parameter(ms.Tensor(arrays[name])) for name in arrays.files},
                                Path(weights))
        self.step = TrainStep(LossCell(self.network, self.labels.blank_index),
                              create_optimizer(self.network.trainable_params(), config.OptimConfig),
                              config.OptimConfig.loss_scale, config.TrainingConfig.max_grad_norm)
        self.step.set_inputs(*dynamic_inputs(num_bins), *dynamic_targets(), ms.Tensor(shape=[], dtype=ms.float32))

    def save_checkpoint(self, path: str, weights_only: bool = False) -> float:
        """Write the network and the optimizer's state, or the network alone; returns the seconds it took."""
        from deepspeech2.model_info import ModelInfo
        from src.checkpoint import save_checkpoint
        cell = self.network if weights_only else self.step
        started = time.perf_counter()
        save_checkpoint(path, cell.get_parameters(), self.config.model_info(self.labels))
        return time.perf_counter() - started

    def load_checkpoint(self, path: str) -> float:
        """Read what `save_checkpoint` wrote into network and step; returns the seconds it took."""
        from src.checkpoint import load_checkpoint, load_parameters
        started = time.perf_counter()
        checkpoint = load_checkpoint(path)
        load_parameters(self.step, checkpoint.parameters, checkpoint.path)
        return time.perf_counter() - started

    def export(self, arguments: list[str]) -> int:
        """Run `export.py` with `arguments`; returns its exit code."""
        import export
        return export.main(arguments)

    def set_batch(self, batch: dict[str, np.ndarray]) -> None:
        """What `train` and `predict` work on: inputs, input_length, targets, target_length, as `src.dataset.Batch`."""
        self.batch = batch

    def train(self, least: float = TURN_SECONDS, learning_rate: float = 0.0) -> tuple[list[float], float, float]:
        """Seconds of steps from arrays to numbers, the loss and the gradient norm. Rate 0 keeps the weights."""
        outputs = []
        self.step.set_train(True)
        seconds = timed(lambda: outputs.append(self._step(self.batch, len(self.batch["inputs"]), learning_rate)), least)
        return (seconds, *outputs[-1])

    def _step(self, batch: dict[str, np.ndarray], normalizer: int, learning_rate: float) -> tuple[float, float]:
        from mindspore import Tensor, float32
        loss, norm, updated = self.step(
            Tensor(batch["inputs"]), Tensor(batch["input_length"]), Tensor(batch["targets"]),
            Tensor(batch["target_length"]), Tensor(normalizer, float32), Tensor(learning_rate, float32))
        if not updated.asnumpy():
            raise ValueError("loss or gradient is not finite")
        return loss.asnumpy().item(), norm.asnumpy().item()

    def gradient_norms(self) -> dict[str, float]:
        """{name: norm of the clipped gradient} of the first step: Adam's first moment is then (1 - beta1) times it."""
        from src.optimizer import STATE_PREFIX
        prefix, beta1 = STATE_PREFIX + "moment1.", self.config.OptimConfig.betas[0]
        return {p.name.removeprefix(prefix): float(np.linalg.norm(p.asnumpy().astype(np.float64))) / (1 - beta1)
                for p in self.step.get_parameters() if p.name.startswith(prefix)}

    def load_model(self, path: str) -> float:
        """Load a model (.ckpt, .mindir, .onnx) for `predict`; returns the seconds it took."""
        from src.stored_models import load_model
        started = time.perf_counter()
        self.predictors[path], *_ = load_model(path, load_config())
        return time.perf_counter() - started

    def predict(self, path: str, least: float = TURN_SECONDS) -> tuple[list[float], tuple[np.ndarray, np.ndarray]]:
        """Seconds of predictions from arrays to arrays, and the (N, T', C) probabilities and (N,) lengths."""
        outputs = []
        seconds = timed(lambda: outputs.append(
            self.predictors[path](self.batch["inputs"], self.batch["input_length"])), least)
        return seconds, outputs[-1]

    def epoch(self, limit: int | None) -> dict:
        """The second epoch of a training run, loading included; `limit` batches of it."""
        from src.batching import epoch_batches
        from src.dataset import BatchSource, training_batches
        from src.manifest import read_manifest
        from src.training_data import trainable_rows
        data, optim = self.config.DataConfig, self.config.OptimConfig
        manifest = read_manifest(data.train_manifest, self.labels)
        rows = trainable_rows(manifest, self.config)
        planned = epoch_batches(manifest.seconds[rows], data.batch_size, 1, self.config.TrainingConfig.seed)[:limit]
        source = BatchSource(manifest, [rows[batch] for batch in planned], self.labels, data.SpectConfig)
        self.step.set_train(True)
        count = EpochCount()
        for batch in training_batches(source, data.num_workers):
            arrays = {"inputs": batch.inputs, "input_length": batch.input_length, "targets": batch.targets,
                      "target_length": batch.target_length}
            loss, _ = self._step(arrays, len(batch.rows), optim.learning_rate)
            count.add(batch.inputs.shape, batch.input_length, loss)
        return count.result()

    def features(self, paths: list[str]) -> tuple[float, list[np.ndarray]]:
        """CPU seconds of the spectrograms of all files, and every tenth of them."""
        from deepspeech2.audio import load_audio
        from deepspeech2.features import spectrogram
        spect = SpectConfig()
        return per_file(paths, lambda path: spectrogram(load_audio(path, spect.sample_rate), spect))

    def decode(self, probs: np.ndarray, sizes: np.ndarray) -> tuple[float, list[str]]:
        """Median seconds of greedy decoding, and the texts."""
        from src.greedydecoder import MSGreedyDecoder
        decoder, outputs = MSGreedyDecoder(self.labels.characters), []
        seconds = timed(lambda: outputs.append(decoder.decode(probs, sizes)))
        return statistics.median(seconds), [text for text, in outputs[-1][0]]
