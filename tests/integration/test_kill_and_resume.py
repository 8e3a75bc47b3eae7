"""A run that was killed without warning and resumed ends as one that was not, to the last bit.

With augmentation and dropout: both runs must have seen the same batches.
"""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from src.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("graph_mode")
EPOCHS = 5
CHANGES = ["TrainingConfig.dropout=0.3",
           *(f"DataConfig.AugmentationConfig.{setting}" for setting in (
               "speed_volume_perturb=True", "spec_augment=True", "vtlp_max_warp=0.1",
               "shuffle_words=0.5", "shuffle_start_epoch=2"))]
# train.py that kills itself in a call of a function: its module, its name, the number of the call
KILLED = """
import functools, importlib, os, runpy, signal, sys
module, name, number = sys.argv.pop(1).split()
*path, name = name.split(".")
owner = functools.reduce(getattr, path, importlib.import_module(module))
function, calls = getattr(owner, name), []
def counted(*arguments, **options):
    calls.append(1)
    if len(calls) == int(number):
        os.kill(os.getpid(), signal.SIGKILL)
    return function(*arguments, **options)
setattr(owner, name, counted)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
MOMENTS = ("src.callback TrainingMonitor.end_step 5",  # in the second epoch
           "src.evaluation evaluate 2",  # after the third, which is saved
           "os link 2")  # between two names of a checkpoint


def run(recipe, folder, moment: str = "") -> tuple[int, str]:
    """Exit code and output of a training that goes on where it is, killed at a moment."""
    command = ["train.py", "--device_target", "CPU", "--resume", "auto", *recipe, *CHANGES,
               f"TrainingConfig.epochs={EPOCHS}", f"CheckpointConfig.ckpt_path={folder}/ckpt",
               f"TrainingConfig.log_dir={folder}/logs"]
    killed = ["-c", KILLED, moment] if moment else []
    process = subprocess.run([sys.executable, *killed, *command],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
                             env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300)
    return process.returncode, process.stdout


def test_sigkill_at_any_moment_changes_nothing(recipe, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code, output = run(recipe, whole)
    assert code == 0, output
    for moment in MOMENTS:
        code, output = run(recipe, killed, moment)
        assert code == -signal.SIGKILL, (moment, output)
    code, output = run(recipe, killed)
    assert code == 0, output
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
