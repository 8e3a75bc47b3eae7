"""Run a network for many clients at once: small batches, in turn."""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from typing import Any

SIZE = 8  # the most in a batch
WAIT_SECONDS = 0.010  # for others to share a batch


@dataclass(eq=False)
class Work:
    """What the network has to recognise.

    Attributes:
        group: works of equal groups can share a batch.
        frames: spectrogram frames of it.
        content: what `run` of a batcher takes.
        since: when it came, by the monotonic clock.
        result: what `run` makes of it.
    """

    group: Hashable
    frames: int
    content: Any
    since: float = field(default_factory=time.monotonic)
    result: Future = field(default_factory=Future)


class Batcher:
    """Runs the network in one thread.

    Each client has a queue. A batch begins with the first work of the client who has waited
    longest for a turn, so that a short recording need not wait for the end of a long one.

    Args:
        run: recognises the contents of works of one group; an exception stands for a result.
        most_frames: frames of a batch, padding included.
        size: the most works in a batch.
        wait: seconds that a work waits for others.
        on_batch: called with the size of each batch.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Any]], Sequence[Any]],
        most_frames: int,
        size: int = SIZE,
        wait: float = WAIT_SECONDS,
        on_batch: Callable[[int], None] = lambda size: None,
    ):
        self._run, self._most_frames = run, most_frames
        self._size, self._wait, self._on_batch = size, wait, on_batch
        self._queues: OrderedDict[Hashable, deque[Work]] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="network", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """The works that wait."""
        with self._changed:
            return sum(map(len, self._queues.values()))

    def submit(self, client: Hashable, work: Work) -> Future:
        """Queue a work of a client. Its future can be cancelled."""
        with self._changed:
            if self._closed:
                work.result.cancel()
            else:
                self._queues.setdefault(client, deque()).append(work)
                self._changed.notify()
        return work.result

    def close(self) -> None:
        """End the thread after its batch, and cancel what waits."""
        with self._changed:
            self._closed = True
            for work in chain.from_iterable(self._queues.values()):
                work.result.cancel()
            self._queues.clear()
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next_batch():
            running = [work for work in batch if work.result.set_running_or_notify_cancel()]
            if running:
                self._on_batch(len(running))
                self._recognise(running)

    def _recognise(self, batch: list[Work]) -> None:
        try:
            results = self._run([work.content for work in batch])
        except Exception as error:  # whatever it is, the clients are told and the others go on
            results = [error] * len(batch)
        for work, result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                work.result.set_exception(result)
            else:
                work.result.set_result(result)

    def _next_batch(self) -> list[Work]:
        """Wait for works that share a batch, and take them; none when the batcher is closed."""
        with self._changed:
            while not self._closed:
                batch = self._candidates()
                rest = batch[0].since + self._wait - time.monotonic() if batch else None
                if batch and (rest <= 0 or len(batch) == self._size):
                    self._take(batch)
                    return batch
                self._changed.wait(rest)
        return []

    def _candidates(self) -> list[Work]:
        """What would be the next batch: a work of each client in turn, then a second one, …"""
        batch: list[Work] = []
        longest = 0
        for work in filter(None, chain.from_iterable(zip_longest(*self._queues.values()))):
            longest = max(longest, work.frames)
            if batch and (
                work.group != batch[0].group or (len(batch) + 1) * longest > self._most_frames
            ):
                longest = max(other.frames for other in batch)
                continue
            batch.append(work)
            if len(batch) == self._size:
                break
        return batch

    def _take(self, batch: list[Work]) -> None:
        """Remove works from the queues; their clients come last in the next turn."""
        for client, queue in list(self._queues.items()):
            left = deque(work for work in queue if work not in batch)
            if len(left) < len(queue):
                del self._queues[client]
                if left:
                    self._queues[client] = left
