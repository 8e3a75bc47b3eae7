"""The DeepSpeech2 network, its CTC loss and its prediction, as MindSpore cells.

Source of the architecture: deepspeech.pytorch, `deepspeech_pytorch/model.py`.

Axes: N batch, T spectrogram frame, T' output frame, F frequency bin, C channel or class, H hidden
unit, U label, L recurrent layer.
"""

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from src.config import HARDTANH_MAX, SHARED_KERNELS_FROM, ModelConfig, strided_size
from src.fourier_conv import FourierConv1, FourierConv2
from src.lstm_kernels import LSTMKernels


class MaskConv(nn.Cell):
    """Two convolutions, each followed by batch norm and Hardtanh(0, 20).

    Padding is set to zero after every operation, so that an utterance's output does not depend on
    the other utterances of its batch. Source: deepspeech.pytorch, `MaskConv`.

    Args:
        model: sizes, kernels and strides.
        num_bins: F.
        fourier: compute the convolutions as products in the Fourier domain, with equal results up
            to rounding.

    Inputs:
        inputs: (N, 1, F, T) float32 spectrograms.
        input_length: (N,) int32 frame counts.

    Outputs:
        (T', N, C, F') float32 features; (N,) int32 output lengths; (T', N) float32 mask.
    """

    def __init__(self, model: ModelConfig, num_bins: int, fourier: bool):
        super().__init__()
        channels = model.conv_channels
        (kernel1, kernel2), (stride1, stride2) = model.conv_kernels, model.conv_strides
        bins, self.out_bins = model.conv_bins(num_bins)
        self.time_strides = model.time_strides
        self.fourier = fourier
        if fourier:
            self.conv1 = FourierConv1(channels, kernel1, num_bins)
            self.conv2 = FourierConv2(channels, channels, kernel2, stride2, bins)
        else:
            self.conv1 = self._conv(1, channels, kernel1, stride1)
            self.conv2 = self._conv(channels, channels, kernel2, stride2)
        self.norm1 = nn.BatchNorm2d(channels)
        self.norm2 = nn.BatchNorm2d(channels)

    @staticmethod
    def _conv(in_channels: int, out_channels: int, kernel, stride) -> nn.Conv2d:
        f, t = kernel[0] // 2, kernel[1] // 2
        padding = (f, f, t, t)
        return nn.Conv2d(in_channels, out_channels, kernel, stride, "pad", padding, has_bias=True)

    def construct(self, inputs, input_length):
        n, t = inputs.shape[0], strided_size(inputs.shape[3], self.time_strides[0])
        lengths = strided_size(input_length, self.time_strides[0])
        mask = length_mask(t, lengths)  # (N, frames of conv 1)
        x = self.conv1(inputs)
        if self.fourier:  # (F', C, frames, N)
            x = self._activate(self.norm1, x, mask.transpose(1, 0).reshape(1, 1, t, n))
            x = self.conv2(x)
        else:  # (N, C, F', frames)
            x = self._activate(self.norm1, x, mask.reshape(n, 1, 1, t))
            x = self.conv2(x).transpose(3, 0, 1, 2)
        t, _, c, f = x.shape  # (T', N, C, F')
        lengths = strided_size(input_length, self.time_strides[1])
        mask = length_mask(t, lengths).transpose(1, 0)
        # batch norm needs the channels on axis 1; frames and utterances may share axis 0
        x = self._activate(self.norm2, x.reshape(t * n, c, f, 1), mask.reshape(t * n, 1, 1, 1))
        return x.reshape(t, n, c, f), lengths, mask

    @staticmethod
    def _activate(norm, x, mask):
        """Mask, batch norm over the channels on axis 1, mask, Hardtanh(0, 20).

        The mask is broadcast explicitly and Hardtanh is a scaled ReLU6 for speed: on CPU a product
        that broadcasts takes five times as long, and so does the gradient of `ops.clamp`. Such a
        product also keeps two indices of 8 bytes for each of its values until the end.
        """
        scale = 6 / HARDTANH_MAX
        x = norm(x * ops.broadcast_to(mask, x.shape)) * ops.broadcast_to(mask * scale, x.shape)
        return ops.relu6(x) * (1 / scale)


class SequenceWise(nn.Cell):
    """Applies a cell for (rows, H) to (T', N, H), padding included.

    Source: deepspeech.pytorch, `SequenceWise`.
    """

    def __init__(self, cell: nn.Cell):
        super().__init__()
        self.cell = cell

    def construct(self, x):
        t, n, h = x.shape
        return self.cell(x.reshape(t * n, h)).reshape(t, n, h)


