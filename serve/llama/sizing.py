"""Chooses how many sequences and KV cells to use from the model, memory and CPUs, unless configured."""

from __future__ import annotations

from dataclasses import dataclass

from burnish.llama import MAX_SEQUENCES, Context, Model
from burnish.machine import cpu_count, memory_available_bytes

from ..artifact import ServeError
from ..engine.step import SchedulerLimits
from ..settings import ModelSettings

BYTES_PER_NUMBER = 2  # keys and values are stored in float16
SEQUENCES_PER_CORE = 8
MIN_SEQUENCES = 4
DEFAULT_MAX_SEQUENCES = 32
# separate cells are chosen only if this many sequences fit: with fewer, batches are too small
MIN_SEPARATE = 8
# the cache uses at most this share of the free memory, and by default at most this many bytes: llama.cpp clears it at
# startup, which took 5 s for 2.3 GB (memory the kernel had to reclaim first) and 0.5 s for 1.1 GB (already free)
MEMORY_SHARE = 0.25
MAX_CACHE_BYTES = 1 << 30
# in one pool, every token's attention scans all used cells, so only a few cached ones are kept
POOL_CACHED_DIVISOR = 4
MAX_POOL_CACHED = 4096
MIN_SHARED = 16
# prompt tokens per step whose logits are kept for log-probabilities: each needs a vocabulary-sized row (20 MB in
# total for 152k tokens) and about a millisecond on top of the model
SCORED_TOKENS = 32
COPIED_CELLS_PER_TOKEN = 256


@dataclass(frozen=True)
class Size:
    """The cache: `cells` in total for `slots` sequences, in one pool (`shared`) or in equal parts; size in bytes."""

    slots: int
    running: int
    cells: int
    per_slot: int
    shared: bool
    cache_bytes: int
    threads: int
    context: int

    def __str__(self) -> str:
        kind = "in one pool" if self.shared else f"{self.per_slot} per slot"
        return (
            f"{self.running} sequences at once, at most {self.context} tokens each; {self.cells} KV cells, {kind} "
            f"({self.cache_bytes / 1e9:.2f} GB); {self.threads} threads"
        )


def cell_bytes(model: Model) -> int:
    """Return the size in bytes of one token's keys and values over all layers, from GGUF metadata.

    2 (key, value) x layers x key/value heads x head size x 2 bytes. Missing metadata is assumed to be at its maximum.
    """
    data = model.metadata()
    architecture = data.get("general.architecture", "")

    def number(key: str, default: int) -> int:
        text = data.get(f"{architecture}.{key}", "")
        return int(text) if text.isdigit() else default

    layers, heads = number("block_count", 32), number("attention.head_count", 32)
    kv_heads = number("attention.head_count_kv", heads)
    size = number("attention.key_length", number("embedding_length", model.n_embd) // max(heads, 1))
    value_size = number("attention.value_length", size)
    return max(1, layers * kv_heads * (size + value_size) * BYTES_PER_NUMBER)


def measure(model: Model, context: int, settings: ModelSettings) -> Size:
    """Choose sequences, cells and layout. Raises ServeError if the settings contradict each other.

    Separate cells per sequence cost no speed and are used if enough of them fit; otherwise one pool is used.
    """
    each = cell_bytes(model)
    budget = int(min(memory_available_bytes() * MEMORY_SHARE, MAX_CACHE_BYTES))
    affordable = settings.cells or max(budget // each, 512)
    wanted = settings.max_sequences or min(
        max(SEQUENCES_PER_CORE * (settings.threads or cpu_count()), MIN_SEQUENCES), DEFAULT_MAX_SEQUENCES
    )
    if settings.layout == "unified" or (
        settings.layout == "auto" and affordable < context * _min_separate(wanted, settings)
    ):
        slots = min(2 * wanted, MAX_SEQUENCES)
        cells = _padded(min(affordable, context * wanted))
        return Size(slots, wanted, cells, cells, True, cells * each, _threads(settings), min(context, cells))
    running = wanted if settings.max_sequences else max(1, min(wanted, affordable // context))
    return _separate(running, affordable, context, each, settings)


def _min_separate(wanted: int, settings: ModelSettings) -> int:
    """Return how many full-length sequences must fit for separate cells to be chosen."""
    return wanted if settings.max_sequences else min(wanted, MIN_SEPARATE)


def _separate(running: int, affordable: int, context: int, each: int, settings: ModelSettings) -> Size:
    per_slot = _padded(min(context, affordable // running))
    if settings.context_length is not None and per_slot < settings.context_length:
        raise ServeError(
            f"{running} sequences of {settings.context_length} tokens need {running * settings.context_length} KV "
            f"cells, but only {affordable} are available: lower max_sequences or context_length, raise cells, or use "
            "--layout unified"
        )
    # one more slot than sequences can run, so that a cached prefix survives a full load and gaps can be closed
    slots = min(running + 1, MAX_SEQUENCES)
    cells = per_slot * slots
    return Size(slots, running, cells, per_slot, False, cells * each, _threads(settings), min(context, per_slot))


def _padded(cells: int) -> int:
    """Round up to a multiple of 256, as llama.cpp does for a stream's cells."""
    return max(256, -(-cells // 256) * 256)


def _threads(settings: ModelSettings) -> int:
    return settings.threads or cpu_count()


def limits(model: Model, size: Size, settings: ModelSettings, queue: int) -> SchedulerLimits:
    """Return the scheduler's limits for this size; at most `queue` sequences wait."""
    reuse = "none" if not settings.prefix_cache else "whole" if model.whole_prefix_only else "any"
    step = max(settings.step_tokens, size.running)
    return SchedulerLimits(
        slots=size.slots,
        running=size.running,
        cells=size.cells,
        per_slot=size.per_slot,
        shared=size.shared,
        step_tokens=step,
        busy_prompt_tokens=min(settings.prompt_chunk, step),
        cached_cells=min(size.cells // POOL_CACHED_DIVISOR, MAX_POOL_CACHED) if size.shared else size.cells,
        queue=queue,
        # separate cells are copied a whole slot at a time: 256 cells cost about as much as prefilling one token
        min_shared=MIN_SHARED if size.shared else max(MIN_SHARED, size.per_slot // COPIED_CELLS_PER_TOKEN),
        cuttable=not model.whole_prefix_only,
        scored_tokens=min(SCORED_TOKENS, step),
        reuse=reuse,  # type: ignore[arg-type]
    )


def context(model: Model, size: Size, settings: ModelSettings) -> Context:
    """Create a llama.cpp context of this size."""
    step = max(settings.step_tokens, size.running)
    return Context(
        model,
        n_ctx=size.cells,
        n_batch=step,
        n_ubatch=step,
        n_seq_max=size.slots,
        n_outputs_max=size.running + SCORED_TOKENS,
        unified=size.shared,
        threads=size.threads,
    )
