"""What `deploy/` has: a real nginx before a real service, and what the Dockerfile names."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import zipfile

import httpx
import numpy as np
import pytest
import service_process
import soundfile
from conftest import ROOT, voice
from service_process import TRANSCRIPTIONS, form_body, form_head, wait_for
from websockets.sync.client import connect

import deepspeech2
from deepspeech2 import cli

KEY = "0123456789abcdef"
NAME = "speech.example.org"
SECRET = {"authorization": f"Bearer {KEY}"}
DEPLOY = ROOT / "deploy"

# --- nginx ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def service(streaming_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    with service_process.service(folder, streaming_model, key=KEY) as running:
        yield running


@pytest.fixture(scope="module")
def proxy(service, tmp_path_factory):
    """The address of an nginx with the sample, but for ports, certificate and folders."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if not program:
        pytest.skip("nginx is needed: apt-get install nginx-light")
    folder = tmp_path_factory.mktemp("nginx")
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as two:
        plain, port = (it.getsockname()[1] for it in (one, two))
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
                    "-subj", f"/CN={NAME}", "-keyout", folder / "a.key", "-out", folder / "a.pem"],
                   check=True, capture_output=True)
    sample = (DEPLOY / "nginx.conf").read_text()
    for old, new in (("listen 80;", f"listen 127.0.0.1:{plain};"),
                     ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
                     ("127.0.0.1:8000;", f"127.0.0.1:{service.address[1]};"),
                     ("/etc/ssl/speech.example.org", str(folder / "a"))):
        assert old in sample
        sample = sample.replace(old, new)
    user = "user root;" if os.getuid() == 0 else ""
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in (
        "client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"daemon off; {user} pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log off; {temporary}\n{sample} }}")
    process = subprocess.Popen([program, "-p", folder, "-c", folder / "nginx.conf"],
                               stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: process.poll() is not None or is_open(port))
        assert process.poll() is None, process.stderr.read()
        yield port, plain
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        process.stderr.close()


def is_open(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@pytest.fixture
def client(proxy):
    headers = {**SECRET, "host": f"{NAME}:{proxy[0]}"}
    with httpx.Client(base_url=f"https://127.0.0.1:{proxy[0]}", verify=False, headers=headers,
                      timeout=60) as it:
        yield it


def unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def recording(seconds: float) -> bytes:
    """A FLAC file with a second of speech every four seconds."""
    rate = 16000
    samples = 1e-4 * np.random.default_rng(0).standard_normal(round(seconds * rate))
    for at in range(rate, len(samples) - rate, 4 * rate):
        samples[at : at + rate] += voice(rate)
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def test_the_page_and_a_recording(client, proxy, streaming_model):
    assert "<title>Speech to text</title>" in client.get("/").text
    content = recording(9)
    text = deepspeech2.load_model(streaming_model).transcribe(io.BytesIO(content)).text
    def ask(origin):
        return client.post(TRANSCRIPTIONS, data={"model": "stream"}, files={"file": content},
                           headers={"origin": origin})
    assert ask(f"https://{NAME}:{proxy[0]}").json()["text"] == text != ""
    assert ask("https://evil.example").status_code == 403
    answer = httpx.get(f"http://127.0.0.1:{proxy[1]}/a", headers={"host": NAME})
    assert (answer.status_code, answer.headers["location"]) == (301, f"https://{NAME}/a")


def test_the_service_refuses_what_is_too_long(proxy):
    """Not nginx, whose answer is a page of its own."""
    head = form_head(257 * 10**6).replace(
        b"\r\nHost", f"\r\nAuthorization: Bearer {KEY}\r\nHost".encode(), 1)
    plain = socket.create_connection(("127.0.0.1", proxy[0]), timeout=60)
    with unverified().wrap_socket(plain) as connection:
        connection.sendall(head)
        answer = service_process.answer_of(connection)
    assert answer.startswith(b"HTTP/1.1 413 ") and b'"code":"too_large"' in answer


def test_a_recording_goes_on_while_it_comes(proxy, service):
    body = form_body(recording(2), model="stream")
    head = form_head(len(body)).replace(
        b"\r\nHost", f"\r\nAuthorization: Bearer {KEY}\r\nHost".encode(), 1)
    plain = socket.create_connection(("127.0.0.1", proxy[0]), timeout=60)
    with unverified().wrap_socket(plain) as connection:
        connection.sendall(head + body[:100])
        wait_for(lambda: under_way(service) == 1)
        connection.sendall(body[100:])
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")


def under_way(service) -> float:
    text = httpx.get(f"{service.url}/metrics", headers=SECRET).text
    return float(re.search(r"^deepspeech2_requests_in_progress (\S+)$", text, re.MULTILINE)[1])


def test_words_come_while_the_recording_is_recognised(client):
    fields = {"data": {"model": "stream", "stream": "true"}, "files": {"file": recording(200)}}
    with client.stream("POST", TRANSCRIPTIONS, **fields) as answer:
        parts = list(answer.iter_raw())
    assert b"transcript.text.delta" in parts[0] and b"transcript.text.done" not in parts[0]
    assert b"transcript.text.done" in b"".join(parts)


def test_streams(proxy, streaming_model):
    samples = (20000 * voice(4 * 16000)).astype("<i2")
    session = deepspeech2.load_model(streaming_model).stream(16000)
    session.feed(samples)
    session.finish()
    plain = socket.create_connection(("127.0.0.1", proxy[0]), timeout=60)
    with connect(f"wss://{NAME}:{proxy[0]}/v1/listen", sock=plain, ssl=unverified(),
                 additional_headers=SECRET, origin=f"https://{NAME}:{proxy[0]}") as websocket:
        for at in range(0, len(samples), 1600):
            websocket.send(samples[at : at + 1600].tobytes())
        websocket.send('{"type": "CloseStream"}')
        messages = [json.loads(text) for text in websocket]
        assert websocket.close_code == 1000
    found = [m["channel"]["alternatives"][0]["transcript"] for m in messages
             if m["type"] == "Results"]
    assert " ".join(filter(None, found)) == session.transcript.text != ""


# --- the Dockerfile ------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", "")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines()
            if line and not line.startswith("#")]


