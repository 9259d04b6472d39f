"""GET / and /web: the chat page, static files that load nothing from other servers."""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi.staticfiles import StaticFiles
from starlette.types import Scope

from ..service import Service

WEB = Path(__file__).parents[2] / "web"
FILES = "/web"
# content types by suffix: the system's table may contain a script type that browsers refuse to run
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
# no inline script or style, no eval, no text parsed as HTML, nothing loaded from or sent to another server, no frame
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    # revalidated by ETag on each load, so that an upgrade takes effect at once
    "cache-control": "no-cache",
}


class PageFiles(StaticFiles):
    """Static files with content types and security headers."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """Return a file, or 304 if the browser's copy is current."""
        reply = super().file_response(full_path, stat_result, scope, status_code)
        reply.headers.update(HEADERS)
        if reply.status_code != 304:
            reply.headers["content-type"] = TYPES.get(Path(full_path).suffix, "application/octet-stream")
        return reply


def add(app: FastAPI, service: Service) -> None:
    """Add the page, its files, and the icon that browsers request by default."""
    files = PageFiles(directory=WEB)

    @app.get("/")
    async def page(http: Request) -> Response:
        """The chat page; its files are under `/web/`."""
        return await files.get_response("index.html", http.scope)

    @app.get("/favicon.ico")
    async def icon(http: Request) -> Response:
        """The page's icon."""
        return await files.get_response("favicon.svg", http.scope)

    app.mount(FILES, files)
