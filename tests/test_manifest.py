"""Lines and problems of manifests, and an index that is believed as long as nothing changed."""

import io
import logging
import os
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deepspeech2.errors import InputError
from deepspeech2.labels import Labels
from src import manifest as manifest_module
from src.manifest import (
    ManifestError,
    index_path,
    inspect_manifest,
    read_manifest,
    read_transcript,
    write_manifest,
)


@pytest.fixture
def corpus(tmp_path, write_wav) -> Path:
    """Three utterances of 0.1, 0.2 and 0.3 s, and `train.csv` that lists them."""
    for i, text in enumerate(["hello\n", "DON'T  STOP", "A"]):
        write_wav(tmp_path / f"{i}.wav", seconds=0.1 * (i + 1), rate=16000 if i < 2 else 8000)
        (tmp_path / f"{i}.txt").write_text(text)
    (tmp_path / "train.csv").write_text("0.wav,0.txt\n1.wav,1.txt\n2.wav,2.txt\n")
    return tmp_path


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """Names of the audio files that were read since, in any order."""
    names = []
    original = manifest_module.read_audio

    def counting(path):
        names.append(Path(path).name)
        return original(path)

    monkeypatch.setattr(manifest_module, "read_audio", counting)
    return names


def problems_of(path: Path, labels: Labels) -> list[str]:
    """All problems of a manifest that has some."""
    with pytest.raises(ManifestError) as caught:
        read_manifest(path, labels)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def touch(path: Path) -> None:
    """Give a file another time of change."""
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


# what a manifest says

def test_facts_of_every_row(corpus, labels):
    manifest = read_manifest(corpus / "train.csv", labels)
    assert len(manifest) == 3
    assert [Path(path).name for path in manifest.audio_paths] == ["0.wav", "1.wav", "2.wav"]
    assert [Path(path).name for path in manifest.transcript_paths] == ["0.txt", "1.txt", "2.txt"]
    assert manifest.samples.tolist() == [1600, 3200, 2400]
    assert manifest.sample_rates.tolist() == [16000, 16000, 8000]
    assert manifest.label_counts.tolist() == [5, 10, 1]
    np.testing.assert_allclose(manifest.seconds, [0.1, 0.2, 0.3])


@pytest.mark.parametrize(("text", "frames"), [
    ("A", 1), ("AB", 2),
    ("AA", 3),  # A blank A
    ("HELLO", 6), ("AAA", 5), ("A A", 3),
    ("''", 3),  # class 0 counts
    ("BALLOON BOOKKEEPER", 18 + 5),
])
def test_required_frames_are_labels_and_repeats(corpus, labels, text, frames):
    (corpus / "0.txt").write_text(text)
    assert read_manifest(corpus / "train.csv", labels).required_frames[0] == frames


# lines

@pytest.mark.parametrize("content", [
    b"0.wav,0.txt\n1.wav,1.txt\n",
    b"0.wav,0.txt\n1.wav,1.txt",
    b"0.wav,0.txt\r\n1.wav,1.txt\r\n",
    b"\xef\xbb\xbf0.wav,0.txt\n1.wav,1.txt\n",
    b" 0.wav , 0.txt \n\"1.wav\",\"1.txt\"\n",
    b"./0.wav,../NAME/0.txt\n1.wav,1.txt\n",
    b"\n0.wav,0.txt\n\r\n \n1.wav,1.txt\n\n\n",
], ids=["plain", "no last newline", "CRLF", "BOM", "spaces and quotes", "dots", "blank lines"])
def test_ways_to_write_lines(corpus, labels, content):
    path = corpus / "other.csv"
    path.write_bytes(content.replace(b"NAME", corpus.name.encode()))
    assert read_manifest(path, labels).samples.tolist() == [1600, 3200]


def test_the_line_of_a_row_is_named_behind_blank_lines(corpus, labels):
    path = corpus / "other.csv"
    path.write_text("\n0.wav,0.txt\n\n1.wav,1.txt\n")
    assert [read_manifest(path, labels).where(row) for row in (0, 1)] == [f"{path}:2", f"{path}:4"]
    path.write_text("\n0.wav,0.txt\n\n9.wav,1.txt\n")
    assert problems_of(path, labels)[0].startswith(f"{path}:4: {corpus / '9.wav'}: ")
    path.write_text("\n \n\n")
    assert problems_of(path, labels) == [f"{path}: the manifest is empty"]


