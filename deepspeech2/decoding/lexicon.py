"""The words that a beam search knows, as a tree of their letters (a trie).

Axes: W words, P positions of the trie.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deepspeech2.errors import InputError
from deepspeech2.labels import Labels, UnknownCharacters


class Trie(NamedTuple):
    """Words as paths from position 0. The arrays are for compiled code.

    The children of position p are the positions `first[p]` … `first[p + 1] - 1`.

    Attributes:
        first: (P + 1,) int32 first child of each position.
        symbol: (P,) int32 class of the letter that leads to a position, ascending among children.
        word: (P,) int32 number of the word that ends at a position, -1: none.
    """

    first: np.ndarray
    symbol: np.ndarray
    word: np.ndarray


def build_trie(spellings: Sequence[Sequence[int]]) -> Trie:
    """The trie of W different words, from the class indices of their letters."""
    # as text, which Python sorts fast; code points begin at 1 because NumPy pads with zeros
    texts = ["".join(chr(symbol + 1) for symbol in spelling) for spelling in spellings]
    order = np.array(sorted(range(len(texts)), key=texts.__getitem__) or [0])
    codes = np.array([texts[i] for i in order] if texts else [""], np.str_)
    codes = codes.view(np.uint32).reshape(len(codes), -1)  # (W, longest word)
    first, symbol, word = [np.ones(1, int)], [np.array([-1])], [np.array([-1])]
    size = level_size = 1
    parent = np.zeros(len(codes), int)  # within its level, for each word's next letter
    same = np.arange(len(codes)) > 0  # the word begins as the word before
    for depth, letters in enumerate(codes.T):
        same[1:] &= letters[1:] == letters[:-1]
        new = (letters > 0) & ~same
        at = np.cumsum(new) - 1
        children = np.bincount(parent[new], minlength=level_size)
        first.append(size + np.cumsum(children))
        symbol.append(letters[new].astype(int) - 1)
        level_size = int(new.sum())
        size += level_size
        longer = codes[:, depth + 1] > 0 if depth + 1 < codes.shape[1] else np.zeros_like(new)
        ends = (letters > 0) & ~longer
        level_word = np.full(level_size, -1)
        level_word[at[ends]] = order[ends]
        word.append(level_word)
        parent = at
    first.append(np.full(level_size, size))  # the longest words have no children
    return Trie(*(np.concatenate(parts).astype(np.int32) for parts in (first, symbol, word)))


def best_below(trie: Trie, scores: np.ndarray, letter_bonus: np.ndarray) -> np.ndarray:
    """The highest score of the words at and below each position, (P,) float64.

    Args:
        trie: the trie of W words.
        scores: (W,) score of each word.
        letter_bonus: (W,) what each letter on the way to a word adds.
    """
    best = np.full(len(trie.word), -np.inf)
    # (P,) the children of all positions, in order, are the positions from 1
    parent = np.concatenate([[-1], np.repeat(np.arange(len(best)), np.diff(trie.first))])
    at = np.flatnonzero(trie.word >= 0)
    word, letters, above = trie.word[at], np.zeros(len(at)), at
    while (above > 0).any():
        letters += above > 0
        above = np.where(above > 0, parent[above], 0)
    while len(at):
        np.maximum.at(best, at, scores[word] + letter_bonus[word] * letters)
        at, letters = parent[at], letters - 1
        inside = at >= 0
        at, word, letters = at[inside], word[inside], letters[inside]
    return best


def read_lexicon(path: str | Path, labels: Labels) -> list[str]:
    """The words of a file, one a line, as the labels spell them; blank lines are passed over.

    Raises:
        InputError: naming file and line, for a file that cannot be read or has no words, a line of
            several words, and a word that the labels cannot spell.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot read the lexicon: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: the lexicon is not UTF-8: {error.reason}") from None
    words = {}
    for number, line in enumerate(lines, 1):
        found = line.split()
        if len(found) > 1:
            raise InputError(f"{path}:{number}: {line.strip()[:60]!r} is not one word a line")
        try:
            words |= dict.fromkeys(labels.normalize(word) for word in found)
        except UnknownCharacters as error:
            raise InputError(f"{path}:{number}: {error}: the labels cannot spell it") from None
    if not words:
        raise InputError(f"{path}: the lexicon has no words")
    return list(words)
