"""Where shards are recognised: processes of this machine, or the workers of a dask cluster."""

import contextlib
import logging
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, TypeVar

from deepspeech2.cores import use_one_core
from deepspeech2.errors import InputError, RunError

logger = logging.getLogger(__name__)

T = TypeVar("T")

_ANSWER = 10.0  # seconds in which a scheduler must answer
_PATIENCE = 10.0  # seconds between looks whether the workers of a call are still there
_NO_WORKERS = 600.0  # seconds without workers that end a job: a queue may take its time


class WorkerDied(Exception):
    """The process that worked on a call has ended."""


_CLOSED = RunError("the work was stopped")


class Engine(Protocol):
    """Runs functions elsewhere.

    Attributes:
        capacity: how many calls to make at once, each from a thread of its own.
    """

    capacity: int

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """What a function returns or raises; blocks.

        Raises:
            WorkerDied: when its process has ended.
            RunError: when there is nothing that could run it.
        """

    def close(self) -> None:
        """End the calls that are under way."""


class Processes:
    """Processes of this machine. One that ends takes no other with it, and is replaced.

    Args:
        count: how many. Several have one thread each, and the system divides the cores among
            them, as it must where several commands share a machine.
    """

    def __init__(self, count: int):
        self.capacity = count
        self._closed = False
        self._all = [_Process(one_core=count > 1) for _ in range(count)]
        self._free: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        for process in self._all:
            self._free.put(process)

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """See `Engine.run`."""
        process = self._free.get()
        try:
            if self._closed:
                raise _CLOSED
            return process.run(function, *args)
        except WorkerDied:
            if self._closed:
                raise _CLOSED from None
            raise
        finally:
            self._free.put(process)

    def close(self) -> None:
        """See `Engine.close`."""
        self._closed = True
        for process in self._all:
            process.kill()


class _Process:
    """A process that is begun when it is needed.

    Args:
        one_core: whether it uses one core only.
    """

    def __init__(self, one_core: bool):
        self._one_core = one_core
        self._process: multiprocessing.Process | None = None
        self._pipe: Connection | None = None

    def run(self, function: Callable[..., T], *args: Any) -> T:
        if self._process is None or not self._process.is_alive():
            self._begin()
        try:
            self._pipe.send((function, args))
            succeeded, result = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            raise WorkerDied(f"exit code {self._process.exitcode}") from None
        if succeeded:
            return result
        raise result

    def _begin(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, self._one_core), daemon=True)
        self._process.start()
        theirs.close()  # so that `recv` ends when the process does

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()


def _work(pipe: Connection, one_core: bool) -> None:
    """Run functions until the other end of the pipe, or the process that has it, is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that began this one
    if one_core:
        use_one_core()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):  # of the pipe
        while True:
            function, args = pipe.recv()
            try:
                answer = True, function(*args)
            except Exception as error:
                answer = False, error
            pipe.send(answer)


def _end_with_parent() -> None:
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


class Cluster:
    """The workers of a dask cluster. Those that fail a check are not used.

    Args:
        address: of the scheduler.
        check: a function and its arguments, which raises RunError on a worker that is no use.

    Raises:
        InputError: where dask is not installed, or no scheduler answers.
    """

    def __init__(self, address: str, check: tuple[Callable[..., None], Any]):
        try:
            import distributed
        except ImportError as error:
            raise InputError(
                f"--scheduler needs more packages ({error}): pip install '.[bulk]' in a checkout"
            ) from None
        self._killed, self._timeout = distributed.KilledWorker, distributed.TimeoutError
        self._check = check
        self._lock = threading.Lock()
        self._checked: dict[str, Exception | None] = {}  # why a worker is not used
        try:
            self._client = distributed.Client(address, timeout=_ANSWER, set_as_default=False)
        except (OSError, self._timeout, ValueError) as error:
            raise InputError(
                f"--scheduler {address}: no scheduler answers there: {error}"
            ) from None
        self.capacity = max(32, 2 * sum(self._client.nthreads().values()))

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """See `Engine.run`."""
        future = None
        try:
            while True:
                workers = self._usable()
                future = self._client.submit(function, *args, pure=False, workers=workers)
                while set(workers) & set(self._client.nthreads()):
                    try:
                        return future.result(timeout=_PATIENCE)
                    except self._timeout:
                        if future.status == "error":  # what the function raised
                            raise
                future.cancel()  # all its workers are gone, others have taken their place
        except self._killed:
            raise WorkerDied("killed") from None
        except (CancelledError, OSError) as error:
            if future and future.status == "error":  # what the function raised
                raise
            raise RunError(f"the cluster is gone: {error or type(error).__name__}") from None

    def _usable(self) -> list[str]:
        """The workers that pass the check; waits for some. Raises RunError when none does."""
        end = time.monotonic() + _NO_WORKERS
        while not (workers := list(self._client.nthreads())):
            if time.monotonic() > end:
                raise RunError(f"the cluster has had no workers for {_NO_WORKERS:g} s")
            time.sleep(1)
        with self._lock:
            new = [worker for worker in workers if worker not in self._checked]
            if new:
                found = self._client.run(*self._check, workers=new, on_error="return")
                for worker, error in found.items():
                    self._checked[worker] = error
                    if error is not None:
                        logger.warning("%s is not used: %s", worker, error)
            usable = [worker for worker in workers if self._checked.get(worker, self) is None]
        if not usable:
            raise RunError("the cluster has no worker that can be used")
        return usable

    def close(self) -> None:
        """See `Engine.close`."""
        self._client.close(timeout=5)
