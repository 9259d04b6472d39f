"""The metrics of /metrics, in Prometheus' text format. The engine thread updates them; a scrape reads them.

Per-token counts are plain numbers: prometheus_client's counters each acquire a lock and cost 20 us per token between
two decodes, while the model's threads wait.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from .engine.events import FinishReason
from .engine.observer import Observer, Snapshot
from .engine.sequence import Sequence

FIRST_TOKEN_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BETWEEN_BUCKETS_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Times:
    """A histogram of durations in seconds. `bounds` are the upper bounds of all buckets except the last."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Return (upper bound, cumulative count) of each bucket."""
        ends = [*(str(float(bound)) for bound in self.bounds), "+Inf"]
        return [(end, float(count)) for end, count in zip(ends, accumulate(self.counts), strict=True)]


class Metrics(Observer):
    """Counters and histograms of the engine's events, and gauges of its state at a scrape."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.sequences = Counter("burnish_sequences", "Sequences ended", ["reason"], registry=r)
        self.errors = Counter("burnish_errors", "Error replies", ["status", "code"], registry=r)
        self.prompt_tokens = self.reused_tokens = self.generated_tokens = self.preemptions = self.steps = 0
        self.step_seconds = 0.0
        self.first_token, self.between_tokens = Times(FIRST_TOKEN_BUCKETS_S), Times(BETWEEN_BUCKETS_S)

    def watch(self, snapshot: Callable[[], Snapshot]) -> None:
        """Register the engine's counters and the gauges of its state."""
        self.registry.register(_Counts(self))
        self.registry.register(_Gauges(snapshot))

    def text(self) -> bytes:
        """Return the metrics in the exposition format."""
        return generate_latest(self.registry)

    def preempted(self, count: int) -> None:
        self.preemptions += count

    def step(self, seconds: float) -> None:
        self.steps += 1
        self.step_seconds += seconds

    def token(self, sequence: Sequence, seconds: float, first: bool) -> None:
        self.generated_tokens += 1
        if first:
            self.prefilled(sequence)
            self.first_token.observe(seconds)
        else:
            self.between_tokens.observe(seconds)

    def prefilled(self, sequence: Sequence) -> None:
        self.prompt_tokens += len(sequence.prompt)
        self.reused_tokens += sequence.cached

    def finished(self, sequence: Sequence, reason: FinishReason) -> None:
        self.sequences.labels(reason).inc()


class _Counts:
    """Exposes the plain numbers as Prometheus metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics

    def collect(self) -> Iterator[Metric]:
        m = self.metrics
        for name, text, value in (
            ("burnish_prompt_tokens", "Prompt tokens decoded or reused", m.prompt_tokens),
            ("burnish_reused_tokens", "Prompt tokens whose cells were reused", m.reused_tokens),
            ("burnish_generated_tokens", "Tokens generated", m.generated_tokens),
            ("burnish_preemptions", "Sequences preempted to free cells", m.preemptions),
            ("burnish_steps", "Steps decoded", m.steps),
            ("burnish_step_seconds", "Time spent in steps", m.step_seconds),
        ):
            yield CounterMetricFamily(name, text, value=value)
        for name, text, times in (
            ("burnish_time_to_first_token_seconds", "Time from arrival to the first token", m.first_token),
            ("burnish_time_between_tokens_seconds", "Time between tokens of a sequence", m.between_tokens),
        ):
            yield HistogramMetricFamily(name, text, buckets=times.buckets(), sum_value=times.sum)


class _Gauges:
    """Exposes the engine's state at a scrape."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self.snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        now = self.snapshot()
        for name, text, value in (
            ("burnish_sequences_running", "Running sequences", now.running),
            ("burnish_queue_depth", "Waiting sequences", now.waiting),
            ("burnish_cells_total", "KV cells in total", now.cells),
            ("burnish_cells_used", "KV cells in use", now.used_cells),
            ("burnish_cells_running", "KV cells held by running sequences", now.running_cells),
        ):
            yield GaugeMetricFamily(name, text, value=value)
