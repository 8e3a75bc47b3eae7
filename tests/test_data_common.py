"""data/common.py: workers, files, and one preparation at a time."""

import argparse
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data import common
from deepspeech2.errors import InputError, RunError


@pytest.mark.parametrize(("text", "limits", "value"), [
    ("1", (1,), 1), ("99", (0, 99), 99), ("0", (1,), None), ("100", (0, 99), None),
    ("1.0", (1,), None), ("many", (1,), None)])
def test_whole_numbers(text, limits, value):
    parse = common.whole_number(*limits)
    if value is not None:
        assert parse(text) == value
        return
    words = "from 0 to 99" if len(limits) == 2 else "at least 1"
    with pytest.raises(argparse.ArgumentTypeError, match=f"{text!r} is not a whole number {words}"):
        parse(text)


def square_unless_13(x: int) -> int:
    if x == 13:
        raise ValueError("13 is no good")
    return x * x


def die(x: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("jobs", [1, 3])
def test_results_come_in_the_order_of_the_items_and_errors_come_through(jobs, tmp_path):
    items = [5, 3, 1, 2] * 5
    squares = [x * x for x in items]
    assert [*common.parallel(square_unless_13, items, jobs, "squares", tmp_path)] == squares
    assert [*common.parallel(square_unless_13, [], jobs, "squares", tmp_path)] == []
    with pytest.raises(ValueError, match="13 is no good"):
        list(common.parallel(square_unless_13, [*items, 13], jobs, "squares", tmp_path))


def test_a_killed_worker_ends_the_work_with_what_to_do(tmp_path):
    with pytest.raises(RunError, match="dying: a process was killed .*smaller --jobs"):
        list(common.parallel(die, [1, 2], 2, "dying", tmp_path))


def test_a_folder_that_a_manifest_cannot_name(tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    with pytest.raises(InputError, match="manifests are UTF-8, and the name of this folder is not"):
        common.ensure_target(Path(folder))
    assert os.listdir(tmp_path) == []


def test_samples_are_rounded_and_cut_off():
    samples = np.array([0, 0.5, -1, 1, 1.5, -2, 0.6 / 32768])
    assert common.to_pcm16(samples).tolist() == [0, 16384, -32768, 32767, 32767, -32768, 1]


def test_a_prepared_utterance(tmp_path):
    wav, txt = common.utterance_paths(tmp_path, "a")
    samples = np.arange(-50, 51, dtype=np.int16)
    common.write_wav(wav, samples, mtime_ns=10**18)
    found, rate = soundfile.read(wav, dtype="int16")
    np.testing.assert_array_equal(found, samples)
    assert rate == common.SAMPLE_RATE and wav.stat().st_mtime_ns == 10**18
    assert wav.stat().st_size == common.wav_size(len(samples))
    common.write_text(txt, "ÄÖ")
    assert txt.read_bytes() == "ÄÖ\n".encode()
    before = txt.stat().st_ino
    common.write_text(txt, "ÄÖ")
    assert txt.stat().st_ino == before
    common.write_text(txt, "A")
    assert txt.read_text() == "A\n"


def test_a_manifest_of_files_that_are_not_there_is_not_saved(tmp_path, labels):
    metadata = [common.utterance_info(101, "ABBA", labels)] * 2
    assert metadata[0] == (101, 16000, 4, 1)
    rows = [common.utterance_paths(tmp_path, name) for name in ("a", "b")]
    with pytest.raises(RunError, match=r"m\.csv:1: .*No such file.* \(and \d more problem"):
        common.save_manifest(tmp_path / "m.csv", rows, metadata, labels)
    assert not (tmp_path / "m.index.npz").exists()
    for wav, txt in rows:
        common.write_wav(wav, np.zeros(101, np.int16))
        common.write_text(txt, "ABBA")
    saved = common.save_manifest(tmp_path / "m.csv", rows, metadata, labels)
    assert saved.samples.tolist() == [101, 101]


def test_what_was_prepared_is_on_disk_before_anything_says_that_it_is_there(
        tmp_path, labels, monkeypatch):
    """After a power cut, recordings without content must not pass for prepared ones."""
    calls = []
    for name in ("sync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name,
                            lambda *args, name=name, real=real: (calls.append(name), real(*args)))
    common.write_record(tmp_path / "record.json", {"a": [1]})
    assert calls == ["sync", "replace"]
    calls.clear()
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    (tmp_path / "a.txt").write_text("A")
    common.save_manifest(tmp_path / "a.csv", [(tmp_path / "a.wav", tmp_path / "a.txt")],
                         [common.utterance_info(16000, "A", labels)], labels)
    assert calls[0] == "sync" and "replace" in calls


def test_where_nothing_can_be_locked(tmp_path, monkeypatch, caplog):
    """NFS locks only what is open for writing, which a folder never is."""
    def flock(*_):
        raise OSError(9, "Bad file descriptor")
    monkeypatch.setattr(common.fcntl, "flock", flock)
    with common.exclusive_lock(tmp_path / "new"):
        assert (tmp_path / "new").is_dir()
    assert "new: cannot be locked (Bad file descriptor)" in caplog.text


def test_one_preparation_waits_for_the_other(tmp_path, caplog):
    order, inside = [], threading.Event()

    def other():
        inside.wait()
        with common.exclusive_lock(tmp_path / "new"):
            order.append("other")

    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    with caplog.at_level("INFO"), common.exclusive_lock(tmp_path / "new"):
        inside.set()
        while thread.is_alive() and "waiting for another preparation" not in caplog.text:
            thread.join(0.01)
        order.append("one")
    thread.join()
    assert order == ["one", "other"]
