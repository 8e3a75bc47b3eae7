"""Transcripts in every format, read back by pysubs2, praatio and by hand."""

import json

import numpy as np
import pysubs2
import pytest
from praatio import textgrid

from deepspeech2.result import Segment, Transcript, Word
from deepspeech2.writers import CUE_SECONDS, PAUSE_SECONDS, WRITERS, Layout, cues


def transcript(*segments: list[tuple[float, float, str]], duration: float = 100.0) -> Transcript:
    made = []
    for rows in segments:
        words = tuple(Word(start, end, word, 0.5) for start, end, word in rows)
        text = " ".join(word.word for word in words)
        made.append(Segment(words[0].start, words[-1].end, text, words, 0.25))
    return Transcript(" ".join(s.text for s in made), tuple(made), duration)


TWO = transcript([(0.5, 1.0, "GOOD"), (1.04, 1.5, "DAY")], [(4000.2, 4000.9996, "BYE")])


def test_txt():
    assert WRITERS["txt"](TWO, Layout()) == "GOOD DAY BYE\n"


@pytest.mark.parametrize("word", ["-->", "--->", "A-->--->B", "->", "--"])
def test_an_arrow_in_a_text_divides_no_times(word):
    (cue,) = pysubs2.SSAFile.from_string(WRITERS["srt"](transcript([(0, 1, word)]), Layout()))
    assert "-->" not in cue.text and cue.text.replace("-", "").replace(">", "") in ("", "AB")
    assert (cue.text == word) == ("-->" not in word)


def test_srt_and_vtt_by_hand():
    assert WRITERS["srt"](TWO, Layout()) == (
        "1\n00:00:00,500 --> 00:00:01,500\nGOOD DAY\n\n"
        "2\n01:06:40,200 --> 01:06:41,000\nBYE\n\n")
    assert WRITERS["vtt"](TWO, Layout()) == (
        "WEBVTT\n\n00:00:00.500 --> 00:00:01.500\nGOOD DAY\n\n"
        "01:06:40.200 --> 01:06:41.000\nBYE\n\n")


def test_highlighted_words_by_hand():
    assert WRITERS["srt"](transcript([(0, 1, "A"), (1, 2, "B"), (2.5, 3, "C")]),
                          Layout(highlight_words=True)) == (
        "1\n00:00:00,000 --> 00:00:01,000\n<u>A</u> B C\n\n"
        "2\n00:00:01,000 --> 00:00:02,000\nA <u>B</u> C\n\n"
        "3\n00:00:02,000 --> 00:00:02,500\nA B C\n\n"
        "4\n00:00:02,500 --> 00:00:03,000\nA B <u>C</u>\n\n")


def test_tsv_and_json():
    assert WRITERS["tsv"](TWO, Layout()) == (
        "start\tend\ttext\n500\t1500\tGOOD DAY\n4000200\t4001000\tBYE\n")
    content = json.loads(WRITERS["json"](TWO, Layout()))
    assert content["text"] == "GOOD DAY BYE" and content["duration"] == 100
    assert [s["id"] for s in content["segments"]] == [0, 1]
    assert content["segments"][0]["words"][1] == {
        "word": "DAY", "start": 1.04, "end": 1.5, "probability": 0.5}


def test_ctm_by_hand():
    assert WRITERS["ctm"](TWO, Layout(recording="my talk")) == (
        "my_talk 1 0.500 0.500 GOOD 0.5000\nmy_talk 1 1.040 0.460 DAY 0.5000\n"
        "my_talk 1 4000.200 0.800 BYE 0.5000\n")


def test_a_textgrid_is_read_by_praatio(tmp_path):
    """Words that are quotes and that touch, in a recording that ends with a word."""
    made = transcript([(0, 0.5, 'SAY "A"'), (0.5, 1.25, "É\\")], [(2, 3, "BYE")], duration=3.0)
    (tmp_path / "a.TextGrid").write_text(WRITERS["TextGrid"](made, Layout()))
    grid = textgrid.openTextgrid(str(tmp_path / "a.TextGrid"), includeEmptyIntervals=True)
    assert (grid.minTimestamp, grid.maxTimestamp) == (0, 3)
    assert grid.tierNames == ("segments", "words")
    assert [tuple(entry) for entry in grid.getTier("words").entries] == [
        (0, 0.5, 'SAY "A"'), (0.5, 1.25, "É\\"), (1.25, 2, ""), (2, 3, "BYE")]
    assert [tuple(entry) for entry in grid.getTier("segments").entries] == [
        (0, 1.25, 'SAY "A" É\\'), (1.25, 2, ""), (2, 3, "BYE")]


