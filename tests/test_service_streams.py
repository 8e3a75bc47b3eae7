"""Streams over real websockets: words while they are spoken, limits, and the end."""

import hashlib
import io
import json
import threading
from urllib.parse import urlencode

import httpx
import numpy as np
import pytest
import service_process
import soundfile
from service_process import send_without_end, wait_for
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

import deepspeech2
from deepspeech2.audio import resample

KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def server(streaming_model, tmp_path_factory):
    with service_process.service(tmp_path_factory.mktemp("files"), streaming_model) as running:
        yield running


@pytest.fixture(scope="module")
def strict(streaming_model, tmp_path_factory):
    """A service with low limits."""
    with service_process.service(
        tmp_path_factory.mktemp("files"), streaming_model, streams=2, message_bytes=100_000,
        session_seconds=10.0, idle_seconds=2.0, write_seconds=1.0, key=KEY,
    ) as running:
        yield running


def noise(seconds: float, seed: int = 0, rate: int = 16000) -> np.ndarray:
    """int16 noise whose loudness and colour change ten times a second."""
    rng = np.random.default_rng(seed)
    parts = [rng.uniform(0, 0.3) * np.convolve(rng.standard_normal(1600), np.ones(k) / k, "same")
             for k in rng.integers(1, 30, round(10 * seconds))]
    samples = resample(np.concatenate(parts).astype(np.float32), 16000, rate)
    return np.round(samples.clip(-1, 1) * 32767).astype("<i2")


def words_of(transcript):
    return [(w.word, w.start, w.end) for w in transcript.words]


def recognised(streaming_model, samples: np.ndarray, rate: int = 16000):
    """The oracle: the transcript of a stream without a service."""
    session = deepspeech2.load_model(streaming_model).stream(rate)
    session.feed(samples)
    session.finish()
    return session.transcript


def open_stream(running, headers=None, subprotocols=None, **query):
    address = running.url.replace("http", "ws") + f"/v1/listen?{urlencode(query)}"
    return connect(address, additional_headers=headers or {}, subprotocols=subprotocols,
                   open_timeout=60, close_timeout=60, ping_interval=None)


def say(websocket, samples: np.ndarray, size: int = 3201) -> None:
    """Send samples in messages of `size` bytes, which may end within a sample."""
    content = samples.tobytes()
    for at in range(0, len(content), size):
        websocket.send(content[at : at + size])


def results(websocket) -> list[dict]:
    """What comes until the connection is closed."""
    found = []
    try:
        while True:
            found.append(json.loads(websocket.recv(timeout=60)))
    except ConnectionClosed:
        return found


def final_words(messages):
    return [(w["word"], w["start"], w["end"]) for m in messages if m.get("is_final")
            for w in m["channel"]["alternatives"][0]["words"]]


def close(websocket) -> list[dict]:
    websocket.send('{"type": "CloseStream"}')
    return results(websocket)


def rounded(words):
    return [(word, round(start, 3), round(end, 3)) for word, start, end in words]


@pytest.mark.parametrize(("query", "rate", "channels"), [
    ({}, 16000, 1), ({"encoding": "linear16", "sample_rate": 8000}, 8000, 1),
    ({"sample_rate": 48000, "channels": 2, "model": "stream"}, 48000, 2)])
def test_words_are_those_of_a_stream_without_a_service(
        server, streaming_model, query, rate, channels):
    samples = noise(4.0, rate=rate)[:, None] // np.array([1, 3])[:channels]
    samples = samples.astype("<i2")
    expected = recognised(streaming_model, samples, rate)
    with open_stream(server, **query) as websocket:
        say(websocket, samples)
        *messages, metadata = close(websocket)
        assert websocket.close_code == 1000
    assert len(expected.segments[0].words) > 5
    assert final_words(messages) == rounded(words_of(expected))
    confidences = [w["confidence"] for m in messages
                   for w in m["channel"]["alternatives"][0]["words"]]
    assert confidences == pytest.approx([w.probability for w in expected.words], abs=1e-3)
    text = [m["channel"]["alternatives"][0]["transcript"] for m in messages]
    assert " ".join(filter(None, text)) == expected.text
    assert messages[-1]["speech_final"] and not messages[0]["speech_final"]
    assert metadata["type"] == "Metadata" and metadata["duration"] == expected.duration
    assert metadata["models"] == ["stream"] and metadata["request_id"]


def test_finals_cover_the_stream_without_overlap(server):
    with open_stream(server) as websocket:
        say(websocket, noise(4.0))
        messages = [m for m in close(websocket) if m.get("is_final")]
    at = 0.0
    for message in messages:
        assert message["start"] == pytest.approx(at, abs=2e-3)
        at = message["start"] + message["duration"]
    assert final_words(messages)[-1][2] - 2e-3 <= at <= 4.0


