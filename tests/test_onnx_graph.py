"""ONNX models against the network that MindSpore computes, in any company; 8 bits against 32."""

import os

import numpy as np
import pytest
from conftest import random_weights

from deepspeech2.errors import RunError
from deepspeech2.labels import Labels
from deepspeech2.model_info import read_info
from deepspeech2.onnx_model import OnnxModel
from src import exporting
from src.checkpoint import save_checkpoint
from src.config import load_config
from src.DeepSpeech import DeepSpeech
from src.onnx_graph import fix_quantization_ranges, make_onnx, quantize_onnx
from src.stored_models import cell_model, load_model, load_network

pytestmark = pytest.mark.usefixtures("graph_mode")
LABELS = Labels("ABCD _")
SMALL = ["ModelConfig.hidden_size=12", "ModelConfig.hidden_layers=2", "ModelConfig.conv_channels=3"]
NETWORKS = {"bidirectional": [*SMALL, "ModelConfig.conv2_kernel=[21, 11]"],
            "large kernel, one layer": [*SMALL, "ModelConfig.conv2_kernel=[41, 11]",
                                        "ModelConfig.hidden_layers=1"],
            "strided": [*SMALL, "ModelConfig.conv2_kernel=[21, 1]",
                        "ModelConfig.conv2_time_stride=2"],
            "unidirectional": [*SMALL, "ModelConfig.conv2_kernel=[21, 1]",
                               "ModelConfig.bidirectional=False",
                               "ModelConfig.lookahead_context=5"]}
WIDE = ["ModelConfig.hidden_size=160", "ModelConfig.hidden_layers=2", "ModelConfig.conv_channels=3",
        "ModelConfig.conv2_kernel=[21, 1]"]


def make_checkpoint(path, overrides) -> str:
    """A checkpoint with no two weights or statistics alike, whose probabilities are far apart."""
    config = load_config(None, overrides)
    network = DeepSpeech(config.ModelConfig, 161, len(LABELS))
    save_checkpoint(path, random_weights(network, seed=3, gain=12), config.model_info(LABELS))
    return str(path)


def parameters_of(network: DeepSpeech) -> dict[str, np.ndarray]:
    return {name: parameter.asnumpy() for name, parameter in network.parameters_dict().items()}


def batch(*lengths: int):
    """(N, 1, F, longest) noise, zero past the lengths; (N,)."""
    lengths = np.array(lengths, np.int32)
    inputs = np.random.default_rng(1).standard_normal((len(lengths), 1, 161, lengths.max()),
                                                      np.float32)
    return inputs * (np.arange(lengths.max()) < lengths[:, None, None, None]), lengths


@pytest.fixture(scope="module", params=NETWORKS, ids=str)
def network_and_onnx(request, tmp_path_factory):
    """A network, compiled once, and what was exported of it."""
    folder, compiled = tmp_path_factory.mktemp("onnx"), []
    checkpoint = make_checkpoint(folder / "model.ckpt", NETWORKS[request.param])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "cell_model",
                      lambda cell: compiled.append(cell_model(cell)) or compiled[-1])
        exported = exporting.export_onnx(checkpoint, load_config(), folder / "out" / "model.onnx")
    assert exported.difference <= 1e-5
    assert sorted(os.listdir(folder / "out")) == ["model.json", "model.onnx"]
    return compiled[0], load_model(exported.path).acoustic


@pytest.mark.parametrize("lengths",
                         [(1,), (2,), (40,), (77, 50, 3, 76), (9, 9), (1, 2, 3, 4, 5, 6)], ids=str)
def test_any_batch_gives_what_the_network_gives(network_and_onnx, lengths):
    network, exported = network_and_onnx
    (expected, expected_lengths), (found,
                                   found_lengths) = network(*batch(*lengths)), exported(
                                       *batch(*lengths))
    assert found.shape == expected.shape == (len(lengths), max(found_lengths), len(LABELS))
    assert found.dtype == np.float32
    assert found_lengths.dtype == np.int32
    np.testing.assert_array_equal(found_lengths, expected_lengths)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    np.testing.assert_allclose(found.sum(axis=2), 1, atol=1e-5)  # the softmax is inside
    if max(lengths) == 77:
        assert np.ptp(found, axis=(0, 1)).max() > 0.1  # not an easy case where all frames are alike


