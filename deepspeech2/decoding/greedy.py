"""Greedy CTC decoding: the likeliest class of every frame, repetitions merged, blanks removed.

Axes: N utterances, T' output frames, C classes, U symbols of a text.
"""

import numpy as np


def symbol_starts(
    classes: np.ndarray, sizes: np.ndarray, blank_index: int, merge_repetitions: bool = True
) -> np.ndarray:
    """The frames in which a symbol begins, (N, T') bool.

    Args:
        classes: (N, T') class of each frame.
        sizes: (N,) frame counts; later frames begin no symbol.
        blank_index: class of the CTC blank.
        merge_repetitions: a frame with the class of the frame before begins no symbol.
    """
    starts = (classes != blank_index) & (np.arange(classes.shape[1]) < sizes[:, None])
    if merge_repetitions:
        starts[:, 1:] &= classes[:, 1:] != classes[:, :-1]
    return starts


def greedy_path(probs: np.ndarray, blank_index: int) -> tuple[np.ndarray, np.ndarray]:
    """The most probable CTC path.

    Args:
        probs: (T', C) class probabilities.
        blank_index: class of the CTC blank.

    Returns:
        (U,) classes of the symbols, and (U, 2) first and last frame of each symbol.
    """
    classes = probs.argmax(axis=1)
    starts = symbol_starts(classes[None], np.array([len(classes)]), blank_index)[0]
    first = np.flatnonzero(starts)
    changes = np.flatnonzero(np.diff(classes, append=-1))  # last frame of each run of one class
    last = changes[np.searchsorted(changes, first)]
    return classes[first], np.stack([first, last], axis=1)
