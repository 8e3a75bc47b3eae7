"""One process for each framework, and what both frameworks do alike in theirs.

Two frameworks in one process would share and disturb each other's thread pools. Here one process
works at a time: it answers when its threads have stopped spinning, and sleeps until the next call.
"""

import contextlib
import importlib
import os
import re
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context, parent_process
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

_side = None  # in a worker: the object whose methods are called


class Worker:
    """A process with the `Side` of `benchmarks.pytorch`; of `benchmarks.ours` for other names."""

    def __init__(self, side: str):
        module = "pytorch" if side == TORCH else "ours"
        self.pool = ProcessPoolExecutor(1, get_context("spawn"), _start, (module,))

    def call(self, method: str, **arguments: Any) -> Any:
        """What one call of the method returns; its exception is raised here."""
        return self.time(method, least=0.0, **arguments)[1]

    def time(self, method: str, least: float = TURN_SECONDS, **arguments: Any,
             ) -> tuple[list[float], Any]:
        """As `timed`, for a method in the process."""
        return self.pool.submit(_time, method, least, arguments).result()

    def turn(self, method: str, **arguments: Any) -> Callable[[], float]:
        """A function that times the method and returns its median seconds."""
        return lambda: statistics.median(self.time(method, **arguments)[0])


@contextlib.contextmanager
def workers(*sides: str) -> Iterator[dict[str, Worker]]:
    """{side: its worker}; the processes end with the block."""
    with contextlib.ExitStack() as stack:
        started = {side: Worker(side) for side in sides}
        for worker in started.values():
            stack.enter_context(worker.pool)
        yield started


def _start(module: str) -> None:
    global _side
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a framework prints is no result
    _side = importlib.import_module(f"benchmarks.{module}").Side()


def _end_with_parent() -> None:
    """An executor's process would outlive a benchmark that was killed."""
    parent_process().join()
    os._exit(1)


def _time(method: str, least: float, arguments: dict) -> tuple[list[float], Any]:
    result = timed(partial(getattr(_side, method), **arguments), least)
    wait_until_idle()
    return result


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


class FrameworkSide:
    """What both frameworks do alike. A `Side` adds the methods that `benchmarks.sections` calls."""

    def __init__(self):
        self.labels, self.spect = Labels.load(ROOT / "labels.json"), SpectConfig()
        self.config = self.network = self.batch = None
        self.models = {}  # by their paths

    def set_batch(self, batch: Batch) -> None:
        """The batch that `train` and `predict` work on."""
        self.batch = batch

    def train(self) -> tuple[float, float]:
        """Loss and gradient norm of a step at rate 0: it costs the same and keeps the weights."""
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
        """GiB of this process at its largest. The figure of `getrusage` includes the parent's."""
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 2**20
