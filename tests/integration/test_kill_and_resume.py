"""A run that was killed without warning and resumed ends as one that was not, to the last bit.

With augmentation and dropout: both runs must have seen the same batches.
"""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT

from src.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("graph_mode")
EPOCHS = 6
CHANGES = ["TrainingConfig.dropout=0.3",
           *(f"DataConfig.AugmentationConfig.{setting}" for setting in (
               "speed_volume_perturb=True", "spec_augment=True", "vtlp_max_warp=0.1",
               "shuffle_words=0.5", "shuffle_start_epoch=2"))]


def start(recipe, folder, *options) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "train.py"), "--device_target", "CPU", "--resume", "auto",
               *recipe, *CHANGES,
               f"TrainingConfig.epochs={EPOCHS}", f"CheckpointConfig.ckpt_path={folder}/ckpt",
               f"TrainingConfig.log_dir={folder}/logs", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            env=os.environ | {"OMP_NUM_THREADS": "1"})


def test_sigkill_at_any_moment_changes_nothing(recipe, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(recipe, whole)
    assert process.wait() == 0, process.stdout.read()
    process = start(recipe, killed)
    while not list(killed.glob("ckpt/DeepSpeech-2_*.ckpt")):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    time.sleep(0.1)  # somewhere in a step, an evaluation or the writing of a checkpoint
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "ckpt" / f"DeepSpeech-{EPOCHS}_{3 * EPOCHS}.ckpt").exists()
    process = start(recipe, killed)
    assert process.wait() == 0, process.stdout.read()
    expected, found = (load_checkpoint(folder / "ckpt" / "DeepSpeech-last.ckpt")
                       for folder in (whole, killed))
    assert found.progress["epoch"] == EPOCHS
    assert found.parameters.keys() == expected.parameters.keys()
    for name, array in expected.parameters.items():
        np.testing.assert_array_equal(found.parameters[name], array, err_msg=name)
    differing = ("run", "minutes", "audio_seconds_per_second")
    histories = [[{k: v for k, v in row.items() if k not in differing}
                  for row in checkpoint.progress["history"]]
                 for checkpoint in (found, expected)]
    assert histories[0] == histories[1]
