"""Settings: where values come from, how they are read, and what is refused."""

from pathlib import Path

import pytest
from conftest import ROOT

from deepspeech2.settings import ConfigError
from src.config import Config, load_config

RECIPES = {"demo", "an4", "librispeech"} | {path.stem for path in (ROOT / "configs").glob("*.yaml")}


def value_at(config, key: str):
    """The value of GROUP.FIELD."""
    for name in key.split("."):
        config = getattr(config, name)
    return config


@pytest.fixture
def yaml_file(tmp_path):
    """Write a YAML file and return its path."""
    def write(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path
    return write


def refusal(*arguments) -> str:
    """The message with which load_config refuses, on one line."""
    with pytest.raises(ConfigError) as caught:
        load_config(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("overrides", "sizes"), [
    ([], (320, 160, 161)), (["DataConfig.SpectConfig.sample_rate=8000"], (160, 80, 81))])
def test_samples_and_bins_of_the_spectrogram(overrides, sizes):
    spect = load_config(None, overrides).DataConfig.SpectConfig
    assert (spect.n_fft, spect.hop_length, spect.num_bins) == sizes


# recipes in configs/

@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipe_loads_and_holds_only_what_differs_from_the_defaults(name):
    config = load_config(ROOT / "configs" / f"{name}.yaml")
    assert config.explicit
    assert [key for key in config.explicit if value_at(config,
                                                       key) == value_at(Config(), key)] == []


# where values come from

def test_overrides_go_over_the_file_and_the_file_over_the_defaults(yaml_file):
    path = yaml_file("TrainingConfig:\n  epochs: 70\n  seed: 6\n"
                     "DataConfig:\n  SpectConfig:\n    window: hann\n")
    config = load_config(path, ["TrainingConfig.seed=8", "TrainingConfig.seed=9",
                                "ModelConfig.hidden_size=64"])
    assert (config.TrainingConfig.epochs, config.TrainingConfig.seed) == (70, 9)
    assert config.DataConfig.SpectConfig.window == "hann"
    assert config.ModelConfig.hidden_size == 64
    assert config.explicit == {"TrainingConfig.epochs", "TrainingConfig.seed",
                               "DataConfig.SpectConfig.window", "ModelConfig.hidden_size"}
    assert load_config().explicit == frozenset()


def test_with_settings_leaves_explicit_alone_when_asked():
    config = load_config(None, ["TrainingConfig.seed=1"])
    changed = config.with_settings({"ModelConfig.hidden_size": 64}, explicit=False)
    assert changed.explicit == {"TrainingConfig.seed"}
    assert changed.ModelConfig.hidden_size == 64
    assert config.ModelConfig.hidden_size == 1024


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "---\n"])
def test_an_empty_file_changes_nothing(yaml_file, text):
    assert load_config(yaml_file(text)) == Config()


# how values are read

@pytest.mark.parametrize("text", ["3e-4", "3E-4", "0.0003", "'3e-4'", "3.0e-4"])
def test_a_number_with_an_exponent_in_yaml(yaml_file, text):
    assert load_config(
        yaml_file(f"OptimConfig: {{learning_rate: {text}}}")).OptimConfig.learning_rate == 0.0003


@pytest.mark.parametrize(("override", "value"), [
    ("OptimConfig.learning_rate=1e-3", 0.001), ("OptimConfig.loss_scale=1", 1.0),
    ("OptimConfig.betas=[0.8, 0.95]", (0.8, 0.95)), ("OptimConfig.betas=[0, 9e-1]", (0.0, 0.9)),
    ("ModelConfig.conv2_kernel=[21,11]", (21, 11)), ("ModelConfig.bidirectional=False", False),
    ("ModelConfig.bidirectional=true", True), ("DataConfig.val_manifest=", ""),
    ("DataConfig.train_manifest=a=b, c.csv", "a=b, c.csv"),
    ("TrainingConfig.log_dir=2024-01-01", "2024-01-01"),
    ("CheckpointConfig.ckpt_file_name_prefix=007", "007"),
])
def test_override(override, value):
    found = value_at(load_config(None, [override]), override.partition("=")[0])
    assert found == value and type(found) is type(value)


# what is refused: the message names the field, the value and what is allowed

@pytest.mark.parametrize(("override", "words"), [
    ("TrainingConfig.epocs=5", ["`TrainingConfig.epocs`", "none of", "epochs, seed"]),
    ("Training.epochs=5", ["`Training.epochs`", "`Training`", "TrainingConfig, DataConfig"]),
    ("epochs=5", ["`epochs`", "TrainingConfig, DataConfig"]),
    ("DataConfig.SpectConfig.windw=hann",
     ["`windw`", "sample_rate, window_size, window_stride, window"]),
    ("TrainingConfig.epochs.more=5",
     ["`TrainingConfig.epochs.more`", "`TrainingConfig.epochs` is not a group"]),
    ("explicit=[]", ["`explicit`", "unknown"]), ("TrainingConfig=5", ["`TrainingConfig`", "group"]),
    ("DataConfig.SpectConfig=hann", ["`DataConfig.SpectConfig`", "group"]), ("=5", ["unknown"]),
    ("TrainingConfig.epochs", ["'TrainingConfig.epochs'", "GROUP.FIELD=VALUE"]),
])
def test_unknown_name(override, words):
    message = refusal(None, [override])
    assert all(word in message for word in words), message


