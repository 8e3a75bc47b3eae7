"""The convolution in the Fourier domain against MindSpore's own, and against a sum written out."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import ParameterTuple, Tensor, nn

from src.fourier_conv import FourierConv2d

pytestmark = pytest.mark.usefixtures("graph_mode")


class WithGradients(nn.Cell):
    """A cell's output, and the gradients of its sum weighted with `weights` for its input and its parameters."""

    def __init__(self, cell: nn.Cell, time_first: bool):
        super().__init__(auto_prefix=False)
        self.cell, self.time_first = cell, time_first
        self.value_and_grad = ms.value_and_grad(self._weighted, 0, ParameterTuple(cell.trainable_params()), True)

    def _weighted(self, *inputs):
        y = self.cell(inputs[0])
        if not self.time_first:
            y = y.transpose(3, 0, 1, 2)
        return (y * inputs[1]).sum(), y

    def construct(self, x, weights):
        (_, y), (dx, dw) = self.value_and_grad(x, weights)
        return y, dx, *dw


def pair(in_channels: int, out_channels: int, kernel: tuple[int, int], stride: int, num_bins: int):
    """Both convolutions with the same weights, compiled for any batch size and length."""
    ms.set_seed(0)
    fourier = FourierConv2d(in_channels, out_channels, kernel, stride, num_bins)
    plain = nn.Conv2d(in_channels, out_channels, kernel, (stride, 1), pad_mode="pad", has_bias=True,
                      padding=(kernel[0] // 2, kernel[0] // 2, kernel[1] // 2, kernel[1] // 2))
    for p, q in zip(fourier.get_parameters(), plain.get_parameters(), strict=True):
        assert (p.name, p.shape) == (q.name, q.shape)
        q.set_data(p.value().copy())
    cells = WithGradients(fourier, True), WithGradients(plain, False)
    for cell in cells:
        cell.set_inputs(Tensor(shape=[None, in_channels, num_bins, None], dtype=ms.float32),
                        Tensor(shape=[None, None, out_channels, None], dtype=ms.float32))
    return cells


@pytest.mark.parametrize(("channels", "kernel", "stride", "num_bins"), [
    ((32, 32), (21, 11), 2, 81),
    ((3, 5), (41, 11), 2, 81),
    ((2, 3), (41, 11), 2, 80),
    ((1, 2), (3, 33), 1, 7),    # longer than the usual transform of time
    ((2, 1), (1, 3), 3, 10),
])
def test_output_and_gradients_equal_the_plain_convolution(channels, kernel, stride, num_bins):
    fourier, plain = pair(*channels, kernel, stride, num_bins)
    rng = np.random.default_rng(1)
    for n, t in ((2, 50), (1, 1), (3, 17), (2, 22), (1, 66)):    # the third call too, and whole and broken blocks
        x = Tensor(rng.standard_normal((n, channels[0], num_bins, t), np.float32))
        shape = (t, n, channels[1], fourier.cell.out_bins)
        weights = Tensor(rng.standard_normal(shape, np.float32))
        results = fourier(x, weights), plain(x, weights)
        assert results[0][0].shape == shape
        for name, found, expected in zip(("output", "input", "weight", "bias"), *results, strict=True):
            error = np.linalg.norm(found.asnumpy() - expected.asnumpy()) / np.linalg.norm(expected.asnumpy())
            assert error < 1e-5, f"{name} at {(n, t)} differs by {error:.1e} of its norm"


def test_an_impulse_gives_the_kernel_back():
    """Output at (t, g) is the tap that reaches the impulse from there: no other convolution is asked."""
    cell = FourierConv2d(1, 1, (5, 3), 2, 9)
    weight = np.arange(1, 16, dtype=np.float32).reshape(1, 1, 5, 3)
    cell.weight.set_data(Tensor(weight))
    cell.bias.set_data(Tensor(np.array([100], np.float32)))
    x = np.zeros((1, 1, 9, 40), np.float32)
    x[0, 0, 4, 21] = 1.0    # at the end of a block: its taps fall into two
    y = cell(Tensor(x)).asnumpy()[:, 0, 0] - 100    # (T, G)
    expected = np.zeros((40, 5))
    for t in (20, 21, 22):
        for g in (1, 2, 3):
            expected[t, g] = weight[0, 0, 4 - 2 * g + 2, 21 - t + 1]
    np.testing.assert_allclose(y, expected, atol=1e-4)


def test_an_utterance_hears_nothing_of_its_neighbour():
    cell = FourierConv2d(2, 3, (21, 11), 2, 81)
    rng = np.random.default_rng(2)
    x = rng.standard_normal((2, 2, 81, 60), np.float32)
    together = cell(Tensor(x)).asnumpy()
    x[1] = 1000.0
    np.testing.assert_allclose(cell(Tensor(x)).asnumpy()[:, 0], together[:, 0], atol=1e-5)
