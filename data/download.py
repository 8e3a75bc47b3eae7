"""Archives of corpora: download with resume and checksum, and unpacking inside a folder."""

import bz2
import errno
import glob
import gzip
import hashlib
import http.client
import io
import logging
import lzma
import os
import re
import shutil
import ssl
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from deepspeech2.errors import InputError, RunError, first_line
from deepspeech2.files import atomic_path

logger = logging.getLogger(__name__)

TIMEOUT = 30  # s without a byte before a connection counts as broken
ATTEMPTS = 3  # in a row without a byte before a download counts as failed
CHUNK = 1 << 20  # bytes
# More bytes than may come out of an archive of one byte, and out of a small archive. Speech becomes
# three times smaller at most; a hostile archive can hold a thousand times its size.
_LARGEST_RATIO, _MIN_LIMIT = 100, 1 << 27
# bytes; more than a file's name and records take. Before Python 3.11.10, tarfile searches records
# in a time that grows with the square of their size (CVE-2024-6232).
_LARGEST_READ = 8192
# what a name in an archive is at fault for: too long, a file where a folder is, and the other way
_BAD_NAMES = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EINVAL)
UNPACKED = ".unpacked"  # names the archive that a folder was unpacked from


class DownloadError(RunError):
    """A file could not be fetched whole; what arrived is kept for the next attempt."""


class ArchiveError(InputError):
    """An archive is broken, or holds something that may not be unpacked."""


class FolderInTheWay(ArchiveError):
    """Something else is where an archive should be unpacked."""


def partial_path(path: Path) -> Path:
    """Where the bytes of an unfinished download of `path` wait."""
    return path.with_name(f"partial-{path.name}")


def download(url: str, path: Path, md5: str | None = None, pause: float = 2.0) -> Path:
    """Fetch `url` to `path`. Goes on where an earlier attempt ended; keeps a file that is there.

    Broken connections are tried again after `pause` seconds, as long as bytes arrive. `path`
    appears only once it is whole, and has the `md5` sum if one is given.

    Raises:
        DownloadError: naming the address and the reason.
    """
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    failures = 0
    while True:
        before = _size(partial)
        try:
            if _fetch(url, partial, path.name):
                break
            reason = "the connection ended early"
        except urllib.error.HTTPError as error:
            raise DownloadError(f"{url}: the server answers {error.code} {error.reason}") from None
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError,
                ssl.SSLError) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        failures = 0 if _size(partial) > before else failures + 1
        if failures == ATTEMPTS:
            raise DownloadError(f"{url}: {reason} (got {_size(partial)} bytes;"
                                " the same command goes on from there)")
        logger.warning("%s: %s; trying again", url, reason)
        time.sleep(pause)
    found = file_md5(partial) if md5 else None
    if found != md5:
        partial.unlink()
        raise DownloadError(f"{url}: the file has MD5 sum {found} where {md5} is published;"
                            " it was removed")
    os.replace(partial, path)
    return path


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _fetch(url: str, partial: Path, name: str) -> bool:
    """One request for what `partial` lacks; whether the file is whole now."""
    start = _size(partial)
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        # 416 "range not satisfiable": nothing is missing, or the file on the server changed
        if error.code != 416:
            raise
        if error.headers.get("Content-Range", "").strip() == f"bytes */{start}":
            return True
        partial.unlink()
        return False
    with response:
        resumed = re.match(rf"bytes {start}-", response.headers.get("Content-Range", ""))
        if response.status != 206 or not resumed:
            start = 0  # a server that ignores ranges sends the whole file again
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with (open(partial, "ab" if start else "wb") as file,
              tqdm(desc=name, initial=start, total=total, unit="B", unit_scale=True,
                   disable=None) as bar):
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    return total is None or _size(partial) == total


def file_md5(path: Path) -> str:
    """The MD5 sum of a file, as hexadecimal digits."""
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):  # hashlib.file_digest needs Python 3.11
            digest.update(chunk)
    return digest.hexdigest()


def remove_unpacked(folder: Path) -> None:
    """Remove a folder of `extract`, and what killed runs have left of it.

    It is renamed first: half of it must not be taken for a folder of somebody else.
    """
    if folder.exists():
        os.replace(folder, _hidden(folder))
    _remove_leftovers(folder)


def _hidden(folder: Path) -> Path:
    """A new name beside a folder, for what nobody may use."""
    return Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))


def _remove_leftovers(folder: Path) -> None:
    for leftover in folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"):
        shutil.rmtree(leftover)


