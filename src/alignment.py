"""When each word of a transcript was said: the best CTC path through it, and where to cut. No MindSpore here."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_ENERGY_SECONDS, _STEP_SECONDS = 0.02, 0.005      # of the window in which energy is measured, and of its steps
_MARGIN = 0.25    # share of a gap at either end where no cut is made: CTC says a label anywhere within its sound


@dataclass(frozen=True)
class WordTimes:
    """One utterance: its words, and where it can be cut between them."""

    words: list[str]
    cuts: np.ndarray    # (words - 1,) seconds, rising
    seconds: float      # of the utterance


def ctc_align(log_probs: np.ndarray, targets: Sequence[int], blank_index: int) -> np.ndarray:
    """The most probable of all CTC paths that give `targets` (Viterbi). Source: Graves et al. 2006, section 4.1.

    Args:
        log_probs: (T', C) of the classes.
        targets: (U,) class indices, at least one.

    Returns:
        (U, 2) first and last frame of each label.

    Raises:
        ValueError: where there are fewer frames than the labels need.
    """
    path = np.full(2 * len(targets) + 1, blank_index)     # S states: labels, and blanks around them
    path[1::2] = targets
    enters = np.zeros(len(path), bool)                    # states that may follow the state two before
    enters[3::2] = path[3::2] != path[1:-2:2]
    scores = np.full(len(path), -np.inf)
    scores[:2] = log_probs[0, path[:2]]
    steps = np.zeros((len(log_probs), len(path)), np.int8)
    for t in range(1, len(log_probs)):
        candidates = np.full((3, len(path)), -np.inf)     # stay, from the state before, from two before
        candidates[0] = scores
        candidates[1, 1:] = scores[:-1]
        candidates[2, 2:] = np.where(enters[2:], scores[:-2], -np.inf)
        steps[t] = candidates.argmax(0)
        scores = candidates.max(0) + log_probs[t, path]
    state = len(path) - 1 if scores[-1] >= scores[-2] else len(path) - 2
    if not np.isfinite(scores[state]):
        raise ValueError(f"{len(targets)} labels cannot be aligned with {len(log_probs)} frames")
    states = np.empty(len(log_probs), int)                # of each frame, never falling
    for t in range(len(log_probs) - 1, -1, -1):
        states[t] = state
        state -= steps[t, state]
    labels = np.arange(1, len(path), 2)
    return np.stack([np.searchsorted(states, labels), np.searchsorted(states, labels, side="right") - 1], 1)


def word_gaps(frames: np.ndarray, targets: Sequence[int], space_index: int) -> np.ndarray:
    """(U, 2) frames of labels -> (words - 1, 2): the last frame of each word but the last, the first of the next."""
    spaces = np.flatnonzero(np.asarray(targets) == space_index)
    return np.stack([frames[spaces - 1, 1], frames[spaces + 1, 0]], 1)


def quietest(samples: np.ndarray, start: int, end: int, sample_rate: int) -> int:
    """The sample in the middle half of `start` to `end` around which 20 ms have the least energy."""
    half = round(_ENERGY_SECONDS * sample_rate) // 2
    margin = round(_MARGIN * (end - start))
    centres = np.arange(start + margin, end - margin + 1, max(1, round(_STEP_SECONDS * sample_rate)))
    sums = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    low, high = np.clip(centres - half, 0, len(samples)), np.clip(centres + half, 0, len(samples))
    return int(centres[np.argmin((sums[high] - sums[low]) / np.maximum(1, high - low))])
