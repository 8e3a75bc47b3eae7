"""The service, over real connections: OpenAI's client, and clients that misbehave."""

import io
import json
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import openai
import pytest
import service_process
import soundfile
from conftest import ROOT, voice
from service_process import (
    TRANSCRIPTIONS,
    answer_of,
    form_body,
    form_head,
    send_without_end,
    wait_for,
)

import deepspeech2
from deepspeech2 import cli

KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The command with its own limits."""
    command = [sys.executable, "-m", "deepspeech2", "serve", "an4", "--port", "0"]
    with service_process.started(command, tmp_path_factory.mktemp("files")) as running:
        yield running


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A service with low limits for what it takes."""
    with service_process.service(
        tmp_path_factory.mktemp("files"),
        upload_bytes=1_000_000,
        audio_seconds=60.0,
        connections=150,
    ) as running:
        yield running


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    """A service that does not wait for slow clients."""
    with service_process.service(
        tmp_path_factory.mktemp("files"),
        header_seconds=1.0,
        body_seconds=1.0,
        write_seconds=1.0,
    ) as running:
        yield running


@pytest.fixture(scope="module")
def model():
    return deepspeech2.load_model("an4")


@pytest.fixture
def client(server):
    return openai.OpenAI(api_key="none", base_url=f"{server.url}/v1", max_retries=0)


def speech(seconds: float = 9.0) -> np.ndarray:
    """Sounds like speech with long pauses between them."""
    rng, rate = np.random.default_rng(0), 16000
    samples = 1e-4 * rng.standard_normal(round(seconds * rate))
    for start in range(rate, len(samples) - rate, 4 * rate):
        samples[start : start + rate] += (1 + start / len(samples)) * voice(rate)
    return samples.astype(np.float32)


def encoded(samples: np.ndarray, form: str = "FLAC") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 16000, format=form, subtype="PCM_16")
    return file.getvalue()


@pytest.fixture(scope="module")
def recording() -> bytes:
    return encoded(speech())


@pytest.fixture(scope="module")
def expected(model, recording):
    return model.transcribe(io.BytesIO(recording))


# --- OpenAI's client -----------------------------------------------------------------------------


def ask(client, recording, **options):
    return client.audio.transcriptions.create(model="an4", file=("a.flac", recording), **options)


def test_texts(client, recording, expected):
    assert len(expected.segments) > 1
    assert ask(client, recording).text == expected.text
    assert ask(client, recording, response_format="text") == f"{expected.text}\n"


def test_subtitles(client, recording, expected):
    from deepspeech2.writers import Layout, to_srt, to_vtt
    assert ask(client, recording, response_format="srt") == to_srt(expected, Layout())
    assert ask(client, recording, response_format="vtt") == to_vtt(expected, Layout())


def test_times_of_words_and_segments(client, recording, expected):
    result = ask(client, recording, response_format="verbose_json",
                 timestamp_granularities=["word", "segment"])
    assert (result.text, result.duration) == (expected.text, expected.duration)
    words = expected.words
    assert [w.word for w in result.words] == [w.word for w in words]
    assert [w.start for w in result.words] == pytest.approx([w.start for w in words], abs=1e-3)
    assert [w.end for w in result.words] == pytest.approx([w.end for w in words], abs=1e-3)
    assert [w.probability for w in result.words] == pytest.approx(
        [w.probability for w in words], abs=1e-3)
    assert [s.text for s in result.segments] == [s.text for s in expected.segments]
    assert [np.exp(s.avg_logprob) for s in result.segments] == pytest.approx(
        [s.probability for s in expected.segments], abs=1e-3)
    assert ask(client, recording, response_format="verbose_json").words is None


def test_text_comes_while_the_recording_is_recognised(client, recording, expected):
    *deltas, done = ask(client, recording, stream=True)
    assert [event.type for event in deltas] == ["transcript.text.delta"] * len(expected.segments)
    assert "".join(event.delta for event in deltas) == done.text == expected.text
    assert done.type == "transcript.text.done"


def test_models(client):
    assert [m.id for m in client.models.list()] == ["an4"]
    with pytest.raises(openai.NotFoundError, match="'whisper-1': the only model here is 'an4'"):
        client.audio.transcriptions.create(model="whisper-1", file=b"")


