"""Which route a request means: /v1 may be left out, slashes may be too many."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import FastAPI
from fastapi.routing import APIRoute

# routes that clients also ask for without /v1, as llama.cpp's server has them
SHORT = ("/models", "/chat/completions", "/completions")


def normal(path: str) -> str:
    """Return the path without needless slashes, and with the /v1 that the client left out."""
    plain = "/" + path.strip("/")
    return f"/v1{plain}" if plain in SHORT or plain.startswith("/models/") else plain


def answer_head(app: FastAPI) -> None:
    """Let every GET route answer HEAD: the server leaves the body out."""
    for _, methods in _routes(app):
        if "GET" in methods:
            methods.add("HEAD")


def listed(app: FastAPI) -> str:
    """Return the routes in words, for a reply to a request that has none."""
    pairs = ((method, path) for path, methods in _routes(app) for method in sorted(methods - {"HEAD"}))
    return ", ".join(f"{method} {path.replace(':path', '')}" for method, path in pairs)


def _routes(app: FastAPI) -> Iterator[tuple[str, set[str]]]:
    """Yield the path and the methods of every route."""
    return ((r.path, r.methods) for r in app.routes if isinstance(r, APIRoute) and r.methods is not None)
