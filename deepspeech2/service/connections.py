"""Connections with deadlines, which uvicorn's own do not have."""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from deepspeech2.service.limits import Limits


class _Writing:
    """A protocol that gives up when the client does not take what was sent to it."""

    limits: Limits
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # also the last bytes must be taken

    def pause_writing(self) -> None:
        super().pause_writing()
        loop = asyncio.get_running_loop()
        self._write_timer = loop.call_later(self.limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self._cancel_write_timer()
        super().resume_writing()

    def connection_lost(self, error) -> None:
        self._cancel_write_timer()
        super().connection_lost(error)

    def _cancel_write_timer(self) -> None:
        if self._write_timer:
            self._write_timer.cancel()


class HttpConnection(_Writing, H11Protocol):
    """A connection whose requests must have their headers in time."""

    _header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            transport.abort()
        else:
            self._watch_header()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_header()

    def connection_lost(self, error) -> None:
        self._cancel_header_timer()
        super().connection_lost(error)

    def _watch_header(self) -> None:
        """Keep a timer while a request is awaited whose beginning is there or due."""
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            self._cancel_header_timer()
        elif not self._header_timer:
            self._header_timer = self.loop.call_later(
                self.limits.header_seconds, self.transport.abort
            )

    def _cancel_header_timer(self) -> None:
        if self._header_timer:
            self._header_timer.cancel()
            self._header_timer = None


class WebsocketConnection(_Writing, WebSocketsSansIOProtocol):
    """A connection for a stream."""

    async def send(self, message) -> None:
        """Send a message; a refusal is a whole answer, which uvicorn would log as an error."""
        await super().send(message)
        self.handshake_complete |= self.close_sent


def protocols(limits: Limits) -> tuple[type, type]:
    """The classes of HTTP and websocket connections, for uvicorn's settings `http` and `ws`."""
    return tuple(
        type(kind.__name__, (kind,), {"limits": limits})
        for kind in (HttpConnection, WebsocketConnection)
    )
