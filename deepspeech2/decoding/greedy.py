"""Greedy CTC decoding: the likeliest class of every frame, repetitions merged, blanks removed.

Axes: N utterances, T' output frames, C classes, U symbols of a text.
"""

import numpy as np


def symbol_starts(
    classes: np.ndarray, sizes: np.ndarray, blank_index: int, merge_repetitions: bool = True
) -> np.ndarray:
    """(N, T') classes of each frame, (N,) frame counts -> (N, T') bool: where a symbol begins.

    Args:
        merge_repetitions: a class equal to that of the frame before begins no symbol.
    """
    starts = (classes != blank_index) & (np.arange(classes.shape[1]) < sizes[:, None])
    if merge_repetitions:
        starts[:, 1:] &= classes[:, 1:] != classes[:, :-1]
    return starts


def greedy_path(probs: np.ndarray, blank_index: int) -> tuple[np.ndarray, np.ndarray]:
    """(T', C) probabilities -> (U,) classes of the symbols, (U, 2) first and last frame of each.

    This is the most probable of all CTC paths, so no other path through the same text is better.
    """
    classes = probs.argmax(axis=1)
    starts = symbol_starts(classes[None], np.array([len(classes)]), blank_index)[0]
    first = np.flatnonzero(starts)
    changes = np.flatnonzero(np.diff(classes, append=-1))  # last frame of every run of a class
    last = changes[np.searchsorted(changes, first)]
    return classes[first], np.stack([first, last], axis=1)
