"""What every request passes: who may ask, what every answer says, and what is counted."""

import asyncio
import ipaddress
import time
from collections.abc import Sequence
from hmac import compare_digest
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepspeech2.service.errors import ApiError
from deepspeech2.service.metrics import Metrics

_LINGER_SECONDS = 5.0
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_TOO_SLOW = 408  # whoever is, is not waited for
_GONE = 499  # as nginx counts clients that did not wait


class Guard:
    """Refuses strangers, and completes and counts answers.

    Args:
        app: what requests are passed to.
        key: what clients must show; empty for none.
        origins: web pages that may ask, besides those of the service; `*` for all.
        metrics: where answers are counted.
        paths: the paths that are counted by themselves.
        open_paths: the paths that need no key.
    """

    def __init__(
        self,
        app: ASGIApp,
        key: str,
        origins: Sequence[str],
        metrics: Metrics,
        paths: Sequence[str],
        open_paths: Sequence[str],
    ):
        self._app, self._key, self._origins = app, key.encode(), origins
        self._metrics, self._paths, self._open_paths = metrics, paths, open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        scope.setdefault("state", {})
        begin = time.perf_counter()
        try:
            await self._admitted(scope)(scope, exchange.receive, exchange.send)
        except Exception:
            exchange.status = 500
            raise
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            status = _GONE if scope["state"].get("gone") else exchange.status
            self._metrics.answers.labels(path, status).inc()
            if scope["type"] == "http":
                self._metrics.seconds.labels(path).observe(time.perf_counter() - begin)

    def _admitted(self, scope: Scope) -> ASGIApp:
        """What answers a request: the application, or a refusal."""
        try:
            self._check(scope)
        except ApiError as error:
            return error.response()
        return self._app

    def _check(self, scope: Scope) -> None:
        """Raise ApiError for a client that may not ask."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._key and not _is_local_name(host):
            raise ApiError(
                403, f"the host {host!r} is not served without a key: use its address", "bad_host"
            )
        origin = headers.get("origin")
        if origin and not self._may_ask(origin, host):
            raise ApiError(
                403, f"pages of {origin!r} may not ask: allow them with --allow_origin",
                "bad_origin",
            )
        if self._key and scope["path"] not in self._open_paths:
            shown = _shown_key(headers, scope.get("subprotocols", ()))
            if not compare_digest(shown.encode("utf-8", "surrogateescape"), self._key):
                raise ApiError(
                    401, "the key is wrong or missing: send `Authorization: Bearer KEY`",
                    "invalid_api_key",
                )

    def _may_ask(self, origin: str, host: str) -> bool:
        return "*" in self._origins or origin in self._origins or (
            urlsplit(origin).netloc.lower() == host.lower() != ""
        )


def _is_local_name(host: str) -> bool:
    """Whether a Host header has an address, or the name localhost, which no stranger can own."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        ipaddress.ip_address(name)
    except ValueError:
        return host.lower().split(":")[0] == "localhost"
    return True


def _shown_key(headers: Headers, subprotocols: Sequence[str]) -> str:
    """The key that a client shows; in browsers a websocket shows it as a subprotocol."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() in ("bearer", "token"):
        return key.strip()
    if len(subprotocols) == 2 and subprotocols[0].lower() in ("bearer", "token"):
        return subprotocols[1]
    return ""


class _Exchange:
    """One request and its answer.

    Where the answer comes before the end of a body, the rest is read and thrown away for a moment:
    a client that still sends would otherwise lose the answer with the connection.

    Attributes:
        status: HTTP status of the answer; 101 for an accepted websocket, `_GONE` before it.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send):
        self.status = _GONE
        self._receive, self._send = receive, send
        headers = Headers(scope=scope)
        self._unread = scope["type"] == "http" and (
            headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        )

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._unread = False
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            self.status = 101
        if kind.endswith("http.response.start"):
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            if self._unread:
                headers["Connection"] = "close"
            self._unread &= self.status != _TOO_SLOW
        if kind == "http.response.body" and not message.get("more_body") and self._unread:
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": kind, "body": b""}
        await self._send(message)

    async def _linger(self) -> None:
        """Read the rest of the body."""
        async def rest() -> None:
            while self._unread:
                await self.receive()

        try:
            await asyncio.wait_for(rest(), _LINGER_SECONDS)
        except asyncio.TimeoutError:
            return
