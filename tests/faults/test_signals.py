"""Trainings that are killed or stopped at random moments lose at most `save_minutes`.

DS2_TRIALS sets the number of moments for each signal, 10 by default, half of them in imports and
compilation; the table of docs/reliability.md has 50. A run is started with `--resume auto`, gets
its signal, and is started again, until all moments are over; then it must have the weights of a run
that was never stopped, to the last bit. What was found is printed at the end (`-rP`).
"""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, heed_signals, tiny_recipe

from src.checkpoint import load_checkpoint

TRIALS = int(os.environ.get("DS2_TRIALS", "10"))
SAVE_SECONDS = 3.0
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
ENDLESS = 10**6


@dataclass
class Trials:
    """What happened in the trials of one signal."""

    codes: list[int] = field(default_factory=list)
    seconds_to_the_end: list[float] = field(default_factory=list)
    seconds_lost: list[float] = field(default_factory=list)
    bad_outputs: list[str] = field(default_factory=list)


def start(settings: list[str]) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "train.py"), "--device_target", "CPU", "--resume", "auto"]
    return subprocess.Popen([*command, *settings], text=True, env=os.environ | {
        "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        preexec_fn=heed_signals)


def seconds_of(settings: list[str]) -> float:
    """How long a run of one step lasts: most of it is preparation."""
    began = time.time()
    process = start([*settings, "TrainingConfig.max_steps=1"])
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return time.time() - began


def written(folder: Path) -> float:
    """When the newest state of the run was written; 0 without one."""
    return max((path.stat().st_mtime for path in folder.glob("ckpt/*.ckpt")), default=0.0)


def one_trial(settings: list[str], folder: Path, number: int, delay: float, trials: Trials) -> None:
    """Start or resume the run, send the signal, and note what comes of it."""
    process = start(settings)
    before = written(folder)
    try:
        output, _ = process.communicate(timeout=delay)
    except subprocess.TimeoutExpired:
        trained = written(folder) > before
        process.send_signal(number)
        sent = time.time()
        output, _ = process.communicate(timeout=120)
        trials.seconds_to_the_end.append(time.time() - sent)
        if trained:  # else everything of this start was preparation
            trials.seconds_lost.append(max(0.0, sent - written(folder)))
    trials.codes.append(process.returncode)
    # killed, or stopped before the first line of the command
    at_once = process.returncode == -number and (number == signal.SIGKILL or not output)
    # MindSpore turns a Ctrl-C in the first moments of a step into SIGTERM, see StopRequests
    taken = number == signal.SIGINT and process.returncode == 128 + signal.SIGTERM
    if "Traceback" in output or not (process.returncode == 128 + number or at_once or taken):
        trials.bad_outputs.append(f"exit code {process.returncode}\n{output}")


@pytest.fixture
def corpus(demo_corpus) -> Path:
    return demo_corpus


@pytest.mark.parametrize("number", [signal.SIGKILL, *SIGNALS], ids=lambda number: number.name)
def test_random_moments(number, corpus, tmp_path):
    rng = random.Random(number)
    folder, whole = tmp_path / "stopped", tmp_path / "whole"
    common = [f"CheckpointConfig.save_minutes={SAVE_SECONDS / 60}", "TrainingConfig.dropout=0.2",
              f"TrainingConfig.epochs={ENDLESS}", "TrainingConfig.eval_interval=20"]
    prepared = seconds_of([*tiny_recipe(corpus, tmp_path / "short"), *common])
    trials = Trials()
    for _ in range(TRIALS):
        delay = rng.uniform(0, 2 * prepared)
        one_trial([*tiny_recipe(corpus, folder), *common], folder, number, delay, trials)
    last = folder / "ckpt" / "DeepSpeech-last.ckpt"
    steps = load_checkpoint(last).progress["step"] + 1 if last.exists() else 1
    limit = f"TrainingConfig.max_steps={steps}"
    for run in (folder, whole):
        process = start([*tiny_recipe(corpus, run), *common, limit])
        output, _ = process.communicate()
        assert process.returncode == 0, output
    found, expected = (load_checkpoint(run / "ckpt" / last.name) for run in (folder, whole))
    print(f"\n{number.name}: {TRIALS} trials, {len(trials.seconds_lost)} of them in training, "
          f"{steps} steps, codes {sorted(set(trials.codes))}, "
          f"at most {max(trials.seconds_to_the_end, default=0):.1f} s to the end, "
          f"at most {max(trials.seconds_lost, default=0):.1f} s not saved")
    assert not trials.bad_outputs, trials.bad_outputs[0]
    assert found.progress["step"] == expected.progress["step"] == steps
    for name, array in expected.parameters.items():
        np.testing.assert_array_equal(found.parameters[name], array, err_msg=name)
    if number == signal.SIGKILL:
        # a step, an evaluation or a save is under way: seconds here, more on a busy machine
        assert max(trials.seconds_lost, default=0) <= SAVE_SECONDS + prepared / 3
    else:
        assert max(trials.seconds_to_the_end) <= 10
