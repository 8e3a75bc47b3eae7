"""The best CTC path against all paths, and where utterances are cut between words."""

import itertools

import numpy as np
import pytest

from src.alignment import ctc_align, quietest, word_gaps

BLANK, RATE = 2, 16000


def best_of_all_paths(log_probs: np.ndarray, targets: list[int]) -> list[tuple[int, int]]:
    """First and last frame of each label on the most probable of all paths that give `targets`."""
    frames, classes = log_probs.shape
    paths = [path for path in itertools.product(range(classes), repeat=frames)
             if [c for c, _ in itertools.groupby(path) if c != BLANK] == targets]
    best = max(paths, key=lambda path: log_probs[range(frames), path].sum())
    runs = [(c, list(group)) for c, group in itertools.groupby(range(frames), key=lambda t: best[t])]
    return [(run[0], run[-1]) for c, run in runs if c != BLANK]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("targets", [[0], [1, 0], [0, 0], [0, 1, 1], [1, 0, 1]])
def test_the_path_is_the_best_of_all(targets, seed):
    log_probs = np.log(np.random.default_rng(seed).dirichlet([0.5] * 3, 6) + 1e-9)
    assert [tuple(pair) for pair in ctc_align(log_probs, targets, BLANK)] == best_of_all_paths(log_probs, targets)


def test_labels_that_need_all_frames():
    log_probs = np.log(np.full((3, 3), 1 / 3))
    assert ctc_align(log_probs, [0, 0], BLANK).tolist() == [[0, 0], [2, 2]]
    assert ctc_align(log_probs[:1], [1], BLANK).tolist() == [[0, 0]]


@pytest.mark.parametrize(("frames", "targets"), [(2, [0, 0]), (2, [0, 1, 0]), (1, [0, 1])])
def test_too_few_frames(frames, targets):
    with pytest.raises(ValueError, match=f"{len(targets)} labels cannot be aligned with {frames} frames"):
        ctc_align(np.log(np.full((frames, 3), 1 / 3)), targets, BLANK)


def test_gaps_are_between_the_letters_around_a_space():
    """OH A TEN: from H to A and from A to T."""
    frames = np.array([[2, 3], [5, 5], [6, 8], [9, 9], [11, 12], [15, 15], [16, 17], [20, 21]])
    space = 27
    assert word_gaps(frames, [15, 8, space, 1, space, 20, 5, 14], space).tolist() == [[5, 9], [9, 15]]
    assert word_gaps(frames[:1], [15], space).shape == (0, 2)


def test_the_cut_is_at_the_quietest_place_of_the_middle_half():
    samples = np.random.default_rng(0).uniform(-1, 1, RATE).astype(np.float32)
    samples[7000:7600] *= 0.01
    samples[5200:5600] = 0      # quieter, but too close to the label before
    assert 7000 <= quietest(samples, 5000, 9000, RATE) <= 7600
    assert quietest(samples, 5000, 5000, RATE) == 5000
    assert 0 <= quietest(samples, 0, len(samples), RATE) <= len(samples)
