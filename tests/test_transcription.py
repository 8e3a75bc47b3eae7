"""Recordings of any length and number through a network that reads tones: a letter for each.

The network sees a frame at a time, so that the text of pieces equals that of the whole.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, voice

from deepspeech2 import Model, load_model, transcription
from deepspeech2.audio import AudioError
from deepspeech2.decoding.decoders import LMConfig, make_decoder
from deepspeech2.errors import RunError
from deepspeech2.labels import Labels
from deepspeech2.model_info import ModelInfo
from deepspeech2.segmentation import cut_recording
from deepspeech2.speech import NOISE_SECONDS, SPEECH_SECONDS
from deepspeech2.writers import WRITERS, Layout

LABELS = Labels("ABCDEFGH _")
RATE, HOP = 16000, 640
INFO = ModelInfo({}, LABELS, time_stride=4)
LETTERS = "ABCDEFGH"
SPACE = 8


def reads_tones(inputs: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tone k is letter k; a frame without a tone is a space if it is silent too, else blank."""
    out = (lengths - 1) // 4 + 1
    probs = np.full((len(inputs), out.max(), len(LABELS)), 0.1 / 9, np.float32)
    frames = inputs[:, 0, :, ::4]  # (N, F, T')
    for n, length in enumerate(out):
        tones = frames[n, 100:140:5, :length]  # (8, T') bins of the tones
        best, loud = tones.argmax(axis=0), tones.max(axis=0) > 3
        silent = frames[n, 1:60, :length].mean(axis=0) < 0
        best = np.where(loud, best, np.where(silent, SPACE, LABELS.blank_index))
        probs[n, np.arange(length), best] = 0.9
    return probs, out


def tone(letter: str, seconds: float = 0.12) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    return 0.1 * np.sin(2 * np.pi * 50 * (100 + 5 * LETTERS.index(letter)) * time)


def say(text: str, pause: float) -> np.ndarray:
    """A voice throughout each word with the tones of its letters; pauses between words."""
    words = []
    for word in text.split():
        letters = np.concatenate([part for c in word for part in (tone(c), np.zeros(1280))])
        words += [letters + voice(len(letters)), np.zeros(round(pause * RATE))]
    return np.concatenate(words).astype(np.float32)


def text_of(seconds: float, pause: float, seed: int = 0) -> str:
    """Random words, as many as can be said in that time."""
    rng = np.random.default_rng(seed)
    words = []
    while seconds > 0:
        words.append("".join(rng.choice(list(LETTERS), rng.integers(2, 7))))
        seconds -= 0.2 * len(words[-1]) + pause
    return " ".join(words)


@pytest.fixture(params=["greedy", "beam"])
def model(request) -> Model:
    return Model(reads_tones, INFO, make_decoder(LMConfig(request.param), LABELS))


@pytest.mark.parametrize("pause", [0.1, 0.35, 1.0])
def test_the_text_of_pieces_is_the_text_of_the_whole(model, pause):
    """Cuts at pauses, and (pauses of 0.1 s) without one."""
    text = text_of(150, pause)
    found = model.transcribe((say(text, pause), RATE))
    assert found.text == text
    words = found.words
    assert " ".join(word.word for word in words) == text
    edges = [0.0, *(edge for word in words for edge in (word.start, word.end)), found.duration]
    assert edges == sorted(edges) and all(word.start < word.end for word in words)


@pytest.mark.parametrize("more", range(0, 3 * HOP, 97))
def test_no_sample_at_the_end_is_lost(more):
    """As in transformers#16671: the last word, at every phase of the frames behind a border."""
    hears = Model(reads_tones, INFO)
    text = text_of(29, 0.1)
    said = say(text, 0.1)
    for samples in (said, np.concatenate([said, say("AB", 0)])):
        whole = np.concatenate([np.zeros(more, np.float32), samples])
        expected = text + (" AB" if len(samples) > len(said) else "")
        assert hears.transcribe((whole, RATE)).text == expected


def test_silence_in_front_moves_every_time_by_exactly_its_length():
    hears = Model(reads_tones, INFO)
    said = say(text_of(70, 0.4), 0.4)
    plain = hears.transcribe((said, RATE))
    moved = hears.transcribe((np.concatenate([np.zeros(10 * RATE, np.float32), said]), RATE))
    times, later = ([(w.word, round(w.start * RATE), round(w.end * RATE))
                     for s in found.segments for w in s.words] for found in (plain, moved))
    assert later == [(word, start + 10 * RATE, end + 10 * RATE) for word, start, end in times]


