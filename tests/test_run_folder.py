"""One folder holds one run: its newest whole state is found, and no other run writes there."""

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from deepspeech2.errors import InputError
from deepspeech2.labels import Labels
from src.checkpoint import load_checkpoint, read_progress, save_checkpoint
from src.config import CheckpointConfig, Config
from src.run_folder import RunFolder, can_link, ensure_own_metrics, locked

INFO = Config().model_info(Labels("AB _"))


def progress(
    step: int, *, run="a", lineage=None, epoch=None, ended=True, rates=(None, None)
) -> dict:
    """The state of a run with five steps an epoch."""
    return {"lineage": lineage or [[run, 0]], "step": step, "epoch_ended": ended,
            "epoch": step // 5 if epoch is None else epoch,
            "history": [{"val_wer": rates[0], "val_cer": rates[1]}]}


def arrays(step: int) -> dict[str, np.ndarray]:
    return {"w": np.full(50, step, np.float32)}


@pytest.fixture
def folder(tmp_path):
    return RunFolder(CheckpointConfig(ckpt_path=str(tmp_path), keep_checkpoint_max=9))


def save(folder: RunFolder, step: int, best=False, numbered=True, **state) -> None:
    folder.save(arrays(step), INFO, progress(step, **state), best, numbered)


def names(folder: RunFolder) -> list[str]:
    return sorted(os.listdir(folder.folder))


def damage(path) -> None:
    content = bytearray(path.read_bytes())
    content[-30] ^= 255
    os.unlink(path)  # the numbered file may be the same file
    path.write_bytes(content)


def test_the_newest_are_kept_and_last_and_best_outlive_them(tmp_path):
    folder = RunFolder(CheckpointConfig(ckpt_path=str(tmp_path), keep_checkpoint_max=2))
    for epoch, best in ((1, True), (9, True), (10, False), (11, False)):
        save(folder, 5 * epoch, best)
    assert names(folder) == ["DeepSpeech-10_50.ckpt", "DeepSpeech-11_55.ckpt",
                             "DeepSpeech-best.ckpt", "DeepSpeech-last.ckpt"]
    assert load_checkpoint(folder.best).progress["epoch"] == 9
    assert os.path.samefile(folder.last, tmp_path / "DeepSpeech-11_55.ckpt")


