"""The network against the PyTorch original's numbers, and the invariants that the zoo broke."""

import itertools
import os
import re
import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest
from conftest import ROOT
from gradients import Gradients
from mindspore import Tensor, nn
from reference import CLASS_ORDER, our_tensors

from src.config import ModelConfig
from src.DeepSpeech import (
    DeepSpeech,
    DropoutMasks,
    Lookahead,
    LossCell,
    PredictCell,
    dynamic_inputs,
    dynamic_loss_inputs,
)

pytestmark = pytest.mark.usefixtures("graph_mode")

BLANK = 28
SMALL = {"hidden_size": 12, "hidden_layers": 2, "conv_channels": 4, "conv2_kernel": (21, 11)}


NUMBERS = pytest.mark.parametrize(("numbers", "fourier"), [
    ("small", True), ("small", False), ("original", True)], scope="module")


@pytest.fixture(scope="module")
def reference(request, numbers):
    """PyTorch's numbers of a small network, in every clone, and those that the original wrote."""
    if numbers == "small":
        return np.load(ROOT / "tests" / "data" / "parity.npz")
    return np.load(request.getfixturevalue("shared") / "reference"
                   / "deepspeech_pytorch_bilstm.npz")


@pytest.fixture(scope="module")
def network(reference, fourier):
    state = {name.removeprefix("state/"): reference[name].shape for name in reference.files
             if name.startswith("state/")}
    model = ModelConfig(
        hidden_size=state["rnns.0.rnn.weight_hh_l0"][1],
        hidden_layers=sum(name.endswith("rnn.weight_hh_l0") for name in state),
        conv_channels=state["conv.seq_module.0.weight"][0],
        conv2_kernel=(21, 11))
    network = DeepSpeech(model, 161, 29, fourier=fourier)
    tensors = our_tensors(reference, "state/")
    assert tensors.keys() == network.parameters_dict().keys()
    for name, parameter in network.parameters_dict().items():
        assert parameter.shape == tensors[name].shape
        parameter.set_data(Tensor(tensors[name]))
    return network


def compiled(network) -> PredictCell:
    cell = PredictCell(network).set_train(False)
    cell.set_inputs(*dynamic_inputs(161))
    return cell


@NUMBERS
def test_probabilities_equal_the_original(reference, network):
    cell = compiled(network)
    for _ in range(3):  # the third call of a compiled graph too
        probs, lengths = cell(Tensor(reference["input"]), Tensor(reference["input_lengths"]))
        np.testing.assert_array_equal(lengths.asnumpy(), reference["output_lengths"])
        for i, length in enumerate(reference["output_lengths"]):
            expected = reference["probs"][i, :length, CLASS_ORDER].T
            np.testing.assert_allclose(probs.asnumpy()[i, :length], expected, atol=1e-5, rtol=0)


@NUMBERS
def test_loss_and_gradients_equal_the_original_at_every_call(reference, network):
    cell = Gradients(LossCell(network, BLANK)).set_train(True)
    cell.set_inputs(*dynamic_loss_inputs(161))
    lengths = reference["target_lengths"]
    targets = np.zeros((len(lengths), lengths.max()), np.int32)
    for row, part in zip(targets, np.split(reference["targets"] - 1, np.cumsum(lengths)[:-1]),
                         strict=True):
        row[:len(part)] = part  # minus one: the original's classes have the blank first
    expected = our_tensors(reference, "grad/")
    names = [p.name for p in cell.parameters]
    assert set(names) == expected.keys()
    for call in range(3):
        loss, gradients = cell(Tensor(reference["input"]), Tensor(reference["input_lengths"]),
                               Tensor(targets), Tensor(lengths), Tensor(1.0, ms.float32))
        assert loss.asnumpy() == pytest.approx(reference["train_loss_sum"],
                                               rel=1e-5), f"call {call}"
        for name, gradient in zip(names, gradients, strict=True):
            error = np.linalg.norm(gradient.asnumpy() - expected[name]) / np.linalg.norm(
                expected[name])
            assert error < 1e-4, f"call {call}: {name} differs by {error:.1e} of its norm"


