"""Alternating measurement: A B A B …, medians, and the ratio of two sides with its spread."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

TURN_SECONDS = 0.3      # shorter work is repeated within its turn, so that waking up does not count
MOST_REPEATS = 20


@dataclass(frozen=True)
class Ratio:
    """How many times longer one side takes than another: by the medians, and the extremes of adjacent runs."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, numerator: Sequence[float], denominator: Sequence[float]) -> "Ratio":
        """From the runs of two sides in the order in which they alternated."""
        pairs = [a / b for a, b in zip(numerator, denominator, strict=True)]
        return cls(statistics.median(numerator) / statistics.median(denominator), min(pairs), max(pairs))


def alternate(runs: Mapping[str, Callable[[], float]], seconds: float, least: int = 3, most: int = 9,
              before: Callable[[str], None] = lambda side: None,
              clock: Callable[[], float] = time.monotonic) -> dict[str, list[float]]:
    """Call every side's function once a round, in turn, and collect what they return.

    Args:
        runs: {side: function that returns its seconds}.
        seconds: no round begins after so many, once `least` are done; there are `most` at most.
        before: called with the side whose turn is next; not part of what is measured.

    Returns:
        {side: what its function returned, one number a round}.
    """
    results = {side: [] for side in runs}
    started = clock()
    for done in range(most):
        if done >= least and clock() - started >= seconds:
            break
        for side, run in runs.items():
            before(side)
            results[side].append(run())
    return results


def timed(function: Callable[[], object], least: float = TURN_SECONDS) -> list[float]:
    """Seconds of every call of `function`, which is repeated until `least` seconds are over."""
    seconds = []
    while not seconds or (sum(seconds) < least and len(seconds) < MOST_REPEATS):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return seconds
