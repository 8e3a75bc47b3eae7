"""What a model says of itself, and who may contradict it."""

import dataclasses
import hashlib
import json

import pytest

from deepspeech2.confidence import Confidence
from deepspeech2.errors import InputError
from deepspeech2.labels import Labels
from deepspeech2.model_info import ModelInfo, check_info, read_info, write_info
from src.config import Config, load_config

OTHER = ["ModelConfig.hidden_size=64", "ModelConfig.conv2_kernel=[21, 11]",
         "ModelConfig.bidirectional=False",
         "DataConfig.SpectConfig.sample_rate=8000", "DataConfig.SpectConfig.window=hann"]


@pytest.fixture
def info(labels) -> ModelInfo:
    """A model that differs from the defaults."""
    return load_config(None, OTHER).model_info(labels)


def refusal(function, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments)
    return str(caught.value)


# what is stored

def test_model_and_spectrogram_settings_are_stored_and_nothing_else(info):
    config = load_config(None, OTHER)
    groups = {"ModelConfig": config.ModelConfig,
              "DataConfig.SpectConfig": config.DataConfig.SpectConfig}
    assert info.settings.keys() == {f"{name}.{field.name}" for name, group in groups.items()
                                    for field in dataclasses.fields(group)}
    assert info.settings["ModelConfig.conv2_kernel"] == [21, 11]
    assert info.time_stride == 2
    assert info.spect() == config.DataConfig.SpectConfig


@pytest.mark.parametrize("labels", ["AB _", "ÄŁ' _"])
def test_round_trip(labels):
    info = load_config(None, OTHER).model_info(Labels(labels))
    text = info.to_json()
    assert ModelInfo.from_json(text, "model.json") == info
    assert ModelInfo.from_json(text, "model.json").to_json() == text


def test_json_is_readable_by_others(info):
    content = json.loads(info.to_json())
    assert content["labels"][0] == "'" and content["labels"][28] == "_"
    assert content["settings"]["DataConfig.SpectConfig.sample_rate"] == 8000


@pytest.mark.parametrize("text", [
    "", "{", "null", "[]", "5", '"text"', "{}",
    '{"settings": {}}',
    '{"settings": 5, "labels": ["_"]}',
    '{"settings": "ab", "labels": ["_"]}',
    '{"settings": [], "labels": 5}',
    '{"settings": {}, "labels": ["A", "B"]}',
    '{"settings": {}, "labels": ["A", "A", "_"]}',
    '{"settings": {}, "labels": ["_"], "time_stride": Infinity}',
    '{"settings": {}, "labels": ["_"], "time_stride": 1e999}', "[" * 100_000,
])
def test_anything_else_is_refused_with_its_source(text):
    assert refusal(ModelInfo.from_json, text, "model.json").startswith("model.json: ")


@pytest.mark.parametrize(("name", "value", "words"), [
    ("window_size", "x", "finite number"), ("window_size", 1e308, "at most 1"),
    ("window_size", 0.9, "a window of 14400 samples is too long"),
    ("sample_rate", 10**12, "at most 1000000"), ("window", 5, "text"), ("gone", 1, "none of"),
])
def test_a_setting_out_of_its_range_is_refused_with_its_file(info, tmp_path, name, value, words):
    """It would decide how much memory a recording takes."""
    settings = info.settings | {"DataConfig.SpectConfig.sample_rate": 16000,
                                f"DataConfig.SpectConfig.{name}": value}
    (tmp_path / "a.onnx").write_bytes(b"")
    (tmp_path / "a.json").write_text(ModelInfo(settings, info.labels, 2).to_json())
    message = refusal(read_info, tmp_path / "a.onnx")
    assert message.startswith(f"{tmp_path}/a.json: ") and words in message
    if name != "gone":
        assert words in refusal(Config().with_model, ModelInfo(settings, info.labels), "a.ckpt")


# one JSON file beside a MindIR and an ONNX model of one name