def test_relative_paths_begin_at_the_manifest_wherever_one_stands(corpus, labels, monkeypatch):
    (corpus / "lists").mkdir()
    (corpus / "lists" / "train.csv").write_text(f"../0.wav,{corpus}/0.txt\n")
    for folder, path in ((corpus / "lists", "train.csv"), ("/", corpus / "lists" / "train.csv")):
        monkeypatch.chdir(folder)
        (audio,) = read_manifest(path, labels).audio_paths
        assert Path(audio).is_absolute() and Path(audio).samefile(corpus / "0.wav")


def test_written_manifest_has_absolute_paths_and_quotes_commas(corpus, labels, monkeypatch):
    strange = corpus / 'one, "two".wav'
    (corpus / "0.wav").rename(strange)
    monkeypatch.chdir(corpus)
    manifest, problems = write_manifest("new.csv", [(strange.name, "0.txt"), ("1.wav", "1.txt")],
                                        labels)
    assert problems == []
    assert manifest.audio_paths == [str(strange), str(corpus / "1.wav")]
    assert (corpus
            / "new.csv").read_text().splitlines()[1] == f"{corpus / '1.wav'},{corpus / '1.txt'}"
    assert read_manifest("new.csv", labels).audio_paths == manifest.audio_paths


def test_written_manifest_reports_bad_rows(corpus, labels):
    manifest, problems = write_manifest(corpus / "new.csv", [(corpus / "9.wav", corpus / "0.txt")],
                                        labels)
    assert manifest is None
    assert len(problems) == 1 and problems[0].startswith(
        f"{corpus / 'new.csv'}:1: {corpus / '9.wav'}: ")


METADATA = [(1600, 16000, 5, 1), (3200, 16000, 10, 0), (2400, 8000, 1, 0)]  # of `corpus`


def test_facts_at_hand_save_decoding(corpus, labels, decoded):
    rows = [(corpus / f"{i}.wav", corpus / f"{i}.txt") for i in range(3)]
    written, problems = write_manifest(corpus / "new.csv", rows, labels, metadata=METADATA)
    assert problems == [] and len(read_manifest(corpus / "new.csv", labels)) == 3 and decoded == []
    inspected, _ = inspect_manifest(corpus / "new.csv", labels)
    assert sorted(decoded) == ["0.wav", "1.wav", "2.wav"]
    for name in ("samples", "sample_rates", "label_counts", "repeats"):
        np.testing.assert_array_equal(getattr(written, name), getattr(inspected, name))


def test_what_is_written_already_is_left_alone(corpus, labels):
    rows = [(corpus / f"{i}.wav", corpus / f"{i}.txt") for i in range(3)]
    write_manifest(corpus / "new.csv", rows, labels, metadata=METADATA)
    paths = corpus / "new.csv", index_path(corpus / "new.csv")
    before = [path.stat().st_ino for path in paths]
    write_manifest(corpus / "new.csv", rows, labels, metadata=METADATA)
    write_manifest(corpus / "new.csv", rows, labels)
    assert [path.stat().st_ino for path in paths] == before
    # of a new file
    write_manifest(corpus / "new.csv", rows, labels,
                   metadata=[(800, *METADATA[0][1:]), *METADATA[1:]])
    assert [path.stat().st_ino == inode
            for path, inode in zip(paths, before, strict=True)] == [True, False]
    assert read_manifest(corpus / "new.csv", labels).samples.tolist() == [800, 3200, 2400]


def test_facts_do_not_hide_a_missing_file(corpus, labels):
    (corpus / "1.txt").unlink()
    rows = [(corpus / f"{i}.wav", corpus / f"{i}.txt") for i in range(3)]
    manifest, problems = write_manifest(corpus / "new.csv", rows, labels, metadata=METADATA)
    assert manifest is None and not index_path(corpus / "new.csv").exists()
    assert len(problems) == 1 and problems[0].startswith(
        f"{corpus / 'new.csv'}:2: {corpus / '1.txt'}: ")


@pytest.mark.parametrize("line", [
    "0.wav", "0.wav,", ",0.txt", " , ", "0.wav,0.txt,0.5", '"0.wav,0.txt', "0.wav\t0.txt",
    "0.wav;0.txt", "0.wav,0.t\0xt", "x" * 200_000 + ",0.txt",
], ids=lambda line: repr(line[:20]))
def test_malformed_line_is_named_and_the_others_are_still_checked(corpus, labels, line):
    path = corpus / "train.csv"
    path.write_text(f"0.wav,0.txt\n{line}\n9.wav,1.txt\n")
    first, second = problems_of(path, labels)
    assert first.startswith(f"{path}:2: expected `audio_path,transcript_path`, found '")
    assert second.startswith(f"{path}:3: {corpus / '9.wav'}: ")
    assert len(first) < len(str(path)) + 400


