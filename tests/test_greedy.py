"""Greedy decoding against a loop over frames, and against the forced alignment's best path."""

import numpy as np
import pytest

from deepspeech2.decoding.alignment import ctc_align
from deepspeech2.decoding.greedy import greedy_path, symbol_starts

BLANK = 3


def random_probs(seed: int, frames: int) -> np.ndarray:
    """(T', 4) probabilities with many repetitions, one clearly the largest in each frame."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(4, 0.3), frames)
    return np.repeat(probs, rng.integers(1, 4, frames), axis=0).astype(np.float32)


def per_frame(probs: np.ndarray) -> tuple[list[int], list[list[int]]]:
    symbols, spans, before = [], [], BLANK
    for frame, row in enumerate(probs):
        best = max(range(len(row)), key=lambda c: row[c])
        if best != BLANK and best == before:
            spans[-1][1] = frame
        elif best != BLANK:
            symbols.append(best)
            spans.append([frame, frame])
        before = best
    return symbols, spans


@pytest.mark.parametrize("seed", range(20))
def test_the_path_is_that_of_the_loop_and_the_best_one_of_its_text(seed):
    probs = random_probs(seed, frames=seed)
    symbols, spans = greedy_path(probs, BLANK)
    assert symbols.shape == (len(spans),) and spans.shape == (len(spans), 2)
    assert (symbols.tolist(), spans.tolist()) == per_frame(probs)
    if len(symbols):
        np.testing.assert_array_equal(spans, ctc_align(np.log(probs), symbols, BLANK))


def test_repetitions_begin_symbols_where_they_are_not_merged():
    classes, sizes = np.array([[0, 0, 3, 0], [1, 1, 2, 2]]), np.array([4, 3])
    assert symbol_starts(classes, sizes, BLANK).tolist() == [
        [True, False, False, True], [True, False, True, False]]
    assert symbol_starts(classes, sizes, BLANK, merge_repetitions=False).tolist() == [
        [True, True, False, True], [True, True, True, False]]
