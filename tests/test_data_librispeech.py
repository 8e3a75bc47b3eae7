"""Preparing LibriSpeech: generated subsets, a server of our own, and 160 real utterances."""

import csv
import functools
import hashlib
import http.server
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ROOT

from data import librispeech
from data.download import UNPACKED
from data.libri_source import MD5, find_subsets, split_of
from data.verify_manifest import main as verify
from src import manifest as manifest_module
from src.manifest import index_path, read_manifest

RATE = 16000
SPEAKERS = {"dev-clean": 84, "dev-other": 116, "test-clean": 61, "test-other": 367,
            "train-clean-5": 19, "train-clean-100": 1034}


def tone(seconds: float) -> np.ndarray:
    """(n,) int16 samples, different for every length."""
    return (8000 * np.sin(np.arange(round(seconds * RATE)) / (5 + seconds))).astype(np.int16)


def write_chapter(subset: Path, chapter: int, utterances: list[tuple[float, str]]) -> list[str]:
    """A chapter of (seconds, transcript) utterances of the subset's speaker; returns their ids."""
    speaker = SPEAKERS[subset.name]
    folder = subset / str(speaker) / str(chapter)
    folder.mkdir(parents=True)
    names = [f"{speaker}-{chapter}-{number:04d}" for number in range(len(utterances))]
    for name, (seconds, _) in zip(names, utterances, strict=True):
        soundfile.write(folder / f"{name}.flac", tone(seconds), RATE, subtype="PCM_16")
    (folder / f"{speaker}-{chapter}.trans.txt").write_text(
        "".join(f"{name} {text}\n" for name, (_, text) in zip(names, utterances, strict=True)))
    return names


def write_subset(folder: Path, subset: str) -> Path:
    """Two chapters with five utterances of 1.1 to 1.5 s."""
    write_chapter(folder / subset, 200, [(1.1, "DON'T STOP"), (1.2, "BALLOON")])
    write_chapter(folder / subset, 30, [(1.3, "A"), (1.4, "'TIS"), (1.5, "B C")])
    return folder / subset


def pack(folder: Path, path: Path, prefix: str) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, prefix)
    return path


def prepare(target: Path, *sources: Path, arguments: tuple[str, ...] = (), jobs: int = 1) -> int:
    source = ["--source", *map(str, sources)] if sources else []
    return librispeech.main([*source, "--target", str(target), "--jobs", str(jobs), *arguments])


def rows(target: Path, split: str) -> list[tuple[str, str]]:
    """(id, transcript) of a manifest; its files are where they should be."""
    with open(target / f"libri_{split}_manifest.csv", newline="") as file:
        paths = [(Path(audio), Path(text)) for audio, text in csv.reader(file)]
    folder = target / "LibriSpeech_dataset" / split
    for audio, text in paths:
        assert audio == folder / "wav" / f"{audio.stem}.wav"
        assert text == folder / "txt" / f"{audio.stem}.txt"
    return [(audio.stem, text.read_text()) for audio, text in paths]


def names(target: Path, split: str) -> list[str]:
    return [name for name, _ in rows(target, split)]


