"""Streams of speech: words as in the whole recording, however the samples come; pauses."""

import numpy as np
import pytest
from conftest import random_weights

import deepspeech2
import export
from deepspeech2.audio import resample
from deepspeech2.confidence import Confidence
from deepspeech2.decoding.decoders import LMConfig, make_decoder
from deepspeech2.errors import InputError
from deepspeech2.features import SpectConfig, spectrogram
from deepspeech2.labels import Labels
from deepspeech2.streaming import session as session_module
from deepspeech2.streaming.decoders import BeamStream, GreedyStream, stream_decoder
from deepspeech2.streaming.session import Session
from src.checkpoint import save_checkpoint
from src.config import load_config
from src.DeepSpeech import DeepSpeech

LABELS = Labels("ABCD _")
SETTINGS = ["ModelConfig.bidirectional=False", "ModelConfig.hidden_size=12",
            "ModelConfig.hidden_layers=2", "ModelConfig.conv_channels=3",
            "ModelConfig.conv2_kernel=[21, 11]", "ModelConfig.conv2_time_stride=2",
            "ModelConfig.lookahead_context=5", "DataConfig.SpectConfig.normalization=running"]


def write_checkpoint(path, settings):
    """A network whose likeliest classes change often."""
    config = load_config(None, settings)
    network = DeepSpeech(config.ModelConfig, 161, len(LABELS))
    arrays = random_weights(network, seed=35, gain=20, centred=True)
    save_checkpoint(path, arrays, config.model_info(LABELS))
    return str(path)


@pytest.fixture(scope="module", params=["", "int8"])
def model(request, tmp_path_factory):
    """A streaming model, exported by the command."""
    folder = tmp_path_factory.mktemp("streaming")
    checkpoint = write_checkpoint(folder / "a.ckpt", SETTINGS)
    assert export.main(["--pre_trained_model_path", checkpoint, "--device_target", "CPU",
                        "--file_format", "ONNX", "--streaming", "True", "--quantize", request.param,
                        "--file_name", str(folder / "stream")]) == 0
    result = deepspeech2.load_model(folder / "stream.onnx")
    result.confidence = Confidence(-0.5, 0.7)
    return result


@pytest.fixture
def without_pauses(monkeypatch):
    for name in ("PAUSE", "SILENCE", "LONGEST"):
        monkeypatch.setattr(session_module, name, 1e9)


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise whose loudness and colour change ten times a second."""
    rng, rate = np.random.default_rng(seed), 16000
    parts = [rng.uniform(0, 0.3) * np.convolve(rng.standard_normal(1600), np.hanning(k)[1:-1] / k,
                                               "same")
             for k in rng.integers(3, 60, round(10 * seconds))]
    return np.concatenate(parts).astype(np.float32)[: round(seconds * rate)]


def listen(session: Session, samples: np.ndarray, most: int, seed: int = 0):
    """Feed random blocks of 0 to `most` samples; returns all words that came."""
    rng, words, at = np.random.default_rng(seed), [], 0
    while at < len(samples):
        size = int(rng.integers(0, most + 1))
        progress = session.feed(samples[at : at + size])
        words += progress.words
        at += size
    words += session.finish().words
    return words


def values(words):
    """Words without their probabilities, which depend on how frames are batched a little."""
    return [(w.word, w.start, w.end) for w in words]


@pytest.mark.parametrize("seconds", [0.005, 0.09, 0.31, 7.013])
@pytest.mark.parametrize("most", [700, 1000000])
def test_words_are_those_of_the_whole_recording(model, without_pauses, seconds, most):
    samples = sound(max(0.1, seconds))[: round(seconds * 16000)]
    features = spectrogram(samples, model.spect)
    (probs,) = model.emissions(features[None, None], np.array([features.shape[1]], np.int32))
    expected = model.transcript(probs, len(samples))
    session = model.stream()
    words = listen(session, samples, most)
    assert len(words) > 10 or seconds < 1
    result = session.transcript
    assert (result.text, result.duration) == (expected.text, expected.duration)
    truth = expected.words
    assert values(words) == values(truth)
    assert [w.probability for w in words] == pytest.approx([w.probability for w in truth], rel=1e-3)
    assert [s.probability for s in result.segments] == pytest.approx(
        [s.probability for s in expected.segments], rel=1e-3)


def test_a_word_in_progress_only_grows_and_words_never_change(model, without_pauses):
    session, text, partial = model.stream(), "", ""
    for block in np.split(sound(6.0), range(100, 96000, 100)):
        progress = session.feed(block)
        for word in progress.words:
            assert word.word.startswith(partial)
            text, partial = f"{text} {word.word}".strip(), ""
        assert progress.partial.startswith(partial)
        partial = progress.partial
    (rest,) = session.finish().words or ("",)
    assert session.transcript.text == f"{text} {rest.word if rest else ''}".strip()


@pytest.mark.parametrize("rate", [8000, 44100])
def test_other_rates_integers_and_channels(model, without_pauses, rate):
    """48 kHz of a browser and 8 kHz of a telephone, in 16 bits."""
    samples = resample(sound(3.0), 16000, rate)
    integers = np.round(samples * 32767).astype(np.int16)
    other = np.roll(integers, rate)
    expected = model.stream()
    mean = (integers.astype(np.float32) + other) / np.float32(65536)
    listen(expected, resample(mean, rate, 16000), 1000000)
    session = model.stream(rate)
    listen(session, np.stack([integers, other], axis=1), 900)
    assert values(session.transcript.words) == values(expected.transcript.words)


# beam search

ARPA = """\\data\\
ngram 1=6

