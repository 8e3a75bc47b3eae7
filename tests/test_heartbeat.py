"""Real processes that watch each other, without MindSpore: files are their barrier."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT

from src.heartbeat import Heartbeat

PROGRAM = """
import os, sys, time
from pathlib import Path
from types import SimpleNamespace
from deepspeech2.errors import RunError
from src import heartbeat

heartbeat.BEAT_SECONDS = 0.25
folder, rank = Path(sys.argv[1]), int(sys.argv[2])

def wait():
    (folder / f"here-{rank}").touch()
    while not (folder / f"here-{1 - rank}").exists():
        time.sleep(0.01)

class Stopped(RunError):
    signal_number = 15

group = SimpleNamespace(rank=rank, size=2, is_first=rank == 0, wait=wait)
with heartbeat.Heartbeat(folder, group):
    print("together", flush=True)
    how = sys.stdin.readline().strip()  # in a collective operation, as it were
    if how == "fail":
        raise RunError("the disk is full")
    if how == "stop":
        raise Stopped("after a signal")
"""


@pytest.fixture
def pair(tmp_path):
    """Two processes that watch each other."""
    processes = [subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path), str(rank)],
                                  env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE) for rank in range(2)]
    for process in processes:
        assert process.stdout.readline() == "together\n"
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def heartbeats(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(".heartbeat-*"))


@pytest.mark.parametrize("fault", ["stop", "kill", "fail"])
def test_a_silent_process_ends_the_other_which_names_it(pair, tmp_path, fault):
    first, second = pair
    if fault == "fail":
        second.communicate("fail", timeout=60)
    else:
        second.send_signal({"stop": signal.SIGSTOP, "kill": signal.SIGKILL}[fault])
    assert first.wait(60) == 1
    message = first.stderr.read()
    who = f"process 1 of 2 (pid {second.pid} on {socket.gethostname()})"
    assert message.startswith(f"\nfailed: {who} has given no sign of life for ")
    assert f"The newest state of the run is in {tmp_path}: go on with --resume auto" in message


@pytest.mark.parametrize("how", ["end", "stop"])
def test_a_process_that_has_left_is_not_waited_for(pair, tmp_path, how):
    first, second = pair
    second.communicate(how, timeout=60)
    assert heartbeats(tmp_path) == [".heartbeat-0"]
    with pytest.raises(subprocess.TimeoutExpired):
        first.wait(4)  # 16 beats
    _, errors = first.communicate("end", timeout=60)
    assert (first.returncode, errors, heartbeats(tmp_path)) == (0, "", [])


def test_a_process_that_goes_on_after_a_while_is_waited_for(pair, tmp_path):
    """The time that the watching process was stopped counts for nothing."""
    first, second = pair
    for process in pair:
        process.send_signal(signal.SIGSTOP)
    with pytest.raises(subprocess.TimeoutExpired):
        first.wait(4)
    for process in pair:
        process.send_signal(signal.SIGCONT)
    with pytest.raises(subprocess.TimeoutExpired):
        first.wait(2)
    for process in pair:
        assert process.communicate("end", timeout=60)[1] == ""


def test_a_file_of_an_earlier_and_larger_run_is_removed(tmp_path):
    (tmp_path / ".heartbeat-7").touch()
    (tmp_path / ".heartbeat-1").touch()
    group = SimpleNamespace(rank=0, size=2, is_first=True, wait=lambda: None)
    with Heartbeat(tmp_path, group):
        assert heartbeats(tmp_path) == [".heartbeat-0", ".heartbeat-1"]