@pytest.mark.parametrize("stream", [False, True])
def test_a_recording_that_is_none(client, stream):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, b"<!doctype html><title>a</title>" * 99, stream=stream)
    assert (caught.value.code, caught.value.param) == ("invalid_audio", "file")
    assert caught.value.type == "invalid_request_error"
    assert "cannot read the audio" in caught.value.message


def test_real_speech(client, shared):
    """What the command line says, the service says."""
    path = next((shared / "data" / "an4" / "wav").rglob("*.flac"))
    text = deepspeech2.load_model("an4").transcribe(path).text
    assert text and ask(client, path.read_bytes()).text == text


# --- other endpoints -----------------------------------------------------------------------------


def test_health_and_readiness(server):
    for path in ("health", "ready"):
        assert httpx.get(f"{server.url}/{path}", timeout=60).status_code == 200


def test_metrics(server, recording):
    before = server.metric("deepspeech2_audio_seconds_total")
    answers, times = (f"deepspeech2_{name}" for name in (
        'requests_total{path="/v1/audio/transcriptions",status="200"}',
        'request_seconds_count{path="/v1/audio/transcriptions"}'))
    counted = [server.sample(answers), server.sample(times)]
    assert server.post(file=recording).status_code == 200
    assert server.metric("deepspeech2_audio_seconds_total") > before
    assert [server.sample(answers), server.sample(times)] == [count + 1 for count in counted]
    assert server.sample("deepspeech2_queue_length") == 0
    assert server.metric("deepspeech2_batch_size_count") > 0
    assert server.metric("process_resident_memory_bytes") > 1e7


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/nothing", 404), ("POST", "/", 405), ("GET", "/v1/audio/transcriptions", 405),
    ("POST", "/health", 405)])
def test_unknown_endpoints(server, method, path, status):
    answer = httpx.request(method, server.url + path)
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_answers_let_no_page_do_anything(server):
    headers = httpx.get(f"{server.url}/health").headers
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["x-content-type-options"] == "nosniff"
    assert "server" not in headers and "access-control-allow-origin" not in headers


# --- wrong requests ------------------------------------------------------------------------------


@pytest.mark.parametrize(("fields", "param", "message"), [
    ({"response_format": "xml"}, "response_format", "allowed are json, text, srt"),
    ({"timestamp_granularities[]": "letter"}, "timestamp_granularities[]", "allowed are word"),
    ({"stream": "maybe"}, "stream", "allowed are true, false"),
    ({"stream": "true", "response_format": "srt"}, "response_format", "allowed are json, text"),
    ({"temprature": "0"}, "temprature", "unknown")])
def test_wrong_fields(server, recording, fields, param, message):
    answer = server.post(file=recording, **fields)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == param and message in error["message"]


@pytest.mark.parametrize("content", [
    b"", b"\0", b"RIFF", encoded(speech())[:-3000], encoded(np.zeros(0, np.float32), "WAV")],
    ids=["nothing", "one byte", "the beginning", "cut", "no samples"])
def test_files_that_are_no_recordings(server, content):
    answer = server.post(file=content)
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_audio"


@pytest.mark.parametrize(("kind", "body", "code"), [
    ("application/json", b'{"model": "an4"}', "no_form"),
    ("", b"", "no_form"),
    ("multipart/form-data", b"", "bad_form"),
    ("multipart/form-data; boundary=x", b"", "missing_file"),
    ("multipart/form-data; boundary=x", b"--y--\r\n", "bad_form"),
    ("multipart/form-data; boundary=x", b"\0" * 100000, "bad_form"),
    ("multipart/form-data; boundary=x", form_body(b"a" * 99)[:-20], "missing_file"),
    ("multipart/form-data; boundary=x",
     b"--x\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n" + b"a" * 10**6, "bad_form"),
    ("multipart/form-data; boundary=x", b"".join(
        b"--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n\r\n" for _ in range(99)),
     "bad_form")])
def test_bodies_that_are_no_forms(server, kind, body, code):
    answer = httpx.post(server.url + TRANSCRIPTIONS, content=body, headers={"content-type": kind})
    assert answer.status_code == 400 and answer.json()["error"]["code"] == code


def test_two_files(server, recording):
    files = [("file", ("a", recording)), ("file", ("b", recording))]
    answer = httpx.post(server.url + TRANSCRIPTIONS, data={"model": "an4"}, files=files)
    assert answer.status_code == 400 and "Too many files" in answer.json()["error"]["message"]
    wait_for(server.is_idle)


