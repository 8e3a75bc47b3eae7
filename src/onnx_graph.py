"""The network written as an ONNX graph, operator by operator, because MindSpore exports no dynamic shapes to ONNX.

Axes: N batch, T spectrogram frame, T' output frame, F frequency bin, C channel or class, H hidden unit, D direction.
Batch norms are folded into the weights beside them. Only the masks of the network that change a result are here:
Hardtanh(0, 20) leaves zeros zero, and ONNX's LSTM reads and writes nothing past the lengths.

Where values are rounded to 8 bits, ONNX Runtime divides the range of all values that an LSTM reads at once into 256
steps, so an utterance would depend on what it is batched with. But the values are bounded: by 0 and 20 after Hardtanh,
by -1 and 1 as the output of an LSTM, by twice that for two directions. With `fixed_ranges` every frame of every
utterance holds both bounds, in features that nothing else reads (the anchors), and so the steps are always the same.

`onnx` is imported within functions: MindSpore cannot be imported after the protobuf that it loads.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from src.config import ModelConfig
from src.DeepSpeech import CONV1_KERNEL
from src.predictor import ONNX_INPUTS, ONNX_OUTPUTS

if TYPE_CHECKING:
    import onnx

OPSET, IR_VERSION = 17, 8          # of 2022: ONNX Runtime 1.12 and newer
BATCH_NORM_EPSILON = 1e-5          # MindSpore's default
GATES = [0, 3, 1, 2]               # ONNX's order i, o, f, c of the gates, in MindSpore's and PyTorch's i, f, c, o
CELL = 3                           # the place of c in ONNX's order
HARDTANH_MAX = 20
ANCHORS = 2                        # further units of an LSTM: one has the largest possible output, one the smallest

Parameters = dict[str, np.ndarray]


class GraphBuilder:
    """Nodes and constants under construction. A value is known by its name, which is its node's too."""

    def __init__(self):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: np.ndarray) -> str:
        """Store an array; returns its name."""
        from onnx import numpy_helper
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, name: str, operator: str, *inputs: str, **attributes) -> str:
        """Add an operator with one output; returns the output's name."""
        from onnx import helper
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def clip(self, name: str, value: str, smallest: float = 0, largest: float = HARDTANH_MAX) -> str:
        """Hardtanh(smallest, largest)."""
        bounds = self.constant(f"{name}.min", np.float32(smallest)), self.constant(f"{name}.max", np.float32(largest))
        return self.node(name, "Clip", value, *bounds)


def write_onnx(path: Path, parameters: Parameters, model: ModelConfig, num_bins: int,
               fixed_ranges: bool = False) -> None:
    """Write what `PredictCell` computes as an ONNX file for any batch size and any number of frames.

    Args:
        parameters: those of `DeepSpeech` by name.
        num_bins: F.
        fixed_ranges: add the anchors that `quantize_onnx` needs; they change no result.

    The graph: inputs (N, 1, F, T) float32, zero past the lengths; input_length (N,) int32 -> probs (N, T', C) float32,
    output_lengths (N,) int32.
    """
    import onnx
    from onnx import TensorProto, helper
    graph = GraphBuilder()
    anchors = ANCHORS if fixed_ranges else 0
    lengths = _strided_lengths(graph, model.time_stride, ONNX_OUTPUTS[1])
    x = _convolutions(graph, parameters, model, lengths)
    if anchors:
        x = graph.node("features.anchored", "Pad", x, graph.constant("features.pads", np.array([0, 0, 0, 0, 0, 1])),
                       graph.constant("features.largest", np.float32(HARDTANH_MAX)))
    for layer in range(model.hidden_layers):
        x = _lstm(graph, parameters, model, layer, x, lengths, anchors)
    if model.bidirectional:
        x = graph.node("batch_first", "Transpose", x, perm=[1, 0, 2])      # (T', N, H) -> (N, T', H)
    else:
        x = _lookahead(graph, parameters["lookahead.conv.weight"], x, anchors)
    scale, shift = _scale_and_shift(parameters, "fc_norm.cell")
    weight = parameters["fc.weight"].astype(np.float64)                    # (C, H)
    product = np.pad(weight * scale, [(0, 0), (0, anchors)]).T
    x = graph.node("fc.product", "MatMul", x, graph.constant("fc.weight", np.float32(product)))
    x = graph.node("fc", "Add", x, graph.constant("fc.bias", np.float32(weight @ shift)))
    graph.node(ONNX_OUTPUTS[0], "Softmax", x, axis=-1)

    shapes = [(ONNX_INPUTS[0], TensorProto.FLOAT, ["N", 1, num_bins, "T"]), (ONNX_INPUTS[1], TensorProto.INT32, ["N"]),
              (ONNX_OUTPUTS[0], TensorProto.FLOAT, ["N", "T'", len(weight)]), (lengths, TensorProto.INT32, ["N"])]
    values = [helper.make_tensor_value_info(*shape) for shape in shapes]
    onnx.save(helper.make_model(helper.make_graph(graph.nodes, "DeepSpeech2", values[:2], values[2:], graph.constants),
                                opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION), path)


