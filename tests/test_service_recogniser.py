"""Recognition for many clients, without connections: what goes wrong with the network itself."""

import asyncio
import io
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
from conftest import model_that_says, voice, write_streaming_model

from deepspeech2 import load_model
from deepspeech2.errors import RunError
from deepspeech2.model import Model
from deepspeech2.service.limits import Limits
from deepspeech2.service.listening import Listener, Settings
from deepspeech2.service.metrics import Metrics
from deepspeech2.service.recogniser import Recogniser, Stopped, Turn
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


def test_work_on_silence_stops_too(labels):
    """It has no pieces that the network would recognise."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(600 * 16000, np.int16), 16000, format="WAV")
    stop = threading.Event()
    stop.set()
    stopped = recogniser(model_that_says("A", labels))
    with pytest.raises(Stopped):
        stopped.transcribe(file, stop, print)
    stopped.close()


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


@pytest.fixture
def streaming(tmp_path):
    write_streaming_model(tmp_path / "stream.onnx")
    return load_model(tmp_path / "stream.onnx")


@pytest.mark.parametrize("stage", ["network", "decoder"])
def test_a_stream_that_fails_takes_no_other_with_it(streaming, stage):
    """Two in a batch; memory suffices for each but not for both, or not for the second's text."""
    samples = (0.1 * np.random.default_rng(0).standard_normal(16000)).astype(np.float32)
    good, bad = streaming.stream(), streaming.stream()
    network, take = streaming.streaming, bad.take

    def recognise(chunks):
        if stage == "network" and (len(chunks) > 1 or chunks[0] is broken):
            raise RunError("out of memory")
        return network(chunks)

    def fail(*arguments):
        raise MemoryError
    network_before, streaming.streaming = network, recognise
    if stage == "decoder":
        bad.take = fail
    for session in (good, bad):
        session.add(samples)
        session.end()
    shared = recogniser(streaming)
    first, broken = good.next_chunk(), bad.next_chunk()
    failure, progress = shared._advance([Turn(bad, broken), Turn(good, first)])
    shared.close()
    assert isinstance(failure, RunError if stage == "network" else MemoryError)
    assert progress
    streaming.streaming, bad.take = network_before, take
    while chunk := good.next_chunk():
        good.take(network([chunk])[0], chunk)
    alone = streaming.stream()
    alone.feed(samples)
    alone.finish()
    assert good.transcript == alone.transcript


def test_what_has_come_is_recognised_when_the_service_stops(streaming):
    """Here a client without a connection: over a real one nobody knows what has come."""
    class Client:
        def __init__(self):
            self.messages = 40 * [{"type": "websocket.receive", "bytes": bytes(3200)}]

        async def receive(self):
            if not self.messages:
                await asyncio.Event().wait()
            return self.messages.pop()

    async def listen():
        shared = recogniser(streaming)
        shared.stopping.set()
        listener = Listener(Client(), shared, Settings(16000, 1, False))
        end = await listener._listen()
        shared.close()
        return end, listener
    with ThreadPoolExecutor(1) as thread:  # in this one, a browser of other tests may have a loop
        end, listener = thread.submit(asyncio.run, listen()).result()
    assert end.code == 1001 and listener._seconds() == 4.0


def test_a_stream_that_is_behind_catches_up_in_its_turn(streaming):
    """Turns of others last longer than 80 ms; and no turn is without an end."""
    model = streaming
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
