"""Forced alignment: the frames in which the labels and words of a known text are said.

Axes: T' output frames, C classes, U labels of the text.
"""

from collections.abc import Sequence

import numpy as np


def ctc_align(log_probs: np.ndarray, targets: Sequence[int], blank_index: int) -> np.ndarray:
    """The most probable CTC path for `targets`, found by the Viterbi algorithm.

    Source: Graves et al. 2006, section 4.1.

    Args:
        log_probs: (T', C) log probabilities of the classes.
        targets: (U,) class indices, at least one.
        blank_index: class of the CTC blank.

    Returns:
        (U, 2) first and last frame of each label.

    Raises:
        ValueError: when the labels need more frames than there are.
    """
    path = np.full(2 * len(targets) + 1, blank_index)  # S states: labels with blanks around each
    path[1::2] = targets
    enters = np.zeros(len(path), bool)  # (S,) states that can skip the blank before them
    enters[3::2] = path[3::2] != path[1:-2:2]
    scores = np.full(len(path), -np.inf)
    scores[:2] = log_probs[0, path[:2]]
    steps = np.zeros((len(log_probs), len(path)), np.int8)
    for t in range(1, len(log_probs)):
        # (3, S): stay in the state, come from the state before, skip the blank between
        candidates = np.full((3, len(path)), -np.inf)
        candidates[0] = scores
        candidates[1, 1:] = scores[:-1]
        candidates[2, 2:] = np.where(enters[2:], scores[:-2], -np.inf)
        steps[t] = candidates.argmax(0)
        scores = candidates.max(0) + log_probs[t, path]
    state = len(path) - 1 if scores[-1] >= scores[-2] else len(path) - 2
    if not np.isfinite(scores[state]):
        raise ValueError(f"{len(targets)} labels cannot be aligned with {len(log_probs)} frames")
    states = np.empty(len(log_probs), int)  # (T',) state of each frame, never decreasing
    for t in range(len(log_probs) - 1, -1, -1):
        states[t] = state
        state -= steps[t, state]
    labels = np.arange(1, len(path), 2)
    return np.stack(
        [np.searchsorted(states, labels), np.searchsorted(states, labels, side="right") - 1], 1
    )


def word_slices(symbols: Sequence[int], space_index: int) -> list[slice]:
    """(U,) class indices of a text -> the slice of each word; spaces separate words."""
    spaces = np.flatnonzero(np.asarray(symbols) == space_index)
    edges = zip([0, *(spaces + 1)], [*spaces, len(symbols)], strict=True)
    return [slice(int(start), int(end)) for start, end in edges if start < end]


def span_log_prob(probs: np.ndarray, symbols: np.ndarray, spans: np.ndarray) -> tuple[float, int]:
    """The log probability of symbols on a path.

    Args:
        probs: (T', C) class probabilities.
        symbols: (U,) class indices.
        spans: (U, 2) first and last frame of each symbol.

    Returns:
        The sum of the natural log probabilities over all frames of the symbols, and their number.
    """
    total, frames = 0.0, 0
    smallest = np.finfo(np.float32).tiny  # stands in for probabilities that float32 rounds to 0
    for symbol, (first, last) in zip(symbols, spans, strict=True):
        total += float(np.log(np.maximum(probs[first : last + 1, symbol], smallest)).sum())
        frames += int(last - first) + 1
    return total, frames
