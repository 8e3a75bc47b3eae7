"""Divide recordings among workers: shards of about ten minutes, the same each time."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import soundfile

from deepspeech2.files import is_special

SHARD_SECONDS = 600.0
_UNKNOWN_SECONDS = 10.0  # of a recording that is not there yet
_BYTES_PER_SECOND = 16_000  # of a recording whose header does not tell its length: 128 kbit/s


@dataclass(frozen=True)
class Shard:
    """Recordings that a worker recognises in one go.

    Attributes:
        number: its place among the shards, from 0 on.
        paths: the recordings.
        sizes: of their files in bytes.
    """

    number: int
    paths: tuple[str, ...]
    sizes: tuple[int, ...]


def make_shards(paths: Sequence[str], sizes: Sequence[int]) -> list[Shard]:
    """Divide recordings, in order, into shards of about `SHARD_SECONDS` of audio.

    Args:
        paths: (N,) recordings.
        sizes: (N,) their sizes in bytes.
    """
    counts: list[int] = []
    seconds = SHARD_SECONDS
    for path, size in zip(paths, sizes, strict=True):
        if seconds >= SHARD_SECONDS:
            counts.append(0)
            seconds = 0.0
        counts[-1] += 1
        seconds += estimated_seconds(path, size) or _UNKNOWN_SECONDS
    return divide(paths, sizes, counts)


def divide(paths: Sequence[str], sizes: Sequence[int], counts: Iterable[int]) -> list[Shard]:
    """Divide (N,) recordings with (N,) sizes, in order, into shards with `counts` recordings."""
    ends = list(accumulate(counts, initial=0))
    return [
        Shard(number, tuple(paths[start:end]), tuple(sizes[start:end]))
        for number, (start, end) in enumerate(pairwise(ends))
    ]


def estimated_seconds(path: str, size: int) -> float:
    """The length of a recording as its header tells it, or else about what its size makes likely.

    A header can promise anything. No format here needs less than a bit for 16 samples of 16 kHz.
    A pipe, which fails later, has no length: to open one may never end.
    """
    if is_special(path):
        return 0.0
    try:
        seconds = soundfile.info(path).duration
    except (OSError, RuntimeError, TypeError, ValueError):
        return size / _BYTES_PER_SECOND
    return min(seconds, size * 8 * 16 / 16_000)


def file_size(path: str) -> int:
    """The size of a file in bytes; 0 where there is none, which is a recording that fails."""
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return 0