def test_words_in_progress_become_words(server):
    with open_stream(server, interim_results="true") as websocket:
        say(websocket, noise(4.0))
        messages = close(websocket)[:-1]
    before, seen = "", 0
    for message in messages:
        (alternative,) = message["channel"]["alternatives"]
        assert alternative["transcript"].split(" ")[0].startswith(before)
        before = "" if message["is_final"] else alternative["transcript"]
        seen += not message["is_final"]
    assert seen > 5


def test_words_come_while_the_stream_goes_on(server):
    with open_stream(server) as websocket:
        say(websocket, noise(4.0))
        assert json.loads(websocket.recv(timeout=60))["is_final"]
        say(websocket, noise(1.0))
        assert close(websocket)[-1]["duration"] == 5.0


@pytest.mark.parametrize("size", [1, 333, 10**6])
def test_messages_of_any_size(server, streaming_model, size):
    samples = noise(0.5 if size == 1 else 4.0)
    with open_stream(server) as websocket:
        say(websocket, samples, size)
        websocket.send(b"")
        websocket.send(b"a")  # half a sample
        messages = close(websocket)
    assert final_words(messages) == rounded(words_of(recognised(streaming_model, samples)))


def test_many_streams_at_once(server, streaming_model):
    """Their chunks share batches; none hears the others."""
    found = {}

    def listen(seed):
        with open_stream(server) as websocket:
            say(websocket, noise(3.0, seed), 3200)
            found[seed] = final_words(close(websocket))

    threads = [threading.Thread(target=listen, args=[seed]) for seed in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for seed in range(10):
        assert found[seed] == rounded(words_of(recognised(streaming_model, noise(3.0, seed))))


def test_a_streaming_model_transcribes_files_too(server, streaming_model):
    file = io.BytesIO()
    soundfile.write(file, noise(4.0), 16000, format="WAV")
    answer = server.post(file=file.getvalue(), model="stream")
    assert answer.json()["text"] == deepspeech2.load_model(streaming_model).transcribe(file).text


# --- wrong streams -------------------------------------------------------------------------------


@pytest.mark.parametrize(("query", "status"), [
    ({"encoding": "opus"}, 400), ({"sample_rate": 7999}, 400), ({"sample_rate": 48001}, 400),
    ({"sample_rate": "1e4"}, 400), ({"channels": 0}, 400), ({"channels": "9" * 5000}, 400),
    ({"interim_results": "perhaps"}, 400), ({"model": "nova-3"}, 404)])
def test_wrong_settings(server, query, status):
    with pytest.raises(InvalidStatus) as caught:
        open_stream(server, **query)
    assert caught.value.response.status_code == status
    error = json.loads(caught.value.response.body)["error"]
    assert error["param"] == next(iter(query))
    assert "allowed are" in error["message"] or "the only model" in error["message"]


def test_a_model_without_streams(tmp_path, capfd):
    """A refusal is no error of the service, and logged nowhere."""
    with service_process.service(tmp_path / "files") as running:
        with pytest.raises(InvalidStatus) as caught:
            open_stream(running)
        assert caught.value.response.status_code == 400
        assert json.loads(caught.value.response.body)["error"]["code"] == "no_streams"
        wait_for(running.is_idle)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
def test_pages_of_other_servers(server, origin):
    with pytest.raises(InvalidStatus) as caught:
        open_stream(server, {"origin": origin})
    assert caught.value.response.status_code == 403
    with open_stream(server, {"origin": server.url}) as websocket:
        close(websocket)


def test_the_key(strict):
    for headers, protocols in [({}, None), ({"authorization": "Token x"}, None),
                               ({}, ["token", "x"])]:
        with pytest.raises(InvalidStatus) as caught:
            open_stream(strict, headers, protocols)
        assert caught.value.response.status_code == 401
    for headers, protocols in [({"authorization": f"Token {KEY}"}, None), ({}, ["token", KEY])]:
        with open_stream(strict, headers, protocols) as websocket:
            assert websocket.subprotocol == (protocols and "token")
            close(websocket)


@pytest.mark.parametrize("text", ["", "a", "[]", "{", '{"type": "Configure"}', "[" * 50000])
def test_text_that_is_no_message(server, text):
    with open_stream(server) as websocket:
        say(websocket, noise(1.0))
        websocket.send(text)
        *_, error = results(websocket)
        assert error["type"] == "Error" and "KeepAlive or CloseStream" in error["description"]
        assert websocket.close_code == 1003


def locked_stream(strict, **query):
    return open_stream(strict, {"authorization": f"Bearer {KEY}"}, **query)


def test_a_message_that_is_too_long(strict):
    with locked_stream(strict) as websocket:
        websocket.send(b"\0" * 200_000)
        results(websocket)
        assert websocket.close_code == 1009
    wait_for(lambda: streams(strict) == 0)


def test_a_stream_that_says_nothing(strict):
    with locked_stream(strict) as websocket:
        *_, error = results(websocket)
        assert "neither audio nor KeepAlive" in error["description"]
        assert websocket.close_code == 1008


def test_keep_alive(strict):
    with locked_stream(strict) as websocket:
        for _ in range(12):
            websocket.send('{"type": "KeepAlive"}')
            threading.Event().wait(0.3)
        assert close(websocket)[-1]["type"] == "Metadata"
        assert websocket.close_code == 1000


@pytest.mark.parametrize("size", [10**5, 32])
def test_a_stream_that_is_too_long(strict, size):
    """By what was sent, and by the clock. What was said is answered."""
    seconds = 11.0 if size > 32 else 0.001
    with locked_stream(strict) as websocket:
        try:
            for _ in range(1 if size > 32 else 100):
                say(websocket, noise(11.0)[: round(seconds * 16000)], size)
                threading.Event().wait(0.0 if size > 32 else 0.2)
        except ConnectionClosed:
            pass
        *messages, error = results(websocket)
        assert "a stream lasts 10 s at most" in error["description"]
        assert messages[-1]["type"] == "Metadata" and websocket.close_code == 1008


def test_more_streams_than_allowed(strict):
    with locked_stream(strict) as first, locked_stream(strict):
        first.send('{"type": "KeepAlive"}')  # on a busy machine it is nearly idle for too long
        with pytest.raises(InvalidStatus) as caught:
            locked_stream(strict)
        assert caught.value.response.status_code == 503
        assert caught.value.response.headers["retry-after"] == "2"
    wait_for(lambda: streams(strict) == 0)
    with locked_stream(strict) as websocket:
        close(websocket)


def streams(running) -> float:
    text = httpx.get(f"{running.url}/metrics", headers={"authorization": f"Bearer {KEY}"}).text
    return float(text.split("\ndeepspeech2_streams_in_progress ")[1].split()[0])


def test_a_client_that_vanishes(server):
    websocket = open_stream(server)
    say(websocket, noise(4.0))
    websocket.socket.close()
    wait_for(server.is_idle)


def test_a_client_that_stops_reading(strict):
    """Its pings' answers fill all buffers; then it is given up."""
    with strict.connect() as connection:
        connection.sendall(
            b"GET /v1/listen HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
            b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
            b"Authorization: Bearer " + KEY.encode() + b"\r\n\r\n"
        )
        assert b" 101 " in connection.recv(100)
        ping = b"\x89\xfd\0\0\0\0" + b"a" * 125  # masked with zeros
        send_without_end(strict, connection, 100 * ping)
    wait_for(lambda: streams(strict) == 0)


def test_a_network_that_cannot_be_run(streaming_model, tmp_path):
    """The stream ends with a reason, the service says that it is not ready, and goes on."""
    broken = tmp_path / "broken.onnx"
    add_a_fault(streaming_model, broken)
    info = json.loads(streaming_model.with_suffix(".json").read_text())
    info["sha256"] = hashlib.sha256(broken.read_bytes()).hexdigest()
    broken.with_suffix(".json").write_text(json.dumps(info))
    with service_process.service(tmp_path / "files", broken) as running:
        with open_stream(running) as websocket:
            say(websocket, noise(1.0))
            *_, error = results(websocket)
            assert error == {"type": "Error", "description": "the stream could not be recognised"}
            assert websocket.close_code == 1011
        answer = httpx.get(f"{running.url}/ready", timeout=60)
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "model_failed"
        assert httpx.get(f"{running.url}/health").status_code == 200
        wait_for(running.is_idle)


def add_a_fault(source, target) -> None:
    """Write a model that can be loaded, and fails when it is run: its output has another size."""
    import onnx
    model = onnx.load(source)
    for node in model.graph.node:
        node.output[:] = ["whole" if name == "probs" else name for name in node.output]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([7, 11, 29]), "size"))
    model.graph.node.append(onnx.helper.make_node("Reshape", ["whole", "size"], ["probs"]))
    (output,) = (value for value in model.graph.output if value.name == "probs")
    output.type.tensor_type.ClearField("shape")
    for _ in range(3):
        output.type.tensor_type.shape.dim.add()
    output.type.tensor_type.shape.dim[2].dim_value = 29
    onnx.save(model, target)


# --- the end -------------------------------------------------------------------------------------


def test_a_stream_is_finished_when_the_service_stops(streaming_model, tmp_path):
    samples = noise(4.0)
    with service_process.service(tmp_path / "files", streaming_model) as running:
        with open_stream(running) as websocket:
            say(websocket, samples)
            messages = [json.loads(websocket.recv(timeout=60))]
            wait_for(lambda: running.metric("deepspeech2_audio_seconds_total") >= 4.0)
            ending = threading.Thread(target=running.stop)
            ending.start()
            messages += results(websocket)
            assert websocket.close_code == 1001
            ending.join()
        assert running.process.returncode == 143
    assert final_words(messages) == rounded(words_of(recognised(streaming_model, samples)))
    assert [m["type"] for m in messages[-2:]] == ["Metadata", "Error"]