@pytest.mark.parametrize("bidirectional", [True, False])
def test_an_utterance_does_not_depend_on_what_it_is_batched_with(bidirectional):
    ms.set_seed(3)
    network = DeepSpeech(ModelConfig(**SMALL, bidirectional=bidirectional, lookahead_context=7),
                         161, 29)
    rng = np.random.default_rng(3)
    for p in network.get_parameters():  # batch norm that does something
        if p.name.endswith(("beta", "moving_mean")):
            p.set_data(Tensor(rng.normal(0, 0.5, p.shape).astype(np.float32)))
    cell = compiled(network)
    lengths = np.array([97, 64, 33, 1], np.int32)
    inputs = rng.standard_normal((4, 1, 161, 97), np.float32) * (
        np.arange(97) < lengths[:, None, None, None])
    together, _ = cell(Tensor(inputs), Tensor(lengths))
    for i, length in enumerate(lengths):
        alone, (frames,) = cell(Tensor(inputs[i:i + 1, ..., :length]), Tensor(lengths[i:i + 1]))
        frames = int(frames)
        assert alone.shape == (1, frames, 29)
        np.testing.assert_allclose(together.asnumpy()[i, :frames], alone.asnumpy()[0], atol=1e-5,
                                   rtol=0)


def test_ctc_loss_equals_the_sum_over_all_alignments():
    """Every path of 4 frames over 3 classes is tried: its labels match or not."""
    ms.set_seed(1)
    model = ModelConfig(hidden_size=4, hidden_layers=1, conv_channels=2, conv2_kernel=(21, 11))
    network = DeepSpeech(model, 161, 3)
    loss = LossCell(network, blank_index=2).set_train(False)
    rng = np.random.default_rng(1)
    inputs = Tensor(rng.standard_normal((2, 1, 161, 8), np.float32))
    lengths = Tensor(np.array([8, 8], np.int32))
    targets = [[0, 1], [0, 0]]
    found = loss(inputs, lengths, Tensor(np.array(targets, np.int32)),
                 Tensor(np.array([2, 2], np.int32)), Tensor(2.0, ms.float32))
    probs, frames = PredictCell(network).set_train(False)(inputs, lengths)
    assert frames.asnumpy().tolist() == [4, 4]
    expected = 0.0
    for p, target in zip(probs.asnumpy().astype(np.float64), targets, strict=True):
        paths = itertools.product(range(3), repeat=4)
        expected -= np.log(sum(p[range(4), path].prod() for path in paths
                               if [c for c, _ in itertools.groupby(path) if c != 2] == target))
    assert float(found) == pytest.approx(expected / 2, rel=1e-5)


class Given(nn.Cell):
    """In place of the network: its inputs are the logits, half of them the middle layer's."""

    def construct(self, logits, lengths, dropout_seeds=None, with_intermediate=False):
        return (logits, lengths, logits / 2) if with_intermediate else (logits, lengths)


class InputGradient(nn.Cell):
    """A loss and its gradient for the first input, compiled once for all shapes."""

    def __init__(self, loss: LossCell, classes: int):
        super().__init__(auto_prefix=False)
        self.value_and_grad = ms.value_and_grad(loss, 0)
        self.set_inputs(Tensor(shape=[None, None, classes], dtype=ms.float32),
                        Tensor(shape=[None], dtype=ms.int32), *dynamic_loss_inputs(161)[2:])

    def construct(self, *inputs):
        return self.value_and_grad(*inputs)


@pytest.fixture(scope="module")
def given():
    """Logits (T', N, C), and what else the loss takes."""
    rng = np.random.default_rng(4)
    logits = 2 * rng.standard_normal((6, 4, 5)).astype(np.float32)
    others = [np.array([6, 4, 6, 4], np.int32), rng.integers(0, 4, (4, 2)).astype(np.int32),
              np.array([2, 1, 2, 1], np.int32)]
    return logits, others


