"""MindIR: equal to the network, dynamic or fixed, and never written when it differs."""

import json
import os

import numpy as np
import pytest

from deepspeech2.errors import InputError, RunError
from deepspeech2.labels import Labels
from src.checkpoint import save_checkpoint
from src.config import load_config
from src.DeepSpeech import DeepSpeech
from src.exporting import export_mindir
from src.stored_models import load_model

pytestmark = pytest.mark.usefixtures("graph_mode")
CONFIG = load_config(None, ["ModelConfig.hidden_size=8", "ModelConfig.hidden_layers=2", "ModelConfig.conv_channels=2",
                            "ModelConfig.conv2_kernel=[21, 11]"])


@pytest.fixture
def checkpoint(tmp_path):
    labels = Labels("AB _")
    network = DeepSpeech(CONFIG.ModelConfig, 161, len(labels))
    path = tmp_path / "model.ckpt"
    save_checkpoint(path, network.get_parameters(), CONFIG.model_info(labels))
    return path


def batch(size: int, frames: int):
    lengths = np.linspace(frames, 5, size).astype(np.int32)
    inputs = np.random.default_rng(1).standard_normal((size, 1, 161, frames), np.float32)
    return inputs * (np.arange(frames) < lengths[:, None, None, None]), lengths


def test_any_batch_size_and_length_gives_what_the_checkpoint_gives(checkpoint, tmp_path):
    exported = export_mindir(str(checkpoint), load_config(), tmp_path / "out" / "m.mindir")
    path = exported.path
    assert exported.difference <= 1e-5 and exported.num_classes == 4
    assert sorted(os.listdir(path.parent)) == ["m.json", "m.mindir"]
    assert json.loads(path.with_suffix(".json").read_text())["labels"] == list("AB _")
    ours, model = load_model(checkpoint).acoustic, load_model(path)
    assert (model.labels, model.hop_samples) == (Labels("AB _"), 320)
    for size, frames in ((1, 40), (4, 77), (2, 9)):
        (expected, expected_lengths), (found, lengths) = ours(*batch(size, frames)), model.acoustic(*batch(size, frames))
        assert found.shape == (size, (frames - 1) // 2 + 1, 4)
        np.testing.assert_array_equal(lengths, expected_lengths)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(found.sum(axis=2), 1, atol=1e-5)    # the softmax is inside


def test_a_fixed_batch_size_takes_any_length(checkpoint, tmp_path):
    path = export_mindir(str(checkpoint), load_config(), tmp_path / "m.mindir", batch_size=2).path
    exported = load_model(path).acoustic
    for frames in (30, 51):
        assert exported(*batch(2, frames))[0].shape == (2, (frames - 1) // 2 + 1, 4)


def test_a_model_that_differs_is_not_written(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("src.exporting.TOLERANCE", -1.0)
    with pytest.raises(RunError, match="differs from the network"):
        export_mindir(str(checkpoint), load_config(), tmp_path / "m.mindir")
    assert os.listdir(tmp_path) == ["model.ckpt"]


def test_a_network_that_gives_no_numbers_is_not_written(checkpoint, tmp_path, monkeypatch):
    def nan(*_):
        return np.full((1, 31, 4), np.nan, np.float32), np.array([31], np.int32)
    monkeypatch.setattr("src.exporting.CHECK_SIZES", [1])
    monkeypatch.setattr("src.exporting.cell_model", lambda _: nan)
    monkeypatch.setattr("src.exporting.load_mindir", lambda _: nan)
    with pytest.raises(RunError, match="by nan, not written"):
        export_mindir(str(checkpoint), load_config(), tmp_path / "m.mindir")


def test_what_is_not_a_model_is_refused(checkpoint, tmp_path):
    (tmp_path / "alone.mindir").write_bytes(b"x")
    (tmp_path / "bad.mindir").write_bytes(b"x" * 100)
    (tmp_path / "bad.json").write_text(CONFIG.model_info(Labels("AB _")).to_json())
    for name, message in (("alone.mindir", "alone.json is missing"), ("bad.mindir", "not a whole MindIR"),
                          ("none.mindir", "no such model"), ("none.ckpt", "no such checkpoint"),
                          ("x.pth", "ends in .ckpt, .mindir or .onnx")):
        with pytest.raises(InputError, match=message):
            load_model(tmp_path / name, load_config())


def test_a_setting_that_contradicts_the_model_is_refused(checkpoint):
    with pytest.raises(InputError, match=r"ModelConfig.hidden_size. is 8 in the model but 16"):
        load_model(checkpoint, load_config(None, ["ModelConfig.hidden_size=16"]))
    with pytest.raises(InputError, match=r"DataConfig.SpectConfig.window. is 'hamming' in the model but 'hann'"):
        load_model(checkpoint, load_config(None, ["DataConfig.SpectConfig.window=hann"]))
