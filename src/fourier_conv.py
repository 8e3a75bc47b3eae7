"""A convolution as products in the Fourier domain: for the CPU, where MindSpore's own convolution is slow.

MindSpore 2.8 multiplies the unfolded input (im2col) with the weights, at a third of the speed of PyTorch's kernels. By
the convolution theorem the second convolution of DeepSpeech2 needs a sixth of the arithmetic. Transforms of such sizes
are matrices that the input is multiplied with, so everything here is a matrix product, which runs at the speed of the
machine, and the gradients follow by automatic differentiation.

Axes: N batch, C input and D output channel, F input and G output frequency bin, T frame; P and Q points of the
transforms of frequency and time; B blocks of frames. A complex axis has twice its size: real and imaginary parts.
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

POINTS = 32    # of the transform of time, unless the kernel is too long for it; measured: 48 and 64 are not faster


class FourierConv2d(nn.Conv2d):
    """`nn.Conv2d` with half-kernel padding, a stride in frequency and a bias: the same numbers but for rounding (1e-6).

    Frequency is transformed at once, with a period so long that the ends do not meet; the transform back computes only
    the bins that the stride keeps. Time is transformed in blocks; their results overlap and are added.

    Args:
        num_bins: F.
        kernel: (frequency, time), odd, longer than a frame.
        stride: of frequency; that of time is 1.

    Inputs: (N, C, F, T) float32.
    Outputs: (T, N, D, G), time first as recurrent layers want it.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, int], stride: int, num_bins: int):
        half_f, half_t = kernel[0] // 2, kernel[1] // 2
        super().__init__(in_channels, out_channels, kernel, (stride, 1), pad_mode="pad",
                         padding=(half_f, half_f, half_t, half_t), has_bias=True)
        self.taps_f, self.taps_t, self.half_t = kernel[0], kernel[1], half_t
        self.time_points = max(POINTS, 2 * kernel[1])
        self.overlap = kernel[1] - 1
        self.hop = self.time_points - self.overlap
        period = (num_bins + half_f) // 2 * 2 + 1    # odd: then point 0 alone has no mirror image
        p, q = np.arange((period + 1) // 2), np.arange(self.time_points)
        self.points, self.in_bins = len(p), num_bins
        self.out_bins = (num_bins + 2 * half_f - kernel[0]) // stride + 1

        # the weights are correlated with the input, not convolved: their transforms have the opposite sign
        bins = _complex_rows(_transform(p, np.arange(num_bins), -period))                       # (2, P, 2, F)
        self.bins_to_points = _constant(bins[:, :, 0].swapaxes(0, 1), 2 * self.points)          # (P2, F)
        taps = _complex_rows(_transform(p, np.arange(kernel[0]) - half_f, period))
        self.taps_to_points = _constant(taps[:, :, 0].swapaxes(0, 1), 2 * self.points)          # (P2, taps)
        mirrored = np.where(p == 0, 1, 2) / period
        back = _complex_rows(_transform(stride * np.arange(self.out_bins), p, period) * mirrored)
        self.points_to_bins = _constant(back[0].swapaxes(1, 2), self.out_bins)                  # (G, P2)

        frames = _complex_rows(_transform(q, np.arange(self.hop), -self.time_points))           # (2, Q, 2, hop)
        self.frames_to_real, self.frames_to_imag = (_constant(part, self.time_points) for part in frames)
        taps = _complex_rows(_transform(q, np.arange(-self.overlap, 1), self.time_points))
        self.time_taps_to_points = _constant(taps.swapaxes(0, 1), 2 * self.time_points)         # (Q2, 2 taps)
        inverse = _transform(q, q, self.time_points) / self.time_points
        self.real_to_frames, self.imag_to_frames = (                                            # (2 frames, Q2)
            _constant(_complex_rows(factor * inverse).swapaxes(2, 3), 2 * self.time_points) for factor in (1, 1j))
        self.matmul, self.matmuls = ops.MatMul(), ops.BatchMatMul()

    def construct(self, x):
        n, c, f, t = x.shape
        d, p, q = self.out_channels, self.points, self.time_points
        blocks = (t + self.half_t) // self.hop + 1

        w = self.weight.transpose(2, 3, 0, 1).reshape(self.taps_f, self.taps_t * d * c)
        w = self.matmul(self.taps_to_points, w).reshape(p, 2 * self.taps_t, d * c)
        w = self._at_each_point(self.time_taps_to_points, w).reshape(p * q, 2 * d, c)

        x = ops.concat((x, ops.zeros((n, c, f, blocks * self.hop - t), ms.float32)), 3)
        x = x.reshape(n, c, f, blocks, self.hop).transpose(2, 4, 1, 3, 0)                # (F, hop, C, B, N)
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
        return y[self.half_t:self.half_t + t] + self.bias.reshape(d, 1)

    def _filter(self, to_points, x, w, columns, to_frames):
        """One part, real or imaginary, of the transformed input, times the weights, transformed back."""
        x = self._at_each_point(to_points, x).reshape(-1, self.in_channels, columns)    # (P*Q, C, B*N)
        y = self.matmuls(w, x).reshape(self.points, 2 * self.time_points, -1)            # (P, Q2, D*B*N)
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
