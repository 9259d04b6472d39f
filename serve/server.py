"""Joins model, engine and application, and runs them: start, readiness, SIGTERM, drain."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog

from burnish.console import say, warn
from burnish.process import Note, ctrl_c_ends_at_once, ignore_path

from .engine.delivery import EventBridge
from .engine.engine import Engine
from .http.app import create_app
from .http.auth import read_keys
from .http.exposure import check_exposure, is_exposed
from .http.service import Service
from .http_server import HttpServer, limit_log_lines, listen
from .llama import sizing
from .llama.backend import LlamaBackend
from .llama.load import load
from .llama.warmup import warm_up
from .metrics import Metrics
from .settings import ServeSettings


def run(settings: ServeSettings, mapped: Note = ignore_path) -> int:
    """Serve until a signal ends it; returns the exit code. Raises UserError for what can't be served.

    `mapped` gets the name of the model file, if it is mapped into memory.
    """
    ctrl_c_ends_at_once()  # until uvicorn takes it: nothing is half done, and a load in native code hears nothing else
    keys = read_keys(settings)
    check_exposure(settings, keys)
    listening = listen(settings)
    model, served, tokenizer = load(settings, mapped)
    backend: LlamaBackend | None = None
    try:
        size = sizing.measure(model, served.context_length, settings)
        context = sizing.context(model, size, settings)
        backend = LlamaBackend(model, context, size.shared)
        _in_own_thread(warm_up, backend)
        bridge, metrics = EventBridge(), Metrics()
        engine = Engine(backend, sizing.limits(model, size, settings), bridge.deliver, metrics)
        metrics.watch(engine.snapshot)
        log = _logger(settings)
        app = create_app(Service(engine, served, size.context, settings, metrics), keys, log)
        if fault := tokenizer.wait():
            warn(f"{fault}: /v1/chat/completions is refused, /v1/completions works")
        say(f"model {served.name}: {size}")
        if backend.serial_rows:
            numbers = " or ".join(map(str, sorted(backend.serial_rows)))
            say(f"{numbers} answers at once are decoded one by one, which was measured to be faster than in a batch")
        if variant := served.record["cpu_variant"]:
            say(f"llama.cpp: built for several generations of CPUs, took {variant}")
        if settings.context_length is None and size.context < served.context_length:
            warn(f"the model knows {served.context_length} tokens, memory allows {size.context} for each answer")
        if not keys and is_exposed(settings):
            where = settings.published_on or settings.host
            warn(f"listening on {where} without an API key: everyone who reaches this machine can use the model")
        gc.collect()
        gc.freeze()  # what start-up made stays: the collector need not walk it between two tokens
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
    """Run it in a thread that ends, and with it the helpers that OpenMP keeps for each thread that computes.

    Were they alive beside the engine's own, OpenMP would count more threads than processors, sleep at every barrier
    instead of waiting a moment, and a step of 8 tokens would take 42 ms instead of 25 (two threads on two cores).
    """
    with ThreadPoolExecutor(1) as thread:
        thread.submit(call, backend).result()


def _logger(settings: ServeSettings) -> Any:
    """Return the request log: JSON lines on stderr, or readable ones on a terminal. No prompt ever enters it."""
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
