"""Word times of a data set by a network that is told what it hears, and as a file."""

import dataclasses
import logging

import numpy as np
import pytest
import soundfile

from src.alignment import WordTimes
from src.config import load_config
from src.errors import InputError
from src.manifest import read_manifest, write_manifest
from src.word_times import align_words, read_word_times, write_word_times

RATE = 16000
HOP = 320    # samples between output frames of the default network


@pytest.fixture
def spoken(labels, tmp_path):
    """A manifest of beeps, a letter each, with silence between words; the letters' places in seconds."""
    places = {"A BE": [0.2, 0.8, 1.0], "C": [0.3], "NO": [0.2, 0.4], "D E F": [0.15, 0.6, 1.25]}
    rows = []
    for text, seconds in places.items():
        samples = np.zeros(round((seconds[-1] + 0.2) * RATE))
        for second in seconds:
            start = round((second - 0.08) * RATE)
            samples[start:start + round(0.16 * RATE)] = 0.3 * np.sin(np.arange(round(0.16 * RATE)) / 3)
        name = tmp_path / text.replace(" ", "-")
        soundfile.write(f"{name}.wav", samples, RATE)
        (tmp_path / f"{name}.txt").write_text(text)
        rows.append((f"{name}.wav", f"{name}.txt"))
    return write_manifest(tmp_path / "spoken_manifest.csv", rows, labels)[0], places


def test_words_are_cut_in_the_silence_between_them(spoken, labels, caplog):
    manifest, places = spoken
    texts = {round(seconds[-1] + 0.2, 6): text for text, seconds in places.items()}

    def predict(inputs, input_length):
        """Certain of a letter at its place, of a space half-way between words, else of the blank."""
        lengths = (input_length - 1) // 2 + 1
        probs = np.full((len(inputs), lengths.max(), len(labels)), 1e-4, np.float32)
        probs[..., labels.blank_index] = 0.9
        for i, frames in enumerate(input_length):
            text = texts[round((frames - 1) * 0.01, 6)]
            if text == "NO":
                lengths[i] = 1      # too few frames for its letters
                continue
            for letter, second in zip(text.replace(" ", ""), places[text], strict=True):
                probs[i, round(second * RATE / HOP), labels.encode(letter)[0]] = 1.0
            for word in range(text.count(" ")):    # of one letter each, but for the last
                middle = (places[text][word] + places[text][word + 1]) / 2
                probs[i, round(middle * RATE / HOP), labels.space_index] = 1.0
        return probs, lengths

    with caplog.at_level(logging.INFO):
        found = dict(zip(places, align_words(predict, manifest, labels, load_config()), strict=True))
    assert found["NO"] is None and f"{manifest.path}:3: its words keep their order" in caplog.text
    assert found["C"].words == ["C"] and len(found["C"].cuts) == 0
    assert found["A BE"].words == ["A", "BE"] and found["D E F"].words == ["D", "E", "F"]
    (cut,) = found["A BE"].cuts
    assert 0.28 < cut < 0.72
    first, second = found["D E F"].cuts
    assert 0.23 < first < 0.52 and 0.68 < second < 1.17
    assert found["D E F"].seconds == pytest.approx(1.45)


def test_a_file_that_went_bad_has_no_times(spoken, labels):
    manifest, _ = spoken
    assert read_manifest(manifest.path, labels)
    for path in manifest.audio_paths:
        open(path, "wb").close()
    assert align_words(lambda *_: None, manifest, labels, load_config()) == [None] * 4


@pytest.fixture
def manifest(demo_corpus, labels):
    return read_manifest(demo_corpus / "demo_train_manifest.csv", labels)


def test_times_come_back_as_they_were(manifest, tmp_path):
    """Also those of words that pandas would read as missing values or numbers."""
    times: list[WordTimes | None] = [None] * len(manifest)
    times[1] = WordTimes(["NULL", "NA", "1"], np.array([1 / 3, 0.7]), 1.1)
    times[3] = WordTimes(["NAN"], np.array([]), 0.5)
    write_word_times(tmp_path / "words.csv", manifest, times)
    for expected, found in zip(times, read_word_times(tmp_path / "words.csv", manifest), strict=True):
        assert (found is None) == (expected is None)
        if found is not None:
            assert found.words == expected.words and found.seconds == expected.seconds
            np.testing.assert_array_equal(found.cuts, expected.cuts)
    lines = (tmp_path / "words.csv").read_text().splitlines()
    assert lines[:2] == ["audio_path,word,start,end", f"{manifest.audio_paths[1]},NULL,0.0,{1 / 3}"]


@pytest.mark.parametrize(("content", "words"), [
    (None, "words.csv: cannot read the word times"),
    ("", "words.csv: cannot read the word times"),
    ("audio_path,word,from,to\na.wav,A,0,1\n", "words.csv: no column 'start'"),
    ("audio_path,word,start,end\na.wav,A,soon,1.0\n", "words.csv: cannot read the word times"),
])
def test_a_file_that_cannot_be_used(manifest, tmp_path, content, words):
    if content is not None:
        (tmp_path / "words.csv").write_text(content)
    with pytest.raises(InputError) as refusal:
        read_word_times(tmp_path / "words.csv", dataclasses.replace(manifest, audio_paths=["a.wav"]))
    assert words in str(refusal.value)