class MaskedLSTM(nn.Cell):
    """An LSTM in one or both directions over sequences of different lengths; directions are summed.

    The backward LSTM runs forward over sequences that are reversed within their lengths. The result
    equals that of PyTorch's packed sequences. `nn.LSTM` with `seq_length` would replace MindSpore's
    fused kernel by a Python loop.

    Args:
        input_size: features of the inputs.
        hidden_size: H.
        bidirectional: whether to add the backward LSTM.
        kernels: of each direction, for training; empty for those of `nn.LSTM`.

    Inputs:
        x: (T', N, input_size) float32 with any values past the lengths.
        lengths: (N,) int32.
        mask: (T', N, 1) float32.

    Outputs:
        (T', N, H) float32, zero past the lengths.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bidirectional: bool,
        kernels: Sequence[LSTMKernels] = (),
    ):
        super().__init__()
        self.forward_lstm = nn.LSTM(input_size, hidden_size)
        self.backward_lstm = nn.LSTM(input_size, hidden_size) if bidirectional else None
        self.reverse = ops.ReverseSequence(seq_dim=0, batch_dim=1)
        self.kernels = nn.CellList(kernels)

    def construct(self, x, lengths, mask):
        y = self._run(self.forward_lstm, x, 0)
        if self.backward_lstm is not None:
            reversed_y = self._run(self.backward_lstm, self.reverse(x, lengths), 1)
            y = y + self.reverse(reversed_y, lengths)
        return y * ops.broadcast_to(mask, y.shape)  # explicitly, see MaskConv._activate

    def _run(self, lstm, x, direction):
        if not self.training or not self.kernels:
            return lstm(x)[0]
        weights = lstm.w_ih_list[0], lstm.w_hh_list[0], lstm.b_ih_list[0], lstm.b_hh_list[0]
        return self.kernels[direction](x, *weights)[0]


class Lookahead(nn.Cell):
    """A weighted sum of each feature over `context` frames, then Hardtanh(0, 20).

    The sum runs over the present frame and the frames after it. Source: Wang et al. 2016.

    Args:
        hidden_size: H.
        context: number of frames.

    Inputs:
        x: (T', N, H) float32, zero past the lengths.

    Outputs:
        (T', N, H) float32.
    """

    def __init__(self, hidden_size: int, context: int):
        super().__init__()
        padding = (0, 0, 0, context - 1)
        self.conv = nn.Conv2d(
            hidden_size, hidden_size, (1, context), 1, "pad", padding, group=hidden_size
        )

    def construct(self, x):
        t, n, h = x.shape
        x = x.transpose(1, 2, 0).reshape(n, h, 1, t)
        x = self.conv(x).reshape(n, h, t).transpose(2, 0, 1)
        return ops.clamp(x, 0.0, float(HARDTANH_MAX))


class DropoutMasks(nn.Cell):
    """Dropout masks for the units of every recurrent layer, drawn from one seed per utterance.

    A unit is dropped for a whole utterance. Source: Gal & Ghahramani 2016 (variational dropout).
    The random numbers are hashes of seed, layer and unit, so they do not depend on the batch. The
    hash is the finalizer of MurmurHash3, in 32-bit arithmetic that wraps around.

    Args:
        layers: L.
        hidden_size: H.
        dropout: probability of dropping a unit.

    Inputs:
        seeds: (N,) int32.

    Outputs:
        (L, N, H) float32: 0, or 1 / (1 - dropout).
    """

    def __init__(self, layers: int, hidden_size: int, dropout: float):
        super().__init__()
        numbers = np.arange(layers * hidden_size).reshape(layers, 1, hidden_size)
        self.numbers = _int32(numbers * 0x9E3779B1)  # (L, 1, H), far apart for neighbouring units
        self.dropped_below = _int32(dropout * 2**31)
        self.scale = 1 / (1 - dropout)
        self.factors = _int32(0x85EBCA6B), _int32(0xC2B2AE35)

    def construct(self, seeds):
        x = seeds.reshape(1, -1, 1) + self.numbers
        x = self._shift_and_mix(x, 16) * self.factors[0]
        x = self._shift_and_mix(x, 13) * self.factors[1]
        x = ops.bitwise_and(self._shift_and_mix(x, 16), 0x7FFFFFFF)
        return (x >= self.dropped_below).astype(ms.float32) * self.scale

    @staticmethod
    def _shift_and_mix(x, bits):
        """x ^ (x >> bits) with a logical shift; MindSpore's shift copies the sign bit."""
        shifted = ops.bitwise_and(ops.bitwise_right_shift(x, bits), 2 ** (32 - bits) - 1)
        return ops.bitwise_xor(x, shifted)


class DeepSpeech(nn.Cell):
    """Two convolutions, recurrent layers, and a projection to the classes.

    Args:
        model: sizes and kinds of the layers.
        num_bins: F, frequency bins of the spectrogram.
        num_classes: C, characters including the CTC blank.
        dropout: probability of dropping a unit after the batch norm that follows each recurrent
            layer.
        fourier: whether to compute the convolutions in the Fourier domain, see `MaskConv`; None for
            the faster way: True on CPU, unless the second kernel has only one frame.

    Inputs:
        inputs: (N, 1, F, T) float32 spectrograms, zero past their ends.
        input_length: (N,) int32 frame counts.
        dropout_seeds: (N,) int32, or None for no dropout.
        with_intermediate: whether to return logits of the middle recurrent layer too.

    Outputs:
        (T', N, C) float32 logits; (N,) int32 output lengths; with `with_intermediate` also
        (T', N, C) float32 logits that the projection computes from the middle recurrent layer.
    """

    def __init__(
        self,
        model: ModelConfig,
        num_bins: int,
        num_classes: int,
        dropout: float = 0.0,
        fourier: bool | None = None,
    ):
        super().__init__()
        on_cpu = ms.get_context("device_target") == "CPU"
        if fourier is None:
            fourier = on_cpu and model.conv2_kernel[1] > 1
        self.conv = MaskConv(model, num_bins, fourier)
        hidden = model.hidden_size
        widths = [model.conv_channels * self.conv.out_bins] + [hidden] * (model.hidden_layers - 1)
        shared = on_cpu and hidden >= SHARED_KERNELS_FROM
        kernels = {
            w: [LSTMKernels(w, hidden) for _ in range(1 + model.bidirectional) if shared]
            for w in set(widths)
        }
        self.rnns = nn.CellList(
            [MaskedLSTM(w, hidden, model.bidirectional, kernels[w]) for w in widths]
        )
        self.norms = nn.CellList([SequenceWise(nn.BatchNorm1d(hidden)) for _ in widths[1:]])
        self.lookahead = None if model.bidirectional else Lookahead(hidden, model.lookahead_context)
        self.fc_norm = SequenceWise(nn.BatchNorm1d(hidden))
        self.fc = nn.Dense(hidden, num_classes, has_bias=False)
        self.dropout_masks = DropoutMasks(model.hidden_layers, hidden, dropout)

    def construct(self, inputs, input_length, dropout_seeds=None, with_intermediate=False):
        masks = None if dropout_seeds is None else self.dropout_masks(dropout_seeds)
        x, lengths, mask = self.conv(inputs, input_length)
        t, n, c, f = x.shape
        mask = mask.reshape(t, n, 1)
        x = self.rnns[0](x.reshape(t, n, c * f), lengths, mask)
        intermediate = None
        for i in range(len(self.norms)):
            x = self._drop(self.norms[i](x), masks, i)
            if with_intermediate and i == len(self.norms) // 2:
                intermediate = self.fc(x)
            x = self.rnns[i + 1](x, lengths, mask)
        if self.lookahead is not None:
            x = self.lookahead(x)
        logits = self.fc(self._drop(self.fc_norm(x), masks, len(self.norms)))
        return (logits, lengths, intermediate) if with_intermediate else (logits, lengths)

    def layers(self) -> list[list[nn.Cell]]:
        """The cells of each layer, from the input on: the convolutions, each recurrent layer with
        the norm before it, and the projection with what comes before it."""
        first, *others = self.rnns  # a slice of a CellList would rename the parameters
        recurrent = [[norm, rnn] for norm, rnn in zip(self.norms, others, strict=True)]
        last = [self.fc_norm, self.fc]
        if self.lookahead is not None:
            last.insert(0, self.lookahead)
        return [[self.conv], [first], *recurrent, last]

    @staticmethod
    def _drop(x, masks, layer):
        """(T', N, H) times the (L, N, H) masks of `layer`."""
        if masks is None:
            return x
        _, n, h = x.shape
        # broadcast explicitly for speed, see MaskConv._activate
        return x * ops.broadcast_to(masks[layer].reshape(1, n, h), x.shape)


class PredictCell(nn.Cell):
    """The network with a softmax and the batch first, for evaluation and export.

    Inputs:
        inputs: (N, 1, F, T) float32 spectrograms, zero past their ends.
        input_length: (N,) int32 frame counts.

    Outputs:
        (N, T', C) float32 class probabilities; (N,) int32 output lengths.
    """

    def __init__(self, network: DeepSpeech):
        super().__init__(auto_prefix=False)  # parameters keep the names that the network gave them
        self.network = network

    def construct(self, inputs, input_length):
        logits, lengths = self.network(inputs, input_length)
        return ops.softmax(logits.transpose(1, 0, 2), -1), lengths


class LossCell(nn.Cell):
    """The CTC loss of a batch: the sum over the utterances, divided by `normalizer`.

    An utterance without labels, or with more labels than frames, contributes nothing.

    Args:
        network: computes the logits.
        blank_index: class of the CTC blank.
        intermediate_ctc_weight: weight w of the CTC loss on the middle recurrent layer; the loss on
            the last layer has the weight 1 - w. Source: Lee & Watanabe 2021 (intermediate CTC).

    Inputs:
        inputs: (N, 1, F, T) float32 spectrograms, zero past their ends.
        input_length: (N,) int32 frame counts.
        targets: (N, U) int32 class indices, zero past their ends.
        target_length: (N,) int32 label counts.
        normalizer: () float32, utterances of the global batch.
        dropout_seeds: (N,) int32, or None for no dropout.

    Outputs:
        () float32 loss.
    """

    def __init__(self, network: DeepSpeech, blank_index: int, intermediate_ctc_weight: float = 0.0):
        super().__init__(auto_prefix=False)
        self.network = network
        self.blank_index = blank_index
        self.weight = intermediate_ctc_weight

    def construct(
        self, inputs, input_length, targets, target_length, normalizer, dropout_seeds=None
    ):
        with_intermediate = self.weight > 0
        outputs = self.network(inputs, input_length, dropout_seeds, with_intermediate)
        loss = self._ctc(outputs[0], outputs[1], targets, target_length)
        if with_intermediate:
            intermediate = self._ctc(outputs[2], outputs[1], targets, target_length)
            loss = (1 - self.weight) * loss + self.weight * intermediate
        return loss / normalizer

    def _ctc(self, logits, lengths, targets, target_length):
        """(T', N, C) logits, (N,) lengths and the targets -> () float32, summed over the batch."""
        log_probs = ops.log_softmax(logits, -1)
        # the kernel ends the whole program for an utterance with more labels than frames
        fits = ops.logical_and(target_length > 0, target_length <= lengths).astype(ms.int32)
        losses, _ = ops.ctc_loss(
            log_probs, targets, lengths, target_length * fits, self.blank_index, "none", True
        )
        # zero_infinity (the last argument) zeroes the gradients only
        losses = ops.where(ops.isinf(losses), ops.zeros_like(losses), losses)
        return (losses * fits).sum()


def length_mask(size: int, lengths):
    """(N,) lengths -> (N, size) float32 mask: one at valid positions, zero after them."""
    return (ops.arange(size).reshape(1, -1) < lengths.reshape(-1, 1)).astype(ms.float32)


def dynamic_inputs(num_bins: int) -> tuple[Tensor, Tensor]:
    """Placeholders for the inputs of `PredictCell`: one compiled graph serves all batch shapes."""
    inputs = Tensor(shape=[None, 1, num_bins, None], dtype=ms.float32)
    return inputs, Tensor(shape=[None], dtype=ms.int32)


def dynamic_loss_inputs(num_bins: int) -> tuple[Tensor, ...]:
    """Placeholders for the inputs of `LossCell`, without the dropout seeds."""
    lengths = Tensor(shape=[None], dtype=ms.int32)
    targets = Tensor(shape=[None, None], dtype=ms.int32)
    return *dynamic_inputs(num_bins), targets, lengths, Tensor(shape=[], dtype=ms.float32)


def _int32(values) -> Tensor:
    """Numbers below 2^63 as an int32 tensor, wrapped around."""
    return Tensor(np.asarray(values).astype(np.int64).astype(np.int32), ms.int32)
