"""Jobs of several real processes, here small programs: how a job ends, and what is said."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, heed_signals

from deepspeech2.errors import InputError
from src import launch
from src.launch import Job

# shorter waits than those of users
LAUNCH = """
import sys
from src import launch
launch.GRACE_SECONDS, launch.STOPPED_SECONDS, launch.POLL_SECONDS = {grace}, {stopped}, 0.02
sys.exit(launch.main(sys.argv[1:]))
"""
# what the programs have in common: process 0 waits for the end of the test
PROGRAM = """
import os, signal, subprocess, sys, time
rank = int(os.environ["RANK_ID"])
assert os.environ["MS_ROLE"] == "MS_WORKER" and os.environ["RANK_SIZE"] == "2"
def ready(name=str(rank)):
    with open(f"new-{name}", "w") as file:
        file.write(str(os.getpid()))
    os.rename(f"new-{name}", f"ready-{name}")
"""
FOREVER = "time.sleep(600)\n"
TOLD = """
def stop(number, frame):
    open(f"told-{rank}", "w")
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, stop)
ready()
"""


@pytest.fixture
def start(tmp_path):
    """Starts two processes that run PROGRAM and the given code, in an empty folder."""
    started = []

    def begin(code: str, grace: float = 30.0, stopped: float = 0.5) -> subprocess.Popen:
        launcher = LAUNCH.format(grace=grace, stopped=stopped)
        program = tmp_path / "program.py"
        program.write_text(PROGRAM + code)
        process = subprocess.Popen(
            [sys.executable, "-c", launcher, str(tmp_path / "log"), str(program)], cwd=tmp_path,
            env=os.environ | {"RANK_SIZE": "2", "PYTHONPATH": str(ROOT)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=heed_signals)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def end(process: subprocess.Popen, folder: Path) -> tuple[int, list[str]]:
    """Exit code and last lines of a job, after making sure that none of its processes is left."""
    output, _ = process.communicate(timeout=60)
    for path in folder.glob("ready-*"):
        wait_for(lambda path=path: not is_alive(int(path.read_text())))
    return process.returncode, output.splitlines()


def state(pid: int) -> str:
    """The letter that proc(5) gives the state of a process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def is_alive(pid: int) -> bool:
    try:
        return state(pid) != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(("variables", "message"), [
    ({"RANK_SIZE": "many"}, "RANK_SIZE (=many) must be a whole number from 1"),
    ({"RANK_SIZE": "0"}, "RANK_SIZE (=0) must be a whole number from 1"),
    ({"MASTER_PORT": "99999"}, "MASTER_PORT (=99999) must be a whole number from 0 to 65535"),
    ({"RANK_SIZE": "3", "NODE_COUNT": "2"}, "RANK_SIZE (=3) must be a multiple of NODE_COUNT (=2)"),
    ({"NODE_COUNT": "2", "NODE_RANK": "2"}, "NODE_RANK (=2) must be a whole number from 0 to 1"),
    ({"NODE_COUNT": "2"}, "several hosts need MASTER_ADDR, the address of the first host"),
    ({"MASTER_ADDR": "no such host"}, r"MASTER_ADDR (=no such host): "),
    ({"MASTER_ADDR": "node1..cluster"}, r"MASTER_ADDR (=node1..cluster): "),
])
def test_variables_are_checked(variables, message):
    with pytest.raises(InputError) as caught:
        Job.read(variables)
    assert str(caught.value).startswith(message)


def test_the_processes_of_a_host():
    job = Job.read({"RANK_SIZE": "08", "NODE_COUNT": "2", "NODE_RANK": "1",
                    "MASTER_ADDR": "127.0.0.1"})
    assert (job.size, list(job.ranks), job.port) == (8, [4, 5, 6, 7], 8118)
    assert Job.read({}) == Job(8, 1, 0, "127.0.0.1", 0)


def test_a_job_that_ends_well_shows_the_first_process(start, tmp_path):
    code, lines = end(start("print('rank', rank, 'ü')"), tmp_path)
    assert code == 0
    assert lines[2:] == ["rank 0 ü", f"== exit code 0, log file: {tmp_path}/log.log"]
    assert (tmp_path / "log.log").read_text().splitlines() == lines
    assert (tmp_path / "log" / "worker_1.log").read_text() == "rank 1 ü\n"


def test_jobs_of_one_name_have_logs_of_their_own(start, tmp_path):
    for name in ("log", "log-2", "log-3"):
        code, lines = end(start("print('rank', rank)"), tmp_path)
        assert code == 0
        assert lines[0] == f"== log file: {tmp_path}/{name}.log"
        assert (tmp_path / f"{name}.log").read_text().splitlines() == lines
        assert (tmp_path / name / "worker_1.log").read_text() == "rank 1\n"