def test_random_textgrids_are_read_by_praatio(tmp_path):
    rng = np.random.default_rng(5)
    for _ in range(10):
        made = random_transcript(rng)
        (tmp_path / "a.TextGrid").write_text(WRITERS["TextGrid"](made, Layout()))
        grid = textgrid.openTextgrid(str(tmp_path / "a.TextGrid"), includeEmptyIntervals=False)
        words = made.words
        read = grid.getTier("words").entries
        assert [entry.label for entry in read] == [word.word for word in words]
        np.testing.assert_allclose([(e.start, e.end) for e in read],
                                   [(w.start, w.end) for w in words], atol=1e-6)


@pytest.mark.parametrize("name", WRITERS)
def test_silence(name):
    text = WRITERS[name](Transcript("", (), 3.0), Layout())
    if name == "TextGrid":
        assert text.count('text = ""') == 2
        return
    expected = {"txt": "\n", "srt": "", "vtt": "WEBVTT\n\n", "tsv": "start\tend\ttext\n",
                "ctm": ""}
    if name == "json":
        assert json.loads(text) == {"text": "", "segments": [], "duration": 3, "alternatives": []}
    else:
        assert text == expected[name]


def test_what_ends_a_cue():
    pause = transcript([(0, 1, "A"), (1 + PAUSE_SECONDS, 4, "B")])
    slow = transcript([(0, 3, "A"), (3, 6, "B"), (6, 9, "C")])
    assert [cue.end for cue in cues(pause, Layout())] == [1, 4]
    assert [cue.end for cue in cues(slow, Layout())] == [6, 9]
    narrow = Layout(max_line_width=3, max_line_count=2)
    words = transcript([(i, i + 1, word) for i, word in enumerate(["A", "B", "CCCCC", "DD", "E"])])
    assert [cue.text(str) for cue in cues(words, narrow)] == ["A B\nCCCCC", "DD\nE"]
    assert [cue.text(str) for cue in cues(words, Layout(max_line_width=4, max_line_count=2))] == [
        "A B\nCCCCC", "DD E"]


def random_transcript(rng: np.random.Generator) -> Transcript:
    segments, time = [], 0.0
    alphabet = np.array(list("AB<>&-'\"{}\\É中"))
    for _ in range(rng.integers(1, 5)):
        rows = []
        for _ in range(rng.integers(1, 30)):
            start = time + rng.choice([0, 0.04, 0.3, 2.5])
            time = start + rng.uniform(0.02, 2)
            word = "".join(rng.choice(alphabet, rng.integers(1, 12))).replace("{", "(")
            rows.append((start, time, word))
        segments.append(rows)
    return transcript(*segments, duration=time)


@pytest.mark.parametrize("name", ["srt", "vtt"])
@pytest.mark.parametrize("highlight", [False, True])
def test_subtitles_are_read_by_another_program(name, highlight):
    rng = np.random.default_rng(3)
    for _ in range(20):
        made = random_transcript(rng)
        width = int(rng.integers(10, 50))
        layout = Layout(width, int(rng.integers(1, 4)), highlight)
        shown = cues(made, layout)
        read = pysubs2.SSAFile.from_string(WRITERS[name](made, layout), format_=name)
        assert len(read) == len(shown)
        for event, cue in zip(read, shown, strict=True):
            assert (event.start, event.end) == (round(1000 * cue.start), round(1000 * cue.end))
        ends = [0, *(event.end for event in read)]
        assert all(end <= event.start < event.end for end, event in zip(ends, read, strict=False))
        assert ends[-1] <= round(1000 * made.duration)
        for cue in shown:
            assert cue.end - cue.start <= CUE_SECONDS and len(cue.lines) <= layout.max_line_count
            lines = [" ".join(word.word for word in line) for line in cue.lines]
            assert all(len(line) <= width for line in lines if " " in line)
        if not highlight:
            words = [word.word for cue in shown for line in cue.lines for word in line]
            assert " ".join(words) == made.text


def test_words_cannot_break_the_format():
    made = transcript([(0, 1, "<b>"), (1, 2, "-->"), (2, 3, "A&B")])
    assert "&lt;b&gt; --&gt; A&amp;B\n" in WRITERS["vtt"](made, Layout())
    assert WRITERS["srt"](made, Layout()).splitlines()[2] == "<b> -> A&B"


def test_a_cue_and_a_line_for_each_word():
    layout = Layout(word_timestamps=True)
    assert WRITERS["tsv"](TWO, layout).splitlines()[1:] == [
        "500\t1000\tGOOD", "1040\t1500\tDAY", "4000200\t4001000\tBYE"]
    assert [cue.text(str) for cue in cues(TWO, layout)] == ["GOOD", "DAY", "BYE"]
    assert WRITERS["json"](TWO, layout) == WRITERS["json"](TWO, Layout())
