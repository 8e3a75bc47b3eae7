"""Checkpoints are whole or absent, and fit the network or are refused by name."""

import os
import resource

import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from deepspeech2.errors import InputError, RunError
from deepspeech2.labels import Labels
from deepspeech2.model_info import ModelInfo
from src import checkpoint_file
from src.checkpoint import (
    arrays_of,
    average_checkpoints,
    load_checkpoint,
    load_parameters,
    network_shapes,
    save_checkpoint,
)
from src.config import Config, load_config
from src.DeepSpeech import DeepSpeech
from src.stored_models import load_network

pytestmark = pytest.mark.usefixtures("graph_mode")
INFO = Config().model_info(Labels("AB _"))


class Two(nn.Cell):
    def __init__(self, width: int = 3, fill: float = 0.0):
        super().__init__()
        self.first = Parameter(Tensor(np.full((width,), fill, np.float32)), "first")
        self.second = Parameter(Tensor(np.full((2, 2), fill, np.float32)), "second")


def arrays(**options) -> dict[str, np.ndarray]:
    return arrays_of(Two(**options).get_parameters())


def test_everything_comes_back(tmp_path):
    save_checkpoint(tmp_path / "a.ckpt", arrays(fill=1.5), INFO,
                    {"epoch": 3, "best": [1.5, 2.5]})
    checkpoint = load_checkpoint(tmp_path / "a.ckpt")
    assert checkpoint.info == INFO
    assert checkpoint.progress == {"epoch": 3, "best": [1.5, 2.5]}
    cell = Two()
    load_parameters(cell.get_parameters(), checkpoint.parameters, checkpoint.path)
    assert all((p.asnumpy() == 1.5).all() for p in cell.get_parameters())
    assert os.listdir(tmp_path) == ["a.ckpt"]


def test_the_average_of_checkpoints(tmp_path):
    paths = [tmp_path / f"{i}.ckpt" for i in range(3)]
    for path, fill in zip(paths, (1.0, 2.0, 6.0), strict=True):
        moments = {"optimizer.moment1.first": np.full(5, 9, np.float32)}
        save_checkpoint(path, arrays(fill=fill) | moments, INFO)
    mean = average_checkpoints(paths)
    assert {name: array.tolist() for name, array in mean.items()} == {
        "first": [3.0] * 3, "second": [[3.0] * 2] * 2}
    save_checkpoint(tmp_path / "wider.ckpt", arrays(width=4), INFO)
    with pytest.raises(InputError, match=r"wider\.ckpt: holds another network than .*0\.ckpt"):
        average_checkpoints([*paths, tmp_path / "wider.ckpt"])


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, arrays(fill=1.0), INFO)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(RunError, match=r"a\.ckpt: the checkpoint could not be written"):
            save_checkpoint(path, arrays(width=100_000), INFO)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.ckpt"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "text"])
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, arrays(width=1000), INFO)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[2000] ^= 255
    half = content[:len(content) // 2]
    path.write_bytes({"truncate": half, "flip": content, "empty": b"", "text": b"hello\n"}[damage])
    with pytest.raises(InputError, match=r"a\.ckpt: "):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["deepspeech2_info", "deepspeech2_progress"])
@pytest.mark.parametrize("text", ["[" * 100_000, "5", "{"])
def test_strings_that_are_something_else(tmp_path, name, text):
    strings = {"deepspeech2_info": INFO.to_json(), "deepspeech2_progress": "{}"} | {name: text}
    checkpoint_file.write(tmp_path / "a.ckpt", {}, strings)
    with pytest.raises(InputError, match=r"a\.ckpt: the (model's settings|state of its run)"):
        load_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize("name", ["missing.ckpt", "model.pth"])
def test_a_missing_file_or_foreign_suffix_is_refused(tmp_path, name):
    (tmp_path / "model.pth").write_bytes(b"x")
    with pytest.raises(InputError, match=name):
        load_checkpoint(tmp_path / name)


def test_another_shape_is_refused_naming_both(tmp_path):
    with pytest.raises(InputError, match=r"first has shape \(3,\), the network needs \(4,\)"):
        load_parameters(Two(4).get_parameters(), {"first": np.zeros(3)}, tmp_path / "x.ckpt",
                        strict=False)


def test_unmatched_parameters_are_named(tmp_path, caplog):
    others = {"first": np.ones(3, np.float32), "third": np.ones(3, np.float32)}
    with pytest.raises(InputError,
                       match="not in the checkpoint: second; not in the network: third"):
        load_parameters(Two().get_parameters(), others, tmp_path / "x.ckpt")
    cell = Two()
    load_parameters(cell.get_parameters(), others, tmp_path / "x.ckpt", strict=False)
    assert "second" in caplog.text and "third" in caplog.text
    assert (cell.first.asnumpy() == 1).all() and (cell.second.asnumpy() == 0).all()
    with pytest.raises(InputError, match="not a checkpoint of this network"):
        load_parameters(Two().get_parameters(), {"third": others["third"]}, tmp_path / "x.ckpt",
                        strict=False)


