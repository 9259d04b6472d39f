"""The model card's section on evaluations: base and tuned on the same rows."""

from __future__ import annotations

from burnish.console import printable
from burnish.evaluations.record import Evaluation

from .publication import Publication


def evaluated(s: Publication) -> str:
    """Return the section, or "" if there are no evaluations of this export."""
    if not s.evaluations:
        return ""
    return "\n".join([
        "## Evaluations",
        "",
        "The untuned base and the tuned model answered the same rows, quantized alike, with the same prompts. Scores"
        " are means from 0 to 1; in parentheses: 95% bootstrap intervals.",
        "",
        *map(_line, s.evaluations),
        "",
    ])  # fmt: skip


def _line(e: Evaluation) -> str:
    """Return one evaluation in a line."""
    tuned = f"{e.tuned.score:.3f}{_interval(e.tuned.score_ci)}"
    scores = f"{e.base.score:.3f}{_interval(e.base.score_ci)} → {tuned}" if e.base else tuned
    difference = (
        f", difference {e.difference:+.3f}{_interval(e.difference_ci, '+')}" if e.difference is not None else ""
    )
    verdict = f"; {e.verdict}: required was {e.threshold}" if e.threshold else ""
    name, score = (printable(text, one_line=True) for text in (e.name, e.score))
    return f"- `{name}`: {score} on {e.count:,} rows with {e.tuned.quantization}: {scores}{difference}{verdict}"


def _interval(ends: tuple[float, float] | None, sign: str = "") -> str:
    return f" ({ends[0]:{sign}.3f} to {ends[1]:{sign}.3f})" if ends else ""
