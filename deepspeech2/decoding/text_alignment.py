"""Where the words of a known text are said in a long recording, whatever either has too much.

The Viterbi algorithm over CTC's states, with gaps between words. A gap may hear anything, at a cost
for each frame that is neither blank nor space, and may leave out words, at a cost for each letter.
So words that nobody says, and speech that the text lacks, cost little more than themselves.

Time and memory grow with the frames, not with frames times letters: states far behind the best one
are given up, and the steps of one block of frames are kept at a time; the scores at the beginning
of each block are enough to find them again.

Axes: T' output frames, C classes, N words, S states: the letters of each word with blanks between
them, and N + 1 gaps before, between and behind words.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BLOCK = 500  # frames
FROM_WORD = -1  # in place of a gap: the path comes from the word before


@dataclass(frozen=True)
class Costs:
    """What a path costs beside its log probabilities; all in natural logarithms.

    Attributes:
        other: a frame in a gap whose likeliest class is a letter.
        letter: a letter of words that are left out,
        many, later_letter: or, where that is cheaper, `many` once and `later_letter` for each.
        beam: how far the score of a state may lie behind the best one. With the costs it says how
            much of the text can be left out at once: (beam - many) / later_letter letters.
    """

    other: float = 2.0
    letter: float = 3.0
    many: float = 100.0
    later_letter: float = 0.1
    beam: float = 500.0


class _Text:
    """The states of a text.

    Attributes:
        label: (S,) class of each state; C for gaps.
        skip: (S,) 0 for letters that may follow the letter before them without a blank; else -inf.
        gaps: (N + 1,) states of the gaps.
        letters: (N + 1,) letters before each gap.
    """

    def __init__(self, words: Sequence[np.ndarray], blank_index: int, num_classes: int):
        lengths = np.array([len(word) for word in words], int)
        self.letters = np.concatenate([[0], lengths.cumsum()])
        self.gaps = 2 * self.letters
        self.label = np.full(self.gaps[-1] + 1, blank_index)
        self.label[1::2] = np.concatenate([np.zeros(0, int), *words])
        self.label[self.gaps] = num_classes
        self.skip = np.full(len(self.label), -np.inf)
        self.skip[3::2][self.label[3::2] != self.label[1:-2:2]] = 0
        self.skip[self.gaps[:-1] + 1] = -np.inf


@dataclass
class _Front:
    """The scores of the states that are alive after a frame.

    Attributes:
        first, last: the gaps between which these states lie.
        scores: (states,) from gap `first` to gap `last`.
    """

    first: int
    last: int
    scores: np.ndarray


@dataclass
class _Steps:
    """How the states of one frame were reached.

    Attributes:
        first: the gap where the states begin.
        steps: (states,) int8 how many states back the path was one frame before; not for gaps.
        sources: (gaps,) int32 the gap where it was, or FROM_WORD.
    """

    first: int
    steps: np.ndarray
    sources: np.ndarray


def align_words(
    log_probs: np.ndarray,
    words: Sequence[np.ndarray],
    blank_index: int,
    space_index: int,
    costs: Costs = Costs(),
) -> list[np.ndarray | None]:
    """Where each word is said, on the path with the highest score.

    Args:
        log_probs: (T', C) natural log probabilities of the classes.
        words: the (U,) classes of the letters of each word, at least one.
        blank_index: class of the CTC blank.
        space_index: class of the space; C if there is none.
        costs: what is between words.

    Returns:
        For each word (U, 2) first and last frame of its letters; None for one that is left out.
    """
    classes = log_probs.shape[1]
    text = _Text(words, blank_index, classes)
    pause = log_probs[:, blank_index]
    if space_index < classes:
        pause = np.maximum(pause, log_probs[:, space_index])
    gap = np.maximum(pause, log_probs.max(axis=1, initial=-np.inf) - costs.other)
    frames = np.column_stack([log_probs, gap])
    fronts = [_widened(_Front(0, 0, np.zeros(1)), text, costs)]
    for start in range(0, len(frames), BLOCK):
        front = fronts[-1]
        for row in frames[start : start + BLOCK]:
            front = _advance(front, row, text, costs)
        fronts.append(front)
    return _words(_trace(fronts, frames, text, costs), text)


def _widened(front: _Front, text: _Text, costs: Costs) -> _Front:
    """The front without the words that lie too far behind, and with those that may come next."""
    begin = text.gaps[front.first]
    left = front.scores - (front.scores.max() - costs.beam)  # what a state can still lose
    alive = np.flatnonzero(left >= 0)
    first = int(np.searchsorted(text.gaps, begin + alive[0], "right")) - 1
    last = int(np.searchsorted(text.gaps, begin + alive[-1], "left")) + 1
    own = left[text.gaps[front.first : front.last + 1] - begin]
    far = np.maximum(own / costs.letter, (own - costs.many) / costs.later_letter)
    far = (text.letters[front.first : front.last + 1] + far).max()
    last = max(last, int(np.searchsorted(text.letters, far, "right")) - 1)
    last = min(last, len(text.gaps) - 1)
    scores = np.full(text.gaps[last] - text.gaps[first] + 1, -np.inf)
    kept = front.scores[text.gaps[first] - begin :][: len(scores)]
    scores[: len(kept)] = kept
    return _Front(first, last, scores)


def _jumps(
    scores: np.ndarray, letters: np.ndarray, costs: Costs
) -> tuple[np.ndarray, np.ndarray]:
    """(gaps,) scores of gaps -> (gaps,) the best scores of coming from a gap at or before them, and
    those gaps."""
    best, source = scores, np.arange(len(scores))
    for once, each in ((0.0, costs.letter), (costs.many, costs.later_letter)):
        level = scores + each * letters
        top = np.maximum.accumulate(level)
        at = np.maximum.accumulate(np.where(level == top, np.arange(len(level)), 0))
        found = top - each * letters - once
        source = np.where(found > best, at, source)
        best = np.maximum(found, best)
    return best, source


def _arrivals(front: _Front, text: _Text, costs: Costs) -> tuple[np.ndarray, ...]:
    """What the states of a front can come from in the next frame, and with what score.

    Returns:
        (states,) scores of staying in a state, for gaps also of coming from a gap before; of coming
        from the state before; of skipping that one; and (gaps,) the gaps that gaps come from.
    """
    begin, before = text.gaps[front.first], front.scores
    gaps = text.gaps[front.first : front.last + 1] - begin
    from_gap, sources = _jumps(before[gaps], text.letters[front.first : front.last + 1], costs)
    stay, step, skip = before.copy(), np.full_like(before, -np.inf), np.full_like(before, -np.inf)
    stay[gaps] = from_gap
    step[1:] = before[:-1]
    skip[2:] = before[:-2] + text.skip[begin + 2 : begin + len(before)]
    return stay, step, skip, front.first + sources


def _advance(front: _Front, row: np.ndarray, text: _Text, costs: Costs) -> _Front:
    """The front after another frame with (C + 1,) log probabilities."""
    stay, step, skip, _ = _arrivals(front, text, costs)
    begin = text.gaps[front.first]
    scores = np.maximum(np.maximum(stay, step, out=step), skip, out=skip)
    scores += row.take(text.label[begin : begin + len(scores)])
    return _widened(_Front(front.first, front.last, scores), text, costs)


def _steps(front: _Front, text: _Text, costs: Costs) -> _Steps:
    """How the best path comes to each state of a front in the next frame."""
    stay, step, skip, sources = _arrivals(front, text, costs)
    steps = (step > stay).astype(np.int8)
    steps[skip > np.maximum(stay, step)] = 2
    gaps = text.gaps[front.first : front.last + 1] - text.gaps[front.first]
    sources = np.where(steps[gaps] == 1, FROM_WORD, sources).astype(np.int32)
    return _Steps(front.first, steps, sources)


def _trace(
    fronts: Sequence[_Front], frames: np.ndarray, text: _Text, costs: Costs
) -> np.ndarray:
    """The best path backwards, block by block.

    Args:
        fronts: the fronts at the beginning of each block of frames, and at the end.
        frames: (T', C + 1) log probabilities, those of gaps in the last column.
        text: the states.
        costs: as for `align_words`.

    Returns:
        (T',) the state of each frame.
    """
    states = np.empty(len(frames), int)
    state = _best_end(fronts[-1], text, costs)
    for number in range(len(fronts) - 2, -1, -1):
        front, block = fronts[number], []
        for row in frames[number * BLOCK : (number + 1) * BLOCK]:
            block.append(_steps(front, text, costs))
            front = _advance(front, row, text, costs)
        for t in range(len(block) - 1, -1, -1):
            states[number * BLOCK + t] = state
            state = _before(state, block[t], text)
    return states


def _best_end(front: _Front, text: _Text, costs: Costs) -> int:
    """The state in which the best path ends: in or before a gap, the words behind are left out."""
    begin = text.gaps[front.first]
    gaps = text.gaps[front.first : front.last + 1]
    missing = text.letters[-1] - text.letters[front.first : front.last + 1]
    dear, cheap = costs.letter * missing, costs.many + costs.later_letter * missing
    ends = np.concatenate([gaps, gaps[1:] - 1])
    cost = np.minimum(dear, cheap)
    scores = front.scores[ends - begin] - np.concatenate([cost, cost[1:]])
    return int(ends[scores.argmax()])


def _before(state: int, steps: _Steps, text: _Text) -> int:
    """The state one frame before."""
    gap = int(np.searchsorted(text.gaps, state))
    if text.gaps[gap] != state:
        return state - int(steps.steps[state - text.gaps[steps.first]])
    source = steps.sources[gap - steps.first]
    return state - 1 if source == FROM_WORD else int(text.gaps[source])


def _words(states: np.ndarray, text: _Text) -> list[np.ndarray | None]:
    """(T',) states, never decreasing -> what `align_words` returns."""
    letters = 2 * np.arange(text.letters[-1]) + 1
    first, end = (np.searchsorted(states, letters, side=side) for side in ("left", "right"))
    spans = np.stack([first, end - 1], axis=1)
    parts = [spans[a:b] for a, b in zip(text.letters[:-1], text.letters[1:], strict=True)]
    return [part if (part[:, 0] <= part[:, 1]).all() else None for part in parts]