def values(name: str) -> list[str]:
    return [value for instruction, value in instructions() if instruction == name]


def test_the_dockerfile_starts_the_service_as_nobody_with_a_key(capsys, monkeypatch):
    (entry,), (command,) = values("ENTRYPOINT"), values("CMD")
    program, *arguments = json.loads(entry) + json.loads(command)
    assert program == "deepspeech2"
    options = cli.parser().parse_args(arguments)
    assert (options.command, options.host, options.model) == ("serve", "0.0.0.0", "english")
    monkeypatch.setattr(cli, "load_model", lambda *_: pytest.fail("it needs no key"))
    assert cli.main(arguments) == 2  # there is no key here
    assert f"--key_file {options.key_file}: cannot read the key" in capsys.readouterr().err
    assert values("USER") == ["10001:10001"] and values("EXPOSE") == [str(options.port)]


def test_the_health_check_of_the_dockerfile(service):
    (check,) = values("HEALTHCHECK")
    program, option, code = json.loads(check[check.index("[") :])
    assert program == "python" and ":8000/health" in code
    def run(address):
        ours = code.replace("127.0.0.1:8000", address)
        done = subprocess.run([sys.executable, option, ours], capture_output=True, check=False)
        return done.returncode
    assert run(service.url.removeprefix("http://")) == 0
    assert run("127.0.0.1:1") != 0


def test_the_wheel_has_the_page_and_the_model(tmp_path):
    """Made of the files that the Dockerfile copies."""
    for names in values("COPY"):
        if not names.startswith("--from"):
            *sources, target = names.split()
            for source in sources:
                (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(
                    ROOT / source, tmp_path / (source if target == "./" else target))
    code = "import setuptools.build_meta as make; make.build_wheel('.')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    folder = ROOT / "deepspeech2"
    ours = {path.relative_to(ROOT).as_posix() for part in ("assets", "assets/lm", "service/web")
            for path in (folder / part).iterdir() if path.is_file() and path.suffix != ".cache"}
    assert len(ours) > 6 and ours <= names
