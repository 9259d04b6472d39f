"""Joins model, engine and application, for the server and for commands that answer files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

from burnish import lock
from burnish.console import say, warn
from burnish.process import Note, ignore_path

from .artifact import Chosen, choose
from .decoding.constraints.library import ThreadedMasks
from .engine.delivery import EventBridge
from .engine.engine import Engine
from .http.access_log import Log
from .http.app import create_app
from .http.auth import Keys
from .http.middleware import Middleware
from .http.output_parsers import dialect_parsers
from .http.service import Service
from .llama import sizing
from .llama.backend import LlamaBackend
from .llama.constraints import LlamaConstraints
from .llama.load import load
from .llama.threads import Threads
from .llama.token_table import matchers
from .llama.warmup import warm_up
from .metrics import Metrics
from .served import Served
from .settings import ModelSettings, ServeSettings


@dataclass(frozen=True)
class Loaded:
    """A loaded model with its metadata."""

    backend: LlamaBackend
    served: Served
    size: sizing.Size


@dataclass(frozen=True)
class Assembled:
    """The application with its engine; `bridge` delivers the engine's events once it is opened in a loop."""

    app: Middleware
    engine: Engine
    bridge: EventBridge
    metrics: Metrics


def assemble(loaded: Loaded, settings: ServeSettings, log: Log, keys: Keys | None = None) -> Assembled:
    """Create the engine, which the caller starts and closes, and the application; `keys`: None if none is required."""
    served = replace(loaded.served, name=settings.served_model_name or loaded.served.name)
    bridge, metrics = EventBridge(), Metrics()
    limits = sizing.limits(loaded.backend.model, loaded.size, settings, settings.max_waiting)
    engine = Engine(loaded.backend, limits, bridge.deliver, metrics, ThreadedMasks())
    metrics.watch(engine.snapshot)
    parsers = dialect_parsers(served.dialects, served.tokenizer.piece)
    service = Service(engine, served, loaded.size.context, settings, metrics, parsers)
    return Assembled(create_app(service, keys or Keys([]), log), engine, bridge, metrics)


@contextmanager
def loaded(settings: ModelSettings, mapped: Note = ignore_path, chosen: Chosen | None = None) -> Iterator[Loaded]:
    """Load the model for the duration of the block. Raises UserError if it can't be loaded.

    An engine that uses the backend must be closed within the block. `mapped`, `chosen`: see serve.llama.load. A run is
    locked against deletion meanwhile.
    """
    chosen = chosen or choose(settings)
    with lock.using(chosen.run) if chosen.run else nullcontext(), _loaded(settings, mapped, chosen) as parts:
        yield parts


@contextmanager
def _loaded(settings: ModelSettings, mapped: Note, chosen: Chosen) -> Iterator[Loaded]:
    model, served, tokenizer = load(settings, mapped, chosen)
    backend: LlamaBackend | None = None
    try:
        size = sizing.measure(model, served.context_length, settings)
        context = sizing.context(model, size, settings)
        backend = LlamaBackend(model, context, size.shared)
        backend.threads = Threads(context, size.threads) if settings.threads is None else None
        _in_own_thread(warm_up, backend)
        if fault := tokenizer.wait():
            warn(f"{fault}: /v1/completions works, /v1/chat/completions returns an error")
        compiling = matchers(model, served.end_tokens, tokenizer.dialects)
        constraints = LlamaConstraints(tokenizer, compiling) if compiling else None
        served = replace(served, dialects=tokenizer.dialects, constraints=constraints)
        backend.show(tokenizer.dialects)
        _describe(settings, backend, served, size)
        if backend.threads is not None:
            backend.threads.follow()
        yield Loaded(backend, served, size)
    finally:
        tokenizer.close()
        if backend is not None:
            backend.close()
        model.close()


def _describe(settings: ModelSettings, backend: LlamaBackend, served: Served, size: sizing.Size) -> None:
    say(f"model {served.name}: {size}")
    if backend.serial_rows:
        numbers = " or ".join(map(str, sorted(backend.serial_rows)))
        say(f"batches of {numbers} are decoded one sequence at a time, which was faster when measured at startup")
    if variant := served.record["cpu_variant"]:
        say(f"llama.cpp: using the build for {variant}")
    if settings.context_length is None and size.context < served.context_length:
        warn(
            f"context length reduced from {served.context_length} to {size.context} tokens to fit in memory; set "
            "context_length or max_sequences to choose otherwise"
        )


def _in_own_thread(call: Callable[[LlamaBackend], None], backend: LlamaBackend) -> None:
    """Run `call` in a short-lived thread, so that OpenMP's helper threads for the calling thread end with it.

    Otherwise they would add to the engine's own: OpenMP would see more threads than CPUs and sleep at every barrier
    instead of spinning, and an 8-token step would take 42 ms instead of 25 (two threads on two cores).
    """
    with ThreadPoolExecutor(1) as thread:
        thread.submit(call, backend).result()
