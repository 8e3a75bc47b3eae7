"""Preparing AN4, from trees in its layout with audio of all its formats, and from the real one."""

import csv
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data import an4
from data.download import DownloadError
from deepspeech2.audio import AudioError
from deepspeech2.labels import Labels

RATE = 16000
WORDS = {"an1-aaaa-b": "<s> GO LEFT </s>", "an2-aaaa-b": "<s> don't ++breath++ STOP <sil> </s>",
         "an3-bbbb-b": "<s> A B C </s>", "an4-fash-b": "<s> YES </s>",
         "an5-mbmg-b": "<s> NINE [noise] TWO </s>"}
TEST_WORDS = {"an6-cccc-b": "ENTER SIX", "an7-cccc-b": "RUBOUT"}


def tone(number: int) -> np.ndarray:
    """(n,) int16 samples, different for every utterance."""
    return (8000 * np.sin(np.arange(4000 + 100 * number) / (6 + number))).astype(np.int16)


def write_audio(path: Path, samples: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".raw":
        path.write_bytes(samples.astype(">i2").tobytes())
    else:
        soundfile.write(path, samples, RATE, subtype="PCM_16",
                        format={".sph": "NIST"}.get(path.suffix))


def write_corpus(folder: Path, suffix: str = ".raw", test: bool = False) -> Path:
    lists = [("train", "an4_clstk", WORDS)] + [("test", "an4test_clstk", TEST_WORDS)] * test
    (folder / "etc").mkdir(parents=True)
    for split, top, words in lists:
        fileids = [f"{top}/{name.split('-')[1]}/{name}" for name in words]
        (folder / "etc" / f"an4_{split}.fileids").write_text(
            "".join(f"{fileid}\n" for fileid in fileids))
        (folder / "etc" / f"an4_{split}.transcription").write_text(
            "".join(f"{text} ({name})\n" for name, text in words.items()))
        for fileid in fileids:
            write_audio(folder / "wav" / f"{fileid}{suffix}", tone(int(fileid[-8])))
    return folder


def prepare(source: Path, target: Path, *arguments: str) -> int:
    return an4.main(["--source", str(source), "--target", str(target), "--jobs=1", *arguments])


def rows(target: Path, split: str) -> dict[str, tuple[np.ndarray, str]]:
    """The manifest of a split: samples and transcript by utterance."""
    with open(target / f"an4_{split}_manifest.csv", newline="") as file:
        return {Path(audio).stem: (soundfile.read(audio, dtype="int16")[0], Path(text).read_text())
                for audio, text in csv.reader(file)}


@pytest.mark.parametrize("suffix", an4.SUFFIXES)
def test_every_format_gives_the_same_samples(tmp_path, suffix, capsys):
    assert prepare(write_corpus(tmp_path / "source", suffix, test=True), tmp_path / "target",
                   "--jobs=2") == 0
    train, val, test = (rows(tmp_path / "target", split) for split in an4.SPLITS)
    assert list(train) == ["an1-aaaa-b", "an2-aaaa-b", "an3-bbbb-b"]
    assert list(val) == ["an4-fash-b", "an5-mbmg-b"] and list(test) == ["an6-cccc-b", "an7-cccc-b"]
    for name, (samples, _) in {**train, **val, **test}.items():
        np.testing.assert_array_equal(samples, tone(int(name[2])))
    texts = [text for _, text in {**train, **val, **test}.values()]
    assert texts == ["GO LEFT\n", "DON'T STOP\n", "A B C\n", "YES\n", "NINE TWO\n", "ENTER SIX\n",
                     "RUBOUT\n"]
    for split in an4.SPLITS:
        assert (tmp_path / "target" / f"an4_{split}_manifest.index.npz").exists()
    assert "0 utterances left out" in capsys.readouterr().out


def test_another_sample_rate_is_converted(tmp_path):
    source = write_corpus(tmp_path / "source", ".wav")
    path = source / "wav/an4_clstk/aaaa/an1-aaaa-b.wav"
    soundfile.write(path, np.column_stack([tone(1)] * 2), 8000)
    assert prepare(source, tmp_path / "target") == 0
    assert len(rows(tmp_path / "target", "train")["an1-aaaa-b"][0]) == 2 * len(tone(1))


def test_a_split_that_the_source_lacks_is_said(tmp_path, capsys, caplog):
    assert prepare(write_corpus(tmp_path / "source"), tmp_path / "target") == 0
    assert "etc/an4_test.fileids" in caplog.text and "test split is left out" in caplog.text
    assert not (tmp_path / "target" / "an4_test_manifest.csv").exists()


def test_the_second_run_leaves_the_audio_alone_and_a_new_source_does_not(tmp_path):
    source, target = write_corpus(tmp_path / "source"), tmp_path / "target"
    assert prepare(source, target) == 0
    before = {path: path.stat().st_ino for path in target.rglob("*.*")
              if path.suffix in (".wav", ".txt", ".npz")}
    assert prepare(source, target) == 0
    assert {path: path.stat().st_ino for path in before} == before
    write_audio(source / "wav/an4_clstk/aaaa/an1-aaaa-b.raw", tone(9))
    assert prepare(source, target) == 0
    np.testing.assert_array_equal(rows(target, "train")["an1-aaaa-b"][0], tone(9))
    assert sum(path.stat().st_ino != inode for path, inode in before.items()
               if path.suffix == ".wav") == 1


@pytest.mark.parametrize("left", [0, 10, 44, 1000])
def test_a_recording_that_a_power_cut_left_short_is_written_again(tmp_path, left):
    """Its name and its time may reach the disk before its samples."""
    source, target = write_corpus(tmp_path / "source"), tmp_path / "target"
    assert prepare(source, target) == 0
    (path,) = target.rglob("an1-aaaa-b.wav")
    time = path.stat().st_mtime_ns
    os.truncate(path, left)
    os.utime(path, ns=(time, time))
    assert prepare(source, target) == 0
    np.testing.assert_array_equal(rows(target, "train")["an1-aaaa-b"][0], tone(1))


def break_audio(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes({"truncated": content[:len(content) // 2], "empty": b"",
                          "text": b"<html>"}[how])


@pytest.mark.parametrize(("suffix", "how"), [
    (".raw", "missing"), (".raw", "empty"), (".sph", "truncated"), (".wav", "truncated"),
    (".flac", "truncated"), (".wav", "text")])
def test_a_broken_file_is_named_skipped_and_counted(tmp_path, suffix, how, capsys, caplog):
    source = write_corpus(tmp_path / "source", suffix)
    break_audio(source / f"wav/an4_clstk/bbbb/an3-bbbb-b{suffix}", how)
    assert prepare(source, tmp_path / "target", "--jobs=2") == 0
    assert "an3-bbbb-b" in caplog.text
    assert "1 utterances left out" in capsys.readouterr().out
    assert list(rows(tmp_path / "target", "train")) == ["an1-aaaa-b", "an2-aaaa-b"]
    assert not list((tmp_path / "target").rglob("an3*"))


def test_nothing_usable_is_a_failure(tmp_path, capsys):
    source = write_corpus(tmp_path / "source", ".wav")
    for path in source.rglob("*.wav"):
        break_audio(path, "text")
    assert prepare(source, tmp_path / "target") == 1
    assert "none of the 5 utterances" in capsys.readouterr().err


def test_an_empty_source_is_named(tmp_path, capsys):
    source = write_corpus(tmp_path / "source")
    (source / "etc/an4_train.fileids").write_text("")
    assert prepare(source, tmp_path / "target") == 1
    assert f"{source}: none of the 0 utterances" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a" * 300, "a/" * 3000 + "a", "a\0b"])
def test_a_name_that_no_file_can_have(tmp_path, caplog, name):
    source = write_corpus(tmp_path / "source")
    with open(source / "etc/an4_train.fileids", "a") as file:
        file.write(f"an4_clstk/aaaa/{name}\n")
    with open(source / "etc/an4_train.transcription", "a") as file:
        file.write(f"YES ({name.rpartition('/')[2]})\n")
    assert prepare(source, tmp_path / "target") == 0
    assert "an4_train.fileids:6: no audio file" in caplog.text
    assert len(rows(tmp_path / "target", "train")) == 3


def test_problems_of_the_lists_are_told_with_their_line(tmp_path, capsys, caplog):
    source, etc = write_corpus(tmp_path / "source"), tmp_path / "source" / "etc"
    lines = [f"{text} ({name})" for name, text in WORDS.items()]
    lines[0] = "<s> ROUTE 66 </s> (an1-aaaa-b)"
    lines[1] = "<s> DON'T STOP </s>"
    lines[4] = "<s> ++noise++ </s> (an5-mbmg-b)"
    (etc / "an4_train.transcription").write_text("\n".join([*lines, lines[2]]) + "\n")
    with open(etc / "an4_train.fileids", "a") as file:
        file.write("an4_clstk/bbbb/an3-bbbb-b\nan4_clstk/bbbb/an8-bbbb-b\n")
    assert prepare(source, tmp_path / "target") == 0
    for line, what in ((1, "'6'"), (2, "DON'T STOP"), (5, "an5-mbmg-b is empty"),
                       (6, "an3-bbbb-b is there twice")):
        assert any(f"an4_train.transcription:{line}: " in message and what in message
                   for message in caplog.messages)
    for line, what in ((2, "an2-aaaa-b has no transcript"), (6, "an3-bbbb-b is there twice"),
                       (7, "an8-bbbb-b has no transcript")):
        assert any(f"an4_train.fileids:{line}: {what}" in message for message in caplog.messages)
    assert list(rows(tmp_path / "target", "train")) == ["an3-bbbb-b"]
    assert "5 utterances left out" in capsys.readouterr().out


def test_raw_of_the_other_byte_order_is_refused(tmp_path):
    path = tmp_path / "a.raw"
    tone(1).astype("<i2").tofile(path)
    with pytest.raises(AudioError, match="little-endian"):
        an4.read_source(path)
    tone(1).astype(">i2").tofile(path)
    np.testing.assert_array_equal(an4.read_source(path) * 32768, tone(1))
    path.write_bytes(b"abc")
    with pytest.raises(AudioError, match="3 bytes"):
        an4.read_source(path)


def pack(source: Path, path: Path, prefix: str) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for child in source.iterdir():
            tar.add(child, f"{prefix}{child.name}")
    return path


@pytest.mark.parametrize("prefix", ["", "an4/", "./an4/"])
def test_a_tarball_with_and_without_a_top_folder(tmp_path, prefix, capsys):
    tarball = pack(write_corpus(tmp_path / "source"), tmp_path / "an4.tar.gz", prefix)
    target = tmp_path / "target"
    assert prepare(tarball, target) == 0
    assert len(rows(target, "train")) == 3 and len(rows(target, "val")) == 2
    before = {path: path.stat().st_ino for path in target.rglob("*.*")
              if path.suffix in (".wav", ".raw")}
    assert prepare(tarball, target) == 0
    assert {path: path.stat().st_ino for path in before} == before


def test_wrong_sources_are_the_users_mistake(tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.tar.gz").write_text("not an archive")
    for name in ("nowhere", "folder", "text.tar.gz"):
        assert prepare(tmp_path / name, tmp_path / "target") == 2
        error = capsys.readouterr().err
        assert name in error and len(error.splitlines()) == 1


def test_without_a_source_the_official_archive_is_fetched(tmp_path, monkeypatch, capsys):
    target = tmp_path / "target"
    tarball = pack(write_corpus(tmp_path / "source"), tmp_path / "an4.tar.gz", "an4/")

    def fetch(url, path):
        assert url == an4.URL and path == target / "an4_raw.bigendian.tar.gz"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(tarball.read_bytes())
        return path

    monkeypatch.setattr(an4, "download", fetch)
    assert an4.main(["--target", str(target)]) == 0
    assert len(rows(target, "train")) == 3
    tarball.write_bytes(b"<html>moved</html>")
    assert an4.main(["--target", str(target)]) == 1
    assert "delete it" in capsys.readouterr().err

    def fail(url, path):
        raise DownloadError(f"{url}: no network")

    monkeypatch.setattr(an4, "download", fail)
    assert an4.main(["--target", str(target)]) == 1
    assert "no network" in (error := capsys.readouterr().err) and "--source" in error


def test_a_target_that_cannot_be_a_folder(tmp_path, capsys):
    (tmp_path / "file").write_text("here already")
    assert prepare(write_corpus(tmp_path / "source"), tmp_path / "file" / "target") == 2
    assert "target: cannot write there" in capsys.readouterr().err


def test_the_shipped_list_of_dev_speakers(shared):
    ours = an4.DEV_SPEAKERS.read_text().split()
    assert len(ours) == 8
    assert ours == (shared / "data" / "an4" / "dev_speakers.txt").read_text().split()


def test_the_real_corpus_is_divided_by_speaker(shared):
    labels = Labels.load(an4.LABELS_PATH)
    splits, named = an4.gather(shared / "data" / "an4", labels)
    assert named == 948 and {split: len(utterances) for split, utterances in splits.items()} == {
        "train": 853, "val": 95, "test": 0}
    train, val = ({u.speaker for u in splits[split]} for split in ("train", "val"))
    assert (len(train), len(val)) == (66, 8) and not train & val
    assert all(set(u.text) <= set(labels.characters[:-1]) for split in splits.values()
               for u in split)


def test_a_part_of_the_real_corpus(shared, tmp_path, capsys):
    """Every twelfth utterance, as FLAC of the original samples."""
    real, source = shared / "data" / "an4", tmp_path / "source"
    (source / "etc").mkdir(parents=True)
    (source / "wav").symlink_to(real / "wav")
    for kind in ("fileids", "transcription"):
        lines = (real / "etc" / f"an4_train.{kind}").read_text().splitlines(keepends=True)
        (source / "etc" / f"an4_train.{kind}").write_text("".join(lines[::12]))
    assert prepare(source, tmp_path / "target", "--jobs=2") == 0
    prepared = {**rows(tmp_path / "target", "train"), **rows(tmp_path / "target", "val")}
    assert len(prepared) == 79
    original = soundfile.read(real / "wav/an4_clstk/fash/an251-fash-b.flac", dtype="int16")[0]
    np.testing.assert_array_equal(prepared["an251-fash-b"][0], original)
    assert prepared["an251-fash-b"][1] == "YES\n"
    assert "0 utterances left out" in capsys.readouterr().out
