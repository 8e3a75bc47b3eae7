"""The DeepSpeech2 network, its CTC loss and its prediction, as MindSpore cells.

Axes: N batch, T spectrogram frame, T' output frame, F frequency bin, C channel or class, H hidden unit, U label.
The architecture is that of deepspeech.pytorch, `deepspeech_pytorch/model.py`.
"""

import mindspore as ms
from mindspore import Tensor, nn, ops

from src.config import ModelConfig
from src.fourier_conv import FourierConv1, FourierConv2

CONV1_KERNEL = (41, 11)              # (frequency, time); the kernel of conv 2 is a setting


def conv_output_size(size, kernel: int, stride: int):
    """The output size of a convolution padded by half its (odd) kernel; for whole numbers and tensors."""
    return (size + 2 * (kernel // 2) - kernel) // stride + 1


def output_lengths(input_length, time_stride: int):
    """(N,) frames -> (N,) frames after a stride, or several with this product; half-kernel padding adds none."""
    return (input_length - 1) // time_stride + 1


class MaskConv(nn.Cell):
    """The two convolutions, each followed by batch norm and Hardtanh(0, 20), with padding zeroed after every step.

    Source: deepspeech.pytorch, `MaskConv`: without the zeros an utterance would hear what it is batched with.

    Args:
        fourier: compute the convolutions as products in the Fourier domain, the same numbers but for rounding.

    Inputs: (N, 1, F, T) spectrograms, (N,) frame counts.
    Outputs: (T', N, C, F') features, (N,) output lengths, (T', N) mask.
    """

    def __init__(self, model: ModelConfig, num_bins: int, fourier: bool):
        super().__init__()
        channels, kernel = model.conv_channels, model.conv2_kernel
        first, second = model.conv_strides
        bins = conv_output_size(num_bins, CONV1_KERNEL[0], first[0])
        self.out_bins = conv_output_size(bins, kernel[0], second[0])
        self.time_strides = first[1], model.time_stride    # up to each convolution
        self.fourier = fourier
        if fourier:
            self.conv1 = FourierConv1(channels, CONV1_KERNEL, num_bins)
            self.conv2 = FourierConv2(channels, channels, kernel, second, bins)
        else:
            self.conv1 = self._conv(1, channels, CONV1_KERNEL, first)
            self.conv2 = self._conv(channels, channels, kernel, second)
        self.norm1 = nn.BatchNorm2d(channels)
        self.norm2 = nn.BatchNorm2d(channels)

    @staticmethod
    def _conv(in_channels: int, out_channels: int, kernel: tuple[int, int], stride: tuple[int, int]) -> nn.Conv2d:
        f, t = kernel[0] // 2, kernel[1] // 2
        return nn.Conv2d(in_channels, out_channels, kernel, stride, pad_mode="pad", padding=(f, f, t, t), has_bias=True)

    def construct(self, inputs, input_length):
        n, t = inputs.shape[0], output_lengths(inputs.shape[3], self.time_strides[0])
        mask = length_mask(t, output_lengths(input_length, self.time_strides[0]))           # (N, frames of conv 1)
        x = self.conv1(inputs)
        if self.fourier:                        # (F', C, frames, N)
            x = self._ramp(self.norm1, x, mask.transpose(1, 0).reshape(1, 1, t, n))
            x = self.conv2(x)
        else:                                   # (N, C, F', frames)
            x = self._ramp(self.norm1, x, mask.reshape(n, 1, 1, t))
            x = self.conv2(x).transpose(3, 0, 1, 2)
        t, _, c, f = x.shape                    # (T', N, C, F'): a row a frame, batch norm looks at channels only
        lengths = output_lengths(input_length, self.time_strides[1])
        mask = length_mask(t, lengths).transpose(1, 0)
        x = self._ramp(self.norm2, x.reshape(t * n, c, f, 1), mask.reshape(t * n, 1, 1, 1))
        return x.reshape(t, n, c, f), lengths, mask

    @staticmethod
    def _ramp(norm, x, mask):
        """Batch norm over axis 1 and Hardtanh(0, 20), masked.

        On CPU a product that broadcasts costs five times one that does not, and the gradient of clamp five times that
        of the fused ReLU6.
        """
        x = norm(x * ops.broadcast_to(mask, x.shape)) * ops.broadcast_to(mask * (6 / 20), x.shape)
        return ops.relu6(x) * (20 / 6)


class SequenceWise(nn.Cell):
    """Apply a cell that takes and gives (rows, H) to (T', N, H): one row a frame of an utterance, padding included."""

    def __init__(self, cell: nn.Cell):
        super().__init__()
        self.cell = cell

    def construct(self, x):
        t, n, h = x.shape
        return self.cell(x.reshape(t * n, h)).reshape(t, n, h)


class MaskedLSTM(nn.Cell):
    """An LSTM in one or both directions over sequences of different lengths, the directions summed.

    The backward direction runs forward over sequences reversed within their lengths, which gives what PyTorch's packed
    sequences give and keeps MindSpore's fused kernel (`nn.LSTM` with `seq_length` falls back to a Python loop).

    Inputs: (T', N, H) zero or not past the lengths, (N,) lengths, (T', N, 1) mask.
    Outputs: (T', N, H), zero past the lengths.
    """

    def __init__(self, input_size: int, hidden_size: int, bidirectional: bool):
        super().__init__()
        self.forward_lstm = nn.LSTM(input_size, hidden_size)
        self.backward_lstm = nn.LSTM(input_size, hidden_size) if bidirectional else None
        self.reverse = ops.ReverseSequence(seq_dim=0, batch_dim=1)

    def construct(self, x, lengths, mask):
        y = self.forward_lstm(x)[0]
        if self.backward_lstm is not None:
            y = y + self.reverse(self.backward_lstm(self.reverse(x, lengths))[0], lengths)
        return y * mask


class Lookahead(nn.Cell):
    """Each feature's weighted sum over the next `context` frames (Wang et al. 2016), then Hardtanh(0, 20).

    Inputs: (T', N, H), zero past the lengths. Outputs: (T', N, H).
    """

    def __init__(self, hidden_size: int, context: int):
        super().__init__()
        self.conv = nn.Conv2d(hidden_size, hidden_size, (1, context), pad_mode="pad",
                              padding=(0, 0, 0, context - 1), group=hidden_size)

    def construct(self, x):
        t, n, h = x.shape
        x = x.transpose(1, 2, 0).reshape(n, h, 1, t)
        return ops.clamp(self.conv(x).reshape(n, h, t).transpose(2, 0, 1), 0.0, 20.0)


class DeepSpeech(nn.Cell):
    """Two convolutions, recurrent layers, a projection to the classes.

    Args:
        model: sizes and kinds of the layers.
        num_bins: F, frequency bins of the spectrogram.
        num_classes: C, characters including the CTC blank.
        fourier: how the convolutions are computed, see `MaskConv`; None for what the device does faster: true on CPU.

    Inputs: (N, 1, F, T) float32 spectrograms, zero past their ends; (N,) int32 frame counts; for training with dropout
        (layers, N, H) float32, what the units of each recurrent layer are multiplied with after its batch norm;
        whether the logits of the middle recurrent layer are wanted too.
    Outputs: (T', N, C) logits; (N,) int32 output lengths; on demand (T', N, C) what the projection makes of the middle
        layer's output.
    """

    def __init__(self, model: ModelConfig, num_bins: int, num_classes: int, fourier: bool | None = None):
        super().__init__()
        if fourier is None:
            fourier = ms.get_context("device_target") == "CPU" and model.conv2_kernel[1] > 1
        self.conv = MaskConv(model, num_bins, fourier)
        hidden = model.hidden_size
        widths = [model.conv_channels * self.conv.out_bins] + [hidden] * (model.hidden_layers - 1)
        self.rnns = nn.CellList([MaskedLSTM(width, hidden, model.bidirectional) for width in widths])
        self.norms = nn.CellList([SequenceWise(nn.BatchNorm1d(hidden)) for _ in widths[1:]])
        self.lookahead = None if model.bidirectional else Lookahead(hidden, model.lookahead_context)
        self.fc_norm = SequenceWise(nn.BatchNorm1d(hidden))
        self.fc = nn.Dense(hidden, num_classes, has_bias=False)

    def construct(self, inputs, input_length, keep=None, with_middle=False):
        x, lengths, mask = self.conv(inputs, input_length)
        t, n, c, f = x.shape
        mask = mask.reshape(t, n, 1)
        x = self.rnns[0](x.reshape(t, n, c * f), lengths, mask)
        middle = None
        for i in range(len(self.norms)):
            x = self._drop(self.norms[i](x), keep, i)
            if with_middle and i == len(self.norms) // 2:
                middle = self.fc(x)
            x = self.rnns[i + 1](x, lengths, mask)
        if self.lookahead is not None:
            x = self.lookahead(x)
        logits = self.fc(self._drop(self.fc_norm(x), keep, len(self.norms)))
        return (logits, lengths, middle) if with_middle else (logits, lengths)

    @staticmethod
    def _drop(x, keep, layer):
        """(T', N, H) times row `layer` of `keep`."""
        if keep is None:
            return x
        _, n, h = x.shape
        return x * ops.broadcast_to(keep[layer].reshape(1, n, h), x.shape)    # see MaskConv._ramp


class PredictCell(nn.Cell):
    """(N, 1, F, T), (N,) -> (N, T', C) class probabilities, (N,) output lengths: what is exported and evaluated."""

    def __init__(self, network: DeepSpeech):
        super().__init__(auto_prefix=False)    # parameters keep the network's names
        self.network = network

    def construct(self, inputs, input_length):
        logits, lengths = self.network(inputs, input_length)
        return ops.softmax(logits.transpose(1, 0, 2), -1), lengths


class LossCell(nn.Cell):
    """The CTC loss of a batch: the sum over its utterances, divided by `normalizer`.

    An utterance without labels, or whose labels do not fit in its frames, contributes nothing (zero_infinity).

    Args:
        network: gives the logits.
        blank_index: class of the CTC blank.
        middle_loss: share of the CTC loss that is taken from the middle recurrent layer. Source: Lee & Watanabe 2021
            (intermediate CTC).

    Inputs: (N, 1, F, T), (N,), (N, U) int32 class indices, (N,) label counts, () float32 normalizer, and (layers, N, H)
        where there is dropout.
    Outputs: () float32.
    """

    def __init__(self, network: DeepSpeech, blank_index: int, middle_loss: float = 0.0):
        super().__init__(auto_prefix=False)
        self.network = network
        self.blank_index = blank_index
        self.middle_loss = middle_loss

    def construct(self, inputs, input_length, targets, target_length, normalizer, keep=None):
        logits, lengths, *middle = self.network(inputs, input_length, keep, self.middle_loss > 0)
        loss = self._ctc(logits, lengths, targets, target_length)
        if self.middle_loss > 0:
            between = self._ctc(middle[0], lengths, targets, target_length)
            loss = (1 - self.middle_loss) * loss + self.middle_loss * between
        return loss / normalizer

    def _ctc(self, logits, lengths, targets, target_length):
        """The sum over a batch."""
        log_probs = ops.log_softmax(logits, -1)
        # the kernel stops the program where there are more labels than frames
        fits = ops.logical_and(target_length > 0, target_length <= lengths).astype(ms.int32)
        losses, _ = ops.ctc_loss(log_probs, targets, lengths, target_length * fits, self.blank_index, "none", True)
        losses = ops.where(ops.isinf(losses), ops.zeros_like(losses), losses)    # zero_infinity: gradients only
        return (losses * fits).sum()


def dynamic_keep(model: ModelConfig) -> Tensor:
    """Placeholder for what dropout keeps."""
    return Tensor(shape=[model.hidden_layers, None, model.hidden_size], dtype=ms.float32)


def length_mask(size: int, lengths):
    """(N,) lengths -> (N, size) float32: one at valid positions, zero after them."""
    return (ops.arange(size).reshape(1, -1) < lengths.reshape(-1, 1)).astype(ms.float32)


def dynamic_inputs(num_bins: int) -> tuple[Tensor, Tensor]:
    """Placeholders for `set_inputs` and export: any batch size and any number of frames in one compiled graph."""
    return (Tensor(shape=[None, 1, num_bins, None], dtype=ms.float32), Tensor(shape=[None], dtype=ms.int32))


def dynamic_targets() -> tuple[Tensor, Tensor, Tensor]:
    """Placeholders for the other inputs of `LossCell`."""
    return (Tensor(shape=[None, None], dtype=ms.int32), Tensor(shape=[None], dtype=ms.int32),
            Tensor(shape=[], dtype=ms.float32))
