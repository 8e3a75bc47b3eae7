"""Errors as OpenAI's service answers them, whose clients know their shape."""

from starlette.responses import JSONResponse

RETRY_SECONDS = 2  # after which a client may try again


class ApiError(Exception):
    """An answer that is no result.

    Args:
        status: HTTP status; 4xx is the client's fault. Clients try 408, 429 and 5xx again.
        message: what was found, what is allowed, and what to do.
        code: a word for programs.
        param: the field of the request that is meant.
    """

    def __init__(self, status: int, message: str, code: str, param: str | None = None):
        super().__init__(message)
        self.status, self.code, self.param = status, code, param

    def content(self) -> dict:
        """`{"error": …}`."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> JSONResponse:
        headers = {}
        if self.status == 503:
            headers["Retry-After"] = str(RETRY_SECONDS)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.content(), self.status, headers)


def busy(what: str) -> ApiError:
    """There is no room for one more."""
    return ApiError(503, f"the service is busy: {what}; try again later", "busy")
