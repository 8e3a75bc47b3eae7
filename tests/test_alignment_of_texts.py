"""Word times of a known text: with a network that hears what the samples say, and real speech."""

import re
import sys

import numpy as np
import pytest
from conftest import TONES, model_that_hears_tones, say_in_tones

from deepspeech2 import load_model
from deepspeech2.alignment import UNCLEAR, _in_order
from deepspeech2.audio import load_audio
from deepspeech2.decoding.alignment import ctc_align, log_probabilities, word_slices
from deepspeech2.errors import InputError
from deepspeech2.features import pad_spectrograms, spectrogram
from deepspeech2.known_text import describe_unspelled, read_text, tokens_of

RATE = 16000


# the text

def test_the_words_of_a_text_keep_their_spelling(labels):
    tokens = tokens_of("“Well-known” — it’s\r\n\r\n… Æon 1999, co\u00adop.\n",
                       labels)
    assert [(t.text, t.line, t.words) for t in tokens] == [
        ("“Well-known” —", 1, ("WELL", "KNOWN")), ("it’s", 1, ("IT'S",)),
        ("… Æon", 3, ()), ("1999,", 3, ()), ("co\u00adop.", 3, ("COOP",))]
    assert describe_unspelled(tokens).startswith(
        "2 words that the labels cannot write have the times between others: ")
    assert "'1999,' (line 3)" in describe_unspelled(tokens)


@pytest.mark.parametrize(("text", "words"), [
    ("", "the text has no words"), (" \n — \n", "the text has no words"),
    ("Привет мир", "can write none of the 2 words of the text, 'Привет' 'мир' for example")])
def test_a_text_that_cannot_be_aligned(text, words, labels):
    with pytest.raises(InputError, match=re.escape(words)):
        tokens_of(text, labels)


def test_a_text_from_a_closed_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match=r"^-: cannot read the text: standard input is closed$"):
        read_text("-")


def test_text_files(tmp_path):
    path = tmp_path / "ü\n.txt"
    path.write_bytes(b"\xef\xbb\xbfGO\r\n")
    assert read_text(path) == "GO\r\n"
    path.write_bytes("GO\nÄ\n".encode("latin-1"))
    with pytest.raises(InputError, match=r":2: the text is not UTF-8"):
        read_text(path)
    for missing in (tmp_path, tmp_path / "none", "a\0b"):
        with pytest.raises(InputError, match="cannot read the text"):
            read_text(missing)


# times of words that nobody says

