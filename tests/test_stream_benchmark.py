"""`benchmarks.streams` measures words that are right, from where they end. Times are not tested."""

import numpy as np
import pytest
from conftest import write_streaming_model

from benchmarks import streams
from benchmarks.streams import Utterance, equal_words
from deepspeech2 import load_model
from deepspeech2.result import Segment, Transcript, Word


def words(*texts: str) -> list[Word]:
    return [Word(i, i + 1, text, 1.0) for i, text in enumerate(texts)]


def test_equal_words_are_paired_in_order():
    reference, found = words("A", "B", "C", "D"), words("A", "X", "Y", "C", "D", "E")
    assert list(equal_words(reference, found)) == [(0, 0), (2, 3), (3, 4)]
    assert list(equal_words(words(), found)) == []


@pytest.fixture
def model(tmp_path):
    write_streaming_model(tmp_path / "stream.onnx")
    return tmp_path / "stream.onnx"


def test_delays_are_counted_from_the_end_of_the_word(model, demo_corpus, capsys, monkeypatch):
    """Of words that end a second after they are said, each is complete a second earlier."""
    network = load_model(model)
    path = min((demo_corpus / "demo_dataset" / "val" / "wav").iterdir())
    utterance = Utterance(path, "", np.random.default_rng(0))
    session = network.stream(streams.RATE)
    session.feed(utterance.samples)
    session.finish()
    found = session.transcript.words
    assert found

    class Reader:
        def __init__(self, later: float):
            self.later = later

        def align(self, audio, text):
            later = [Word(w.start, w.end + self.later, w.word, 1.0) for w in found]
            return Transcript("", (Segment(0, 1, "", tuple(later), 1.0),), 1.0)

    monkeypatch.setattr(streams.time, "perf_counter", lambda: 0.0)  # computing takes no time
    medians = []
    for later in 0.0, 1.0:
        streams.delays(network, Reader(later), [utterance])
        printed = capsys.readouterr().out
        assert printed.startswith(f"{len(found)} of {len(found)} words are right")
        medians.append(float(printed.partition("until it is complete median ")[2].split()[0]))
    assert medians[0] - medians[1] == 1000


def test_what_is_printed(model, tmp_path, demo_corpus, capsys):
    manifest = str(demo_corpus / "demo_val_manifest.csv")
    arguments = [str(model), manifest, "--only", "long,clients", "--minutes", "0.2", "--count", "2",
                 "--seconds", "1.5"]
    assert streams.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "minutes in one stream: WER" in printed and "2 streams of 1.5 s at once" in printed
    assert streams.main([str(model), manifest, "--only", "nothing"]) == 2
    assert "--only nothing: sections are delays, clients, long" in capsys.readouterr().err
