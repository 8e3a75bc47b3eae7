"""Tries against the words that they are made of, and files of words."""

import numpy as np
import pytest

from deepspeech2.decoding.lexicon import Trie, best_below, build_trie, read_lexicon
from deepspeech2.errors import InputError
from deepspeech2.labels import Labels

LABELS = Labels("'ABC _")


def walk(trie: Trie, position: int = 0, spelling: tuple = ()) -> dict[tuple, tuple[int, int]]:
    """{spelling: (position, word)} of all positions at and below one."""
    found = {spelling: (position, int(trie.word[position]))}
    children = range(trie.first[position], trie.first[position + 1])
    assert list(trie.symbol[children]) == sorted(set(trie.symbol[children]))
    for child in children:
        found |= walk(trie, child, (*spelling, int(trie.symbol[child])))
    return found


@pytest.mark.parametrize("size", [0, 1, 2, 30, 300])
def test_a_trie_holds_the_words_and_their_beginnings(size):
    rng = np.random.default_rng(size)
    words = list({tuple(rng.integers(0, 5, rng.integers(1, 7)).tolist()) for _ in range(size)})
    trie, scores = build_trie(words), rng.normal(size=len(words))
    bonus = np.where(rng.random(len(words)) < 0.3, 0.25, 0.0)
    best = best_below(trie, scores, bonus)
    found = walk(trie)
    assert found.keys() == {()} | {word[:end] for word in words for end in range(len(word) + 1)}
    assert len(found) == len(trie.word)
    for spelling, (position, word) in found.items():
        assert (words[word] == spelling) if word >= 0 else (spelling not in words)
        below = [scores[i] + bonus[i] * len(spelling) for i, other in enumerate(words)
                 if other[: len(spelling)] == spelling]
        assert best[position] == pytest.approx(max(below, default=-np.inf))


def test_a_lexicon_is_spelled_by_the_labels(tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeffabba\r\n\n  Cab's \nABBA\n".encode())
    assert read_lexicon(path, Labels("'ABCS _")) == ["ABBA", "CAB'S"]


@pytest.mark.parametrize(("text", "words"), [
    (b"ABBA\nCAFE\n", r"words\.txt:2: unknown characters 'E'.* 'F'.* in 'CAFE': the labels"),
    (b"A\n\nA B\n", r"words\.txt:3: 'A B' is not one word a line"),
    (b"\n \n", r"words\.txt: the lexicon has no words"),
    (b"\xff\xfe", r"words\.txt: the lexicon is not UTF-8"),
])
def test_a_lexicon_that_is_refused(tmp_path, text, words):
    path = tmp_path / "words.txt"
    path.write_bytes(text)
    with pytest.raises(InputError, match=words):
        read_lexicon(path, LABELS)


def test_a_lexicon_that_is_missing(tmp_path):
    with pytest.raises(InputError, match="none.txt: cannot read the lexicon: No such file"):
        read_lexicon(tmp_path / "none.txt", LABELS)
