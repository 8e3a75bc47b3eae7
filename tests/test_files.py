"""Files: a final name holds a whole file or what it held before."""

import os
from pathlib import Path

import pytest

from deepspeech2.errors import InputError
from deepspeech2.files import atomic_path, ensure_writable, files_below, write_bytes


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("old", ["something old and longer", None])
def test_a_file_is_replaced_at_the_end(tmp_path, old):
    path = tmp_path / "b" / "c" / "a.index.npz"  # parent folders are made
    if old:
        path.parent.mkdir(parents=True)
        path.write_text(old)
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        # on the same disk; writers choose or append a format by the suffix, MindIR keeps the name
        assert path.parent in temporary.parents and temporary.name == path.name
        assert path.read_text() == old if old else not path.exists()
    assert path.read_text() == "new" and names(path.parent) == ["a.index.npz"]


def test_files_below_a_folder_are_found_once_through_links(tmp_path):
    """In the order of names; a link that leads upwards has no end."""
    for name in ("b/2", "b/1", "a.wav", "c/3"):
        (tmp_path / "top" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "top" / name).touch()
    os.rename(tmp_path / "top/c", tmp_path / "elsewhere")
    (tmp_path / "top/c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/up").symlink_to(tmp_path / "top")
    closed: list[str] = []
    found = [os.path.relpath(path, tmp_path / "top") for path in
             files_below(tmp_path / "top", closed)]
    assert found == ["a.wav", "b/1", "b/2", "c/3"] and closed == []


@pytest.mark.parametrize("name", ["a" * 251 + ".txt", "字" * 83 + "a.txt", "\udcff" * 255])
def test_a_name_may_be_as_long_as_the_system_allows(tmp_path, name):
    write_bytes(tmp_path / name, b"1")
    with atomic_path(tmp_path / name) as temporary:
        temporary.write_bytes(b"2")
    assert names(tmp_path) == [name] and (tmp_path / name).read_bytes() == b"2"


@pytest.mark.parametrize("error",
                         [OSError("no space left"), ValueError("bad"), KeyboardInterrupt()])
@pytest.mark.parametrize(("old", "writes"), [("old", True), (None, True), (None, False)])
def test_failure_leaves_what_was_there_and_no_temporary(tmp_path, old, writes, error):
    path = tmp_path / "a.ckpt"
    if old:
        path.write_text(old)
    with pytest.raises(type(error)), atomic_path(path) as temporary:
        if writes:
            temporary.write_text("half of the n")
            (temporary.parent / "rank_0").mkdir()
        raise error
    assert names(tmp_path) == (["a.ckpt"] if old else [])
    assert not old or path.read_text() == old


def test_a_target_that_is_a_folder_is_an_error_that_leaves_no_temporary(tmp_path):
    (tmp_path / "a.ckpt").mkdir()
    with pytest.raises(OSError), atomic_path(tmp_path / "a.ckpt") as temporary:
        temporary.write_text("new")
    assert names(tmp_path) == ["a.ckpt"]


def test_what_a_writer_leaves_beside_its_file_goes_too(tmp_path):
    with atomic_path(tmp_path / "a.mindir") as temporary:
        temporary.write_text("new")
        (temporary.parent / "rank_0").mkdir()
        (temporary.parent / "rank_0" / "log").write_text("chatter")
    assert names(tmp_path) == ["a.mindir"]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_file_has_the_rights_of_any_new_file_whatever_the_writer_did(tmp_path, umask):
    before = os.umask(umask)
    try:
        with atomic_path(tmp_path / "a.ckpt") as temporary:
            temporary.write_text("new")
            temporary.chmod(0o400)
        write_bytes(tmp_path / "a.txt", b"new")
    finally:
        os.umask(before)
    for name in ("a.ckpt", "a.txt"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~umask


def test_two_writers_at_once_do_not_mix(tmp_path):
    with atomic_path(tmp_path / "a.txt") as one, atomic_path(tmp_path / "a.txt") as other:
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "a.txt").read_text() == "one"  # the outer one ended last
    assert names(tmp_path) == ["a.txt"]


def test_the_content_is_on_disk_before_the_rename(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name,
                            lambda *args, name=name, real=real: (calls.append(name), real(*args)))
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert calls == ["fsync", "replace"]


def test_ensure_writable_makes_the_folder_and_leaves_it_as_it_is(tmp_path):
    ensure_writable(tmp_path / "b" / "c")
    assert names(tmp_path / "b" / "c") == []
    (tmp_path / "b" / "a.txt").write_text("old")
    ensure_writable(tmp_path / "b")
    assert names(tmp_path / "b") == ["a.txt", "c"]


@pytest.mark.parametrize("below", ["", "b", "b/c"])
def test_ensure_writable_under_a_regular_file(tmp_path, below):
    (tmp_path / "file").write_text("old")
    folder = tmp_path / "file" / below
    with pytest.raises(InputError) as caught:
        ensure_writable(folder)
    assert str(caught.value).startswith(f"{folder}: cannot write there: ")
    assert (tmp_path / "file").read_text() == "old"


def test_write_bytes_replaces_and_makes_parent_folders(tmp_path):
    path = tmp_path / "b" / "c" / "a.txt"
    write_bytes(path, b"old and longer")
    write_bytes(path, b"new", mtime_ns=10**18 + 1)
    assert path.read_bytes() == b"new" and path.stat().st_mtime_ns == 10**18 + 1
    assert names(path.parent) == ["a.txt"]


@pytest.mark.parametrize("place", [(os, "replace"), (Path, "write_bytes")],
                         ids=["replace", "write"])
def test_write_bytes_that_fails_leaves_what_was_there_and_no_temporary(
    tmp_path, monkeypatch, place):
    (tmp_path / "a.txt").write_text("old")

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(*place, fail)
    with pytest.raises(OSError, match="no space left"):
        write_bytes(tmp_path / "a.txt", b"new")
    assert names(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"
