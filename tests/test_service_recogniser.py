"""Recognition for many clients, without connections: what goes wrong with the network itself."""

import io
import threading

import numpy as np
import pytest
import soundfile
from conftest import model_that_says, voice, write_streaming_model

from deepspeech2 import load_model
from deepspeech2.errors import RunError
from deepspeech2.model import Model
from deepspeech2.service.limits import Limits
from deepspeech2.service.metrics import Metrics
from deepspeech2.service.recogniser import Recogniser, Stopped
from src.config import load_config


def recogniser(model):
    return Recogniser(model, "name", Limits(), Metrics())


def recording(seconds: float) -> io.BytesIO:
    file = io.BytesIO()
    soundfile.write(file, voice(round(seconds * 16000)), 16000, format="WAV")
    return file


def test_a_network_that_cannot_be_run(labels):
    def fail(inputs, input_length):
        raise RunError("out of memory")
    broken = recogniser(Model(fail, load_config().model_info(labels)))
    with pytest.raises(RunError, match="out of memory"):
        broken.transcribe(recording(3.0), threading.Event(), print)
    with pytest.raises(RunError, match="out of memory"):
        broken.probe().result(timeout=30)
    broken.close()


def test_a_recording_that_fails_does_not_spoil_its_batch(labels):
    """As when memory suffices for each piece but not for both."""
    good = model_that_says("A", labels).acoustic

    def fail(inputs, input_length):
        if len(inputs) > 1 or input_length[0] > 400:
            raise RunError("out of memory")
        return good(inputs, input_length)
    both = recogniser(Model(fail, load_config().model_info(labels)))
    found = {}

    def transcribe(seconds):
        try:
            found[seconds] = both.transcribe(recording(seconds), threading.Event(), print).text
        except RunError as error:
            found[seconds] = str(error)

    threads = [threading.Thread(target=transcribe, args=[seconds]) for seconds in (2.0, 5.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    both.close()
    assert found == {2.0: "A", 5.0: "out of memory"}


def test_work_that_nobody_waits_for_stops(labels):
    stop, pieces = threading.Event(), []
    good = model_that_says("A", labels).acoustic

    def predict(inputs, input_length):
        pieces.extend(input_length)
        stop.set()
        return good(inputs, input_length)
    stopped = recogniser(Model(predict, load_config().model_info(labels)))
    with pytest.raises(Stopped):
        stopped.transcribe(recording(600.0), stop, print)
    stopped.close()
    assert sum(pieces) < 30_000  # frames, of 60,000


def test_the_spectrograms_are_those_of_a_model_alone(labels):
    """The same pieces, whatever else is in the batch."""
    seen = []
    good = model_that_says("A", labels).acoustic

    def predict(inputs, input_length):
        seen.extend(row[0, :, :length].copy() for row, length in
                    zip(inputs, input_length, strict=True))
        return good(inputs, input_length)
    model = Model(predict, load_config().model_info(labels))
    alone = model.transcribe(recording(70.0))
    expected, seen[:] = sorted(map(np.sum, seen)), []
    shared = recogniser(model)
    assert shared.transcribe(recording(70.0), threading.Event(), print) == alone
    shared.close()
    assert sorted(map(np.sum, seen)) == expected


def test_a_stream_that_is_behind_catches_up_in_its_turn(tmp_path):
    """Turns of others last longer than 80 ms; and no turn is without an end."""
    write_streaming_model(tmp_path / "stream.onnx")
    model = load_model(tmp_path / "stream.onnx")
    rng = np.random.default_rng(0)
    sounds = [(0.1 * rng.standard_normal(round(s * 16000))).astype(np.float32) for s in (1.5, 5.0)]
    shared = recogniser(model)
    sessions, turns = [model.stream(), model.stream()], [0, 0]
    for session, sound in zip(sessions, sounds, strict=True):
        session.add(sound)
        session.end()
    while waiting := [(i, c) for i, s in enumerate(sessions) if (c := s.next_chunk())]:
        futures = [shared.submit_stream(sessions[i], chunk) for i, chunk in waiting]
        for (i, _), future in zip(waiting, futures, strict=True):
            assert future.result(timeout=60)
            turns[i] += 1
    shared.close()
    assert turns == [1, 3]
    for session, sound in zip(sessions, sounds, strict=True):
        alone = model.stream()
        alone.feed(sound)
        alone.finish()
        assert session.transcript == alone.transcript
        assert session.transcript.text
