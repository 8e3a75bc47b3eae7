"""Downloads against a server on this machine, and archives that want out of their folder."""

import bz2
import gzip
import hashlib
import io
import re
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data import download as module
from data.download import ArchiveError, DownloadError, download, extract, partial_path

CONTENT = bytes(range(256)) * 4000      # 1 MB
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server:
    """Serves CONTENT and keeps the Range header of every request; misbehaves as its members say."""

    def __init__(self):
        self.ranges: list[str | None] = []
        self.cuts: list[int] = []       # the next responses end after so many bytes
        self.ignore_range = False
        self.status = 200
        handler = type("Handler", (BaseHTTPRequestHandler,),
                       {"do_GET": lambda handler: self.answer(handler),
                        "log_message": lambda *_: None})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/corpus.tar.gz"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, handler):
        wanted = handler.headers.get("Range")
        self.ranges.append(wanted)
        start = 0
        if wanted and not self.ignore_range:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
        if self.status != 200:
            return handler.send_error(self.status)
        if start >= len(CONTENT):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            handler.send_header("Content-Length", "0")
            return handler.end_headers()
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        handler.send_header("Content-Length", str(len(CONTENT) - start))
        handler.end_headers()
        end = start + self.cuts.pop(0) if self.cuts else None
        handler.wfile.write(CONTENT[start:end])


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def test_download_with_checksum(server, tmp_path):
    path = download(server.url, tmp_path / "new" / "corpus.tar.gz", MD5, pause=0)
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["corpus.tar.gz"]
    assert server.ranges == [None]
    download(server.url, path, MD5, pause=0)
    assert server.ranges == [None]      # it was there already


def test_a_broken_connection_is_resumed(server, tmp_path):
    server.cuts = [300_000, 0, 200_000]
    path = download(server.url, tmp_path / "corpus.tar.gz", MD5, pause=0)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-", "bytes=300000-", "bytes=500000-"]


def test_an_earlier_attempt_is_resumed(server, tmp_path):
    path = tmp_path / "corpus.tar.gz"
    partial_path(path).write_bytes(CONTENT[:123_456])
    assert download(server.url, path, MD5, pause=0).read_bytes() == CONTENT
    assert server.ranges == ["bytes=123456-"]


@pytest.mark.parametrize("size, requests", [(len(CONTENT), 1), (len(CONTENT) + 10, 2)])
def test_an_earlier_attempt_that_got_everything_or_too_much(server, tmp_path, size, requests):
    path = tmp_path / "corpus.tar.gz"
    partial_path(path).write_bytes((CONTENT + bytes(10))[:size])
    assert download(server.url, path, MD5, pause=0).read_bytes() == CONTENT
    assert len(server.ranges) == requests


def test_a_server_that_ignores_ranges_starts_again(server, tmp_path):
    server.ignore_range = True
    path = tmp_path / "corpus.tar.gz"
    partial_path(path).write_bytes(b"x" * 1000)
    assert download(server.url, path, MD5, pause=0).read_bytes() == CONTENT


def test_a_wrong_checksum_is_an_error_and_leaves_nothing(server, tmp_path):
    with pytest.raises(DownloadError, match=f"{MD5} where {'0' * 32} is published"):
        download(server.url, tmp_path / "corpus.tar.gz", "0" * 32, pause=0)
    assert not list(tmp_path.iterdir())


def test_a_server_that_keeps_failing(server, tmp_path):
    server.cuts = [1000, 0, 0, 0]
    with pytest.raises(DownloadError, match="ended early.*1000 bytes"):
        download(server.url, tmp_path / "corpus.tar.gz", pause=0)
    assert len(server.ranges) == 4
    assert [p.name for p in tmp_path.iterdir()] == ["partial-corpus.tar.gz"]
    assert download(server.url, tmp_path / "corpus.tar.gz", MD5, pause=0).read_bytes() == CONTENT


