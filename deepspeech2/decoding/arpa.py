"""Read and write ARPA, the text format of n-gram language models.

The format is that of SRILM's manual page ngram-format(5). Files are plain, gzip or xz, whatever
their names are. Words are separated by ASCII white space only; they are UTF-8.
Reading takes one pass, and memory in proportion to the file.
"""

import contextlib
import functools
import gzip
import lzma
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

import numpy as np

from deepspeech2.errors import InputError
from deepspeech2.files import atomic_path, unpacked

MAX_ORDER = 6
UNKNOWN = ("<unk>", "<UNK>")
BEGIN, END = "<s>", "</s>"
LOG10 = math.log(10.0)

_CHUNK = 1 << 22  # bytes that are read at once; no line may be longer
_BLOCK = 1 << 16  # lines that are parsed at once
_PREAMBLE = 1000  # lines before \data\
_MAX_RATIO, _ALWAYS = 200, 1 << 28  # of bytes unpacked to packed; bytes that are never too many
_IS_SPACE = np.isin(np.arange(256), list(b" \t\n\r\x0b\x0c"))  # as in bytes.split
_BOM = b"\xef\xbb\xbf"
_FOREIGN = {
    b"mmap lm http://kheafield.com/": "a KenLM binary, which holds hashes in place of words; take "
    "the ARPA file that KenLM's build_binary made it from (plain, .gz or .xz)",
    b"PK\x03\x04": "a ZIP archive; unpack it and take the ARPA file in it",
    b"BZh": "packed by bzip2; unpack it, or pack it with gzip or xz",
}


class Section(NamedTuple):
    """The n-grams of one order.

    Attributes:
        words: (M, n) int32 ids of the words, in reading order.
        log_prob: (M,) float32 natural log probability of the last word after the others.
        backoff: (M,) float32 natural log backoff weight; 0 where the file has none.
        first_line: line number of the first n-gram; the others follow line by line.
    """

    words: np.ndarray
    log_prob: np.ndarray
    backoff: np.ndarray
    first_line: int


def read_arpa(path: Path) -> tuple[list[str], list[Section]]:
    """Read an ARPA file.

    Returns:
        The words, whose positions are their ids, and the sections of orders 1, 2, ...

    Raises:
        InputError: naming file and line, when the file is missing, damaged, cut, of another format
            or inconsistent.
    """
    with unpacked(path, "the language model") as file:
        _check_magic(path, file)
        file.seek(0)
        return _Arpa(path, file).read()


def _check_magic(path: Path, file: BinaryIO) -> None:
    start = file.read(64)
    if not start:
        raise InputError(f"{path}: the language model is empty")
    for magic, what in _FOREIGN.items():
        if start.startswith(magic):
            raise InputError(f"{path}: not ARPA but {what}")


class _Lines:
    """The lines of a file, one by one or many at once, in bounded memory.

    Attributes:
        number: number of the line that was taken last.
    """

    def __init__(self, path: Path, file: BinaryIO):
        self.path, self.number = path, 0
        self._file, self._unpacked = file, 0
        self._max_unpacked = max(_ALWAYS, path.stat().st_size * _MAX_RATIO)
        self._text, self._start = b"", 0  # what was read, and where the next line starts in it
        self._ends, self._taken = np.empty(0, np.int64), 0  # of whole lines; how many were taken

    def take(self, count: int) -> bytes:
        """At least one and at most `count` lines; nothing at the end of the file."""
        if self._taken == len(self._ends) and not self._read():
            return b""
        self._taken = min(self._taken + count, len(self._ends))
        start, self._start = self._start, int(self._ends[self._taken - 1])
        return self._text[start : self._start]

    def next(self) -> bytes | None:
        """The next line without outer white space; None at the end of the file."""
        line = self.take(1)
        self.number += bool(line)
        return line.strip() if line else None

    def _read(self) -> bool:
        """Read at least one more line; False at the end of the file."""
        chunk = self._file.read(_CHUNK)
        self._unpacked += len(chunk)
        if self._unpacked > self._max_unpacked:
            raise InputError(
                f"{self.path}: no language model: unpacks to more than {_MAX_RATIO} times its size"
            )
        text = self._text[self._start :] + chunk
        ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n")) + 1
        if not len(ends) and len(text) >= _CHUNK:
            raise InputError(
                f"{self.path}:{self.number + 1}: not ARPA: a line of more than {_CHUNK} bytes"
            )
        if not len(chunk) and text:
            ends = np.array([len(text)])  # the last line has no line feed
        self._text, self._start, self._ends, self._taken = text, 0, ends, 0
        return len(ends) > 0 or (len(chunk) > 0 and self._read())