def extract(archive: Path, folder: Path) -> Path:
    """Unpack a tar archive into `folder`, which appears only once it is whole.

    The same archive is unpacked only once. What `folder` held from another archive is replaced.
    A folder that was not made here is left alone.

    Raises:
        ArchiveError: if the archive is missing or broken, if it has a member that is neither a file
            nor a folder (corpora need no links) or that would end up outside `folder`, or if
            `folder` is in the way. Nothing is left behind.
    """
    stamp = folder / UNPACKED
    if not archive.is_file():
        raise ArchiveError(f"{archive}: no such archive")
    status = archive.stat()
    identity = os.fsencode(f"{archive.resolve()} {status.st_size} {status.st_mtime_ns}")
    if stamp.exists():
        if stamp.read_bytes() == identity:
            return folder
    elif folder.exists():
        raise FolderInTheWay(f"{folder} is in the way of unpacking {archive}: remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    temporary = _hidden(folder) / folder.name  # inside: what tempfile makes is for nobody else
    temporary.mkdir()
    try:
        _unpack(archive, temporary)
        with atomic_path(temporary / UNPACKED) as path:
            path.write_bytes(identity)
        if folder.exists():
            os.replace(folder, _hidden(folder))
        os.replace(temporary, folder)
    finally:
        _remove_leftovers(folder)
    return folder


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack into an empty folder in one pass: large corpora take minutes to read."""
    # Python has this filter since 3.11.4 and 3.10.12. We check members ourselves on all versions.
    options = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    size = archive.stat().st_size
    try:
        with (open(archive, "rb") as file, _decompressed(file) as content,
              tqdm(desc=f"unpacking {archive.name}", total=size, unit="B", unit_scale=True,
                   disable=None) as bar):
            stream = _Stream(content, max(_MIN_LIMIT, _LARGEST_RATIO * size))
            tar = tarfile.TarFile(fileobj=stream, copybufsize=_LARGEST_READ)
            for member in tar:
                reason = _refusal(member)
                if reason:
                    raise ArchiveError(f"{archive}: member {member.name!r} {reason};"
                                       " the archive is refused")
                # without these rights its content could not be written, or removed later
                member.mode |= 0o700 if member.isdir() else 0o600
                tar.extract(member, folder, **options)
                bar.update(file.tell() - bar.n)
            if stream.last != bytes(tarfile.BLOCKSIZE):  # tarfile ends in silence at a bad header
                raise tarfile.ReadError("cut off, or damaged between two members")
            while stream.read(_LARGEST_READ):  # gzip's check sum comes after the end of the tar
                pass
    except ArchiveError:
        raise
    except OSError as error:
        if error.errno and error.errno not in _BAD_NAMES:
            raise  # the disk is full, or broken
        raise ArchiveError(f"{archive}: broken or not a tar archive: {first_line(error)}") from None
    except Exception as error:  # what is in a damaged or hostile archive can raise any error
        raise ArchiveError(f"{archive}: broken or not a tar archive: {first_line(error)}") from None


def _decompressed(file: BinaryIO) -> BinaryIO:
    """The tar in an archive, which is decompressed while it is read."""
    start = file.read(6)
    file.seek(0)
    for magic, opener in ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\0", lzma.open)):
        if start.startswith(magic):
            return opener(file)
    return file


class _Stream(io.RawIOBase):
    """What tarfile reads of an archive: in small parts, never back, and not for ever.

    A header may ask tarfile to read gigabytes at once, or to go back to where it was before, again
    and again.

    Args:
        content: the tar.
        limit: most bytes that may come out of the archive.

    Attributes:
        last: what was read last.
    """

    def __init__(self, content: BinaryIO, limit: int):
        super().__init__()
        self._content, self._limit = content, limit
        self._position = 0
        self.last = b""

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LARGEST_READ:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self.last = self._content.read(size)
        self._position += len(self.last)
        if self._position > self._limit:
            raise tarfile.ReadError(f"more than {self._limit} bytes come out of it")
        return self.last

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        if position < self._position:
            raise tarfile.ReadError("a header leads back to where it stands")
        while self._position < position:
            if not self.read(min(_LARGEST_READ, position - self._position)):
                break
        return self._position


def _refusal(member: tarfile.TarInfo) -> str:
    """Why a member may not be unpacked, or nothing. Without links, its name says where it goes."""
    if member.issym() or member.islnk():
        return f"is a link, to {member.linkname!r}"
    if not (member.isfile() or member.isdir()) or member.issparse():
        return "is neither a file nor a folder"
    parts = member.name.split("/")
    if member.name.startswith("/") or ".." in parts:
        return "would leave the target folder"
    if "\0" in member.name or UNPACKED in parts:
        return "has a name that no file may have here"
    return ""
