"""What /metrics tells, in Prometheus' text format; the engine's thread writes it, a scrape reads it."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from serve.engine import Engine, Observer
from serve.scheduler import Plan
from serve.sequence import FinishReason, Sequence

FIRST_TOKEN_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BETWEEN_BUCKETS_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics(Observer):
    """Counters and histograms; gauges are read from the engine when they are asked for."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.prompt_tokens = Counter("burnish_prompt_tokens", "Prompt tokens decoded or reused", registry=r)
        self.reused_tokens = Counter("burnish_reused_tokens", "Prompt tokens whose cells were reused", registry=r)
        self.generated_tokens = Counter("burnish_generated_tokens", "Tokens generated", registry=r)
        self.preemptions = Counter("burnish_preemptions", "Sequences set back to free cells", registry=r)
        self.steps = Counter("burnish_steps", "Batches decoded", registry=r)
        self.step_seconds = Counter("burnish_step_seconds", "Time in batches", registry=r)
        self.sequences = Counter("burnish_sequences", "Sequences ended", ["reason"], registry=r)
        self.errors = Counter("burnish_errors", "Error replies", ["status", "code"], registry=r)
        self.first_token = Histogram(
            "burnish_time_to_first_token_seconds", "From arrival", buckets=FIRST_TOKEN_BUCKETS_S, registry=r
        )
        self.between_tokens = Histogram(
            "burnish_time_between_tokens_seconds", "Of one sequence", buckets=BETWEEN_BUCKETS_S, registry=r
        )
        self._seen_preemptions = 0

    def watch(self, engine: Engine) -> None:
        """Add the gauges of an engine."""
        self.registry.register(_Gauges(engine))

    def text(self) -> bytes:
        """Return the exposition."""
        return generate_latest(self.registry)

    def step(self, engine: Engine, plan: Plan, seconds: float) -> None:
        self.steps.inc()
        self.step_seconds.inc(seconds)
        now = engine.scheduler.preemptions
        self.preemptions.inc(max(0, now - self._seen_preemptions))
        self._seen_preemptions = now

    def token(self, sequence: Sequence, seconds: float, first: bool) -> None:
        self.generated_tokens.inc()
        if first:
            self.prompt_tokens.inc(len(sequence.prompt))
            self.reused_tokens.inc(sequence.cached)
        (self.first_token if first else self.between_tokens).observe(seconds)

    def finished(self, sequence: Sequence, reason: FinishReason) -> None:
        self.sequences.labels(reason).inc()


class _Gauges:
    """The engine's state at the moment of a scrape."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def collect(self) -> Iterator[Metric]:
        engine, cells = self.engine, self.engine.scheduler.cells
        running, waiting = engine.load
        held = sum(cells.lengths[slot] for slot in list(engine.scheduler.running))
        for name, text, value in (
            ("burnish_sequences_running", "Sequences in the batch", running),
            ("burnish_queue_depth", "Sequences that wait", waiting),
            ("burnish_cells_total", "Cells of the key/value cache", cells.total),
            ("burnish_cells_used", "Cells that hold something", cells.used),
            ("burnish_cells_running", "Cells that running sequences hold", held),
        ):
            yield GaugeMetricFamily(name, text, value=value)
