"""Utterances cut from long recordings: with known borders by tones, and with real speech."""

import csv
import json
import re

import numpy as np
import pytest
import soundfile
from conftest import model_that_hears_tones, say_in_tones, voice

from data import segment
from deepspeech2.audio import load_audio
from src.manifest import read_manifest

RATE = 16000
LINES = ["THE QUICK BROWN FOX", "JUMPS OVER A FENCE", "AND RUNS AWAY SOON"]


@pytest.fixture
def run(monkeypatch, labels, tmp_path):
    """`python -m data.segment` with a model that hears tones."""
    model = model_that_hears_tones(labels)
    heard = []
    align = model.align
    model.align = lambda audio, text: heard.append(audio) or align(audio, text)
    monkeypatch.setattr(segment, "load", lambda args: model)

    def command(*arguments):
        heard.clear()
        code = segment.main([*map(str, arguments), "--target", str(tmp_path / "out")])
        return code, list(heard)
    return command


@pytest.fixture
def made(tmp_path, labels):
    """(file, samples, text) of each utterance in the manifest."""
    def read():
        manifest = read_manifest(tmp_path / "out" / "segmented_manifest.csv", labels)
        rows = list(csv.reader((tmp_path / "out" / "segmented_manifest.csv").open()))
        assert len(rows) == len(manifest)
        return [(wav, soundfile.read(tmp_path / "out" / wav, dtype="int16")[0],
                 (tmp_path / "out" / txt).read_text().strip()) for wav, txt in rows]
    return read


def write(path, *parts):
    """A recording; numbers are seconds of silence."""
    sound = [np.zeros(round(part * RATE), np.float32) if isinstance(part, float) else part
             for part in parts]
    soundfile.write(path, np.concatenate(sound), RATE)


def dropped(tmp_path):
    rows = list(csv.reader((tmp_path / "out/segmented_dataset/dropped.csv").open()))
    return [(row[3], row[4]) for row in rows[1:]]


def test_lines_become_utterances(run, made, tmp_path, capsys):
    write(tmp_path / "a ü\n.wav", *(part for line in LINES
                                    for part in (say_in_tones(line, 0.0), 1.0)))
    (tmp_path / "a.txt").write_text("“The quick” brown fox;\njumps over a fence\n\nand runs away"
                                    " soon!\n")
    code, heard = run(tmp_path / "a ü\n.wav", tmp_path / "a.txt")
    assert code == 0 and len(heard) == 1
    utterances = made()
    assert [text for _, _, text in utterances] == LINES
    assert dropped(tmp_path) == []
    for (wav, samples, _), line in zip(utterances, LINES, strict=True):
        said = len(line.replace(" ", "")) / 10
        assert said <= len(samples) / RATE <= said + 0.75  # half a second of the pauses
        assert re.fullmatch(r".*/wav/a_ü_-0000\d\.wav", wav)
        assert soundfile.info(tmp_path / "out" / wav).subtype == "PCM_16"
    out = capsys.readouterr().out
    assert "segmented: 3 utterances, 0.00 h of 0.00 h in 1 recordings" in out
    assert "dropped of 12 words: none" in out


def test_nothing_is_done_twice(run, made, tmp_path):
    write(tmp_path / "a.wav", say_in_tones(LINES[0], 0.0), 1.0)
    write(tmp_path / "b.wav", say_in_tones(LINES[1], 0.0), 1.0)
    for name, line in (("a", LINES[0]), ("b", LINES[1])):
        (tmp_path / f"{name}.txt").write_text(line)
    (tmp_path / "m.csv").write_text("a.wav,a.txt\nb.wav,b.txt\nb.wav,b.txt\n")
    code, heard = run("--manifest", tmp_path / "m.csv")
    assert code == 0 and len(heard) == 3
    before = made()
    assert len({wav for wav, _, _ in before}) == 3
    assert run("--manifest", tmp_path / "m.csv") == (0, [])
    (tmp_path / "b.txt").write_text("JUMPS OVER A FENCE ")  # the same words
    (tmp_path / "out" / before[0][0]).unlink()
    code, heard = run("--manifest", tmp_path / "m.csv")
    assert code == 0 and heard == [str(tmp_path / "a.wav")]
    assert [(wav, text) for wav, _, text in made()] == [(wav, text) for wav, _, text in before]
    code, heard = run("--manifest", tmp_path / "m.csv", "--min_seconds", "1.1")
    assert len(heard) == 3


