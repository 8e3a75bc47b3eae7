"""One process for each framework, and what both frameworks do alike in theirs.

Two frameworks in one process would share and disturb each other's thread pools. Here one process
works at a time: it answers when its threads have stopped spinning, and sleeps until the next call.
"""

import contextlib
import ctypes
import importlib
import os
import re
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from deepspeech2.features import SpectConfig
from deepspeech2.labels import Labels
from src.dataset import Batch

ROOT = Path(__file__).resolve().parents[1]
OURS, TORCH, GROWTH = "ours", "PyTorch", "growth"
MODULES = {TORCH: "pytorch", GROWTH: "growth_side"}
TURN_SECONDS = 0.3  # shorter work is repeated within its turn, so that waking up does not count

_side = None  # in a worker: the object whose methods are called


class Worker(ProcessPoolExecutor):
    """A process with the `Side` of a module: `MODULES`, or `benchmarks.ours` for other names."""

    def __init__(self, side: str):
        super().__init__(1, get_context("spawn"), _start, (MODULES.get(side, "ours"),))

    def time(self, method: str, least: float = 0.0, **arguments: Any) -> tuple[float, Any]:
        """The median seconds and the last result of calling the method, as `timed` calls it."""
        return self.submit(_time, method, least, arguments).result()

    def call(self, method: str, **arguments: Any) -> Any:
        """What one call of the method returns; its exception is raised here."""
        return self.time(method, **arguments)[1]

    def turn(self, method: str, **arguments: Any) -> Callable[[], float]:
        """A function that times the method and returns its median seconds."""
        return lambda: self.time(method, TURN_SECONDS, **arguments)[0]


@contextlib.contextmanager
def workers(*sides: str) -> Iterator[dict[str, Worker]]:
    """{side: its worker}; the processes end with the block."""
    with contextlib.ExitStack() as stack:
        yield {side: stack.enter_context(Worker(side)) for side in sides}


def _start(module: str) -> None:
    global _side
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with a killed benchmark
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a framework prints is no result
    _side = importlib.import_module(f"benchmarks.{module}").Side()


def _time(method: str, least: float, arguments: dict) -> tuple[float, Any]:
    seconds, result = timed(partial(getattr(_side, method), **arguments), least)
    wait_until_idle()
    return statistics.median(seconds), result


def timed(function: Callable[[], Any], least: float = TURN_SECONDS) -> tuple[list[float], Any]:
    """Call `function` until `least` seconds are over: the seconds of each call, the last result."""
    seconds, result = [], None
    while not seconds or sum(seconds) < least:
        started = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - started)
    return seconds, result


def wait_until_idle() -> None:
    """Return when the threads of this process use less than 2 % of a core."""
    before = -1.0
    while time.process_time() - before > 0.002:
        before = time.process_time()
        time.sleep(0.1)


class FrameworkSide:
    """What both frameworks do alike. A `Side` adds what `benchmarks.sections` calls besides.

    `build(config)` makes the network and what a training step needs, `step` takes one, from arrays
    to the loss and the gradient norm before clipping. A checkpoint holds the network and the
    optimizer's state. `load_model(path)` reads a stored network, with which `predict` returns the
    batch's (N, T', C) probabilities and (N,) lengths.
    """

    def __init__(self):
        self.labels, self.spect = Labels.load(ROOT / "labels.json"), SpectConfig()

    def set_batch(self, batch: Batch) -> None:
        """The batch of `train` and `predict`, longest utterance first."""
        self.batch = batch

    def train(self) -> tuple[float, float]:
        """Loss and gradient norm of a step at rate 0: it costs the same and keeps the weights."""
        return self.step(self.batch, 0.0)

    def epoch(self) -> dict:
        """Train for one epoch, loading included."""
        started = time.perf_counter()
        utterances = frames = padded = 0
        losses = []
        for batch in self.epoch_batches():
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
