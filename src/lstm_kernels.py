"""One direction of LSTM layers, in training on the CPU, by kernels that layers of a size share.

Each LSTM operator of a compiled graph has oneDNN kernels of its own, which hold copies of weights
and gradients, and what they compute in. A function that is not inlined is compiled once, with one
pair of kernels for all its calls: 1 GiB less for the published network with 8 x 4 s. The gradient
is written out: what MindSpore derives would keep the joined weights of every call as well, until
the step ends. MindSpore documents `no_inline` for Ascend only; where it did nothing, a step would
compute the same and need more memory, which tests/test_lstm_kernels.py would notice.
"""

import mindspore as ms
from mindspore import nn, ops
from mindspore.ops.operations._grad_ops import LSTMGrad  # as MindSpore's own gradient uses it


class LSTMKernels(nn.Cell):
    """An LSTM without weights of its own. Its layers have one size, and run one after the other.

    Axes: T' frame, N batch, I features of the inputs, H hidden unit; the gates are i, f, c, o.

    Args:
        input_size: I.
        hidden_size: H.

    Inputs:
        x: (T', N, I) float32.
        w_ih, w_hh: (4 H, I) and (4 H, H) float32 weights.
        b_ih, b_hh: (4 H,) float32 biases.

    Outputs:
        (T', N, H) float32, and what only the gradient needs: the last states and all gates.
    """

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        sizes = input_size, hidden_size, 1, True, False, 0.0  # a layer, biases, one way, no dropout
        lstm, lstm_gradient = ops.LSTM(*sizes), LSTMGrad(*sizes)
        gates = 4 * hidden_size
        ends = gates * input_size, gates * (input_size + hidden_size)  # of w_ih and w_hh

        def joined(w_ih, w_hh, b_ih, b_hh, after):
            w_ih = ops.depend(w_ih, after)  # or all layers would be joined when the step begins
            parts = w_ih.view(-1, 1, 1), w_hh.view(-1, 1, 1), (b_ih + b_hh).view(-1, 1, 1)
            return ops.concat(parts)

        def start(x):
            return ops.zeros((1, x.shape[1], hidden_size), ms.float32)

        def output(x, w_ih, w_hh, b_ih, b_hh):
            state = start(x)
            return lstm(x, state, state, joined(w_ih, w_hh, b_ih, b_hh, x))[:4]

        def gradient(x, w_ih, w_hh, b_ih, b_hh, y, h, c, reserve, dy):
            state, weights = start(x), joined(w_ih, w_hh, b_ih, b_hh, dy)
            dx, _, _, dw = lstm_gradient(
                x, state, state, weights, y, h, c, dy, state, state, reserve
            )
            dw = dw.reshape(-1)
            db = dw[ends[1] :]
            return dx, dw[: ends[0]].view(gates, -1), dw[ends[0] : ends[1]].view(gates, -1), db, db

        self.output, self.gradient = ms.no_inline(output), ms.no_inline(gradient)

    def construct(self, x, w_ih, w_hh, b_ih, b_hh):
        return self.output(x, w_ih, w_hh, b_ih, b_hh)

    def bprop(self, x, w_ih, w_hh, b_ih, b_hh, out, dout):
        """The gradients of the inputs, from the outputs and their gradients."""
        y, h, c, reserve = out
        return self.gradient(x, w_ih, w_hh, b_ih, b_hh, y, h, c, reserve, dout[0])
