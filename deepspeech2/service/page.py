"""The page at `/` and its files, which anybody may read: what a key protects lies behind them."""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_FOLDER = Path(__file__).with_name("web")
_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
# nothing from elsewhere, and no script or style that is not a file of ours; sounds are made here
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "media-src blob:; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page_routes() -> list[Route]:
    """The routes of the page: `/`, and `/web/NAME` for what it loads."""
    return [_route(path) for path in sorted(_FOLDER.iterdir()) if path.suffix in _KINDS]


def _route(path: Path) -> Route:
    content = path.read_bytes()
    headers = {
        "Content-Type": f"{_KINDS[path.suffix]}; charset=utf-8",
        "Content-Security-Policy": _POLICY,
    }

    async def answer(request: Request) -> Response:
        return Response(content, headers=headers)

    return Route("/" if path.name == "index.html" else f"/web/{path.name}", answer)
