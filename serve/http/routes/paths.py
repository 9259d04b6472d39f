"""Normalizes request paths: /v1 may be missing, slashes may be doubled or trailing."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import FastAPI
from fastapi.routing import APIRoute

# routes also available without /v1, as in llama.cpp's server
SHORT = ("/models", "/chat/completions", "/completions", "/responses")


def normalize(path: str) -> str:
    """Return the path without extra slashes, and with a missing /v1 added."""
    plain = "/" + path.strip("/")
    return f"/v1{plain}" if plain in SHORT or plain.startswith("/models/") else plain


def allow_head(app: FastAPI) -> None:
    """Allow HEAD for every GET route; the server omits the body."""
    for _, methods in _routes(app):
        if "GET" in methods:
            methods.add("HEAD")


def describe(app: FastAPI) -> str:
    """Return a list of the routes for the reply to an unknown URL."""
    pairs = ((method, path) for path, methods in _routes(app) for method in sorted(methods - {"HEAD"}))
    return ", ".join(f"{method} {path.replace(':path', '')}" for method, path in pairs)


def _routes(app: FastAPI) -> Iterator[tuple[str, set[str]]]:
    """Yield the path and the methods of every route."""
    return ((r.path, r.methods) for r in app.routes if isinstance(r, APIRoute) and r.methods is not None)
