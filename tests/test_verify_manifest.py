"""`data.verify_manifest` reports everything that is wrong, at once."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data import verify_manifest


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
    (tmp_path / "3.txt").write_text(" \n")
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