class _Arpa:
    """One ARPA file while it is read."""

    def __init__(self, path: Path, file: BinaryIO):
        self.path, self._lines = path, _Lines(path, file)
        self._pending: bytes | None = None
        self._ids: dict[bytes, int] = {}

    def read(self) -> tuple[list[str], list[Section]]:
        counts = self._read_counts()
        sections = [self._read_section(n, counts[n - 1]) for n in range(1, len(counts) + 1)]
        self._find(b"\\end\\")
        while self._lines.take(_BLOCK):  # the checksum of a packed file stands at its end
            pass
        return [word.decode() for word in self._ids], sections

    def _fail(self, message: str, after: int = 0) -> NoReturn:
        """Refuse the line that was taken last, or one `after` it."""
        raise InputError(f"{self.path}:{self._lines.number + after}: {message}")

    def _find(self, heading: bytes) -> None:
        """Go on to a heading; only blank lines may come before it."""
        line, self._pending = self._pending or self._lines.next(), None
        while line == b"":
            line = self._lines.next()
        if line is None:
            self._fail(f"the file is cut: it ends where {heading.decode()} should come")
        if line != heading:
            self._fail(f"{_shown(line)} where {heading.decode()} should come")

    def _read_counts(self) -> list[int]:
        """The number of n-grams of each order that the head of the file announces."""
        for _ in range(_PREAMBLE):
            line = self._lines.next()
            if line is None or line.removeprefix(_BOM) == b"\\data\\":
                break
        else:
            line = None
        if line is None:
            self._fail("not an ARPA language model: no line \\data\\ at its beginning")
        counts: list[int] = []
        while line := self._lines.next():
            match = re.fullmatch(rb"ngram\s+(\d{1,3})\s*=\s*(\d{1,18})", line)
            if not match or int(match[1]) != len(counts) + 1:
                self._fail(f"{_shown(line)} where 'ngram {len(counts) + 1}=COUNT' should come")
            counts.append(int(match[2]))
        self._check_counts(counts)
        return counts

    def _check_counts(self, counts: list[int]) -> None:
        if not counts or not counts[0]:
            self._fail("the head announces no 1-grams")
        if len(counts) > MAX_ORDER:
            self._fail(
                f"a model of order {len(counts)}; orders 1 to {MAX_ORDER} are read. Reduce it, for "
                f"example with SRILM's ngram -order {MAX_ORDER} -write-lm"
            )
        if sum(counts) >= 2**31 - 1:
            self._fail(f"{sum(counts)} n-grams, at most {2**31 - 2} are read: prune the model")

    def _read_section(self, n: int, count: int) -> Section:
        self._find(b"\\%d-grams:" % n)
        first_line, missing, blocks = self._lines.number + 1, count, []
        while missing:
            text = self._lines.take(min(missing, _BLOCK))
            if not text:
                self._fail(f"the file is cut: {missing} of {count} {n}-grams are missing")
            blocks.append(self._parse(text, n, count))
            self._lines.number += len(blocks[-1][0])
            missing -= len(blocks[-1][0])
        self._pending = self._lines.next()
        if self._pending and not self._pending.startswith(b"\\"):
            self._fail(f"more {n}-grams than the {count} that the head announces")
        if not blocks:
            return Section(np.empty((0, n), np.int32), *np.empty((2, 0), np.float32), first_line)
        return Section(*map(np.concatenate, zip(*blocks, strict=True)), first_line)

    def _parse(self, text: bytes, n: int, count: int) -> tuple[np.ndarray, ...]:
        """Words, log probabilities and backoffs of lines `log10 word ... [log10]`."""
        widths = _count_tokens(text)
        wrong = (widths < n + 1) | (widths > n + 2)
        if wrong.any():
            self._refuse_line(text, int(np.argmax(wrong)), n, count)
        tokens = text.split()
        starts = np.cumsum(widths) - widths
        probs, *words = (_pick(tokens, starts + k) for k in range(n + 1))
        log_prob = self._logs(probs, np.arange(len(starts)))
        backoff = np.zeros(len(starts), np.float32)
        rows = np.flatnonzero(widths == n + 2)
        backoff[rows] = self._logs(_pick(tokens, starts[rows] + n + 1), rows)
        if (log_prob > 0).any():
            i = int(np.argmax(log_prob > 0))
            self._refuse(i, f"a log probability of {_shown(probs[i])}; none is above 0")
        if n == 1:
            self._add_words(words[0])
        ids = np.stack([self._word_ids(column) for column in words], axis=1)
        return ids, log_prob, backoff

    def _logs(self, column: Sequence[bytes], rows: np.ndarray) -> np.ndarray:
        """(M,) float32 natural logarithms of tokens that stand in the lines `rows` of the block."""
        try:
            values = np.fromiter(map(float, column), np.float64, len(column))
        except ValueError:
            values = np.array([_number(text) for text in column])
        with np.errstate(over="ignore"):
            logs = (values * LOG10).astype(np.float32)
        if not np.isfinite(logs).all():
            i = int(np.argmin(np.isfinite(logs)))
            self._refuse(int(rows[i]), f"{_shown(column[i])} is not a finite number")
        return logs

    def _word_ids(self, column: Sequence[bytes]) -> np.ndarray:
        """(M,) int32."""
        try:
            return np.fromiter(map(self._ids.__getitem__, column), np.int32, len(column))
        except KeyError:
            i = next(i for i, word in enumerate(column) if word not in self._ids)
            self._refuse(i, f"{_shown(column[i])} is not among the 1-grams")

    def _add_words(self, words: Sequence[bytes]) -> None:
        for i, word in enumerate(words):
            if word in self._ids:
                self._refuse(i, f"{_shown(word)} stands among the 1-grams twice")
            try:
                word.decode()
            except UnicodeDecodeError as error:
                self._refuse(i, f"{word!r} is not UTF-8: {error.reason}")
            self._ids[word] = len(self._ids)

    def _refuse(self, row: int, message: str) -> NoReturn:
        """Refuse a line of the block that is being parsed."""
        self._fail(message, after=1 + row)

    def _refuse_line(self, text: bytes, row: int, n: int, count: int) -> NoReturn:
        """Refuse a line with too few or too many tokens for an n-gram."""
        line = text.split(b"\n")[row].strip()
        if not line or line.startswith(b"\\"):
            self._refuse(row, f"fewer {n}-grams than the {count} that the head announces")
        self._refuse(
            row, f"{_shown(line)} is no {n}-gram: needed are a log probability, {n} "
            f"word{'s' * (n > 1)} and perhaps a backoff weight"
        )