def loss_of(given, scale: float = 1.0, **settings) -> tuple[float, np.ndarray]:
    """The loss of the batch divided by one, and its gradient, at the third call."""
    logits, others = given
    cell = InputGradient(LossCell(Given(), 4, **settings), 5)
    for _ in range(3):
        loss, gradient = cell(Tensor(logits * np.float32(scale)), *map(Tensor, others),
                              Tensor(1.0, ms.float32))
    return float(loss), gradient.asnumpy()


def test_the_intermediate_loss_has_its_weight(given):
    last, last_gradient = loss_of(given)
    middle, middle_gradient = loss_of(given, scale=0.5)
    found, found_gradient = loss_of(given, intermediate_ctc_weight=0.3)
    assert found == pytest.approx(0.7 * last + 0.3 * middle, rel=1e-5)
    np.testing.assert_allclose(found_gradient, 0.7 * last_gradient + 0.3 * middle_gradient / 2,
                               atol=1e-5)


@pytest.mark.parametrize("layers", [2, 5])
def test_intermediate_logits_are_those_of_a_network_that_ends_there(layers):
    """With its batch norm in the place of the last one: the output of a shorter network."""
    sizes = {"hidden_size": 6, "conv_channels": 2, "conv2_kernel": (21, 1)}
    network = DeepSpeech(ModelConfig(**sizes, hidden_layers=layers), 161, 29).set_train(False)
    middle = (layers + 1) // 2
    short = DeepSpeech(ModelConfig(**sizes, hidden_layers=middle), 161, 29).set_train(False)
    rng = np.random.default_rng(layers)
    own = network.parameters_dict()
    for name, parameter in own.items():
        if name.endswith(("gamma", "beta", "moving_mean")):
            parameter.set_data(Tensor(rng.uniform(0.5, 1.5, parameter.shape).astype(np.float32)))
    for name, parameter in short.parameters_dict().items():
        parameter.set_data(own[name.replace("fc_norm", f"norms.{middle - 1}")])
    inputs = (Tensor(rng.standard_normal((2, 1, 161, 30), np.float32)),
              Tensor(np.array([30, 22], np.int32)))
    logits, lengths, between = network(*inputs, None, True)
    np.testing.assert_allclose(between.asnumpy(), short(*inputs)[0].asnumpy(), atol=1e-5)
    np.testing.assert_array_equal(logits.asnumpy(), network(*inputs)[0].asnumpy())


def murmur(x: int) -> int:
    """MurmurHash3's 32-bit finalizer, in Python's whole numbers. Source: Appleby, `fmix32`."""
    x ^= x >> 16
    x = x * 0x85EBCA6B % 2**32
    x ^= x >> 13
    x = x * 0xC2B2AE35 % 2**32
    return x ^ x >> 16


def test_dropout_masks_are_a_hash_of_seed_layer_and_unit():
    cell = DropoutMasks(layers=3, hidden_size=500, dropout=0.25)
    cell.set_inputs(Tensor(shape=[None], dtype=ms.int32))
    seeds = np.array([7, 2**31 - 1, 0], np.int32)
    for _ in range(3):
        masks = cell(Tensor(seeds)).asnumpy()
    assert masks.shape == (3, 3, 500) and masks.dtype == np.float32
    for layer, row, unit in itertools.product(range(3), range(3), range(0, 500, 7)):
        number = (layer * 500 + unit) * 0x9E3779B1
        kept = murmur((int(seeds[row]) + number) % 2**32) % 2**31 >= 0.25 * 2**31
        assert masks[layer, row, unit] == np.float32(kept / 0.75)
    assert np.mean(masks == 0) == pytest.approx(0.25, abs=0.02)
    np.testing.assert_array_equal(cell(Tensor(seeds[1:2])).asnumpy(), masks[:, 1:2])


