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
        """The best seconds of a float32 product of two (size, size) matrices."""
        self.start()
        from mindspore import Tensor, ops
        matrix = Tensor(np.random.default_rng(0).standard_normal((size, size), np.float32))
        product = ops.MatMul()
        product(matrix, matrix).asnumpy()  # compiles
        return min(timed(lambda: product(matrix, matrix).asnumpy())[0])

    def build(self, config: Config, weights: str = "") -> None:
        """The network and its training step; weights from an .npz file, '' for random ones."""
        self.start()
        import mindspore as ms

        from src.checkpoint import load_parameters
        from src.DeepSpeech import DeepSpeech, LossCell, dynamic_loss_inputs
        from src.optimizer import TrainStep, create_optimizer
        ms.set_seed(0)
        self.config = config
        self.network = DeepSpeech(config.ModelConfig, self.spect.num_bins, len(self.labels))
        if weights:
            with np.load(weights) as arrays:
                found = {name: ms.Parameter(ms.Tensor(arrays[name])) for name in arrays.files}
            load_parameters(self.network.get_parameters(), found, Path(weights))
        self.step_cell = TrainStep(
            LossCell(self.network, self.labels.blank_index),
            create_optimizer(self.network.trainable_params(), config.OptimConfig),
            [p for p in self.network.get_parameters() if not p.requires_grad],
            config.OptimConfig.loss_scale,
            config.TrainingConfig.max_grad_norm,
        )
        rate = ms.Tensor(shape=[], dtype=ms.float32)
        self.step_cell.set_inputs(*dynamic_loss_inputs(self.spect.num_bins), rate, None)
        self.step_cell.set_train(True)

    def step(self, batch: Batch, learning_rate: float) -> tuple[float, float]:
        """One training step, from arrays to numbers: loss, gradient norm before clipping."""
        from mindspore import Tensor, float32
        loss, norm, updated = self.step_cell(
            Tensor(batch.inputs), Tensor(batch.input_length), Tensor(batch.targets),
            Tensor(batch.target_length), Tensor(len(batch.inputs), float32),
            Tensor(learning_rate, float32), None)
        if not updated.asnumpy():
            raise ValueError("the loss or the gradient is not finite")
        return loss.asnumpy().item(), norm.asnumpy().item()

    def gradient_norms(self) -> dict[str, float]:
        """{name: norm of the clipped gradient} of the very first step.

        Adam's first moment is (1 - beta1) times the gradient then.
        """
        optimizer, (beta1, _) = self.step_cell.optimizer, self.config.OptimConfig.betas
        moments = zip(optimizer.parameters, optimizer.moment1, strict=True)
        return {parameter.name: np.linalg.norm(moment.asnumpy().astype(float)).item() / (1 - beta1)
                for parameter, moment in moments}

    def save_checkpoint(self, path: str, weights_only: bool = False) -> None:
        """Write the network, and the optimizer's state unless `weights_only`."""
        from src.checkpoint import save_checkpoint
        own = self.network.get_parameters() if weights_only else self.step_cell.stored_parameters()
        save_checkpoint(path, own, self.config.model_info(self.labels))

    def load_checkpoint(self, path: str) -> None:
        """Read what `save_checkpoint` wrote into the network and the optimizer's state."""
        from src.checkpoint import load_checkpoint, load_parameters
        checkpoint = load_checkpoint(path)
        load_parameters(self.step_cell.stored_parameters(), checkpoint.parameters, checkpoint.path)

    def export(self, checkpoint: str, mindir: str, onnx: str, int8: str) -> None:
        """Write a checkpoint in all other formats."""
        from src.exporting import export_mindir, export_onnx
        export_mindir(checkpoint, load_config(), Path(mindir))
        export_onnx(checkpoint, load_config(), Path(onnx))
        export_onnx(checkpoint, load_config(), Path(int8), "int8")

    def load_model(self, path: str) -> None:
        """Load a model (.ckpt, .mindir, .onnx) for `predict`."""
        if not path.endswith(".onnx"):
            self.start()
        self.models[path] = load_model(path)

    def predict(self, path: str) -> tuple[np.ndarray, np.ndarray]:
        """The batch's (N, T', C) probabilities and (N,) lengths by a model."""
        return self.models[path].acoustic(self.batch.inputs, self.batch.input_length)

    def epoch_batches(self, limit: int | None) -> Iterator[Batch]:
        """The batches of the second epoch of a training run, without augmentation."""
        config = self.config.DataConfig
        manifest = read_manifest(config.train_manifest, self.labels)
        data = TrainingData(manifest, self.labels, self.config)
        batches = data.batches(1, config.batch_size, ranks=1)[:limit]
        source = BatchSource(manifest, batches, self.labels, config.SpectConfig)
        return training_batches(source, config.num_workers)

    def feature(self, path: str) -> np.ndarray:
        """A recording -> (F, T) spectrogram."""
        return spectrogram(load_audio(path, self.spect.sample_rate), self.spect)

    def decode(self, probs: np.ndarray, sizes: np.ndarray) -> list[list[str]]:
        """(N, T, C), (N,) -> [[greedy text]]."""
        return MSGreedyDecoder(self.labels.characters).decode(probs, sizes)[0]
