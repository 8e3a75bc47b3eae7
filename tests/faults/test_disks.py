"""Full, read-only and odd file systems, mounted for real: needs root.

Each test runs in a mount namespace of its own, so nothing stays mounted.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from conftest import ROOT, tiny_recipe

from src.checkpoint import load_checkpoint

TRAIN = [sys.executable, str(ROOT / "train.py"), "--device_target", "CPU", "--resume", "auto"]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def run(script: str, settings: list[str], **environment: str) -> subprocess.CompletedProcess:
    """Run a shell script, in which `train` is the training, in a mount namespace of its own."""
    quoted = " ".join(f"'{word}'" for word in [*TRAIN, *settings])
    return subprocess.run(
        ["unshare", "--mount", "bash", "-c", f"set -e\ntrain() {{ {quoted} \"$@\"; }}\n{script}"],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=600,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment)


@pytest.fixture
def settings(demo_corpus, tmp_path) -> list[str]:
    return tiny_recipe(demo_corpus, tmp_path)


def epochs(tmp_path) -> int:
    return load_checkpoint(tmp_path / "ckpt" / "DeepSpeech-last.ckpt").progress["epoch"]


def test_the_disk_of_the_logs_fills_up(settings, tmp_path):
    """Cases 56 and 71: epochs were lost."""
    result = run('''mkdir logs_disk && mount -t tmpfs -o size=32k tmpfs logs_disk
        head -c 28k /dev/zero > logs_disk/filling
        train TrainingConfig.log_dir=$PWD/logs_disk'''.replace("logs_disk", f"{tmp_path}/full")
                 .replace("$PWD/", ""), settings)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("metrics.csv cannot be written ([Errno 28]") == 1
    assert result.stderr.count("TensorBoard events cannot be written ([Errno 28]") == 1
    assert epochs(tmp_path) == 2


def test_metrics_cannot_be_replaced(settings, tmp_path):
    """Case 55: an immutable file; here a mount point, which cannot be replaced either."""
    (tmp_path / "logs").mkdir()
    metrics = tmp_path / "logs" / "metrics.csv"
    metrics.touch()
    result = run(f"mount --bind {metrics} {metrics}\ntrain", settings)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("metrics.csv cannot be written ([Errno 16]") == 1
    assert epochs(tmp_path) == 2


@pytest.mark.parametrize("redirection", ["2>&-", ">/dev/full 2>&1", "2>&1 | head -n 2", ">&- 2>&-"])
def test_nobody_reads_what_is_printed(settings, tmp_path, redirection):
    """Case 71."""
    result = run(f"set -o pipefail\ntrain {redirection}", settings)
    assert result.returncode == 0, result.stderr
    assert epochs(tmp_path) == 2


def test_the_disk_of_the_checkpoints_fills_up(settings, tmp_path):
    """The run fails with one line, and goes on when there is room again."""
    result = run(f'''mkdir {tmp_path}/ckpt && mount -t tmpfs -o size=400k tmpfs {tmp_path}/ckpt
        train TrainingConfig.epochs=30 && exit 9
        ls -A {tmp_path}/ckpt
        mount -o remount,size=40m {tmp_path}/ckpt
        train TrainingConfig.epochs=30''', [*settings, "CheckpointConfig.keep_checkpoint_max=30"])
    failures = [line for line in result.stderr.splitlines() if line.startswith("failed: ")]
    assert result.returncode == 0, result.stderr
    assert len(failures) == 1 and "could not be written: [Errno 28]" in failures[0]
    assert "resuming" in result.stderr and "Traceback" not in result.stderr


def test_little_shared_memory(settings, tmp_path):
    """Case 78: two loaders hung for ever in 1 MB."""
    result = run("mount -t tmpfs -o size=1m tmpfs /dev/shm\n"
                 "timeout 300 train DataConfig.num_workers=2".replace("timeout 300 ", ""), settings)
    assert result.returncode == 0, result.stderr
    assert "/dev/shm has 1 MB free" in result.stderr and epochs(tmp_path) == 2


def test_a_terminal_without_unicode(demo_corpus, tmp_path):
    """Case 72: a finished run ended with an error."""
    folder = tmp_path / "ü"
    result = run("train", tiny_recipe(demo_corpus, folder), PYTHONIOENCODING="ascii")
    assert result.returncode == 0, result.stderr
    assert "\\xfc" in result.stderr and epochs(folder) == 2


def test_a_memory_limit(demo_corpus, tmp_path):
    """Case 65: out of memory ends with one message, and the run goes on without long utterances."""
    lines = []
    for i, seconds in enumerate([2] * 8 + [60] * 8):
        noise = np.random.default_rng(i).uniform(-0.1, 0.1, seconds * 16000)
        soundfile.write(tmp_path / f"{i}.wav", noise, 16000)
        (tmp_path / f"{i}.txt").write_text("AB")
        lines.append(f"{i}.wav,{i}.txt\n")
    (tmp_path / "long.csv").write_text("".join(lines))
    settings = [*tiny_recipe(demo_corpus, tmp_path), "DataConfig.val_manifest=",
                f"DataConfig.train_manifest={tmp_path}/long.csv", "ModelConfig.hidden_size=256",
                "ModelConfig.hidden_layers=3", "ModelConfig.conv_channels=16",
                "ModelConfig.conv2_kernel=[21, 11]", "TrainingConfig.epochs=1"]
    limit = "ulimit -v 5500000\n"
    result = run(limit + "train", settings)
    *_, last_line = result.stderr.splitlines()
    assert result.returncode == 1, result.stderr
    assert last_line.startswith("failed: out of memory in step 2, a batch of 8 utterances of up to "
                                "60.0 s"), result.stderr
    assert "Traceback" not in result.stderr
    result = run(limit + "train DataConfig.max_seconds=30", settings)
    assert result.returncode == 0, result.stderr
    assert epochs(tmp_path) == 1
