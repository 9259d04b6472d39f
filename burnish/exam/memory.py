"""Memory for the exam of a 16-bit checkpoint, and disk space for an export. Train's plan prints both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..console import gib

PROCESS_BYTES = 600 << 20  # Python, torch, transformers and llama.cpp (351 MiB measured), matrix product buffers
HIDDEN_BYTES = 256 << 20  # hidden states of the questions processed together
LOGITS_BYTES = 64 << 20  # one chunk of logits
LOGITS_COPIES = 6  # includes log-probabilities, their exponentials and the ranking of the most likely tokens
HEAD_SLICE_VALUES = 1 << 24  # head values read at a time: 64 MiB in float32
FLOAT32 = 4
BYTES_16 = 2  # per parameter in merged/ or in the 16-bit GGUF
BYTES_QUANTIZED = 1.1  # at most about 8.5 bits per weight


def group_tokens(hidden: int) -> int:
    """Return how many tokens are processed together; a longer question is processed alone."""
    return max(1, HIDDEN_BYTES // (FLOAT32 * hidden))


def chunk_positions(vocabulary: int) -> int:
    """Return the number of positions whose logits are computed at a time."""
    return max(1, LOGITS_BYTES // (FLOAT32 * vocabulary))


def export_disk(parameters: int, merges: int, types: int) -> int:
    """Return the maximum bytes an export writes: merges, the 16-bit GGUF and one quantized GGUF per type."""
    return int(parameters * ((merges + 1) * BYTES_16 + BYTES_QUANTIZED * types))


@dataclass(frozen=True)
class Sizes:
    """Parameter counts: the largest layer, and weights outside (`around`) the layers, embeddings and head.

    `widest` is the largest per-token output of a layer's matrices (an MLP's gate). `score_heads` is the number of
    attention heads whose full scores are stored, as with logit softcapping.
    """

    largest_layer: int
    around: int
    hidden: int
    widest: int
    vocabulary: int
    score_heads: int = 0


@dataclass(frozen=True)
class ExamMemory:
    """The exam's memory in bytes; the layers and the head never use memory at the same time."""

    layer: int
    states: int
    activations: int
    head: int
    around: int

    @property
    def peak(self) -> int:
        return PROCESS_BYTES + self.around + self.states + max(self.layer + self.activations, self.head)

    def line(self) -> str:
        """Return one line for the log."""
        parts = {"a layer in float32": self.layer, "its activations": self.activations, "hidden states": self.states}
        shown = ", ".join(f"{name} {gib(count)}" for name, count in parts.items())
        return f"memory {gib(self.peak)} ({shown}; logits after them {gib(self.head)})"

    @staticmethod
    def of(sizes: Sizes, lengths: Sequence[int]) -> ExamMemory:
        """Return the memory for questions with these lengths in tokens."""
        longest, every = max(lengths, default=0), sum(lengths)
        together = min(every, max(group_tokens(sizes.hidden), longest))
        # an MLP stores its gate, its up projection and their product; attention stores queries, keys and values
        wide = longest * (3 * sizes.widest + 4 * sizes.hidden) + 3 * sizes.score_heads * longest**2
        logits = min(chunk_positions(sizes.vocabulary), every) * sizes.vocabulary
        head = logits * LOGITS_COPIES + 2 * min(HEAD_SLICE_VALUES, sizes.vocabulary * sizes.hidden)
        return ExamMemory(
            sizes.largest_layer * FLOAT32,
            together * sizes.hidden * FLOAT32,
            wide * FLOAT32,
            head * FLOAT32,
            sizes.around * FLOAT32,
        )
