"""Runs the HTTP server from startup to drain."""

from __future__ import annotations

import gc
import logging
import os
import sys
from typing import Any

import structlog

from burnish.console import warn
from burnish.process import Note, ctrl_c_ends_at_once, ignore_path

from .artifact import check_evaluations
from .assembly import assemble, loaded
from .http.auth import read_keys
from .http.exposure import check_exposure, is_exposed
from .http_server import HttpServer, limit_log_lines, listen
from .settings import ServeSettings


def run(settings: ServeSettings, mapped: Note = ignore_path) -> int:
    """Serve until a signal arrives; return the exit code. Raises UserError if the model can't be served.

    `mapped` is called with the path of the model file if it is memory-mapped.
    """
    ctrl_c_ends_at_once()  # until uvicorn handles it: loading in native code can't be interrupted otherwise
    keys = read_keys(settings)
    check_exposure(settings, keys)
    check_evaluations(settings)
    listening = listen(settings)
    try:
        with loaded(settings, mapped) as parts:
            made = assemble(parts, settings, _logger(settings), keys)
            if not keys and is_exposed(settings):
                where = settings.published_on or settings.host
                warn(f"listening on {where} without an API key: anyone who can reach this machine can use the model")
            gc.collect()
            gc.freeze()  # keep the garbage collector from scanning startup objects between two tokens
            HttpServer(made.app, made.engine, made.bridge, made.metrics, settings, listening).run(sockets=[listening])
            made.engine.close()
    finally:
        listening.close()
    return 0


def _logger(settings: ServeSettings) -> Any:
    """Return the request log: JSON lines on stderr, readable ones on a terminal. It never contains prompts."""
    plain = sys.stderr.isatty() and os.environ.get("BURNISH_LOG_FORMAT") != "json"
    level = logging.getLevelName(settings.log_level.upper())
    limit_log_lines()
    return structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if plain else structlog.processors.JSONRenderer(),
        ],
    )
