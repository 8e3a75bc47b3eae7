"""Receive a recording and what is asked about it: a multipart form, in bounded time and space.

Files are kept without a name, in memory or in the system's folder for temporary files; what the
client calls them is not used.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from deepspeech2.service.errors import ApiError
from deepspeech2.service.limits import Limits

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
GRANULARITIES = ("word", "segment")
_MAX_FIELDS, _MAX_FIELD_BYTES = 20, 64 << 10
_GRANULARITIES = "timestamp_granularities[]"
# known to OpenAI's clients, without effect here
_IGNORED = ("language", "prompt", "temperature", "chunking_strategy")
_KNOWN = ("file", "model", "response_format", _GRANULARITIES, "stream", *_IGNORED)

logging.getLogger("python_multipart").setLevel(logging.ERROR)  # bad forms are told to clients


@dataclass(frozen=True)
class Question:
    """What is asked about a recording.

    Attributes:
        file: the recording.
        response_format: one of `FORMATS`.
        granularities: of `GRANULARITIES` those whose times a `verbose_json` shall have.
        stream: whether to send text while the recording is recognised.
    """

    file: BinaryIO
    response_format: str
    granularities: tuple[str, ...]
    stream: bool


async def receive_form(scope: Scope, receive: Receive, limits: Limits) -> FormData:
    """The form in the body of a request; its caller closes it.

    Raises:
        ApiError: for another kind of body, one that is too long or too slow, and two files.
        ClientDisconnect: when the client is gone.
    """
    headers = Headers(scope=scope)
    if not headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise ApiError(
            400, "the body must be multipart/form-data with a `file` and a `model`", "no_form"
        )
    length = headers.get("content-length", "0")
    if length.isdecimal() and int(length) > limits.upload_bytes:
        raise _too_large(limits)
    parser = MultiPartParser(
        headers,
        _body(receive, limits),
        max_files=1,
        max_fields=_MAX_FIELDS,
        max_part_size=_MAX_FIELD_BYTES,
    )
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise ApiError(400, f"the form cannot be read: {error.message}", "bad_form") from None
    except FormParserError as error:  # Starlette up to 1.7 lets it through
        raise ApiError(400, f"the form cannot be read: {error}", "bad_form") from None


async def _body(receive: Receive, limits: Limits) -> AsyncIterator[bytes]:
    """The parts of a body, as long as there are not too many bytes and they come fast enough."""
    clock = asyncio.get_running_loop().time
    start, size, more = clock(), 0, True
    while more:
        deadline = start + limits.body_seconds + size / limits.body_rate
        patience = min(deadline - clock(), limits.body_seconds)
        try:
            message = await asyncio.wait_for(receive(), max(0.0, patience))
        except asyncio.TimeoutError:
            raise ApiError(408, "the body came too slowly: send it again", "too_slow") from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body, more = message.get("body", b""), message.get("more_body", False)
        size += len(body)
        if size > limits.upload_bytes:
            raise _too_large(limits)
        yield body


def _too_large(limits: Limits) -> ApiError:
    return ApiError(
        413,
        f"the body is longer than {limits.upload_bytes} bytes: send the recording in parts, or "
        "compressed",
        "too_large",
        "file",
    )


def read_question(form: FormData, model: str) -> Question:
    """What a form asks.

    Args:
        form: the fields.
        model: the name of the only model.

    Raises:
        ApiError: naming the field that is wrong.
    """
    for name in form:
        if name not in _KNOWN:
            raise _wrong(name, "is unknown here", _KNOWN)
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise ApiError(400, "`file` must be a recording: it is missing", "missing_file", "file")
    check_model(form.get("model"), model)
    response_format = form.get("response_format", "json")
    if response_format not in FORMATS:
        raise _wrong("response_format", f"is {response_format!r}", FORMATS)
    granularities = tuple(form.getlist(_GRANULARITIES)) or ("segment",)
    if not set(granularities) <= set(GRANULARITIES):
        raise _wrong(_GRANULARITIES, f"is {', '.join(map(str, granularities))}", GRANULARITIES)
    stream = str(form.get("stream", "false")).lower()
    if stream not in ("true", "false"):
        raise _wrong("stream", f"is {stream!r}", ("true", "false"))
    if stream == "true" and response_format not in ("json", "text"):
        raise _wrong("response_format", f"is {response_format!r} with `stream`", ("json", "text"))
    return Question(file.file, response_format, granularities, stream == "true")


def check_model(asked: object, model: str) -> None:
    """Raise ApiError for another model than the one that is there."""
    if asked is None:
        raise ApiError(400, f"`model` is missing: it must be {model!r}", "missing_model", "model")
    if asked != model:
        raise ApiError(
            404, f"`model` is {asked!r}: the only model here is {model!r}", "model_not_found",
            "model",
        )


def _wrong(field: str, found: str, allowed: tuple[str, ...]) -> ApiError:
    return ApiError(
        400, f"`{field}` {found}: allowed are {', '.join(allowed)}", "invalid_value", field
    )
