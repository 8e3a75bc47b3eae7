"""Manifests: the recordings and transcripts of a data set, with checks and an index.

A manifest is a CSV without header. Each line is `audio_path,transcript_path`, absolute or relative
to the manifest; blank lines are passed over. The index beside it (`NAME.index.npz`) stores the
metadata of each utterance for sorting and checking, so that no recording is decoded twice. An entry
is valid while both files' size and mtime are unchanged.
"""

import codecs
import contextlib
import csv
import hashlib
import io
import logging
import os
import re
from array import array
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from deepspeech2.audio import read_audio
from deepspeech2.errors import InputError
from deepspeech2.files import atomic_path, is_special, parse_json
from deepspeech2.labels import Labels, UnknownCharacters, describe, listed

logger = logging.getLogger(__name__)

INDEX_VERSION = 2
_UTTERANCES_AT_ONCE = 10_000  # handed to the threads that check files
_LONGEST_LINE = 20_000  # characters; a path has 4096 bytes at most
_SHOWN = 5  # problems of each kind in a message
_COLUMN_NAME = re.compile(r"[A-Za-z_][\w -]*")  # no path, because it has neither dot nor slash
# what the JSON manifests of other programs contain, and their format for data.corpus
_JSON_KEYS = {"audio_filepath": "nemo", "samples": "deepspeech.pytorch"}


class ManifestError(InputError):
    """A manifest that cannot be used.

    The message has the first problems of each kind; see `summary`.

    Attributes:
        problems: everything that is wrong, each as `file:line: message`.
    """

    def __init__(self, problems: Sequence[str]):
        super().__init__("\n".join(summary(problems)))
        self.problems = list(problems)


def summary(problems: Sequence[str]) -> list[str]:
    """The first problems of each kind, then a line for each kind that has more.

    Problems are of one kind when their messages, after the names of files, are equal up to the
    first quote or digit.
    """
    counts: Counter[str] = Counter()
    lines = []
    for problem in problems:
        kind = re.split(r"['\d]", problem.split(": ", 2)[-1])[0].rstrip(" (:")
        counts[kind] += 1
        if counts[kind] <= _SHOWN:
            lines.append(problem)
    return lines + [f"and {n - _SHOWN} more: {kind}" for kind, n in counts.items() if n > _SHOWN]


class UtteranceInfo(NamedTuple):
    """Metadata of one utterance."""

    samples: int  # per channel, at the file's own rate
    sample_rate: int  # Hz
    labels: int  # characters of the transcript
    repeats: int  # characters that equal the one before


@dataclass(frozen=True)
class Manifest:
    """The utterances of a data set in the order of the file."""

    path: Path
    line_numbers: np.ndarray  # (rows,) int64
    audio_paths: list[str]
    transcript_paths: list[str]
    samples: np.ndarray  # (rows,) int64, see UtteranceInfo
    sample_rates: np.ndarray  # (rows,) int64
    label_counts: np.ndarray  # (rows,) int64
    repeats: np.ndarray  # (rows,) int64

    def __len__(self) -> int:
        return len(self.audio_paths)

    def where(self, row: int) -> str:
        """The line of a row, as `file:line`."""
        return f"{self.path}:{self.line_numbers[row]}"

    @property
    def seconds(self) -> np.ndarray:
        """(rows,) float64 durations."""
        return self.samples / self.sample_rates

    @property
    def required_frames(self) -> np.ndarray:
        """(rows,) int64: output frames that CTC needs, one per label and one between equals."""
        return self.label_counts + self.repeats

    def fingerprint(self) -> str:
        """Changes with the utterances and their order, but not with the folder they lie in."""
        rows = zip(self.audio_paths, self.samples, self.label_counts, self.repeats, strict=True)
        content = "".join(f"{os.path.basename(path)},{a},{b},{c}\n" for path, a, b, c in rows)
        return hashlib.sha256(content.encode(errors="surrogateescape")).hexdigest()[:16]


def read_transcript(path: str | Path, labels: Labels) -> str:
    """Read a transcript in the characters of the labels; "" if there is nothing in the file.

    Raises:
        InputError: as `read_text`.
        UnknownCharacters: naming the file, when it has characters without a class.
    """
    text = read_text(path)
    try:
        return labels.normalize(text)
    except UnknownCharacters as error:
        raise UnknownCharacters(f"{path}: {error}", error.characters) from None