def test_a_file_system_without_hard_links_gets_copies(folder, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    assert can_link(folder.folder)
    monkeypatch.setattr(os, "link", refuse)  # no such file system can be mounted in a test
    assert not can_link(folder.folder)
    save(folder, 5, best=True)
    for path in (folder.last, folder.best):
        assert load_checkpoint(path).progress["step"] == 5
    assert folder.newest().progress["step"] == 5
    assert len(names(folder)) == 3


def test_the_best_state_of_a_run_that_ended_before_it_was_the_best(folder):
    """Killed between the two links, and begun anew without any."""
    save(folder, 5, best=True, rates=(50.0, 20.0))
    save(folder, 10, rates=(40.0, 30.0))
    assert load_checkpoint(folder.best).progress["step"] == 5
    assert folder.ensure_best((40.0, 30.0))
    assert os.path.samefile(folder.best, folder.folder / "DeepSpeech-2_10.ckpt")
    save(folder, 15)  # without an evaluation
    assert folder.ensure_best((40.0, 30.0))
    assert load_checkpoint(folder.best).progress["step"] == 10
    damage(folder.folder / "DeepSpeech-1_5.ckpt")
    assert not folder.ensure_best((39.0, 30.0))
    folder.best.unlink()
    assert folder.ensure_best((40.0, 30.0)) and folder.best.exists()


def test_the_newest_state_inside_an_epoch(folder):
    assert folder.newest() is None
    save(folder, 5, best=True)
    save(folder, 8, numbered=False)
    assert folder.newest().path == folder.last
    assert folder.newest().progress["step"] == 8


def test_an_evaluated_state_is_newer_than_the_same_without(folder):
    save(folder, 5)
    save(folder, 5, numbered=False, ended=False)
    assert folder.newest().path.name == "DeepSpeech-1_5.ckpt"


@pytest.mark.parametrize("fault", ["removed", "damaged", "cut"])
def test_where_last_is_lost_the_newest_whole_state_is_found(folder, caplog, fault):
    """Cases 51 and 63 of the reports."""
    for step in (5, 10):
        save(folder, step)
    save(folder, 12, numbered=False)
    if fault == "removed":
        folder.last.unlink()
    elif fault == "cut":
        folder.last.write_bytes(folder.last.read_bytes()[:100])
    else:
        damage(folder.last)
    assert folder.newest().path.name == "DeepSpeech-2_10.ckpt"
    if fault != "removed":
        assert "DeepSpeech-last.ckpt: not a whole" in caplog.text
        assert "DeepSpeech-2_10.ckpt instead: epoch 3, step 10" in caplog.text


@pytest.mark.parametrize("change", [
    {"lineage": 5}, {"lineage": [[]]}, {"lineage": {"a": 1}}, {"lineage": [["a", "b"]]},
    {"step": "x"}, {"step": None}, {"epoch_ended": 2}, {"history": 5}, {"history": [5]},
    {"plan": []}])
def test_a_state_that_no_run_has_is_passed_over(folder, caplog, change):
    save(folder, 5)
    save_checkpoint(folder.last, arrays(7), INFO, progress(7) | change)
    assert folder.newest().path.name == "DeepSpeech-1_5.ckpt"
    (name,) = change
    assert f"DeepSpeech-last.ckpt: the state of its run is damaged: {name}" in caplog.text


def test_a_run_of_which_nothing_is_whole_does_not_begin_anew(folder):
    save(folder, 5)
    for path in (folder.last, folder.folder / "DeepSpeech-1_5.ckpt"):
        damage(path)
    with pytest.raises(InputError, match="no state of a run there can be resumed: .*checksum"):
        folder.newest()


@pytest.mark.parametrize("name", ["DeepSpeech-last.ckpt", "DeepSpeech-best.ckpt",
                                  "DeepSpeech-3_9.ckpt", "DeepSpeech-average.ckpt",
                                  "DeepSpeech-word-cuts.csv"])
def test_a_new_run_needs_a_folder_without_any_file_of_a_run(folder, name):
    folder.ensure_empty()
    (folder.folder / "other-last.ckpt").touch()
    folder.ensure_empty()
    (folder.folder / name).touch()
    with pytest.raises(InputError, match=f"{name}: an earlier run is kept there"):
        folder.ensure_empty()


@pytest.mark.parametrize(("content", "state", "refused"), [
    ("run,epoch\n00001234,1\n", {}, True),
    ("run,epoch\n00001234,1\n", {"lineage": [["b", 0]], "history": [{"run": "b"}]}, True),
    ("run,epoch\n00001234,1\nc,2\n", {"lineage": [["00001234", 0], ["d", 5]]}, False),
    ("run,epoch\n00001234,1\n", {"lineage": [], "history": [{"run": "00001234"}]}, False),
    ("run,epoch\n", {}, False), ("", {}, False), ("epoch\n1\n", {}, False),
    ("run\n\udcff\n", {}, False)])
def test_the_metrics_of_another_run_are_not_written_over(tmp_path, content, state, refused):
    path = tmp_path / "metrics.csv"
    ensure_own_metrics(path, state)
    path.write_text(content, encoding="utf-8", errors="surrogateescape")
    if not refused:
        return ensure_own_metrics(path, state)
    with pytest.raises(InputError, match=r"metrics.csv: of another run \(00001234\): choose anoth"):
        ensure_own_metrics(path, state)


def test_another_runs_state_is_not_adopted(folder, tmp_path):
    save(folder, 5, run="a")
    other = tmp_path / "elsewhere.ckpt"
    save_checkpoint(other, arrays(7), INFO, progress(7, run="b"))
    with pytest.raises(InputError, match="belongs to another run than .*elsewhere.ckpt"):
        folder.adopt(load_checkpoint(other), "new")


def test_states_of_two_runs_are_not_mixed(folder):
    save(folder, 5, run="a")
    save(folder, 10, run="b")
    with pytest.raises(InputError, match="holds states of different runs"):
        folder.newest()


def test_going_back_leaves_the_newer_states_behind(folder):
    """Case 60: the mean of a run that went back held an epoch of the abandoned one."""
    save(folder, 5, best=True)
    save(folder, 10)
    save(folder, 15, best=True)
    first = load_checkpoint(folder.folder / "DeepSpeech-1_5.ckpt")
    assert folder.adopt(first, "b") == [["a", 0], ["b", 5]]
    assert names(folder) == ["DeepSpeech-1_5.ckpt", "DeepSpeech-abandoned-b"]
    assert sorted(os.listdir(folder.folder / "DeepSpeech-abandoned-b")) == [
        "DeepSpeech-2_10.ckpt", "DeepSpeech-3_15.ckpt", "DeepSpeech-best.ckpt",
        "DeepSpeech-last.ckpt"]
    # the branch has fewer steps an epoch, so its numbers do not tell it from the abandoned run
    lineage = [["a", 0], ["b", 5]]
    save(folder, 8, lineage=lineage, epoch=2)
    newest = folder.newest()
    assert newest.progress["step"] == 8 and folder.adopt(newest, "c") == lineage
    back = folder.folder / "DeepSpeech-abandoned-b" / "DeepSpeech-3_15.ckpt"
    assert folder.adopt(load_checkpoint(back), "d") == [["a", 0], ["d", 15]]
    assert names(folder) == ["DeepSpeech-1_5.ckpt", "DeepSpeech-abandoned-b",
                             "DeepSpeech-abandoned-d"]


def test_resuming_the_newest_state_stays_the_same_run(folder):
    save(folder, 5)
    save(folder, 7, numbered=False)
    assert folder.adopt(folder.newest(), "b") == [["a", 0]]
    assert "DeepSpeech-abandoned-b" not in names(folder)


def test_the_state_is_read_without_the_arrays(folder):
    save(folder, 5)
    damage(folder.last)
    assert read_progress(folder.last) == progress(5)


def test_a_second_process_is_refused_and_told_who_writes(tmp_path):
    script = ("import sys; from pathlib import Path; from src.run_folder import locked\n"
              "with locked(Path(sys.argv[1]), 'x'): pass")
    command = [sys.executable, "-c", script, str(tmp_path)]
    with locked(tmp_path, "a"):
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert f"another run is writing there (process {os.getpid()}, since " in result.stderr
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def test_what_a_killed_run_left_is_removed_and_said(tmp_path, caplog):
    """Case 77, and the message after a process that was killed for its memory."""
    (tmp_path / ".DeepSpeech-2_10.ckpt.k3_x1a").mkdir()
    (tmp_path / ".DeepSpeech-2_10.ckpt.k3_x1a" / "DeepSpeech-2_10.ckpt").write_bytes(b"half")
    (tmp_path / ".DeepSpeech-last.ckpt.123.tmp").touch()
    (tmp_path / ".metrics.csv.aaaa1111").mkdir()
    (tmp_path / ".hidden").touch()
    (tmp_path / ".run.lock").write_text(json.dumps({"pid": 77, "since": "yesterday", "run": "a"}))
    with locked(tmp_path, "b"):
        assert sorted(os.listdir(tmp_path)) == [".hidden", ".run.lock"]
    assert "the run before (process 77, since yesterday) did not end by itself" in caplog.text
    caplog.clear()
    with locked(tmp_path, "c"):
        pass
    assert not caplog.text
