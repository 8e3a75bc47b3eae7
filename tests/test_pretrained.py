"""The models in pretrained/: whole, small, of their recipes, and as good as their cards say."""

import csv
import re
from pathlib import Path

import pytest
from conftest import ROOT

import eval as evaluation_command
from data import an4, librispeech
from src.checkpoint import load_checkpoint
from src.config import load_config

CARDS = (ROOT / "pretrained" / "README.md").read_text(encoding="utf-8").split("# Model card: ")
SHIPPED = ROOT / "deepspeech2" / "assets"

pytestmark = pytest.mark.usefixtures("graph_mode")


def model(name: str) -> Path:
    return ROOT / "pretrained" / f"{name}.ckpt"


def card(name: str) -> str:
    (found,) = (text for text in CARDS if text.startswith(f"`{name}.ckpt`"))
    return found


@pytest.mark.parametrize("name", ["an4", "an4_streaming", "librispeech_10h",
                                  "librispeech_streaming"])
def test_it_holds_weights_only_and_the_settings_of_the_recipe(name):
    assert model(name).stat().st_size <= 40e6
    checkpoint = load_checkpoint(model(name))
    assert not checkpoint.progress
    assert checkpoint.parameters.keys() == checkpoint.network_parameters().keys()
    recipe = load_config(ROOT / "configs" / f"{name}.yaml")
    found = load_config().with_model(checkpoint.info, str(model(name)))
    assert found.ModelConfig == recipe.ModelConfig
    assert found.DataConfig.SpectConfig == recipe.DataConfig.SpectConfig


def dev_set(name: str, shared: Path, target: Path) -> Path:
    """The manifest of the utterances that training never heard."""
    if name.startswith("an4"):
        source = shared / "data" / "an4"
        assert an4.main(["--source", str(source), "--target", str(target)]) == 0
        return target / "an4_val_manifest.csv"
    source = target / "LibriSpeech"
    source.mkdir()
    (source / "dev-clean-67").symlink_to(shared / "data/speech/LibriSpeech/dev-clean-67")
    assert librispeech.main(["--source", str(source), "--target", str(target),
                             "--max_seconds", "40"]) == 0
    return target / "libri_val_manifest.csv"


@pytest.mark.parametrize(("name", "path", "decoder", "line"), [
    ("an4", model("an4"), "", 0),
    ("an4_streaming", model("an4_streaming"), "", 0),
    ("librispeech_10h", model("librispeech_10h"), "", 0),
    ("librispeech_10h", SHIPPED / "english.onnx", "lm/english.json", 1),
    ("librispeech_streaming", model("librispeech_streaming"), "", 0),
    ("librispeech_streaming", SHIPPED / "english_streaming.onnx", "lm/english.json", 1),
])
def test_it_scores_what_its_card_says(name, path, decoder, line, shared, tmp_path):
    """On another kind of CPU rounding may change a word in a hundred, and its letters."""
    manifest = dev_set(name, shared, tmp_path)
    options = ["--config", str(SHIPPED / decoder)] if decoder else []
    assert evaluation_command.main([*options, "--pretrain_ckpt", str(path),
                                    "--device_target", "CPU",
                                    f"DataConfig.test_manifest={manifest}",
                                    f"TrainingConfig.log_dir={tmp_path}/logs"]) == 0
    with open(tmp_path / "logs" / f"{manifest.stem}_eval.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {name: sum(int(row[name]) for row in rows)
             for name in ("word_errors", "words", "char_errors", "chars")}
    totals = re.search(r": ([\d,]+) words, ([\d,]+) characters", card(name)).groups()
    assert [found["words"], found["chars"]] == [int(total.replace(",", "")) for total in totals]
    wer, cer = re.findall(r"Test Summary \tAverage WER (\S+)\tAverage CER (\S+)", card(name))[line]
    allowed = max(1.01, found["words"] / 100 if decoder else found["words"] / 500)
    assert abs(found["word_errors"] - float(wer) * found["words"] / 100) <= allowed
    assert abs(found["char_errors"] - float(cer) * found["chars"] / 100) <= max(8.01, 4 * allowed)


def test_the_lists_name_what_english_learned_and_was_judged_on(shared):
    """So that anybody with LibriSpeech can make both sets; the card gives their sizes."""
    lists = {split: (ROOT / "data" / f"librispeech_10h_{split}.txt").read_text().split()
             for split in ("train", "val")}
    train, val = ({name.split("-")[0] for name in names} for names in lists.values())
    assert not train & val and (len(train), len(val)) == (49, 67)
    source = shared / "data/speech/LibriSpeech"
    for split, folder in (("train", "train-clean-10h"), ("val", "dev-clean-67")):
        assert lists[split] == sorted(path.stem for path in (source / folder).rglob("*.opus"))
        assert f"{len(lists[split]):,} utterances" in card("librispeech_10h")
