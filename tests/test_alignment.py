"""The best CTC path against all paths, and what is read off it."""

import itertools

import numpy as np
import pytest

from deepspeech2.decoding.alignment import ctc_align, ctc_align_texts, symbol_log_probs, word_slices

BLANK = 2


def best_of_all_paths(log_probs: np.ndarray, targets: list[int]) -> list[tuple[int, int]]:
    """First and last frame of each label on the most probable of all paths that give `targets`."""
    frames, classes = log_probs.shape
    paths = [path for path in itertools.product(range(classes), repeat=frames)
             if [c for c, _ in itertools.groupby(path) if c != BLANK] == targets]
    best = max(paths, key=lambda path: log_probs[range(frames), path].sum())
    runs = [(c, list(group))
            for c, group in itertools.groupby(range(frames), key=lambda t: best[t])]
    return [(run[0], run[-1]) for c, run in runs if c != BLANK]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("targets", [[0], [1, 0], [0, 0], [0, 1, 1], [1, 0, 1]])
def test_the_path_is_the_best_of_all(targets, seed):
    log_probs = np.log(np.random.default_rng(seed).dirichlet([0.5] * 3, 6) + 1e-9)
    assert [tuple(pair) for pair in ctc_align(log_probs, targets, BLANK)] == best_of_all_paths(
        log_probs, targets)


def test_texts_of_different_lengths_are_aligned_together():
    log_probs = np.log(np.random.default_rng(0).dirichlet([0.5] * 3, 6) + 1e-9)
    texts = [[1, 0, 1], [0], [0, 0], [1, 0, 1, 0, 1, 0]]
    for targets, spans in zip(texts, ctc_align_texts(log_probs, texts, BLANK), strict=True):
        assert [tuple(pair) for pair in spans] == best_of_all_paths(log_probs, targets)
    with pytest.raises(ValueError, match="4 labels cannot be aligned with 6 frames"):
        ctc_align_texts(log_probs, [[0], [0] * 4], BLANK)


def test_labels_that_need_all_frames():
    log_probs = np.log(np.full((3, 3), 1 / 3))
    assert ctc_align(log_probs, [0, 0], BLANK).tolist() == [[0, 0], [2, 2]]
    assert ctc_align(log_probs[:1], [1], BLANK).tolist() == [[0, 0]]


@pytest.mark.parametrize(("frames", "targets"), [(2, [0, 0]), (2, [0, 1, 0]), (1, [0, 1])])
def test_too_few_frames(frames, targets):
    with pytest.raises(ValueError,
                       match=f"{len(targets)} labels cannot be aligned with {frames} frames"):
        ctc_align(np.log(np.full((frames, 3), 1 / 3)), targets, BLANK)


@pytest.mark.parametrize(("text", "words"), [
    ("A", ["A"]), ("AB C", ["AB", "C"]), ("  A  BC ", ["A", "BC"]), ("", []), ("  ", []),
])
def test_words_stand_between_spaces(text, words):
    symbols = [ord(c) for c in text]
    found = [text[part] for part in word_slices(symbols, space_index=ord(" "))]
    assert found == words


def test_log_probabilities_of_symbols_on_a_path():
    probs = np.array([[0.5, 0.2, 0.3], [0.1, 0.6, 0.3], [0.1, 0.8, 0.1], [0.0, 1.0, 0.0]],
                     np.float32)
    found = symbol_log_probs(probs, np.array([0, 1]), np.array([[0, 0], [1, 2]]))
    assert found == pytest.approx(np.log([0.5, 0.8]))
    assert np.isfinite(symbol_log_probs(probs, np.array([0]), np.array([[3, 3]]))).all()
    assert symbol_log_probs(probs, np.array([], int), np.empty((0, 2), int)).shape == (0,)
