"""A backoff word n-gram as an automaton: a state is what matters of the words before.

All log probabilities are natural logarithms; ARPA files hold decimal ones.

A node is an n-gram of the file; node 0 is the empty one. A state is a node whose n-gram can be the
context of a word. The model moves from a state with a word to the longest context that can still
matter, as in KenLM (Heafield 2011, section 4.1): equal states mean equal futures.
"""

import functools
import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from deepspeech2.decoding.arpa import BEGIN, END, LOG10, UNKNOWN, Section, read_arpa
from deepspeech2.errors import InputError
from deepspeech2.files import atomic_path
from deepspeech2.labels import BLANK, SPACE, Labels, describe, listed
from deepspeech2.shipped import language_models

CACHED_FROM = 100_000  # n-grams: smaller files are read at once anyway

_log = logging.getLogger(__name__)
_VERSION = 1  # of the cache
_IMPOSSIBLE = -90 * LOG10  # ARPA files write -99 for a probability of zero


class Tables(NamedTuple):
    """The automaton, for compiled code. Word `w` without context is node `w + 1`.

    The nodes 0 ... C - 1 are the contexts: all n-grams but those of the highest order. The
    continuations of context `c` are the nodes `first[c]` ... `first[c + 1] - 1`.

    Attributes:
        log_prob: (nodes,) float32 natural log probability of the last word after the others.
        word: (nodes,) int32 the last word, ascending among the continuations of a context.
        state: (nodes,) int32 the state that follows the n-gram.
        first: (C + 1,) int32 first continuation of each context.
        backoff: (C,) float32 natural log backoff weight.
        shorter: (C,) int32 the state to look in when a context does not have a word.
    """

    log_prob: np.ndarray
    word: np.ndarray
    state: np.ndarray
    first: np.ndarray
    backoff: np.ndarray
    shorter: np.ndarray


def advance(tables: Tables, state: int, word: int) -> tuple[float, int]:
    """The natural log probability of a word id in a state, and the next state.

    `compiled_advance` is the same for compiled code.
    """
    backoff = 0.0
    while state > 0:
        low, high = int(tables.first[state]), int(tables.first[state + 1])
        end = high
        while low < high:  # binary search
            middle = (low + high) >> 1
            if tables.word[middle] < word:
                low = middle + 1
            else:
                high = middle
        if low < end and tables.word[low] == word:
            return backoff + float(tables.log_prob[low]), int(tables.state[low])
        backoff += float(tables.backoff[state])
        state = int(tables.shorter[state])
    return backoff + float(tables.log_prob[word + 1]), int(tables.state[word + 1])


@functools.cache
def compiled_advance() -> Callable[[Tables, int, int], tuple[float, int]]:
    """`advance` as a function that functions compiled by numba can call; it releases the GIL."""
    import numba  # imported late: it takes long, and greedy decoding does without it

    return numba.njit(nogil=True)(advance)