def read_text(path: str | Path) -> str:
    """Read a transcript as it stands.

    Raises:
        InputError: naming the file, when it is missing, no file, or not UTF-8.
    """
    if is_special(path):
        raise InputError(f"{path}: cannot read the transcript: a pipe or a device, not a file")
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot read the transcript: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: the transcript is not UTF-8: {error.reason} at byte {error.start}"
        ) from None


def count_repeats(indices: Sequence[int]) -> int:
    """The number of (U,) class indices that equal the index before them."""
    return sum(a == b for a, b in zip(indices, indices[1:], strict=False))


def read_manifest(
    path: str | Path, labels: Labels, jobs: int | None = None, allow_empty: bool = False
) -> Manifest:
    """Read a manifest, and check all files that are new or changed since the index was written.

    Args:
        path: the manifest.
        labels: the alphabet of the transcripts.
        jobs: number of threads; None for one per core.
        allow_empty: whether transcripts may be empty, as those of silence in an evaluation.

    Raises:
        ManifestError: with all problems of the manifest and its files.
    """
    manifest, problems = inspect_manifest(
        path, labels, jobs, trust_index=True, allow_empty=allow_empty
    )
    if problems:
        raise ManifestError(problems)
    assert manifest is not None
    return manifest


def write_manifest(
    path: str | Path,
    rows: Sequence[tuple[str | Path, str | Path]],
    labels: Labels,
    jobs: int | None = None,
    metadata: Sequence[UtteranceInfo] | None = None,
) -> tuple[Manifest | None, list[str]]:
    """Write a manifest with absolute paths, and its index.

    An existing file with the same content is not written again.

    Args:
        path: the manifest.
        rows: (audio path, transcript path) of each utterance.
        labels: the alphabet of the transcripts.
        jobs: number of threads; None for one per core.
        metadata: known metadata of each row; then only missing files are checked.

    Returns:
        As `inspect_manifest`.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        (os.path.abspath(a), os.path.abspath(t)) for a, t in rows
    )
    content = text.getvalue().encode()
    if not Path(path).is_file() or Path(path).read_bytes() != content:
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    return inspect_manifest(path, labels, jobs, trust_index=True, metadata=metadata)


def inspect_manifest(
    path: str | Path,
    labels: Labels,
    jobs: int | None = None,
    trust_index: bool = False,
    metadata: Sequence[UtteranceInfo] | None = None,
    allow_empty: bool = False,
) -> tuple[Manifest | None, list[str]]:
    """Check every line and file of a manifest in one pass, and write its index.

    Args:
        path: the manifest.
        labels: the alphabet of the transcripts.
        jobs: number of threads; None for one per core.
        trust_index: whether to skip files that have not changed since the index was written.
        metadata: known metadata of each row; then only missing files are checked.
        allow_empty: whether transcripts may be empty.

    Returns:
        The manifest, None if it has problems, and the problems, each as `file:line: message`.
    """
    path = Path(path)
    lines = _parse(path)
    rows, problems = len(lines.audio_paths), lines.problems
    if not rows:
        return None, problems or [f"{path}: the manifest is empty"]
    file_states = _file_states(lines)
    known = None
    if trust_index and not problems:
        known = _load_index(index_path(path), lines.digest, labels, rows)
    if metadata is not None:
        infos, unchecked = np.array(metadata, np.int64), (file_states < 0).any(axis=1)
    elif known is not None:
        infos, unchecked = known.metadata.copy(), (known.file_states != file_states).any(axis=1)
        if not allow_empty:
            unchecked |= known.metadata[:, 2] == 0
    else:
        infos, unchecked = np.zeros((rows, 4), np.int64), np.ones(rows, bool)
    problems += _check_files(lines, np.flatnonzero(unchecked), infos, labels, jobs, allow_empty)
    if problems:
        return None, problems
    if known is None or not (
        np.array_equal(known.metadata, infos) and np.array_equal(known.file_states, file_states)
    ):
        _save_index(index_path(path), lines.digest, labels, _Index(infos, file_states))
    numbers = np.array(lines.numbers, np.int64)
    return Manifest(path, numbers, lines.audio_paths, lines.transcript_paths, *infos.T), []


def index_path(manifest: str | Path) -> Path:
    """The path of a manifest's index."""
    return Path(manifest).with_suffix(".index.npz")