@pytest.mark.parametrize("header", [
    "audio_path,transcript_path", "audio,transcript", "\ufeffwav_filename,wav_filesize,transcript",
    '"path","text"', "audio file,text",
])
def test_a_header_is_named_as_one(corpus, labels, header):
    path = corpus / "train.csv"
    path.write_text(f"{header}\n0.wav,0.txt\n")
    (problem,) = problems_of(path, labels)
    assert problem.startswith(f"{path}:1: a manifest has no header: delete this line, ")
    # there is a file of that name
    shutil.copy(corpus / "0.wav", corpus / header.partition(",")[0].strip('"\ufeff'))
    (problem,) = problems_of(path, labels)
    assert problem.startswith(f"{path}:1: ") and "no header" not in problem


@pytest.mark.parametrize(("content", "command"), [
    ('{"audio_filepath": "0.wav", "duration": 1.0, "text": "hello"}\n' * 2, "nemo"),
    ('{"root_path": ".", "samples": [\n{"wav_path": "0.wav", "transcript_path": "0.txt"}]}',
     "deepspeech.pytorch"),
    ('\ufeff\n[["0.wav", "0.txt"]]', None),
])
def test_a_json_manifest_is_named_with_the_way_out(corpus, labels, content, command):
    path = corpus / "train.json"
    path.write_text(content, encoding="utf-8")
    (problem,) = problems_of(path, labels)
    assert problem.startswith(f"{path}: this is JSON; a manifest is a CSV file, ")
    way_out = f"python -m data.corpus {path} --format {command} makes a manifest of it"
    assert problem.endswith(way_out) if command else "data.corpus" not in problem


def test_lists_in_lists_are_only_a_bad_line(corpus, labels):
    path = corpus / "train.csv"
    path.write_text("[" * 100_000)
    (problem,) = problems_of(path, labels)
    assert problem.startswith(f"{path}:1: expected `audio_path,transcript_path`, found")


def test_names_may_begin_as_json_does(corpus, labels):
    (corpus / "0.wav").rename(corpus / "[0].wav")
    (corpus / "train.csv").write_text("[0].wav,0.txt\n1.wav,1.txt\n")
    assert len(read_manifest(corpus / "train.csv", labels)) == 2


# problems

def test_thousands_of_problems_of_one_kind_are_counted(corpus, labels):
    path = corpus / "moved.csv"
    path.write_text("".join(f"/old/{i}.wav,/old/{i}.txt\n" for i in range(5000)) + "0.wav\n")
    with pytest.raises(ManifestError) as caught:
        read_manifest(path, labels)
    assert len(caught.value.problems) == 10_001
    lines = str(caught.value).splitlines()
    assert len(lines) == 13 and lines[0].startswith(f"{path}:5001: expected ")
    assert lines[-2:] == ["and 4995 more: cannot read the audio: No such file or directory",
                          "and 4995 more: cannot read the transcript: No such file or directory"]


def test_problems_are_of_one_kind_whatever_they_quote(corpus, labels):
    path = corpus / "train.csv"
    lines = []
    for i in range(7):
        (corpus / f"{i}.txt").write_text(f"ROOM 10{i}: Ö", encoding="utf-8")
        lines.append(f"0.wav,{i}.txt\n")
    path.write_text("".join(lines))
    with pytest.raises(ManifestError) as caught:
        read_manifest(path, labels)
    shown = str(caught.value).splitlines()
    assert len(shown) == 7 and shown[-1] == "and 2 more: unknown characters"
    # all characters with the number of their transcripts
    start, counts = shown[-2].split(" characters: ")
    assert start == f"{path}: transcripts with unknown"
    assert set(counts.split(", ")) == {"'0' in 7", "'1' in 7", "':' in 7", "'Ö' (U+00D6) in 7",
                                       "'2' in 1", "'3' in 1", "'4' in 1", "'5' in 1", "'6' in 1"}


def test_every_problem_in_one_pass_with_its_line(corpus, labels, write_wav):
    write_wav(corpus / "3.wav")
    os.truncate(corpus / "1.wav", 1000)
    (corpus / "1.txt").write_text("ROOM 101")
    (corpus / "2.txt").write_text(" \n")
    (corpus / "3.txt").write_bytes(b"\xff\xfe")
    path = corpus / "train.csv"
    path.write_text(
        "9.wav,0.txt\nnonsense\n1.wav,1.txt\n2.wav,2.txt\n3.wav,3.txt\n0.wav,8.txt\n0.wav,0.txt\n")
    expected = [
        (1, "9.wav", "No such file"),
        (2, "nonsense", "expected"),
        (3, "1.wav", "truncated"),
        (3, "1.txt", "'0' '1'"),
        (4, "2.txt", "empty"),
        (5, "3.txt", "not UTF-8"),
        (6, "8.txt", "No such file"),
    ]
    problems = problems_of(path, labels)
    assert len(problems) == len(expected) and not index_path(path).exists()
    assert not any("\n" in problem for problem in problems)
    for line, name, words in expected:
        assert any(problem.startswith(f"{path}:{line}: ") and name in problem and words in problem
                   for problem in problems), (line, name)


