"""Where recordings come from: paths, pipes and file objects, as files that can be read anywhere."""

import contextlib
import io
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from deepspeech2.errors import InputError

RATES = (1000, 1_000_000)  # Hz
STREAMED = 0x7FFFF000  # sizes from here on are placeholders that streaming programs write
_IN_MEMORY = 1 << 25  # bytes of a pipe that are kept in memory; a longer recording goes to the disk
_CHUNK = 1 << 20  # bytes


class AudioError(InputError):
    """Audio that cannot be used; the message names the file."""


@dataclass(frozen=True)
class Recording:
    """A recording that is open for reading.

    Attributes:
        name: what messages call it.
        file: its bytes; can seek, positions count from the beginning of the file.
        size: bytes in it.
        path: the path of a regular file; None for a pipe or a file object.
    """

    name: str
    file: BinaryIO
    size: int
    path: str | None = None

    def read(self, position: int, count: int) -> bytes:
        """The bytes from a position on, fewer at the end of the file."""
        self.file.seek(position)
        return self.file.read(count)


@dataclass(frozen=True)
class Part:
    """A stretch of a recording whose samples have one rate; most recordings are one part.

    Attributes:
        rate: sample rate in Hz.
        blocks: (n, channels) float32 samples; may raise AudioError in mid-recording.
        floats: whether the file holds floats, whose full scale need not be 1.
    """

    rate: int
    blocks: Iterator[np.ndarray]
    floats: bool = False


class Section(io.RawIOBase):
    """A stretch of a binary file, some of whose bytes read as others.

    Args:
        file: the file; can seek.
        start: position of the first byte.
        end: position after the last byte.
        changes: bytes to read instead, by their position in the section.
    """

    def __init__(
        self, file: BinaryIO, start: int, end: int, changes: dict[int, bytes] | None = None
    ):
        self._file, self._start, self._size = file, start, max(0, end - start)
        self._changes = changes or {}
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer) -> int:
        count = max(0, min(len(buffer), self._size - self._position))
        if not count:
            return 0
        self._file.seek(self._start + self._position)
        content = bytearray(self._file.read(count))
        for at, change in self._changes.items():
            first, last = max(at, self._position), min(at + len(change), self._position + count)
            if first < last:
                content[first - self._position : last - self._position] = change[
                    first - at : last - at
                ]
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


def standard_input() -> BinaryIO:
    """What is piped into the program.

    Raises:
        AudioError: when that is nothing: a terminal, or closed.
    """
    if sys.stdin is None or sys.stdin.closed:
        raise AudioError("-: cannot read the audio: standard input is closed")
    if sys.stdin.isatty():
        raise AudioError(
            "-: cannot read the audio: standard input is a terminal; send a recording into it, as "
            "in: cat a.wav | deepspeech2 transcribe -"
        )
    return sys.stdin.buffer


def name_of(source: str | Path | BinaryIO | tuple) -> str:
    """What messages call a source; a tuple holds samples and their rate."""
    if isinstance(source, tuple):
        return "samples"
    name = source if isinstance(source, str | Path) else getattr(source, "name", None)
    return str(name) if isinstance(name, str | Path) else "audio"


@contextlib.contextmanager
def opened(source: str | Path | BinaryIO) -> Iterator[Recording]:
    """Open a source; a pipe is read to its end first.

    Raises:
        AudioError: naming the source, when it is missing, a folder or a device, or empty.
    """
    name = name_of(source)
    with contextlib.ExitStack() as stack:
        try:
            path = None
            file = source
            if isinstance(source, str | Path):
                mode = os.stat(source).st_mode
                if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                    raise AudioError(f"{name}: cannot read the audio: a device, not a recording")
                path = str(source) if stat.S_ISREG(mode) else None
                file = stack.enter_context(open(source, "rb"))
            elif isinstance(file.read(0), str):
                raise AudioError(
                    f"{name}: cannot read the audio: the file is open as text, not as 'rb'"
                )
            size = _size(file)
            if size is None:
                file = stack.enter_context(_spooled(file))
                size = _size(file)
        except AudioError:
            raise
        except (OSError, ValueError) as error:  # ValueError: a name with a null byte, a closed file
            reason = getattr(error, "strerror", None) or error
            raise AudioError(f"{name}: cannot read the audio: {reason}") from None
        if not size:
            raise AudioError(f"{name}: cannot read the audio: the file is empty")
        yield Recording(name, file, size, path)


def _size(file: BinaryIO) -> int | None:
    """Size of a file in bytes; None for one that cannot seek, such as a pipe."""
    try:
        file.seek(0, os.SEEK_END)
        return file.tell()  # seek returns None for spooled files of Python 3.10
    except (OSError, AttributeError):  # io.UnsupportedOperation is an OSError
        return None


def _spooled(stream: BinaryIO) -> BinaryIO:
    """What is left of a stream, as a file that can seek: in memory, or on disk if it is long."""
    file = io.BytesIO()
    while chunk := stream.read(_CHUNK):
        file.write(chunk)
        if isinstance(file, io.BytesIO) and file.tell() > _IN_MEMORY:
            content, file = file, tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
            file.write(content.getbuffer())
    return file
