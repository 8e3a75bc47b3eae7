"""`POST /v1/audio/transcriptions`: a recording in, its transcript out."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from deepspeech2.errors import InputError
from deepspeech2.result import Segment, Transcript
from deepspeech2.service.answers import answer, delta, done, event
from deepspeech2.service.errors import ApiError
from deepspeech2.service.recogniser import Recogniser, TooLong
from deepspeech2.service.uploads import Question, read_question, receive_form

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class Transcriptions:
    """The endpoint, an ASGI application.

    Args:
        recogniser: recognises recordings.
    """

    def __init__(self, recogniser: Recogniser):
        self._recogniser = recogniser
        self._threads = ThreadPoolExecutor(recogniser.limits.requests, "recording")

    def close(self) -> None:
        """Begin no more work."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        recogniser = self._recogniser
        try:
            with recogniser.recording():
                form = await receive_form(scope, receive, recogniser.limits)
                try:
                    question = read_question(form, recogniser.name)
                    async with _Job(recogniser, self._threads, question.file) as job:
                        response = await _unless_gone(receive, _respond(job, question))
                        await response(scope, receive, send)
                finally:
                    await form.close()
        except ClientDisconnect:
            scope["state"]["gone"] = True


async def _respond(job: "_Job", question: Question) -> Response:
    """The response, when it can begin: a stream with the first segment, others with the last."""
    if question.stream:
        first = await job.next()
        return StreamingResponse(_events(job, first), media_type="text/event-stream")
    while not isinstance(result := await job.next(), Transcript):
        pass
    return answer(result, question.response_format, question.granularities)


async def _events(job: "_Job", result: Segment | Transcript) -> AsyncIterator[str]:
    """Server-sent events of all results of a job, of which one is there."""
    first = True
    while isinstance(result, Segment):
        yield delta(result, first)
        first = False
        try:
            result = await job.next()
        except ApiError as error:
            yield event(error.content())
            return
    yield done(result)


class _Job:
    """The recognition of a recording in a thread, which ends with the `async with` block."""

    def __init__(self, recogniser: Recogniser, threads: ThreadPoolExecutor, file: BinaryIO):
        self._recogniser, self._threads, self._file = recogniser, threads, file
        self._results: asyncio.Queue[Segment | Transcript | Exception] = asyncio.Queue()
        self._stop = threading.Event()

    async def __aenter__(self) -> "_Job":
        self._loop = asyncio.get_running_loop()
        self._future = self._loop.run_in_executor(self._threads, self._run)
        return self

    async def __aexit__(self, *exception) -> None:
        """Stop the work; the file is not used any more then."""
        self._stop.set()
        await asyncio.wait([self._future])

    def _run(self) -> None:
        try:
            result = self._recogniser.transcribe(self._file, self._stop, self._put)
        except Exception as error:
            result = error
        self._put(result)

    def _put(self, result: Segment | Transcript | Exception) -> None:
        self._loop.call_soon_threadsafe(self._results.put_nowait, result)

    async def next(self) -> Segment | Transcript:
        """The next segment or, at the end, the transcript.

        Raises:
            ApiError: when there is none.
        """
        result = await self._results.get()
        if isinstance(result, TooLong):
            raise ApiError(400, str(result), "audio_too_long", "file")
        if isinstance(result, InputError):
            raise ApiError(400, str(result), "invalid_audio", "file")
        if isinstance(result, Exception):
            logger.error("a recording could not be recognised", exc_info=result)
            raise ApiError(500, "the recording could not be recognised", "internal_error")
        return result


async def _unless_gone(receive: Receive, work: Awaitable[Result]) -> Result:
    """The result of some work. Raises ClientDisconnect when the client leaves meanwhile."""
    async def leave() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.ensure_future(work), asyncio.ensure_future(leave())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ClientDisconnect
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