def test_the_name_of_a_file_is_not_used(server, recording):
    for name in ("../../a.wav", "/etc/passwd", "a.raw", "a\0b", "ü" * 999):
        files = {"file": (name, recording)}
        answer = httpx.post(server.url + TRANSCRIPTIONS, data={"model": "an4"}, files=files)
        assert answer.status_code == 200
    wait_for(server.is_idle)


# --- too much, too slow --------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_long(small, chunked):
    """The client gets the answer although it is still sending."""
    body = form_body(b"\0" * 20_000_000)
    content = iter([body[at : at + 100_000] for at in range(0, len(body), 100_000)])
    answer = httpx.post(
        small.url + TRANSCRIPTIONS,
        content=content if chunked else body,
        headers={"content-type": "multipart/form-data; boundary=x"},
        timeout=60,
    )
    assert answer.status_code == 413 and answer.json()["error"]["code"] == "too_large"
    wait_for(small.is_idle)


def test_ten_minutes_of_silence_in_a_small_file(small):
    bomb = encoded(np.zeros(600 * 16000, np.float32))
    assert len(bomb) < 100_000
    streamed = bytearray(bomb)  # as programs write it that do not know how long it will be
    streamed[21] &= 0xF0
    streamed[22:26] = bytes(4)
    for content in (bomb, bytes(streamed)):
        answer = small.post(file=content)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "audio_too_long"
    ogg = io.BytesIO()
    soundfile.write(ogg, np.zeros(100 * 48000, np.float32), 48000, format="OGG", subtype="OPUS")
    assert small.post(file=ogg.getvalue()).json()["error"]["code"] == "audio_too_long"
    assert small.post(file=encoded(speech(50))).status_code == 200
    wait_for(small.is_idle)


@pytest.mark.parametrize("begun", [b"", b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: "])
def test_a_slow_header(strict, begun):
    with strict.connect() as connection:
        connection.sendall(begun)
        assert answer_of(connection) == b""


def test_a_header_that_comes_a_byte_at_a_time(strict):
    with strict.connect() as connection, pytest.raises(ConnectionError):
        for _ in range(600):
            connection.sendall(b"G")
            time.sleep(0.1)


def test_a_header_that_is_too_long(server):
    """The server reads it in one go: of a longer one, the rest would reset the connection."""
    with server.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\na: " + b"a" * 20_000)
        assert answer_of(connection)[:12] == b"HTTP/1.1 400"
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_options_become_limits_and_origins(monkeypatch):
    called = []
    monkeypatch.setattr("deepspeech2.service.server.serve", lambda *a: called.append(a) or 0)
    assert cli.main(["serve", "an4", "--port", "0", "--max_megabytes", "1", "--max_minutes", "2",
                     "--allow_origin", "https://a, https://b"]) == 0
    ((_, name, _, key, origins, limits),) = called
    assert (name, key, origins) == ("an4", "", ["https://a", "https://b"])
    assert (limits.upload_bytes, limits.audio_seconds, limits.session_seconds) == (10**6, 120, 120)


@pytest.mark.parametrize("length", [1000, None])
@pytest.mark.parametrize("begun", [b"", b"--x\r\nContent-"])
def test_a_slow_body(strict, length, begun):
    with strict.connect() as connection:
        chunk = begun if length else f"{len(begun):x}\r\n".encode() + begun + b"\r\n"
        connection.sendall(form_head(length) + (chunk if begun else b""))
        head, _, content = answer_of(connection).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ") and b"too_slow" in content
    wait_for(strict.is_idle)


def test_a_body_that_comes_a_byte_at_a_time(strict):
    with strict.connect() as connection:
        connection.sendall(form_head(100_000) + form_body(b"")[:-20])
        connection.settimeout(0.1)
        answer = b""
        for _ in range(600):
            try:
                connection.sendall(b"a")
                answer = connection.recv(65536)
                break
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 408 ")
    wait_for(strict.is_idle)


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "1e3", "1, 2"])
def test_a_length_that_is_none(small, length):
    with small.connect() as connection:
        connection.sendall(form_head(77).replace(b" 77", b" " + length.encode()))
        assert answer_of(connection)[:12] == b"HTTP/1.1 400"


def test_a_client_that_stops_reading(strict):
    """Its answers fill all buffers; then it is given up."""
    question = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with strict.connect() as connection:
        send_without_end(strict, connection, 100 * question)
    assert httpx.get(f"{strict.url}/health").status_code == 200


