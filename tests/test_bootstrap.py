"""Bootstrap intervals against SciPy's bootstrap, binomial theory and plain loops."""

import numpy as np
import pytest
from scipy import stats

from src.bootstrap import compare_rates, rate_interval

RNG = np.random.default_rng(5)
SPEAKERS = [f"s{i % 20}" for i in range(200)]
TOTALS = RNG.integers(3, 20, 200)
FIRST = RNG.binomial(TOTALS, 0.3)
SECOND = np.minimum(TOTALS, FIRST + RNG.integers(-1, 2, 200)).clip(0)


def by_speaker(values) -> np.ndarray:
    return np.array([sum(v for v, s in zip(values, SPEAKERS, strict=True) if s == f"s{i}")
                     for i in range(20)])


def test_an_interval_equals_scipys():
    expected = stats.bootstrap(
        (by_speaker(FIRST), by_speaker(TOTALS)), lambda e, n, axis: 100 * e.sum(axis) / n.sum(axis),
        paired=True, vectorized=True, n_resamples=20_000, method="percentile",
        random_state=np.random.default_rng(1))
    found = rate_interval(FIRST, TOTALS, SPEAKERS)
    assert found == pytest.approx(expected.confidence_interval, abs=0.15)


def test_a_comparison_equals_a_plain_loop():
    first, second, totals = map(by_speaker, (FIRST, SECOND, TOTALS))
    rng, differences = np.random.default_rng(2), []
    for _ in range(5_000):
        rows = rng.integers(0, 20, 20)
        differences.append(100 * (second[rows].sum() - first[rows].sum()) / totals[rows].sum())
    found = compare_rates((FIRST, SECOND), TOTALS, SPEAKERS)
    assert found.difference == pytest.approx(100 * (SECOND.sum() - FIRST.sum()) / TOTALS.sum())
    assert found.interval == pytest.approx(np.percentile(differences, [2.5, 97.5]), abs=0.1)
    tail = min((np.array(differences) <= 0).mean(), (np.array(differences) >= 0).mean())
    assert found.p_value == pytest.approx(2 * tail, abs=0.03)


def test_independent_words_give_the_binomial_interval():
    """Each word a speaker of its own: the deviation of the rate is sqrt(p (1 - p) / n)."""
    errors = np.repeat([1, 0], [300, 700])
    low, high = rate_interval(errors, np.ones(1000, int), [str(i) for i in range(1000)])
    deviation = 100 * np.sqrt(0.3 * 0.7 / 1000)
    assert (low, high) == pytest.approx((30 - 1.96 * deviation, 30 + 1.96 * deviation), abs=0.2)


def test_utterances_of_one_speaker_are_no_independent_evidence():
    alone = rate_interval(FIRST, TOTALS, SPEAKERS)
    often = rate_interval(np.tile(FIRST, 10), np.tile(TOTALS, 10), SPEAKERS * 10)
    assert often == pytest.approx(alone)


def test_equal_systems_do_not_differ():
    found = compare_rates((FIRST, FIRST), TOTALS, SPEAKERS)
    assert (found.difference, found.interval, found.p_value) == (0, (0, 0), 1)


def test_a_large_difference_is_real():
    found = compare_rates((TOTALS, FIRST), TOTALS, SPEAKERS)
    assert found.difference < -50 and found.interval[1] < -50 and found.p_value < 0.001


@pytest.mark.parametrize(("errors", "totals", "speakers"), [
    ([1, 2], [5, 5], ["a", "a"]), ([1, 2], [0, 0], ["a", "b"]), ([], [], [])])
def test_too_little_to_tell(errors, totals, speakers):
    assert rate_interval(errors, totals, speakers) is None
    assert compare_rates((errors, errors), totals, speakers) is None


def test_samples_without_words_are_left_out():
    low, high = rate_interval([1, 1], [2, 0], ["a", "b"])
    assert (low, high) == (50, 100)
