"""Files: a final name holds a whole file or what it held before."""

import contextlib
import os
from pathlib import Path

import pytest

from deepspeech2.errors import InputError
from deepspeech2.files import atomic_path, ensure_writable, write_bytes


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# atomic_path

def test_success_writes_the_file_and_leaves_no_temporary(tmp_path):
    with atomic_path(tmp_path / "a.ckpt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "a.ckpt").read_text() == "new"
    assert names(tmp_path) == ["a.ckpt"]


def test_success_replaces_old_content(tmp_path):
    (tmp_path / "a.ckpt").write_text("something old and longer")
    with atomic_path(tmp_path / "a.ckpt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "a.ckpt").read_text() == "new"


def test_the_old_file_stands_until_the_end(tmp_path):
    (tmp_path / "a.ckpt").write_text("old")
    with atomic_path(tmp_path / "a.ckpt") as temporary:
        temporary.write_text("new")
        assert (tmp_path / "a.ckpt").read_text() == "old"


@pytest.mark.parametrize("error", [OSError("no space left"), ValueError("bad"), KeyboardInterrupt()])
@pytest.mark.parametrize("old", ["old", None])
def test_failure_leaves_what_was_there_and_no_temporary(tmp_path, old, error):
    path = tmp_path / "a.ckpt"
    if old:
        path.write_text(old)
    with pytest.raises(type(error)), atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        raise error
    assert names(tmp_path) == (["a.ckpt"] if old else [])
    assert not old or path.read_text() == old


def test_failure_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="early"), atomic_path(tmp_path / "a.ckpt"):
        raise ValueError("early")
    assert names(tmp_path) == []


def test_a_target_that_is_a_folder_is_an_error_that_leaves_no_temporary(tmp_path):
    (tmp_path / "a.ckpt").mkdir()
    with pytest.raises(OSError), atomic_path(tmp_path / "a.ckpt") as temporary:
        temporary.write_text("new")
    assert names(tmp_path) == ["a.ckpt"]


def test_the_temporary_is_on_the_same_disk_and_keeps_the_name(tmp_path):
    """Writers choose or append a format by the suffix, and MindIR keeps the name inside."""
    with atomic_path(tmp_path / "a.index.npz") as temporary:
        assert tmp_path in temporary.parents and temporary != tmp_path / "a.index.npz"
        assert temporary.name == "a.index.npz"
        temporary.write_text("")


@pytest.mark.parametrize("fails", [False, True])
def test_what_a_writer_leaves_beside_its_file_goes_too(tmp_path, fails):
    with contextlib.suppress(ValueError), atomic_path(tmp_path / "a.mindir") as temporary:
        temporary.write_text("new")
        (temporary.parent / "rank_0").mkdir()
        (temporary.parent / "rank_0" / "log").write_text("chatter")
        if fails:
            raise ValueError
    assert names(tmp_path) == ([] if fails else ["a.mindir"])


def test_a_file_has_the_rights_of_any_new_file_whatever_the_writer_did(tmp_path):
    (tmp_path / "ordinary").write_text("")
    with atomic_path(tmp_path / "a.ckpt") as temporary:
        temporary.write_text("new")
        temporary.chmod(0o400)
    assert (tmp_path / "a.ckpt").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_the_umask_counts_when_a_file_is_written(tmp_path):
    before = os.umask(0o077)
    try:
        with atomic_path(tmp_path / "a.ckpt") as temporary:
            temporary.write_text("new")
    finally:
        os.umask(before)
    assert (tmp_path / "a.ckpt").stat().st_mode & 0o777 == 0o600


def test_two_writers_at_once_do_not_mix(tmp_path):
    with atomic_path(tmp_path / "a.txt") as one, atomic_path(tmp_path / "a.txt") as other:
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "a.txt").read_text() == "one"                # the outer one ended last
    assert names(tmp_path) == ["a.txt"]


def test_parent_folders_are_made(tmp_path):
    with atomic_path(tmp_path / "b" / "c" / "a.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "b" / "c" / "a.txt").read_text() == "new"


def test_the_content_is_on_disk_before_the_rename(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda *args: (calls.append("fsync"), fsync(*args)))
    monkeypatch.setattr(os, "replace", lambda *args: (calls.append("replace"), replace(*args)))
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert calls == ["fsync", "replace"]


# ensure_writable

def test_ensure_writable_makes_the_folder_and_leaves_it_empty(tmp_path):
    ensure_writable(tmp_path / "b" / "c")
    assert names(tmp_path / "b" / "c") == []


def test_ensure_writable_leaves_a_folder_as_it_is(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    ensure_writable(tmp_path)
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("below", ["", "b", "b/c"])
def test_ensure_writable_under_a_regular_file(tmp_path, below):
    (tmp_path / "file").write_text("old")
    folder = tmp_path / "file" / below
    with pytest.raises(InputError) as caught:
        ensure_writable(folder)
    assert str(caught.value).startswith(f"{folder}: cannot write there: ")
    assert (tmp_path / "file").read_text() == "old"


# write_bytes

def test_write_bytes_replaces_and_makes_parent_folders(tmp_path):
    (tmp_path / "ordinary").write_text("")
    for content in (b"old and longer", b"new"):
        write_bytes(tmp_path / "b" / "c" / "a.txt", content)
        assert (tmp_path / "b" / "c" / "a.txt").read_bytes() == content
    write_bytes(tmp_path / "b" / "c" / "a.txt", b"new", mtime_ns=10**18 + 1)
    assert (tmp_path / "b" / "c" / "a.txt").stat().st_mtime_ns == 10**18 + 1
    assert names(tmp_path / "b" / "c") == ["a.txt"]
    assert (tmp_path / "b" / "c" / "a.txt").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("name", ["replace", "write"])
def test_write_bytes_that_fails_leaves_what_was_there_and_no_temporary(tmp_path, monkeypatch, name):
    (tmp_path / "a.txt").write_text("old")

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(*((os, "replace") if name == "replace" else (Path, "write_bytes")), fail)
    with pytest.raises(OSError, match="no space left"):
        write_bytes(tmp_path / "a.txt", b"new")
    assert names(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"
