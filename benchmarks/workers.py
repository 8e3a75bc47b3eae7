"""One process for each framework; a pipe tells it what to run.

Two frameworks in one process would share and disturb each other's thread pools. Here one process
works at a time: it answers when its threads have stopped spinning, and sleeps until the next call.
"""

import contextlib
import importlib
import os
import re
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from deepspeech2.errors import RunError
from deepspeech2.features import SpectConfig
from deepspeech2.labels import Labels
from src.dataset import Batch

ROOT = Path(__file__).resolve().parents[1]
OURS, TORCH = "ours", "PyTorch"
TURN_SECONDS = 0.3  # shorter work is repeated within its turn, so that waking up does not count
MAX_REPEATS = 20
IDLE_SHARE = 0.02  # of a core; below it all threads of a process count as asleep
IDLE_PATIENCE = 10.0  # seconds to wait for that


class WorkerError(RunError):
    """A call failed in a worker; the message ends with the worker's traceback, or says it died."""


class Worker:
    """A process that holds the `Side` of PyTorch (`benchmarks.pytorch`) or ours (`benchmarks.ours`).

    Args:
        side: the name in results; every other name than PyTorch stands for a model of ours.
    """

    def __init__(self, side: str):
        self.side = side
        self._connection, theirs = Pipe()
        module = "pytorch" if side == TORCH else "ours"
        command = [sys.executable, "-m", "benchmarks.workers", module, str(theirs.fileno())]
        with theirs:  # what a framework prints is no result; its errors go to the terminal
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], cwd=ROOT, env=os.environ | {"GLOG_v": "3"},
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def call(self, method: str, **arguments: Any) -> Any:
        """What one call of the method returns. Raises WorkerError."""
        return self.time(method, least=0.0, **arguments)[1]

    def time(self, method: str, least: float = TURN_SECONDS, **arguments: Any,
             ) -> tuple[list[float], Any]:
        """The seconds of each call, repeated for `least` seconds, and what the last call returned.

        Raises:
            WorkerError: when the call fails or the process dies.
        """
        try:
            self._connection.send((method, arguments, least))
            succeeded, result = self._connection.recv()
        except (EOFError, OSError):
            code = self._process.wait()
            raise WorkerError(f"the {self.side} process died with exit code {code}") from None
        if not succeeded:
            raise WorkerError(f"{method} failed in the {self.side} process:\n{result}")
        return result

    def turn(self, method: str, **arguments: Any) -> Callable[[], float]:
        """A function that times the method and returns its median seconds."""
        return lambda: statistics.median(self.time(method, **arguments)[0])

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def workers(*sides: str) -> Iterator[dict[str, Worker]]:
    """{side: its worker}; the processes end with the block."""
    with contextlib.ExitStack() as stack:
        started = {}
        for side in sides:
            started[side] = Worker(side)
            stack.callback(started[side].close)
        yield started


class FrameworkSide:
    """What both frameworks do alike. A module's `Side` adds what `benchmarks.sections` calls."""

    def __init__(self):
        self.labels, self.spect = Labels.load(ROOT / "labels.json"), SpectConfig()
        self.config = self.network = self.batch = None

    def set_batch(self, batch: Batch) -> None:
        """The batch that `train` and `predict` work on."""
        self.batch = batch

    def train(self) -> tuple[float, float]:
        """Loss and gradient norm of a step. Its rate 0 costs the same and keeps the weights equal."""
        return self.step(self.batch, 0.0)

    def epoch(self, limit: int | None) -> dict:
        """Train for one epoch, loading included, or for its first `limit` batches."""
        started = time.perf_counter()
        utterances = frames = padded = 0
        losses = []
        for batch in self.epoch_batches(limit):
            losses.append(self.step(batch, self.config.OptimConfig.learning_rate)[0])
            n, _, _, t = batch.inputs.shape
            utterances, padded = utterances + n, padded + n * t
            frames += int(batch.input_length.sum())
        return {"seconds": time.perf_counter() - started, "batches": len(losses),
                "utterances": utterances, "frames": frames, "padded_frames": padded,
                "mean_loss": statistics.mean(losses)}

    def features(self, paths: list[str]) -> float:
        """CPU seconds for the spectrograms of all files."""
        started = time.process_time()
        for path in paths:
            self.feature(path)
        return time.process_time() - started

    def peak_memory(self) -> float:
        """GiB of this process at its largest.

        Not `getrusage`: its figure starts with the memory of the process that forked this one.
        """
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 2**20


def timed(function: Callable[[], Any], least: float = TURN_SECONDS) -> tuple[list[float], Any]:
    """Call `function` until `least` seconds are over: the seconds of each call, the last result."""
    seconds, result = [], None
    while not seconds or (sum(seconds) < least and len(seconds) < MAX_REPEATS):
        started = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - started)
    return seconds, result


def wait_until_idle() -> None:
    """Return when no thread of this process works. Raises RunError when one never stops."""
    ends = time.monotonic() + IDLE_PATIENCE
    share = 1.0
    while share > IDLE_SHARE:
        if time.monotonic() > ends:
            raise RunError(f"threads still use {share:.0%} of a core after the work is done")
        before, started = time.process_time(), time.monotonic()
        time.sleep(0.1)
        share = (time.process_time() - before) / (time.monotonic() - started)


def serve(module: str, connection: Connection) -> None:
    """Run in the worker: do what is asked for until the other end of the pipe is closed."""
    side = importlib.import_module(f"benchmarks.{module}").Side()
    while True:
        try:
            method, arguments, least = connection.recv()
        except (EOFError, OSError):
            return
        try:
            result = timed(partial(getattr(side, method), **arguments), least)
            wait_until_idle()
            answer = True, result
        except Exception:
            answer = False, traceback.format_exc()
        connection.send(answer)


if __name__ == "__main__":
    serve(sys.argv[1], Connection(int(sys.argv[2])))
