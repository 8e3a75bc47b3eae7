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
from conftest import ROOT, tiny_recipe

import train
from src.checkpoint import load_checkpoint
from src.config import load_config
from src.device import schedule
from src.evaluation import evaluate
from src.manifest import read_manifest
from src.stored_models import load_model

WORKER = str(ROOT / "tests" / "distributed_worker.py")
RANKS = 3
DEADLINE = 600  # seconds, for a machine that has much else to do
pytestmark = pytest.mark.usefixtures("graph_mode")


def environment(ranks: int) -> dict[str, str]:
    return os.environ | {"RANK_SIZE": str(ranks), "DS2_PYTHON": sys.executable,
                         "OMP_NUM_THREADS": "1"}


def run(command: list[str], folder: Path) -> None:
    result = subprocess.run(command, env=environment(RANKS), capture_output=True, text=True,
                            cwd=ROOT, timeout=DEADLINE, check=False)
    logs = "".join(path.read_text(errors="replace")[-3000:]
                   for path in folder.glob("log/worker_*.log"))
    assert result.returncode == 0, result.stderr[-2000:] + logs


@pytest.fixture(scope="module")
def job(demo_corpus, tmp_path_factory):
    """The folder with what three processes, and one alone, leave of distributed_worker.py.

    24 utterances in batches of 3 times 5: the second batch is smaller.
    """
    folder = tmp_path_factory.mktemp("job")
    settings = [*tiny_recipe(demo_corpus, folder), "DataConfig.batch_size=5",
                "TrainingConfig.epochs=3", "TrainingConfig.eval_interval=100"]
    launcher = ["-m", "src.launch", str(folder / "log")]
    run([sys.executable, WORKER, "alone", str(folder), *settings], folder)
    run([sys.executable, *launcher, WORKER, "job", str(folder), *settings], folder)
    return folder


def results(job: Path, task: str, size: int = RANKS) -> list[dict[str, np.ndarray]]:
    """What each process of a task saved."""
    found = []
    for rank in range(size):
        with np.load(job / f"{task}_{size}_{rank}.npz") as archive:
            found.append(dict(archive))
    return found


def assert_equal_everywhere(found: list[dict[str, np.ndarray]]) -> None:
    for name, expected in found[0].items():
        for other in found[1:]:
            np.testing.assert_array_equal(other[name], expected, err_msg=name)


def test_a_step_on_eight_utterances_in_unequal_shares_is_that_of_one_process(job):
    (alone,), found = results(job, "one_step", 1), results(job, "one_step")
    assert_equal_everywhere(found)
    for name, expected in alone.items():
        error = np.linalg.norm(found[0][name] - expected)
        assert error <= 1e-5 * np.linalg.norm(expected) + 1e-9, name


def test_all_have_the_same_weights_and_the_sharded_evaluation_counts_all(job, recipe, labels):
    found = results(job, "whole_run")
    assert_equal_everywhere(found)
    last = load_checkpoint(job / "ckpt" / "DeepSpeech-last.ckpt")
    assert last.progress["step"] == 3 * 2
    np.testing.assert_array_equal(last.parameters["fc.weight"], found[0]["fc.weight"])
    *_, row = csv.DictReader((job / "logs" / "metrics.csv").read_text().splitlines())
    config = load_config(None, recipe)
    val_set = read_manifest(config.DataConfig.val_manifest, labels)
    errors = evaluate(load_model(last.path, config), val_set, config).errors
    rates = errors.wer_percent, errors.cer_percent
    assert (float(row["val_wer"]), float(row["val_cer"])) == rates


def test_sums_over_the_processes_are_one_graph(job):
    """MindSpore compiles a graph for every new cell: one for all sums, and one in each step."""
    assert [int(found["sums"]) for found in results(job, "whole_run")] == [3] * RANKS


