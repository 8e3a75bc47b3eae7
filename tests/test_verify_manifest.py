"""`data.verify_manifest` reports everything that is wrong, at once."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data import verify_manifest
from src.config import load_config
from src.manifest import read_manifest
from src.training_data import trainable_rows


@pytest.fixture
def manifest(tmp_path) -> Path:
    """Four good utterances of half a second."""
    lines = []
    for i in range(4):
        soundfile.write(tmp_path / f"{i}.wav", np.sin(np.arange(8000) / (5 + i)) / 2, 16000)
        (tmp_path / f"{i}.txt").write_text("DON'T STOP\n")
        lines.append(f"{i}.wav,{i}.txt\n")
    path = tmp_path / "manifest.csv"
    path.write_text("".join(lines))
    return path


def test_a_good_manifest_is_counted(manifest, capsys):
    assert verify_manifest.main([str(manifest), "--jobs=2"]) == 0
    captured = capsys.readouterr()
    counts = "4 utterances, 0.00 h (0.5 to 0.5 s), 40 labels, no problems"
    assert f"{manifest}: {counts}" in captured.out and captured.err == ""


def test_all_problems_of_all_manifests_in_one_pass(manifest, tmp_path, capsys):
    (tmp_path / "0.txt").write_text("ÜBER 9\n")
    (tmp_path / "1.wav").unlink()
    content = (tmp_path / "2.wav").read_bytes()
    (tmp_path / "2.wav").write_bytes(content[:len(content) // 2])
    (tmp_path / "3.txt").write_bytes(b"\xff")
    with open(manifest, "a") as file:
        file.write("only one cell\n")
    missing = tmp_path / "missing.csv"
    assert verify_manifest.main([str(manifest), str(missing), "--jobs=2"]) == 2
    captured = capsys.readouterr()
    for line, what in ((1, "Ü"), (2, "1.wav"), (3, "2.wav"), (4, "3.txt"), (5, "only one cell")):
        assert any(problem.startswith(f"{manifest}:{line}: ") and what in problem
                   for problem in captured.err.splitlines()), (line, what)
    assert str(missing) in captured.err
    assert f"{manifest}: 5 problems" in captured.out and f"{missing}: 1 problem\n" in captured.out


# what training leaves out or refuses, and what becomes of the labels

def write_texts(folder: Path, *texts: str) -> None:
    for i, text in enumerate(texts):
        (folder / f"{i}.txt").write_text(text, encoding="utf-8")


def write_labels(folder: Path, characters: str) -> str:
    """An option for labels with these characters, the space and the blank."""
    (folder / "labels.json").write_text(json.dumps([*characters, " ", "_"]), encoding="utf-8")
    return f"--labels_path={folder}/labels.json"


@pytest.fixture
def warnings(caplog):
    """A function that returns the warnings of a command."""
    def run(*arguments: str) -> list[str]:
        caplog.clear()
        assert verify_manifest.main([*arguments, "--jobs=1"]) == 0
        return caplog.messages
    return run


@pytest.mark.parametrize(("stride", "frames", "too_long"), [
    (1, 26, {1: 27, 2: 27}), (2, 13, {0: 26, 1: 27, 2: 27}),
])
def test_transcripts_that_ctc_cannot_fit_are_named(manifest, tmp_path, labels, warnings, stride,
                                                   frames, too_long):
    """Half a second has 51 spectrogram frames, and an output frame for every 2 or 4.

    CTC needs a frame for each label, and one between equal labels.
    """
    write_texts(tmp_path, "AB" * 13, "AB" * 13 + "A", "A" * 14, "A" * 7)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"ModelConfig: {{conv2_time_stride: {stride}}}")
    *found, _ = warnings(str(manifest), f"--config={recipe}")
    assert found == [
        f"{manifest}:{row + 1}: {tmp_path}/{row}.txt: too long for its audio, and train.py leaves "
        f"it out: CTC needs {needed} output frames, the audio has {frames}"
        for row, needed in too_long.items()
    ]
    rows = trainable_rows(read_manifest(manifest, labels), load_config(recipe))
    assert set(rows) == {0, 1, 2, 3} - set(too_long)


def test_a_manifest_that_training_would_refuse(manifest, tmp_path, warnings):
    write_texts(tmp_path, *["AB" * 99] * 4)
    assert f"{manifest}: no transcript fits its audio, and train.py refuses it" in warnings(
        str(manifest))
    write_texts(tmp_path, "A", "A", "A", "")
    assert (f"{manifest}:4: {tmp_path}/3.txt: the transcript is empty; eval.py takes it, train.py "
            "refuses it") in warnings(str(manifest))


def test_recordings_that_are_longer_than_the_recipe_takes(manifest, tmp_path, warnings):
    (tmp_path / "recipe.yaml").write_text("DataConfig: {max_seconds: 0.5}")
    soundfile.write(tmp_path / "2.wav", np.zeros(16000), 16000)
    assert warnings(str(manifest), f"--config={tmp_path}/recipe.yaml")[:-1] == [
        f"{manifest}:3: {tmp_path}/2.wav: longer than DataConfig.max_seconds, and train.py leaves "
        "it out: 1.0 s"]


def test_labels_that_no_transcript_of_any_manifest_uses(manifest, tmp_path, warnings):
    write_texts(tmp_path, "ab", "a b", "ba", "e\u0301")
    (tmp_path / "other.csv").write_text("0.wav,other.txt\n")
    (tmp_path / "other.txt").write_text("c")
    option = write_labels(tmp_path, "ABCDÉ\u0301")
    one, both = warnings(str(manifest), option), warnings(str(manifest), f"{tmp_path}/other.csv",
                                                          option)
    mark = "'\u0301' (U+0301 COMBINING ACUTE ACCENT)"
    assert one == [f"no transcript has 3 of the 8 labels: 'C' 'D' {mark}"]
    assert both == [f"no transcript has 2 of the 8 labels: 'D' {mark}"]
    assert warnings(str(manifest), write_labels(tmp_path, "ABÉ")) == []


def test_a_character_that_becomes_two_labels_is_named(manifest, tmp_path, warnings):
    write_texts(tmp_path, "straße", "gas", "reißt", "tag")
    found = warnings(str(manifest), write_labels(tmp_path, "AEGIRST"))
    assert found == ["'ß' (U+00DF) becomes 'SS', 2 times; to keep it, make it a label",
                     "no transcript has 1 of the 9 labels: ' '"]
    found = warnings(str(manifest), write_labels(tmp_path, "AEGIRSTẞ"))
    assert found == ["no transcript has 1 of the 10 labels: ' '"]


def test_the_labels_of_the_recipe_are_taken(manifest, tmp_path, warnings):
    write_texts(tmp_path, *"абав")
    write_labels(tmp_path, "абв")
    (tmp_path / "recipe.yaml").write_text(f"DataConfig: {{labels_path: {tmp_path}/labels.json}}")
    assert warnings(str(manifest), f"--config={tmp_path}/recipe.yaml") == [
        "no transcript has 1 of the 5 labels: ' '"]
    assert verify_manifest.main([str(manifest)]) == 2  # the project's


def test_files_are_read_even_when_the_index_knows_them(manifest, tmp_path):
    """A file that rots without a change of size or time is what this command is for."""
    assert verify_manifest.main([str(manifest)]) == 0
    audio = tmp_path / "0.wav"
    status = audio.stat()
    audio.write_bytes(b"\0" * status.st_size)
    os.utime(audio, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert verify_manifest.main([str(manifest)]) == 2


def test_other_labels(manifest, tmp_path, capsys):
    (tmp_path / "labels.json").write_text(json.dumps(["_", *"DONTSTP "]))
    assert verify_manifest.main([str(manifest), "--labels_path",
                                 str(tmp_path / "labels.json")]) == 2
    (tmp_path / "twice.json").write_text(json.dumps(["_", "A", "A"]))
    assert verify_manifest.main([str(manifest), "--labels_path", str(tmp_path / "twice.json")]) == 2
    assert verify_manifest.main([str(manifest), "--labels_path",
                                 str(tmp_path / "nowhere.json")]) == 2
    error = capsys.readouterr().err
    assert "twice.json" in error and "nowhere.json" in error and "Traceback" not in error
