"""The convolution in the Fourier domain against MindSpore's own, and against a sum written out."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import ParameterTuple, Tensor, nn

from src.fourier_conv import FourierConv1, FourierConv2

pytestmark = pytest.mark.usefixtures("graph_mode")


class FromConv1(nn.Cell):
    """(N, 1, F, T) to (N, D, G, T') and its gradients for the parameters, not for spectrograms."""

    def __init__(self, cell: nn.Cell, order: tuple[int, ...]):
        super().__init__(auto_prefix=False)
        self.cell, self.order = cell, order
        self.value_and_grad = ms.value_and_grad(self._weighted, None,
                                                ParameterTuple(cell.trainable_params()), True)

    def _weighted(self, *inputs):
        y = self.cell(inputs[0]).transpose(self.order)
        return (y * inputs[1]).sum(), y

    def construct(self, x, weights):
        (_, y), gradients = self.value_and_grad(x, weights)
        return y, *gradients


class FromConv2(nn.Cell):
    """(N, C, F, T) to (N, D, G, T) and its gradients, those for the input first."""

    def __init__(self, cell: nn.Cell, before: tuple[int, ...], after: tuple[int, ...]):
        super().__init__(auto_prefix=False)
        self.cell, self.before, self.after = cell, before, after
        self.value_and_grad = ms.value_and_grad(self._weighted, 0,
                                                ParameterTuple(cell.trainable_params()), True)

    def _weighted(self, *inputs):
        y = self.cell(inputs[0].transpose(self.before)).transpose(self.after)
        return (y * inputs[1]).sum(), y

    def construct(self, x, weights):
        (_, y), (dx, gradients) = self.value_and_grad(x, weights)
        return y, dx, *gradients


def plain_like(fourier: nn.Conv2d, kernel: tuple[int, int], stride: tuple[int, int]) -> nn.Conv2d:
    """MindSpore's convolution with the same weights."""
    plain = nn.Conv2d(fourier.in_channels, fourier.out_channels, kernel, stride, pad_mode="pad",
                      has_bias=True,
                      padding=(kernel[0] // 2, kernel[0] // 2, kernel[1] // 2, kernel[1] // 2))
    for p, q in zip(fourier.get_parameters(), plain.get_parameters(), strict=True):
        assert (p.name, p.shape) == (q.name, q.shape)
        q.set_data(p.value().copy())
    return plain


def compare(fourier: nn.Cell, plain: nn.Cell, channels: tuple[int, int], num_bins: int, sizes,
            time_stride: int):
    """Output and gradients at several calls of the same graphs, with whole and broken blocks."""
    out_channels, out_bins = channels[1], fourier.cell.out_bins
    for cell in (fourier, plain):
        cell.set_inputs(Tensor(shape=[None, channels[0], num_bins, None], dtype=ms.float32),
                        Tensor(shape=[None, out_channels, out_bins, None], dtype=ms.float32))
    rng = np.random.default_rng(1)
    for n, t in sizes:
        x = Tensor(rng.standard_normal((n, channels[0], num_bins, t), np.float32))
        shape = (n, out_channels, out_bins, (t - 1) // time_stride + 1)
        weights = Tensor(rng.standard_normal(shape, np.float32))
        results = fourier(x, weights), plain(x, weights)
        assert results[0][0].shape == shape
        for i, (found, expected) in enumerate(zip(*results, strict=True)):
            error = np.linalg.norm(found.asnumpy() - expected.asnumpy()) / np.linalg.norm(
                expected.asnumpy())
            assert error < 1e-5, f"result {i} at {(n, t)} differs by {error:.1e} of its norm"


@pytest.mark.parametrize(("out_channels", "kernel", "num_bins"), [
    (32, (41, 11), 161),
    (3, (41, 11), 160),
    (2, (5, 1), 9),
])
def test_the_first_convolution_equals_the_plain_one(out_channels, kernel, num_bins):
    fourier = FourierConv1(out_channels, kernel, num_bins)
    plain = plain_like(fourier, kernel, (2, 2))
    compare(FromConv1(fourier, (3, 1, 0, 2)), FromConv1(plain, (0, 1, 2, 3)), (1, out_channels),
            num_bins, ((2, 50), (1, 1), (3, 17), (2, 22), (1, 2)), 2)


@pytest.mark.parametrize(("channels", "kernel", "stride", "num_bins"), [
    ((32, 32), (21, 11), (2, 1), 81),
    ((3, 5), (41, 11), (2, 2), 81),
    ((2, 3), (41, 11), (2, 1), 80),
    ((1, 2), (3, 33), (1, 1), 7),  # longer than the usual transform of time
    ((2, 1), (1, 3), (3, 2), 10),
])
def test_the_second_convolution_equals_the_plain_one(channels, kernel, stride, num_bins):
    fourier = FourierConv2(*channels, kernel, stride, num_bins)
    plain = plain_like(fourier, kernel, stride)
    compare(FromConv2(fourier, (2, 1, 3, 0), (1, 2, 3, 0)),
            FromConv2(plain, (0, 1, 2, 3), (0, 1, 2, 3)), channels,
            num_bins, ((2, 50), (1, 1), (3, 17), (2, 22), (1, 66)), stride[1])


def test_an_impulse_gives_the_kernel_back():
    """Output at (t, g) is the tap that reaches the impulse; no other convolution is asked."""
    cell = FourierConv2(1, 1, (5, 3), (2, 1), 9)
    weight = np.arange(1, 16, dtype=np.float32).reshape(1, 1, 5, 3)
    cell.weight.set_data(Tensor(weight))
    cell.bias.set_data(Tensor(np.array([100], np.float32)))
    x = np.zeros((9, 1, 60, 1), np.float32)
    at = cell.hop  # the first frame of a block: its taps reach into the one before
    x[4, 0, at] = 1.0
    y = cell(Tensor(x)).asnumpy()[:, 0, 0] - 100  # (T, G)
    expected = np.zeros((60, 5))
    for t in (at - 1, at, at + 1):
        for g in (1, 2, 3):
            expected[t, g] = weight[0, 0, 4 - 2 * g + 2, at - t + 1]
    np.testing.assert_allclose(y, expected, atol=1e-4)


def test_an_utterance_hears_nothing_of_its_neighbour():
    cell = FourierConv2(2, 3, (21, 11), (2, 1), 81)
    rng = np.random.default_rng(2)
    x = rng.standard_normal((81, 2, 60, 2), np.float32)
    together = cell(Tensor(x)).asnumpy()
    x[..., 1] = 1000.0
    np.testing.assert_allclose(cell(Tensor(x)).asnumpy()[:, 0], together[:, 0], atol=1e-5)
