"""Cuts between words by a network that is told what it hears, and as a file."""

import hashlib
import logging
import os
import shutil

import numpy as np
import pytest
import soundfile

from deepspeech2.errors import InputError
from deepspeech2.model import Model
from src.augment import WordCuts
from src.config import load_config
from src.manifest import read_manifest, write_manifest
from src.word_cuts import (
    find_word_cuts,
    quietest_cut,
    read_word_cuts,
    word_gaps,
    write_word_cuts,
)

RATE = 16000
HOP = 320  # samples between output frames of the default network


@pytest.fixture
def spoken(labels, tmp_path):
    """A manifest of beeps, a letter each, and the letters' places in seconds."""
    places = {"A BE": [0.2, 0.8, 1.0], "C": [0.3], "NO": [0.2, 0.4], "D E F": [0.15, 0.6, 1.25]}
    rows = []
    beep = 0.3 * np.sin(np.arange(round(0.16 * RATE)) / 3)
    for text, seconds in places.items():
        samples = np.zeros(round((seconds[-1] + 0.2) * RATE))
        for second in seconds:
            start = round((second - 0.08) * RATE)
            samples[start:start + len(beep)] = beep
        name = tmp_path / text.replace(" ", "-")
        soundfile.write(f"{name}.wav", samples, RATE)
        (tmp_path / f"{name}.txt").write_text(text)
        rows.append((f"{name}.wav", f"{name}.txt"))
    return write_manifest(tmp_path / "spoken_manifest.csv", rows, labels)[0], places


def test_words_are_cut_in_the_silence_between_them(spoken, labels, caplog):
    manifest, places = spoken
    texts = {round(seconds[-1] + 0.2, 6): text for text, seconds in places.items()}

    def predict(inputs, input_length):
        """Certain of a letter at its place, of a space between words, else of the blank."""
        lengths = (input_length - 1) // 2 + 1
        probs = np.full((len(inputs), lengths.max(), len(labels)), 1e-4, np.float32)
        probs[..., labels.blank_index] = 0.9
        for i, frames in enumerate(input_length):
            text = texts[round((frames - 1) * 0.01, 6)]
            if text == "NO":
                lengths[i] = 1  # too few frames for its letters
                continue
            for letter, second in zip(text.replace(" ", ""), places[text], strict=True):
                probs[i, round(second * RATE / HOP), labels.encode(letter)[0]] = 1.0
            for word in range(text.count(" ")):  # of one letter each, but for the last
                middle = (places[text][word] + places[text][word + 1]) / 2
                probs[i, round(middle * RATE / HOP), labels.space_index] = 1.0
        return probs, lengths

    with caplog.at_level(logging.INFO):
        model = Model(predict, load_config().model_info(labels))
        found = dict(zip(places, find_word_cuts(model, manifest, load_config()), strict=True))
    assert found["NO"] is None and f"{manifest.path}:3: its words keep their order" in caplog.text
    assert found["C"].words == ["C"] and len(found["C"].cuts) == 0
    assert found["A BE"].words == ["A", "BE"] and found["D E F"].words == ["D", "E", "F"]
    (cut,) = found["A BE"].cuts
    assert 0.28 < cut < 0.72
    first, second = found["D E F"].cuts
    assert 0.23 < first < 0.52 and 0.68 < second < 1.17
    assert found["D E F"].seconds == pytest.approx(1.45)


def test_a_file_that_went_bad_has_no_cuts(spoken, labels):
    manifest, _ = spoken
    assert read_manifest(manifest.path, labels)
    for path in manifest.audio_paths:
        open(path, "wb").close()
    model = Model(lambda *_: None, load_config().model_info(labels))
    assert find_word_cuts(model, manifest, load_config()) == [None] * 4


@pytest.fixture
def manifest(demo_corpus, labels):
    return read_manifest(demo_corpus / "demo_train_manifest.csv", labels)


def test_cuts_come_back_as_they_were(manifest, tmp_path):
    """Also those of words that pandas would read as missing values or numbers."""
    times: list[WordCuts | None] = [None] * len(manifest)
    times[1] = WordCuts(["NULL", "NA", "1"], np.array([1 / 3, 0.7]), 1.1)
    times[3] = WordCuts(["NAN"], np.array([]), 0.5)
    write_word_cuts(tmp_path / "words.csv", manifest, times)
    for expected, found in zip(times, read_word_cuts(tmp_path / "words.csv", manifest),
                               strict=True):
        assert (found is None) == (expected is None)
        if found is not None:
            assert found.words == expected.words and found.seconds == expected.seconds
            np.testing.assert_array_equal(found.cuts, expected.cuts)
    lines = (tmp_path / "words.csv").read_text().splitlines()
    assert lines[1] == f"# data set: {manifest.fingerprint()}"
    assert lines[2] == "row,word,start,end"
    assert lines[3] == f"1,NULL,0.0,{1 / 3}"


