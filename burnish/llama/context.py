"""A llama.cpp context: KV cache cells, sequences, and one batch at a time with its logits."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from ..machine import cpu_count
from .model import Model
from .runtime import LlamaError, api, runtime

Floats = npt.NDArray[np.float32]
MAX_SEQUENCES = 256  # LLAMA_MAX_SEQ, a compile-time constant of llama.cpp

# as in llama_cpp, but returning a plain number: llama_cpp creates a new pointer object on every call
_logits_address = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)(
    ctypes.cast(api.llama_get_logits_ith, ctypes.c_void_p).value or 0
)


class Context:
    """A context with `n_ctx` KV cache cells, shared by up to `n_seq_max` sequences, and its batch."""

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int,
        n_batch: int = 512,
        n_ubatch: int = 512,
        n_seq_max: int = 1,
        n_outputs_max: int = 0,
        unified: bool = True,
        threads: int | None = None,
        flash_attention: bool | None = None,
        embeddings: bool = False,
    ) -> None:
        """Raises LlamaError if there is too little memory. `unified`: all sequences use one buffer and can share cells;
        otherwise n_ctx is split evenly among sequences. Sliding-window layers keep every cell (swa_full)."""
        params = api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, n_batch, min(n_ubatch, n_batch)
        params.n_seq_max, params.kv_unified = min(n_seq_max, MAX_SEQUENCES), unified
        # llama.cpp asserts one output per sequence; 0 means one per batch token
        params.n_outputs_max = max(n_outputs_max, params.n_seq_max) if n_outputs_max else 0
        params.n_threads = params.n_threads_batch = threads or cpu_count()
        params.flash_attn_type = {None: -1, False: 0, True: 1}[flash_attention]
        params.swa_full, params.embeddings, params.no_perf = True, embeddings, True
        log = runtime()
        log.errors.clear()
        self.model, self.n_batch, self.n_seq_max = model, n_batch, int(params.n_seq_max)
        self.handle = api.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise LlamaError(
                f"{model.path}: can't create a context of {n_ctx} cells: {'; '.join(log.errors) or 'out of memory'}"
            )
        self.n_ctx, self.memory = int(api.llama_n_ctx(self.handle)), api.llama_get_memory(self.handle)
        self._tokens, self._positions, self._sequences = (np.zeros(n_batch, np.int32) for _ in range(3))
        self._ones, self._outputs = np.ones(n_batch, np.int32), np.zeros(n_batch, np.int8)
        self._rows: dict[int, Floats] = {}
        step = self._sequences.itemsize
        self._pointers = np.arange(n_batch, dtype=np.uint64) * step + self._sequences.ctypes.data
        self._batch = api.llama_batch(
            token=self._tokens.ctypes.data_as(ctypes.POINTER(api.llama_token)),
            pos=self._positions.ctypes.data_as(ctypes.POINTER(api.llama_pos)),
            n_seq_id=self._ones.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            seq_id=self._pointers.ctypes.data_as(ctypes.POINTER(ctypes.POINTER(api.llama_seq_id))),
            logits=self._outputs.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def close(self) -> None:
        """Free the context. Further calls do nothing."""
        handle, self.handle = self.handle, None
        if handle:
            api.llama_free(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int], outputs: Sequence[bool]
    ) -> int:
        """Decode one batch, with each token's position and sequence, and whether to compute its logits.

        Returns llama.cpp's status: 0 success, 1 no free cells (nothing changed), 2 aborted, negative on error.
        """
        count = len(tokens)
        if not 0 < count <= self.n_batch:
            raise LlamaError(f"expected a batch of 1 to {self.n_batch} tokens, got {count}")
        self.model.check_ids(tokens)
        self._tokens[:count], self._positions[:count] = tokens, positions
        self._sequences[:count], self._outputs[:count] = sequences, outputs
        self._batch.n_tokens = count
        return int(api.llama_decode(self.handle, self._batch))

    def set_threads(self, count: int) -> None:
        """Set the number of compute threads, starting with the next decode."""
        api.llama_set_n_threads(self.handle, count, count)

    def logits(self, index: int) -> Floats:
        """Return the logits for batch token `index`: float32 [n_vocab], valid until the next decode."""
        address = _logits_address(self.handle, index)
        if not address:
            raise LlamaError(f"batch token {index} has no logits: they were not requested")
        row = self._rows.get(address)
        if row is None:  # cached, because creating a view takes 40 us and llama.cpp's rows don't move
            if len(self._rows) > MAX_SEQUENCES:
                self._rows.clear()
            row = self._rows[address] = np.ctypeslib.as_array(
                (ctypes.c_float * self.model.n_vocab).from_address(address)
            )
        return row

    def remove(self, sequence: int, start: int = -1, end: int = -1) -> bool:
        """Remove a sequence's cells in [start, end); -1 is unbounded. Return False if this memory can't do that."""
        return bool(api.llama_memory_seq_rm(self.memory, sequence, start, end))

    def copy(self, source: int, target: int, start: int = -1, end: int = -1) -> None:
        """Share the `source` cells in [start, end) with `target`; a unified context copies no data."""
        api.llama_memory_seq_cp(self.memory, source, target, start, end)

    def clear(self) -> None:
        api.llama_memory_clear(self.memory, False)

    def last_position(self, sequence: int) -> int:
        """Return a sequence's last position, or -1 if it has no cells."""
        return int(api.llama_memory_seq_pos_max(self.memory, sequence))
