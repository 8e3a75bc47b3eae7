"""The network's two convolutions as products in the Fourier domain: for the CPU, where MindSpore's own are slow.

MindSpore 2.8 multiplies the unfolded input (im2col) with the weights, at a third of the speed of PyTorch's kernels. By
the convolution theorem the second convolution of DeepSpeech2 needs a sixth of the arithmetic, the first one half.
Transforms of such sizes are matrices that the input is multiplied with, so everything here is a matrix product, which
runs at the speed of the machine, and the gradients follow by automatic differentiation.

Axes: N batch, C input and D output channel, F input and G output frequency bin, T frame; P and Q points of the
transforms of frequency and time; B blocks of frames. A complex axis has twice its size: real and imaginary parts.
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from src.config import strided_size

TIME_POINTS = 32    # unless the kernel is too long for it; measured: 48 and 64 are not faster


class _FourierConv2d(nn.Conv2d):
    """What both have in common: parameters as `nn.Conv2d`, half-kernel padding, and the transforms of frequency.

    Frequency is transformed at once, with a period so long that the ends do not meet; the transform back computes only
    the bins that the stride keeps. The weights are correlated with the input, so their transforms turn the other way.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, int], stride: tuple[int, int],
                 num_bins: int):
        half_f, half_t = kernel[0] // 2, kernel[1] // 2
        super().__init__(in_channels, out_channels, kernel, stride, pad_mode="pad",
                         padding=(half_f, half_f, half_t, half_t), has_bias=True)
        self.taps_f, self.taps_t, self.half_t = kernel[0], kernel[1], half_t
        self.out_bins = strided_size(num_bins, stride[0])
        period = (num_bins + half_f) // 2 * 2 + 1    # odd: then point 0 alone has no mirror image
        p = np.arange((period + 1) // 2)
        self.points = len(p)
        bins = _complex_rows(_transform(p, np.arange(num_bins), -period))                       # (2, P, 2, F)
        self.bins_to_points = _constant(bins[:, :, 0].swapaxes(0, 1), 2 * self.points)          # (P2, F)
        taps = _complex_rows(_transform(p, np.arange(kernel[0]) - half_f, period))
        self.taps_to_points = _constant(taps[:, :, 0].swapaxes(0, 1), 2 * self.points)          # (P2, taps)
        mirrored = np.where(p == 0, 1, 2) / period
        back = _complex_rows(_transform(stride[0] * np.arange(self.out_bins), p, period) * mirrored)
        self.points_to_bins = _constant(back[0].swapaxes(1, 2), self.out_bins)                  # (G, P2)
        self.matmul, self.matmuls, self.add_bias = ops.MatMul(), ops.BatchMatMul(), ops.BiasAdd()

    def transformed_weight(self):
        """(P, 2 * time taps, D * C)."""
        w = self.weight.transpose(2, 3, 0, 1).reshape(self.taps_f, -1)
        return self.matmul(self.taps_to_points, w).reshape(self.points, 2 * self.taps_t, -1)


class FourierConv1(_FourierConv2d):
    """`nn.Conv2d` from one channel, with stride 2 in both directions; only frequency is transformed.

    Args:
        num_bins: F.
        kernel: (frequency, time), odd.

    Inputs: (N, 1, F, T) float32.
    Outputs: (G, D, T', N), the order that `FourierConv2` takes. Nothing flows back to the inputs' gradient in training,
    as nobody asks for it.
    """

    def __init__(self, out_channels: int, kernel: tuple[int, int], num_bins: int):
        super().__init__(1, out_channels, kernel, (2, 2), num_bins)

    def construct(self, x):
        n, _, f, t = x.shape
        d, taps = self.out_channels, self.taps_t
        frames = (t - 1) // 2 + 1
        w = self.transformed_weight()                                                    # (P, 2 * taps, D)
        real, imag = w[:, :taps], w[:, taps:]
        w = ops.concat((ops.concat((real, -imag), 1), ops.concat((imag, real), 1)), 2)   # (P, 2 * taps, 2 * D)

        width = frames + taps // 2    # of the frames at even places, and of those at odd ones
        x = ops.concat((ops.zeros((n, f, self.half_t), ms.float32), x.reshape(n, f, t),
                        ops.zeros((n, f, 2 * width - self.half_t - t), ms.float32)), 2)
        x = x.reshape(n, f, width, 2).transpose(1, 3, 2, 0)                              # (F, 2, width, N)
        shifted = ()
        for tap in range(taps):
            shifted += (ops.slice(x, (0, tap % 2, tap // 2, 0), (f, 1, frames, n)),)
        x = ops.concat(shifted, 1).reshape(f, taps * frames * n)
        x = self.matmul(self.bins_to_points, x).reshape(self.points, 2 * taps, frames * n)
        y = self.matmuls(w.transpose(0, 2, 1), x).reshape(2 * self.points, d * frames * n)
        y = self.matmul(self.points_to_bins, y).reshape(self.out_bins, d, frames, n)
        return self.add_bias(y, self.bias)


class FourierConv2(_FourierConv2d):
    """`nn.Conv2d` with any stride; frequency and time are transformed.

    Time is transformed in blocks; their results overlap by the kernel less one frame and are added. A stride in time
    only leaves out results.

    Args:
        num_bins: F.
        kernel: (frequency, time), odd, longer than a frame.
        stride: (frequency, time).

    Inputs: (F, C, T, N) float32.
    Outputs: (T', N, D, G), time first as recurrent layers want it.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, int], stride: tuple[int, int],
                 num_bins: int):
        super().__init__(in_channels, out_channels, kernel, stride, num_bins)
        self.stride_t = stride[1]
        self.time_points = max(TIME_POINTS, 2 * kernel[1])
        self.overlap = kernel[1] - 1
        self.hop = self.time_points - self.overlap
        q = np.arange(self.time_points)
        frames = _complex_rows(_transform(q, np.arange(self.hop), -self.time_points))           # (2, Q, 2, hop)
        self.frames_to_real, self.frames_to_imag = (_constant(part, self.time_points) for part in frames)
        taps = _complex_rows(_transform(q, np.arange(-self.overlap, 1), self.time_points))
        self.time_taps_to_points = _constant(taps.swapaxes(0, 1), 2 * self.time_points)         # (Q2, 2 taps)
        inverse = _transform(q, q, self.time_points) / self.time_points
        self.real_to_frames, self.imag_to_frames = (                                            # (2 frames, Q2)
            _constant(_complex_rows(factor * inverse).swapaxes(2, 3), 2 * self.time_points) for factor in (1, 1j))

    def construct(self, x):
        f, c, t, n = x.shape
        d, p, q = self.out_channels, self.points, self.time_points
        blocks = (t + self.half_t) // self.hop + 1
        w = self._at_each_point(self.time_taps_to_points, self.transformed_weight()).reshape(p * q, 2 * d, c)

        x = ops.concat((x, ops.zeros((f, c, blocks * self.hop - t, n), ms.float32)), 2)
        x = x.reshape(f, c, blocks, self.hop, n).transpose(0, 3, 1, 2, 4)                # (F, hop, C, B, N)
        x = self.matmul(self.bins_to_points, x.reshape(f, self.hop * c * blocks * n))
        x = x.reshape(p, 2 * self.hop, c * blocks * n)
        y = (self._filter(self.frames_to_real, x, w, blocks * n, self.real_to_frames)
             + self._filter(self.frames_to_imag, x, w, blocks * n, self.imag_to_frames))    # (P, 2 * Q, D*B*N)
        y = self.matmul(self.points_to_bins, y.reshape(2 * p, q * d * blocks * n))
        y = y.reshape(self.out_bins, q, d, blocks, n)

        late = ops.slice(y[:, self.hop:], (0, 0, 0, 0, 0), (self.out_bins, self.overlap, d, blocks - 1, n))
        late = ops.concat((ops.zeros((self.out_bins, self.overlap, d, 1, n), ms.float32), late), 3)
        y = ops.concat((y[:, :self.overlap] + late, y[:, self.overlap:self.hop]), 1)     # (G, hop, D, B, N)
        y = y.transpose(3, 1, 4, 2, 0).reshape(blocks * self.hop, n, d, self.out_bins)
        y = y[self.half_t:self.half_t + t:self.stride_t]
        frames = strided_size(t, self.stride_t)
        return self.add_bias(y.reshape(frames * n, d, self.out_bins), self.bias).reshape(frames, n, d, self.out_bins)

    def _filter(self, to_points, x, w, columns, to_frames):
        """One part, real or imaginary, of the transformed input, times the weights, transformed back."""
        x = self._at_each_point(to_points, x).reshape(-1, self.in_channels, columns)     # (P*Q, C, B*N)
        y = self.matmuls(w, x).reshape(self.points, 2 * self.time_points, -1)             # (P, Q2, D*B*N)
        return self._at_each_point(to_frames, y)

    def _at_each_point(self, matrix, x):
        """(rows, columns) times each of (P, columns, any)."""
        return self.matmuls(ops.broadcast_to(matrix, (self.points, *matrix.shape)), x)


def _transform(a: np.ndarray, b: np.ndarray, period: int) -> np.ndarray:
    """(A,), (B,) -> (A, B) complex roots of unity, turning backward for a negative period."""
    return np.exp(2j * np.pi * np.outer(a, b) / period)


def _complex_rows(matrix: np.ndarray) -> np.ndarray:
    """(A, B) complex -> (2, A, 2, B): what takes real and imaginary parts of the columns to those of the rows."""
    return np.stack([np.stack([matrix.real, -matrix.imag], 1), np.stack([matrix.imag, matrix.real], 1)])


def _constant(array: np.ndarray, rows: int) -> Tensor:
    return Tensor(array.reshape(rows, -1).astype(np.float32))