def test_dropout_masks_of_units_layers_and_rows_are_independent():
    seeds = np.random.default_rng(0).integers(2**31, size=2000).astype(np.int32)
    kept = DropoutMasks(2, 64, 0.3)(Tensor(seeds)).asnumpy() > 0
    units = kept.transpose(1, 0, 2).reshape(2000, 128)
    assert units.mean() == pytest.approx(0.7, abs=0.005)
    for table in (units.T, units[:200]):  # correlations between units, and between rows
        correlations = np.corrcoef(table)[np.triu_indices(len(table), 1)]
        assert correlations.std() == pytest.approx(table.shape[1] ** -0.5, rel=0.05)


def test_labels_that_do_not_fit_leave_the_gradients_of_the_others_alone():
    network = DeepSpeech(ModelConfig(**SMALL), 161, 29)
    cell = Gradients(LossCell(network, BLANK)).set_train(False)
    cell.set_inputs(*dynamic_loss_inputs(161))
    rng = np.random.default_rng(0)
    inputs, lengths = rng.standard_normal((3, 1, 161, 20), np.float32), np.full(3, 20, np.int32)
    targets = np.array([[1, 2, 3, 4] + [0] * 12, [5] * 16, list(range(16))], np.int32)
    # the second needs 11 output frames, the third 16; there are 10
    counts = np.array([4, 6, 16], np.int32)
    one = Tensor(1.0, ms.float32)
    loss, gradients = cell(*map(Tensor, (inputs, lengths, targets, counts)), one)
    alone_loss, alone = cell(*map(Tensor, (inputs[:1], lengths[:1], targets[:1], counts[:1])), one)
    assert float(loss) == pytest.approx(float(alone_loss), rel=1e-5)
    for a, b in zip(gradients, alone, strict=True):
        np.testing.assert_allclose(a.asnumpy(), b.asnumpy(),
                                   atol=1e-5 * max(1, np.abs(b.asnumpy()).max()))


def test_labels_that_do_not_fit_contribute_nothing():
    network = DeepSpeech(ModelConfig(**SMALL), 161, 29)
    loss = LossCell(network, BLANK).set_train(False)
    loss.set_inputs(*dynamic_loss_inputs(161))
    rng = np.random.default_rng(0)
    one = rng.standard_normal((1, 1, 161, 20), np.float32)
    length = Tensor(np.array([20], np.int32))
    target = Tensor(np.array([[1, 2, 3] * 5 + [3]], np.int32))
    # 20 frames are 10 output frames
    for count, nothing in ((16, True), (11, True), (10, False), (3, False)):
        found = float(loss(Tensor(one), length, target, Tensor(np.array([count], np.int32)),
                           Tensor(1.0, ms.float32)))
        assert (found == 0.0) == nothing, count
    repeated = Tensor(np.array([[5] * 6], np.int32))  # six labels and the five blanks between them
    assert float(loss(Tensor(one), length, repeated, Tensor(np.array([6], np.int32)),
                      Tensor(1.0, ms.float32))) == 0.0


