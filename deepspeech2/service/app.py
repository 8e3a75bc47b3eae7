"""The service as an ASGI application."""

import asyncio
import time
from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from deepspeech2.errors import RunError
from deepspeech2.service.errors import ApiError, busy
from deepspeech2.service.guard import Guard
from deepspeech2.service.listening import Listener, read_settings
from deepspeech2.service.page import page_routes
from deepspeech2.service.recogniser import Recogniser
from deepspeech2.service.transcriptions import Transcriptions

_PROBE_SECONDS = 10.0
_PROBE_AGE = 1.0  # seconds for which the result of a probe holds
_OPEN = ("/health", "/ready")  # without a key, beside the page
_METRICS = "text/plain; version=0.0.4; charset=utf-8"


class Service:
    """The endpoints of a service.

    Args:
        recogniser: recognises recordings and streams.
        key: what clients must show; empty for none.
        origins: web pages that may ask, besides those of the service; `*` for all.

    Attributes:
        app: the ASGI application.
    """

    def __init__(self, recogniser: Recogniser, key: str = "", origins: Sequence[str] = ()):
        self._recogniser = recogniser
        self._created = int(time.time())
        self._probe: asyncio.Task | None = None
        self._probed = 0.0
        self._transcriptions = Transcriptions(recogniser)
        self.app = self._application(key, origins)

    def _application(self, key: str, origins: Sequence[str]) -> Starlette:
        page = page_routes()
        routes = [
            *page,
            Route("/v1/audio/transcriptions", self._transcriptions, methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/health", self._health),
            Route("/ready", self._ready),
            Route("/metrics", self._metrics),
            WebSocketRoute("/v1/listen", self._listen),
        ]
        paths = [route.path for route in routes]
        cors = Middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
        guard = Middleware(
            Guard,
            key=key,
            origins=origins,
            metrics=self._recogniser.metrics,
            paths=paths,
            open_paths=[*_OPEN, *(route.path for route in page)],
        )
        return Starlette(
            routes=routes,
            middleware=[cors, guard] if origins else [guard],
            exception_handlers={
                ApiError: _refuse,
                HTTPException: _refuse_route,
                Exception: _fail,
            },
        )

    def close(self) -> None:
        """End all threads."""
        self._transcriptions.close()
        self._recogniser.close()

    async def _models(self, request: Request) -> Response:
        model = {
            "id": self._recogniser.name,
            "object": "model",
            "created": self._created,
            "owned_by": "local",
            "streaming": self._recogniser.model.streaming is not None,  # ours
        }
        return JSONResponse({"object": "list", "data": [model]})

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _ready(self, request: Request) -> Response:
        """Let the network recognise something; those who ask at the same time share a result."""
        if self._recogniser.stopping.is_set():
            raise busy("it stops")
        fresh = self._probe and time.monotonic() - self._probed < _PROBE_AGE
        if not fresh:
            self._probed = time.monotonic()
            self._probe = asyncio.ensure_future(asyncio.wrap_future(self._recogniser.probe()))
        try:
            await asyncio.wait_for(asyncio.shield(self._probe), _PROBE_SECONDS)
        except asyncio.TimeoutError:
            raise busy("the model did not answer in time") from None
        except (RunError, MemoryError):
            raise ApiError(503, "the model cannot be run", "model_failed") from None
        return JSONResponse({"status": "ready", "model": self._recogniser.name})

    async def _metrics(self, request: Request) -> Response:
        return Response(self._recogniser.metrics.text(), headers={"Content-Type": _METRICS})

    async def _listen(self, websocket: WebSocket) -> None:
        recogniser = self._recogniser
        try:
            if recogniser.model.streaming is None:
                raise ApiError(
                    400, f"the model {recogniser.name!r} needs whole recordings: it has no streams",
                    "no_streams",
                )
            settings = read_settings(websocket.query_params, recogniser.name)
            with recogniser.stream():
                # a browser sends its key as the second subprotocol, and expects the first one
                await websocket.accept(next(iter(websocket.scope["subprotocols"]), None))
                await Listener(websocket, recogniser, settings).run()
        except ApiError as error:
            await websocket.send_denial_response(error.response())


async def _refuse(request: Request, error: ApiError) -> Response:
    return error.response()


async def _refuse_route(request: Request, error: HTTPException) -> Response:
    content = ApiError(error.status_code, error.detail, "no_such_endpoint").content()
    return JSONResponse(content, error.status_code, error.headers)


async def _fail(request: Request, error: Exception) -> Response:
    return ApiError(500, "the service failed; its log says why", "internal_error").response()