@pytest.mark.parametrize(("override", "words"), [
    ("TrainingConfig.epochs=five", ["(='five')", "whole number"]),
    ("TrainingConfig.epochs=5.0", ["(=5.0)", "whole number"]),
    ("TrainingConfig.epochs=True", ["(=True)", "whole number"]),
    ("TrainingConfig.epochs=", ["(=None)", "whole number"]),
    ("TrainingConfig.epochs=[", ["(='[')", "whole number"]),
    # a date that YAML cannot read
    ("TrainingConfig.epochs=2024-13-45", ["(='2024-13-45')", "whole number"]),
    ("OptimConfig.learning_rate=fast", ["(='fast')", "finite number"]),
    ("OptimConfig.learning_rate=nan", ["(=nan)", "finite number"]),
    ("OptimConfig.learning_rate=.inf", ["(=inf)", "finite number"]),
    ("OptimConfig.learning_rate=true", ["(=True)", "finite number"]),
    ("OptimConfig.learning_rate=1" + "0" * 400, ["finite number"]),  # more than a float can hold
    ("ModelConfig.bidirectional=1", ["(=1)", "True or False"]),
    ("ModelConfig.bidirectional=maybe", ["(='maybe')", "True or False"]),
    ("ModelConfig.conv2_kernel=21", ["(=21)", "list of 2 numbers"]),
    ("ModelConfig.conv2_kernel=[21]", ["(=[21])", "list of 2 numbers"]),
    ("ModelConfig.conv2_kernel=[21, 11.5]", ["(=11.5)", "whole number"]),
    ("OptimConfig.betas=[0.9, 0.99, 0.999]", ["list of 2 numbers"]),
])
def test_wrong_type(override, words):
    message = refusal(None, [override])
    assert f"`{override.partition('=')[0]}`" in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(("override", "allowed"), [
    ("TrainingConfig.epochs=0", "at least 1"), ("TrainingConfig.max_grad_norm=0", "above 0"),
    ("TrainingConfig.seed=4294967296", "below 4294967296"),  # NumPy's generator holds 32 bits
    ("DataConfig.AugmentationConfig.noise_prob=1.5", "at most 1"),
    ("DataConfig.SpectConfig.window=square", "one of hamming, hann, blackman, bartlett"),
    ("ModelConfig.conv2_time_stride=3", "one of 1, 2"),
    ("ModelConfig.conv2_kernel=[21, 0]", "at least 1"),
    ("ModelConfig.conv2_kernel=[21, 10]", "two odd numbers"),
    ("CheckpointConfig.ckpt_file_name_prefix=a/b", "first part of a file name"),
    ("CheckpointConfig.ckpt_file_name_prefix=", "first part of a file name"),
    ("LMConfig.decoder_type=best", "one of greedy, beam"), ("LMConfig.alpha=-1", "at least 0"),
    ("LMConfig.beam_width=0", "at least 1"), ("LMConfig.cutoff_prob=0", "above 0"),
    ("OptimConfig.momentum=-0.1", "at least 0"), ("OptimConfig.betas=[0.9, 1.0]", "below 1"),
    ("OptimConfig.betas=[-0.9, 0.9]", "at least 0"),
])
def test_out_of_range(override, allowed):
    message = refusal(None, [override])
    assert f"`{override.partition('=')[0]}` (=" in message and allowed in message, message


def test_the_language_model_of_a_file_lies_beside_it(tmp_path):
    """Other paths, and those of overrides, begin at the current folder."""
    path = tmp_path / "a.yaml"
    path.write_text("LMConfig: {decoder_type: beam, lm_path: lm.arpa, lexicon_path: /w.txt}\n"
                    "DataConfig: {test_manifest: m.csv}\n")
    config = load_config(path)
    assert config.LMConfig.lm_path == str(tmp_path / "lm.arpa")
    assert config.LMConfig.lexicon_path == "/w.txt"
    assert config.DataConfig.test_manifest == "m.csv"
    assert load_config(path, ["LMConfig.lm_path=b.arpa"]).LMConfig.lm_path == "b.arpa"