def test_other_labels_keep_the_rows_of_those_that_both_have(tmp_path, caplog):
    projection = np.arange(8, dtype=np.float32).reshape(4, 2)
    stored = {"fc.weight": projection} | arrays(fill=5)
    save_checkpoint(tmp_path / "a.ckpt", stored, INFO)  # labels: A B space _
    checkpoint = load_checkpoint(tmp_path / "a.ckpt")
    own = [Parameter(Tensor(np.full((5, 2), -1, np.float32)), "fc.weight")]
    with caplog.at_level("INFO"):
        found = checkpoint.fine_tuned(Labels("BÄ _C"), own)
    expected = [projection[1], [-1, -1], projection[2], projection[3], [-1, -1]]
    np.testing.assert_array_equal(found["fc.weight"], expected)
    assert (found["first"] == 5).all()
    assert "3 of 5 labels are taken over, 2 begin anew: 'Ä' 'C'" in caplog.text
    np.testing.assert_array_equal(
        checkpoint.fine_tuned(INFO.labels, own)["fc.weight"], projection)


@pytest.mark.parametrize("stored, context, expected", [
    (None, 3, [1, 0, 0]), ([5, 6, 7], 2, [5, 6]), ([5, 6], 3, [5, 6, 0]),
])
def test_another_lookahead_begins_with_what_is_known(tmp_path, stored, context, expected):
    name, known = "lookahead.conv.weight", arrays(fill=5)
    if stored:
        known[name] = np.array([stored, stored], np.float32).reshape(2, 1, 1, -1)
    save_checkpoint(tmp_path / "a.ckpt", known, INFO)
    own = [Parameter(Tensor(np.full((2, 1, 1, context), -1, np.float32)), name)]
    found = load_checkpoint(tmp_path / "a.ckpt").fine_tuned(INFO.labels, own)[name]
    np.testing.assert_array_equal(found[:, 0, 0], [expected, expected])


SMALL = load_config(None, ["ModelConfig.hidden_size=4", "ModelConfig.hidden_layers=2",
                           "ModelConfig.conv_channels=2", "ModelConfig.conv2_kernel=[21, 1]"])


def small_network() -> dict[str, np.ndarray]:
    """The arrays of a network with the settings of SMALL."""
    return arrays_of(DeepSpeech(SMALL.ModelConfig, 161, 4).get_parameters())


@pytest.mark.parametrize("changes", [
    ["hidden_size=4000000000"], ["hidden_layers=4000000000"], ["conv_channels=4000000000"],
    ["conv2_kernel=[21, 4000000001]"], ["bidirectional=False", "lookahead_context=4000000000"]])
def test_a_network_larger_than_its_checkpoint_is_refused_before_it_takes_memory(tmp_path, changes):
    config = load_config(None, [f"ModelConfig.{change}" for change in changes])
    settings = SMALL.model_info(Labels("AB _")).settings | {
        key: value for key, value in config.model_info(Labels("AB _")).settings.items()
        if key in config.explicit}
    info = ModelInfo(settings, Labels("AB _"), 2)
    save_checkpoint(tmp_path / "a.ckpt", small_network(), info)
    with pytest.raises(InputError, match=r"a\.ckpt: does not fit the network: .*weight"):
        load_network(tmp_path / "a.ckpt", load_config())


@pytest.mark.parametrize("settings", [[], ["ModelConfig.bidirectional=False"]])
def test_the_shapes_are_those_of_the_network(settings):
    config = load_config(None, [*settings, "ModelConfig.hidden_size=8",
                                "ModelConfig.conv2_kernel=[21, 7]", "ModelConfig.hidden_layers=3"])
    network = DeepSpeech(config.ModelConfig, 161, 5)
    expected = {name: tuple(p.shape) for name, p in network.parameters_dict().items()}
    assert dict(network_shapes(config, 5)) == expected


def test_only_a_new_run_may_ask_for_other_labels(tmp_path):
    save_checkpoint(tmp_path / "a.ckpt", small_network(), SMALL.model_info(INFO.labels))
    (tmp_path / "own.json").write_text('["C", " ", "_"]')
    config = load_config(None, [f"DataConfig.labels_path={tmp_path}/own.json"])
    checkpoint = load_checkpoint(tmp_path / "a.ckpt")
    assert checkpoint.settle(config, fine_tuning=True)[1] == Labels("C _")
    assert checkpoint.settle(load_config(), fine_tuning=True)[1] == INFO.labels
    with pytest.raises(InputError, match=r"the labels are 'AB _' in the model but 'C _' in"):
        checkpoint.settle(config)


def test_only_a_new_run_may_ask_for_other_directions(tmp_path):
    save_checkpoint(tmp_path / "a.ckpt", small_network(), SMALL.model_info(INFO.labels))
    asked = load_config(None, ["ModelConfig.bidirectional=False", "ModelConfig.lookahead_context=3",
                               "DataConfig.SpectConfig.normalization=running"])
    checkpoint = load_checkpoint(tmp_path / "a.ckpt")
    found = checkpoint.settle(asked, fine_tuning=True)[0]
    assert not found.ModelConfig.bidirectional and found.ModelConfig.hidden_size == 4
    assert found.ModelConfig.lookahead_context == 3
    assert found.DataConfig.SpectConfig.normalization == "running"
    with pytest.raises(InputError, match="`ModelConfig.bidirectional` is True in the model but F"):
        checkpoint.settle(asked)
