"""Run the service until a signal stops it."""

import asyncio
import contextlib
import ipaddress
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from deepspeech2.errors import InputError
from deepspeech2.model import Model
from deepspeech2.service.app import Service
from deepspeech2.service.connections import protocols
from deepspeech2.service.limits import Limits
from deepspeech2.service.metrics import Metrics
from deepspeech2.service.recogniser import Recogniser
from deepspeech2.stopping import StopRequests

_STREAMS_SHARE = 0.5  # of the time to stop, for streams
_OVERTIME = 2.0  # seconds for the threads to end
_HEADER_BYTES = 16 << 10


def read_key(path: str) -> str:
    """The key in a file; empty without a path. Raises InputError for a file without one."""
    if not path:
        return ""
    try:
        key = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--key_file {path}: cannot read the key: {reason}") from None
    if not key.isprintable() or not key.isascii() or " " in key or len(key) < 16:
        raise InputError(
            f"--key_file {path}: the key must be one line of 16 or more ASCII characters without "
            "spaces, as from: openssl rand -hex 32"
        )
    return key


def listening_socket(host: str, port: int, key: str) -> socket.socket:
    """A socket that listens. Raises InputError for a host that needs a key, or cannot be used."""
    if not 0 <= port <= 65535:  # getaddrinfo takes the rest of larger ones
        raise InputError(f"--port {port}: a port is a number from 0 to 65535")
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, _, _, _, address = addresses[0]
        if not key and not ipaddress.ip_address(address[0].split("%")[0]).is_loopback:
            raise InputError(
                f"--host {host}: whoever reaches this address could use the service: give it a key "
                "with --key_file"
            )
        return socket.create_server(address, family=family, backlog=256)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--host {host} --port {port}: cannot listen there: {reason}") from None


def serve(
    model: Model,
    name: str,
    listening: socket.socket,
    key: str = "",
    origins: Sequence[str] = (),
    limits: Limits | None = None,
) -> int:
    """Serve a model until a signal asks to stop; what is under way is finished before.

    Args:
        model: the model.
        name: what clients call it.
        listening: where to accept connections.
        key: what clients must show; empty for none.
        origins: web pages of other servers that may ask.
        limits: see `Limits`.

    Returns:
        The exit code, 128 + the number of the signal.
    """
    limits = limits or Limits()
    recogniser = Recogniser(model, name, limits, Metrics())
    return asyncio.run(_serve(recogniser, listening, key, origins))


async def _serve(
    recogniser: Recogniser, listening: socket.socket, key: str, origins: Sequence[str]
) -> int:
    service = Service(recogniser, key, origins)
    server = _Server(_config(service, recogniser.limits))
    stopping = _Stop(server, recogniser)
    with StopRequests(stopping.begin, stopping.is_overdue) as stop:
        await server.serve([listening])
        await asyncio.to_thread(service.close)
    return 128 + stop.number


def _config(service: Service, limits: Limits) -> uvicorn.Config:
    http, websocket = protocols(limits)
    return uvicorn.Config(
        service.app,
        http=http,
        ws=websocket,
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws_max_size=limits.message_bytes,
        # answers to pings are read after the audio before them: a service that is behind would give
        # up good clients. Those that are gone send nothing, for which there is a limit
        ws_ping_timeout=None,
        ws_per_message_deflate=False,
        h11_max_incomplete_event_size=_HEADER_BYTES,
        timeout_graceful_shutdown=max(1, round(limits.stop_seconds)),
    )


class _Server(uvicorn.Server):
    """A server that leaves signals to `StopRequests`, and says where it listens."""

    def capture_signals(self):
        return contextlib.nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port = sockets[0].getsockname()[:2]
        print(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)


class _Stop:
    """Ends a server in order: streams first, then the rest, within a deadline."""

    def __init__(self, server: uvicorn.Server, recogniser: Recogniser):
        self._server, self._recogniser = server, recogniser
        self._seconds = recogniser.limits.stop_seconds
        self._loop = asyncio.get_running_loop()
        self._deadline = float("inf")

    def begin(self, number: int) -> None:
        """A signal came."""
        self._deadline = time.monotonic() + self._seconds + _OVERTIME
        self._loop.call_soon_threadsafe(lambda: asyncio.ensure_future(self._stop()))

    def is_overdue(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() > self._deadline

    async def _stop(self) -> None:
        self._recogniser.stopping.set()
        end = self._loop.time() + self._seconds * _STREAMS_SHARE
        while self._recogniser.streams and self._loop.time() < end:
            await asyncio.sleep(0.05)
        self._server.should_exit = True
