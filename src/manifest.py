"""Which recordings and transcripts make a data set: the manifest, its checks, and the index kept beside it.

A manifest is a CSV without header: `audio_path,transcript_path` a line, absolute or relative to the
manifest. Its index (`NAME.index.npz`) keeps what sorting by length and checking need, one row an
utterance, so that nothing is decoded twice: a row is believed as long as both files have the size
and time of change that it recorded.
"""

import csv
import hashlib
import io
import logging
import os
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path

import numpy as np
from tqdm import tqdm

from deepspeech2.audio import read_audio
from deepspeech2.errors import InputError
from deepspeech2.files import atomic_path
from deepspeech2.labels import Labels

logger = logging.getLogger(__name__)

INDEX_VERSION = 1
_PENDING = 10_000  # files that wait to be checked
_LONGEST_LINE = 20_000  # characters; a path has 4096 bytes at most


class ManifestError(InputError):
    """A manifest that cannot be used; `problems` lists everything that is wrong as `file:line.

    Message`.
    """

    def __init__(self, problems: Sequence[str]):
        super().__init__("\n".join(problems))
        self.problems = list(problems)


@dataclass(frozen=True)
class Manifest:
    """The utterances of a data set, in the order of the file.

    Line i + 1 is row i of every member.
    """

    path: Path
    audio_paths: list[str]
    transcript_paths: list[str]
    samples: np.ndarray  # (rows,) int64, per channel at the file's own rate
    sample_rates: np.ndarray  # (rows,) int64, Hz
    label_counts: np.ndarray  # (rows,) int64, characters of the transcript
    repeats: np.ndarray  # (rows,) int64, characters equal to the one before

    def __len__(self) -> int:
        return len(self.audio_paths)

    @property
    def seconds(self) -> np.ndarray:
        """(rows,) float64 durations."""
        return self.samples / self.sample_rates

    @property
    def required_frames(self) -> np.ndarray:
        """(rows,) output frames that CTC needs: one a label and a blank between equal ones."""
        return self.label_counts + self.repeats


def read_transcript(path: str | Path, labels: Labels) -> str:
    """The text of a transcript as `labels` write it: upper case, single spaces.

    Raises:
        InputError: naming the file when it is missing, not UTF-8, empty, or has characters without
            a class.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot read the transcript: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: the transcript is not UTF-8: {error.reason} at byte {error.start}"
        ) from None
    if not text.strip():
        raise InputError(f"{path}: the transcript is empty")
    try:
        return labels.normalize(text)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def count_repeats(indices: Sequence[int]) -> int:
    """How many of (U,) class indices equal the one before."""
    return sum(a == b for a, b in zip(indices, indices[1:], strict=False))


def read_manifest(path: str | Path, labels: Labels, jobs: int | None = None) -> Manifest:
    """Read a manifest and make sure that every file in it can be used, decoding only what the index does not know.

    Raises:
        ManifestError: with every problem of the manifest and its files.
    """
    manifest, problems = inspect_manifest(path, labels, jobs, trust_index=True)
    if problems:
        raise ManifestError(problems)
    assert manifest is not None
    return manifest


def write_manifest(
    path: str | Path,
    rows: Sequence[tuple[str | Path, str | Path]],
    labels: Labels,
    jobs: int | None = None,
    facts: Sequence[tuple[int, int, int, int]] | None = None,
) -> tuple[Manifest | None, list[str]]:
    """Write (audio, transcript) rows as a manifest of absolute paths, and its index; returns as `inspect_manifest`.

    `facts` are (samples, sample rate, labels, repeats) of each row: who has just written the files
    knows them, and then nothing is decoded. What has these contents already is left alone.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        (os.path.abspath(a), os.path.abspath(t)) for a, t in rows
    )
    content = text.getvalue().encode()
    if not Path(path).is_file() or Path(path).read_bytes() != content:
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    return inspect_manifest(path, labels, jobs, trust_index=True, facts=facts)


def inspect_manifest(
    path: str | Path,
    labels: Labels,
    jobs: int | None = None,
    trust_index: bool = False,
    facts: Sequence[tuple[int, int, int, int]] | None = None,
) -> tuple[Manifest | None, list[str]]:
    """Check every line and file of a manifest in one pass with `jobs` threads (None: one a core).

    Returns the manifest (None if it has problems) and the list of problems as `file:line: message`.
    With `trust_index`, files that have not changed since the index was written are not read again;
    with `facts`, as of `write_manifest`, only those are that cannot be found.
    """
    path = Path(path)
    lines = _parse(path)
    rows, problems = len(lines.audio_paths), lines.problems
    if not rows:
        return None, problems or [f"{path}: the manifest is empty"]
    stamps = np.fromiter(
        (
            number
            for audio, transcript in zip(lines.audio_paths, lines.transcript_paths, strict=True)
            for number in _stamp(audio) + _stamp(transcript)
        ),
        np.int64,
        4 * rows,
    ).reshape(rows, 4)
    known = (
        _load_index(index_path(path), lines.digest, labels)
        if trust_index and not problems
        else None
    )
    if known is not None and len(known["stamps"]) != rows:
        known = None
    if facts is not None:
        facts, stale = np.array(facts, np.int64), (stamps < 0).any(axis=1)
    elif known is not None:
        facts, stale = known["facts"], (known["stamps"] != stamps).any(axis=1)
    else:
        facts, stale = np.zeros((rows, 4), np.int64), np.ones(rows, bool)
    if stale.any():
        facts = facts.copy()
        problems += _check_files(lines, np.flatnonzero(stale), facts, labels, jobs)
    if problems:
        return None, problems
    if known is None or not (
        np.array_equal(known["facts"], facts) and np.array_equal(known["stamps"], stamps)
    ):
        _save_index(index_path(path), lines.digest, labels, facts, stamps)
    return Manifest(path, lines.audio_paths, lines.transcript_paths, *facts.T), []