def test_a_client_that_vanishes_while_it_sends(small):
    with small.connect() as connection:
        connection.sendall(form_head(300_000) + form_body(b"a" * 100_000)[:-20])
    wait_for(small.is_idle)


@pytest.mark.parametrize("stream", ["false", "true"])
def test_a_client_that_vanishes_while_it_waits(server, stream):
    """Its recording is not recognised to the end."""
    recognised = server.metric("deepspeech2_audio_seconds_total")
    gone = 'deepspeech2_requests_total{path="/v1/audio/transcriptions",status="499"}'
    left = server.sample(gone)
    field = b'--x\r\nContent-Disposition: form-data; name="stream"\r\n\r\n' + stream.encode()
    body = field + b"\r\n" + form_body(encoded(voice(1200 * 16000)))
    with server.connect() as connection:
        connection.sendall(form_head(len(body)) + body)
        wait_for(lambda: server.metric("deepspeech2_audio_seconds_total") > recognised)
    wait_for(server.is_idle)
    assert server.metric("deepspeech2_audio_seconds_total") < recognised + 600
    assert server.sample(gone) == left + 1


# --- many clients --------------------------------------------------------------------------------


def test_a_short_recording_does_not_wait_for_a_long_one(server, recording, expected):
    recognised = server.metric("deepspeech2_audio_seconds_total")
    body = form_body(encoded(voice(1200 * 16000)))
    with server.connect() as long:
        long.sendall(form_head(len(body)) + body)
        wait_for(lambda: server.metric("deepspeech2_audio_seconds_total") > recognised)
        assert server.post(file=recording).json()["text"] == expected.text
        assert server.metric("deepspeech2_requests_in_progress") == 1  # the long one
    wait_for(server.is_idle)


def test_a_hundred_connections_that_do_nothing(small):
    connections = [small.connect() for _ in range(100)]
    assert small.post(file=encoded(speech(3))).status_code == 200
    for connection in connections:
        assert answer_of(connection) == b""
        connection.close()


def test_more_connections_than_allowed(tmp_path):
    """Those that are there stay; another one is closed at once, and room is made by leaving."""
    with service_process.service(
        tmp_path / "files", connections=3, header_seconds=600.0
    ) as running:
        connections = [running.connect() for _ in range(3)]
        for connection in connections:  # a connection counts when the service has taken it
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        with running.connect() as fourth:
            assert answer_of(fourth) == b""
        assert all(running.holds(connection) for connection in connections)
        for connection in connections:
            connection.shutdown(socket.SHUT_RDWR)
        wait_for(lambda: not any(running.holds(connection) for connection in connections))
        for connection in connections:
            connection.close()
        assert running.post(file=encoded(speech(3))).status_code == 200


def test_a_hundred_clients_at_once(server, expected, recording):
    """Each gets the text, or is told when to come again; OpenAI's client comes again by itself."""
    with ThreadPoolExecutor(100) as threads:
        answers = list(threads.map(lambda _: server.post(file=recording), range(100)))
    served = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 503]
    assert served and len(served) + len(refused) == 100
    assert {answer.json()["text"] for answer in served} == {expected.text}
    assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
    wait_for(server.is_idle)


def test_more_recordings_than_allowed(tmp_path, recording, expected):
    with service_process.service(tmp_path / "files", requests=1) as running:
        with running.connect() as slow:
            slow.sendall(form_head(1000))
            wait_for(lambda: running.metric("deepspeech2_requests_in_progress") == 1)
            answer = running.post(file=recording)
            assert answer.status_code == 503 and answer.headers["retry-after"] == "2"
            assert answer.json()["error"]["type"] == "server_error"
        client = openai.OpenAI(api_key="none", base_url=f"{running.url}/v1", max_retries=9)
        assert ask(client, recording).text == expected.text


# --- who may ask ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    """A service with a key, which pages of one other server may use."""
    with service_process.service(
        tmp_path_factory.mktemp("files"), key=KEY, origins=("https://example.org",)
    ) as running:
        yield running


def test_the_key(locked, recording, expected):
    client = openai.OpenAI(api_key=KEY, base_url=f"{locked.url}/v1", max_retries=0)
    assert ask(client, recording).text == expected.text
    for wrong in (KEY[:-1], KEY + "a", "ü" * 16):
        header = {"authorization": f"Bearer {wrong}".encode()}
        for path in ("/v1/models", "/metrics", "/nothing"):
            answer = httpx.get(locked.url + path, headers=header)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
    for path in ("/health", "/ready"):
        assert httpx.get(locked.url + path, timeout=60).status_code == 200


