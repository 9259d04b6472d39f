"""uvicorn with connection limits, draining on SIGTERM, SIGHUP and Ctrl-C, and rate-limited log lines."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
import threading
import time
from functools import partial
from types import FrameType
from typing import Any

import uvicorn

from burnish.console import say, warn

from .artifact import ServeError
from .connection.limits import Limits, Refusal
from .connection.log_limit import LogLimit
from .connection.waiting import Connections
from .engine.delivery import EventBridge
from .engine.engine import Engine
from .http.middleware import Middleware
from .metrics import Metrics
from .private.uvicorn import Protocol, Shared
from .settings import ServeSettings

BACKLOG = 512
# connections that asyncio accepts at a time before it serves those already accepted
ACCEPT_BATCH = 32
# how long uvicorn waits for connections to close after the last reply
CLOSE_TIMEOUT_S = 5
DUPLICATE_SIGNAL_S = 0.25
# file descriptors for the server itself and for connections being closed
RESERVED_FILES = 128


class HttpServer(uvicorn.Server):
    """A uvicorn server that finishes running requests on a signal, and stops at once on a second one."""

    def __init__(
        self,
        app: Middleware,
        engine: Engine,
        bridge: EventBridge,
        metrics: Metrics,
        settings: ServeSettings,
        listening: socket.socket,
    ) -> None:
        limits = _limits(settings)
        shared = Shared(limits, Connections(limits.max_connections), partial(_refused, metrics))
        super().__init__(
            uvicorn.Config(
                app,
                http=partial(Protocol, shared),  # type: ignore[arg-type]
                ws="none",
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                proxy_headers=bool(settings.forwarded_allow_ips),
                forwarded_allow_ips=settings.forwarded_allow_ips,
                backlog=ACCEPT_BATCH,
                timeout_keep_alive=limits.idle_timeout_s,  # type: ignore[arg-type]
                timeout_graceful_shutdown=CLOSE_TIMEOUT_S,
            )
        )
        self.engine, self.bridge, self.settings, self.listening = engine, bridge, settings, listening
        self.signalled_at = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_loop_fault)
        self.bridge.open(loop)
        self.engine.start()
        await super().startup(sockets)
        self.listening.listen(BACKLOG)  # asyncio has lowered it to ACCEPT_BATCH
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
            signal.signal(signal.SIGHUP, self.handle_exit)
        host, port = self.listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        say(f"ready: http://{shown}:{port}/v1 (chat page: http://{shown}:{port}/)", port=port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.engine.draining:
            # a signal to the process group arrives twice: directly, and forwarded by the parent (supervise)
            if time.monotonic() - self.signalled_at > DUPLICATE_SIGNAL_S:
                self.force_exit = self.should_exit = True
            return
        self.signalled_at = time.monotonic()
        running, waiting = self.engine.load
        self.engine.draining = True
        say(f"{signal.Signals(sig).name}: draining, {running + waiting} sequences left; new requests get 503")
        threading.Thread(target=self._drain, name="drain", daemon=True).start()

    def _drain(self) -> None:
        if not self.engine.drain(self.settings.drain_timeout_s):
            warn(f"{sum(self.engine.load)} sequences cancelled after {self.settings.drain_timeout_s:g} s of draining")
        self.engine.close()
        self.should_exit = True


def listen(settings: ServeSettings) -> socket.socket:
    """Bind the port before the model is loaded, so that a port in use is reported at once."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host.strip("[]"), settings.port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise ServeError(
            f"can't listen on {settings.host} port {settings.port}: {error.strerror}; choose another with --port"
        ) from None
    return listening


def _limits(settings: ServeSettings) -> Limits:
    """Return the configured limits, with connections capped by the open-file limit, which is raised first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most = settings.max_connections
    if hard != resource.RLIM_INFINITY and most > hard - RESERVED_FILES:
        most = max(1, hard - RESERVED_FILES)
        warn(
            f"max_connections lowered from {settings.max_connections} to {most}: this process may open only {hard} "
            "files (ulimit -n)"
        )
    return Limits(
        max_connections=most,
        max_header_bytes=settings.max_header_bytes,
        max_headers=settings.max_headers,
        header_timeout_s=settings.header_timeout_s,
        idle_timeout_s=settings.idle_timeout_s,
        send_timeout_s=settings.send_timeout_s,
    )


def limit_log_lines() -> None:
    """Rate-limit library warnings: most of them are triggered by input from untrusted clients."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(LogLimit())


def _refused(metrics: Metrics, refusal: Refusal) -> None:
    metrics.errors.labels(str(refusal.status), refusal.code).inc()
    logging.getLogger("connection").warning("refused: %d %s", refusal.status, refusal.code)


def _loop_fault(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error outside any request on one line: its type, the text only for an OSError, never client data."""
    error = context.get("exception")
    text = str(error) if isinstance(error, OSError) else type(error).__name__ if error else ""
    logging.getLogger("connection").error("%s: %s", context.get("message", "error in the event loop"), text)