@pytest.mark.parametrize(("content", "words"), [
    (b"", "the manifest is empty"), (b"\xef\xbb\xbf", "the manifest is empty"),
    (None, "cannot read the manifest: No such file or directory"),
    ("folder", "cannot read the manifest: Is a directory")])
def test_no_manifest(tmp_path, labels, content, words):
    path = tmp_path if content == "folder" else tmp_path / "train.csv"
    if isinstance(content, bytes):
        path.write_bytes(content)
    assert problems_of(path, labels) == [f"{path}: {words}"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
def test_manifest_in_another_encoding(corpus, labels, encoding):
    path = corpus / "train.csv"
    path.write_bytes("é.wav,0.txt\n".encode(encoding))
    problems = problems_of(path, labels)
    assert all(problem.startswith(str(path)) for problem in problems)


def test_audio_as_manifest(corpus, labels):
    assert problems_of(corpus / "0.wav", labels)[0].startswith(str(corpus / "0.wav"))


# the index

def test_nothing_is_decoded_the_second_time(corpus, labels, decoded):
    first = read_manifest(corpus / "train.csv", labels)
    assert (corpus / "train.index.npz").is_file()
    decoded.clear()
    second = read_manifest(corpus / "train.csv", labels)
    assert decoded == [] and second.audio_paths == first.audio_paths
    for name in ("samples", "sample_rates", "label_counts", "repeats"):
        np.testing.assert_array_equal(getattr(second, name), getattr(first, name))


def new_audio(corpus: Path) -> None:
    """With the time of change of the old one."""
    before = (corpus / "1.wav").stat().st_mtime_ns
    soundfile.write(corpus / "1.wav", np.zeros(6400), 16000)
    os.utime(corpus / "1.wav", ns=(before, before))


def new_text(corpus: Path) -> None:
    (corpus / "1.txt").write_text("HELLOO")
    touch(corpus / "1.txt")


def new_order(corpus: Path) -> None:
    (corpus / "train.csv").write_text("1.wav,1.txt\n0.wav,0.txt\n2.wav,2.txt\n")


@pytest.mark.parametrize(("change", "read", "facts"), [
    (new_audio, ["1.wav"], (6400, 10)),
    (lambda corpus: touch(corpus / "1.wav"), ["1.wav"], (3200, 10)),
    (new_text, ["1.wav"], (3200, 6)), (new_order, ["0.wav", "1.wav", "2.wav"], (1600, 5)),
], ids=["audio", "time", "text", "order"])
def test_only_what_changed_is_decoded_again_and_only_once(corpus, labels, decoded, change, read,
                                                          facts):
    read_manifest(corpus / "train.csv", labels)
    change(corpus)
    decoded.clear()
    for _ in range(2):
        manifest = read_manifest(corpus / "train.csv", labels)
        assert (manifest.samples[1], manifest.label_counts[1]) == facts
        assert sorted(decoded) == read


def test_an_index_of_another_version_is_not_believed(corpus, labels, decoded, monkeypatch):
    """The rule by which texts are written may have changed since."""
    read_manifest(corpus / "train.csv", labels)
    decoded.clear()
    monkeypatch.setattr(manifest_module, "INDEX_VERSION", manifest_module.INDEX_VERSION + 1)
    read_manifest(corpus / "train.csv", labels)
    assert sorted(decoded) == ["0.wav", "1.wav", "2.wav"]


def test_an_empty_transcript_is_for_evaluation_only_whatever_the_index_knows(
        corpus, labels, decoded):
    path = corpus / "train.csv"
    (corpus / "1.txt").write_text(" \n")
    refused = f"{path}:2: {corpus / '1.txt'}: the transcript is empty"
    assert problems_of(path, labels) == [refused]
    manifest = read_manifest(path, labels, allow_empty=True)
    assert manifest.label_counts.tolist() == [5, 0, 1]
    assert manifest.required_frames.tolist() == [6, 0, 1]
    assert problems_of(path, labels) == [refused]
    decoded.clear()
    read_manifest(path, labels, allow_empty=True)
    assert decoded == []


def test_file_that_vanished_is_reported_although_indexed(corpus, labels):
    read_manifest(corpus / "train.csv", labels)
    (corpus / "1.wav").unlink()
    problem, = problems_of(corpus / "train.csv", labels)
    assert problem.startswith(f"{corpus / 'train.csv'}:2: ")


def test_another_alphabet_reads_everything_again_and_an_inspection_too(corpus, labels, decoded):
    read_manifest(corpus / "train.csv", labels)
    decoded.clear()
    assert len(problems_of(corpus / "train.csv", Labels("ABC _"))) == 2
    assert sorted(decoded) == ["0.wav", "1.wav", "2.wav"]
    decoded.clear()
    inspect_manifest(corpus / "train.csv", labels)
    assert sorted(decoded) == ["0.wav", "1.wav", "2.wav"]


def an_array(_) -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


def flip_a_byte(content: bytes) -> bytes:
    middle = content.index(b"metadata.npy") + 200
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1:]


