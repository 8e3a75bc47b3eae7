"""Build the network as an ONNX graph, because MindSpore exports no dynamic shapes to ONNX.

Batch norms are folded into the weights beside them. The graph has only the masks that change a
result: Hardtanh(0, 20) keeps zeros, and ONNX's LSTM neither reads nor writes past the lengths.

`onnx` is imported inside functions: MindSpore cannot be imported after the protobuf that onnx
loads.

Axes: N batch, T spectrogram frame, T' output frame, F frequency bin, C channel or class, H hidden
unit, D direction.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deepspeech2.onnx_model import ONNX_INPUTS, ONNX_OUTPUTS
from src.config import HARDTANH_MAX, ModelConfig

if TYPE_CHECKING:
    import onnx

OPSET, IR_VERSION = 17, 8  # for ONNX Runtime 1.12 (2022) and newer
BATCH_NORM_EPSILON = 1e-5  # MindSpore's default
# ONNX orders the gates of an LSTM i, o, f, c; MindSpore and PyTorch i, f, c, o
GATES = [0, 3, 1, 2]
CELL = 3  # index of c in ONNX's order
STATES_WITH_ANCHORS = ("lstm", "lookahead")  # see `src.streaming_graph`
ANCHORS = 2  # units added to an LSTM, see `fix_quantization_ranges`

Parameters = dict[str, np.ndarray]
# name, element type and shape of an input or output of a graph; axes of any size have names
Value = tuple[str, int, list[int | str]]


class GraphBuilder:
    """Collects nodes and constants; the output of a node has the name of the node.

    Attributes:
        graph: what was collected, inside of the model: a copy would be as large as the weights.
    """

    def __init__(self):
        from onnx import GraphProto, helper

        opset = helper.make_opsetid("", OPSET)
        empty = GraphProto(name="DeepSpeech2")
        self._model = helper.make_model(empty, opset_imports=[opset], ir_version=IR_VERSION)
        self.graph: onnx.GraphProto = self._model.graph

    def constant(self, name: str, value: np.ndarray) -> str:
        """Add an array; returns its name."""
        from onnx import numpy_helper

        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(
        self, name: str, operator: str, *inputs: str, more_outputs: Sequence[str] = (), **attributes
    ) -> str:
        """Add an operator; returns the name of its first output."""
        from onnx import helper

        outputs = [name, *more_outputs]
        self.graph.node.append(helper.make_node(operator, inputs, outputs, name, **attributes))
        return name

    def clip(self, name: str, value: str, smallest: float, largest: float) -> str:
        """Hardtanh(smallest, largest)."""
        low = self.constant(f"{name}.min", np.float32(smallest))
        high = self.constant(f"{name}.max", np.float32(largest))
        return self.node(name, "Clip", value, low, high)

    def model(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> "onnx.ModelProto":
        """The graph as an ONNX model with these inputs and outputs."""
        from onnx import helper

        for values, found in ((inputs, self.graph.input), (outputs, self.graph.output)):
            found.extend(helper.make_tensor_value_info(*value) for value in values)
        return self._model


def make_onnx(parameters: Parameters, model: ModelConfig, num_bins: int) -> "onnx.ModelProto":
    """An ONNX model that computes what `PredictCell` does.

    Batch size and number of frames are dynamic. The inputs are `inputs` (N, 1, F, T) float32, zero
    past the lengths, and `input_length` (N,) int32; the outputs are `probs` (N, T', C) float32 and
    `output_lengths` (N,) int32.

    Args:
        parameters: float32 arrays of `DeepSpeech` by name.
        model: sizes and kinds of the layers.
        num_bins: F.
    """
    from onnx import TensorProto

    graph = GraphBuilder()
    lengths = _strided_lengths(graph, model.time_stride, ONNX_OUTPUTS[1])
    x = _convolutions(graph, parameters, model, lengths)
    for layer in range(model.hidden_layers):
        x = _lstm(graph, parameters, model, layer, x, lengths)
    if model.bidirectional:
        x = graph.node("batch_first", "Transpose", x, perm=[1, 0, 2])  # (T', N, H) -> (N, T', H)
    else:
        x = _lookahead(graph, parameters["lookahead.conv.weight"], x)
    num_classes = add_classifier(graph, parameters, x)
    inputs = [(ONNX_INPUTS[0], TensorProto.FLOAT, ["N", 1, num_bins, "T"]),
              (ONNX_INPUTS[1], TensorProto.INT32, ["N"])]
    outputs = [(ONNX_OUTPUTS[0], TensorProto.FLOAT, ["N", "T'", num_classes]),
               (lengths, TensorProto.INT32, ["N"])]
    return graph.model(inputs, outputs)


def add_classifier(graph: GraphBuilder, parameters: Parameters, x: str) -> int:
    """Batch norm, projection and softmax of (N, T', H) features; returns the number of classes."""
    scale, shift = _scale_and_shift(parameters, "fc_norm.cell")
    weight = parameters["fc.weight"].astype(np.float64)  # (C, H)
    x = graph.node(
        "fc.product", "MatMul", x, graph.constant("fc.weight", np.float32((weight * scale).T))
    )
    x = graph.node("fc", "Add", x, graph.constant("fc.bias", np.float32(weight @ shift)))
    graph.node(ONNX_OUTPUTS[0], "Softmax", x, axis=-1)
    return len(weight)


def _strided_lengths(graph: GraphBuilder, stride: int, name: str) -> str:
    """The graph's (N,) frame counts divided by a stride, as in `strided_size`: (N,) int32."""
    more = graph.constant(f"{name}.more", np.array([stride - 1], np.int32))
    total = graph.node(f"{name}.sum", "Add", ONNX_INPUTS[1], more)
    return graph.node(
        name, "Div", total, graph.constant(f"{name}.stride", np.array([stride], np.int32))
    )


def _convolutions(
    graph: GraphBuilder, parameters: Parameters, model: ModelConfig, lengths: str
) -> str:
    """Both convolutions with batch norm, Hardtanh and mask: (N, 1, F, T) -> (T', N, C * F')."""
    x = ONNX_INPUTS[0]
    first = _strided_lengths(graph, model.time_strides[0], "conv1.lengths")
    layers = zip(model.conv_kernels, model.conv_strides, (first, lengths), strict=True)
    for i, (kernel, stride, ends) in enumerate(layers, 1):
        x = add_convolution(graph, parameters, i, x, kernel, stride, kernel[1] // 2)
        x = graph.node(f"conv{i}.masked", "Mul", x, _mask(graph, x, ends, f"conv{i}.mask"))
    return add_features(graph, x)


def add_convolution(
    graph: GraphBuilder,
    parameters: Parameters,
    number: int,
    x: str,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    time_padding: int,
) -> str:
    """The first or second convolution with batch norm and Hardtanh, without mask."""
    scale, shift = _scale_and_shift(parameters, f"conv.norm{number}")
    weight = parameters[f"conv.conv{number}.weight"] * scale.reshape(-1, 1, 1, 1)
    bias = parameters[f"conv.conv{number}.bias"] * scale + shift
    x = graph.node(
        f"conv{number}",
        "Conv",
        x,
        graph.constant(f"conv{number}.weight", np.float32(weight)),
        graph.constant(f"conv{number}.bias", np.float32(bias)),
        kernel_shape=kernel,
        strides=stride,
        pads=[kernel[0] // 2, time_padding] * 2,
    )
    return graph.clip(f"conv{number}.clip", x, 0, HARDTANH_MAX)


def add_features(graph: GraphBuilder, x: str) -> str:
    """(N, C, F', T') -> (T', N, C * F')."""
    x = graph.node("time_first", "Transpose", x, perm=[3, 0, 1, 2])  # -> (T', N, C, F')
    shape = graph.constant("features.shape", np.array([0, 0, -1]))
    return graph.node("features", "Reshape", x, shape)


def _mask(graph: GraphBuilder, x: str, lengths: str, name: str) -> str:
    """(N, C, F', T') features, (N,) lengths -> (N, 1, 1, T') float32 mask: one where valid."""
    from onnx import TensorProto

    size = graph.node(f"{name}.shape", "Shape", x, start=3, end=4)
    size = graph.node(f"{name}.size64", "Squeeze", size)
    size = graph.node(f"{name}.size", "Cast", size, to=TensorProto.INT32)
    first = graph.constant(f"{name}.first", np.int32(0))
    step = graph.constant(f"{name}.step", np.int32(1))
    positions = graph.node(f"{name}.positions", "Range", first, size, step)
    axes = graph.constant(f"{name}.axes", np.array([1, 2, 3]))
    ends = graph.node(f"{name}.ends", "Unsqueeze", lengths, axes)
    valid = graph.node(f"{name}.valid", "Less", positions, ends)
    return graph.node(name, "Cast", valid, to=TensorProto.FLOAT)


def _lstm(
    graph: GraphBuilder,
    parameters: Parameters,
    model: ModelConfig,
    layer: int,
    x: str,
    lengths: str,
) -> str:
    """A recurrent layer and the batch norm before it: (T', N, features) -> (T', N, H).

    Directions are summed; the output is zero past the lengths.
    """
    constants = lstm_constants(graph, parameters, model, layer)
    direction = "bidirectional" if model.bidirectional else "forward"
    # (T', D, N, H)
    x = graph.node(
        f"lstm{layer}", "LSTM", x, *constants, lengths, hidden_size=model.hidden_size,
        direction=direction,
    )  # fmt: skip
    return add_sum(graph, layer, x)


def add_sum(graph: GraphBuilder, layer: int, x: str) -> str:
    """The directions of a recurrent layer added up: (T', D, N, H) -> (T', N, H)."""
    axis = graph.constant(f"lstm{layer}.axis", np.array([1]))
    return graph.node(f"lstm{layer}.sum", "ReduceSum", x, axis, keepdims=0)


def lstm_constants(
    graph: GraphBuilder, parameters: Parameters, model: ModelConfig, layer: int
) -> list[str]:
    """Weights, recurrent weights and bias of a recurrent layer and the batch norm before it."""
    directions = ["forward_lstm", "backward_lstm"] if model.bidirectional else ["forward_lstm"]
    count, size = len(directions), model.hidden_size

    def stacked(name: str) -> np.ndarray:
        """A parameter of all directions with the gates in ONNX's order, (D, 4, H, …) float32."""
        values = np.stack([parameters[f"rnns.{layer}.{way}.{name}"] for way in directions])
        return values.reshape(count, 4, size, *values.shape[2:])[:, GATES]

    weight, recurrent = stacked("weight_ih_l0"), stacked("weight_hh_l0")
    bias = stacked("bias_ih_l0").astype(np.float64) + stacked("bias_hh_l0")
    if layer:
        scale, shift = _scale_and_shift(parameters, f"norms.{layer - 1}.cell")
        bias += np.stack([way @ shift for way in weight])
        np.multiply(weight, scale, out=weight, casting="same_kind")  # without a copy in float64
    # ONNX adds two biases; the second one is zero here
    both_halves = np.pad(bias.reshape(count, 4 * size), [(0, 0), (0, 4 * size)])
    arrays = {
        "weight": weight.reshape(count, 4 * size, -1),
        "recurrent": recurrent.reshape(count, 4 * size, size),
        "bias": np.float32(both_halves),
    }
    return [graph.constant(f"lstm{layer}.{name}", array) for name, array in arrays.items()]


def _lookahead(graph: GraphBuilder, weight: np.ndarray, x: str) -> str:
    """The lookahead convolution and Hardtanh: (T', N, H) -> (N, T', H)."""
    hidden, context = weight.shape[0], weight.shape[-1]
    x = graph.node("lookahead.time_last", "Transpose", x, perm=[1, 2, 0])  # -> (N, H, T')
    kernel = graph.constant("lookahead.weight", weight.reshape(hidden, 1, context))
    pads = [0, context - 1]
    x = graph.node("lookahead", "Conv", x, kernel, kernel_shape=[context], pads=pads, group=hidden)
    x = graph.clip("lookahead.clip", x, 0, HARDTANH_MAX)
    return graph.node("batch_first", "Transpose", x, perm=[0, 2, 1])


def _scale_and_shift(parameters: Parameters, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A batch norm in evaluation mode as x * scale + shift: two (features,) float64 arrays."""
    mean, variance, gamma, beta = (
        parameters[f"{name}.{part}"].astype(np.float64)
        for part in ("moving_mean", "moving_variance", "gamma", "beta")
    )
    scale = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
    return scale, beta - mean * scale


def fix_quantization_ranges(path: Path) -> None:
    """Rewrite a model of `make_onnx` so that 8-bit LSTMs always quantize with the same step.

    ONNX Runtime divides the range of all values that an LSTM reads in a batch into 256 steps, so
    the output of an utterance would depend on the other utterances of the batch. But the range is
    bounded: by 0 and 20 after Hardtanh, by -1 and 1 after an LSTM, by -2 and 2 after the sum of two
    directions. This function adds features with the values of these bounds, the anchors, to every
    frame. The range is then always the same. The weights of the anchors are zero, so they change no
    result.

    Args:
        path: the model, which is overwritten.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    arrays = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
    added = GraphBuilder()
    anchored: dict[str, str] = {}  # name of a value -> name of the same value with anchors
    for node in model.graph.node:
        node.input[:] = [anchored.get(name, name) for name in node.input]
        if node.op_type == "LSTM":
            _add_lstm_anchors(arrays, node)
        elif node.name == "lookahead":
            arrays["lookahead.weight"] = _pad_axes(arrays["lookahead.weight"], {0: ANCHORS})
            _attribute(node, "group").i += ANCHORS
        added.graph.node.append(node)
        if node.name == "features":
            pads = added.constant("features.pads", np.array([0, 0, 0, 0, 0, 1]))
            largest = added.constant("features.largest", np.float32(HARDTANH_MAX))
            anchored[node.name] = added.node("features.anchored", "Pad", node.name, pads, largest)
        elif node.op_type == "ReduceSum":
            anchored[node.name] = _reach_bounds(added, arrays, node.name.removesuffix(".sum"))
    arrays["fc.weight"] = _pad_axes(arrays["fc.weight"], {0: ANCHORS})
    for value in (*model.graph.input, *model.graph.output):
        if value.name.startswith(STATES_WITH_ANCHORS):
            _widen(value)
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(added.graph.node)
    model.graph.initializer.extend([*constants, *added.graph.initializer])
    onnx.save(model, path)


def _widen(value: "onnx.ValueInfoProto") -> None:
    """Add the anchors to the units of a state of streams, its only axis of fixed size but one."""
    sizes = [axis for axis in value.type.tensor_type.shape.dim if axis.dim_value > 1]
    sizes[-1].dim_value += ANCHORS


def _add_lstm_anchors(arrays: Parameters, node: "onnx.NodeProto") -> None:
    """Add two units to an LSTM: one with the largest possible output, one with the smallest.

    Args:
        arrays: constants of the model by name; those of the LSTM are replaced.
        node: the LSTM.
    """
    weight, recurrent, bias = (arrays[f"{node.name}.{n}"] for n in ("weight", "recurrent", "bias"))
    count, size = len(weight), recurrent.shape[2]
    # anchors among the inputs; the lower bound of the convolutions' features, 0, needs none
    read = 1 if node.name == "lstm0" else ANCHORS
    weight = _pad_axes(weight.reshape(count, 4, size, -1), {2: ANCHORS, 3: read})
    recurrent = _pad_axes(recurrent.reshape(count, 4, size, size), {2: ANCHORS, 3: ANCHORS})
    bias = bias[:, : 4 * size].reshape(count, 4, size)
    # gates wide open: the cell of the first unit counts the steps upwards, of the second downwards
    bias = np.pad(bias, [(0, 0), (0, 0), (0, ANCHORS)], constant_values=100)
    bias[:, CELL, -1] *= -1
    size += ANCHORS
    bias = _pad_axes(bias.reshape(count, 4 * size), {1: 4 * size})
    arrays[f"{node.name}.weight"] = weight.reshape(count, 4 * size, -1)
    arrays[f"{node.name}.recurrent"] = recurrent.reshape(count, 4 * size, size)
    arrays[f"{node.name}.bias"] = bias
    _attribute(node, "hidden_size").i = size


def _reach_bounds(graph: GraphBuilder, arrays: Parameters, name: str) -> str:
    """Set the anchors in an LSTM's sum to its bounds in all frames.

    The cells need some steps to reach the bounds, and the output is zero in padding: an offset
    beyond the bounds and a clip correct both.
    """
    count, _, size = arrays[f"{name}.recurrent"].shape
    offset = np.zeros(size, np.float32)
    offset[-ANCHORS:] = 2.0 * count, -2.0 * count
    x = graph.node(f"{name}.beyond", "Add", f"{name}.sum", graph.constant(f"{name}.offset", offset))
    return graph.clip(f"{name}.anchored", x, -count, count)


def _attribute(node: "onnx.NodeProto", name: str) -> "onnx.AttributeProto":
    return next(attribute for attribute in node.attribute if attribute.name == name)


def _pad_axes(array: np.ndarray, more: dict[int, int]) -> np.ndarray:
    """`array` with zeros at the end of some axes: {axis: number of zeros}."""
    return np.pad(array, [(0, more.get(axis, 0)) for axis in range(array.ndim)])


def quantize_onnx(source: Path, target: Path) -> None:
    """Quantize the LSTM weights of a model to 8 bits, with a scale for each matrix row.

    The model quantizes the inputs of its LSTMs when it runs. Convolutions and projection stay in
    float32: ONNX Runtime's 8-bit convolutions are ten times slower (measured), and the projection
    takes no time. Weights use 7 of the 8 bits, because CPUs without VNNI add two products in 16
    bits.

    Args:
        source: the model, after `fix_quantization_ranges`.
        target: the file to write.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable()  # quantize_dynamic recommends a preparation that is for other networks
    try:
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["LSTM"],
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
        )
    finally:
        logging.disable(logging.NOTSET)
