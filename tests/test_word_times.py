"""Word times of a data set by a network that is told what it hears."""

import logging

import numpy as np
import pytest
import soundfile

from src.aligning import align_words
from src.config import load_config
from src.manifest import read_manifest, write_manifest

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
