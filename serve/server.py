"""Joins model, engine and application, and runs them: start, readiness, SIGTERM, drain."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import structlog
import uvicorn
from starlette.types import ASGIApp

from burnish.console import say, warn

from .artefact import ServeError
from .engine.delivery import EventBridge
from .engine.engine import Engine
from .http.app import create_app
from .http.auth import read_keys
from .http.exposure import check_exposure, is_loopback
from .http.service import Service
from .llama import sizing
from .llama.backend import LlamaBackend
from .llama.load import load
from .llama.warmup import warm_up
from .metrics import Metrics
from .settings import ServeSettings

BACKLOG = 512
# what uvicorn waits for connections once every answer is done
CLOSE_TIMEOUT_S = 5
SAME_SIGNAL_S = 0.25


def run(settings: ServeSettings) -> int:
    """Serve until a signal ends it; returns the exit code. Raises UserError for what can't be served."""
    keys = read_keys(settings)
    check_exposure(settings, keys)
    listening = _listen(settings)
    model, served, tokenizer = load(settings)
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
        if backend.rows_singly:
            numbers = " or ".join(map(str, sorted(backend.rows_singly)))
            say(f"{numbers} answers at once are decoded one by one, which was measured to be faster than in a batch")
        if variant := served.record["cpu_variant"]:
            say(f"llama.cpp: built for several generations of CPUs, took {variant}")
        if settings.context_length is None and size.context < served.context_length:
            warn(f"the model knows {served.context_length} tokens, memory allows {size.context} for each answer")
        if not keys and not is_loopback(settings.host):
            warn(
                f"listening on {settings.host} without an API key: everyone who reaches this machine can use the model"
            )
        gc.collect()
        gc.freeze()  # what start-up made stays: the collector need not walk it between two tokens
        _HttpServer(app, engine, bridge, settings, listening).run(sockets=[listening])
        engine.close()
    finally:
        listening.close()
        tokenizer.close()
        if backend is not None:
            backend.close()
        model.close()
    return 0


class _HttpServer(uvicorn.Server):
    """uvicorn, but on SIGTERM and Ctrl-C running answers are finished first; a second signal ends at once."""

    def __init__(
        self, app: ASGIApp, engine: Engine, bridge: EventBridge, settings: ServeSettings, listening: socket.socket
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                backlog=BACKLOG,
                timeout_graceful_shutdown=CLOSE_TIMEOUT_S,
                h11_max_incomplete_event_size=65_536,
            )
        )
        self.engine, self.bridge, self.settings, self.listening = engine, bridge, settings, listening
        self.signalled_at = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.bridge.open(asyncio.get_running_loop())
        self.engine.start()
        await super().startup(sockets)
        host, port = self.listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        say(f"ready: http://{shown}:{port}/v1 (chat page: http://{shown}:{port}/)", port=port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.engine.draining:
            # a signal to the whole process group comes twice: to this process, and from its parent (supervise)
            if time.monotonic() - self.signalled_at > SAME_SIGNAL_S:
                self.force_exit = self.should_exit = True
            return
        self.signalled_at = time.monotonic()
        running, waiting = self.engine.load
        self.engine.draining = True
        say(f"{signal.Signals(sig).name}: no new requests; {running + waiting} answers to finish")
        threading.Thread(target=self._drain, name="drain", daemon=True).start()

    def _drain(self) -> None:
        if not self.engine.drain(self.settings.drain_timeout_s):
            warn(f"{sum(self.engine.load)} answers were cut off after {self.settings.drain_timeout_s:g} s")
        self.engine.close()
        self.should_exit = True


def _listen(settings: ServeSettings) -> socket.socket:
    """Bind before the model is loaded, so that a port in use is reported at once."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host.strip("[]"), settings.port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise ServeError(
            f"can't listen on {settings.host} port {settings.port}: {error.strerror}; see --port"
        ) from None
    return listening


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
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
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