def test_a_missing_file_fails_at_once(server, tmp_path):
    server.status = 404
    with pytest.raises(DownloadError, match=f"{server.url}.*404"):
        download(server.url, tmp_path / "corpus.tar.gz", pause=0)
    assert len(server.ranges) == 1


def test_no_server(server, tmp_path):
    server.http.server_close()
    with pytest.raises(DownloadError, match="refused"):
        download(server.url, tmp_path / "corpus.tar.gz", pause=0)
    assert not list(tmp_path.iterdir())


TYPES = {"symlink": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE, "folder": tarfile.DIRTYPE,
         "fifo": tarfile.FIFOTYPE, "device": tarfile.CHRTYPE, "block device": tarfile.BLKTYPE}


def archive(path: Path, *members: tuple[str, bytes | str], target: str = "good") -> Path:
    """A tar.gz of (name, content) files. A string from TYPES makes another kind of member."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            data = content if isinstance(content, bytes) else b""
            if isinstance(content, str):
                info.type = TYPES[content]
                info.linkname = target if "link" in content else ""
                info.mode = 0o555
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_extract(tmp_path):
    source = archive(tmp_path / "a.tar.gz", ("an4", "folder"), ("an4/etc/list", b"1"),
                     ("./an4/wav/a..b.raw", b"2"))
    folder = extract(source, tmp_path / "target" / "a")
    assert (folder / "an4/etc/list").read_bytes() == b"1"
    assert (folder / "an4/wav/a..b.raw").read_bytes() == b"2"
    assert [p.name for p in folder.parent.iterdir()] == ["a"]


def test_a_folder_may_have_any_name(tmp_path):
    """Also one whose bytes are no UTF-8."""
    (tmp_path / "\udce4").mkdir()
    source = archive(tmp_path / "\udce4" / "a.tar.gz", ("one", b"1"))
    folder = extract(source, tmp_path / "target")
    inode = (folder / "one").stat().st_ino
    assert (extract(source, folder) / "one").stat().st_ino == inode


def test_the_same_archive_is_unpacked_once_and_another_one_replaces_it(tmp_path):
    first = archive(tmp_path / "1.tar.gz", ("one", b"1"))
    folder = extract(first, tmp_path / "target")
    inode = (folder / "one").stat().st_ino
    extract(first, folder)
    assert (folder / "one").stat().st_ino == inode
    extract(archive(tmp_path / "2.tar.gz", ("two", b"2")), folder)
    assert {p.name for p in folder.iterdir()} == {"two", module.UNPACKED}
    (tmp_path / "usual").mkdir()
    assert folder.stat().st_mode == (tmp_path / "usual").stat().st_mode  # others may read it


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "mine").write_text("mine")
    with pytest.raises(ArchiveError, match="in the way"):
        extract(archive(tmp_path / "a.tar.gz", ("one", b"1")), tmp_path / "target")
    assert (tmp_path / "target" / "mine").exists()


def assert_refused(source: Path, box: Path, message: str) -> None:
    """The error names the archive and has the message. Nothing stays in the box or beside it."""
    error = re.escape(f"{source}: {message}; the archive is refused")
    with pytest.raises(ArchiveError, match=error):
        extract(source, box / "target")
    assert not list(box.iterdir())
    assert {p.name for p in box.parent.iterdir()} == {source.name, box.name}


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "a/..", "/tmp/ds2-evil"])
def test_a_member_that_would_leave_the_folder_is_refused(tmp_path, name):
    source = archive(tmp_path / "a.tar.gz", ("good", b"1"), ("a", "folder"), (name, b"!"))
    assert_refused(source, tmp_path / "box", f"member {name!r} would leave the target folder")
    assert not Path("/tmp/ds2-evil").exists()


@pytest.mark.parametrize("kind", ["symlink", "hard link"])
@pytest.mark.parametrize("target", ["good", "..", "/etc/passwd"])
def test_links_are_refused(tmp_path, kind, target):
    source = archive(tmp_path / "a.tar.gz", ("good", b"1"), ("a/link", kind), target=target)
    assert_refused(source, tmp_path / "box", f"member 'a/link' is a link, to {target!r}")


@pytest.mark.parametrize("kind", ["fifo", "device", "block device"])
def test_special_files_are_refused(tmp_path, kind):
    source = archive(tmp_path / "a.tar.gz", ("good", b"1"), ("special", kind))
    assert_refused(source, tmp_path / "box", "member 'special' is neither a file nor a folder")


def header(name: str = "a", size: int = 0, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


ONE = header(size=1) + b"1".ljust(512, b"\0")
END = bytes(1024)
GIGABYTE = gzip.compress(bytes(1 << 20)) * 1024  # joined gzip files are one
HOSTILE = {
    # an endless loop: the next header is this one
    "back.tar": ONE + header(size=-512) + END,
    "back-in-a-name.tar": ONE + header(size=-512, kind=tarfile.GNUTYPE_LONGNAME) + END,
    # tarfile would read a gigabyte at once, and the disk would be filled with one
    "name.tar.gz": gzip.compress(header(size=1 << 30, kind=tarfile.GNUTYPE_LONGNAME)) + GIGABYTE,
    "records.tar.gz": gzip.compress(header(size=1 << 30, kind=tarfile.XHDTYPE)) + GIGABYTE,
    # ten seconds for each header in Python before 3.11.10
    "digits.tar.gz": gzip.compress(header("x", 60_000, tarfile.XHDTYPE) + b"9" * 60_416 + END),
    "file.tar.gz": gzip.compress(header(size=1 << 30)) + GIGABYTE,
    "after.tar.gz": gzip.compress(ONE + END) + GIGABYTE,
    # errors of tarfile, of the decompressors and of the system that are no tarfile.TarError
    "number.tar": header("x", 21, tarfile.XHDTYPE) + b"21 GNU.sparse.map=ab\n" + bytes(491)
                  + ONE + END,
    "zero.tar": header("x", 18, tarfile.XHDTYPE) + b"18 path=aaa\0bbbb\n" + bytes(494) + ONE + END,
    "bzip2.tar.bz2": bz2.compress(ONE + END)[:-20] + bytes(20),
    "long.tar": header("a" * 300) + END, "file-in-file.tar": ONE + header("a/b") + END,
    "folder.tar": ONE + header("a", kind=tarfile.DIRTYPE) + header("a/b") + END,
    "stamp.tar": header(".unpacked", kind=tarfile.DIRTYPE) + END,
    "sparse.tar": header(kind=tarfile.GNUTYPE_SPARSE) + END,
    # nothing says that there was more
    "cut.tar": ONE + ONE, "damaged.tar": ONE + b"?" + ONE[1:] + END,
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused_and_leave_nothing(tmp_path, name):
    (tmp_path / name).write_bytes(HOSTILE[name])
    with pytest.raises(ArchiveError, match=rf"/{re.escape(name)}: "):
        extract(tmp_path / name, tmp_path / "box" / "target")
    assert not list((tmp_path / "box").iterdir())


def broken_archives(folder: Path) -> list[Path]:
    whole = archive(folder / "whole.tar.gz", ("one", bytes(range(256)) * 400)).read_bytes()
    cases = {"cut.tar.gz": whole[:-200], "text.tar.gz": b"<html>Not found</html>",
             "empty.tar.gz": b"", "sum.tar.gz": whole[:-8] + b"\0\0\0\0" + whole[-4:],
             "inner.tar.gz": gzip.compress(b"not a tar" * 200)}
    for name, content in cases.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in cases]


def test_broken_archives_are_named_and_leave_nothing(tmp_path):
    for source in [*broken_archives(tmp_path), tmp_path / "nowhere.tar.gz"]:
        with pytest.raises(ArchiveError, match=re.escape(str(source))):
            extract(source, tmp_path / "box" / "target")
        assert not (tmp_path / "box" / "target").exists()
    assert not list((tmp_path / "box").iterdir())
