"""Several launchers, each a host of its own here: how they meet, and what one learns of another."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import ROOT, heed_signals

from src import hosts, launch

# shorter waits than those of users
LAUNCH = """
import sys
from src import hosts, launch
launch.GRACE_SECONDS = launch.POLL_SECONDS = 0.05
hosts.HELLO_SECONDS, hosts.BEAT_SECONDS, hosts.SILENT_SECONDS = 1.0, 0.05, SILENCE
sys.exit(launch.main(sys.argv[1:]))
"""
# each process says that it is there, and waits for the end of the test or for a signal
PROGRAM = """
import os, pathlib, signal, sys, time
rank = int(os.environ["RANK_ID"])
signal.signal(signal.SIGTERM, lambda number, frame: (
    print("stopped at step 5", file=sys.stderr), sys.exit(128 + number)))
pathlib.Path(f"begun-{rank}").write_text(str(os.getpid()))
os.rename(f"begun-{rank}", f"ready-{rank}")
while not os.path.exists("end"):
    if rank == 1 and os.path.exists("fault"):
        exec(pathlib.Path("fault").read_text())
    time.sleep(0.02)
print("rank", rank)
"""


class Job:
    """Starts launchers on one port, and ends what is left of them."""

    silent = 30.0  # seconds after which a host that says nothing is lost

    def __init__(self, folder):
        self.folder, self.launchers = folder, []
        (folder / "program.py").write_text(PROGRAM)
        with socket.create_server(("", 0)) as free:
            self.port = free.getsockname()[1]

    def start(self, **variables: int | str) -> subprocess.Popen:
        common = {"RANK_SIZE": 2, "NODE_COUNT": 2, "MASTER_ADDR": "127.0.0.1",
                  "MASTER_PORT": self.port, "PYTHONPATH": ROOT}
        folder = self.folder / f"log-{len(self.launchers)}"
        launcher = subprocess.Popen(
            [sys.executable, "-c", LAUNCH.replace("SILENCE", str(self.silent)), folder,
             self.folder / "program.py"], cwd=self.folder,
            env=os.environ | {key: str(value) for key, value in (common | variables).items()},
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=heed_signals)
        self.launchers.append(launcher)
        return launcher

    def wait_for_processes(self, count: int) -> list[int]:
        deadline = time.monotonic() + 60
        while len(list(self.folder.glob("ready-*"))) < count:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return [int((self.folder / f"ready-{rank}").read_text()) for rank in range(count)]


@pytest.fixture
def job(tmp_path):
    job = Job(tmp_path)
    yield job
    for launcher in job.launchers:
        launcher.kill()
        launcher.communicate()


def end(launcher: subprocess.Popen) -> tuple[int, list[str]]:
    output, _ = launcher.communicate(timeout=60)
    return launcher.returncode, output.splitlines()


def name(host: int) -> str:
    return f"host {host} ({socket.gethostname()})"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_all_hosts_end_well(job, order):
    launchers = {host: job.start(NODE_RANK=host, NODE_COUNT=3, RANK_SIZE=3) for host in order}
    job.wait_for_processes(3)
    (job.folder / "end").touch()
    for host, launcher in launchers.items():
        code, lines = end(launcher)
        assert (code, f"rank {host}" in lines) == (0, True)


@pytest.mark.parametrize(("variables", "reason"), [
    ({"RANK_SIZE": 4}, f"{name(1)} was started with RANK_SIZE=4, {name(0)} with RANK_SIZE=2: start "
     "all hosts with the same"),
    ({"NODE_COUNT": 1, "RANK_SIZE": 1, "NODE_RANK": 0}, "MASTER_PORT={port} is in use here: choose "
     "another"),
    ({"NODE_COUNT": 3, "RANK_SIZE": 3}, f"{name(1)} was started with NODE_COUNT=3, {name(0)} with "
     "NODE_COUNT=2: start all hosts with the same"),
])
def test_other_settings_end_the_hosts_before_anything_starts(job, variables, reason):
    first = job.start(NODE_RANK=0)
    while (reached := socket.socket()).connect_ex(("127.0.0.1", job.port)):
        reached.close()
        time.sleep(0.02)
    reached.close()
    code, lines = end(job.start(**{"NODE_RANK": 1} | variables))
    assert (code, lines[-1]) == (2, f"error: {reason.format(port=job.port)}")
    if variables.get("NODE_RANK") != 0:
        code, lines = end(first)
        assert (code, lines[-1]) == (2, f"error: {reason}")
    assert not list(job.folder.glob("ready-*")) + list(job.folder.glob("log-*"))


def test_two_hosts_with_one_number(job):
    launchers = [job.start(NODE_RANK=rank, NODE_COUNT=3, RANK_SIZE=3) for rank in (0, 1, 1)]
    for launcher in launchers:
        code, lines = end(launcher)
        assert (code, lines[-1]) == (2, f"error: {name(1)} and {name(1)} were started with the same"
                                        " NODE_RANK: give each its own")


def test_who_is_no_host_is_sent_away(job):
    """And a host that is stopped while it waits may be started again."""
    launchers = [job.start(NODE_RANK=0, NODE_COUNT=3, RANK_SIZE=3)]
    early = job.start(NODE_RANK=1, NODE_COUNT=3, RANK_SIZE=3)
    for request in (b"GET / HTTP/1.1\r\n\r\n", b"{}\n", b"[1]\n", b"\xff" * 20_000, b""):
        while (stranger := socket.socket()).connect_ex(("127.0.0.1", job.port)):
            stranger.close()
            time.sleep(0.02)
        with stranger:
            stranger.sendall(request)
            stranger.settimeout(30)
            with contextlib.suppress(ConnectionResetError):
                assert stranger.recv(1) == b""
    assert early.stdout.readline().startswith("== waiting for ")
    early.send_signal(signal.SIGINT)
    assert early.wait(60) == 130
    launchers += [job.start(NODE_RANK=rank, NODE_COUNT=3, RANK_SIZE=3) for rank in (1, 2)]
    job.wait_for_processes(3)
    (job.folder / "end").touch()
    assert [end(launcher)[0] for launcher in launchers] == [0, 0, 0]


@pytest.mark.parametrize(("fault", "code", "message"), [
    ("sys.exit('failed: the disk is full')", 1, "process 1: failed: the disk is full"),
    ("print('error: no file', file=sys.stderr); sys.exit(2)", 2, "process 1: error: no file"),
    ("os.kill(os.getpid(), signal.SIGKILL)", 1, "failed: process 1 (pid {}) was killed by SIGKILL "
     "(out of memory?)"),
])
def test_a_process_that_fails_ends_the_other_hosts_which_say_how(job, fault, code, message):
    launchers = [job.start(NODE_RANK=rank, NODE_COUNT=3, RANK_SIZE=3) for rank in range(3)]
    pids = job.wait_for_processes(3)
    (job.folder / "new").write_text(fault)
    (job.folder / "new").rename(job.folder / "fault")
    for host, launcher in enumerate(launchers):
        found, lines = end(launcher)
        assert found == code
        if host != 1:
            assert lines[-1] == f"{name(1)}: {message.format(pids[1])}"


def test_a_launcher_that_dies_has_all_processes_stop(job):
    launchers = [job.start(NODE_RANK=rank, NODE_COUNT=3, RANK_SIZE=3) for rank in range(3)]
    job.wait_for_processes(3)
    launchers[1].kill()
    for launcher in (launchers[0], launchers[2]):
        code, lines = end(launcher)
        assert code == 1
        assert lines[-1] == (f"{name(1)}: failed: the launcher there has died; go on with --resume "
                             "auto")
        assert any("stopped at step 5" in line for line in lines)


@pytest.mark.parametrize("end", [
    [{"failed": {"name": "host 1", "message": "failed: killed"}}, {"left": True}],
    [{"left": True}]])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_host_that_has_left_has_not_died(end, at_once):
    """However its last messages and the end of the connection are read: one failure at most."""
    here, there = socket.socketpair()
    others = hosts.Hosts(launch.Job(3, 3, 2, "127.0.0.1", 1), None)
    others._links = [hosts._Link(here)]
    others._links[0].name = "host 0"
    other, found = hosts._Link(there), []
    for message in end:
        other.send(**message)
        if not at_once:
            found.append(others.poll(0.1))
    if at_once:
        other.close()
    for _ in range(3):
        found.append(others.poll(hosts.SILENT_SECONDS))
    other.close()
    found.append(others.poll(0.1))
    assert [f.name for f in found if f] == ["host 1"] * (len(end) - 1) and not others.are_there


def test_a_host_that_is_silent_ends_the_others(job):
    job.silent = 5.0
    launchers = [job.start(NODE_RANK=rank, NODE_COUNT=3, RANK_SIZE=3) for rank in range(3)]
    job.wait_for_processes(3)
    launchers[2].send_signal(signal.SIGSTOP)
    for launcher in launchers[:2]:
        code, lines = end(launcher)
        assert code == 1
        assert lines[-1] == (f"{name(2)}: failed: no sign of life for 5 s: the host hangs or is "
                             "cut off; go on with --resume auto")
