"""Training in several real processes equals training in one, and survives the death of any."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from src.checkpoint import load_checkpoint
from src.config import load_config
from src.evaluation import evaluate
from src.manifest import read_manifest
from src.stored_models import load_model

WORKER = str(ROOT / "tests" / "distributed_worker.py")
pytestmark = pytest.mark.usefixtures("graph_mode")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def environment(ranks: int) -> dict[str, str]:
    return os.environ | {"RANK_SIZE": str(ranks), "MASTER_PORT": str(free_port()), "DS2_PYTHON": sys.executable,
                         "OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def launch(ranks: int, folder: Path, *arguments: str) -> None:
    """Run the worker in `ranks` processes, or alone without a launcher for one."""
    command = [sys.executable, "-m", "mindspore.parallel.cluster.run", "--worker_num", str(ranks),
               "--local_worker_num", str(ranks), "--master_port", str(free_port()), "--log_dir", str(folder / "log"),
               "--join", "True", WORKER] if ranks > 1 else [sys.executable, WORKER]
    result = subprocess.run([*command, *arguments], env=environment(ranks), capture_output=True, text=True, cwd=ROOT)
    logs = "".join(path.read_text(errors="replace")[-3000:] for path in folder.glob("log/worker_*.log"))
    assert result.returncode == 0, result.stderr[-2000:] + logs


def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return dict(archive)


def test_two_processes_of_four_make_the_step_of_one_process_of_eight(recipe, tmp_path):
    options = [*recipe, "OptimConfig.optimizer=sgd", "OptimConfig.momentum=0", "OptimConfig.weight_decay=0"]
    launch(1, tmp_path, "one_step--alone", str(tmp_path), *options)
    launch(2, tmp_path, "one_step", str(tmp_path), *options)
    alone = load(tmp_path / "step_1_0.npz")
    first, second = (load(tmp_path / f"step_2_{rank}.npz") for rank in (0, 1))
    for name, expected in alone.items():
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        error = np.linalg.norm(first[name] - expected)
        assert error <= 1e-5 * np.linalg.norm(expected) + 1e-9, name


@pytest.mark.parametrize("ranks", [2, 4])
def test_all_processes_have_the_same_weights_and_the_sharded_evaluation_counts_all(recipe, tmp_path, labels, ranks):
    # 24 utterances: with 2 processes of 5 the last batch has 4, with 4 of 5 it has 4
    epochs, steps = (7, 21) if ranks == 2 else (10, 20)
    options = [*recipe, "DataConfig.batch_size=5", f"TrainingConfig.epochs={epochs}",
               "TrainingConfig.eval_interval=100", "TrainingConfig.save_interval=100"]
    launch(ranks, tmp_path, "whole_run", str(tmp_path), *options)
    all_weights = [load(tmp_path / f"run_{ranks}_{rank}.npz") for rank in range(ranks)]
    for name, expected in all_weights[0].items():
        for other in all_weights[1:]:
            np.testing.assert_array_equal(other[name], expected, err_msg=name)
    last = load_checkpoint(tmp_path / "ckpt" / "DeepSpeech-last.ckpt")
    assert last.progress["step"] == steps
    *_, row = csv.DictReader((tmp_path / "logs" / "metrics.csv").read_text().splitlines())
    config = load_config(None, recipe)
    val_set = read_manifest(config.DataConfig.val_manifest, labels)
    errors = evaluate(load_model(last.path, config), val_set, config).errors
    assert (float(row["val_wer"]), float(row["val_cer"])) == (errors.wer_percent, errors.cer_percent)


def workers_of(process: subprocess.Popen) -> list[int]:
    """The processes below the launch script that train."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        mine = f"MASTER_PORT={process.port}".encode()
        if mine in variables and b"MS_ROLE=MS_WORKER" in variables and b"train.py" in command:
            found.append(int(folder.name))
    return found


def test_a_killed_process_ends_the_job_which_goes_on_with_another_number(recipe, tmp_path):
    script = ["bash", str(ROOT / "scripts" / "run_distribute_train_cpu.sh"), "--resume", "auto", *recipe]
    env = environment(2)
    process = subprocess.Popen([*script, "TrainingConfig.epochs=1000"], env=env, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    process.port = env["MASTER_PORT"]
    last = tmp_path / "ckpt" / "DeepSpeech-last.ckpt"
    deadline = time.monotonic() + 120
    while not last.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()
        time.sleep(0.2)
    victim = workers_of(process)[1]
    os.kill(victim, signal.SIGKILL)
    try:
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode != 0, output
    epoch = load_checkpoint(last).progress["epoch"]
    assert epoch >= 1
    result = subprocess.run([*script, f"TrainingConfig.epochs={epoch + 1}"], env=environment(1), timeout=120,
                            capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:]
    assert load_checkpoint(last).progress["epoch"] == epoch + 1


def test_without_a_launcher_the_message_is_clear(recipe):
    environment_without = {k: v for k, v in os.environ.items() if k != "MS_ROLE"}
    result = subprocess.run([sys.executable, str(ROOT / "train.py"), "--device_target", "CPU", "--is_distributed",
                             "True", *recipe], env=environment_without, capture_output=True, text=True)
    assert result.returncode == 2
    assert "scripts/run_distribute_train_cpu.sh" in result.stderr
