"""`WS /v1/listen`: speech in, words out while it is spoken, in Deepgram's shape."""

import asyncio
import contextlib
import json
import logging
import math
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from starlette.datastructures import QueryParams
from starlette.websockets import WebSocket, WebSocketDisconnect

from deepspeech2.errors import RunError
from deepspeech2.result import Word
from deepspeech2.service.errors import ApiError
from deepspeech2.service.recogniser import Recogniser
from deepspeech2.service.uploads import check_model
from deepspeech2.streaming.session import Progress

logger = logging.getLogger(__name__)

RATES = (8000, 48000)  # Hz
CHANNELS = (1, 8)
ENCODINGS = ("linear16",)
_MESSAGE_BYTES = 200  # what a message takes besides its content
_NUMBER = re.compile("[0-9]{1,6}")
# close codes of RFC 6455
NORMAL, GOING_AWAY, UNSUPPORTED, POLICY, FAILED = 1000, 1001, 1003, 1008, 1011


@dataclass(frozen=True)
class Settings:
    """What a client says about its stream.

    Attributes:
        sample_rate: in Hz.
        channels: channels, which are averaged.
        interim_results: whether to send words in progress.
    """

    sample_rate: int
    channels: int
    interim_results: bool


def read_settings(query: QueryParams, model: str) -> Settings:
    """The settings in the query of a stream's address; others are ignored.

    Raises:
        ApiError: naming the one that is wrong.
    """
    if "model" in query:
        check_model(query["model"], model)
    encoding = query.get("encoding", ENCODINGS[0])
    if encoding not in ENCODINGS:
        raise _wrong("encoding", encoding, ", ".join(ENCODINGS))
    interim = query.get("interim_results", "false").lower()
    if interim not in ("true", "false"):
        raise _wrong("interim_results", interim, "true, false")
    return Settings(
        _number(query, "sample_rate", RATES, 16000),
        _number(query, "channels", CHANNELS, 1),
        interim == "true",
    )


def _number(query: QueryParams, name: str, limits: tuple[int, int], default: int) -> int:
    text = query.get(name, str(default))
    if not (_NUMBER.fullmatch(text) and limits[0] <= int(text) <= limits[1]):
        raise _wrong(name, text, f"{limits[0]} to {limits[1]}")
    return int(text)


def _wrong(name: str, found: str, allowed: str) -> ApiError:
    return ApiError(400, f"`{name}` is {found!r}: allowed are {allowed}", "invalid_value", name)


class _End(Exception):
    """The stream ends.

    Attributes:
        code: a close code.
        reason: why; empty for the usual end.
    """

    def __init__(self, code: int, reason: str = ""):
        super().__init__(reason)
        self.code, self.reason = code, reason