def test_an_utterance_is_the_same_alone_and_in_company(network_and_onnx):
    _, exported = network_and_onnx
    inputs, lengths = batch(77, 50, 3, 76)
    together, output_lengths = exported(inputs, lengths)
    for i, (frames, outputs) in enumerate(zip(lengths, output_lengths, strict=True)):
        alone, _ = exported(inputs[i:i + 1, :, :, :frames], lengths[i:i + 1])
        np.testing.assert_allclose(together[i, :outputs], alone[0], atol=1e-6, rtol=0)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """The float32 and int8 models of one network, and the difference that the export reported."""
    folder = tmp_path_factory.mktemp("int8")
    checkpoint = make_checkpoint(folder / "model.ckpt", WIDE)
    rounded = exporting.export_onnx(checkpoint, load_config(), folder / "out" / "int8.onnx", "int8")
    assert sorted(os.listdir(folder / "out")) == ["int8.json", "int8.onnx"]
    network, config, labels = load_network(checkpoint, load_config())
    model = make_onnx(parameters_of(network), config.ModelConfig, 161)
    (folder / "float32.onnx").write_bytes(model.SerializeToString())
    (folder / "float32.json").write_text(config.model_info(labels).to_json())
    return folder / "float32.onnx", rounded.path, rounded.difference


def test_int8_is_a_quarter_of_the_size(quantized):
    exact, rounded, _ = quantized
    assert 0.25 < rounded.stat().st_size / exact.stat().st_size < 0.30


def test_int8_is_close_and_its_export_says_how_close(quantized):
    exact, rounded, difference = quantized
    (expected, lengths), (found, found_lengths) = (
        load_model(path).acoustic(*batch(90, 60, 7)) for path in (exact, rounded)
    )
    np.testing.assert_array_equal(found_lengths, lengths)
    assert found.shape == expected.shape
    errors = np.concatenate([np.abs(found - expected)[i, :length].ravel()
                             for i, length in enumerate(lengths)])
    assert 0.0 < errors.mean() < 0.01
    assert 1e-4 < difference < 0.2  # of a probability, where a class is as likely as 0.9


def company(predict) -> float:
    """The largest difference that company of loud, quiet and short ones makes to an utterance."""
    inputs, lengths = batch(90, 60, 7, 1)
    inputs[0] *= 10
    inputs[1] /= 10
    together, output_lengths = predict(inputs, lengths)
    alone = [predict(inputs[i:i + 1, :, :, :frames], lengths[i:i + 1])[0][0]
             for i, frames in enumerate(lengths)]
    return max(np.abs(together[i, :length] - alone[i]).max()
               for i, length in enumerate(output_lengths))


@pytest.mark.parametrize("overrides", [WIDE, [*WIDE, "ModelConfig.bidirectional=False"]],
                         ids=["both", "forward"])
def test_an_utterance_in_int8_is_the_same_alone_and_in_company(tmp_path, overrides):
    network, config, labels = load_network(make_checkpoint(tmp_path / "model.ckpt", overrides),
                                           load_config())
    differences = {}
    for fixed in (True, False):
        model = make_onnx(parameters_of(network), config.ModelConfig, 161)
        (tmp_path / "exact.onnx").write_bytes(model.SerializeToString())
        if fixed:
            fix_quantization_ranges(tmp_path / "exact.onnx")
        quantize_onnx(tmp_path / "exact.onnx", tmp_path / "int8.onnx")
        differences[fixed] = company(OnnxModel(tmp_path / "int8.onnx", config.model_info(labels)))
    assert differences[True] < 1e-5
    assert differences[False] > 1e-3  # what fixed ranges are for


@pytest.mark.parametrize(("limit", "quantize"),
                         [("TOLERANCE", ""), ("TOLERANCE", "int8"), ("INT8_TOLERANCE", "int8")])
def test_a_model_that_differs_is_not_written(quantized, tmp_path, monkeypatch, limit, quantize):
    exact, _, _ = quantized
    same = OnnxModel(exact, read_info(exact))
    monkeypatch.setattr("src.exporting.cell_model", lambda _: same)  # compiles nothing
    monkeypatch.setattr(f"src.exporting.{limit}", -1.0)
    (tmp_path / "m.onnx").write_bytes(b"an earlier one")
    with pytest.raises(RunError, match="differs from the network"):
        exporting.export_onnx(str(exact.with_name("model.ckpt")), load_config(),
                              tmp_path / "m.onnx", quantize)
    assert os.listdir(tmp_path) == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == b"an earlier one"
