"""MindIR: equal to the network, dynamic or fixed, and never written when it differs."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from mindspore.train import serialization

import export
from deepspeech2.errors import InputError, RunError
from deepspeech2.labels import Labels
from src import exporting
from src.checkpoint import arrays_of, save_checkpoint
from src.config import load_config
from src.DeepSpeech import DeepSpeech
from src.exporting import export_mindir
from src.stored_models import cell_model, load_model

pytestmark = pytest.mark.usefixtures("graph_mode")
CONFIG = load_config(None,
                     ["ModelConfig.hidden_size=8", "ModelConfig.hidden_layers=2",
                      "ModelConfig.conv_channels=2",
                            "ModelConfig.conv2_kernel=[21, 11]"])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    labels = Labels("AB _")
    network = DeepSpeech(CONFIG.ModelConfig, 161, len(labels))
    path = tmp_path_factory.mktemp("checkpoint") / "model.ckpt"
    save_checkpoint(path, arrays_of(network.get_parameters()), CONFIG.model_info(labels))
    return path


def batch(size: int, frames: int):
    lengths = np.linspace(frames, 5, size).astype(np.int32)
    inputs = np.random.default_rng(1).standard_normal((size, 1, 161, frames), np.float32)
    return inputs * (np.arange(frames) < lengths[:, None, None, None]), lengths


def test_any_batch_size_and_length_gives_what_the_checkpoint_gives(
    checkpoint, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(exporting, "cell_model",
                        lambda cell: compiled.append(cell_model(cell)) or compiled[-1])
    exported = export_mindir(str(checkpoint), load_config(), tmp_path / "out" / "m.mindir")
    path = exported.path
    assert exported.difference <= 1e-5 and exported.num_classes == 4
    assert sorted(os.listdir(path.parent)) == ["m.json", "m.mindir"]
    described = json.loads(path.with_suffix(".json").read_text())
    assert described["labels"] == list("AB _")
    assert described["sha256"] == {".mindir": hashlib.sha256(path.read_bytes()).hexdigest()}
    model = load_model(path)
    assert (model.labels, model.hop_samples) == (Labels("AB _"), 320)
    for size, frames in ((1, 40), (4, 77), (2, 9)):
        expected, expected_lengths = compiled[0](*batch(size, frames))
        found, lengths = model.acoustic(*batch(size, frames))
        assert found.shape == (size, (frames - 1) // 2 + 1, 4)
        np.testing.assert_array_equal(lengths, expected_lengths)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(found.sum(axis=2), 1, atol=1e-5)  # the softmax is inside


def test_a_network_that_mindspore_writes_as_several_files(checkpoint, tmp_path, monkeypatch):
    """It does so from 1 GiB on, here from 1 KiB."""
    monkeypatch.setattr(serialization, "TOTAL_SAVE", 1)
    with pytest.raises(InputError, match=r"^m.mindir: MindSpore writes .* as several files") as no:
        export_mindir(str(checkpoint), load_config(), tmp_path / "m.mindir")
    assert "--file_format ONNX" in str(no.value) and os.listdir(tmp_path) == []


@pytest.mark.parametrize(("name", "file_format", "path"), [
    ("m", "ONNX", "m.onnx"), ("m.onnx", "ONNX", "m.onnx"), ("a/m.v2", "MINDIR", "a/m.v2.mindir"),
    ("out", "ONNX", "out/deepspeech2.onnx"), ("new/", "MINDIR", "new/deepspeech2.mindir"),
    (".", "ONNX", "deepspeech2.onnx"), ("out/über m", "ONNX", "out/über m.onnx")])
def test_one_rule_for_names(tmp_path, monkeypatch, name, file_format, path):
    """With or without suffix, and folders, old and new."""
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    assert export.output_path(name, file_format) == Path(path)


@pytest.mark.parametrize(("name", "file_format"), [("m.onnx", "MINDIR"), ("m.mindir", "ONNX"),
                                                   ("m.ckpt", "ONNX"), ("m.json", "MINDIR")])
def test_a_suffix_of_another_format_is_a_mistake(name, file_format, capsys):
    assert export.main(["--pre_trained_model_path", "none.ckpt", "--device_target", "CPU",
                        "--file_name", name, "--file_format", file_format]) == 2
    assert f"--file_name {name}: a model in {file_format} format ends in" in capsys.readouterr().err


def test_a_model_of_a_fixed_batch_size_takes_any_batch(checkpoint, tmp_path):
    """In a folder with a space and letters that MindSpore refuses in names."""
    path = tmp_path / "für alle" / "modèle.mindir"
    export_mindir(str(checkpoint), load_config(), path, batch_size=2)
    assert sorted(os.listdir(path.parent)) == ["modèle.json", "modèle.mindir"]
    assert json.loads(path.with_suffix(".json").read_text())["batch_size"] == 2
    model, whole = load_model(path), load_model(checkpoint)
    for size, frames in ((2, 30), (3, 51), (1, 9)):
        expected, expected_lengths = whole.acoustic(*batch(size, frames))
        found, lengths = model.acoustic(*batch(size, frames))
        np.testing.assert_array_equal(lengths, expected_lengths)
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("difference", "words"),
                         [(1.1e-5, "by 1.10e-05, not written"), (np.nan, "by nan")])
def test_a_model_that_differs_is_not_written(checkpoint, tmp_path, monkeypatch, difference, words):
    """Nothing is compiled: the network's answers are given, and what is exported."""
    def answers(value):
        return lambda *_: (np.full((1, 31, 4), value, np.float32), np.array([31], np.int32))

    def export(*_, file_name, file_format):
        Path(f"{file_name}.mindir").write_bytes(b"x")

    monkeypatch.setattr(exporting, "CHECK_SIZES", [1])
    monkeypatch.setattr(exporting, "cell_model", lambda _: answers(0.0))
    monkeypatch.setattr(exporting, "load_mindir", lambda _: answers(difference))
    monkeypatch.setattr("mindspore.export", export)
    (tmp_path / "m.mindir").write_bytes(b"an earlier one")
    with pytest.raises(RunError, match=f"differs from the network {words}"):
        export_mindir(str(checkpoint), load_config(), tmp_path / "m.mindir")
    assert os.listdir(tmp_path) == ["m.mindir"]
    assert (tmp_path / "m.mindir").read_bytes() == b"an earlier one"
    monkeypatch.setattr(exporting, "load_mindir", lambda _: answers(1e-6))
    assert export_mindir(str(checkpoint), load_config(), tmp_path / "m.mindir").path.exists()


def test_what_is_not_a_model_is_refused(tmp_path):
    (tmp_path / "bad.mindir").write_bytes(b"x" * 100)
    (tmp_path / "bad.json").write_text(CONFIG.model_info(Labels("AB _")).to_json())
    for name, message in (("bad.mindir", "not a whole MindIR"), ("none.ckpt", "no such checkpoint"),
                          ("x.pth", "ends in .ckpt, .mindir or .onnx")):
        with pytest.raises(InputError, match=message):
            load_model(tmp_path / name)


def test_a_setting_that_contradicts_the_model_is_refused(checkpoint):
    asked = load_config(None, ["ModelConfig.hidden_size=16", "DataConfig.SpectConfig.window=hann"])
    with pytest.raises(InputError, match=r"hidden_size. is 8 in the model but 16.*'hamming'"):
        load_model(checkpoint, asked)
