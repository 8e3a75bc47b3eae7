"""SIGINT and SIGTERM as requests to stop, which a run grants when its state is whole."""

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from src.errors import RunError

logger = logging.getLogger(__name__)


class Interrupted(RunError):
    """SIGINT or SIGTERM arrived; the state was saved. `signal_number` says which."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


@contextmanager
def stop_requests() -> Iterator[Callable[[], int]]:
    """Yield a function that gives the number of the SIGINT or SIGTERM that arrived, 0 so far; a second one kills.

    MindSpore puts in a handler of its own for SIGINT while it compiles and loads data, which sends a SIGTERM: Ctrl-C
    arrives here as either.
    """
    received = [0]

    def note(number: int, _frame) -> None:
        received[0] = number
        signal.signal(number, previous[number])
        logger.warning("stopping after this step; once more to stop at once")

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received[0]
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
