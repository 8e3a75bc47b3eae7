"""The model in pretrained/: whole, small, of the recipe, and as good as its card says."""

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
    assert not checkpoint.progress and checkpoint.parameters == checkpoint.network_parameters()
    recipe = load_config(ROOT / "configs" / "an4.yaml")
    found = load_config().with_model(checkpoint.info, str(MODEL))
    assert found.ModelConfig == recipe.ModelConfig
    assert found.DataConfig.SpectConfig == recipe.DataConfig.SpectConfig


def test_it_scores_what_its_card_says(shared, tmp_path, capsys):
    assert an4.main(["--source", str(shared / "data" / "an4"), "--target", str(tmp_path)]) == 0
    capsys.readouterr()
    assert evaluation_command.main(["--pretrain_ckpt", str(MODEL), "--device_target", "CPU",
                                    f"DataConfig.test_manifest={tmp_path}/an4_val_manifest.csv",
                                    f"TrainingConfig.log_dir={tmp_path}/logs"]) == 0
    printed, = re.findall(r"Test Summary .*", capsys.readouterr().out)
    promised, = re.findall(r"Test Summary .*", CARD)
    assert printed.split() == promised.split()