def _count_tokens(text: bytes) -> np.ndarray:
    """(lines,) int64 the number of tokens that `bytes.split` finds in each line."""
    characters = np.frombuffer(text, np.uint8)
    space = _IS_SPACE[characters]
    begins = ~space
    begins[1:] &= space[:-1]
    ends = np.flatnonzero(characters == ord("\n"))
    if not text.endswith(b"\n"):
        ends = np.append(ends, len(text) - 1)
    return np.diff(np.searchsorted(np.flatnonzero(begins), ends, "right"), prepend=0)


def _pick(tokens: list[bytes], at: np.ndarray) -> Sequence[bytes]:
    """The tokens at ascending positions."""
    steps = np.diff(at)
    if len(at) > 1 and (steps == steps[0]).all():
        return tokens[at[0] : at[-1] + 1 : steps[0]]  # faster
    return [tokens[i] for i in at.tolist()]


def _number(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _shown(text: bytes) -> str:
    """Some content of the file for a message."""
    return repr(text[:60].decode(errors="backslashreplace"))


def write_arpa(path: Path, words: list[str], sections: list[Section]) -> None:
    """Write an ARPA file, packed as the suffix says: `.gz`, `.xz`, or anything else plain.

    The same model gives the same bytes.
    """
    packers = {
        ".gz": functools.partial(gzip.GzipFile, "", "wb", 6, mtime=0),  # without name and time
        ".xz": functools.partial(lzma.LZMAFile, mode="wb"),
    }
    pack = packers.get(path.suffix, contextlib.nullcontext)
    with (
        atomic_path(path) as temporary,
        open(temporary, "wb") as file,
        pack(file) as content,
    ):
        _write(content, words, sections)


def _write(file: BinaryIO, words: list[str], sections: list[Section]) -> None:
    counts = [f"ngram {n}={len(section.words)}\n" for n, section in enumerate(sections, 1)]
    file.write("".join(["\\data\\\n", *counts]).encode())
    names = np.array(words, object)
    for n, section in enumerate(sections, 1):
        file.write(f"\n\\{n}-grams:\n".encode())
        for start in range(0, len(section.words), _BLOCK):
            part = slice(start, start + _BLOCK)
            texts = map(" ".join, names[section.words[part]].tolist())
            rows = zip(section.log_prob[part] / LOG10, texts, section.backoff[part] / LOG10,
                       strict=True)
            lines = [f"{p:.6g}\t{text}\t{b:.6g}\n" if b else f"{p:.6g}\t{text}\n"
                     for p, text, b in rows]
            file.write("".join(lines).encode())
    file.write(b"\n\\end\\\n")