def test_what_does_not_fit_is_dropped(run, made, tmp_path, capsys):
    """A missing line, a line too many, a number, a short line and a long one without a pause."""
    long = "ABCDEFGHIJKLMNOPQRST UVWXYZ"
    said = [LINES[0], "NOT IN THE TEXT", LINES[1], "TEN MEN AND TEN WOMEN", long, "HO", LINES[2]]
    write(tmp_path / "a.wav", *(part for line in said
                                for part in (say_in_tones(line, 0.0), 1.0)))
    lines = [LINES[0], LINES[1], "10 men and ten women", long, "ho", "NEVER EVER SAID",
             LINES[2]]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    assert run(tmp_path / "a.wav", tmp_path / "a.txt", "--max_seconds", "2.5")[0] == 0
    assert [text for _, _, text in made()] == LINES
    found = {text: why for why, text in dropped(tmp_path)}
    assert found["10"] == segment.UNSPELLED
    assert found["men and ten women"] == segment.OTHER_SPEECH
    assert found[long] == segment.LONG and found["HO"] == segment.SHORT
    assert {found[word] for word in ("NEVER", "EVER", "SAID")} == {segment.LEFT_OUT}
    assert "1 labels cannot write" in capsys.readouterr().out


def test_a_paragraph_is_cut_at_its_longest_pauses(run, made, tmp_path):
    words = [f"WORD{letter}" for letter in "ABCDEFGHIJKL"]
    pauses = [0.2, 0.2, 0.5, 0.2, 0.2, 0.9, 0.2, 0.2, 0.5, 0.2, 0.2, 1.0]
    write(tmp_path / "a.wav", *(part for word, pause in zip(words, pauses, strict=True)
                                for part in (say_in_tones(word, 0.0), pause)))
    (tmp_path / "a.txt").write_text(" ".join(words))
    assert run(tmp_path / "a.wav", tmp_path / "a.txt", "--max_seconds", "3")[0] == 0
    assert [text.split() for _, _, text in made()] == [words[i : i + 3] for i in range(0, 12, 3)]


def test_numbers_are_looked_for_as_words(run, made, tmp_path):
    write(tmp_path / "a.wav", say_in_tones("TEN MEN AND A HORSE", 0.0), 1.0)
    (tmp_path / "a.txt").write_text("10 men and a horse")
    assert run(tmp_path / "a.wav", tmp_path / "a.txt", "--spell_out", "en")[0] == 0
    assert [text for _, _, text in made()] == ["TEN MEN AND A HORSE"]


@pytest.mark.parametrize("said", [["HELLOXWORLD", "DOWN THERE"], ["HELLO", "WORLD"]])
def test_a_letter_that_is_misheard_beside_a_word_is_a_part_of_it(said, run, made, tmp_path):
    """The text lacks the last letter of each line."""
    write(tmp_path / "a.wav", *(part for line in said
                                for part in (say_in_tones(line + "Q", 0.0), 1.0)))
    (tmp_path / "a.txt").write_text("\n".join(said))
    assert run(tmp_path / "a.wav", tmp_path / "a.txt", "--min_seconds", "0.3")[0] == 0
    utterances = made()
    assert [text for _, _, text in utterances] == said
    for (_, samples, _), line in zip(utterances, said, strict=True):
        assert len(samples) / RATE >= len(line.replace(" ", "")) / 10 + 0.1  # with the Q