def test_cuts_belong_to_a_data_set_wherever_it_lies(demo_corpus, manifest, labels, tmp_path):
    cuts = [WordCuts(["A", "B"], np.array([0.25]), 0.5)] * len(manifest)
    write_word_cuts(tmp_path / "words.csv", manifest, cuts)
    moved = shutil.copytree(demo_corpus, os.fsdecode(os.fsencode(tmp_path) + b"/\xe9"))  # no UTF-8
    copy = read_manifest(f"{moved}/demo_train_manifest.csv", labels)
    found = read_word_cuts(tmp_path / "words.csv", copy)
    assert found[0].words == ["A", "B"] and None not in found
    other = read_manifest(demo_corpus / "demo_val_manifest.csv", labels)
    assert read_word_cuts(tmp_path / "words.csv", other) is None


def test_every_cut_and_every_changed_byte_is_noticed(manifest, tmp_path):
    path, cuts = tmp_path / "words.csv", [None] * len(manifest)
    cuts[1] = WordCuts(["A", "B"], np.array([0.25]), 0.5)
    write_word_cuts(path, manifest, cuts)
    content = path.read_bytes()
    damaged = [content[:i] for i in range(len(content))]
    for i, byte in enumerate(content):
        damaged.append(content[:i] + bytes([byte ^ 1]) + content[i + 1 :])
    for wrong in damaged:
        path.write_bytes(wrong)
        with pytest.raises(InputError, match="words.csv: cut off or changed"):
            read_word_cuts(path, manifest)


@pytest.mark.parametrize(("content", "words"), [
    (None, "words.csv: cannot read the word cuts"),
    ("", "words.csv: cut off or changed"),
    ("audio_path,word,from,to\na.wav,A,0,1\n", "words.csv: cut off or changed"),  # none of ours
])
def test_a_file_that_cannot_be_used(manifest, tmp_path, content, words):
    if content is not None:
        (tmp_path / "words.csv").write_text(content)
    with pytest.raises(InputError) as refusal:
        read_word_cuts(tmp_path / "words.csv", manifest)
    assert words in str(refusal.value)


@pytest.mark.parametrize("table", [
    b"", b"row,word,from,to\n1,A,0,1\n", b"row,word,start,end\n1,A,x,1\n1,A,x,1\n",
    b"row,word,start,end\n\xff", b"row,word,start,end\n1,A,0,x\n"])
def test_a_file_that_somebody_else_made(manifest, tmp_path, table):
    """Its checksum is right, and its data set."""
    content = f"# data set: {manifest.fingerprint()}\n".encode() + table
    start = b"# sha256 of the lines below: " + hashlib.sha256(content).hexdigest().encode() + b"\n"
    (tmp_path / "words.csv").write_bytes(start + content)
    with pytest.raises(InputError, match=r"words\.csv: no word cuts: "):
        read_word_cuts(tmp_path / "words.csv", manifest)


def test_a_number_that_ends_pandas(manifest, tmp_path):
    """Its own reader of numbers takes an exponent for a place in a table (2.3.3)."""
    path = tmp_path / "words.csv"
    write_word_cuts(path, manifest, [WordCuts(["A"], np.array([]), 0.5)] * len(manifest))
    content = path.read_bytes().split(b"\n", 1)[1].replace(b"0.5", b"8.7e999857708833e-180", 1)
    digest = hashlib.sha256(content).hexdigest().encode()
    path.write_bytes(b"# sha256 of the lines below: " + digest + b"\n" + content)
    with pytest.raises(InputError, match=r"words\.csv: no word cuts: "):
        read_word_cuts(path, manifest)


def test_gaps_are_between_the_letters_around_a_space():
    """OH A TEN: from H to A and from A to T."""
    frames = np.array([[2, 3], [5, 5], [6, 8], [9, 9], [11, 12], [15, 15], [16, 17], [20, 21]])
    space = 27
    assert word_gaps(frames, [15, 8, space, 1, space, 20, 5, 14], space).tolist() == [
        [5, 9], [9, 15]]
    assert word_gaps(frames[:1], [15], space).shape == (0, 2)


def test_the_cut_is_at_the_quietest_place_of_the_middle_half():
    samples = np.random.default_rng(0).uniform(-1, 1, RATE).astype(np.float32)
    samples[7000:7600] *= 0.01
    samples[5200:5600] = 0  # quieter, but too close to the label before
    assert 7000 <= quietest_cut(samples, 5000, 9000, RATE) <= 7600
    assert quietest_cut(samples, 5000, 5000, RATE) == 5000
    assert 0 <= quietest_cut(samples, 0, len(samples), RATE) <= len(samples)
