"""A real service in a process of its own, and clients that misbehave."""

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from conftest import ROOT, heed_signals

PATIENCE = 60.0  # seconds after which a test gives up
TRANSCRIPTIONS = "/v1/audio/transcriptions"

_CODE = """
import json, sys
from deepspeech2 import commands, load_model
from deepspeech2.service import server
from deepspeech2.service.limits import Limits

path, key, origins, limits = json.loads(sys.argv[1])
def serve():
    listening = server.listening_socket("127.0.0.1", 0, key)
    name = path.rsplit("/", 1)[-1].removesuffix(".onnx")
    return server.serve(load_model(path), name, listening, key, origins, Limits(**limits))
sys.exit(commands.run(serve))
"""


@dataclass
class ServiceProcess:
    """A service that runs.

    Attributes:
        process: its process.
        url: its address.
        files: the folder in which it may keep files.
    """

    process: subprocess.Popen
    url: str
    files: Path

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)

    def connect(self) -> socket.socket:
        """A connection that waits for a while at most."""
        return socket.create_connection(self.address, timeout=PATIENCE)

    def post(self, **fields) -> httpx.Response:
        """Send a form with the model `an4`; `file` is the content of the recording."""
        file = fields.pop("file")
        data = {"model": "an4", **fields}
        return httpx.post(
            self.url + TRANSCRIPTIONS, data=data, files={"file": ("a", file)}, timeout=PATIENCE
        )

    def metric(self, name: str) -> float:
        """The sum of the samples of a metric."""
        text = httpx.get(f"{self.url}/metrics", timeout=PATIENCE).text
        found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, found))

    def sample(self, name: str) -> float:
        """One sample, named with its labels; 0 where it is not there yet."""
        text = httpx.get(f"{self.url}/metrics", timeout=PATIENCE).text
        found = [line.rpartition(" ") for line in text.splitlines()]
        return sum(float(value) for named, _, value in found if named == name)

    def holds(self, connection: socket.socket) -> bool:
        """Whether the service has not given a connection up; the client may hear of it later."""
        port, established = f":{connection.getsockname()[1]:04X}", "01"
        lines = Path(f"/proc/{self.process.pid}/net/tcp").read_text().splitlines()
        remotes = [line.split()[2:4] for line in lines[1:]]
        return any(to.endswith(port) and state == established for to, state in remotes)

    def is_idle(self) -> bool:
        """Whether nothing is under way, and no file is left."""
        open_files = os.listdir(f"/proc/{self.process.pid}/fd")
        links = []
        for number in open_files:
            with contextlib.suppress(OSError):
                links.append(os.readlink(f"/proc/{self.process.pid}/fd/{number}"))
        return (
            self.metric("deepspeech2_requests_in_progress") == 0
            and self.metric("deepspeech2_streams_in_progress") == 0
            and not any(str(self.files) in link for link in links)
            and not list(self.files.iterdir())
        )

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@contextlib.contextmanager
def service(
    folder: Path, model: str = "an4", key: str = "", origins: tuple[str, ...] = (), **limits
) -> Iterator[ServiceProcess]:
    """Run a service with other limits than usual."""
    arguments = json.dumps([str(model), key, origins, limits])
    with started([sys.executable, "-c", _CODE, arguments], folder) as running:
        yield running


@contextlib.contextmanager
def started(command: list[str], folder: Path) -> Iterator[ServiceProcess]:
    """Run the command of a service that says where it listens."""
    folder.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=heed_signals,
    )
    try:
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
        line = process.stdout.readline() if ready else ""
        assert line.startswith("listening on http://"), line
        yield ServiceProcess(process, line.split()[-1], folder)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something is true, for a while at most."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never became true"
        time.sleep(0.05)


def answer_of(connection: socket.socket) -> bytes:
    """All bytes until the service closes a connection."""
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def send_without_end(running: ServiceProcess, connection: socket.socket, content: bytes) -> None:
    """Send something again and again, read nothing, and wait until the service gives up."""
    connection.settimeout(3.0)  # then all buffers are full
    with contextlib.suppress(ConnectionError, TimeoutError):
        while True:
            connection.sendall(content)
    wait_for(lambda: not running.holds(connection))


def form_head(length: int | None, boundary: str = "x") -> bytes:
    """The header of a request with a form of `length` bytes; None for a chunked one."""
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return (
        f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nHost: 127.0.0.1\r\n{size}\r\n"
        f"Content-Type: multipart/form-data; boundary={boundary}\r\n\r\n"
    ).encode()


def form_body(file: bytes, boundary: str = "x", model: str = "an4") -> bytes:
    """A form with a model and a file."""
    field = f"--{boundary}\r\nContent-Disposition: form-data; name="
    return (
        f'{field}"model"\r\n\r\n{model}\r\n{field}"file"; filename="../../a.wav"\r\n\r\n'.encode()
        + file
        + f"\r\n--{boundary}--\r\n".encode()
    )