class LanguageModel:
    """A word n-gram of order 1 to 6.

    Attributes:
        name: what messages call the model: its file.
        words: the words by id, `<s>`, `</s>` and `<unk>` among them.
        ids: {word: id}.
        counts: number of n-grams of each order.
        tables: the automaton; a state is an int.
        empty: the state without any word before.
        begin: the state at the beginning of a sentence, after `<s>`.
        end: id of `</s>`.
        unknown: id of `<unk>`, which stands for every word that is not in `ids`. For a file without
            `<unk>`, `<unk>` gets the probability of the least probable word.
    """

    def __init__(self, name: str, words: list[str], counts: Sequence[int], tables: Tables):
        self.name, self.words, self.counts, self.tables = name, words, tuple(counts), tables
        self.ids = {word: i for i, word in enumerate(words)}
        self.unknown = next(self.ids[word] for word in UNKNOWN if word in self.ids)
        self.end = self.ids[END]
        self.empty = 0
        self.begin = int(tables.state[1 + self.ids[BEGIN]])

    @property
    def order(self) -> int:
        return len(self.counts)

    @classmethod
    def read(cls, path: str | Path) -> "LanguageModel":
        """Read an ARPA file, plain or packed by gzip or xz.

        A large file gets a cache, from which it is read in a tenth of the time: `FILE.cache` beside
        it, or in the user's cache folder where nothing can be written beside it. A cache that is
        damaged, or from another size or modification time of the file, is made anew.

        Raises:
            InputError: naming file and line, for a file that is no whole ARPA model of order 1 to
                6 with `<s>` and `</s>`.
        """
        path = Path(path)
        try:
            status = path.stat()
        except OSError as error:
            raise InputError(
                f"{path}: cannot read the language model: {error.strerror}{_advice(path)}"
            ) from None
        stamp = np.array([_VERSION, status.st_size, status.st_mtime_ns], np.int64)
        for place in _cache_places(path):
            if (arrays := _load_cache(place, stamp)) is not None:
                words = bytes(arrays["words"]).decode().split("\n")
                tables = Tables(*(arrays[field] for field in Tables._fields))
                return cls(str(path), words, arrays["counts"].tolist(), tables)
        result = cls.of(str(path), *read_arpa(path))
        if sum(result.counts) >= CACHED_FROM:
            _save_cache(path, stamp, result)
        return result

    @classmethod
    def of(cls, name: str, words: list[str], sections: list[Section]) -> "LanguageModel":
        """The model of n-grams in any order; raises as `read`."""
        _complete(name, words, sections)
        counts = [len(section.words) for section in sections]
        return cls(name, words, counts, _automaton(name, words, sections))

    def score(self, words: Sequence[str], begin: bool = True, end: bool = True) -> list[float]:
        """The natural log probability of each word after those before it.

        Args:
            words: the words of a sentence, as the model writes them.
            begin: the sentence begins with the first word.
            end: the sentence ends with the last word: the list has one element more, for `</s>`.
        """
        ids = [self.ids.get(word, self.unknown) for word in words] + [self.end] * end
        state, result = self.begin if begin else self.empty, []
        for word in ids:
            log_prob, state = advance(self.tables, state, word)
            result.append(log_prob)
        return result

    def spellings(self, labels: Labels) -> dict[str, int]:
        """{word as the labels spell it: id} of the words that they can spell.

        Words are put into case and Unicode form of the labels (`Labels.fold`). Of words that become
        the same, the more probable one counts.

        Raises:
            InputError: when the labels can spell none, naming a word and what it lacks.
        """
        result: dict[str, int] = {}
        for word, spelling in self._spelled(labels):
            i = self.ids[word]
            other = result.setdefault(spelling, i)
            if self.tables.log_prob[1 + i] > self.tables.log_prob[1 + other]:
                result[spelling] = i
        return result

    def coverage(self, labels: Labels) -> float:
        """The share of the model's words that the labels can spell. Raises as `spellings`."""
        return len(self._spelled(labels)) / len(self._plain_words())

    def _plain_words(self) -> list[str]:
        return [word for word in self.words if word not in (BEGIN, END, *UNKNOWN)]

    def _spelled(self, labels: Labels) -> list[tuple[str, str]]:
        """(word, word as the labels spell it) of the words that they can spell."""
        words = self._plain_words()
        if all(len(word.split()) == 1 for word in words):
            folded = labels.fold(SPACE.join(words)).split(SPACE)  # at once: much faster
        else:  # a word has white space of Unicode in it
            folded = [labels.fold(word) for word in words]
        letters = set(labels.characters) - {BLANK, SPACE}
        pairs = list(zip(words, folded, strict=True)) if words else []
        result = [pair for pair in pairs if letters.issuperset(pair[1])]
        if not result:
            self._refuse(pairs, letters, labels)
        return result

    def _refuse(self, pairs: list[tuple[str, str]], letters: set[str], labels: Labels) -> NoReturn:
        if not pairs:
            raise InputError(f"{self.name}: the language model has no words")
        word, spelling = max(pairs, key=lambda pair: len(pair[1]))  # not a punctuation mark
        lacking = listed([describe(c) for c in sorted(set(spelling) - letters)])
        raise InputError(
            f"{self.name}: the labels can spell none of the {len(pairs)} words of the language "
            f"model: {word!r} has {lacking}, the labels are {str(labels)!r}. Upper and lower case "
            "and the Unicode form do not matter. Take a model of the labels' script, or build one "
            "with python -m tools.build_lm"
        )


def _complete(name: str, words: list[str], sections: list[Section]) -> None:
    """Check that the sentence markers are there, and add `<unk>` where it is missing."""
    for marker in (BEGIN, END):
        if marker not in words:
            raise InputError(
                f"{name}: {marker} is not among the 1-grams: the model does not know where "
                "sentences begin and end; build it from sentences, one a line"
            )
    if not set(UNKNOWN) & set(words):
        first = sections[0]
        possible = first.log_prob[
            (first.log_prob > _IMPOSSIBLE) & (np.arange(len(words)) != words.index(BEGIN))
        ]
        least = possible.min() if len(possible) else _IMPOSSIBLE
        _log.info("%s: no <unk>: unknown words get the least word's log probability, %.2f",
                  name, least)
        sections[0] = Section(
            np.append(first.words, np.int32([[len(words)]]), axis=0),
            np.append(first.log_prob, np.float32(least)),
            np.append(first.backoff, np.float32(0)),
            first.first_line,
        )
        words.append(UNKNOWN[0])


