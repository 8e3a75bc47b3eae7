"""How sure error rates are: intervals and comparisons by resampling speakers.

The errors of one speaker resemble each other, so whole speakers are drawn with replacement, not
utterances. Source: Bisani & Ney 2004, "Bootstrap estimates for confidence intervals in ASR
performance evaluation".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

SAMPLES = 10_000
SEED = 0
_TAIL = 2.5  # percent on either side of a 95 % interval
_DRAWS = 1 << 22  # in memory at once


@dataclass(frozen=True)
class Comparison:
    """The difference of two error rates on the same utterances.

    Attributes:
        difference: rate of the second minus rate of the first, in percentage points.
        interval: ends of its 95 % interval.
        p_value: how often chance alone would bring a difference as far from 0, two-sided.
    """

    difference: float
    interval: tuple[float, float]
    p_value: float


def rate_interval(
    errors: Sequence[int], totals: Sequence[int], speakers: Sequence[str]
) -> tuple[float, float] | None:
    """The 95 % interval of 100 * sum(errors) / sum(totals).

    Args:
        errors: (N,) errors of each utterance.
        totals: (N,) reference words or characters of each utterance.
        speakers: (N,) who speaks.

    Returns:
        Its ends in percent; None for fewer than two speakers, and without reference words.
    """
    sums = _by_speaker(speakers, errors, totals)
    rates = _rates(sums)
    return None if rates is None else _ends(rates[0])


def compare_rates(
    errors: tuple[Sequence[int], Sequence[int]], totals: Sequence[int], speakers: Sequence[str]
) -> Comparison | None:
    """Compare two systems by a paired bootstrap: both are judged on the same drawn speakers.

    Args:
        errors: (N,) errors of each utterance, of the first and of the second system.
        totals: (N,) reference words or characters of each utterance.
        speakers: (N,) who speaks.

    Returns:
        None for fewer than two speakers, and without reference words.
    """
    sums = _by_speaker(speakers, *errors, totals)
    rates = _rates(sums)
    if rates is None:
        return None
    differences = rates[1] - rates[0]
    first, second, total = sums.sum(1)
    # with one sample more on either side, because no finite number of samples shows a 0
    tails = ((differences <= 0).sum() + 1, (differences >= 0).sum() + 1)
    p_value = min(1.0, 2 * min(tails) / (len(differences) + 1))
    return Comparison(float(100 * (second - first) / total), _ends(differences), float(p_value))


def _by_speaker(speakers: Sequence[str], *counts: Sequence[int]) -> np.ndarray:
    """(N,) counts of utterances -> (len(counts), S) sums of each speaker."""
    _, index = np.unique(np.asarray(speakers, dtype=str), return_inverse=True)
    return np.stack([np.bincount(index, weights=values) for values in counts])


def _rates(sums: np.ndarray) -> np.ndarray | None:
    """(K + 1, S) errors of K systems and totals of S speakers -> (K, samples) rates in percent.

    Samples without any reference word are left out. None for fewer than two speakers.
    """
    if sums.shape[1] < 2 or not sums[-1].any():
        return None
    drawn = np.concatenate([draws @ sums.T for draws in _draws(sums.shape[1])])
    drawn = drawn[drawn[:, -1] > 0]
    return 100 * (drawn[:, :-1] / drawn[:, -1:]).T


def _draws(speakers: int) -> Iterator[np.ndarray]:
    """(n, S) how often each speaker was drawn in a sample, `SAMPLES` samples in all."""
    rng = np.random.default_rng(SEED)
    step = max(1, _DRAWS // speakers)
    for first in range(0, SAMPLES, step):
        size = min(step, SAMPLES - first)
        yield rng.multinomial(speakers, np.full(speakers, 1 / speakers), size)


def _ends(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, [_TAIL, 100 - _TAIL])
    return float(low), float(high)
