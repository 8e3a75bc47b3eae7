"""Divide recordings among workers: shards of about ten minutes, the same each time."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import soundfile

from deepspeech2.files import is_special

SHARD_SECONDS = 600.0
_BYTES_PER_SECOND = 16_000  # of a recording whose header does not tell its length: 128 kbit/s


@dataclass(frozen=True)
class Shard:
    """Recordings that a worker recognises in one go.

    Attributes:
        number: its place among the shards, from 0 on.
        paths: the recordings.
    """

    number: int
    paths: tuple[str, ...]


def make_shards(paths: Sequence[str], sizes: Sequence[int]) -> list[Shard]:
    """Divide recordings, in order, into shards of about `SHARD_SECONDS` of audio.

    Args:
        paths: (N,) recordings.
        sizes: (N,) their sizes in bytes.
    """
    shards: list[Shard] = []
    inside: list[str] = []
    seconds = 0.0
    for path, size in zip(paths, sizes, strict=True):
        inside.append(path)
        seconds += estimated_seconds(path, size)
        if seconds >= SHARD_SECONDS:
            shards.append(Shard(len(shards), tuple(inside)))
            inside, seconds = [], 0.0
    if inside:
        shards.append(Shard(len(shards), tuple(inside)))
    return shards


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