@pytest.mark.parametrize(("arguments", "words"), [
    ([], "name AUDIO and TEXT, or a --manifest"), (["a.wav"], "name AUDIO and TEXT"),
    (["none.wav", "a.txt"], "none.wav: cannot read the audio"),
    (["a.txt", "a.txt"], "a.txt: cannot read the audio"),
    (["a.wav", "none.txt"], "none.txt: cannot read the text"),
    (["a.wav", "empty.txt"], "the text has no words"),
    (["a.wav", "wrong.txt"], "only 0 of 2 words are heard clearly"),
    (["silence.wav", "a.txt"], "no speech is heard"),
    (["--manifest", "bad.csv"], "bad.csv:1: needed are lines `audio,text`"),
    (["a.wav", "a.txt", "--name", "../x"], "--name ../x: allowed are"),
    (["a.wav", "a.txt", "--min_seconds", "20"], "--min_seconds 20.0 is more than"),
    (["a.wav", "a.txt", "--min_confidence", "1"], "no utterances: "),
])
def test_bad_input_ends_with_2(arguments, words, run, tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.wav", say_in_tones(LINES[0], 0.0), 1.0)
    write(tmp_path / "silence.wav", 3.0)
    for name, text in (("a.txt", LINES[0]), ("empty.txt", "\n"), ("wrong.txt", "XXXXX ZZZZZ"),
                       ("bad.csv", "a.wav\n")):
        (tmp_path / name).write_text(text)
    assert run(*arguments)[0] == 2
    assert words in capsys.readouterr().err + caplog.text


def test_what_another_version_noted_is_done_again(run, made, tmp_path):
    write(tmp_path / "a.wav", say_in_tones(LINES[0], 0.0), 1.0)
    (tmp_path / "a.txt").write_text(LINES[0])
    code, heard = run(tmp_path / "a.wav", tmp_path / "a.txt")
    assert code == 0 and len(heard) == 1
    before = made()
    assert run(tmp_path / "a.wav", tmp_path / "a.txt") == (0, [])
    (path,) = tmp_path.rglob(".segmented.json")
    ((name, (key, _)),) = json.loads(path.read_text()).items()
    for noted in (5, [], [key], [key, {"of": "another version"}]):
        path.write_text(json.dumps({name: noted}))
        code, heard = run(tmp_path / "a.wav", tmp_path / "a.txt")
        assert code == 0 and len(heard) == 1
        for (wav, samples, text), was in zip(made(), before, strict=True):
            assert (wav, text) == (was[0], was[2])
            np.testing.assert_array_equal(samples, was[1])


def test_a_run_without_a_recording_leaves_what_an_earlier_one_made(run, tmp_path, capsys):
    write(tmp_path / "a.wav", say_in_tones(LINES[0], 0.0), 1.0)
    (tmp_path / "a.txt").write_text(LINES[0])
    assert run(tmp_path / "a.wav", tmp_path / "a.txt")[0] == 0
    (path,) = tmp_path.rglob("dropped.csv")
    before = path.stat().st_mtime_ns
    assert run(tmp_path / "none.wav", tmp_path / "a.txt")[0] == 2
    assert "none of the recordings can be used" in capsys.readouterr().err
    assert path.stat().st_mtime_ns == before


def test_one_bad_recording_does_not_end_the_others(run, made, tmp_path, capsys):
    write(tmp_path / "a.wav", say_in_tones(LINES[0], 0.0), 1.0)
    (tmp_path / "a.txt").write_text(LINES[0])
    (tmp_path / "m.csv").write_text("none.wav,a.txt\na.wav,a.txt\n")
    assert run("--manifest", tmp_path / "m.csv")[0] == 2
    assert [text for _, _, text in made()] == [LINES[0]]
    assert "1 recordings left out" in capsys.readouterr().out


def test_silence_is_found(labels):
    samples = segment.to_pcm16(np.concatenate([voice(RATE), np.zeros(RATE, np.float32),
                                               voice(RATE)]))
    quiet = segment.quiet_frames(samples, RATE)
    assert len(quiet) == 150
    assert quiet[52:98].all() and not quiet[:49].any() and not quiet[101:].any()


def test_an4_chapters_give_back_their_utterances(shared, labels, tmp_path):
    """Real speech: 40 utterances in one recording, with half a second between them."""
    folder = shared / "data" / "an4"
    files = {path.stem: path for path in (folder / "wav").rglob("*") if path.is_file()}
    lines = (folder / "etc" / "an4_train.transcription").read_text().splitlines()[200:240]
    said = [re.fullmatch(r"<s> (.*) </s> \((.*)\)", line).groups() for line in lines]
    write(tmp_path / "a.wav", *(part for _, name in said
                                for part in (load_audio(files[name], RATE), 0.5)))
    (tmp_path / "a.txt").write_text("\n".join(text for text, _ in said))
    assert segment.main([str(tmp_path / "a.wav"), str(tmp_path / "a.txt"), "--min_seconds", "0.3",
                         "--model", "an4", "--target", str(tmp_path / "out")]) == 0
    paths = sorted((tmp_path / "out/segmented_dataset/txt").glob("*.txt"))
    texts = [path.read_text().strip() for path in paths]
    originals = [text for text, _ in said]
    back = sum(text in originals for text in texts)
    assert back >= 0.85 * len(originals) and back >= 0.9 * len(texts)
    assert len(read_manifest(tmp_path / "out/segmented_manifest.csv", labels)) == len(texts)
