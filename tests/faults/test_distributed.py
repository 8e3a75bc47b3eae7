"""Distributed runs whose processes are killed, stopped or slow: all ends, and little is lost.

`pytest tests/faults/test_distributed.py -s` prints a table. DS2_TRIALS sets the number of trials of
each kind, 1 by default and 3 at most. Each trial goes on with the run of the one before, with
another number of processes.
"""

import os
import re
import signal
import socket
import time

import pytest
from conftest import tiny_recipe
from distributed_run import SAVE_SECONDS, SCHEDULER, Run

TRIALS = min(3, int(os.environ.get("DS2_TRIALS", "1")))
SLACK = 5.0  # seconds that a step and a save may take on a busy machine
LONGEST = 60.0  # seconds from the fault to the end of the last process


KINDS = {  # what is done to which process, and what the last line says about it
    "rank 1 killed": ("1", signal.SIGKILL, 1, r"failed: process 1 \(pid {}\) was killed by SIGK"),
    "rank 0 killed": ("0", signal.SIGKILL, 1, r"failed: process 0 \(pid {}\) was killed by SIGK"),
    "rank 1 stopped": ("1", signal.SIGSTOP, 1, r"failed: process 1 \(pid {}\) was stopped by"),
    "rank 0 stopped": ("0", signal.SIGSTOP, 1, r"failed: process 0 \(pid {}\) was stopped by"),
    "scheduler killed": (SCHEDULER, signal.SIGKILL, 1,
                         r"failed: the scheduler \(pid {}\) was killed by SIGKILL"),
    "launcher killed": ("", signal.SIGKILL, -signal.SIGKILL, ""),
    "launcher SIGTERM": ("", signal.SIGTERM, 143, r"process 0, process 1.*: stopped at step \d+"),
}


@pytest.fixture(scope="module")
def settings(demo_corpus, tmp_path_factory):
    """The settings of a run without an end, and its folder."""
    folder = tmp_path_factory.mktemp("run")
    return [*tiny_recipe(demo_corpus, folder), "TrainingConfig.epochs=100000",
            "TrainingConfig.eval_interval=100000",
            f"CheckpointConfig.save_minutes={SAVE_SECONDS / 60}"], folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trial", range(TRIALS))
def test_a_fault_ends_the_job(settings, kind, trial):
    rank, number, code, last = KINDS[kind]
    settings, folder = settings
    run = Run(folder, settings, 2 + (trial + list(KINDS).index(kind)) % 2)
    run.wait_until_it_trains()
    pid = run.pid(rank) if rank else run.process.pid
    os.kill(pid, number)
    sent = time.time()
    seconds = run.end()
    lost = max(0.0, sent - run.saved_at())
    line = run.last_line()
    print(f"\n| {kind} | {seconds:.1f} s | {run.process.returncode} | {lost:.1f} s | {line} |")
    assert run.process.returncode == code
    assert re.match(last.format(pid), line)
    assert seconds < LONGEST
    assert lost < SAVE_SECONDS + SLACK
    assert run.step() > run.before


def test_a_slow_process_is_waited_for(settings):
    """For a minute, one process runs for one second in eight."""
    settings, folder = settings
    run = Run(folder, settings, 2)
    run.wait_until_it_trains()
    pid, before = run.pid("1"), run.saved_at()
    for _ in range(8):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(7)
        os.kill(pid, signal.SIGCONT)
        time.sleep(1)
    assert run.process.poll() is None
    assert run.saved_at() > before
    run.process.terminate()
    run.end()
    assert run.process.returncode == 143


def test_a_port_that_is_taken_late_ends_the_job(settings, tmp_path):
    """After the launcher has reserved it, another program listens on it."""
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    run = Run(tmp_path, settings[0], 2, MASTER_PORT=str(port))
    while "== logs of" not in run.output.read_text():
        time.sleep(0.05)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("", port))
        other.listen()
        seconds = run.end()
    line = run.last_line()
    print(f"\n| port taken | {seconds:.1f} s | {run.process.returncode} | | {line} |")
    assert run.process.returncode == 1
    assert line.endswith(f"failed: MASTER_PORT={port} was taken by another program meanwhile: "
                         "choose another")
    assert seconds < LONGEST


def test_a_host_that_stands_still_ends_the_other(settings):
    """Two hosts, which are launchers on this machine; one stops with its processes."""
    settings, folder = settings
    common = {"NODE_COUNT": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "18118"}
    first = Run(folder, settings, 2, NODE_RANK="0", **common)
    (folder / "second").mkdir(exist_ok=True)
    second = Run(folder / "second", settings, 2, NODE_RANK="1", **common)
    first.wait_until_it_trains()
    pid = second.pid("1")
    for process in (second.process.pid, pid):
        os.kill(process, signal.SIGSTOP)
    seconds = first.end()
    line = first.last_line()
    print(f"\n| host stopped | {seconds:.1f} s | {first.process.returncode} | | {line} |")
    os.kill(second.process.pid, signal.SIGCONT)
    second.end()
    assert first.process.returncode == 1
    assert line.startswith(f"host 1 ({socket.gethostname()}): failed: no sign of life for 30 s: ")
    assert seconds < LONGEST


def test_hosts_that_were_started_differently(settings, tmp_path):
    runs = []
    for host, size in (("0", 2), ("1", 4)):
        (tmp_path / host).mkdir()
        runs.append(Run(tmp_path / host, settings[0], size, NODE_COUNT="2", NODE_RANK=host,
                        MASTER_ADDR="127.0.0.1", MASTER_PORT="18119"))
    for run in runs:
        seconds = run.end()
        line = run.last_line()
        print(f"\n| RANK_SIZE differs | {seconds:.1f} s | {run.process.returncode} | | {line} |")
        assert run.process.returncode == 2
        assert "was started with RANK_SIZE=4, host 0" in line
        assert seconds < LONGEST