def files(target: Path) -> dict[Path, tuple[int, int, int]]:
    """Every file and folder with its inode and the times of change of its content and of itself."""
    return {path: (status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
            for path in target.rglob("*") if (status := path.stat())}


@pytest.fixture
def corpus(tmp_path) -> Path:
    """A LibriSpeech folder with a subset of every split, two of val."""
    folder = tmp_path / "LibriSpeech"
    for subset in ("dev-clean", "dev-other", "test-clean", "test-other", "train-clean-5"):
        write_subset(folder, subset)
    (folder / "SPEAKERS.TXT").write_text("; names\n")
    return folder


# the tree

def test_the_tree_is_that_of_the_document(corpus, tmp_path, labels):
    target = tmp_path / "target"
    assert prepare(target, corpus, jobs=2) == 0
    visible = {str(path.relative_to(target)) for path in target.rglob("*")
               if not any(part.startswith(".") for part in path.relative_to(target).parts)}
    splits = ("train", "val", "test_clean", "test_other")
    folders = {f"LibriSpeech_dataset/{split}/{kind}" for split in splits for kind in ("wav", "txt")}
    manifests = {"libri_test_clean_manifest.csv", "libri_test_other_manifest.csv",
                 "libri_train_manifest.csv", "libri_val_manifest.csv"}
    utterances = {path for path in visible if path.endswith((".wav", ".txt"))}
    assert len(utterances) == 2 * 5 * 5
    assert all(str(Path(path).parent) in folders for path in utterances)
    assert visible - utterances == (folders | manifests | {"LibriSpeech_dataset"}
                                    | {f"LibriSpeech_dataset/{split}" for split in splits}
                                    | {name.replace(".csv", ".index.npz") for name in manifests})
    assert verify([str(target / name) for name in manifests]) == 0
    for path in target.glob("*.csv"):  # the index, made without decoding, agrees with the files
        before = files(target)
        prepared = read_manifest(path, labels)
        assert files(target) == before
        index_path(path).unlink()
        decoded = read_manifest(path, labels)
        for name in ("samples", "sample_rates", "label_counts", "repeats"):
            np.testing.assert_array_equal(getattr(prepared, name), getattr(decoded, name))
    numbers = ("200-0000", "200-0001", "30-0000", "30-0001", "30-0002")
    assert names(target, "val") == sorted(f"{dev}-{n}" for dev in (84, 116) for n in numbers)


def test_audio_is_equal_to_the_sample_and_text_keeps_its_apostrophes(corpus, tmp_path):
    assert prepare(tmp_path / "target", corpus / "test-clean") == 0
    assert rows(tmp_path / "target", "test_clean") == [
        ("61-200-0000", "DON'T STOP\n"), ("61-200-0001", "BALLOON\n"),
        ("61-30-0000", "A\n"), ("61-30-0001", "'TIS\n"), ("61-30-0002", "B C\n")]
    path = tmp_path / "target/LibriSpeech_dataset/test_clean/wav/61-200-0001.wav"
    assert (soundfile.info(path).format, soundfile.info(path).subtype) == ("WAV", "PCM_16")
    samples, rate = soundfile.read(path, dtype="int16")
    assert rate == RATE and samples.ndim == 1
    np.testing.assert_array_equal(samples, tone(1.2))


def test_a_second_train_subset_joins_the_first(corpus, tmp_path, capsys):
    target = tmp_path / "target"
    assert prepare(target, corpus / "train-clean-5") == 0
    first, before = names(target, "train"), files(target / "LibriSpeech_dataset/train/wav")
    assert prepare(target, write_subset(tmp_path / "later", "train-clean-100")) == 0
    both = [*first, *(name.replace("19-", "1034-") for name in first)]
    assert names(target, "train") == sorted(both)
    after = files(target / "LibriSpeech_dataset/train/wav")
    assert {path: after[path] for path in before} == before
    assert "10 utterances, 0.00 h of train-clean-100, train-clean-5" in capsys.readouterr().out
    assert len(read_manifest(target / "libri_train_manifest.csv",
                             librispeech.Corpus(target, 1).labels)) == 10


def test_subsets_that_share_utterances_name_them_once(corpus, tmp_path):
    """train-clean-5 is a part of train-clean-100."""
    (tmp_path / "part").mkdir()
    (tmp_path / "part/train-clean-1").symlink_to(corpus / "train-clean-5")
    subsets = ("--subsets", "train-clean-5", "train-clean-1")
    assert prepare(tmp_path / "target", corpus, tmp_path / "part", arguments=subsets) == 0
    assert len(names(tmp_path / "target", "train")) == 5


@pytest.mark.parametrize("subset, split", [
    ("dev-clean", "val"), ("dev-other", "val"), ("test-clean", "test_clean"),
    ("test-other", "test_other"), ("train-clean-100", "train"), ("train-other-500", "train"),
    ("train-mine", "train"), ("dev-clean-2", "val"),
    ("training", None), ("LibriSpeech", None)])
def test_split_of_a_subset(subset, split):
    assert split_of(subset) == split


def test_the_subsets_of_a_folder(corpus, tmp_path, monkeypatch):
    everything = {"dev-clean", "dev-other", "test-clean", "test-other", "train-clean-5"}
    assert set(find_subsets(corpus)) == set(find_subsets(tmp_path)) == everything
    assert set(find_subsets(corpus / "dev-clean")) == {"dev-clean"}
    monkeypatch.chdir(corpus / "dev-clean")
    assert find_subsets(Path(".")) == {"dev-clean": corpus / "dev-clean"}
    # a name like a subset's, but no chapters in it
    tmp_path.joinpath("train-data").symlink_to(tmp_path)
    assert set(find_subsets(tmp_path / "train-data")) == everything


# what is left out

def test_only_training_utterances_have_a_length_rule(tmp_path, capsys):
    lengths = [0.5, 1 - 1 / RATE, 1, 8, 15, 15 + 1 / RATE, 17]
    for subset in ("train-clean-5", "dev-clean", "test-other"):
        write_chapter(tmp_path / "LibriSpeech" / subset, 1,
                      [(seconds, "A B") for seconds in lengths])
    assert prepare(tmp_path / "target", tmp_path) == 0
    assert names(tmp_path / "target", "train") == ["19-1-0002", "19-1-0003", "19-1-0004"]
    for split in ("val", "test_other"):
        assert len(rows(tmp_path / "target", split)) == len(lengths)
    lines = {line.split()[1]: line for line in capsys.readouterr().out.splitlines()}
    assert "left out: 4 for their length, 0 broken" in lines["train"]
    assert "left out: 0 for their length, 0 broken" in lines["val"]
    assert len(list((tmp_path / "target/LibriSpeech_dataset/train/wav").iterdir())) == 3
    arguments = ("--min_seconds", "0.5", "--max_seconds", "15.5")
    assert prepare(tmp_path / "target", tmp_path, arguments=arguments) == 0
    assert names(tmp_path / "target", "train") == [f"19-1-000{i}" for i in range(6)]
    before = files(tmp_path / "target")
    assert prepare(tmp_path / "target", tmp_path, arguments=arguments) == 0
    assert files(tmp_path / "target") == before
    assert prepare(tmp_path / "target", tmp_path) == 0  # the defaults again
    assert names(tmp_path / "target", "train") == ["19-1-0002", "19-1-0003", "19-1-0004"]


@pytest.mark.parametrize("suffix", [".wav", ".opus", ".ogg"])
def test_audio_of_other_formats(tmp_path, suffix):
    """As people keep it who have no room for FLAC. Where FLAC is there too, it is taken."""
    subset = write_subset(tmp_path, "train-clean-5")
    for i, path in enumerate(sorted(subset.rglob("*.flac"))):
        samples = soundfile.read(path)[0]
        kind = {".opus": {"format": "OGG", "subtype": "OPUS"}}.get(suffix, {})
        soundfile.write(path.with_suffix(suffix), samples / 2, RATE, **kind)
        if i:
            path.unlink()
    assert prepare(tmp_path / "target", subset) == 0
    assert names(tmp_path / "target", "train") == sorted(path.stem
                                                         for path in subset.rglob(f"*{suffix}"))
    wavs = sorted((tmp_path / "target/LibriSpeech_dataset/train/wav").iterdir())
    for path, seconds in zip(wavs, [1.1, 1.2, 1.3, 1.4, 1.5], strict=True):
        samples = soundfile.read(path, dtype="int16")[0]
        assert len(samples) == round(seconds * RATE)
        assert (samples.std() > 5000) == (path == wavs[0])


def damage(subset: Path) -> list[str]:
    """Break nine of ten utterances of a chapter in different ways; a pattern for each problem."""
    ids = write_chapter(subset, 7, [(1.0 + 0.1 * i, f"WORDS {'ABCDEFGHIJ'[i]}") for i in range(10)])
    folder, stem = next(subset.glob("*/7")), ids[0][:-5]
    flac = [folder / f"{name}.flac" for name in ids]
    content = flac[1].read_bytes()
    flac[1].write_bytes(content[:len(content) // 2])
    flac[2].write_bytes(b"")
    flac[3].write_bytes(b"<html>not found</html>")
    content = bytearray(flac[4].read_bytes())
    content[len(content) // 2] ^= 255
    flac[4].write_bytes(content)
    flac[5].unlink()
    flac[9].unlink()
    flac[9].symlink_to(folder / "nowhere")
    lines = (folder / f"{stem}.trans.txt").read_text().splitlines()
    lines[6] = f"{ids[6]} ROUTE 66"
    lines[7] = f"{ids[7]}"
    del lines[8]
    (folder / f"{stem}.trans.txt").write_text("\n".join(lines)
                                              + f"\n\n{ids[0]} WORDS A\n{stem}-0099 LOST\n")
    trans = rf"{stem}\.trans\.txt"
    return [rf"{ids[1]}\.flac: ", rf"{ids[2]}\.flac: .*empty", rf"{ids[3]}\.flac: ",
            rf"{ids[4]}\.flac: ",
            rf"{trans}:6: there is no {ids[5]}\.flac", rf"{trans}:7: unknown characters '6'",
            rf"{trans}:8: {ids[7]} has no words", rf"{ids[8]}\.flac: no line of ",
            rf"{trans}:9: there is no {ids[9]}",
            rf"{trans}:11: {ids[0]} is there twice", rf"{trans}:12: there is no {stem}-0099\.flac"]


@pytest.mark.parametrize("subset, split", [("train-clean-5", "train"), ("dev-other", "val")])
def test_what_is_broken_is_named_and_counted(tmp_path, subset, split, capsys, caplog):
    patterns = damage(tmp_path / "LibriSpeech" / subset)
    good = write_chapter(tmp_path / "LibriSpeech" / subset, 8, [(2, "FINE")])
    for _ in range(2):  # also when nothing is left to do
        caplog.clear()
        assert prepare(tmp_path / "target", tmp_path, jobs=2) == 0
        messages = [record.getMessage() for record in caplog.records
                    if record.levelno >= logging.WARNING]
        assert len(messages) == len(patterns) == 11
        for pattern in patterns:
            assert sum(bool(re.search(pattern, message)) for message in messages) == 1, pattern
        assert "left out: 0 for their length, 11 broken" in capsys.readouterr().out
        assert names(tmp_path / "target", split) == good


def test_a_file_name_that_is_no_utf_8(tmp_path, caplog):
    """Such names come from old archives; Python writes their bytes as surrogates."""
    subset = write_subset(tmp_path / "source", "dev-clean")
    folder = subset / "84" / "200"
    (folder / os.fsdecode(b"caf\xe9.flac")).write_bytes((folder / "84-200-0000.flac").read_bytes())
    assert prepare(tmp_path / "target", subset) == 0
    assert "no line of" in caplog.text and len(names(tmp_path / "target", "val")) == 5


def test_a_repaired_file_comes_in(tmp_path, capsys):
    subset = tmp_path / "train-clean-5"
    ids = write_chapter(subset, 7, [(1.5, "A"), (2, "B")])
    path = next(subset.rglob(f"{ids[0]}.flac"))
    content = path.read_bytes()
    path.write_bytes(content[:300])
    assert prepare(tmp_path / "target", subset) == 0
    assert names(tmp_path / "target", "train") == ids[1:]
    path.write_bytes(content)
    assert prepare(tmp_path / "target", subset) == 0 and names(tmp_path / "target", "train") == ids
    assert "0 broken" in capsys.readouterr().out.splitlines()[-1]


def test_nothing_usable_is_a_failure(tmp_path, capsys):
    write_chapter(tmp_path / "train-clean-5", 7, [(0.5, "A")])
    assert prepare(tmp_path / "target", tmp_path / "train-clean-5") == 1
    assert "train-clean-5: none of its utterances can be used" in capsys.readouterr().err


# running again

@pytest.mark.parametrize("packed", [False, True])
def test_the_second_run_does_nothing(corpus, tmp_path, packed, monkeypatch, capsys):
    source = pack(corpus, tmp_path / "all.tar.gz", "LibriSpeech") if packed else corpus
    assert prepare(tmp_path / "target", source) == 0
    out, before = capsys.readouterr().out, files(tmp_path / "target")

    def never(*_args, **_options):
        raise AssertionError("there is nothing to do")

    for name in ("load_audio", "count_samples", "parallel", "extract", "read_subset"):
        monkeypatch.setattr(librispeech, name, never)
    monkeypatch.setattr(manifest_module, "read_audio", never)
    assert prepare(tmp_path / "target", source) == 0
    assert files(tmp_path / "target") == before
    assert capsys.readouterr().out == out


def test_only_what_is_missing_is_written_again(corpus, tmp_path, caplog):
    target = tmp_path / "target"
    assert prepare(target, corpus) == 0
    before = files(target)
    folder = target / "LibriSpeech_dataset/val"
    gone = [folder / "wav/84-200-0000.wav", folder / "txt/84-200-0001.txt",
            folder / "wav/84-30-0000.wav"]
    gone[0].unlink()
    gone[1].unlink()
    os.truncate(gone[2], 100)  # as after a power cut
    assert prepare(target, corpus) == 0
    assert "dev-clean: what was prepared is not there any more" in caplog.text
    after = files(target)
    changed = {path for path in before if path.is_file() and after[path] != before[path]}
    assert changed == {*gone, target / "LibriSpeech_dataset/.prepared/dev-clean.json",
                       target / "libri_val_manifest.index.npz"}
    assert verify([str(path) for path in target.glob("*.csv")]) == 0


def test_a_subset_whose_files_are_gone_leaves_the_manifest(corpus, tmp_path, caplog):
    target = tmp_path / "target"
    assert prepare(target, corpus, arguments=("--subsets", "dev-clean", "dev-other")) == 0
    for path in (target / "LibriSpeech_dataset/val/wav").glob("84-*"):
        path.unlink()
    assert prepare(target, corpus / "dev-other") == 0
    assert "dev-clean: what was prepared is not there any more" in caplog.text
    assert len(names(target, "val")) == 5


def test_an_unreadable_record_is_only_work_lost(corpus, tmp_path):
    target = tmp_path / "target"
    assert prepare(target, corpus) == 0
    before = files(target)
    records = sorted((target / "LibriSpeech_dataset/.prepared").iterdir())
    other = json.loads(records[0].read_text()) | {"facts": [[]]}
    for path, content in zip(records, ["", "[]", '{"facts": 1}', "[" * 50_000, json.dumps(other)],
                             strict=True):
        path.write_text(content)
    assert prepare(target, corpus) == 0
    after = files(target)
    assert all(after[path] == before[path] for path in before if path.suffix in (".wav", ".txt"))
    assert len(names(target, "val")) == 10 and after.keys() == before.keys()


# the command, whose workers write 20 recordings and then wait
HELD = """
import sys, time
from pathlib import Path
from data import librispeech
write, folder = librispeech.write_utterance, Path(sys.argv.pop(1))
def held(*arguments):
    while len(list(folder.glob("*.wav"))) >= 20:
        time.sleep(0.1)
    return write(*arguments)
librispeech.write_utterance = held
sys.exit(librispeech.main(sys.argv[1:]))
"""


def test_killed_in_the_middle_and_run_again(tmp_path):
    """After kill -9 the workers end, and the next run keeps every finished file."""
    subset, target = tmp_path / "LibriSpeech" / "train-clean-5", tmp_path / "target"
    ids = write_chapter(subset, 1, [(14, "A B")] + [(1.01, "A")] * 149)
    long = next(subset.rglob(f"{ids[0]}.flac"))
    for name in ids[1:]:
        path = long.with_name(f"{name}.flac")
        path.unlink()
        path.hardlink_to(long)
    wav = target / "LibriSpeech_dataset/train/wav"
    command = [sys.executable, "-c", HELD, wav, "--source", subset, "--target", target, "--jobs=2"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while len(list(wav.glob("*.wav"))) < 20:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.001)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 120  # for a machine that has much else to do
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(workers) == 2

    finished = {path: path.stat().st_ino for path in wav.glob("*.wav")
                if path.stat().st_mtime_ns == long.stat().st_mtime_ns}
    assert 0 < len(finished) < 150 and not (target / "libri_train_manifest.csv").exists()
    (wav / ".19-1-0149.wav.99.tmp").write_bytes(b"half")  # what a killed worker may leave
    assert prepare(target, subset, jobs=2) == 0
    assert {path: path.stat().st_ino for path in finished} == finished
    assert names(target, "train") == ids and verify([str(target / "libri_train_manifest.csv")]) == 0
    assert len(list(wav.iterdir())) == 150


# archives

@pytest.mark.parametrize("prefix",
                         ["LibriSpeech/dev-clean", "./LibriSpeech/dev-clean", "dev-clean"])
def test_an_archive_of_a_subset(corpus, tmp_path, prefix):
    target = tmp_path / "target"
    assert prepare(target, pack(corpus / "dev-clean", tmp_path / "a.tar.gz", prefix)) == 0
    assert len(names(target, "val")) == 5
    assert sorted(os.listdir(target / "LibriSpeech_dataset")) == [".prepared", "val"]


def test_an_archive_of_several_subsets_one_after_the_other(corpus, tmp_path):
    target, archive = tmp_path / "target", pack(corpus, tmp_path / "all.tar.gz", "LibriSpeech")
    assert prepare(target, archive, arguments=("--subsets", "test-clean")) == 0
    assert [path.name for path in target.glob("*.csv")] == ["libri_test_clean_manifest.csv"]
    assert prepare(target, archive) == 0
    assert len(list(target.glob("*.csv"))) == 4
    assert prepare(target, corpus) == 0  # the same from the folder
    assert len(names(target, "val")) == 10


def test_an_archive_whose_preparation_was_stopped(corpus, tmp_path, monkeypatch):
    """What was unpacked serves the next run; what a killed unpacking left goes."""
    target, archive = tmp_path / "target", pack(corpus, tmp_path / "all.tar.gz", "LibriSpeech")

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(librispeech, "read_subset", stop)
        assert prepare(target, archive) == 130
    unpacked = target / "LibriSpeech_dataset/source"
    inode = unpacked.stat().st_ino
    leftover = unpacked.with_name(".source.99.tmp")
    leftover.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(librispeech, "remove_unpacked", lambda folder: None)
        assert prepare(target, archive) == 0
    assert unpacked.stat().st_ino == inode
    # killed before it could be removed
    assert prepare(target, archive) == 0
    assert not unpacked.exists() and not leftover.exists()


def test_a_removal_of_what_was_unpacked_that_was_killed(corpus, tmp_path, monkeypatch):
    """What is left of it is in nobody's way."""
    target, archive = tmp_path / "target", pack(corpus, tmp_path / "all.tar.gz", "LibriSpeech")

    real = shutil.rmtree

    def killed(folder, *options, **others):
        if not Path(folder, UNPACKED).exists():
            return real(folder, *options, **others)
        Path(folder, UNPACKED).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("data.download.shutil.rmtree", killed)
        assert prepare(target, archive) == 130
    assert not (target / "LibriSpeech_dataset" / "source").exists()
    other = pack(corpus, tmp_path / "again.tar.gz", "LibriSpeech")
    assert prepare(target, other) == 0
    assert not list((target / "LibriSpeech_dataset").glob("*source*"))


def test_a_stopped_preparation_from_another_source_leaves_no_mixture(tmp_path, monkeypatch):
    """Recordings and texts of equal sizes, from two folders."""
    sources = [tmp_path / name / "LibriSpeech" / "dev-clean" for name in "ab"]
    for source, texts in zip(sources, (["ONE TWO", "SIX"], ["TWO ONE", "TEN"]), strict=True):
        write_chapter(source, 1, [(2, text) for text in texts])
    target, real = tmp_path / "target", librispeech.write_utterance

    def stop(*arguments):
        if arguments[-1].text == "TEN":
            raise KeyboardInterrupt
        return real(*arguments)

    assert prepare(target, sources[0], jobs=1) == 0
    with monkeypatch.context() as patch:
        patch.setattr(librispeech, "write_utterance", stop)
        assert prepare(target, sources[1], jobs=1) == 130
    assert prepare(target, sources[0], jobs=1) == 0
    found = (target / "LibriSpeech_dataset/val/txt").glob("*.txt")
    assert [path.read_text() for path in sorted(found)] == ["ONE TWO\n", "SIX\n"]


def test_two_subsets_with_other_utterances_of_one_name(tmp_path, caplog):
    """The first keeps it; equal ones, as in train-clean-5 and train-clean-100, are one."""
    for name, texts in (("train-a", ["ONE", "TWO"]), ("train-b", ["ONE", "SEVEN"])):
        subset = tmp_path / "LibriSpeech" / "train-clean-5"
        write_chapter(subset, 1, [(2, text) for text in texts])
        subset.rename(subset.with_name(name))
    target = tmp_path / "target"
    assert prepare(target, tmp_path / "LibriSpeech", jobs=1) == 0
    assert "train-a has another utterance of this name; it is left out" in caplog.text
    manifest = target / "libri_train_manifest.csv"
    rows = csv.reader(manifest.open())
    texts = [(target / transcript).read_text() for _, transcript in rows]
    assert texts == ["ONE\n", "TWO\n"] and verify([str(manifest)]) == 0


def test_a_broken_archive_is_the_users_mistake(corpus, tmp_path, capsys):
    archive = pack(corpus, tmp_path / "all.tar.gz", "LibriSpeech")
    os.truncate(archive, archive.stat().st_size // 2)
    assert prepare(tmp_path / "target", archive) == 2
    assert "all.tar.gz: broken" in capsys.readouterr().err


# downloads

@pytest.fixture
def site(corpus, tmp_path, monkeypatch) -> Path:
    """A folder with dev-clean and dev-other, served in place of openslr.org, and their sums."""
    folder = tmp_path / "site"
    folder.mkdir()
    for subset in ("dev-clean", "dev-other"):
        archive = pack(corpus / subset, folder / f"{subset}.tar.gz", f"LibriSpeech/{subset}")
        monkeypatch.setitem(MD5, subset, hashlib.md5(archive.read_bytes()).hexdigest())
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0),
                                             functools.partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(librispeech, "URL", f"http://127.0.0.1:{server.server_port}/")
    yield folder
    server.shutdown()
    server.server_close()


def test_without_a_source_the_subsets_are_downloaded_once(site, tmp_path):
    target = tmp_path / "target"
    assert prepare(target, arguments=("--subsets", "dev-clean", "dev-other")) == 0
    assert len(names(target, "val")) == 10
    before = files(target)
    for path in [*site.iterdir(), *target.glob("*.tar.gz")]:  # nobody needs them any more
        path.unlink()
    assert prepare(target, arguments=("--subsets", "dev-clean", "dev-other")) == 0
    assert files(target).items() <= before.items()


def test_what_was_prepared_from_a_folder_is_not_downloaded(corpus, site, tmp_path):
    target = tmp_path / "target"
    assert prepare(target, corpus / "dev-clean") == 0
    (site / "dev-clean.tar.gz").unlink()
    assert prepare(target, arguments=("--subsets", "dev-clean", "dev-other")) == 0
    assert len(names(target, "val")) == 10


def test_a_wrong_md5_sum_is_refused(site, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(MD5, "dev-clean", "0" * 32)
    assert prepare(tmp_path / "target", arguments=("--subsets", "dev-clean")) == 1
    error = capsys.readouterr().err
    assert "MD5 sum" in error and "0" * 32 in error and "--source" in error
    assert not list((tmp_path / "target").rglob("*.tar.gz"))
    assert not list((tmp_path / "target").glob("*.csv"))


def test_an_archive_at_hand_that_is_not_the_subset(corpus, tmp_path, capsys):
    (tmp_path / "target").mkdir()
    pack(corpus / "dev-other", tmp_path / "target/dev-clean.tar.gz", "LibriSpeech/dev-other")
    assert prepare(tmp_path / "target", arguments=("--subsets", "dev-clean")) == 1
    assert "dev-clean.tar.gz: has no dev-clean" in capsys.readouterr().err
    (tmp_path / "target/dev-clean.tar.gz").write_text("<html>")
    assert prepare(tmp_path / "target", arguments=("--subsets", "dev-clean")) == 1
    assert "delete it" in capsys.readouterr().err


# mistakes

@pytest.mark.parametrize("arguments, words", [
    (("--subsets", "dev2"), "'dev2' is none of dev-clean"),
    (("--max_seconds", "-1"), "0 or more"),
    (("--jobs", "0"), "at least 1"),
])
def test_wrong_options(tmp_path, arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        prepare(tmp_path / "target", tmp_path, arguments=arguments)
    assert caught.value.code == 2 and words in capsys.readouterr().err


def test_limits_that_leave_out_everything(corpus, tmp_path, capsys):
    assert prepare(tmp_path / "target", corpus, arguments=("--min_seconds", "20")) == 2
    assert "--min_seconds 20.0 is more than --max_seconds 15" in capsys.readouterr().err


def test_a_subset_on_two_disks_is_refused(tmp_path, capsys):
    """Of two folders with one name the first one's utterances would be lost."""
    disks = [tmp_path / name for name in ("disk1", "disk2")]
    for disk in disks:
        write_subset(disk, "dev-clean")
    assert prepare(tmp_path / "target", *disks) == 2
    message = f"{disks[1]}/dev-clean: {disks[0]}/dev-clean has dev-clean too: give one of them"
    assert message in capsys.readouterr().err
    assert prepare(tmp_path / "target", disks[0], disks[0]) == 0
    write_subset(disks[0] / "LibriSpeech", "dev-clean")
    assert prepare(tmp_path / "target", disks[0]) == 2
    assert "LibriSpeech/dev-clean: " in capsys.readouterr().err


def test_wrong_sources(corpus, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.tar.gz").write_text("not an archive")
    for name in ("nowhere", "empty", "text.tar.gz"):
        assert prepare(tmp_path / "target", tmp_path / name) == 2
        error = capsys.readouterr().err
        assert name in error and len(error.splitlines()) == 1
    other = pack(tmp_path / "empty", tmp_path / "other.tar.gz", "other")
    assert prepare(tmp_path / "target", other) == 2
    assert "other.tar.gz: not LibriSpeech" in capsys.readouterr().err
    assert not list((tmp_path / "target/LibriSpeech_dataset").iterdir())
    assert prepare(tmp_path / "target", arguments=("--subsets", "train-clean-5")) == 2
    assert "train-clean-5: only dev-clean, " in capsys.readouterr().err
    assert prepare(tmp_path / "target", corpus,
                   arguments=("--subsets", "dev-clean", "train-clean-360")) == 2
    error = capsys.readouterr().err
    assert "train-clean-360: not in --source, which has dev-clean, dev-other" in error
    (tmp_path / "file").write_text("here already")
    assert prepare(tmp_path / "file" / "target", corpus) == 2
    assert "target: cannot write there" in capsys.readouterr().err


# real speech

def test_the_real_subset_prepared_twice(shared, tmp_path, capsys):
    source, target = shared / "data" / "LibriSpeech", tmp_path / "target"
    assert prepare(target, source, jobs=2) == 0
    before = files(target)
    assert prepare(target, source, jobs=2) == 0
    assert files(target) == before
    out = capsys.readouterr().out.splitlines()
    assert out[0] == out[1] and "108 utterances" in out[0]
    assert "52 for their length, 0 broken" in out[0]

    prepared = dict(rows(target, "train"))
    lengths = {path.stem: soundfile.info(path).duration for path in source.rglob("*.flac")}
    assert len(lengths) == 160
    assert list(prepared) == sorted(n for n, seconds in lengths.items() if 1 <= seconds <= 15)
    for path in source.rglob("*.trans.txt"):
        for line in path.read_text().splitlines():
            name, _, text = line.partition(" ")
            assert prepared.get(name, f"{text}\n") == f"{text}\n"
    name = next(iter(prepared))
    pair = target / f"LibriSpeech_dataset/train/wav/{name}.wav", next(source.rglob(f"{name}.flac"))
    np.testing.assert_array_equal(*(soundfile.read(path, dtype="int16")[0] for path in pair))