@pytest.fixture
def both(info, tmp_path):
    """{suffix: path} of two models; the JSON file is written with each."""
    paths = {suffix: tmp_path / f"m{suffix}" for suffix in (".mindir", ".onnx")}
    for path in paths.values():
        path.write_bytes(path.suffix.encode())
        write_info(path, info)
    return paths


def test_it_describes_both(both, info):
    assert [read_info(path) for path in both.values()] == [info, info]


def test_a_calibration_is_not_handed_to_another_export(both, info, caplog):
    """Which may be of another checkpoint."""
    known = dataclasses.replace(info, confidence={"network": Confidence(1.0, 0.5)})
    write_info(both[".onnx"], known)
    write_info(both[".mindir"], info)
    assert [read_info(path) for path in both.values()] == [info, info]
    assert "m.json: what tools.calibrate found is left out" in caplog.text


def test_each_is_verified(both):
    both[".onnx"].write_bytes(both[".mindir"].read_bytes())
    assert "m.onnx: damaged, or another model than m.json" in refusal(read_info, both[".onnx"])
    assert read_info(both[".mindir"])


@pytest.mark.parametrize("stored", ["one checksum", "none"])
def test_it_was_written_by_an_earlier_version(both, info, stored):
    path = both[".mindir"].with_suffix(".json")
    content = json.loads(path.read_text())
    if stored == "none":
        del content["sha256"]
    else:
        content["sha256"] = hashlib.sha256(b".mindir").hexdigest()
    path.write_text(json.dumps(content))
    assert read_info(both[".mindir"]) == info
    write_info(both[".onnx"], info)
    assert [read_info(path) for path in both.values()] == [info, info]


def test_another_model_of_that_name_with_other_settings_is_not_disowned(both, info):
    text = both[".onnx"].with_suffix(".json").read_text()
    changed = dataclasses.replace(info, batch_size=8)
    for refused in (check_info, write_info):
        assert "m.json: describes m.onnx, which has other settings than the new m.mindir: " \
            "choose another name, or remove m.onnx" in refusal(refused, both[".mindir"], changed)
    assert both[".onnx"].with_suffix(".json").read_text() == text
    both[".onnx"].unlink()
    write_info(both[".mindir"], changed)
    assert read_info(both[".mindir"]) == changed


def test_what_it_does_not_describe_is_not_in_the_way(both, info):
    both[".onnx"].write_bytes(b"of another run")
    changed = dataclasses.replace(info, batch_size=8)
    write_info(both[".mindir"], changed)
    assert read_info(both[".mindir"]) == changed
    assert "damaged, or another model" in refusal(read_info, both[".onnx"])


def test_a_model_of_an_earlier_version_is_not_in_the_way(both, info):
    path = both[".onnx"].with_suffix(".json")
    content = json.loads(path.read_text())
    del content["time_stride"], content["sha256"]
    path.write_text(json.dumps(content))
    write_info(both[".mindir"], info)
    assert read_info(both[".mindir"]) == info
    assert "damaged, or another model" in refusal(read_info, both[".onnx"])


@pytest.mark.parametrize("text", ["", "[]", "{", "{}"])
def test_a_file_that_is_no_description_is_replaced(both, info, text):
    both[".mindir"].with_suffix(".json").write_text(text)
    write_info(both[".mindir"], info)
    assert read_info(both[".mindir"]) == info


# who wins

def test_the_model_overrules_what_nobody_wrote(info):
    config = load_config(None, ["OptimConfig.learning_rate=1e-3"]).with_model(info, "a.ckpt")
    assert config.ModelConfig == load_config(None, OTHER).ModelConfig
    assert config.DataConfig.SpectConfig == load_config(None, OTHER).DataConfig.SpectConfig
    assert config.OptimConfig.learning_rate == 1e-3
    assert config.explicit == {"OptimConfig.learning_rate"}