def quantize_onnx(source: Path, target: Path) -> None:
    """Write a model with `fixed_ranges` with the weights of its LSTMs in 8 bits, a scale for each row of a matrix.

    What the LSTMs read is rounded to 8 bits when the model runs. Measured: convolutions in 8 bits are ten times slower
    in ONNX Runtime than in float32, and the projection takes no time. Weights use 7 of the 8 bits, so that sums of two
    products fit in 16 bits, which is what CPUs without VNNI add them in.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    logging.disable()    # it recommends a preparation that is for other networks
    try:
        quantize_dynamic(source, target, op_types_to_quantize=["LSTM"], weight_type=QuantType.QInt8, per_channel=True,
                         reduce_range=True)
    finally:
        logging.disable(logging.NOTSET)


def _strided_lengths(graph: GraphBuilder, stride: int, name: str) -> str:
    """(N,) spectrogram frames -> (N,) frames: (length - 1) // stride + 1, the quotient of whole numbers from 0 on."""
    more = graph.constant(f"{name}.more", np.array([stride - 1], np.int32))
    return graph.node(name, "Div", graph.node(f"{name}.sum", "Add", ONNX_INPUTS[1], more),
                      graph.constant(f"{name}.stride", np.array([stride], np.int32)))


def _convolutions(graph: GraphBuilder, parameters: Parameters, model: ModelConfig, lengths: str) -> str:
    """(N, 1, F, T) -> (T', N, C * F')."""
    x, first = ONNX_INPUTS[0], _strided_lengths(graph, model.conv_strides[0][1], "conv1.lengths")
    for i, (kernel, stride, ends) in enumerate(zip((CONV1_KERNEL, model.conv2_kernel), model.conv_strides,
                                                   (first, lengths), strict=True), 1):
        scale, shift = _scale_and_shift(parameters, f"conv.norm{i}")
        weight = parameters[f"conv.conv{i}.weight"] * scale.reshape(-1, 1, 1, 1)
        bias = parameters[f"conv.conv{i}.bias"] * scale + shift
        x = graph.node(f"conv{i}", "Conv", x, graph.constant(f"conv{i}.weight", np.float32(weight)),
                       graph.constant(f"conv{i}.bias", np.float32(bias)),
                       kernel_shape=kernel, strides=stride, pads=[kernel[0] // 2, kernel[1] // 2] * 2)
        x = graph.clip(f"conv{i}.clip", x)
        x = graph.node(f"conv{i}.masked", "Mul", x, _mask(graph, x, ends, f"conv{i}.mask"))
    x = graph.node("time_first", "Transpose", x, perm=[3, 0, 1, 2])         # (N, C, F', T') -> (T', N, C, F')
    return graph.node("features", "Reshape", x, graph.constant("features.shape", np.array([0, 0, -1])))


def _mask(graph: GraphBuilder, x: str, lengths: str, name: str) -> str:
    """(N, C, F', T') features, (N,) lengths -> (N, 1, 1, T') float32: one at valid positions, zero after them."""
    from onnx import TensorProto
    size = graph.node(f"{name}.shape", "Shape", x, start=3, end=4)
    size = graph.node(f"{name}.size64", "Squeeze", size)
    size = graph.node(f"{name}.size", "Cast", size, to=TensorProto.INT32)
    positions = graph.node(f"{name}.positions", "Range", graph.constant(f"{name}.first", np.int32(0)), size,
                           graph.constant(f"{name}.step", np.int32(1)))
    ends = graph.node(f"{name}.ends", "Unsqueeze", lengths, graph.constant(f"{name}.axes", np.array([1, 2, 3])))
    valid = graph.node(f"{name}.valid", "Less", positions, ends)
    return graph.node(name, "Cast", valid, to=TensorProto.FLOAT)


def _lstm(graph: GraphBuilder, parameters: Parameters, model: ModelConfig, layer: int, x: str, lengths: str,
          anchors: int) -> str:
    """(T', N, features) -> (T', N, H): a layer with the batch norm before it, its directions summed.

    With anchors, so many units more, which hold the sum's bounds. The output is zero past the lengths, but for anchors.
    """
    directions = ["forward_lstm", "backward_lstm"] if model.bidirectional else ["forward_lstm"]

    def stacked(name: str) -> np.ndarray:
        """(D, 4, H, …) float64: a parameter of all directions, its gates in ONNX's order."""
        values = np.stack([parameters[f"rnns.{layer}.{direction}.{name}"] for direction in directions])
        gates = values.reshape(len(directions), 4, model.hidden_size, *values.shape[2:])
        return gates[:, GATES].astype(np.float64)

    weight, recurrent, bias = stacked("weight_ih_l0"), stacked("weight_hh_l0"), stacked("bias_ih_l0")
    bias += stacked("bias_hh_l0")
    if layer:
        scale, shift = _scale_and_shift(parameters, f"norms.{layer - 1}.cell")
        weight, bias = weight * scale, bias + weight @ shift
    if anchors:
        none = (0, 0)
        weight = np.pad(weight, [none, none, (0, anchors), (0, anchors if layer else 1)])    # nothing reads an anchor
        recurrent = np.pad(recurrent, [none, none, (0, anchors), (0, anchors)])
        bias = np.pad(bias, [none, none, (0, anchors)], constant_values=100)    # open gates: the cell counts its steps,
        bias[:, CELL, -1] *= -1                                                 # upwards and downwards
    size, count = bias.shape[2], len(directions)
    arrays = {"weight": weight.reshape(count, 4 * size, -1), "recurrent": recurrent.reshape(count, 4 * size, size),
              "bias": np.pad(bias.reshape(count, 4 * size), [(0, 0), (0, 4 * size)])}    # its second half adds nothing
    constants = [graph.constant(f"lstm{layer}.{name}", np.float32(array)) for name, array in arrays.items()]
    x = graph.node(f"lstm{layer}", "LSTM", x, *constants, lengths, hidden_size=size,
                   direction="bidirectional" if model.bidirectional else "forward")          # (T', D, N, H)
    x = graph.node(f"lstm{layer}.sum", "ReduceSum", x, graph.constant(f"lstm{layer}.axis", np.array([1])), keepdims=0)
    if anchors:    # their first steps have not yet reached the bounds, nor has padding
        beyond = np.pad(2.0 * count * np.array([1, -1]), [(size - anchors, 0)])
        x = graph.node(f"lstm{layer}.beyond", "Add", x, graph.constant(f"lstm{layer}.offset", np.float32(beyond)))
        x = graph.clip(f"lstm{layer}.anchored", x, -count, count)
    return x


def _lookahead(graph: GraphBuilder, weight: np.ndarray, x: str, anchors: int) -> str:
    """(T', N, H) -> (N, T', H): each feature's weighted sum over the next frames, clipped; zero for anchors."""
    hidden, context = weight.shape[0] + anchors, weight.shape[-1]
    weight = np.pad(weight.reshape(-1, 1, context), [(0, anchors), (0, 0), (0, 0)])
    x = graph.node("lookahead.time_last", "Transpose", x, perm=[1, 2, 0])                  # (T', N, H) -> (N, H, T')
    x = graph.node("lookahead", "Conv", x, graph.constant("lookahead.weight", weight),
                   kernel_shape=[context], pads=[0, context - 1], group=hidden)
    return graph.node("batch_first", "Transpose", graph.clip("lookahead.clip", x), perm=[0, 2, 1])


def _scale_and_shift(parameters: Parameters, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A batch norm in evaluation as x * scale + shift, both (features,) float64."""
    mean, variance, gamma, beta = (parameters[f"{name}.{part}"].astype(np.float64)
                                   for part in ("moving_mean", "moving_variance", "gamma", "beta"))
    scale = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
    return scale, beta - mean * scale