def test_a_wrong_key_is_refused_before_the_body_is_read(locked):
    with locked.connect() as connection:
        connection.sendall(form_head(10**9) + b"--x")
        connection.settimeout(30)
        assert connection.recv(100).startswith(b"HTTP/1.1 401 ")


def test_pages_of_other_servers(server, locked):
    def status(running, origin):
        headers = {"origin": origin, "authorization": f"Bearer {KEY}"}
        return httpx.get(f"{running.url}/v1/models", headers=headers).status_code
    for running in (server, locked):
        assert status(running, running.url) == 200
        for origin in ("https://evil.example", "null", "http://127.0.0.1", "x"):
            assert status(running, origin) == 403
    assert status(server, "https://example.org") == 403
    assert status(locked, "https://example.org") == 200


def test_an_allowed_page_reads_the_answer(locked):
    headers = {"origin": "https://example.org", "access-control-request-method": "POST",
               "access-control-request-headers": "authorization"}
    answer = httpx.options(locked.url + TRANSCRIPTIONS, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://example.org"
    answer = httpx.options(locked.url + TRANSCRIPTIONS, headers={**headers, "origin": "https://x"})
    assert answer.status_code == 400


@pytest.mark.parametrize(("host", "status"), [
    ("localhost", 200), ("localhost:80", 200), ("[::1]:8000", 200), ("127.0.0.1", 200),
    ("evil.example", 403), ("127.0.0.1.evil.example", 403), ("localhost.evil.example", 403)])
def test_a_name_that_leads_here_is_none_of_ours(server, host, status):
    """A page whose server names its address 127.0.0.1 is of the same origin."""
    assert httpx.get(f"{server.url}/health", headers={"host": host}).status_code == status


@pytest.mark.parametrize(("options", "message"), [
    (["--host", "0.0.0.0"], "--host 0.0.0.0: whoever reaches this address could use the service"),
    (["--host", "no.such.host.invalid"], "cannot listen there"),
    (["--host", "ü" * 99], "cannot listen there"),
    (["--port", "65536"], "--port 65536: a port is a number from 0 to 65535"),
    (["--port", "-1"], "--port -1: a port is a number from 0 to 65535"),
    (["--key_file", "no_such_file"], "--key_file no_such_file: cannot read the key"),
    (["--key_file", "README.md"], "the key must be one line of 16 or more")])
def test_wrong_options(options, message, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert cli.main(["serve", "an4", *options]) == 2
    assert message in capsys.readouterr().err


def test_a_port_that_is_taken(server, capsys):
    assert cli.main(["serve", "an4", "--port", str(server.address[1])]) == 2
    assert "cannot listen there: Address already in use" in capsys.readouterr().err


# --- the end -------------------------------------------------------------------------------------


def is_ready(running) -> bool:
    try:
        return httpx.get(f"{running.url}/ready").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_what_is_under_way_is_finished(tmp_path, recording, expected, number, code):
    body = form_body(recording)
    with service_process.service(tmp_path / "files") as running:
        with running.connect() as begun, running.connect():
            begun.sendall(form_head(len(body)) + body[:1000])
            wait_for(lambda: running.metric("deepspeech2_requests_in_progress") == 1)
            ending = threading.Thread(target=running.stop, args=[number])
            ending.start()
            wait_for(lambda: not is_ready(running))  # the signal comes first
            begun.sendall(body[1000:])
            head, _, content = answer_of(begun).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert json.loads(content)["text"] == expected.text
            ending.join()
        assert running.process.returncode == code
        assert not list(running.files.iterdir())


def test_what_does_not_end_is_given_up(tmp_path):
    """The one has hours for its body, and the other is long."""
    with service_process.service(
        tmp_path / "files", stop_seconds=1.0, body_seconds=3600.0
    ) as running:
        body = form_body(encoded(voice(1200 * 16000)))
        with running.connect() as slow, running.connect() as long:
            slow.sendall(form_head(1000))
            long.sendall(form_head(len(body)) + body)
            wait_for(lambda: running.metric("deepspeech2_audio_seconds_total") > 0)
            assert running.stop() == 143
        assert not list(running.files.iterdir())
