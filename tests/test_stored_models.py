"""Stored models behind one call: what is refused, and how an ONNX model is run."""

import dataclasses

import numpy as np
import pytest
from conftest import random_weights, voice, write_streaming_model

from deepspeech2.errors import InputError, RunError
from deepspeech2.labels import Labels
from deepspeech2.model_info import read_info, write_info
from src.checkpoint import save_checkpoint
from src.config import load_config
from src.DeepSpeech import DeepSpeech
from src.onnx_graph import make_onnx
from src.stored_models import load_model, load_network, network_model

CONFIG = load_config(None, ["ModelConfig.hidden_size=8", "ModelConfig.hidden_layers=1",
                            "ModelConfig.conv_channels=2",
                            "ModelConfig.conv2_kernel=[21, 11]"])
LABELS = Labels("AB _")


@pytest.fixture(scope="module")
def content(graph_mode) -> bytes:
    """A small ONNX model with the weights that a new network has."""
    network = DeepSpeech(CONFIG.ModelConfig, 161, len(LABELS))
    parameters = {name: p.asnumpy() for name, p in network.parameters_dict().items()}
    return make_onnx(parameters, CONFIG.ModelConfig, 161).SerializeToString()


@pytest.fixture
def folder(tmp_path):
    """Models are written here as `model.onnx`, beside their JSON file."""
    (tmp_path / "model.json").write_text(CONFIG.model_info(LABELS).to_json())
    return tmp_path


def test_an_onnx_model_and_its_json_file_are_complete(folder, content):
    (folder / "model.onnx").write_bytes(content)
    model = load_model(folder / "model.onnx")
    assert (model.labels, model.spect) == (LABELS, CONFIG.DataConfig.SpectConfig)
    assert model.hop_samples == 320
    probs, lengths = model.acoustic(np.zeros((2, 1, 161, 30), np.float32),
                                    np.array([30, 11], np.int32))
    assert probs.shape == (2, 15, 4) and lengths.tolist() == [15, 6]


def test_a_model_decodes_as_the_settings_say(folder, content, graph_mode):
    (folder / "words.txt").write_text("ab\n")
    config = CONFIG.with_settings({"LMConfig.decoder_type": "beam",
                                   "LMConfig.lexicon_path": f"{folder}/words.txt"}, explicit=True)
    (folder / "model.onnx").write_bytes(content)
    network = DeepSpeech(CONFIG.ModelConfig, 161, len(LABELS))
    says_a = np.eye(4)[[0]]  # which is not in the lexicon
    for model in (load_model(folder / "model.onnx", config),
                  network_model(network, config, LABELS)):
        assert model.texts([says_a]) == [[""]]
    assert load_model(folder / "model.onnx", CONFIG).texts([says_a]) == [["A"]]


@pytest.mark.parametrize("settings", [
    {}, {"ModelConfig.bidirectional": False, "ModelConfig.conv2_time_stride": 2}])
