"""Run a program in several processes that train together, and end all of them when one fails.

`python -m src.launch LOG_FOLDER PROGRAM [ARGUMENT]...`, as the scripts/run_distribute scripts do;
RANK_SIZE, NODE_COUNT, NODE_RANK, MASTER_ADDR and MASTER_PORT come from the environment. MindSpore
calls this "dynamic cluster startup": a scheduler introduces the processes to each other.

MindSpore's own launcher, msrun, kills the other processes as soon as one ends, also while the first
one saves; it waits half a minute for its scheduler after that; it answers 1 to whatever happens;
and when it is killed, its processes stay.
"""

import contextlib
import ctypes
import io
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deepspeech2.errors import InputError, RunError
from deepspeech2.stopping import STOP_SIGNALS
from src.hosts import Failure, Hosts

GRACE_SECONDS = 10.0  # for the other processes to end by themselves, after one has failed
SAVING_SECONDS = 40.0  # for all processes to save and end, when a launcher has died elsewhere
STOPPED_SECONDS = 20.0  # by SIGSTOP; then a process is killed
POLL_SECONDS = 0.2
SCHEDULER = "import sys; from src.device import schedule; sys.exit(schedule(int(sys.argv[1])))"
# what a command says last; see deepspeech2/commands.py
LAST_WORDS = re.compile(
    r"^(?:(?:error|failed|\w+\.py: error): |stopped |interrupted$).*", re.MULTILINE
)
PR_SET_PDEATHSIG = 1  # of prctl(2)


@dataclass(frozen=True)
class Job:
    """Where the processes of a run are.

    Attributes:
        size: processes of all hosts together.
        hosts: number of hosts.
        host: number of this host, from 0.
        address: of the host with number 0, where the scheduler runs.
        port: of the scheduler; 0 for any free one, on a single host.
    """

    size: int
    hosts: int
    host: int
    address: str
    port: int

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> "Job":
        """The job that environment variables describe.

        Raises:
            InputError: when a value is not allowed.
        """
        size = _number(variables, "RANK_SIZE", 8, 1)
        hosts = _number(variables, "NODE_COUNT", 1, 1)
        host = _number(variables, "NODE_RANK", 0, 0, hosts - 1)
        port = _number(variables, "MASTER_PORT", 0 if hosts == 1 else 8118, hosts > 1, 65535)
        if size % hosts:
            raise InputError(f"RANK_SIZE (={size}) must be a multiple of NODE_COUNT (={hosts})")
        if hosts > 1 and not variables.get("MASTER_ADDR"):
            raise InputError("several hosts need MASTER_ADDR, the address of the first host")
        address = variables.get("MASTER_ADDR") or "127.0.0.1"
        try:
            return cls(size, hosts, host, socket.gethostbyname(address), port)
        except (OSError, UnicodeError) as error:  # UnicodeError: no name that a network can have
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"MASTER_ADDR (={address}): {reason}") from None

    @property
    def ranks(self) -> range:
        """The numbers of the processes on this host."""
        count = self.size // self.hosts
        return range(self.host * count, (self.host + 1) * count)

    @property
    def patience(self) -> int:
        """Seconds within which all processes must have met."""
        return 120 if self.hosts == 1 else 600


def _number(
    variables: Mapping[str, str], name: str, default: int, minimum: int, maximum: int | None = None
) -> int:
    text = variables.get(name) or str(default)
    fits = text.isascii() and text.isdigit() and int(text) >= minimum
    if not fits or (maximum is not None and int(text) > maximum):
        limits = f"from {minimum:d}" + ("" if maximum is None else f" to {maximum}")
        raise InputError(f"{name} (={text}) must be a whole number {limits}")
    return int(text)


def _reserved_port(job: Job) -> socket.socket:
    """A socket that keeps the port of the scheduler."""
    result = socket.socket()
    # connections of the job before, on the same port, may still be fading away
    result.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        result.bind(("", job.port))
    except PermissionError:
        raise InputError(
            f"MASTER_PORT (={job.port}) is kept for the system here: choose one from 1024 on"
        ) from None
    except OSError:
        raise InputError(f"MASTER_PORT={job.port} is in use here: choose another") from None
    return result


def _new_folder(path: Path) -> Path:
    """Make a folder `path`, or, where it exists, `path-2` and so on; returns what was made."""
    others = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    for folder in itertools.chain([path], others):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder


def _follow(parent: int) -> None:
    """Have the kernel send SIGTERM to this process when its parent dies, of whatever."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


class _Process:
    """A process of the job in a session of its own, which its own child processes share.

    It gets SIGTERM when the launcher dies, of whatever: training saves and ends then.

    Args:
        name: how messages call it.
        command: arguments of Python.
        variables: of its environment, beside those of this process.
        log: path of its output.

    Attributes:
        name: how messages call it.
        log: path of its output.
        code: its exit code, below zero for a signal; None while it runs.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        variables: dict[str, str],
        log: Path,
        **how,
    ):
        self.name, self.log, self.code = name, log, None
        self._stopped_seconds = 0.0
        launcher = os.getpid()
        with open(log, "wb") as output:
            self._popen = subprocess.Popen(
                [sys.executable, *command],
                env=os.environ | variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: _follow(launcher),
                **how,
            )
        self.pid = self._popen.pid

    def poll(self) -> bool:
        """Whether the process has ended; its own child processes end then."""
        if self.code is None and os.waitid(
            os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT
        ):
            self.send(signal.SIGKILL, to_all=True)  # while the zombie keeps the number taken
            self.code = self._popen.wait()
        return self.code is not None

    def is_stopped(self) -> bool:
        """Whether a signal has stopped the process for `STOPPED_SECONDS`; call it at each poll.

        Polls are counted, not seconds: a batch system may stop the launcher and all processes.
        Once true, it stays so: a process that is killed runs while it dies.
        """
        if self._stopped_seconds >= STOPPED_SECONDS:
            return True
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:  # not Linux
            return False
        self._stopped_seconds = self._stopped_seconds + POLL_SECONDS if state == "T" else 0.0
        return self._stopped_seconds >= STOPPED_SECONDS

    def send(self, number: int, to_all: bool = False) -> None:
        """Send a signal to the process, or to all processes of its session too."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if to_all else os.kill)(self.pid, number)

    def last_words(self) -> str:
        """Why the process says that it ended; '' where it says nothing."""
        found = LAST_WORDS.findall(self.log.read_text("utf-8", errors="replace"))
        return found[-1] if found else ""

    def last_lines(self) -> list[str]:
        """The last lines of the log."""
        return self.log.read_text("utf-8", errors="replace").splitlines()[-20:]

    def end(self) -> str:
        """Which process this is, and how it ended."""
        process = f"{self.name} (pid {self.pid})"
        if self.code >= 0:
            return f"{process} ended with exit code {self.code}"
        if self._stopped_seconds >= STOPPED_SECONDS:
            return f"{process} was stopped by SIGSTOP, and killed after {STOPPED_SECONDS:.0f} s"
        hint = " (out of memory?)" if self.code == -signal.SIGKILL else ""
        return f"{process} was killed by {signal.Signals(-self.code).name}{hint}"


class Launcher:
    """Starts the processes of a job on this host, and waits for their end.

    Args:
        job: where the processes are.
        folder: for the logs of the single processes; what is printed also goes to FOLDER.log. A
            job that finds the folder there takes FOLDER-2, and so on.

    Raises:
        InputError: when the port cannot be used, or the hosts were started differently.
        RunError: when a host does not come.
        OSError: when the logs cannot be written.
    """

    def __init__(self, job: Job, folder: Path):
        self.job = job
        self.workers: list[_Process] = []
        self.scheduler: _Process | None = None
        # by themselves, in the order of their ends; another host fails as a process of its own
        self.failed: list[_Process | Failure] = []
        self.asked_to_stop = 0  # the first signal that was received
        self._deadline = float("inf")  # then all is killed
        self._port = _reserved_port(job) if job.host == 0 else None
        self.hosts = Hosts(job, self._port)
        self.hosts.meet()
        self.folder = _new_folder(folder)
        self._log = open(f"{self.folder}.log", "w", encoding="utf-8")  # noqa: SIM115

    def run(self, command: list[str]) -> int:
        """Run a Python program in all processes; returns the exit code of the job."""
        self._say(f"== log file: {Path(self._log.name).absolute()}")
        self._say(f"== logs of the single processes: {self.folder.absolute()}")
        try:
            self._start(command)
            for number in STOP_SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, self._forward)
            self._wait()
        finally:
            self._kill()
            self.hosts.close()
        return self._report()

    def _start(self, command: list[str]) -> None:
        job = self.job
        common = {
            "MS_WORKER_NUM": str(job.size),
            "RANK_SIZE": str(job.size),
            "MS_SCHED_HOST": job.address,
            "MS_SCHED_PORT": str(self._port.getsockname()[1] if self._port else job.port),
            "MS_TOPO_TIMEOUT": str(job.patience),
            "PYTHONUNBUFFERED": "1",
        }
        if self._port:
            # the port stays taken until the scheduler has imported MindSpore and wants it
            descriptor = self._port.fileno()
            self.scheduler = _Process(
                "the scheduler", ["-c", SCHEDULER, str(descriptor)],
                common | {"MS_ROLE": "MS_SCHED"},
                self.folder / "scheduler.log", pass_fds=[descriptor],
            )
            self._port.close()
        for device, rank in enumerate(job.ranks):
            own = {"MS_ROLE": "MS_WORKER", "MS_NODE_ID": str(rank), "RANK_ID": str(rank)}
            self.workers.append(_Process(
                f"process {rank}", command, common | own | {"DEVICE_ID": str(device)},
                self.folder / f"worker_{rank}.log",
            ))

    def _wait(self) -> None:
        """Wait until all processes have ended; after a failure, not for long."""
        killed = False
        first = self.workers[0].log
        with open(first, encoding="utf-8", errors="replace", newline="") as shown:
            while not self._ended(note=not killed):
                self._say(shown.read(), end="")
                if time.monotonic() > self._deadline:
                    self._kill()
                    killed = True
                time.sleep(POLL_SECONDS)
            self._say(shown.read(), end="")

    def _note(self, failed: "_Process | Failure") -> None:
        """Note what has failed; after the first, all others are told and have a while to end."""
        self.failed.append(failed)
        if len(self.failed) > 1:
            return
        self._deadline = time.monotonic() + GRACE_SECONDS
        if isinstance(failed, Failure):
            if failed.goes_on:
                self._deadline = time.monotonic() + SAVING_SECONDS
                self._tell_workers(signal.SIGTERM)
            return
        said = failed.last_words()
        message = f"{failed.name}: {said}" if said else f"failed: {failed.end()}"
        self.hosts.tell_failure(message, max(failed.code, 1))
        if failed is self.scheduler:  # the workers can go on for a while
            self._tell_workers(signal.SIGTERM)

    def _kill(self) -> None:
        for process in self._running():
            process.send(signal.SIGKILL, to_all=True)

    def _ended(self, note: bool) -> bool:
        """Whether all is over here; `note` the processes that failed since the last call."""
        good = {0, -self.asked_to_stop, *(128 + number for number in STOP_SIGNALS)}
        for process in self._running():
            if process.poll():
                if note and process.code not in good:
                    self._note(process)
            elif process.is_stopped():
                process.send(signal.SIGKILL, to_all=True)
        elsewhere = self.hosts.poll(POLL_SECONDS)
        if elsewhere and note:
            self._note(elsewhere)
        # the other hosts need the scheduler until they end
        needed = self.scheduler and self.hosts.are_there and not self.failed
        return not needed and all(worker.code is not None for worker in self.workers)

    def _report(self) -> int:
        """Say how the job ended, the cause last. Returns the exit code."""
        # a scheduler that has lost a worker fails too, and says less about it
        first = self.failed[:1]
        failed = first + [process for process in self.failed[1:] if process is not self.scheduler]
        ended = failed or [worker for worker in self.workers if worker.code]
        words = {process: process.last_words() for process in ended}
        for process in first:
            if not words[process]:  # never of another host
                self._say(f"== the end of {process.log}:", *process.last_lines(), sep="\n")
        code = self._exit_code()
        self._say(f"== exit code {code}, log file: {Path(self._log.name).absolute()}")
        for message in reversed(list(dict.fromkeys(words.values()))):
            known = dict.fromkeys((*self.workers, self.scheduler, *words))
            processes = [process for process in known if words.get(process) == message]
            if message:
                self._say(f"{', '.join(process.name for process in processes)}: {message}")
            else:
                self._say("failed: " + ", ".join(process.end() for process in processes)
                          + "; go on with --resume auto")
        return code

    def _exit_code(self) -> int:
        if self.failed:
            return max(self.failed[0].code, 1)
        stopped = [worker.code for worker in self.workers if worker.code]
        return 128 + abs(stopped[0]) % 128 if stopped else 0

    def _running(self) -> list[_Process]:
        known = [*self.workers, *([self.scheduler] if self.scheduler else [])]
        return [process for process in known if process.code is None]

    def _forward(self, number: int, _frame) -> None:
        self.asked_to_stop = self.asked_to_stop or number
        self._tell_workers(number)

    def _tell_workers(self, number: int) -> None:
        for worker in self.workers:
            if worker.code is None:
                worker.send(number)

    def _say(self, *text: str, **how) -> None:
        """Print to the log file and to stdout; a full disk or a closed pipe ends no job."""
        with contextlib.suppress(OSError):
            print(*text, file=self._log, flush=True, **how)
        try:
            print(*text, flush=True, **how)
        except OSError:
            sys.stdout = None  # nobody reads it any more


def main(arguments: list[str]) -> int:
    """Launch the job that environment variables describe; returns the exit code."""
    folder, *command = arguments
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where it is ignored, no exit code is kept
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return Launcher(Job.read(os.environ), Path(folder)).run(command)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # while the hosts meet
        print("interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"error: cannot write to {folder}: {error.strerror}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