@pytest.mark.parametrize("fourier", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_output_lengths_are_what_the_convolutions_make(stride, fourier):
    model = ModelConfig(**SMALL, conv2_time_stride=stride)
    cell = compiled(DeepSpeech(model, 161, 29, fourier=fourier))
    assert model.time_stride == 2 * stride
    for frames in (1, 4, 101):
        inputs = Tensor(np.zeros((1, 1, 161, frames), np.float32))
        probs, lengths = cell(inputs, Tensor(np.array([frames], np.int32)))
        expected = -(-frames // (2 * stride))
        assert model.output_lengths(frames) == expected == probs.shape[1] == int(lengths[0])


def test_lookahead_is_a_weighted_sum_of_the_coming_frames():
    cell = Lookahead(hidden_size=3, context=4)
    rng = np.random.default_rng(0)
    x = rng.random((6, 2, 3), np.float32)
    weight = rng.random(cell.conv.weight.shape, np.float32)
    cell.conv.weight.set_data(Tensor(weight))
    padded = np.concatenate([x, np.zeros((3, 2, 3), np.float32)])
    expected = np.stack([(padded[t:t + 4] * weight[:, 0, 0].T[:, None]).sum(0) for t in range(6)])
    np.testing.assert_allclose(cell(Tensor(x)).asnumpy(), expected.clip(0, 20), rtol=1e-5)


def test_unidirectional_gradients_agree_with_differences_at_the_third_call():
    ms.set_seed(5)
    network = DeepSpeech(ModelConfig(**SMALL, bidirectional=False, lookahead_context=5), 161, 29)
    loss = LossCell(network, BLANK)
    cell = Gradients(loss).set_train(True)
    cell.set_inputs(*dynamic_loss_inputs(161))
    rng = np.random.default_rng(5)
    arguments = (Tensor(rng.standard_normal((2, 1, 161, 40), np.float32)),
                 Tensor(np.array([40, 31], np.int32)),
                 Tensor(rng.integers(0, 28, (2, 5)).astype(np.int32)),
                 Tensor(np.array([5, 4], np.int32)), Tensor(1.0, ms.float32))
    for _ in range(3):
        _, gradients = cell(*arguments)
    for name in ("lookahead.conv.weight", "fc.weight"):
        i = [p.name for p in cell.parameters].index(name)
        gradient, parameter = gradients[i].asnumpy(), cell.parameters[i]
        before, step = parameter.asnumpy().copy(), 2e-3
        direction = gradient / np.linalg.norm(gradient)
        values = []
        for sign in (1, -1):
            parameter.set_data(Tensor(before + sign * step * direction))
            values.append(float(cell(*arguments)[0]))
        parameter.set_data(Tensor(before))
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(
            np.linalg.norm(gradient), rel=0.02), name


@pytest.mark.parametrize(("kernel", "millions"), [((41, 11), 86.8), ((21, 11), 86.6)])
def test_the_full_size_has_the_documented_number_of_parameters(kernel, millions):
    network = DeepSpeech(ModelConfig(conv2_kernel=kernel), 161, 29)
    assert sum(p.size for p in network.trainable_params()) / 1e6 == pytest.approx(
        millions, abs=0.05)


def test_no_convolution_runs_on_the_slow_reference_path():
    """oneDNN 3.10, which newer MindSpore ships, takes 70 times longer for these convolutions."""
    code = """
import numpy as np, mindspore as ms
from mindspore import Tensor
from src.config import ModelConfig
from src.DeepSpeech import DeepSpeech
network = DeepSpeech(ModelConfig(hidden_size=8, hidden_layers=1), 161, 29, fourier=False)
inputs, lengths = np.zeros((1, 1, 161, 50), np.float32), np.array([50], np.int32)
network.set_train(False)(Tensor(inputs), Tensor(lengths))[0].asnumpy()
"""
    result = subprocess.run([sys.executable, "-c", code], env=os.environ | {"DNNL_VERBOSE": "1"},
                            check=True, capture_output=True, text=True)
    convolutions = re.findall(r"^.*exec,cpu,convolution,.*$", result.stdout, re.MULTILINE)
    assert len(convolutions) >= 2
    assert not [line for line in convolutions if ",ref" in line]


def test_the_layers_are_all_parameters_in_order():
    """And asking for them renames none."""
    network = DeepSpeech(ModelConfig(**SMALL), 161, 29)
    before = [p.name for p in network.trainable_params()]
    layers = [[p.name for cell in cells for p in cell.trainable_params()]
              for cells in network.layers()]
    assert [p.name for p in network.trainable_params()] == before
    assert sorted(sum(layers, [])) == sorted(before)
    assert [{name.split(".")[0] for name in names} for names in layers] == [
        {"conv"}, {"rnns"}, {"norms", "rnns"}, {"fc_norm", "fc"}]
