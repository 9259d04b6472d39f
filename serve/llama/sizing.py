"""How many sequences and KV cells: from the model, the memory and the processors, unless they are set."""

from __future__ import annotations

from dataclasses import dataclass

from burnish.llama import MOST_SEQUENCES, Context, Model
from burnish.machine import cpu_count, memory_available_bytes

from ..artefact import ServeError
from ..engine.step import SchedulerLimits
from ..settings import ServeSettings

BYTES_PER_NUMBER = 2  # keys and values are stored in float16
SEQUENCES_PER_CORE = 8
FEWEST_SEQUENCES = 4
MOST_SEQUENCES_BY_DEFAULT = 32
# cells of their own are chosen from so many sequences on: with fewer, batches are too small to be worth it
FEWEST_SEPARATE = 8
# the cache takes at most this share of what is free, and by default no more than this: llama.cpp clears all of it at
# start, which took 5 s for 2.3 GB (memory that the machine has yet to find) and 0.5 s for 1.1 GB (that it had at hand)
MEMORY_SHARE = 0.25
MOST_CACHE_BYTES = 1 << 30
# in one pool every token's attention walks all used cells, so few cached ones may stay
POOL_SHARE_FOR_CACHED = 4
MOST_CACHED_IN_POOL = 4096
LEAST_SHARED = 16
# tokens of a step that may have logits for the log-probabilities of prompts: memory for as many rows of the vocabulary
# is kept (20 MB for 152k tokens), and a row takes about a millisecond beside the model
SCORED_TOKENS = 32
COPIED_CELLS_PER_TOKEN = 256


@dataclass(frozen=True)
class Size:
    """The cache: `cells` in all for `slots` sequences, in one pool (`shared`) or in equal parts; its bytes."""

    slots: int
    running: int
    cells: int
    per_slot: int
    shared: bool
    cache_bytes: int
    threads: int
    context: int

    def __str__(self) -> str:
        kind = "in one pool" if self.shared else f"{self.per_slot} for each"
        return (
            f"{self.running} answers at once, {self.context} tokens each at most; {self.cells} cells {kind} "
            f"({self.cache_bytes / 1e9:.2f} GB), {self.threads} threads"
        )


def cell_bytes(model: Model) -> int:
    """Return the bytes of one token's keys and values over all layers, from the GGUF's metadata.

    2 (key, value) x layers x key/value heads x head size x 2 bytes; what a model does not say is taken at its largest.
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


def measure(model: Model, context: int, settings: ServeSettings) -> Size:
    """Choose sequences, cells and layout. Raises ServeError where what is set does not fit together.

    Separate cells for each sequence cost nothing in speed and are taken where enough of them fit; otherwise one pool.
    """
    each = cell_bytes(model)
    budget = int(min(memory_available_bytes() * MEMORY_SHARE, MOST_CACHE_BYTES))
    affordable = settings.cells or max(budget // each, 512)
    wanted = settings.max_sequences or min(
        max(SEQUENCES_PER_CORE * (settings.threads or cpu_count()), FEWEST_SEQUENCES), MOST_SEQUENCES_BY_DEFAULT
    )
    if settings.layout == "unified" or (settings.layout == "auto" and affordable < context * _fewest(wanted, settings)):
        slots = min(2 * wanted, MOST_SEQUENCES)
        cells = _padded(min(affordable, context * wanted))
        return Size(slots, wanted, cells, cells, True, cells * each, _threads(settings), min(context, cells))
    running = wanted if settings.max_sequences else max(1, min(wanted, affordable // context))
    return _separate(running, affordable, context, each, settings)


def _fewest(wanted: int, settings: ServeSettings) -> int:
    """Return how many sequences of full length must fit for separate cells to be chosen."""
    return wanted if settings.max_sequences else min(wanted, FEWEST_SEPARATE)


def _separate(running: int, affordable: int, context: int, each: int, settings: ServeSettings) -> Size:
    per_slot = _padded(min(context, affordable // running))
    if settings.context_length is not None and per_slot < settings.context_length:
        raise ServeError(
            f"{running} sequences of {settings.context_length} tokens need {running * settings.context_length} cells, "
            f"there are {affordable}: lower max_sequences or context_length, raise cells, or take --layout unified"
        )
    # one slot more than can run, so that a cached prefix survives while all run, and gaps can be closed
    slots = min(running + 1, MOST_SEQUENCES)
    cells = per_slot * slots
    return Size(slots, running, cells, per_slot, False, cells * each, _threads(settings), min(context, per_slot))


def _padded(cells: int) -> int:
    """llama.cpp rounds the cells of a stream up to a multiple of 256."""
    return max(256, -(-cells // 256) * 256)


def _threads(settings: ServeSettings) -> int:
    return settings.threads or cpu_count()


def limits(model: Model, size: Size, settings: ServeSettings) -> SchedulerLimits:
    """Return the scheduler's limits for this size."""
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
        cached_cells=min(size.cells // POOL_SHARE_FOR_CACHED, MOST_CACHED_IN_POOL) if size.shared else size.cells,
        queue=settings.max_waiting,
        # separate cells are copied as a whole slot, which costs about as much as reading one token in 256 of its cells
        least_shared=LEAST_SHARED if size.shared else max(LEAST_SHARED, size.per_slot // COPIED_CELLS_PER_TOKEN),
        cuttable=not model.whole_prefix_only,
        scored_tokens=min(SCORED_TOKENS, step),
        reuse=reuse,  # type: ignore[arg-type]
    )


def context(model: Model, size: Size, settings: ServeSettings) -> Context:
    """Make the llama.cpp context of this size."""
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
