"""Words of a text in a recording, against a search that tries every path, state by state."""

import dataclasses

import numpy as np
import pytest

from deepspeech2.decoding import text_alignment
from deepspeech2.decoding.text_alignment import Costs, align_words

A, B, SPACE, BLANK = range(4)
COSTS = Costs(other=0.7, letter=1.5, many=2.0, later_letter=0.3, beam=1e9)


class Oracle:
    """Best scores by a table of all states and all pairs of states.

    A state is (word, place): places 0, 2, 4 ... are the letters of a word, odd ones the blanks
    between them, and the gap before word j is (j, -1).
    """

    def __init__(self, words, costs):
        self.words, self.costs = words, costs
        self.states = [(j, -1) for j in range(len(words) + 1)]
        self.states += [(j, i) for j, word in enumerate(words) for i in range(2 * len(word) - 1)]

    def skipped(self, j, k):
        letters = sum(len(word) for word in self.words[j:k])
        return 0.0 if j == k else min(self.costs.letter * letters,
                                      self.costs.many + self.costs.later_letter * letters)

    def emitted(self, state, row):
        j, i = state
        if i < 0:
            return max(row[BLANK], row[SPACE], max(row) - self.costs.other)
        return row[self.words[j][i // 2]] if i % 2 == 0 else row[BLANK]

    def is_last(self, state):
        j, i = state
        return i >= 0 and i == 2 * len(self.words[j]) - 2

    def cost(self, old, new):
        """Of going from one state to another; infinite if that is not possible."""
        (j, i), (k, m) = old, new
        if i < 0 and m < 0:
            return self.skipped(j, k) if j <= k else np.inf
        if m < 0:
            return 0.0 if self.is_last(old) and k == j + 1 else np.inf
        word = self.words[k]
        twice = i >= 0 and m % 2 == 0 and i == m - 2 and word[m // 2] != word[i // 2]
        return 0.0 if j == k and (i in (m, m - 1) or twice) else np.inf

    def at_the_end(self, state):
        j, i = state
        if i < 0:
            return self.skipped(j, len(self.words))
        return self.skipped(j + 1, len(self.words)) if self.is_last(state) else np.inf

    def best(self, log_probs, spans=None):
        """The score of the best path; with `spans`, with letters in these frames and no others."""
        forced = {t: (j, 2 * i) for j, word in enumerate(spans or []) if word is not None
                  for i, (first, last) in enumerate(word) for t in range(first, last + 1)}
        table = {(0, -1): 0.0}
        for t, row in enumerate(log_probs):
            allowed = [state for state in self.states if spans is None or (
                forced[t] == state if t in forced else state[1] % 2 == 1)]
            table = {state: self.emitted(state, row)
                     + max(score - self.cost(old, state) for old, score in table.items())
                     for state in allowed}
        return max(score - self.at_the_end(state) for state, score in table.items())


@pytest.mark.parametrize("seed", range(20))
def test_all_paths(seed, monkeypatch):
    """Also where some words are not said, and where blocks are as short as a frame."""
    monkeypatch.setattr(text_alignment, "BLOCK", 1 + seed % 4)
    rng = np.random.default_rng(seed)
    for _ in range(20):
        words = [rng.integers(0, 2, rng.integers(1, 4)) for _ in range(rng.integers(1, 5))]
        probs = rng.dirichlet(np.full(4, rng.choice([0.2, 1.0])), rng.integers(1, 13))
        log_probs = np.log(np.maximum(probs, 1e-30))
        found = align_words(log_probs, words, BLANK, SPACE, COSTS)
        oracle = Oracle([word.tolist() for word in words], COSTS)
        best = oracle.best(log_probs.tolist())
        assert oracle.best(log_probs.tolist(), found) == pytest.approx(best)


def said(rng, words, noise=0.1) -> tuple[np.ndarray, list]:
    """(T', 28) log probabilities of words with pauses, and the frames of each word's letters.

    The letters are the classes from 2 on; 0 and 1 are space and blank.
    """
    space, blank = 0, 1
    classes, spans = [blank] * 2, []
    for word in words:
        own = []
        for letter in word:
            start = len(classes)
            classes += [letter] * rng.integers(1, 3)
            own.append([start, len(classes) - 1])
            classes += [blank] * rng.integers(1, 3)
        spans.append(own)
        classes += [space, blank]
    random = rng.dirichlet(np.full(28, 0.5), len(classes))
    probs = (1 - noise) * np.eye(28)[classes] + noise * random
    return np.log(probs), spans


def random_words(rng, count):
    return [rng.integers(2, 28, rng.integers(3, 7)) for _ in range(count)]


@pytest.mark.parametrize("missing", [0, 30, 200])
def test_words_that_nobody_says_and_speech_without_a_text(missing):
    """200 words, of which the text lacks some in the middle, and has others that nobody says."""
    rng = np.random.default_rng(missing)
    words = random_words(rng, 200)
    log_probs, spans = said(rng, words)
    more = random_words(rng, missing)
    text = words[:80] + more + words[110:]
    found = align_words(log_probs, text, 1, 0)
    kept = spans[:80] + [None] * missing + spans[110:]
    edge = 2  # words at the border of what is missing can be mixed up with what is there
    for i in (*range(80 - edge), *range(80 + missing + edge, len(text))):
        assert found[i] is not None and found[i].tolist() == kept[i]
    assert sum(spans is None for spans in found[80 : 80 + missing]) >= missing - edge


def test_a_narrow_beam_finds_the_same_in_a_long_recording():
    rng = np.random.default_rng(0)
    words = random_words(rng, 1500)
    log_probs, spans = said(rng, words)
    found = align_words(log_probs, words, 1, 0, dataclasses.replace(Costs(), beam=200.0))
    assert [word.tolist() for word in found] == spans


def test_nothing_to_align():
    """No frame, or nothing that resembles the text."""
    assert align_words(np.zeros((0, 4)), [np.array([A])], BLANK, SPACE) == [None]
    silence = np.log(np.tile([1e-9, 1e-9, 1e-9, 1.0], (50, 1)))
    assert align_words(silence, [np.array([A, B]), np.array([B])], BLANK, SPACE) == [None, None]