def index_path(manifest: str | Path) -> Path:
    """Where the index of a manifest is kept."""
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
    try:
        content = path.read_bytes()
    except OSError as error:
        return _Lines(path, problems=[f"{path}: cannot read the manifest: {error.strerror}"])
    result = _Lines(path, hashlib.sha256(content).hexdigest())
    folder = path.resolve().parent
    try:
        for number, line in enumerate(io.TextIOWrapper(io.BytesIO(content), "utf-8-sig"), 1):
            cells = _cells(line.rstrip("\n"))
            if len(cells) != 2 or "\0" in line or not all(cells):
                found = line.rstrip("\n")[:80]
                result.problems.append(
                    f"{path}:{number}: expected `audio_path,transcript_path`, found {found!r}"
                )
            else:
                result.numbers.append(number)
                result.audio_paths.append(os.path.join(folder, cells[0]))
                result.transcript_paths.append(os.path.join(folder, cells[1]))
    except UnicodeDecodeError as error:
        return _Lines(
            path,
            problems=[f"{path}: the manifest is not UTF-8: {error.reason} at byte {error.start}"],
        )
    return result


def _check_files(
    lines: _Lines, rows: np.ndarray, facts: np.ndarray, labels: Labels, jobs: int | None
) -> list[str]:
    """Read the files of `rows` completely, put into `facts` what they are, and return what is wrong with them."""
    problems = []
    quiet = len(rows) < 2000 or None  # None: shown on a terminal only
    with ThreadPoolExecutor(jobs or os.cpu_count()) as pool, \
            tqdm(desc=f"checking {lines.path.name}", total=len(rows), disable=quiet) as bar:
        # the pool would make a million tasks before the first is done
        for start in range(0, len(rows), _PENDING):
            part = rows[start:start + _PENDING]
            checked = pool.map(_inspect, (lines.audio_paths[i] for i in part),
                               (lines.transcript_paths[i] for i in part), repeat(labels))
            for i, (fact, wrong) in zip(part, checked, strict=True):
                facts[i] = fact
                problems += [f"{lines.path}:{lines.numbers[i]}: {message}" for message in wrong]
                bar.update()
    return problems


def _cells(line: str) -> list[str]:
    """The cells of one line, read by itself: an open quote must not swallow the lines after it."""
    if len(line) > _LONGEST_LINE:
        return []
    # csv takes five times as long
    cells = line.split(",") if '"' not in line else next(csv.reader([line]), [])
    return [cell.strip() for cell in cells]


def _stamp(path: str) -> tuple[int, int]:
    """Size in bytes and time of change in ns.

    (-1, -1) for a missing file, which no index ever holds.
    """
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _inspect(
    audio: str, transcript: str, labels: Labels
) -> tuple[tuple[int, int, int, int], list[str]]:
    """(samples, sample rate, labels, repeats) of one utterance, and what is wrong with it."""
    samples, rate, indices, problems = np.zeros(0), 0, [], []
    try:
        samples, rate = read_audio(audio)
    except ValueError as error:
        problems.append(str(error))
    try:
        indices = labels.encode(read_transcript(transcript, labels))
    except ValueError as error:
        problems.append(str(error))
    return (len(samples), rate, len(indices), count_repeats(indices)), problems


def _load_index(path: Path, digest: str, labels: Labels) -> dict[str, np.ndarray] | None:
    """The index, or None when it is missing, unreadable, or of another manifest, alphabet or version."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as index:
            if str(index["key"]) == f"{INDEX_VERSION} {digest} {labels}":
                return {name: index[name] for name in ("facts", "stamps")}
    except Exception as error:  # whatever is wrong with it, it can be made again
        logger.debug("%s: ignored: %s", path, error)
    return None


def _save_index(
    path: Path, digest: str, labels: Labels, facts: np.ndarray, stamps: np.ndarray
) -> None:
    try:
        with atomic_path(path) as temporary:
            np.savez(
                temporary, key=f"{INDEX_VERSION} {digest} {labels}", facts=facts, stamps=stamps
            )
    except OSError as error:
        logger.warning(
            "%s: the index could not be kept (%s); the files will be checked again next time",
            path,
            error,
        )
