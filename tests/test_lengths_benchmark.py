"""`benchmarks.lengths` measures the memory of the process that transcribes, and of no other."""

import numpy as np
import soundfile

from benchmarks import lengths


def test_a_recording_of_any_length_is_the_same_again_and_again(tmp_path):
    part = np.linspace(-0.5, 0.5, 1000, dtype=np.float32)
    assert lengths.write_long(tmp_path / "a.wav", part, 2500 / lengths.RATE / 60) * 16000 == 2500
    samples, rate = soundfile.read(tmp_path / "a.wav", dtype="float32")
    expected = np.concatenate([part, part, part[:500]])
    assert rate == 16000 and np.abs(samples - expected).max() < 1e-4


def test_the_memory_of_the_process_itself(tmp_path, monkeypatch):
    """That of this process, which is larger, does not count."""
    program = tmp_path / "transcribe.py"
    monkeypatch.setattr(lengths, "ROOT", tmp_path)
    here = np.ones(40_000_000)  # 320 MB
    found = []
    for size in 1, 100_000_000:
        program.write_text(f"import sys\nblock = b'x' * {size}\nprint(sys.argv[1:])")
        found.append(lengths.transcribed("a.ckpt", tmp_path / "a.wav"))
    (small, used), (large, _) = found
    assert 0 < small < 100 and 90 < large - small < 110 and 0 < used < 5
    del here


def test_table_and_picture(demo_corpus, tmp_path, capsys):
    picture = tmp_path / "lengths.png"
    recordings = demo_corpus / "demo_dataset" / "val"
    assert lengths.main([str(recordings), "an4", "--minutes", "0.05", "0.1", "--output",
                         str(picture)]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split("|")[2].strip() for row in rows] == ["0.05 min", "0.1 min"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert lengths.main([str(tmp_path / "nothing"), "an4"]) == 2
    assert "no file ends in .flac, .mp3" in capsys.readouterr().err
