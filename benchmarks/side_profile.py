"""The process that takes our training step apart."""

import statistics
from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from benchmarks import side_ours
from benchmarks.measure import timed
from src.DeepSpeech import LossCell, output_lengths

WHOLE = "whole step"
UPDATE = "AdamW"


class Logits(nn.Cell):
    """In the place of the network: its inputs are the logits."""

    def construct(self, inputs, input_length, keep=None, with_middle=False):
        return inputs, input_length


class Sum(nn.Cell):
    """The sum of a cell's (first) output, which has a gradient."""

    def __init__(self, cell: nn.Cell):
        super().__init__(auto_prefix=False)
        self.cell = cell

    def construct(self, *inputs):
        output = self.cell(*inputs)
        return output[0].sum() if isinstance(output, tuple) else output.sum()


class WithBackward(nn.Cell):
    """A cell's output and its gradients, as one graph: `ms.value_and_grad` alone may be compiled at every call."""

    def __init__(self, cell: nn.Cell, position: int | None):
        super().__init__(auto_prefix=False)
        self.function = ms.value_and_grad(cell, position, tuple(cell.trainable_params()) or None)

    def construct(self, *inputs):
        return self.function(*inputs)


class Side(side_ours.Side):
    """As `side_ours`, and `measure`."""

    def parts(self) -> list[str]:
        """What can be measured."""
        return [WHOLE, "convolutions", *(f"LSTM layer {i + 1}" for i in range(len(self.network.rnns))), "CTC loss",
                UPDATE]

    def measure(self, part: str) -> tuple[float | None, float]:
        """Median seconds of the part forward (None where there is no such), and with its backward pass."""
        if part == WHOLE:
            self.train(least=0.0)
            return None, statistics.median(self.train(least=1.0)[0])
        self.network.set_train(True)
        if part == UPDATE:
            gradients = tuple(ms.ops.ones_like(p) for p in self.step.optimizer.parameters)
            rate = Tensor(0.0, ms.float32)
            return None, self._seconds(lambda: self.step.optimizer(gradients, rate))
        cell, inputs, position = self._part(part)
        both = WithBackward(cell, position)
        return self._seconds(lambda: cell(*inputs)), self._seconds(lambda: both(*inputs))

    def _part(self, part: str) -> tuple[nn.Cell, list[Tensor], int | None]:
        """A cell with one number as its output, its inputs, and which of them needs a gradient."""
        arrays = {name: Tensor(array) for name, array in self.batch.items()}
        lengths = output_lengths(arrays["input_length"], self.config.ModelConfig.time_stride)
        n, t = len(self.batch["inputs"]), int(lengths.max())
        rng = np.random.default_rng(0)
        if part == "convolutions":
            return Sum(self.network.conv), [arrays["inputs"], arrays["input_length"]], None
        if part == "CTC loss":
            logits = Tensor(rng.standard_normal((t, n, len(self.labels)), np.float32))
            loss = LossCell(Logits(), self.labels.blank_index)
            return loss, [logits, lengths, arrays["targets"], arrays["target_length"], Tensor(n, ms.float32)], 0
        layer = self.network.rnns[int(part.split()[-1]) - 1]
        width = layer.trainable_params()[0].shape[1]      # of the weights (4H, width)
        mask = (np.arange(t)[:, None] < lengths.asnumpy()).astype(np.float32)[..., None]      # (T', N, 1)
        return Sum(layer), [Tensor(rng.standard_normal((t, n, width), np.float32)), lengths, Tensor(mask)], 0

    @staticmethod
    def _seconds(function: Callable[[], object]) -> float:
        """Median seconds until the first number of what `function` gives is there."""
        def run() -> None:
            output = function()
            while isinstance(output, tuple):
                output = output[0]
            if isinstance(output, Tensor):
                output.asnumpy()

        for _ in range(2):      # compiles, and once more what is compiled at the second call
            run()
        return statistics.median(timed(run, 1.0))
