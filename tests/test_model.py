"""Transcripts of a model whose every frame is known, and what cannot be loaded.

A frame is 1280 samples (80 ms) and is centred on a multiple of that.
"""

import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ROOT, voice

from deepspeech2 import Model, Segment, Transcript, Word, load_model
from deepspeech2.decoding.decoders import LMConfig, make_decoder, read_settings
from deepspeech2.errors import InputError
from deepspeech2.labels import Labels
from deepspeech2.model_info import ModelInfo

LABELS = Labels("AB _")
RATE = 16000
ASSETS = ROOT / "deepspeech2" / "assets"


def model(path: str, probability: float = 0.7) -> Model:
    """Hears the frames of `path`, each with that probability, in any recording."""
    def acoustic(inputs, input_length):
        lengths = (input_length - 1) // 8 + 1
        probs = np.full((len(inputs), lengths.max(), 4), (1 - probability) / 3, np.float32)
        frames = path[: lengths.max()].ljust(lengths.max(), "_")
        probs[:, np.arange(len(frames)), [LABELS.characters.index(c) for c in frames]] = probability
        return probs, lengths
    return Model(acoustic, ModelInfo({}, LABELS, time_stride=8))


def samples(frames: int) -> np.ndarray:
    """As many samples of a voice as the network makes `frames` of."""
    return voice((frames - 1) * 1280 + 10)


def test_a_transcript_by_hand():
    found = model("_AAB__ _B_A").transcribe((samples(11), RATE))
    first = Word(pytest.approx(0.5 * 0.08), pytest.approx(3.5 * 0.08), "AB", pytest.approx(0.7))
    second = Word(pytest.approx(7.5 * 0.08), 12810 / RATE, "BA", pytest.approx(0.7))  # to the end
    segment = Segment(first.start, second.end, "AB BA", (first, second), pytest.approx(0.7))
    assert found == Transcript("AB BA", (segment,), 12810 / RATE)


@pytest.mark.parametrize(("path", "text"), [
    ("A B A", "A B A"), (" A ", "A"), ("A _ B", "A B"), ("AA_A B", "AA B"), ("_", ""), ("   ", ""),
])
def test_words_are_in_order_and_never_overlap(path, text):
    found = model(path).transcribe((samples(8), RATE))
    assert found.text == text
    words = found.words
    assert " ".join(word.word for word in words) == text and bool(found.segments) == bool(text)
    edges = [0.0, *(edge for word in words for edge in (word.start, word.end)), found.duration]
    assert edges == sorted(edges) and all(word.start < word.end for word in words)


def test_probabilities_are_geometric_means_over_the_best_frames_of_the_characters():
    """Two words: A in frames of 0.9 and 0.4, B in one of 0.5; blank and space do not count."""
    def acoustic(inputs, input_length):  # of any recording
        probs = np.array([[[0.9, 0, 0, 0.1], [0.4, 0, 0.3, 0.3], [0, 0.05, 0.05, 0.9],
                           [0, 0, 0.8, 0.2], [0.2, 0.5, 0.1, 0.2]]], np.float32)
        return probs, np.array([5])
    (segment,) = Model(acoustic, ModelInfo({}, LABELS, 8)).transcribe((samples(8), RATE)).segments
    assert [word.word for word in segment.words] == ["A", "B"]
    assert [word.probability for word in segment.words] == pytest.approx([0.9, 0.5])
    assert segment.probability == pytest.approx((0.9 * 0.5) ** (1 / 2))


def test_ten_samples_are_a_recording_too():
    """In which nothing can be said."""
    assert model("A").transcribe((samples(1), RATE)) == Transcript("", (), 10 / RATE)


def test_a_path_a_file_object_and_samples_of_any_type_say_the_same(tmp_path):
    loud = np.round(samples(40) * 32767).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", loud, RATE)
    shipped = load_model("an4")
    audios = [tmp_path / "a.wav", str(tmp_path / "a.wav"), (loud, RATE), (loud / 32768, RATE),
              io.BytesIO((tmp_path / "a.wav").read_bytes())]
    assert len({shipped.transcribe(audio) for audio in audios}) == 1


def test_a_recording_of_another_rate_keeps_its_duration():
    found = model("A_ _B").transcribe((voice(6400, 8000), 8000))
    assert (found.text, found.duration) == ("A B", 0.8)