class Listener:
    """One stream.

    Args:
        websocket: the connection, accepted.
        recogniser: recognises it.
        settings: see `Settings`.
    """

    def __init__(self, websocket: WebSocket, recogniser: Recogniser, settings: Settings):
        self._websocket, self._recogniser, self._settings = websocket, recogniser, settings
        self._session = recogniser.model.stream(settings.sample_rate)
        self._id = str(uuid.uuid4())
        self._rest = b""  # of a sample whose other bytes are to come
        self._received = 0  # samples of each channel
        self._covered = 0.0  # seconds up to which final results were sent
        self._partial = ""
        self._counted = 0.0  # seconds that were added to the metrics

    async def run(self) -> None:
        """Recognise the stream to its end, and close the connection."""
        with contextlib.suppress(WebSocketDisconnect):
            end = await self._recognise_all()
            if end.reason:
                await self._send({"type": "Error", "description": end.reason})
            await self._websocket.close(end.code, end.reason)

    async def _recognise_all(self) -> _End:
        """Recognise the stream; returns why it ended."""
        try:
            end = await self._listen()
            self._session.end()
            await self._recognise()
            await self._send(self._metadata())
            return end
        except (RunError, MemoryError):
            logger.exception("a stream could not be recognised")
            return _End(FAILED, "the stream could not be recognised")

    async def _listen(self) -> _End:
        """Recognise what comes until the stream ends."""
        limits, clock = self._recogniser.limits, time.monotonic
        last_turn = clock() + limits.session_seconds
        stopping = asyncio.ensure_future(self._recogniser.stopping.wait())
        inbox, receiving = _Inbox(self._websocket, limits.message_bytes), None
        try:
            while True:
                receiving = asyncio.ensure_future(inbox.take())
                rest = last_turn - clock()
                patience = max(0.0, min(limits.idle_seconds, rest))
                tasks = {receiving, stopping}
                await asyncio.wait(tasks, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                if stopping.done():
                    taken = receiving.result() if receiving.done() else []
                    for message in [*taken, *inbox.content()]:
                        self._take(message)
                    return _End(GOING_AWAY, "the service stops")
                if not receiving.done():
                    idle = rest > limits.idle_seconds
                    return self._idle() if idle else self._too_long()
                for message in receiving.result():
                    self._take(message)
                await self._recognise()
        except _End as end:
            return end
        finally:
            inbox.close()
            stopping.cancel()
            if receiving:
                receiving.cancel()

    def _idle(self) -> _End:
        seconds = self._recogniser.limits.idle_seconds
        return _End(POLICY, f"neither audio nor KeepAlive came in {seconds:g} s")

    def _too_long(self) -> _End:
        return _End(POLICY, f"a stream lasts {self._recogniser.limits.session_seconds:g} s at most")

    def _take(self, message: dict) -> None:
        """Take a message. Raises _End when it is the last one."""
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", NORMAL))
        if (audio := message.get("bytes")) is not None:
            self._add(audio)
            return
        kind = _kind(message["text"])
        if kind == "CloseStream":
            raise _End(NORMAL)
        if kind != "KeepAlive":
            raise _End(
                UNSUPPORTED,
                "a text message must be a JSON object with the type KeepAlive or CloseStream",
            )

    def _add(self, audio: bytes) -> None:
        """Take bytes of audio; a part of a sample waits for the rest."""
        width = 2 * self._settings.channels
        audio = self._rest + audio
        whole = len(audio) // width * width
        self._rest = audio[whole:]
        samples = np.frombuffer(audio[:whole], "<i2").reshape(-1, self._settings.channels)
        self._received += len(samples)
        if self._seconds() > self._recogniser.limits.session_seconds:
            raise self._too_long()
        self._session.add(samples.astype(np.int16))

    def _seconds(self) -> float:
        return self._received / self._settings.sample_rate

    async def _recognise(self) -> None:
        """Recognise what is there, and send what is new."""
        before = self._seconds()
        while chunk := self._session.next_chunk():
            future = self._recogniser.submit_stream(self._session, chunk)
            for progress in await asyncio.wrap_future(future):
                await self._report(progress)
        self._recogniser.metrics.audio.labels("stream").inc(before - self._counted)
        self._counted = before

    async def _report(self, progress: Progress) -> None:
        """Send words that are complete, and the word in progress if it is wanted."""
        if progress.words or progress.ended:
            await self._send(self._results(progress.words, True, progress.ended))
        grows = progress.partial and progress.partial != self._partial
        if self._settings.interim_results and grows:
            await self._send(self._results((), False, False, progress.partial))
        self._partial = progress.partial

    def _results(
        self, words: Sequence[Word], is_final: bool, speech_final: bool, partial: str = ""
    ) -> dict:
        start = end = self._covered
        if words or not is_final:
            end = max(start, words[-1].end if words else self._seconds())
        if is_final:
            self._covered = end
        separator = self._recogniser.model.labels.separator
        alternative = {
            "transcript": partial or separator.join(word.word for word in words),
            "confidence": round(_confidence(words), 4),
            "words": [
                {
                    "word": word.word,
                    "start": round(word.start, 3),
                    "end": round(word.end, 3),
                    "confidence": round(word.probability, 4),
                }
                for word in words
            ],
        }
        return {
            "type": "Results",
            "channel_index": [0, 1],
            "start": round(start, 3),
            "duration": round(end - start, 3),
            "is_final": is_final,
            "speech_final": speech_final,
            "channel": {"alternatives": [alternative]},
            "metadata": {"request_id": self._id},
        }

    def _metadata(self) -> dict:
        return {
            "type": "Metadata",
            "request_id": self._id,
            "duration": round(self._seconds(), 3),
            "channels": 1,
            "models": [self._recogniser.name],
        }

    async def _send(self, content: dict) -> None:
        await self._websocket.send_text(json.dumps(content, ensure_ascii=False))


class _Inbox:
    """Messages of a client, received while others have their turn: the next turn takes them all.

    Args:
        websocket: the connection.
        most_bytes: how much is kept; then the client has to wait.
    """

    def __init__(self, websocket: WebSocket, most_bytes: int):
        self._websocket, self._most_bytes = websocket, most_bytes
        self._messages: list[dict] = []
        self._bytes = 0
        self._filled, self._emptied = asyncio.Event(), asyncio.Event()
        self._receiving = asyncio.ensure_future(self._receive())

    async def _receive(self) -> None:
        kind = ""
        while kind != "websocket.disconnect":
            message = await self._websocket.receive()
            kind = message["type"]
            self._messages.append(message)
            self._bytes += _MESSAGE_BYTES + len(message.get("bytes") or message.get("text") or "")
            self._filled.set()
            while self._bytes > self._most_bytes:
                self._emptied.clear()
                await self._emptied.wait()

    async def take(self) -> list[dict]:
        """All messages that are there; waits for the first one."""
        await self._filled.wait()
        return self.content()

    def content(self) -> list[dict]:
        """All messages that are there."""
        messages, self._messages, self._bytes = self._messages, [], 0
        self._filled.clear()
        self._emptied.set()
        return messages

    def close(self) -> None:
        """Receive no more."""
        self._receiving.cancel()


def _kind(text: str) -> str | None:
    """The type of a text message; None for one that has none."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content.get("type") if isinstance(content, dict) else None


def _confidence(words: Sequence[Word]) -> float:
    """The geometric mean of the words' probabilities; 0 without words."""
    if not words:
        return 0.0
    logs = [math.log(max(word.probability, 1e-9)) for word in words]
    return math.exp(sum(logs) / len(logs))