def test_a_checkpoint_gives_what_the_network_gives(tmp_path, settings, graph_mode):
    """Without MindSpore too; and it is refused where it is not whole."""
    config = CONFIG.with_settings(settings, explicit=False)
    network = DeepSpeech(config.ModelConfig, 161, len(LABELS))
    arrays, info = random_weights(network, seed=1, gain=8), config.model_info(LABELS)
    save_checkpoint(tmp_path / "a.ckpt", arrays, info)
    found = load_model(tmp_path / "a.ckpt").acoustic
    expected = network_model(*load_network(tmp_path / "a.ckpt", load_config())).acoustic
    lengths = np.array([50, 33], np.int32)
    inputs = np.random.default_rng(0).standard_normal((2, 1, 161, 50)).astype(np.float32)
    inputs[1, :, :, 33:] = 0
    for one, other in zip(found(inputs, lengths), expected(inputs, lengths), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    for name in ("fc.weight", "conv.norm1.gamma"):
        rest = {key: value for key, value in arrays.items() if key != name}
        save_checkpoint(tmp_path / "a.ckpt", rest, info)
        with pytest.raises(InputError, match=f"a.ckpt: does not fit the network: .*{name}"):
            load_model(tmp_path / "a.ckpt")
    save_checkpoint(tmp_path / "a.ckpt", arrays | {"more": np.zeros(1)}, info)
    with pytest.raises(InputError, match="not in the network: more"):
        load_model(tmp_path / "a.ckpt")


@pytest.mark.parametrize("damage", [
    lambda content: b"", lambda content: b"x" * 100, lambda content: content[:len(content) // 2],
    lambda content: content[:-1],
], ids=["empty", "no model", "half", "a byte short"])
def test_a_damaged_onnx_model_is_refused(folder, content, damage):
    (folder / "model.onnx").write_bytes(damage(content))
    with pytest.raises(InputError, match=r"model\.onnx: not a whole ONNX model: .*\S") as caught:
        load_model(folder / "model.onnx", load_config())
    assert "\n" not in str(caught.value)


def test_an_onnx_model_of_something_else_is_refused(folder):
    import onnx
    from onnx import helper
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N"])
              for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "other", values[:1],
                              values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
              folder / "model.onnx")
    with pytest.raises(InputError, match="an ONNX model, but not one that export.py wrote"):
        load_model(folder / "model.onnx", load_config())


def test_an_onnx_model_that_cannot_be_run_is_named(folder, content):
    """As one whose constants were changed: ONNX Runtime notices that when it runs it."""
    import onnx
    from onnx import numpy_helper
    model = onnx.load_from_string(content)
    (first,) = (c for c in model.graph.initializer if c.name == "conv1.mask.first")
    first.CopyFrom(numpy_helper.from_array(np.zeros(4, np.int32), first.name))
    onnx.save(model, folder / "model.onnx")
    model = load_model(folder / "model.onnx", load_config())
    with pytest.raises(RunError, match=r"model\.onnx: the model cannot be run: .*Range"):
        model.transcribe((voice(8000), 16000))


@pytest.mark.parametrize("suffix", [".mindir", ".onnx"])
def test_an_exported_model_needs_its_json_file(folder, content, suffix):
    with pytest.raises(InputError, match=f"model{suffix}: no such model"):
        load_model(folder / f"model{suffix}", load_config())
    (folder / f"alone{suffix}").write_bytes(content)
    with pytest.raises(InputError,
                       match=r"alone\.json is missing beside it: export.py writes both"):
        load_model(folder / f"alone{suffix}", load_config())
    (folder / "alone.json").write_text("{}")
    with pytest.raises(InputError, match=r"alone\.json: the model's settings cannot be read"):
        load_model(folder / f"alone{suffix}", load_config())


@pytest.mark.parametrize("characters", ["ABC _", "ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖ'Ü _"])
def test_the_json_file_of_another_streaming_model_is_noticed(tmp_path, characters):
    write_streaming_model(tmp_path / "model.onnx")
    info = read_info(tmp_path / "model.onnx")
    write_info(tmp_path / "model.onnx", dataclasses.replace(info, labels=Labels(characters)))
    words = f"161 frequency bins and 29 classes, but its JSON file says 161 and {len(characters)}"
    with pytest.raises(InputError, match=f"{words}: it belongs to another model"):
        load_model(tmp_path / "model.onnx", load_config())


@pytest.mark.parametrize(("config", "labels", "words"), [
    (CONFIG, Labels("ABC _"), "161 frequency bins and 4 classes, but its JSON file says 161 and 5"),
    (CONFIG.with_settings({"DataConfig.SpectConfig.sample_rate": 8000}, False), LABELS,
     "its JSON file says 81 and 4"),
])
def test_the_json_file_of_another_model_is_noticed(folder, content, config, labels, words):
    (folder / "model.onnx").write_bytes(content)
    (folder / "model.json").write_text(config.model_info(labels).to_json())
    with pytest.raises(InputError, match=f"{words}: it belongs to another model"):
        load_model(folder / "model.onnx", load_config())


def test_a_setting_that_contradicts_an_onnx_model_is_refused(folder, content):
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(InputError, match=r"ModelConfig.hidden_size. is 8 in the model but 16"):
        load_model(folder / "model.onnx", load_config(None, ["ModelConfig.hidden_size=16"]))