@dataclass(frozen=True)
class _Lines:
    """The well-formed lines of a manifest with their numbers, and the problems of the others."""

    path: Path
    digest: str = ""
    numbers: array = field(default_factory=lambda: array("q"))
    audio_paths: list[str] = field(default_factory=list)
    transcript_paths: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def _parse(path: Path) -> _Lines:
    """Read the lines of a manifest, without looking at the files that they name."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return _Lines(path, problems=[f"{path}: cannot read the manifest: {error.strerror}"])
    result = _Lines(path, hashlib.sha256(content).hexdigest())
    folder = path.resolve().parent
    try:
        if advice := _json_advice(path, content):
            return _Lines(path, problems=[advice])
        for number, line in enumerate(io.TextIOWrapper(io.BytesIO(content), "utf-8-sig"), 1):
            cells = _cells(line.rstrip("\n"))
            if fault := _fault(line, cells, number, folder):
                result.problems.append(f"{path}:{number}: {fault}")
            elif any(cells):
                result.numbers.append(number)
                result.audio_paths.append(os.path.join(folder, cells[0]))
                result.transcript_paths.append(os.path.join(folder, cells[1]))
    except UnicodeDecodeError as error:
        return _Lines(
            path,
            problems=[f"{path}: the manifest is not UTF-8: {error.reason} at byte {error.start}"],
        )
    return result


def _fault(line: str, cells: list[str], number: int, folder: Path) -> str:
    """What is wrong with a line of a manifest in `folder`, or ""."""
    found = line.rstrip("\n")[:80]
    names = number == 1 and len(cells) > 1 and all(map(_COLUMN_NAME.fullmatch, cells))
    if names and not os.path.exists(os.path.join(folder, cells[0])):
        return f"a manifest has no header: delete this line, {found!r}"
    if line.strip() and (len(cells) != 2 or "\0" in line or not all(cells)):
        return f"expected `audio_path,transcript_path`, found {found!r}"
    return ""


def _json_advice(path: Path, content: bytes) -> str:
    """What to do with a manifest that is JSON, or "". Raises UnicodeDecodeError."""
    content = content.removeprefix(codecs.BOM_UTF8).lstrip()
    if content[:1] not in (b"{", b"["):
        return ""
    text = content.decode()
    for part in (text.partition("\n")[0], text):
        with contextlib.suppress(ValueError):
            value = parse_json(part)
            keys = value if isinstance(value, dict) else ()
            form = next((form for key, form in _JSON_KEYS.items() if key in keys), "")
            command = f"; python -m data.corpus {path} --format {form} makes a manifest of it"
            return (
                f"{path}: this is JSON; a manifest is a CSV file, `audio_path,transcript_path` a "
                f"line{command if form else ''}"
            )
    return ""


def _check_files(
    lines: _Lines,
    rows: np.ndarray,
    metadata: np.ndarray,
    labels: Labels,
    jobs: int | None,
    allow_empty: bool,
) -> list[str]:
    """Read the files of some rows completely.

    Args:
        lines: the manifest.
        rows: row numbers to check.
        metadata: (all rows, 4) int64; the checked rows are set.
        labels: the alphabet of the transcripts.
        jobs: number of threads; None for one per core.
        allow_empty: whether transcripts may be empty.

    Returns:
        The problems, each as `file:line: message`.
    """
    if not len(rows):
        return []
    problems = []
    unknown: list[Sequence[str]] = []  # of each transcript that has characters without a class
    quiet = len(rows) < 2000 or None  # None: shown on a terminal only
    progress_bar = tqdm(desc=f"checking {lines.path.name}", total=len(rows), disable=quiet)
    with ThreadPoolExecutor(jobs or os.cpu_count()) as pool, progress_bar:
        # in parts, because pool.map makes all tasks before it starts
        for start in range(0, len(rows), _UTTERANCES_AT_ONCE):
            part = rows[start : start + _UTTERANCES_AT_ONCE]
            audio_paths = (lines.audio_paths[i] for i in part)
            transcript_paths = (lines.transcript_paths[i] for i in part)
            options = repeat(labels), repeat(allow_empty)
            checked = pool.map(_inspect, audio_paths, transcript_paths, *options)
            for i, (info, messages, characters) in zip(part, checked, strict=True):
                metadata[i] = info
                unknown += [characters] if characters else []
                problems += [f"{lines.path}:{lines.numbers[i]}: {text}" for text in messages]
                progress_bar.update()
    if len(unknown) > _SHOWN:  # a summary does not show them all
        counts = Counter(chain.from_iterable(unknown)).most_common()
        named = listed([f"{describe(c)} in {n}" for c, n in counts], ", ")
        problems.append(f"{lines.path}: transcripts with unknown characters: {named}")
    return problems


def _cells(line: str) -> list[str]:
    """The cells of one line. Each line is parsed alone, so an open quote affects no other line."""
    if len(line) > _LONGEST_LINE:
        return []
    # the csv module takes five times as long as split
    cells = line.split(",") if '"' not in line else next(csv.reader([line]), [])
    return [cell.strip() for cell in cells]


def _file_states(lines: _Lines) -> np.ndarray:
    """(rows, 4) int64: size and mtime of each recording, size and mtime of each transcript."""
    numbers = (
        number
        for audio, transcript in zip(lines.audio_paths, lines.transcript_paths, strict=True)
        for number in _size_and_mtime(audio) + _size_and_mtime(transcript)
    )
    rows = len(lines.audio_paths)
    return np.fromiter(numbers, np.int64, 4 * rows).reshape(rows, 4)


def _size_and_mtime(path: str) -> tuple[int, int]:
    """Size in bytes and mtime in ns; (-1, -1) for a missing file, which no index contains."""
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _inspect(
    audio: str, transcript: str, labels: Labels, allow_empty: bool
) -> tuple[UtteranceInfo, list[str], Sequence[str]]:
    """The metadata of one utterance, the problems with its files, and its unknown characters."""
    samples, rate, indices, problems = np.zeros(0), 0, [], []
    unknown: Sequence[str] = ()
    try:
        samples, rate = read_audio(audio)
    except ValueError as error:
        problems.append(str(error))
    try:
        indices = labels.encode(read_transcript(transcript, labels))
        if not indices and not allow_empty:
            problems.append(f"{transcript}: the transcript is empty")
    except InputError as error:
        problems.append(str(error))
        unknown = getattr(error, "characters", ())
    info = UtteranceInfo(len(samples), rate, len(indices), count_repeats(indices))
    return info, problems, unknown


@dataclass(frozen=True)
class _Index:
    """The index of a manifest."""

    metadata: np.ndarray  # (rows, 4) int64, the fields of UtteranceInfo
    file_states: np.ndarray  # (rows, 4) int64, see _file_states

    def describes(self, rows: int) -> bool:
        """Whether both arrays, which may have been read from any file, are as they should be."""
        return all(
            isinstance(part, np.ndarray) and part.dtype == np.int64 and part.shape == (rows, 4)
            for part in (self.metadata, self.file_states)
        )


def _load_index(path: Path, digest: str, labels: Labels, rows: int) -> _Index | None:
    """Read an index; None if it is missing, unreadable, or of another manifest or alphabet."""
    key = f"{INDEX_VERSION} {digest} {labels}"
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            size = sum(member.file_size for member in arrays.zip.infolist())
            if size > 64 * rows + 4 * len(key) + 4096:
                raise ValueError(f"{size} bytes come out of it")
            index = _Index(arrays["metadata"], arrays["file_states"])
            if str(arrays["key"]) == key and index.describes(rows):
                return index
    except Exception as error:  # a damaged index is simply made again
        logger.debug("%s: ignored: %s", path, error)
    return None


def _save_index(path: Path, digest: str, labels: Labels, index: _Index) -> None:
    key = f"{INDEX_VERSION} {digest} {labels}"
    try:
        with atomic_path(path) as temporary:
            np.savez(
                temporary, key=key, metadata=index.metadata, file_states=index.file_states
            )
    except OSError as error:
        logger.warning(
            "%s: the index could not be kept (%s); the files will be checked again next time",
            path,
            error,
        )