def _automaton(name: str, words: list[str], sections: list[Section]) -> Tables:
    """The automaton of the n-grams, which are in any order within their sections.

    Raises:
        InputError: for an n-gram that stands twice, or whose context is missing.
    """
    size = len(words)
    keys = np.empty(0, np.int64)  # parent * size + word of all nodes of order 2 and more, ascending
    log_prob, backoff = [np.float32([0]), sections[0].log_prob], [np.float32([0])]
    backoff.append(sections[0].backoff)
    for n, section in enumerate(sections[1:], 2):
        parent = section.words[:, 0].astype(np.int64) + 1
        for k in range(1, n - 1):
            parent = _child(keys, size, parent, section.words[:, k])
            if (parent < 0).any():
                _refuse(name, words, section, int(np.argmin(parent)), "its context "
                        f"is missing among the {n - 1}-grams: the model is not whole")
        new = parent * size + section.words[:, n - 1]
        ascending = np.argsort(new, kind="stable")
        new = new[ascending]
        if (new[1:] == new[:-1]).any():
            i = ascending[1:][np.argmax(new[1:] == new[:-1])]
            _refuse(name, words, section, i, "the same n-gram stands in an earlier line")
        keys = np.concatenate([keys, new])
        log_prob.append(section.log_prob[ascending])
        backoff.append(section.backoff[ascending])
    contexts = 1 + sum(len(section.words) for section in sections[:-1])
    weights = np.concatenate(backoff)[:contexts]
    parent, word = keys // size, (keys % size).astype(np.int32)
    continuations = np.bincount(parent, minlength=contexts)
    continuations[0] = size
    first = np.concatenate([[1], 1 + np.cumsum(continuations)])[: contexts + 1]
    useful = (continuations[:contexts] > 0) | (weights != 0)
    orders = [len(section.words) for section in sections]
    state, shorter = _states(keys, size, orders, useful)
    all_words = np.concatenate([[-1], np.arange(size), word])
    return Tables(
        np.concatenate(log_prob), all_words.astype(np.int32), state.astype(np.int32),
        first.astype(np.int32), weights, shorter[:contexts].astype(np.int32),
    )


def _states(
    keys: np.ndarray, size: int, counts: list[int], useful: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The state that follows each node, and the one to look in after it: (nodes,) int64 both.

    Args:
        keys: parent * size + word of all nodes of order 2 and more, ascending.
        size: number of words.
        counts: number of nodes of each order.
        useful: (C,) whether a context has continuations or a backoff weight.
    """
    nodes = 1 + sum(counts)
    state, shorter = np.zeros(nodes, np.int64), np.zeros(nodes, np.int64)
    start = 1
    for count in counts:
        new = np.arange(start, start + count)
        if start > 1:
            own = keys[new - 1 - size]
            word, context = own % size, shorter[own // size]
            longest = np.full(count, -1)
            left = np.arange(count)
            while len(left):  # the longest suffix that is a node: one order less in each round
                longest[left] = _child(keys, size, context[left], word[left])
                left = left[longest[left] < 0]
                context[left] = shorter[context[left]]
            shorter[new] = state[longest]
        is_state = np.zeros(count, bool)
        inner = new < len(useful)
        is_state[inner] = useful[new[inner]]
        state[new] = np.where(is_state, new, shorter[new])
        start += count
    return state, shorter


def _child(keys: np.ndarray, size: int, parent: np.ndarray, word: np.ndarray) -> np.ndarray:
    """(M,) int64 the nodes of words after contexts; -1 where there is none."""
    wanted = parent * size + word
    at = np.searchsorted(keys, wanted)
    found = at < len(keys)
    found[found] = keys[at[found]] == wanted[found]
    return np.where(parent == 0, word + 1, np.where(found, at + 1 + size, -1))


def _refuse(name: str, words: list[str], section: Section, row: int, message: str) -> NoReturn:
    ngram = " ".join(words[i] for i in section.words[row])
    raise InputError(f"{name}:{section.first_line + row}: {ngram!r}: {message}")


# --- cache ---------------------------------------------------------------------------------------


def _advice(path: Path) -> str:
    """The end of a message about a missing file: the names that stand for language models."""
    shipped = language_models()
    if settings := shipped.get(str(path)):
        return f"; it is a name for --lm, the settings that it stands for are --config {settings}"
    return "" if path.suffix else f"; by name there are: {', '.join(shipped)}"


def _cache_places(path: Path) -> list[Path]:
    """Where the cache of an ARPA file may lie: beside it, or in the user's cache folder."""
    places = [path.with_name(f"{path.name}.cache")]
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no home
        return places
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]
    return [*places, folder / "deepspeech2" / f"{name}.cache"]


def _load_cache(place: Path, stamp: np.ndarray) -> dict[str, np.ndarray] | None:
    """The arrays of a whole cache with this stamp; else None."""
    try:
        with np.load(place, allow_pickle=False) as file:
            if not np.array_equal(file["stamp"], stamp):
                return None
            arrays = {name: file[name] for name in (*Tables._fields, "words", "counts")}
    # the ZIP format has checksums, and a damaged file can raise any error
    except Exception:
        return None
    return arrays


def _save_cache(path: Path, stamp: np.ndarray, model: LanguageModel) -> None:
    """Write the cache where that is possible."""
    arrays = {"stamp": stamp, "counts": np.array(model.counts),
              "words": np.frombuffer("\n".join(model.words).encode(), np.uint8)}
    for place in _cache_places(path):
        try:
            with atomic_path(place) as temporary, open(temporary, "wb") as file:
                np.savez(file, **arrays, **model.tables._asdict())
            return
        except OSError as error:
            reason = f"{place}: {error.strerror}"
    _log.warning("%s: no cache, reading takes as long next time: %s", path, reason)