def test_the_text_of_a_transcript_is_that_of_the_evaluation():
    """Which reads `texts` of the emissions of a whole batch."""
    hears = model("A _ B_ ")
    inputs = np.zeros((2, 1, 161, 81), np.float32)
    for probs, length in zip(hears.emissions(inputs, np.array([81, 49])), (11, 7), strict=True):
        assert len(probs) == length
        heard = hears.transcribe((samples(length), RATE)).text
        assert hears.texts([probs])[0][0] == heard == "A B"


def test_a_beam_search_gives_words_times_and_other_texts():
    """The beam finds the same words as the greedy decoder here, and then less likely ones."""
    greedy = model("_AAB__ _B_A")
    config = LMConfig("beam", top_paths=3)
    beam = Model(greedy.acoustic, ModelInfo({}, LABELS, 8), make_decoder(config, LABELS))
    found, expected = (one.transcribe((samples(11), RATE)) for one in (beam, greedy))
    assert len(found.alternatives) == 2 and "AB BA" not in found.alternatives
    assert dataclasses.replace(found, alternatives=()) == expected


def test_a_shipped_model_with_a_language_model_or_all_settings(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text("\\data\\\nngram 1=4\n\n\\1-grams:\n-99\t<s>\n-1\t</s>\n-2\t<unk>\n-1\tYES\n"
                    "\n\\end\\\n")
    audio = (voice(2 * RATE), RATE)
    for lm in (path, str(path), LMConfig("beam", lm_path=str(path), top_paths=2)):
        found = load_model("an4", lm).transcribe(audio)
        assert found.duration == 2 and len(found.alternatives) == isinstance(lm, LMConfig)
    for name, words in (("none.arpa", "language model"), ("none.yaml", "settings")):
        with pytest.raises(InputError, match=f"{name}: cannot read the {words}"):
            load_model("an4", lm=name)


def test_the_english_language_model_with_a_shipped_model():
    """Whose weights are those of the file beside it."""
    settings = read_settings(ASSETS / "lm" / "english.json")
    assert Path(settings.lm_path).parent == ASSETS / "lm"
    audio = (samples(40), RATE)
    assert (load_model("english", "english").transcribe(audio)
            == load_model("english", settings).transcribe(audio))


def test_the_shipped_model_understands_a_recording(shared):
    found = load_model("an4").transcribe(
        shared / "data" / "an4" / "wav" / "an4_clstk" / "fash" / "an251-fash-b.flac")
    assert found.text == "YES"


# what cannot be loaded

@pytest.mark.parametrize(("name", "words"), [
    ("an5", "an5: not a model: name an .onnx file, or"),
    ("a.ckpt", "a .ckpt model needs MindSpore: use transcribe.py"),
    ("a.mindir", "a .mindir model needs MindSpore: use transcribe.py"),
    ("none.ckpt", "none.ckpt: no such model"),
    ("a.onnx", "a.onnx: no such model"),
    ("alone.onnx", "alone.json is missing beside it: export.py writes both"),
    ("old.onnx", "old.json: written by an earlier version of export.py: export the model again"),
    ("damaged.onnx", "damaged.onnx: damaged, or another model than damaged.json describes"),
    ("unchecked.onnx", "unchecked.onnx: not a whole ONNX model"),
])
def test_a_model_that_cannot_be_loaded(tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    text = (ASSETS / "an4.json").read_text()
    for model in ("a.ckpt", "a.mindir", "alone.onnx", "old.onnx", "damaged.onnx",
                  "unchecked.onnx"):
        (tmp_path / model).write_bytes(b"x" * 100)
    (tmp_path / "damaged.json").write_text(text)
    unchecked = {key: value for key, value in json.loads(text).items() if key != "sha256"}
    (tmp_path / "unchecked.json").write_text(json.dumps(unchecked))  # of an earlier version
    (tmp_path / "old.json").write_text(text.replace('"time_stride"', '"gone"'))
    with pytest.raises(InputError) as caught:
        load_model(name)
    assert words in str(caught.value)


def test_a_path_that_is_called_like_a_shipped_model(tmp_path):
    for path in ASSETS.glob("an4.*"):
        shutil.copy(path, tmp_path)
    assert load_model(tmp_path / "an4.onnx").labels == load_model("an4").labels
