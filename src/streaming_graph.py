"""Build the unidirectional network as an ONNX graph that goes on where it stopped.

What a layer needs of the frames before is an input and, for the next call, an output of the graph.
Before the first frame and after the last one the layers see zeros, as in the whole utterance:
`first` and `final` add them. All streams of a batch must have states of equal sizes.

Axes: N streams, F frequency bins, T spectrogram frames, T' output frames, C channels or classes,
H hidden units.
"""

from typing import TYPE_CHECKING

import numpy as np

from deepspeech2.onnx_model import ONNX_INPUTS, ONNX_OUTPUTS
from deepspeech2.streaming.acoustic import FINAL, FIRST
from src.config import HARDTANH_MAX, ModelConfig
from src.onnx_graph import (
    GraphBuilder,
    Parameters,
    Value,
    add_classifier,
    add_convolution,
    add_features,
    add_sum,
    lstm_constants,
)

if TYPE_CHECKING:
    import onnx


def make_streaming_onnx(
    parameters: Parameters, model: ModelConfig, num_bins: int
) -> "onnx.ModelProto":
    """An ONNX model that computes what `PredictCell` does, a chunk of frames at a time.

    The inputs are `inputs` (N, 1, F, T) float32; `first` and `final` (1,) int64, 1 for the first
    and the last chunk and 0 for others; and the states, which begin with zeros in the units of the
    recurrent layers and without any frames elsewhere. The outputs are `probs` (N, T', C) float32
    and the states for the next call, whose names end in `.next`.

    Args:
        parameters: float32 arrays of `DeepSpeech` by name.
        model: sizes of the layers; not bidirectional.
        num_bins: F.
    """
    from onnx import TensorProto

    graph = GraphBuilder()
    states: list[Value] = []
    x, channels, bins = ONNX_INPUTS[0], 1, num_bins
    out_bins = model.conv_bins(num_bins)
    for i, (kernel, stride) in enumerate(zip(model.conv_kernels, model.conv_strides, strict=True)):
        name = f"conv{i + 1}"
        x = _with_state(graph, f"{name}.state", x, 3, kernel[1] // 2, kernel[1] // 2)
        states.append((f"{name}.state", TensorProto.FLOAT, ["N", channels, bins, f"{name}.frames"]))
        whole = x
        x = add_convolution(graph, parameters, i + 1, x, kernel, stride, 0)
        _keep_state(graph, f"{name}.state", whole, x, 3, stride[1])
        channels, bins = model.conv_channels, out_bins[i]
    x = add_features(graph, x)
    for layer in range(model.hidden_layers):
        names = [f"lstm{layer}.{part}" for part in "hc"]
        states += [(name, TensorProto.FLOAT, [1, "N", model.hidden_size]) for name in names]
        constants = lstm_constants(graph, parameters, model, layer)
        following = [f"{name}.next" for name in names]
        x = graph.node(
            f"lstm{layer}", "LSTM", x, *constants, "", *names, more_outputs=following,
            hidden_size=model.hidden_size,
        )  # fmt: skip
        x = add_sum(graph, layer, x)
    x = _lookahead(graph, parameters["lookahead.conv.weight"], x)
    states.append(("lookahead.state", TensorProto.FLOAT, ["N", model.hidden_size, "lookahead"]))
    num_classes = add_classifier(graph, parameters, x)
    inputs = [(ONNX_INPUTS[0], TensorProto.FLOAT, ["N", 1, num_bins, "T"]),
              (FIRST, TensorProto.INT64, [1]), (FINAL, TensorProto.INT64, [1]), *states]
    outputs = [(ONNX_OUTPUTS[0], TensorProto.FLOAT, ["N", "T'", num_classes])]
    for name, kind, shape in states:
        sizes = [f"{size}.next" if size in (f"{name[:5]}.frames", "lookahead") else size
                 for size in shape]
        outputs.append((f"{name}.next", kind, sizes))
    return graph.model(inputs, outputs)


def _with_state(
    graph: GraphBuilder, state: str, x: str, axis: int, before: int, behind: int
) -> str:
    """A state and `x` on their last axis; there a stream begins and ends with so many zeros."""
    name = state.removesuffix(".state")
    x = graph.node(f"{name}.joined", "Concat", state, x, axis=axis)
    others = graph.constant(f"{name}.others", np.zeros(axis, np.int64))
    pads = []
    for flag, zeros in ((FIRST, before), (FINAL, behind)):
        most = graph.constant(f"{name}.{flag}.zeros", np.array([zeros]))
        pads += [others, graph.node(f"{name}.{flag}", "Mul", flag, most)]
    pads = graph.node(f"{name}.pads", "Concat", *pads, axis=0)
    return graph.node(f"{name}.whole", "Pad", x, pads)


def _keep_state(
    graph: GraphBuilder, state: str, whole: str, outputs: str, axis: int, stride: int
) -> None:
    """Make the next state: what is left of `whole` behind `stride` frames for each output."""
    name = state.removesuffix(".state")
    count = graph.node(f"{name}.count", "Shape", outputs, start=axis, end=axis + 1)
    step = graph.constant(f"{name}.step", np.array([stride]))
    start = graph.node(f"{name}.used", "Mul", count, step)
    end = graph.constant(f"{name}.end", np.array([np.iinfo(np.int64).max]))
    on = graph.constant(f"{name}.axis", np.array([axis]))
    graph.node(f"{state}.next", "Slice", whole, start, end, on)


def _lookahead(graph: GraphBuilder, weight: np.ndarray, x: str) -> str:
    """The lookahead convolution and Hardtanh: (T', N, H) -> (N, T', H), of the frames whose later
    frames are there."""
    hidden, context = weight.shape[0], weight.shape[-1]
    x = graph.node("lookahead.time_last", "Transpose", x, perm=[1, 2, 0])  # -> (N, H, T')
    whole = _with_state(graph, "lookahead.state", x, 2, 0, context - 1)
    kernel = graph.constant("lookahead.weight", weight.reshape(hidden, 1, context))
    # zeros before the state and outputs that are dropped: there may be fewer frames than it needs
    x = graph.node("lookahead", "Conv", whole, kernel, kernel_shape=[context],
                   pads=[context - 1, 0], group=hidden)
    first = graph.constant("lookahead.dropped", np.array([context - 1]))
    end = graph.constant("lookahead.last", np.array([np.iinfo(np.int64).max]))
    axis = graph.constant("lookahead.on", np.array([2]))
    x = graph.node("lookahead.outputs", "Slice", x, first, end, axis)
    _keep_state(graph, "lookahead.state", whole, x, 2, 1)
    x = graph.clip("lookahead.clip", x, 0, HARDTANH_MAX)
    return graph.node("batch_first", "Transpose", x, perm=[0, 2, 1])


def first_frames(model: ModelConfig) -> int:
    """The frames that a stream needs for its first output frame; later ones may be fewer."""
    frames = 1
    for kernel, stride in reversed(list(zip(model.conv_kernels, model.conv_strides, strict=True))):
        frames = (frames - 1) * stride[1] + kernel[1] - kernel[1] // 2
    return frames
