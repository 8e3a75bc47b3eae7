"""The model in pretrained/: whole, small, of the recipe, and as good as its card says."""

import csv
import re

import pytest
from conftest import ROOT

import eval as evaluation_command
from data import an4
from src.checkpoint import load_checkpoint
from src.config import load_config

MODEL = ROOT / "pretrained" / "an4.ckpt"
CARD = (ROOT / "pretrained" / "README.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.usefixtures("graph_mode")


def test_it_holds_weights_only_and_the_settings_of_the_recipe():
    assert MODEL.stat().st_size <= 40e6
    checkpoint = load_checkpoint(MODEL)
    assert not checkpoint.progress
    assert checkpoint.parameters.keys() == checkpoint.network_parameters().keys()
    recipe = load_config(ROOT / "configs" / "an4.yaml")
    found = load_config().with_model(checkpoint.info, str(MODEL))
    assert found.ModelConfig == recipe.ModelConfig
    assert found.DataConfig.SpectConfig == recipe.DataConfig.SpectConfig


def test_it_scores_what_its_card_says(shared, tmp_path):
    """On another kind of CPU rounding may change a word, and its letters, but not more."""
    assert an4.main(["--source", str(shared / "data" / "an4"), "--target", str(tmp_path)]) == 0
    assert evaluation_command.main(["--pretrain_ckpt", str(MODEL), "--device_target", "CPU",
                                    f"DataConfig.test_manifest={tmp_path}/an4_val_manifest.csv",
                                    f"TrainingConfig.log_dir={tmp_path}/logs"]) == 0
    with open(tmp_path / "logs" / "an4_val_manifest_eval.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {name: sum(int(row[name]) for row in rows)
             for name in ("word_errors", "words", "char_errors", "chars")}
    words, chars = re.search(r": (\d+) words, ([\d,]+) characters", CARD).groups()
    assert (found["words"], found["chars"]) == (int(words), int(chars.replace(",", "")))
    wer, cer = re.search(r"Test Summary \tAverage WER (\S+)\tAverage CER (\S+)", CARD).groups()
    assert abs(found["word_errors"] - float(wer) * found["words"] / 100) <= 1.01
    assert abs(found["char_errors"] - float(cer) * found["chars"] / 100) <= 8.01
