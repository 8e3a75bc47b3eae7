"""The network's two convolutions as products in the Fourier domain, for speed on CPU.

MindSpore 2.8 computes a convolution on CPU by unfolding the input (im2col), at a third of the speed
of PyTorch's kernels. By the convolution theorem the second convolution of DeepSpeech2 needs a sixth
of the arithmetic, and the first one half. The transforms are short, so they are products with
constant matrices: all operations here are matrix products at the full speed of the machine, and
automatic differentiation gives the gradients.

Axes: N batch, C input and D output channel, F input and G output frequency bin, T frame; P and Q
points of the transforms of frequency and time; B blocks of frames. P2 and Q2 are axes of complex
numbers, twice as long as P and Q: the real parts, then the imaginary parts.
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from src.config import strided_size

TIME_POINTS = 32  # more for kernels over 16 frames; measured: 48 and 64 are not faster


class _FourierConv2d(nn.Conv2d):
    """Base class: the parameters of `nn.Conv2d`, half-kernel padding, and the frequency transforms.

    The frequency axis is transformed as a whole, with a period so long that its ends do not
    overlap. The inverse transform computes only the bins that the stride keeps. The weights are
    correlated with the input, so their transforms use the conjugate roots of unity.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        num_bins: int,
    ):
        half_f, half_t = kernel[0] // 2, kernel[1] // 2
        padding = (half_f, half_f, half_t, half_t)
        super().__init__(
            in_channels, out_channels, kernel, stride, "pad", padding=padding, has_bias=True
        )
        self.taps_f, self.taps_t, self.half_t = kernel[0], kernel[1], half_t
        self.out_bins = strided_size(num_bins, stride[0])
        period = (num_bins + half_f) // 2 * 2 + 1  # odd: only point 0 has no mirror image
        p = np.arange((period + 1) // 2)  # the other points are mirror images of these
        self.points = len(p)
        bins = _complex_rows(_transform(p, np.arange(num_bins), -period))  # (2, P, 2, F)
        bins = bins[:, :, 0].swapaxes(0, 1)  # the input is real
        self.bins_to_points = _constant(bins, 2 * self.points)  # (P2, F)
        taps = _complex_rows(_transform(p, np.arange(kernel[0]) - half_f, period))
        taps = taps[:, :, 0].swapaxes(0, 1)  # the weights are real
        self.taps_to_points = _constant(taps, 2 * self.points)  # (P2, frequency taps)
        mirrored = np.where(p == 0, 1, 2) / period
        back = _transform(stride[0] * np.arange(self.out_bins), p, period) * mirrored
        back = _complex_rows(back)[0].swapaxes(1, 2)  # the output is real
        self.points_to_bins = _constant(back, self.out_bins)  # (G, P2)
        self.matmul, self.matmuls, self.add_bias = ops.MatMul(), ops.BatchMatMul(), ops.BiasAdd()

    def transformed_weight(self):
        """The weights with transformed frequency, (P, 2 * time taps, D * C) float32."""
        w = self.weight.transpose(2, 3, 0, 1).reshape(self.taps_f, -1)
        return self.matmul(self.taps_to_points, w).reshape(self.points, 2 * self.taps_t, -1)


class FourierConv1(_FourierConv2d):
    """`nn.Conv2d` for one input channel and stride 2 on both axes; only frequency is transformed.

    Args:
        out_channels: D.
        kernel: (frequency, time), odd numbers.
        num_bins: F.

    Inputs:
        x: (N, 1, F, T) float32.

    Outputs:
        (G, D, T', N) float32, the order that `FourierConv2` reads.
    """

    def __init__(self, out_channels: int, kernel: tuple[int, int], num_bins: int):
        super().__init__(1, out_channels, kernel, (2, 2), num_bins)

    def construct(self, x):
        n, _, f, t = x.shape
        d, taps = self.out_channels, self.taps_t
        frames = (t - 1) // 2 + 1
        w = self.transformed_weight()  # (P, 2 * taps, D)
        real, imag = w[:, :taps], w[:, taps:]
        # (P, 2 * taps, 2 * D)
        w = ops.concat((ops.concat((real, -imag), 1), ops.concat((imag, real), 1)), 2)

        # even and odd frames become an axis of their own, so that taps are slices without a stride
        width = frames + taps // 2
        before = ops.zeros((n, f, self.half_t), ms.float32)
        after = ops.zeros((n, f, 2 * width - self.half_t - t), ms.float32)
        x = ops.concat((before, x.reshape(n, f, t), after), 2)
        x = x.reshape(n, f, width, 2).transpose(1, 3, 2, 0)  # (F, 2, width, N)
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

    Time is transformed in blocks. The results of neighbouring blocks overlap by the kernel length
    minus one frame, and are added (overlap-add). A stride in time only drops results.

    Args:
        in_channels: C.
        out_channels: D.
        kernel: (frequency, time), odd numbers, time above 1.
        stride: (frequency, time).
        num_bins: F.

    Inputs:
        x: (F, C, T, N) float32.

    Outputs:
        (T', N, D, G) float32, with time first for the recurrent layers.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        num_bins: int,
    ):
        super().__init__(in_channels, out_channels, kernel, stride, num_bins)
        self.stride_t = stride[1]
        self.time_points = max(TIME_POINTS, 2 * kernel[1])
        self.overlap = kernel[1] - 1
        self.hop = self.time_points - self.overlap
        q = np.arange(self.time_points)
        frames = _complex_rows(_transform(q, np.arange(self.hop), -self.time_points))
        self.frames_to_real, self.frames_to_imag = (  # (Q, 2 * hop) each
            _constant(part, self.time_points) for part in frames
        )
        taps = _complex_rows(_transform(q, np.arange(-self.overlap, 1), self.time_points))
        taps = taps.swapaxes(0, 1)
        self.time_taps_to_points = _constant(taps, 2 * self.time_points)  # (Q2, 2 * time taps)
        inverse = _transform(q, q, self.time_points) / self.time_points
        self.real_to_frames, self.imag_to_frames = (  # (2 * frames, Q2) each
            _constant(_complex_rows(factor * inverse).swapaxes(2, 3), 2 * self.time_points)
            for factor in (1, 1j)
        )

    def construct(self, x):
        f, c, t, n = x.shape
        d, p, q = self.out_channels, self.points, self.time_points
        blocks = (t + self.half_t) // self.hop + 1
        w = self._at_each_point(self.time_taps_to_points, self.transformed_weight())
        w = w.reshape(p * q, 2 * d, c)

        x = ops.concat((x, ops.zeros((f, c, blocks * self.hop - t, n), ms.float32)), 2)
        x = x.reshape(f, c, blocks, self.hop, n).transpose(0, 3, 1, 2, 4)  # (F, hop, C, B, N)
        x = self.matmul(self.bins_to_points, x.reshape(f, self.hop * c * blocks * n))
        x = x.reshape(p, 2 * self.hop, c * blocks * n)
        real = self._filter(self.frames_to_real, x, w, blocks * n, self.real_to_frames)
        imag = self._filter(self.frames_to_imag, x, w, blocks * n, self.imag_to_frames)
        y = real + imag  # (P, 2 * frames, D * B * N), frames as many as Q
        y = self.matmul(self.points_to_bins, y.reshape(2 * p, q * d * blocks * n))
        y = y.reshape(self.out_bins, q, d, blocks, n)

        # add the end of each block to the beginning of the next one
        size = (self.out_bins, self.overlap, d, blocks - 1, n)
        late = ops.slice(y[:, self.hop :], (0, 0, 0, 0, 0), size)
        first = ops.zeros((self.out_bins, self.overlap, d, 1, n), ms.float32)
        early = y[:, : self.overlap] + ops.concat((first, late), 3)
        y = ops.concat((early, y[:, self.overlap : self.hop]), 1)  # (G, hop, D, B, N)
        y = y.transpose(3, 1, 4, 2, 0).reshape(blocks * self.hop, n, d, self.out_bins)
        y = y[self.half_t : self.half_t + t : self.stride_t]
        frames = strided_size(t, self.stride_t)
        y = self.add_bias(y.reshape(frames * n, d, self.out_bins), self.bias)
        return y.reshape(frames, n, d, self.out_bins)

    def _filter(self, to_points, x, w, columns, to_frames):
        """Transform the real or imaginary part of the input, apply the weights, transform back.

        Args:
            to_points: (Q, 2 * hop), gives the real or imaginary part of the transform of time.
            x: (P, 2 * hop, C * B * N).
            w: (P * Q, 2 * D, C).
            columns: B * N.
            to_frames: (2 * frames, Q2), the inverse for that part.

        Returns:
            (P, 2 * frames, D * B * N).
        """
        x = self._at_each_point(to_points, x)
        x = x.reshape(-1, self.in_channels, columns)  # (P * Q, C, B * N)
        y = self.matmuls(w, x).reshape(self.points, 2 * self.time_points, -1)  # (P, Q2, D * B * N)
        return self._at_each_point(to_frames, y)

    def _at_each_point(self, matrix, x):
        """(rows, columns) times (P, columns, any) -> (P, rows, any)."""
        return self.matmuls(ops.broadcast_to(matrix, (self.points, *matrix.shape)), x)


def _transform(a: np.ndarray, b: np.ndarray, period: int) -> np.ndarray:
    """exp(2πi a b / period) for all pairs of (A,) and (B,) integers: (A, B) complex."""
    return np.exp(2j * np.pi * np.outer(a, b) / period)


def _complex_rows(matrix: np.ndarray) -> np.ndarray:
    """A complex (A, B) matrix as a real (2, A, 2, B) matrix on real and imaginary parts."""
    real = np.stack([matrix.real, -matrix.imag], 1)
    imag = np.stack([matrix.imag, matrix.real], 1)
    return np.stack([real, imag])


def _constant(array: np.ndarray, rows: int) -> Tensor:
    """`array` as a float32 tensor with `rows` rows."""
    return Tensor(array.reshape(rows, -1).astype(np.float32))
