"""What a model says of itself, and who may contradict it."""

import json

import pytest

from deepspeech2.errors import InputError
from deepspeech2.labels import Labels
from deepspeech2.model_info import ModelInfo
from src.config import Config, load_config

OTHER = ["ModelConfig.hidden_size=64", "ModelConfig.conv2_kernel=[21, 11]", "ModelConfig.bidirectional=False",
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
    assert info.settings == {
        "ModelConfig.rnn_type": "LSTM",
        "ModelConfig.hidden_size": 64,
        "ModelConfig.hidden_layers": 5,
        "ModelConfig.lookahead_context": 20,
        "ModelConfig.bidirectional": False,
        "ModelConfig.conv_channels": 32,
        "ModelConfig.conv2_kernel": [21, 11],
        "ModelConfig.conv2_time_stride": 1,
        "DataConfig.SpectConfig.sample_rate": 8000,
        "DataConfig.SpectConfig.window_size": 0.02,
        "DataConfig.SpectConfig.window_stride": 0.01,
        "DataConfig.SpectConfig.window": "hann",
    }
    assert info.time_stride == 2
    assert info.spect() == load_config(None, OTHER).DataConfig.SpectConfig


def test_round_trip(info):
    text = info.to_json()
    assert ModelInfo.from_json(text, "model.json") == info
    assert ModelInfo.from_json(text, "model.json").to_json() == text


def test_round_trip_of_strange_labels():
    info = Config().model_info(Labels("ÄŁ' _"))
    assert ModelInfo.from_json(info.to_json(), "model.json").labels == Labels("ÄŁ' _")


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
])
def test_anything_else_is_refused_with_its_source(text):
    assert refusal(ModelInfo.from_json, text, "model.json").startswith("model.json: ")


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
    message = refusal(load_config(None, ["ModelConfig.hidden_size=1024"]).with_model, info, "a.ckpt")
    assert message == "a.ckpt: `ModelConfig.hidden_size` is 64 in the model but 1024 was asked for"


def test_a_file_contradicts_like_an_override(info, tmp_path):
    (tmp_path / "recipe.yaml").write_text("DataConfig: {SpectConfig: {window: hamming}}")
    message = refusal(load_config(tmp_path / "recipe.yaml").with_model, info, "a.ckpt")
    assert "`DataConfig.SpectConfig.window` is 'hann' in the model but 'hamming' was asked for" in message


def test_all_contradictions_are_named_at_once(info):
    asked = load_config(None, ["ModelConfig.conv2_kernel=[41, 11]", "ModelConfig.bidirectional=True",
                               "ModelConfig.hidden_layers=5"])
    message = refusal(asked.with_model, info, "a.ckpt")
    assert "`ModelConfig.conv2_kernel` is [21, 11] in the model but [41, 11] was asked for" in message
    assert "`ModelConfig.bidirectional` is False in the model but True was asked for" in message
    assert "hidden_layers" not in message


@pytest.mark.parametrize("settings", [
    {"ModelConfig.gone": 5}, {"Gone.hidden_size": 5}, {"ModelConfig.hidden_size": "x"}, {"ModelConfig.hidden_size": 0},
])
def test_settings_that_this_version_does_not_know(labels, settings):
    message = refusal(Config().with_model, ModelInfo(settings, labels), "a.ckpt")
    assert message.startswith("a.ckpt: ") and "another version" in message and next(iter(settings)) in message


# labels

def test_labels_of_the_model_count_when_nobody_wrote_a_path(info):
    """The default labels.json is not even looked at."""
    other = ModelInfo(info.settings, Labels("AB _"))
    assert Config().with_model(other, "a.ckpt").ModelConfig.hidden_size == 64


def test_equal_labels_elsewhere_are_no_contradiction(info, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(list(info.labels.characters)))
    assert load_config(None, [f"DataConfig.labels_path={path}"]).with_model(info, "a.ckpt").ModelConfig.hidden_size == 64


def test_other_labels_are_a_contradiction_that_names_both(info, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(list("AB _")))
    message = refusal(load_config(None, [f"DataConfig.labels_path={path}"]).with_model, info, "a.ckpt")
    assert message.startswith("a.ckpt: ")
    assert repr(str(info.labels)) in message and "'AB _'" in message and str(path) in message


def test_missing_labels_that_somebody_asked_for(info, tmp_path):
    message = refusal(load_config(None, [f"DataConfig.labels_path={tmp_path / 'none.json'}"]).with_model, info, "a.ckpt")
    assert "none.json" in message


# models of earlier versions

RETIRED = {"DataConfig.SpectConfig.magnitude_scale": 1.0,
           "DataConfig.SpectConfig.normalization": "utterance"}


def test_retired_settings_with_the_only_value_left_are_read(info):
    old = ModelInfo(info.settings | RETIRED, info.labels, info.time_stride)
    assert ModelInfo.from_json(old.to_json(), "a.json") == info


@pytest.mark.parametrize(("name", "value"), [("magnitude_scale", 100.0), ("normalization", "frequency")])
def test_retired_settings_with_another_value_are_refused(info, name, value):
    old = ModelInfo(info.settings | {f"DataConfig.SpectConfig.{name}": value}, info.labels)
    assert f"SpectConfig.{name}` is no longer supported" in refusal(ModelInfo.from_json, old.to_json(), "a.json")
