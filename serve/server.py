"""Assembles model, engine and application, and runs them from startup to drain."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import structlog

from burnish.console import say, warn
from burnish.process import Note, ctrl_c_ends_at_once, ignore_path

from .engine.delivery import EventBridge
from .engine.engine import Engine
from .http.app import create_app
from .http.auth import read_keys
from .http.exposure import check_exposure, is_exposed
from .http.output_parsers import dialect_parsers
from .http.service import Service
from .http_server import HttpServer, limit_log_lines, listen
from .llama import sizing
from .llama.backend import LlamaBackend
from .llama.load import load
from .llama.threads import Threads
from .llama.warmup import warm_up
from .metrics import Metrics
from .settings import ServeSettings


def run(settings: ServeSettings, mapped: Note = ignore_path) -> int:
    """Serve until a signal arrives; return the exit code. Raises UserError if the model can't be served.

    `mapped` is called with the path of the model file if it is memory-mapped.
    """
    ctrl_c_ends_at_once()  # until uvicorn handles it: loading in native code can't be interrupted otherwise
    keys = read_keys(settings)
    check_exposure(settings, keys)
    listening = listen(settings)
    model, served, tokenizer = load(settings, mapped)
    backend: LlamaBackend | None = None
    try:
        size = sizing.measure(model, served.context_length, settings)
        context = sizing.context(model, size, settings)
        backend = LlamaBackend(model, context, size.shared)
        backend.threads = Threads(context, size.threads) if settings.threads is None else None
        _in_own_thread(warm_up, backend)
        if fault := tokenizer.wait():
            warn(f"{fault}: /v1/completions works, /v1/chat/completions returns an error")
        served = replace(served, dialects=tokenizer.dialects)
        backend.show(tokenizer.dialects)
        bridge, metrics = EventBridge(), Metrics()
        engine = Engine(backend, sizing.limits(model, size, settings), bridge.deliver, metrics)
        metrics.watch(engine.snapshot)
        log = _logger(settings)
        parsers = dialect_parsers(served.dialects, tokenizer.piece)
        app = create_app(Service(engine, served, size.context, settings, metrics, parsers), keys, log)
        say(f"model {served.name}: {size}")
        if backend.serial_rows:
            numbers = " or ".join(map(str, sorted(backend.serial_rows)))
            say(f"batches of {numbers} are decoded one sequence at a time, which was faster in a measurement at start")
        if variant := served.record["cpu_variant"]:
            say(f"llama.cpp: using the build for {variant}")
        if settings.context_length is None and size.context < served.context_length:
            warn(
                f"context length reduced from {served.context_length} to {size.context} tokens to fit in memory; set "
                "context_length or max_sequences to choose otherwise"
            )
        if not keys and is_exposed(settings):
            where = settings.published_on or settings.host
            warn(f"listening on {where} without an API key: anyone who can reach this machine can use the model")
        if backend.threads is not None:
            backend.threads.follow()
        gc.collect()
        gc.freeze()  # keep the garbage collector from scanning startup objects between two tokens
        HttpServer(app, engine, bridge, metrics, settings, listening).run(sockets=[listening])
        engine.close()
    finally:
        listening.close()
        tokenizer.close()
        if backend is not None:
            backend.close()
        model.close()
    return 0


def _in_own_thread(call: Callable[[LlamaBackend], None], backend: LlamaBackend) -> None:
    """Run `call` in a short-lived thread, so that the helper threads OpenMP keeps for the calling thread end too.

    Otherwise they would add to the engine's own: OpenMP would see more threads than CPUs and sleep at every barrier
    instead of spinning, and an 8-token step would take 42 ms instead of 25 (two threads on two cores).
    """
    with ThreadPoolExecutor(1) as thread:
        thread.submit(call, backend).result()


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