\\1-grams:
-99\t<s>
-0.7\t</s>
-2\t<unk>
-0.6\tD
-0.5\tDB
-0.9\tBA

\\end\\
"""


@pytest.fixture
def beam(model, tmp_path):
    """A beam search with a language model."""
    (tmp_path / "lm.arpa").write_text(ARPA)
    config = LMConfig(decoder_type="beam", lm_path=str(tmp_path / "lm.arpa"), beam_width=30)
    return make_decoder(config, model.labels)


@pytest.mark.parametrize("most", [700, 1000000])
def test_a_beam_search_finds_the_text_of_the_whole_recording(model, without_pauses, beam, most):
    """Words that all hypotheses agree on stay, and come in order; all of them are in the end."""
    decoder = beam
    samples = sound(7.0)
    features = spectrogram(samples, model.spect)
    (probs,) = model.emissions(features[None, None], np.array([features.shape[1]], np.int32))
    ((expected, *_),) = decoder.texts([probs])
    patient = BeamStream(decoder, LABELS, patience=10**9)
    session = Session(model.streaming, model.spect, LABELS, patient, 16000)
    words = listen(session, samples, most)
    assert " ".join(word.word for word in words) == session.transcript.text == expected
    assert len(words) > 5
    assert all(a.end <= b.start for a, b in zip(words, words[1:], strict=False))
    assert all(w.start < w.end and 0 < w.probability <= 1 for w in words)


def test_a_beam_search_gives_words_before_the_end(model, without_pauses):
    decoder = make_decoder(LMConfig(decoder_type="beam", beam_width=5), model.labels)
    patient = BeamStream(decoder, LABELS, patience=10**9)
    session = Session(model.streaming, model.spect, LABELS, patient, 16000)
    assert len(session.feed(sound(7.0)).words) > 3


def test_a_word_of_the_best_hypothesis_is_settled_after_a_while(model, without_pauses, beam):
    """It comes before all hypotheses agree on it, stays, and does not depend on the chunks."""
    def spoken(decoder, most):
        session = Session(model.streaming, model.spect, LABELS, decoder, 16000)
        words, late = [], []
        for start in range(0, len(samples), most):
            for word in session.feed(samples[start : start + most]).words:
                words.append(word)
                late.append((start + most) / 16000 - word.end)
        words += session.finish().words
        assert session.transcript.text == " ".join(word.word for word in words)
        return [word.word for word in words], late

    samples = sound(7.0)
    settled, late = spoken(stream_decoder(beam, LABELS, 16000), 700)
    assert settled == spoken(stream_decoder(beam, LABELS, 16000), 100_000)[0]
    assert len(settled) > 5
    _, later = spoken(BeamStream(beam, LABELS, patience=10**9), 700)
    assert np.median(late) < np.median(later)


@pytest.mark.parametrize("patience", [0, 1, 5])
def test_words_come_in_order_whatever_the_network_says(patience):
    """The best hypothesis changes all the time; what was given out stays."""
    labels = Labels("AB _")
    config = LMConfig(decoder_type="beam", beam_width=2, hotwords="AB,BA")
    decoder = make_decoder(config, labels)
    for seed in range(100):
        rng = np.random.default_rng(seed)
        scores = rng.normal(0, rng.choice([0.3, 1, 3]), (rng.integers(1, 60), len(labels)))
        probs = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        stream, words = BeamStream(decoder, labels, patience), []
        for frame, row in enumerate(probs.astype(np.float32)):
            words += stream.push(row, frame)
            if rng.random() < 0.1:
                stream.cut()
        words += stream.flush()
        assert all(0 <= word.first <= word.last < len(probs) for word in words)
        assert all(a.last <= b.first for a, b in zip(words, words[1:], strict=False))
        assert all(word.symbols and len(word.log_probs) == len(word.symbols) for word in words)


def test_a_word_that_has_fewer_frames_than_letters_is_given_out(monkeypatch):
    """The word before it had them in a text that was the best one then. No search is known to do
    so, hence one that is made up."""
    labels = Labels("AB _")
    decoder = make_decoder(LMConfig(decoder_type="beam"), labels)
    texts = iter(["A", "A ", "A ", "A BBA ", "A BBA "])
    monkeypatch.setattr(decoder.search, "texts_in_progress", lambda state: 2 * [
        np.array([labels.characters.index(letter) for letter in next(texts)], np.int32)])
    stream, words = BeamStream(decoder, labels, 10**9), []
    for frame in range(5):
        words += stream.push(np.array([0.9, 0.04, 0.03, 0.03], np.float32), frame)
    assert [labels.decode(np.array(word.symbols)) for word in words] == ["A", "BBA"]
    assert all(a.last <= b.first for a, b in zip(words, words[1:], strict=False))


# pauses, with a network that hears loudness

class Loudness:
    """In place of a trained streaming network: four frames with a loud tone are an A, with loud
    noise a space, with nothing a blank. It counts the starts of streams."""

    first_frames, step = 4, 4

    def __init__(self):
        self.starts = 0

    def first_states(self):
        return {}

    def __call__(self, chunks):
        return [self.recognise(chunk) for chunk in chunks]

    def recognise(self, chunk):
        self.starts += chunk.first
        features = chunk.features
        rows = []
        for start in range(0, features.shape[1], 4):
            four = features[:, start : start + 4]
            noise, tone = np.median(four) > 0.5, four.max() > 3
            rows.append(LABELS.space_index if noise else 0 if tone else LABELS.blank_index)
        return 0.9 * np.eye(len(LABELS), dtype=np.float32)[np.array(rows, int)] + 0.1 / len(LABELS)


RUNNING = SpectConfig(normalization="running", prior_frames=10**6)  # in effect constant


def tone(seconds: float) -> np.ndarray:
    t = np.arange(round(seconds * 16000)) / 16000
    return (0.2 * np.sin(2 * np.pi * 500 * t)).astype(np.float32)


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.9, 0.9, round(seconds * 16000)).astype(np.float32)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * 16000), np.float32)


@pytest.mark.parametrize("most", [100, 5000, 1000000])
def test_pauses_end_segments_and_times_do_not_drift(most):
    """Tones at 1, 2, 5, 15 and 60 s: a short pause, one that ends a segment, and long ones."""
    starts = (1, 2, 5, 15, 60)
    parts, at = [], 0.0
    for start in starts:
        parts += [silence(start - at), tone(0.4)]
        at = start + 0.4
    acoustic = Loudness()
    session = Session(acoustic, RUNNING, LABELS, GreedyStream(LABELS), 16000)
    listen(session, np.concatenate([*parts, silence(3)]), most)
    segments = session.transcript.segments
    assert [segment.text for segment in segments] == ["AA", "A", "A", "A"]
    assert [s.start for s in segments] == pytest.approx([1, 5, 15, 60], abs=0.05)
    assert [s.end for s in segments] == pytest.approx([2.4, 5.4, 15.4, 60.4], abs=0.05)
    # at first, after 4 segments, and every 20 s of silence between 15 and 60 s
    assert acoustic.starts == 1 + 4 + 2


def test_a_segment_ends_as_soon_as_the_pause_is_long_enough():
    session = Session(Loudness(), RUNNING, LABELS, GreedyStream(LABELS), 16000)
    assert not session.feed(np.concatenate([tone(0.4), silence(1.1)])).ended
    progress = session.feed(silence(0.3))
    assert progress.ended and [w.word for w in progress.words] == ["A"] and not progress.partial
    assert not session.feed(silence(5)).ended


def test_speech_without_a_pause_is_cut_behind_a_word_after_20_seconds():
    session = Session(Loudness(), RUNNING, LABELS, GreedyStream(LABELS), 16000)
    words = listen(session, np.tile(np.concatenate([tone(0.52), noise(0.48)]), 50), 3000)
    segments = session.transcript.segments
    assert len(words) == 50 and [len(s.words) for s in segments] == [20, 20, 10]


@pytest.mark.parametrize("characters", ["ABCD _", "ABCDE_"])
def test_a_word_without_an_end_is_cut_after_20_seconds(characters):
    """Nobody says a space, or the alphabet has none: nothing in progress grows for hours."""
    labels = Labels(characters)
    session = Session(Loudness(), RUNNING, labels, GreedyStream(labels), 16000)
    words = listen(session, np.tile(np.concatenate([tone(0.52), silence(0.48)]), 50), 3000)
    assert [w.word for w in words] == ["A" * 20, "A" * 20, "A" * 10]
    assert [s.text for s in session.transcript.segments] == [w.word for w in words]
    assert [w.start for w in words] == pytest.approx([0, 20, 40], abs=0.05)


def test_a_beam_search_cuts_a_word_without_an_end_too(monkeypatch):
    monkeypatch.setattr(session_module, "LONGEST", 2.0)
    labels = Labels("ABCDE_")
    decoder = make_decoder(LMConfig(decoder_type="beam", beam_width=5), labels)
    session = Session(Loudness(), RUNNING, labels, stream_decoder(decoder, labels, 16000), 16000)
    words = listen(session, np.tile(np.concatenate([tone(0.52), silence(0.48)]), 7), 3000)
    assert [w.word for w in words] == [s.text for s in session.transcript.segments]
    assert [w.start for w in words] == pytest.approx([0, 2, 4, 6], abs=0.05)


def test_a_beam_search_is_cut_behind_a_word_too():
    """No word is lost, and no more of the speech is kept than what is in progress.

    A network that is so unsure gets other words from a beam search, of a frame or two.
    """
    decoder = make_decoder(LMConfig(decoder_type="beam", beam_width=5), LABELS)
    stream = stream_decoder(decoder, LABELS, 16000)
    session = Session(Loudness(), RUNNING, LABELS, stream, 16000)
    words = []
    for part in np.array_split(np.tile(np.concatenate([tone(0.52), noise(0.48)]), 70), 200):
        words += session.feed(part).words
        assert len(stream._probs) < 100  # 4 s
    words += session.finish().words
    starts = [word.start for word in words if word.end - word.start > 0.3]
    assert starts == pytest.approx(np.arange(70), abs=0.1)
    segments = session.transcript.segments
    assert list(session.transcript.words) == words
    assert len(segments) == 4 and all(19 < s.end - s.start < 22 for s in segments[:3])


def test_memory_does_not_grow():
    session = Session(Loudness(), RUNNING, LABELS, GreedyStream(LABELS), 16000)
    for _ in range(100):
        session.feed(np.concatenate([tone(0.5), silence(2.5)]))
    assert len(session._samples) < 16000 * 4 and session._features.shape[1] < 100
    assert session.transcript.duration == 300


# what is refused

def test_a_stream_ends_once(model):
    session = model.stream()
    assert session.finish().words == () and session.transcript.text == ""
    for call in (session.finish, lambda: session.feed(np.zeros(3))):
        with pytest.raises(InputError, match="the stream has ended"):
            call()


@pytest.mark.parametrize(("samples", "words"), [
    (np.zeros((2, 2, 2)), r"shape \(2, 2, 2\)"), (np.array(["a"]), "dtype <U1"),
    (np.array([np.nan]), "not finite"), (np.zeros(3, np.uint8), "dtype uint8")])
def test_samples_that_are_none(model, samples, words):
    with pytest.raises(InputError, match=words):
        model.stream().feed(samples)


def test_rates_that_no_microphone_has(model):
    for rate in (0, 0.5, 10**9, "fast"):
        with pytest.raises(InputError, match="sample rate"):
            model.stream(rate)


def test_a_model_for_whole_utterances_makes_no_streams():
    with pytest.raises(InputError, match="this model needs whole utterances: for streams train"):
        deepspeech2.load_model("an4").stream()


@pytest.mark.parametrize(("settings", "words"), [
    (["ModelConfig.bidirectional=True"], "recurrent layers are bidirectional"),
    (["DataConfig.SpectConfig.normalization=utterance"], "normalisation is not `running`")])
def test_a_network_that_cannot_be_exported_for_streams(settings, words, tmp_path, capsys):
    checkpoint = write_checkpoint(tmp_path / "a.ckpt", [*SETTINGS, *settings])
    code = export.main(["--pre_trained_model_path", checkpoint, "--device_target", "CPU",
                        "--file_format", "ONNX", "--streaming", "True",
                        "--file_name", str(tmp_path / "stream")])
    assert code == 2 and words in capsys.readouterr().err
    assert not (tmp_path / "stream.onnx").exists()
