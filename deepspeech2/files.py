"""Write files so that a final name is always a whole file; look at files before they are read."""

import contextlib
import gzip
import hashlib
import json
import lzma
import os
import stat
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from deepspeech2.errors import InputError

_LONGEST_NAME = 255  # bytes; of all file systems that are usual


def parse_json(text: str) -> Any:
    """What a JSON text stands for.

    Raises:
        ValueError: for any other text, and for lists in lists deeper than Python reads them.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("lists in lists, too deep to read") from None


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def sha256_of_sources(*folders: Path) -> str:
    """The SHA-256 of the names and contents of all Python modules below folders."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{path.relative_to(folder)} {sha256_of(path)}\n".encode())
    return digest.hexdigest()


def is_path(text: str) -> bool:
    """Whether the system takes a text as a path."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:  # half of a surrogate pair, as JSON and YAML can write it
        return False


def is_file(path: Path) -> bool:
    """Whether a file is there; False too where `path` is none, or too long for one."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def files_below(folder: str | Path, closed: list[str]) -> Iterator[str]:
    """The files in a folder and its folders, in the order of names. Links are followed, once.

    Args:
        folder: the folder.
        closed: takes a message for each folder that cannot be read.
    """

    def note(error: OSError) -> None:
        closed.append(f"{error.filename}: cannot read the folder: {error.strerror}")

    known = set()
    for parent, folders, files in os.walk(folder, onerror=note, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in known:
            folders.clear()
            continue
        known.add((status.st_dev, status.st_ino))
        folders.sort()
        yield from (os.path.join(parent, name) for name in sorted(files))


def is_special(path: str | Path) -> bool:
    """Whether a path leads to a pipe or a device, whose reading may never end."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a path to write to; on success rename that file onto `path`.

    The yielded path has the same name as `path` and lies in a temporary folder beside `path`, so
    writers may add files of their own; the folder is always removed. Parent folders are made.
    The content is flushed to disk before the rename: a power cut cannot leave an empty file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = _hidden(path.name, "." + 8 * "x")[:-8]  # tempfile adds eight characters
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix) as folder:
        temporary = Path(folder) / path.name
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, _new_file_mode(folder))  # some writers make their files read-only
        os.replace(temporary, path)


def link(source: Path, path: Path) -> None:
    """Let a file have another name, and take it there where a file can have one name only.

    Raises:
        FileExistsError: when there is a file of that name.
    """
    try:
        os.link(source, path)
    except FileExistsError:
        raise
    except OSError:
        if path.exists():
            raise FileExistsError(f"{path}: exists") from None
        os.replace(source, path)


def _new_file_mode(folder: str) -> int:
    """The permissions that the umask gives a new file in `folder`.

    `os.umask` can read the umask only by changing it for the whole process.
    """
    probe = os.path.join(folder, ".mode")
    descriptor = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return os.fstat(descriptor).st_mode & 0o777
    finally:
        os.close(descriptor)
        os.unlink(probe)


@contextlib.contextmanager
def renamed_onto(path: Path) -> Iterator[Path]:
    """Yield a hidden path beside `path`; on success rename that file onto `path`.

    Cheaper than `atomic_path`, and the content is not flushed to disk.
    """
    temporary = path.with_name(_hidden(path.name, f".{os.getpid()}.tmp"))
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _hidden(name: str, ending: str) -> str:
    """The name of a hidden file, `.NAME` and an ending. A name too long for that is cut."""
    room = _LONGEST_NAME - 1 - len(ending)
    if len(os.fsencode(name)) > room:
        name = os.fsencode(name)[:room].decode(errors="ignore")
    return f".{name}{ending}"


def write_bytes(path: str | Path, content: bytes, mtime_ns: int | None = None) -> None:
    """Write one of very many small files, whole or not at all, at a fifth of `atomic_path`'s cost.

    The content is not flushed to disk: call `os.sync()` once before recording such files as done.

    Args:
        path: the file; parent folders are made.
        content: the bytes.
        mtime_ns: modification time of the file in ns; None for the present.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with renamed_onto(path) as temporary:
        temporary.write_bytes(content)
        if mtime_ns is not None:
            os.utime(temporary, ns=(mtime_ns, mtime_ns))


def ensure_writable(folder: str | Path) -> None:
    """Make `folder` and write a test file, so that a long run does not fail at its first output.

    Raises:
        InputError: naming the folder, when nothing can be written there.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{folder}: cannot write there: {error.strerror}") from None


@contextlib.contextmanager
def unpacked(path: str | Path, what: str) -> Iterator[BinaryIO]:
    """Open a file that may be packed by gzip or xz, as its first bytes say.

    Args:
        path: the file.
        what: what messages call the content: `the language model`.

    Raises:
        InputError: naming the file, when it cannot be read, and within the context when it turns
            out to be cut or damaged.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(6)
            file.seek(0)
            if start[:2] == b"\x1f\x8b":
                with gzip.open(file) as content:
                    yield content
            elif start == b"\xfd7zXZ\x00":
                with lzma.open(file) as content:
                    yield content
            else:
                yield file
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: the packed file is cut or damaged: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot read {what}: {error.strerror or error}") from None