def test_hosts_that_do_not_share_the_folder_are_refused_everywhere(job):
    for found in results(job, "unshared_folder"):
        assert f"2 of {RANKS} processes do not see the first one's files" in str(found["message"])
        assert "CheckpointConfig.ckpt_path" in str(found["message"])


def test_processes_that_were_started_differently_are_refused_everywhere(job):
    for found in results(job, "other_settings"):
        assert str(found["message"]).startswith(
            f"not the same in all {RANKS} processes: DataConfig.batch_size (in 1), "
            "DataConfig.val_manifest (in 1): start all hosts with")


def test_means_sums_and_the_values_of_the_first(job):
    others = (RANKS - 1) / 2
    for found in results(job, "group_values"):
        np.testing.assert_allclose(found["mean"], [others, 10 * others], rtol=1e-6)
        assert found["first"].tolist() == [0, 0]
        assert found["sum"].tolist() == [RANKS * others, RANKS]


def children(pid: int) -> list[int]:
    """All processes below one."""
    below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [process for child in map(int, below) for process in (child, *children(child))]


def workers_of(pid: int) -> list[int]:
    """The processes below the launch script that train."""
    return [child for child in children(pid)
            if b"train.py" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_a_killed_process_ends_the_job_which_goes_on_with_another_number(recipe, tmp_path):
    script = ["bash", str(ROOT / "scripts" / "run_distribute_train_cpu.sh"), "--resume", "auto",
              *recipe]
    process = subprocess.Popen([*script, "TrainingConfig.epochs=100000"], env=environment(2),
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    last = tmp_path / "ckpt" / "DeepSpeech-last.ckpt"
    deadline = time.monotonic() + DEADLINE
    while not last.exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    started = children(process.pid)
    killed = workers_of(process.pid)[1]
    os.kill(killed, signal.SIGKILL)
    try:
        output, _ = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    assert process.returncode == 1, output
    assert output.splitlines()[-1].startswith(
        f"failed: process 1 (pid {killed}) was killed by SIGKILL")
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
    epoch = load_checkpoint(last).progress["epoch"]
    assert epoch >= 1
    assert train.main(["--device_target", "CPU", "--resume", "auto", *recipe,
                       f"TrainingConfig.epochs={epoch + 1}"]) == 0
    assert load_checkpoint(last).progress["epoch"] == epoch + 1


def test_a_port_that_is_taken_after_the_launcher_has_looked(monkeypatch, capfd):
    """The scheduler gives up at once; the processes would wait for each other in vain."""
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setenv("MS_SCHED_PORT", str(port))
        assert schedule(os.open(os.devnull, os.O_RDONLY)) == 1
    assert capfd.readouterr().err == (
        f"failed: MASTER_PORT={port} was taken by another program meanwhile: choose another\n")


def test_a_process_that_waits_for_the_others_can_be_stopped():
    """MindSpore waits for two minutes, and meanwhile runs no Python code."""
    code = ("from deepspeech2 import commands; from src.device import join_group; import mindspore;"
            " print('joining', flush=True); raise SystemExit(commands.run(join_group))")
    alone = {"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "2", "MS_SCHED_HOST": "127.0.0.1",
             "MS_SCHED_PORT": "9", "MS_NODE_ID": "0"}
    with subprocess.Popen([sys.executable, "-c", code], env=os.environ | alone, text=True, cwd=ROOT,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout.readline() == "joining\n"
        time.sleep(2)
        try:
            assert process.poll() is None
            process.terminate()
            # by our handler, or by MindSpore, which may have taken it away
            assert process.wait(60) in (143, -signal.SIGTERM)
        finally:
            process.kill()


def test_without_a_launcher_the_message_is_clear(recipe, monkeypatch, capsys):
    monkeypatch.delenv("MS_ROLE", raising=False)
    assert train.main(["--device_target", "CPU", "--is_distributed", "True", *recipe]) == 2
    assert "scripts/run_distribute_train_cpu.sh" in capsys.readouterr().err
