"""What the PyTorch process does when it is told: the same as `side_ours`, with the original's methods."""

import statistics
import time

import numpy as np
import torch

from benchmarks.measure import TURN_SECONDS, timed
from benchmarks.original import CharacterLoop, features, random_batches
from benchmarks.side_ours import LABELS_PATH, EpochCount, peak_memory, per_file
from benchmarks.torch_network import TorchDeepSpeech, TorchTrainStep
from deepspeech2.features import SpectConfig
from deepspeech2.labels import Labels
from src.config import Config
from src.manifest import read_manifest


class Side:
    """State of the process: a network, its step, and the batch to work on."""

    def __init__(self):
        self.labels = Labels.load(LABELS_PATH)
        self.network = self.step = self.config = self.batch = self.order = None

    def start(self) -> str:
        """Returns PyTorch's version."""
        return torch.__version__

    def peak_memory(self) -> float:
        return peak_memory()

    def matrix_product(self, size: int) -> dict[str, float]:
        """{library: best seconds of a float32 product of two (size, size) matrices}."""
        a = np.random.default_rng(0).standard_normal((size, size), np.float32)
        b = torch.from_numpy(a)
        return {"PyTorch": min(timed(lambda: b @ b)), "NumPy": min(timed(lambda: a @ a))}

    def build(self, config: Config) -> None:
        """The network with random weights, and its training step."""
        torch.manual_seed(0)
        self.network = TorchDeepSpeech(config.ModelConfig, config.DataConfig.SpectConfig.num_bins, len(self.labels))
        self.config = config
        self.step = TorchTrainStep(self.network, config.OptimConfig, config.TrainingConfig.max_grad_norm,
                                   self.labels.blank_index)

    def save_weights(self, path: str) -> None:
        """Give the network the statistics of the batch and decided outputs, and write it under our names."""
        with torch.no_grad():
            # else all probabilities lie near 1/C, and a wrong network could pass the comparison
            self.network.fc[0].module[1].weight.normal_(0, 2 / self.network.rnns[0].rnn.hidden_size ** 0.5)
            self.network.measure_statistics(*self._inputs())
        np.savez(path, **self.network.as_ours())

    def set_batch(self, batch: dict[str, np.ndarray]) -> None:
        """As `side_ours`; longest utterance first and labels one after the other, as the original's `_collate_fn`."""
        self.order = np.argsort(-batch["input_length"], kind="stable")
        batch = {name: array[self.order] for name, array in batch.items()}
        labels = [row[:n] for row, n in zip(batch["targets"], batch["target_length"], strict=True)]
        self.batch = batch | {"targets": np.concatenate(labels)}

    def _inputs(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(self.batch["inputs"]), torch.from_numpy(self.batch["input_length"])

    def train(self, least: float = TURN_SECONDS, learning_rate: float = 0.0) -> tuple[list[float], float, float]:
        """Seconds of steps from arrays to numbers, the loss and the gradient norm. Rate 0 keeps the weights."""
        outputs = []
        seconds = timed(lambda: outputs.append(self.step(
            *self._inputs(), torch.from_numpy(self.batch["targets"]), torch.from_numpy(self.batch["target_length"]),
            learning_rate)), least)
        return (seconds, *outputs[-1])

    def gradient_norms(self) -> dict[str, float]:
        """{our name: norm of the clipped gradient} of the last step."""
        return self.step.gradient_norms()

    def predict(self, path: str = "", least: float = TURN_SECONDS) -> tuple[list[float], tuple[np.ndarray, np.ndarray]]:
        """Seconds of predictions, (N, T', C) probabilities and (N,) lengths in the order of the batch given."""
        outputs = []
        seconds = timed(lambda: outputs.append(self.network.predict(*self._inputs())), least)
        back = np.argsort(self.order)
        return seconds, tuple(tensor.numpy()[back] for tensor in outputs[-1])

    def save_model(self, path: str) -> None:
        """The network's tensors alone, for `load_model` in a fresh process."""
        torch.save(self.network.state_dict(), path)

    def load_model(self, config: Config, path: str) -> float:
        """The network with the tensors of a file; returns the seconds it took."""
        started = time.perf_counter()
        self.network = TorchDeepSpeech(config.ModelConfig, config.DataConfig.SpectConfig.num_bins, len(self.labels))
        self.network.load_state_dict(torch.load(path))
        return time.perf_counter() - started

    def save_checkpoint(self, path: str) -> float:
        """Write the network and the optimizer's state; returns the seconds it took."""
        optimizer = self.step.optimizer
        if not optimizer.state:
            self.train(least=0.0)      # PyTorch makes the moments at the first step
        started = time.perf_counter()
        torch.save({"state_dict": self.network.state_dict(), "optimizer": optimizer.state_dict()}, path)
        return time.perf_counter() - started

    def load_checkpoint(self, path: str) -> float:
        """Read what `save_checkpoint` wrote into network and optimizer; returns the seconds it took."""
        started = time.perf_counter()
        content = torch.load(path)
        self.network.load_state_dict(content["state_dict"])
        self.step.optimizer.load_state_dict(content["optimizer"])
        return time.perf_counter() - started

    def epoch(self, limit: int | None) -> dict:
        """An epoch in random order, loading included; `limit` batches of it."""
        data = self.config.DataConfig
        manifest = read_manifest(data.train_manifest, self.labels)
        count = EpochCount()
        for batch in random_batches(manifest, self.labels, data.SpectConfig, data.batch_size, limit):
            loss, _ = self.step(*batch, self.config.OptimConfig.learning_rate)
            count.add(batch[0].shape, batch[1], loss)
        return count.result()

    def features(self, paths: list[str]) -> tuple[float, list[np.ndarray]]:
        """CPU seconds of the spectrograms of all files, and every tenth of them."""
        torch.set_num_threads(1)
        return per_file(paths, lambda path: features(path, SpectConfig()))

    def decode(self, probs: np.ndarray, sizes: np.ndarray) -> tuple[float, list[str]]:
        """Median seconds of greedy decoding, and the texts."""
        decoder, outputs = CharacterLoop(self.labels), []
        tensors = torch.from_numpy(probs), torch.from_numpy(sizes)
        seconds = timed(lambda: outputs.append(decoder.decode(*tensors)))
        return statistics.median(seconds), [text for text, in outputs[-1][0]]