def test_what_somebody_wrote_may_agree(info):
    asked = load_config(None, OTHER)
    assert asked.with_model(info, "a.ckpt") == asked


def test_what_somebody_wrote_may_not_contradict_even_with_the_default(info):
    message = refusal(load_config(None, ["ModelConfig.hidden_size=1024"]).with_model, info,
                      "a.ckpt")
    assert message == "a.ckpt: `ModelConfig.hidden_size` is 64 in the model but 1024 was asked for"


def test_a_setting_that_the_model_does_not_name_had_its_default(info):
    """The model was trained before there was this setting."""
    key = "DataConfig.SpectConfig.normalization"
    older = {name: value for name, value in info.settings.items() if name != key}
    asked = load_config(None, [*OTHER, f"{key}=running"])
    assert refusal(asked.with_model, ModelInfo(older, info.labels), "a.ckpt") == (
        f"a.ckpt: `{key}` is 'utterance' in the model but 'running' "
        "was asked for")


def test_all_contradictions_are_named_at_once_also_those_of_a_file(info, tmp_path):
    (tmp_path / "recipe.yaml").write_text("DataConfig: {SpectConfig: {window: hamming}}")
    asked = load_config(tmp_path / "recipe.yaml", [
        "ModelConfig.conv2_kernel=[41, 11]", "ModelConfig.bidirectional=True",
        "ModelConfig.hidden_layers=5"])
    message = refusal(asked.with_model, info, "a.ckpt")
    for words in (
        "`DataConfig.SpectConfig.window` is 'hann' in the model but 'hamming' was asked for",
                  "`ModelConfig.conv2_kernel` is [21, 11] in the model but [41, 11] was asked for",
                  "`ModelConfig.bidirectional` is False in the model but True was asked for"):
        assert words in message
    assert "hidden_layers" not in message


@pytest.mark.parametrize("settings", [
    {"ModelConfig.gone": 5}, {"Gone.hidden_size": 5}, {"ModelConfig.hidden_size": "x"},
    {"ModelConfig.hidden_size": 0},
])
def test_settings_that_this_version_does_not_know(labels, settings):
    message = refusal(Config().with_model, ModelInfo(settings, labels), "a.ckpt")
    assert message.startswith("a.ckpt: ") and "another version" in message and next(
        iter(settings)) in message


# labels

def test_labels_of_the_model_count_when_nobody_wrote_a_path(info):
    """The default labels.json is not even looked at."""
    other = ModelInfo(info.settings, Labels("AB _"))
    assert Config().with_model(other, "a.ckpt").ModelConfig.hidden_size == 64


@pytest.mark.parametrize(("content", "words"), [
    (None, ["mine.json: cannot read the labels"]), ("AB _", ["a.ckpt: ", "'AB _'", "mine.json"])])
def test_labels_that_somebody_asked_for_are_those_of_the_model_or_a_contradiction(
        info, tmp_path, content, words):
    path = tmp_path / "mine.json"
    asked = load_config(None, [f"DataConfig.labels_path={path}"])
    path.write_text(json.dumps(list(info.labels.characters)))
    assert asked.with_model(info, "a.ckpt").ModelConfig.hidden_size == 64
    path.write_text(json.dumps(list(content))) if content else path.unlink()
    message = refusal(asked.with_model, info, "a.ckpt")
    assert all(word in message for word in words), message


# models of earlier versions

RETIRED = {"DataConfig.SpectConfig.magnitude_scale": 1.0}


def test_retired_settings_with_the_only_value_left_are_read(info):
    old = ModelInfo(info.settings | RETIRED, info.labels, info.time_stride)
    assert ModelInfo.from_json(old.to_json(), "a.json") == info


def test_retired_settings_with_another_value_are_refused(info):
    old = ModelInfo(info.settings | dict.fromkeys(RETIRED, 100.0), info.labels)
    assert "SpectConfig.magnitude_scale` is no longer supported" in refusal(
        ModelInfo.from_json, old.to_json(), "a.json")