def test_times_do_not_drift():
    """Each word of twenty minutes is where it was said, within an output frame (40 ms)."""
    hears = Model(reads_tones, INFO)
    one = say("ABC DEF GH", 0.5)
    found = hears.transcribe((np.tile(one, 300), RATE))
    starts = np.array([w.start for s in found.segments for w in s.words]).reshape(300, 3)
    assert np.ptp(starts - np.arange(300)[:, None] * len(one) / RATE, axis=0).max() <= 0.041


def test_an_alphabet_without_a_space_has_words_of_a_letter():
    """Subtitles can then be cut between letters, and pieces are joined without a space."""
    labels = Labels("ABCDEFGHI_")

    def reads(inputs, lengths):
        probs, out = reads_tones(inputs, lengths)
        probs[:, :, labels.blank_index] = probs[:, :, SPACE:].max(axis=2)
        probs[:, :, SPACE] = 0.1 / 9
        return probs, out
    text = text_of(100, 0.35)
    found = Model(reads, ModelInfo({}, labels, time_stride=4)).transcribe((say(text, 0.35), RATE))
    letters = text.replace(" ", "")
    assert found.text == "".join(segment.text for segment in found.segments) == letters
    assert [word.word for word in found.words] == list(letters)
    assert len(found.segments) > 1
    lines = WRITERS["srt"](found, Layout()).splitlines()
    shown = [line for line in lines if set(line) <= set(LETTERS)]
    assert "".join(shown) == letters and max(map(len, shown)) <= 42


def test_many_recordings_in_order_with_the_texts_of_each_alone(tmp_path):
    """Long, short, silent and broken ones, in batches of every size."""
    hears = Model(reads_tones, INFO)
    texts = [text_of(seconds, 0.3, seed) for seed, seconds in enumerate((1, 40, 2, 90, 3, 1, 1, 5))]
    audios = [(say(text, 0.3), RATE) for text in texts]
    audios[2:2] = [tmp_path / "none.wav", (np.zeros(3 * RATE), RATE)]
    for batch_size in (1, 3, 100):
        first, second, missing, silent, *others = hears.transcribe_many(audios, batch_size)
        assert isinstance(missing, AudioError) and silent.text == "" and silent.duration == 3
        assert [found.text for found in (first, second, *others)] == texts


def test_a_fault_in_a_reader_takes_one_recording_only(tmp_path, monkeypatch):
    """And what fails keeps nothing of the recording in memory."""
    (tmp_path / "short.wav").write_bytes(b"\1\4short")  # begins as an Akai MPC file
    (tmp_path / "odd.wav").write_bytes(b"odd")
    real = transcription.open_audio

    def faulty(audio, *rest):
        if str(audio).endswith("odd.wav"):
            raise IndexError("index out of range")
        return real(audio, *rest)
    monkeypatch.setattr(transcription, "open_audio", faulty)
    audios = [tmp_path / "short.wav", tmp_path / "odd.wav", (say("AB", 0.3), RATE)]
    short, odd, found = Model(reads_tones, INFO).transcribe_many(audios)
    assert isinstance(short, AudioError) and found.text == "AB"
    assert isinstance(odd, RunError)
    assert str(odd) == f"{tmp_path}/odd.wav: cannot be read: index out of range"
    assert short.__traceback__ is short.__context__ is odd.__traceback__ is odd.__context__ is None


def test_what_needs_no_network_is_there_at_once():
    """A killed run must not lose hours of recordings without speech."""
    read = []

    def audios():
        for number in range(5):
            read.append(number)
            yield np.zeros(3 * RATE), RATE
    results = Model(reads_tones, INFO).transcribe_many(audios())
    assert next(results).text == ""
    assert len(read) <= 3  # one is read ahead
    assert len(list(results)) == 4