@pytest.mark.parametrize("seed", range(30))
def test_words_last_a_frame_and_follow_each_other(seed):
    """Spoken words stay where they are, unless words that nobody says need room."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 40))
    edges = np.sort(rng.uniform(0, 60, 2 * count)).reshape(-1, 2)
    edges[:, 1] = np.maximum(edges[:, 1], edges[:, 0] + 0.04)
    left_out = rng.random(count) < rng.choice([0.0, 0.2, 0.7])
    middle = edges.mean(axis=1, keepdims=True)
    edges = np.where(left_out[:, None], middle, edges)
    times = _in_order(edges, left_out, 0.04, 61.0)
    assert (times[:, 1] - times[:, 0] > 0.0009).all()
    assert (times[1:, 0] >= times[:-1, 1] - 1e-9).all()
    assert times[0, 0] >= 0 and times[-1, 1] <= 61 + 1e-9
    overlap = (edges[1:, 0] < edges[:-1, 1]).any()
    if not left_out.any() and not overlap:
        np.testing.assert_allclose(times, edges)


def test_more_words_than_there_is_room_for():
    times = _in_order(np.full((1000, 2), 0.5), np.ones(1000, bool), 0.04, 1.0)
    assert times[0, 0] == pytest.approx(0) and times[-1, 1] == pytest.approx(1)
    np.testing.assert_allclose(times[1:, 0], times[:-1, 1])
    np.testing.assert_allclose(times[:, 1] - times[:, 0], 0.001)


# synthetic speech: a tone for each letter, so that the frames of each word are known

@pytest.fixture(scope="module")
def tones(labels):
    return model_that_hears_tones(labels)


def random_words(rng, count):
    letters = np.array(list(TONES))
    return ["".join(rng.choice(letters, rng.integers(2, 7))) for _ in range(count)]


@pytest.mark.parametrize(("missing", "pause"), [(0, 0.2), (12, 0.2), (12, 0.0), (40, 3.0)])
def test_words_are_found_where_they_are_said(tones, missing, pause):
    """Also in several pieces, and where the text lacks words and has others."""
    rng = np.random.default_rng(missing)
    words, more = random_words(rng, 120), random_words(rng, missing)
    silence = np.zeros(round(pause * RATE), np.float32)
    starts, parts, length = [], [], 0
    for word in words:
        parts += [say_in_tones(word, 0.1), silence]
        starts.append(length / RATE)
        length += len(parts[-2]) + len(silence)
    text = words[:40] + more + words[40 + missing :]
    result = tones.align((np.concatenate(parts), RATE), " ".join(text))
    assert [w.word for w in result.words] == text and len(result.segments) == 1
    kept = [*range(40), *range(40 + missing, 120)]
    same = result.words[:40] + result.words[40 + missing :]
    edge = 2 if missing else 0  # words beside what is missing can be mixed up with it
    for number, word in zip(kept, same, strict=True):
        if not 40 - edge <= number < 40 + missing + edge:
            assert word.start == pytest.approx(starts[number], abs=0.031)
            assert word.end == pytest.approx(starts[number] + len(words[number]) / 10 - 0.04,
                                             abs=0.031)
            assert word.probability == pytest.approx(0.98, abs=0.01)
    unsaid = result.words[40 : 40 + missing]
    assert sum(w.probability > 0.5 for w in unsaid) <= missing / 10
    assert all(w.probability == 0 for w in result.words if not w.is_heard)


def test_lines_become_segments_and_words_that_nobody_says_lie_beside_their_line(tones):
    samples = say_in_tones("HELLO WORLD DOWN THERE", 0.6)  # at 0, 1.1, 2.2, 3.2 s
    text = "Hello, world – not!\n\nNobody says\nNor 12 — down there."
    result = tones.align((samples, RATE), text)
    assert [s.text for s in result.segments] == ["Hello, world – not!", "Nobody says",
                                                 "Nor 12 — down there."]
    assert [(w.word, w.is_heard) for w in result.words] == [
        ("Hello,", True), ("world –", True), ("not!", False), ("Nobody", False), ("says", False),
        ("Nor", False), ("12 —", False), ("down", True), ("there.", True)]
    times = [(w.start, w.end) for w in result.words]
    assert times[2][0] == times[1][1] and times[6][1] == times[7][0]
    assert result.segments[1].probability == 0 and result.segments[2].probability > 0.9
    assert result.summary() == (
        "4 of 9 words aligned, 0 of them unclear, 4 left out, 1 that the labels cannot write")
    assert [token.line for token in (w.token for w in result.words)] == [1, 1, 1, 3, 3, 4, 4, 4, 4]


def test_letters_that_belong_to_no_word(tones):
    samples = say_in_tones("HELLO WORLD DOWN")
    result = tones.align((samples, RATE), "HELLO DOWN")
    np.testing.assert_allclose(result.other[:, 0], 0.7 + 0.1 * np.arange(5), atol=0.031)


def test_silence_in_front_moves_every_time(tones):
    samples = say_in_tones("HELLO WORLD DOWN")
    late = np.concatenate([np.zeros(10 * RATE, np.float32), samples])
    now, later = (tones.align((s, RATE), "HELLO NOW DOWN").words for s in (samples, late))
    for word, moved in zip(now, later, strict=True):
        assert moved.start == pytest.approx(word.start + 10, abs=0.02)


# real speech

@pytest.fixture(scope="session")
def model():
    return load_model("an4")


def concatenated(utterances, pause: float = 0.6):
    """The samples of utterances one after another, and the time at which each one begins."""
    silence = np.zeros(round(pause * RATE), np.float32)
    parts, starts, length = [], [], 0
    for samples, _ in utterances:
        starts.append(length / RATE)
        parts += [samples, silence]
        length += len(samples) + len(silence)
    return np.concatenate(parts), starts


def test_a_recording_without_speech(model):
    noise = np.random.default_rng(0).normal(0, 0.01, 3 * RATE).astype(np.float32)
    for samples in (np.zeros(3 * RATE, np.float32), noise):
        with pytest.raises(InputError, match="samples: no speech is heard in the recording"):
            model.align((samples, RATE), "GO")


@pytest.fixture(scope="session")
def an4(shared):
    """40 utterances of AN4: (n,) samples and text."""
    folder = shared / "data" / "an4"
    files = {path.stem: path for path in (folder / "wav").rglob("*-*") if path.is_file()}
    lines = (folder / "etc" / "an4_train.transcription").read_text().splitlines()
    found = [re.fullmatch(r"<s> (.*) </s> \((.*)\)", line).groups() for line in lines[200:240]]
    return [(load_audio(files[name], RATE), text) for text, name in found]


def forced(model, samples, text):
    """Start and end of each word in seconds, by the alignment of one utterance."""
    (probs,) = model.emissions(*pad_spectrograms([spectrogram(samples, model.spect)]))
    symbols = np.array(model.labels.encode(text))
    spans = ctc_align(log_probabilities(probs), symbols, model.labels.blank_index)
    words = word_slices(symbols, model.labels.space_index)
    return [model._seconds(spans[word], 0, len(samples)) for word in words]


def test_times_are_those_of_the_single_utterances(model, an4):
    samples, starts = concatenated(an4, pause=0)
    expected = [(start + first, start + last)
                for (own, text), start in zip(an4, starts, strict=True)
                for first, last in forced(model, own, text)]
    result = model.align((samples, RATE), "\n".join(text for _, text in an4))
    errors = np.abs(np.array(expected) - [(w.start, w.end) for w in result.words])
    assert np.median(errors) <= 0.04 and np.percentile(errors, 95) <= 0.12
    assert result.num_clear >= 0.95 * len(result.words)


def test_sentences_that_are_missing_and_sentences_too_many(model, an4):
    """Numbers 10 to 14 are not in the text, and in place of number 25 stands something else."""
    samples, starts = concatenated(an4, pause=0.3)
    lines = [text for _, text in an4]
    more = ["NOBODY EVER SAYS THIS SENTENCE", "NOR THAT ONE", "IN 1999"]
    text = lines[:10] + lines[15:25] + more + lines[26:]
    result = model.align((samples, RATE), "\n".join(text))
    numbers = [*range(10), *range(15, 25), 25, 25, 25, *range(26, 40)]
    ends = [*starts[1:], result.duration]
    heard = [w for w in result.words if w.probability >= UNCLEAR]
    inside = [starts[number] - 0.1 <= word.start and word.end <= ends[number] + 0.1
              for word in heard for number in [numbers[word.token.line - 1]]]
    assert sum(inside) >= 0.97 * len(heard)
    counts = [sum(w.token.line == line + 1 for w in heard) for line in range(len(text))]
    assert sum(counts[20:23]) <= 2
    total = sum(len(line.split()) for line in text)
    assert len(heard) >= 0.95 * (total - sum(len(line.split()) for line in more))
    (unspelled,) = (w for w in result.words if w.word == "1999")
    assert unspelled.probability == 0 and starts[25] - 0.5 <= unspelled.start <= starts[26] + 0.5
    others = result.other[(result.other[:, 0] > starts[10]) & (result.other[:, 1] < starts[15])]
    assert len(others) >= 0.6 * sum(len(line.replace(" ", "")) for line in lines[10:15])


def test_the_text_of_another_recording(model, an4, caplog):
    samples, _ = concatenated(an4[:20])
    with pytest.raises(InputError, match="samples: only 0 of 4 words are heard clearly"):
        model.align((samples, RATE), "COMPLETELY DIFFERENT UNRELATED SENTENCES")
    model.align((samples, RATE), "\n".join(text for _, text in an4[20:]))
    assert re.search(r"only \d+ of \d+ words are heard clearly: is it the text", caplog.text)