def with_another(name: str, array) -> Callable[[bytes], bytes]:
    """An index with another array, or other bytes, under one of its names."""
    def damage(content: bytes) -> bytes:
        with np.load(io.BytesIO(content)) as arrays:
            members = {known: arrays[known] for known in arrays.files}
        file = io.BytesIO()
        if isinstance(array, bytes):
            np.savez(file, **{known: part for known, part in members.items() if known != name})
            with zipfile.ZipFile(file, "a") as archive:
                archive.writestr(name, array)  # without .npy: what NumPy reads as bytes
        else:
            np.savez_compressed(file, **members | {name: array})
        return file.getvalue()
    return damage


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("damage", [
    lambda content: b"",
    lambda content: b"nonsense",
    lambda content: content[:len(content) // 2],
    lambda content: content[:-1],
    an_array,
    flip_a_byte,
    with_another("metadata", np.zeros((3, 3), np.int64)),
    with_another("metadata", np.zeros((3, 4))),
    with_another("metadata", b"bytes"),
    with_another("file_states", np.zeros((2, 4), np.int64)),
], ids=["empty", "nonsense", "half", "cut", "array", "bit", "columns", "type", "bytes", "rows"])
def test_damaged_index_is_made_again(corpus, labels, decoded, damage):
    read_manifest(corpus / "train.csv", labels)
    index = index_path(corpus / "train.csv")
    index.write_bytes(damage(index.read_bytes()))
    decoded.clear()
    assert read_manifest(corpus / "train.csv", labels).samples.tolist() == [1600, 3200, 2400]
    assert sorted(decoded) == ["0.wav", "1.wav", "2.wav"]
    decoded.clear()
    read_manifest(corpus / "train.csv", labels)
    assert decoded == []


def test_an_index_that_would_fill_the_memory_is_not_read(corpus, labels):
    read_manifest(corpus / "train.csv", labels)
    index = index_path(corpus / "train.csv")
    index.write_bytes(with_another("key", np.zeros(1 << 20))(index.read_bytes()))
    tracemalloc.start()
    try:
        read_manifest(corpus / "train.csv", labels)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_index_that_cannot_be_written_only_warns(corpus, labels, caplog):
    index_path(corpus / "train.csv").mkdir()  # also root cannot rename a file onto a folder
    with caplog.at_level(logging.WARNING):
        assert len(read_manifest(corpus / "train.csv", labels)) == 3
    assert f"{index_path(corpus / 'train.csv')}: the index could not be kept" in caplog.text
    assert [path.name for path in corpus.iterdir() if ".tmp" in path.name] == []


# transcripts

@pytest.mark.parametrize(("content", "text"), [
    (b"\xef\xbb\xbf don't\r\n  stop ", "DON'T STOP"), (b"", ""), (b"\xef\xbb\xbf \n\t", ""),
])
def test_transcript_is_in_the_characters_of_the_labels_with_single_spaces(
        tmp_path, labels, content, text):
    (tmp_path / "a.txt").write_bytes(content)
    assert read_transcript(tmp_path / "a.txt", labels) == text


def test_a_pipe_or_a_device_is_no_transcript(tmp_path, labels):
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(InputError, match=r"a\.txt: cannot read the transcript: a pipe or a device"):
        read_transcript(tmp_path / "a.txt", labels)


@pytest.mark.parametrize(("content", "words"), [
    ("NAÏVE".encode(), "'Ï'"), (b"\xff", "not UTF-8"),
    (None, "cannot read the transcript: No such file"),
])
def test_bad_transcript_names_the_file(tmp_path, labels, content, words):
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        read_transcript(tmp_path / "a.txt", labels)
    assert str(caught.value).startswith(f"{tmp_path / 'a.txt'}: ")