def test_little_memory_takes_one_recording_only():
    """A batch that does not fit is tried again piece by piece."""
    def acoustic(inputs, lengths):
        if inputs.size > 161 * 1500:
            raise MemoryError
        return reads_tones(inputs, lengths)
    hears = Model(acoustic, INFO)
    texts = ["AB CD", "EF", text_of(20, 0.1), "GH"]
    found = list(hears.transcribe_many([(say(text, 0.3), RATE) for text in texts]))
    assert isinstance(found[2], MemoryError)
    assert [found[i].text for i in (0, 1, 3)] == [texts[i] for i in (0, 1, 3)]


@pytest.mark.parametrize("pause", [0.0, 3.0])
def test_a_recording_that_cannot_be_decoded_takes_no_other_with_it(monkeypatch, pause):
    """Its stretch may end with a pause in it, or with the recording."""
    hears, decode = Model(reads_tones, INFO), Model.segment

    def segment(self, probs, start, length):
        if length > 15 * RATE:
            raise MemoryError
        return decode(self, probs, start, length)
    monkeypatch.setattr(Model, "segment", segment)
    texts = ["AB CD", text_of(20, 0.1), "GH"]
    audios = [np.concatenate([say(text, 0.3), np.zeros(round(pause * RATE))]) for text in texts]
    first, second, third = hears.transcribe_many([(audio, RATE) for audio in audios])
    assert isinstance(second, MemoryError)
    assert [first.text, third.text] == [texts[0], texts[2]]


def test_a_failure_of_the_network_is_raised():
    def acoustic(inputs, lengths):
        raise RunError("broken")
    with pytest.raises(RunError, match="broken"):
        Model(acoustic, INFO).transcribe((voice(RATE), RATE))


def test_a_network_that_is_unsure_of_what_may_be_noise_says_nothing():
    """An eighth of a second of a voice, in the hiss of a room."""
    samples = np.concatenate([voice(RATE // 8), np.zeros(RATE)])
    samples += np.random.default_rng(0).normal(0, 1e-3, len(samples))
    (piece,) = cut_recording([samples.astype(np.float32)], RATE, HOP)
    assert NOISE_SECONDS < piece.speech < SPEECH_SECONDS
    for probability, text in ((0.7, ""), (0.8, "A")):
        def acoustic(inputs, lengths, p=probability):
            probs = np.full((1, (lengths[0] - 1) // 4 + 1, len(LABELS)), 0.0, np.float32)
            probs[:, :, LABELS.blank_index] = 0.1
            probs[:, 3, 0] = p
            return probs, (lengths - 1) // 4 + 1
        assert Model(acoustic, INFO).transcribe((samples, RATE)).text == text


def test_short_recordings_give_the_emissions_of_the_evaluation(shared):
    """Bit for bit: the whole recording is one piece."""
    from deepspeech2.audio import load_audio
    from deepspeech2.features import spectrogram
    shipped = load_model("an4")
    for path in sorted((shared / "data" / "an4" / "wav").rglob("*.flac"))[::120]:
        samples = load_audio(path, RATE)
        inputs = spectrogram(samples, shipped.spect)[None, None]
        probs = shipped.emissions(inputs, np.array([inputs.shape[3]], np.int32))[0]
        assert shipped.transcribe(path) == shipped.transcript(probs, len(samples))


def test_a_long_recording_in_little_memory_and_with_a_plain_locale(tmp_path):
    """Ten minutes as a real process; in one piece it took 0.55 GB."""
    import soundfile
    name = os.fsencode(tmp_path) + "/\U0001f600\n\xe9".encode() + b"\xe4.wav"
    sound = np.tile(np.concatenate([voice(9 * RATE), np.zeros(RATE, np.float32)]), 60)
    soundfile.write(name, sound, RATE)
    code = """if True:
        import re, sys
        from deepspeech2.cli import main
        code = main(["transcribe", *sys.argv[1:]])
        # not ru_maxrss, which counts the process that started this one
        peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())
        print(int(peak[1]) // 1024, file=sys.stderr)
        sys.exit(code)"""
    run = subprocess.run([sys.executable, "-c", code, name, b"/none\n\xe4"], cwd=ROOT,
                         capture_output=True, env=os.environ | {"LC_ALL": "C"}, check=False)
    error, megabytes = run.stderr.decode().splitlines()
    assert run.returncode == 2 and len(run.stdout.splitlines()) == 2
    assert "none" in error and int(megabytes) < 350
