"""Forced alignment: the frames in which the labels and words of a known text are said.

Axes: T' output frames, C classes, U labels of the text.
"""

from collections.abc import Sequence

import numpy as np

from deepspeech2.labels import Labels


def log_probabilities(probs: np.ndarray) -> np.ndarray:
    """Natural logs of float probabilities of any shape, all finite, in their own precision."""
    # the smallest number stands in for probabilities that float32 rounds to 0
    return np.log(np.maximum(probs, np.finfo(np.float32).tiny))


def ctc_align(log_probs: np.ndarray, targets: Sequence[int], blank_index: int) -> np.ndarray:
    """The most probable CTC path for `targets`: see `ctc_align_texts`, with one text."""
    return ctc_align_texts(log_probs, [targets], blank_index)[0]


def ctc_align_texts(
    log_probs: np.ndarray, texts: Sequence[Sequence[int]], blank_index: int
) -> list[np.ndarray]:
    """The most probable CTC path for each of N texts, found by the Viterbi algorithm.

    Source: Graves et al. 2006, section 4.1.

    Args:
        log_probs: (T', C) log probabilities of the classes.
        texts: the (U,) class indices of each text, at least one.
        blank_index: class of the CTC blank.

    Returns:
        N arrays (U, 2) of the first and last frame of each label.

    Raises:
        ValueError: when the labels of a text need more frames than there are.
    """
    last = 2 * np.array([len(targets) for targets in texts])  # the blank behind each text
    path = np.full((len(texts), last.max() + 1), blank_index)  # S states: labels between blanks
    for states, targets in zip(path, texts, strict=True):
        states[1 : 2 * len(targets) : 2] = targets
    enters = np.zeros(path.shape, bool)  # (N, S) states that can skip the blank before them
    enters[:, 3::2] = path[:, 3::2] != path[:, 1:-2:2]
    scores = np.full(path.shape, -np.inf)
    scores[:, :2] = log_probs[0, path[:, :2]]
    steps = np.zeros((len(log_probs), *path.shape), np.int8)
    for t in range(1, len(log_probs)):
        # (3, N, S): stay in the state, come from the state before, skip the blank between
        candidates = np.full((3, *path.shape), -np.inf)
        candidates[0] = scores
        candidates[1, :, 1:] = scores[:, :-1]
        candidates[2, :, 2:] = np.where(enters[:, 2:], scores[:, :-2], -np.inf)
        steps[t] = candidates.argmax(0)
        scores = candidates.max(0) + log_probs[t, path]
    rows = np.arange(len(texts))
    state = last - (scores[rows, last] < scores[rows, last - 1])
    for row in np.flatnonzero(~np.isfinite(scores[rows, state])):
        raise ValueError(
            f"{len(texts[row])} labels cannot be aligned with {len(log_probs)} frames"
        )
    states = np.empty((len(texts), len(log_probs)), int)  # of each frame, never decreasing
    for t in range(len(log_probs) - 1, -1, -1):
        states[:, t] = state
        state = state - steps[t, rows, state]
    return [_spans(*text) for text in zip(states, last // 2, strict=True)]


def _spans(states: np.ndarray, num_labels: int) -> np.ndarray:
    """(T',) state of each frame -> (U, 2) first and last frame of each label."""
    labels = 2 * np.arange(num_labels) + 1
    first, end = (np.searchsorted(states, labels, side=side) for side in ("left", "right"))
    return np.stack([first, end - 1], axis=1)


def word_slices(symbols: Sequence[int], space_index: int) -> list[slice]:
    """(U,) class indices of a text -> the slice of each word; spaces separate words."""
    spaces = np.flatnonzero(np.asarray(symbols) == space_index)
    edges = zip([0, *(spaces + 1)], [*spaces, len(symbols)], strict=True)
    return [slice(int(start), int(end)) for start, end in edges if start < end]


def words_in(symbols: Sequence[int], labels: Labels) -> list[slice]:
    """(U,) class indices of a text -> the slice of each word.

    With an alphabet without a space, as of Chinese, each character is one.
    """
    if labels.separator:
        return word_slices(symbols, labels.space_index)
    return [slice(i, i + 1) for i in range(len(symbols))]


def symbol_log_probs(probs: np.ndarray, symbols: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """How sure a model is of the symbols on a path.

    CTC is sure of a symbol in one frame, and less so in its neighbours: the best frame tells right
    words from wrong ones better than the mean of all frames (docs/evaluation.md).

    Args:
        probs: (T', C) class probabilities.
        symbols: (U,) class indices.
        spans: (U, 2) first and last frame of each symbol.

    Returns:
        (U,) natural log of each symbol's highest probability in its frames.
    """
    best = [
        probs[first : last + 1, symbol].max()
        for symbol, (first, last) in zip(symbols, spans, strict=True)
    ]
    return log_probabilities(np.array(best, np.float64))