@pytest.mark.parametrize(("overrides", "words"), [
    (["DataConfig.AugmentationConfig.tempo=[1.2, 0.9]"],
     ["tempo` (=(1.2, 0.9)) must hold the smaller number first"]),
    (["DataConfig.AugmentationConfig.gain=[5]"], ["gain` (=[5]) must be a list of 2 numbers"]),
    (["DataConfig.AugmentationConfig.noise_min=0.6"],
     ["noise_min` (=0.6) must not exceed noise_max (=0.5)"]),
    (["TrainingConfig.intermediate_ctc_weight=0.3", "ModelConfig.hidden_layers=1"],
     ["TrainingConfig.intermediate_ctc_weight` (=0.3) needs at least two recurrent layers",
      "hidden_layers is 1"]),
    (["LMConfig.lm_path=lm.arpa"],
     ["LMConfig.lm_path` (='lm.arpa') needs the beam search", "set LMConfig.decoder_type=beam"]),
    (["LMConfig.decoder_type=greedy", "LMConfig.beam_width=10"], ["LMConfig.beam_width` (=10)"]),
    (["DataConfig.SpectConfig.window_size=0.00001"], ["DataConfig.SpectConfig", "in seconds"]),
    (["DataConfig.SpectConfig.window_size=0.9"], ["14400 samples is too long", "in seconds"]),
    (["CheckpointConfig.average_last=11"],
     ["CheckpointConfig.average_last` (=11)", "raise keep_checkpoint_max (=10)"]),
])
def test_settings_that_contradict_each_other(overrides, words):
    message = refusal(None, overrides)
    assert all(word in message for word in words), message


# files that are refused: the message begins with the file

def doubled(first: str, pair: str) -> str:
    """YAML of 60 aliases, each of which stands for the one before twice."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{i + 1}: &a{i + 1} " + pair.replace("*", f"*a{i}") for i in range(60)]
    return "\n".join([*lines, "TrainingConfig: {epochs: *a60}"])


@pytest.mark.parametrize(("text", "words"), [
    ("TrainingConfig:\n  epocs: 5\n", ["`TrainingConfig.epocs`", "epochs"]),
    ("TrainingConfig:\n  epochs: 0\n", ["`TrainingConfig.epochs`", "at least 1"]),
    ("TrainingConfig:\n  log_dir: 2024-01-01\n", ["`TrainingConfig.log_dir`", "text"]),
    ("TrainingConfig:\n  log_dir: 2024-13-45\n", ["not YAML"]),
    ("TrainingConfig:\n  epochs: [5\n", ["not YAML", "line 2"]),
    ("TrainingConfig:\n\tepochs: 5\n", ["not YAML", "line 2"]),
    ("- TrainingConfig\n", ["groups of settings"]), ("just text\n", ["groups of settings"]),
    ("TrainingConfig: 5\n", ["`TrainingConfig`", "group"]),
    ("TrainingConfig:\n", ["`TrainingConfig`", "group"]),
    ("TrainingConfig:\n  epochs: {}\n", ["`TrainingConfig.epochs`", "whole number"]),
    ("Nonsense: {}\n", ["`Nonsense`", "unknown"]), ("5: {6: 7}\n", ["`5.6`", "unknown"]),
    ("TrainingConfig:\n  epochs: {a: 5}\n", ["`TrainingConfig.epochs.a`"]),
    ("TrainingConfig:\n  epochs: 5\n  epochs: 6\n", ["`epochs`", "twice", "line 3"]),
    ("TrainingConfig:\n  epochs: 5\nTrainingConfig:\n  seed: 6\n",
     ["`TrainingConfig`", "twice", "line 3"]),
    ("TrainingConfig:\n  epochs: 5\n---\nTrainingConfig:\n  seed: 6\n", ["not YAML"]),
    ("CheckpointConfig: {average_last: 99}", ["average_last` (=99) needs as many checkpoints"]),
    # texts that are no paths, in ways that the functions of the system do not expect
    ('TrainingConfig: {log_dir: "a\\0b"}', ["log_dir", "text that can be a path"]),
    ('TrainingConfig: {log_dir: "~a\\0b"}', ["log_dir", "text that can be a path"]),
    ('TrainingConfig: {log_dir: "\\ud800"}', ["log_dir", "text that can be a path"]),
    # what a few lines can become: more values than any memory holds, and a mapping in itself
    (doubled("[1]", "[*, *]"), ["not YAML", "more than 10000 values"]),
    (doubled("{x: 1}", "{p: *, q: *}"), ["not YAML", "more than 10000 values"]),
    ("TrainingConfig: &a {epochs: *a}", ["not YAML", "more than 10000 values"]),
    pytest.param("[" * 50_000, ["not YAML"], id="deep list"),
    pytest.param("{a: " * 50_000, ["not YAML"], id="deep mapping"),
])
def test_file_is_refused(yaml_file, text, words):
    path = yaml_file(text)
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert all(word in message for word in words), message


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x01", None])
def test_file_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "recipe.yaml"
    if content:
        path.write_bytes(content)
    words = "not YAML" if content else "cannot read the configuration"
    assert refusal(path).startswith(f"{path}: {words}")


def test_a_wrong_override_is_not_blamed_on_the_file(yaml_file):
    path = yaml_file("TrainingConfig: {epochs: 5}")
    assert "recipe.yaml" not in refusal(path, ["TrainingConfig.seed=-1"])


def test_a_path_may_begin_with_the_home_folder(monkeypatch):
    """No shell expands it within an argument."""
    monkeypatch.setenv("HOME", "/home/someone")
    config = load_config(None, ["CheckpointConfig.ckpt_path=~/ckpt"])
    assert config.CheckpointConfig.ckpt_path == "/home/someone/ckpt"