@pytest.mark.parametrize(("fault", "last"), [
    ("os.kill(os.getpid(), signal.SIGKILL)", "failed: process 1 (pid {}) was killed by SIGKILL (out"
     " of memory?); go on with --resume auto"),
    ("os.kill(os.getpid(), signal.SIGSTOP)", "failed: process 1 (pid {}) was stopped by SIGSTOP, "
     "and killed after 0 s; go on with --resume auto"),
    ("raise KeyError", "failed: process 1 (pid {}) ended with exit code 1; go on with "
     "--resume auto"),
    ("sys.exit('\\rfailed: the disk is full')", "process 1: failed: the disk is full"),
])
def test_a_process_that_fails_ends_the_job_which_says_how(start, tmp_path, fault, last):
    """Its own child processes, and a process that waits for ever, end too."""
    process = start(f"""
if rank and os.fork() == 0:
    ready("child")
    time.sleep(600)
ready()
if rank:
    while not os.path.exists("ready-child"):
        time.sleep(0.02)
    {fault}
{FOREVER}""", grace=1.0)
    code, lines = end(process, tmp_path)
    assert code == 1
    assert lines[-1] == last.format((tmp_path / "ready-1").read_text())
    assert ("KeyError" in "".join(lines[:-2])) == ("KeyError" in fault)


def test_a_stopped_process_that_takes_its_time_to_die_is_called_stopped(tmp_path, monkeypatch):
    """A killed process runs once more, to free its memory."""
    monkeypatch.setattr(launch, "STOPPED_SECONDS", 0.1)
    process = launch._Process("process 0", ["-c", f"import time; {FOREVER}"], {}, tmp_path / "log")
    process.send(signal.SIGSTOP)
    wait_for(process.is_stopped)
    process.send(signal.SIGCONT)
    wait_for(lambda: state(process.pid) != "T")
    process.is_stopped()
    process.send(signal.SIGKILL)
    wait_for(process.poll)
    assert "was stopped by SIGSTOP, and killed after" in process.end()


def test_a_job_that_is_stopped_as_a_whole_goes_on(start, tmp_path):
    process = start("ready()\nwhile not os.path.exists('end'): time.sleep(0.02)\n", stopped=3.0)
    wait_for(lambda: len(list(tmp_path.glob("ready-*"))) == 2)
    pids = [process.pid, *(int(path.read_text()) for path in tmp_path.glob("ready-*"))]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(3.5)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.05)  # the launcher runs a while before the others
    (tmp_path / "end").touch()
    assert end(process, tmp_path)[0] == 0


def test_a_job_whose_output_nobody_reads_goes_on(start, tmp_path):
    process = start("ready()\nwhile not os.path.exists('end'): time.sleep(0.02)\nprint('done')")
    assert process.stdout.readline().startswith("== log file: ")
    process.stdout.close()
    (tmp_path / "end").touch()
    assert process.wait(60) == 0
    assert "\ndone\n== exit code 0" in (tmp_path / "log.log").read_text()


@pytest.mark.parametrize(("words", "code"), [
    ("error: no such file", 2), ("interrupted", 130), ("stopped by SIGTERM", 143)])
def test_what_all_processes_say_is_said_once(start, tmp_path, words, code):
    found, lines = end(start(f"time.sleep(0.5 - rank / 2); print('{words}', file=sys.stderr); "
                             f"sys.exit({code})"), tmp_path)
    assert found == code
    assert lines[-2:] == [f"== exit code {code}, log file: {tmp_path}/log.log",
                          f"process 0, process 1: {words}"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_may_save_after_the_others_have_stopped(start, tmp_path, number):
    """msrun kills the processes that are left as soon as one has ended."""
    process = start("""
def stop(number, frame):
    if rank == 0:
        time.sleep(2)  # longer than the grace
        open("saved", "w")
    print("stopped at step 5", file=sys.stderr)
    sys.exit(128 + number)
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, stop)
ready()
""" + FOREVER, grace=1.0)
    wait_for(lambda: len(list(tmp_path.glob("ready-*"))) == 2)
    process.send_signal(number)
    code, lines = end(process, tmp_path)
    assert code == 128 + number
    assert lines[-1] == "process 0, process 1: stopped at step 5"
    assert (tmp_path / "saved").exists()


def test_the_processes_may_save_when_the_scheduler_dies(start, tmp_path):
    process = start(TOLD + FOREVER)
    wait_for(lambda: len(list(tmp_path.glob("ready-*"))) == 2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (scheduler,) = {*children} - {path.read_text() for path in tmp_path.glob("ready-*")}
    os.kill(int(scheduler), signal.SIGKILL)
    code, lines = end(process, tmp_path)
    assert code == 1
    assert lines[-1].startswith(f"failed: the scheduler (pid {scheduler}) was killed by SIGKILL")
    assert {path.name for path in tmp_path.glob("told-*")} == {"told-0", "told-1"}


def test_no_process_survives_its_launcher(start, tmp_path):
    process = start(TOLD + FOREVER)
    wait_for(lambda: len(list(tmp_path.glob("ready-*"))) == 2)
    process.kill()
    end(process, tmp_path)
    assert {path.name for path in tmp_path.glob("told-*")} == {"told-0", "told-1"}
