"""Scores from one model's logits, alone or against a reference: log-probabilities, KL and top-1 agreement.

Training, export and the benchmarks share this implementation. All figures are in nats, computed in float32 from
log-softmax rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

TOP = 64  # most likely tokens kept per position

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class TopLogprobs:
    """One model's answers at all n scored positions of an exam.

    `ids` and `logp` are [n, TOP]: the most likely tokens and their log-probabilities; `true` is [n]: the true token's.
    """

    ids: Ints
    logp: Floats
    true: Floats

    @staticmethod
    def of(logits: Floats, targets: Sequence[int]) -> TopLogprobs:
        """Compute the answers from raw logits [n, vocabulary] and the n true tokens."""
        logp = log_softmax(logits)
        top = min(TOP, logp.shape[1])
        part = np.argpartition(logp, -top, axis=1)[:, -top:]
        values = np.take_along_axis(logp, part, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        return TopLogprobs(
            np.take_along_axis(part, order, axis=1).astype(np.int32),
            np.take_along_axis(values, order, axis=1),
            logp[np.arange(len(targets)), list(targets)],
        )

    @staticmethod
    def join(parts: Sequence[TopLogprobs]) -> TopLogprobs:
        """Concatenate the answers for several questions."""
        return TopLogprobs(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("ids", "logp", "true")))

    def take(self, mask: npt.NDArray[np.bool_] | slice) -> TopLogprobs:
        """Return the answers at the positions selected by a mask or slice."""
        return TopLogprobs(self.ids[mask], self.logp[mask], self.true[mask])


@dataclass(frozen=True)
class Compared:
    """One model compared with a reference; the full logit rows are not kept.

    `kl` and `agree` are [n]: KL(reference || model) per position, and whether the most likely tokens are the same.
    """

    kl: Floats
    agree: npt.NDArray[np.bool_]

    @staticmethod
    def of(logits: Floats, reference: TopLogprobs) -> Compared:
        """Compare logits [n, vocabulary] with the reference's n rows of logits."""
        logp = log_softmax(logits)
        return Compared(
            kl_with_tail(reference.logp, np.take_along_axis(logp, reference.ids.astype(np.int64), axis=1)),
            logp.argmax(axis=1) == reference.ids[:, 0],
        )

    @staticmethod
    def join(parts: Sequence[Compared]) -> Compared:
        """Concatenate the comparisons for several questions."""
        return Compared(np.concatenate([p.kl for p in parts]), np.concatenate([p.agree for p in parts]))


def log_softmax(logits: Floats) -> Floats:
    """Return log-softmax over the last axis, in float32."""
    shifted = logits.astype(np.float32) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), dtype=np.float32)


def kl_with_tail(p: Floats, q: Floats) -> Floats:
    """Return KL(P || Q) per row, from both distributions' log-probabilities [n, k] for the same k tokens.

    All other tokens count as one bucket, so this is a lower bound on the full KL (by the log-sum inequality). The
    tail mass is 1 - sum, but at least 1e-12.
    """
    p64, q64 = np.exp(p.astype(np.float64)), np.exp(q.astype(np.float64))
    p_tail, q_tail = np.maximum(1 - p64.sum(1), 1e-12), np.maximum(1 - q64.sum(1), 1e-12)
    kl = (p64 * (p.astype(np.float64) - q)).sum(1) + p_tail * np.log(p_tail / q_tail)
    return np.asarray(np.maximum(kl, 0), dtype=np.float32)
