"""Our side of the benchmark. MindSpore is imported late: ONNX models are measured without it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.workers import FrameworkSide, timed
from deepspeech2.audio import load_audio
from deepspeech2.features import spectrogram
from src.config import Config, load_config
from src.dataset import Batch, BatchSource, training_batches
from src.greedydecoder import MSGreedyDecoder
from src.manifest import read_manifest
from src.stored_models import load_model
from src.training_data import TrainingData


class Side(FrameworkSide):
    """A network with its training step, stored models, and a batch."""

    def start(self) -> None:
        """Import MindSpore and select the CPU."""
        from src.device import set_device
        set_device("CPU")

    def multiply(self, size: int, library: str) -> float:
        self.start()
        from mindspore import Tensor, ops
        matrix = Tensor(np.random.default_rng(0).standard_normal((size, size), np.float32))
        product = ops.MatMul()
        product(matrix, matrix).asnumpy()  # compiles
        return min(timed(lambda: product(matrix, matrix).asnumpy())[0])

    def build(self, config: Config, folder: Path | None = None) -> None:
        """The network and its training step, with the weights that PyTorch's side saved.

        Without a folder the weights are random.
        """
        self.start()
        import mindspore as ms

        from src.checkpoint import load_parameters
        from src.DeepSpeech import DeepSpeech, LossCell, dynamic_loss_inputs
        from src.heap import KeptMemory
        from src.optimizer import TrainStep, create_optimizer
        ms.set_seed(0)
        self.config = config
        self.network = DeepSpeech(config.ModelConfig, self.spect.num_bins, len(self.labels))
        if folder:
            with np.load(folder / "weights.npz") as arrays:
                found = dict(arrays)
            load_parameters(self.network.get_parameters(), found, folder)
        self.step_cell = TrainStep(
            LossCell(self.network, self.labels.blank_index),
            create_optimizer(self.network.layers(), config.OptimConfig),
            [p for p in self.network.get_parameters() if not p.requires_grad],
            config.OptimConfig.loss_scale,
            config.TrainingConfig.max_grad_norm,
        )
        rate = ms.Tensor(shape=[], dtype=ms.float32)
        self.step_cell.set_inputs(*dynamic_loss_inputs(self.spect.num_bins), rate, None)
        self.step_cell.set_train(True)
        self.kept = KeptMemory(0)
        self.size = sum(p.size for p in self.network.get_parameters())

    def step(self, batch: Batch, learning_rate: float) -> tuple[float, float]:
        from mindspore import Tensor, float32

        from src.memory import KEPT, training_peak
        utterances, _, bins, frames = batch.inputs.shape
        peak = training_peak(self.config.ModelConfig, bins, self.size, utterances, frames)
        self.kept.limit = max(self.kept.limit, KEPT * peak)  # as train.py where there is room
        loss, norm, _ = self.step_cell(
            Tensor(batch.inputs), Tensor(batch.input_length), Tensor(batch.targets),
            Tensor(batch.target_length), Tensor(len(batch.inputs), float32),
            Tensor(learning_rate, float32), None)
        self.kept.after_step()
        return loss.asnumpy().item(), norm.asnumpy().item()

    def save_checkpoint(self, path: str) -> None:
        from src.checkpoint import arrays_of, save_checkpoint
        stored = arrays_of(self.step_cell.stored_parameters())
        save_checkpoint(path, stored, self.config.model_info(self.labels))

    def load_checkpoint(self, path: str) -> None:
        from src.checkpoint import load_checkpoint, load_parameters
        checkpoint = load_checkpoint(path)
        load_parameters(self.step_cell.stored_parameters(), checkpoint.parameters, checkpoint.path)

    def save_network(self, path: str) -> None:
        """Write a checkpoint without the optimizer's state."""
        from src.checkpoint import arrays_of, save_checkpoint
        parameters = arrays_of(self.network.get_parameters())
        save_checkpoint(path, parameters, self.config.model_info(self.labels))

    def export(self, folder: Path) -> None:
        """Write the weights in all formats."""
        from src.exporting import export_mindir, export_onnx
        checkpoint, config = str(folder / "model.ckpt"), load_config()
        self.save_network(checkpoint)
        export_mindir(checkpoint, config, folder / "model.mindir")
        export_onnx(checkpoint, config, folder / "model.onnx")
        export_onnx(checkpoint, config, folder / "int8.onnx", "int8")

    def load_model(self, path: str) -> None:
        if path.endswith(".mindir"):
            self.start()
        self.model = load_model(path)

    def predict(self) -> tuple[np.ndarray, np.ndarray]:
        return self.model.acoustic(self.batch.inputs, self.batch.input_length)

    def epoch_batches(self) -> Iterator[Batch]:
        """The batches of the second epoch of a training run, without augmentation."""
        config = self.config.DataConfig
        manifest = read_manifest(config.train_manifest, self.labels)
        data = TrainingData(manifest, self.labels, self.config)
        batches = data.batches(1, data.plan(ranks=1))
        source = BatchSource(manifest, batches, self.labels, config.SpectConfig)
        return training_batches(source, config.num_workers)

    def feature(self, path: str) -> np.ndarray:
        return spectrogram(load_audio(path, self.spect.sample_rate), self.spect)

    def decode(self, probs: np.ndarray, sizes: np.ndarray) -> list[list[str]]:
        return MSGreedyDecoder(self.labels.characters).decode(probs, sizes)[0]
