"""Outputs are written under a temporary name and renamed, so that a final name always holds a whole file."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from deepspeech2.errors import InputError


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a path of the same name in a temporary folder beside `path`; rename it onto `path` on success.

    On any failure the folder goes with all that a writer may have left in it. Parent folders are
    made. The content is flushed to disk before the rename, so a power cut cannot leave an empty
    file under the final name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = Path(folder) / path.name
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, _new_file_mode(folder))  # some writers make their files read-only
        os.replace(temporary, path)


def _new_file_mode(folder: str) -> int:
    """The permissions of a new file.

    What the umask leaves, which a library must not set to read it.
    """
    probe = os.path.join(folder, ".mode")
    descriptor = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return os.fstat(descriptor).st_mode & 0o777
    finally:
        os.close(descriptor)
        os.unlink(probe)


def write_bytes(path: str | Path, content: bytes, mtime_ns: int | None = None) -> None:
    """Write a small file, one of very many: whole or not at all like `atomic_path`, at a fifth of the cost.

    It appears with the time of change `mtime_ns` if one is given. It is not flushed to disk:
    whoever records such files as done calls `os.sync()` once before.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        if mtime_ns is not None:
            os.utime(temporary, ns=(mtime_ns, mtime_ns))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def ensure_writable(folder: str | Path) -> None:
    """Make `folder` and try a file in it, so that a long run does not fail at its first output.

    Raises:
        InputError: naming the folder.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{folder}: cannot write there: {error.strerror}") from None
