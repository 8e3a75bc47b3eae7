"""One long-lived process for each thing that is measured, told what to run through a pipe.

Two frameworks in one process would share and disturb each other's thread pools. Here only one process works at a time;
the others block in `recv`, and `wait_until_idle` lets threads that still spin for work fall asleep first.
"""

import contextlib
import importlib
import os
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
IDLE_SHARE = 0.02           # of a core, below which a waiting process counts as asleep
IDLE_PATIENCE = 3.0         # seconds to wait for it
_TICKS = os.sysconf("SC_CLK_TCK")


class WorkerError(RuntimeError):
    """What a worker was told to do failed; the message is its traceback, or that it died."""

    def reason(self) -> str:
        """Its last line without the folders that it names: a report tells nothing of those."""
        return re.sub(r"(/[^/\s]+)+/", "", str(self).strip().splitlines()[-1])


class Worker:
    """A process with an object `Side` of one module of this package: `worker.call("predict", repeats=1)`.

    Args:
        side: what it is called in results.
        module: of this package; only the process imports it.
        variables: more of its environment.
    """

    def __init__(self, side: str, module: str, variables: Mapping[str, str] | None = None):
        self.side = side
        self._connection, theirs = Pipe()
        with theirs:
            command = [sys.executable, "-m", "benchmarks.workers", module, str(theirs.fileno())]
            environment = os.environ | {"GLOG_v": "3"} | (variables or {})
            # what a framework prints belongs to nobody's result; its errors go to the terminal
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=ROOT, env=environment,
                                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def call(self, name: str, **arguments: Any) -> Any:
        """Call method `name` of the process's `Side` and return what it returns. Raises WorkerError."""
        try:
            self._connection.send((name, arguments))
            succeeded, result = self._connection.recv()
        except (EOFError, OSError):
            raise WorkerError(f"the {self.side} process died with exit code {self._process.wait()}") from None
        if not succeeded:
            raise WorkerError(f"{name} failed in the {self.side} process:\n{result}")
        return result

    def cpu_seconds(self) -> float:
        """CPU time of all its threads so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS      # utime and stime

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def workers(modules: Mapping[str, str], variables: Mapping[str, str] | None = None) -> Iterator[dict[str, Worker]]:
    """{side: Worker} for each {side: module}; all end with the block."""
    with contextlib.ExitStack() as stack:
        started = {}
        for side, module in modules.items():
            started[side] = Worker(side, module, variables)
            stack.callback(started[side].close)
        yield started


def wait_until_idle(waiting: list[Worker]) -> float:
    """Return when no process in `waiting` uses the processor; the share of a core that they used last."""
    ends = time.monotonic() + IDLE_PATIENCE
    while True:
        before, started = sum(worker.cpu_seconds() for worker in waiting), time.monotonic()
        time.sleep(0.1)
        share = (sum(worker.cpu_seconds() for worker in waiting) - before) / (time.monotonic() - started)
        if share <= IDLE_SHARE or time.monotonic() > ends:
            return share


def serve(module_name: str, connection: Connection) -> None:
    """The process's side: run what is asked for until the other end is closed."""
    side = importlib.import_module(f"benchmarks.{module_name}").Side()
    while True:
        try:
            name, arguments = connection.recv()
        except (EOFError, OSError):
            return
        try:
            answer = True, getattr(side, name)(**arguments)
        except (Exception, SystemExit):      # a command may end in sys.exit
            answer = False, traceback.format_exc()
        connection.send(answer)


if __name__ == "__main__":
    serve(sys.argv[1], Connection(int(sys.argv[2])))
