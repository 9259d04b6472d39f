"""Render the page: the headline verdict, the table rows, and the template."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..exam.intervals import Interval
from ..exam.thresholds import qualified
from ..records import Artifact, Fidelity
from ..run import adapter_facts
from . import evaluated, plots
from .answers import answers
from .axis import number
from .collect import View
from .template import rendered

CANDIDATE_FIGURES = (
    ("loss", "held-out loss"),
    ("loss_general", "general-text loss"),
    ("kl_trained", "KL to trained"),
    ("top1_agreement", "top-1"),
)


@dataclass(frozen=True)
class Headline:
    """The one-line verdict, its reason, and its CSS class: pass, fail or open."""

    verdict: str
    why: str
    colour: str


def render(view: View) -> str:
    """Render the page."""
    gate = view.export.gate if view.export else {}
    return rendered(
        "page.html.jinja",
        view=view,
        headline=headline(view),
        tiles=_tiles(view),
        artifacts=[_row(a, view) for a in view.export.artefacts] if view.export else [],
        thresholds=", ".join(f"{k} {v:g}" for k, v in gate.items()),
        qualified=qualified(gate),
        fidelity=plots.fidelity(view),
        training=plots.training(view),
        evaluations=evaluated.evaluated(view),
        scores=evaluated.plot(view),
        candidates=_candidates(view),
        answers=answers(view.exam, view.train),
        facts=_facts(view),
        hashes=_hashes(view),
    )


def headline(view: View) -> Headline:
    """Return which artifact will be served and why, or why none will."""
    export = view.export
    if export is None:
        return Headline("Trained, not exported yet", f"{_gain(view)} Next: make export RUN={view.run.id}", "open")
    if view.stale:
        why = f"The run was trained again after the export. Next: make export RUN={view.run.id}"
        return Headline("The export is from an earlier training", why, "fail")
    if export.no_gguf is not None:
        return Headline("No GGUF, so nothing to serve here", f"{export.no_gguf}. merged/ is examined below.", "open")
    if export.default is None:
        why = f"{_gain(view)} See the table for the reasons."
        if any(a.verdict == "inconclusive" for a in export.artefacts):
            return Headline("No artifact is proven: serve refuses this run", f"{why} More rows may help.", "open")
        return Headline("No artifact passes: serve refuses this run", why, "fail")
    served = next((a for a in export.artefacts if a.path == export.default), None)
    if served is None:
        return Headline(f"serve loads {export.default}", "It is missing from the record's artifacts.", "fail")
    passing = sum(a.verdict == "pass" for a in export.artefacts)
    why = (
        f"It is the smallest GGUF that passes ({size(served.bytes)}; {passing} of {len(export.artefacts)} artifacts"
        f" pass){_kept_gain(served.fidelity)}. {_gain(view)}"
    )
    if remark := qualified(export.gate):
        return Headline(f"serve loads {served.path}, with looser thresholds", f"{why} It was {remark}.", "open")
    return Headline(f"serve loads {served.path}", why, "pass")


def size(count: int) -> str:
    """Format a size in powers of ten, as in the export table."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB" if count >= 1e6 else f"{count:,} bytes"


def _kept_gain(f: Fidelity) -> str:
    if f.loss is None or f.loss_base is None or f.loss_trained is None or f.loss_base <= f.loss_trained:
        return ""
    return f", and it keeps {(f.loss_base - f.loss) / (f.loss_base - f.loss_trained):.1%} of the training gain"


def _gain(view: View) -> str:
    losses = view.held_losses()
    if losses is None:
        return "The exam has no held-out rows, so the gain of training is unknown."
    base, trained = losses
    if trained >= base:
        return f"Training did not improve the held-out response loss: it went from {base:.3f} to {trained:.3f}."
    return f"Training reduced the held-out response loss from {base:.3f} to {trained:.3f} nats per token."


def _tiles(view: View) -> list[tuple[str, str]]:
    m, losses = view.train.metrics, view.held_losses()
    seconds = round(m.train_runtime_s)
    took = (
        f"{seconds // 3600} h {seconds % 3600 // 60} min"
        if seconds >= 3600
        else f"{seconds // 60} min {seconds % 60} s"
    )
    tiles = [("held-out loss, base to trained", f"{losses[0]:.3f} → {losses[1]:.3f}")] if losses else []
    f = view.export.artefacts[0].fidelity if view.export and view.export.artefacts else None
    if f and f.loss_general_base is not None and f.loss_general_trained is not None:
        shown = f"{f.loss_general_base:.3f} → {f.loss_general_trained:.3f}"
        tiles.append(("general-text loss, base to trained", shown))
    return [
        *tiles,
        ("rows trained, held out", f"{view.train.data.rows:,}, {view.train.data.eval_rows:,}"),
        ("training took", took),
        ("tokens per second", f"{m.tokens_per_s:,.0f}"),
        ("peak memory", size(m.peak_memory_bytes)),
    ]


def _row(artifact: Artifact, view: View) -> dict[str, Any]:
    f = artifact.fidelity
    cells = [
        ("size", size(artifact.bytes)),
        ("KL", _number(f.kl)),
        ("KL, general", _number(f.kl_general)),
        ("top-1", _share(f.top1_agreement)),
        ("loss", _number(f.loss)),
        ("base loss", _number(f.loss_base)),
        ("trained loss", _number(f.loss_trained)),
    ]
    served = view.export is not None and artifact.path == view.export.default and not view.stale
    fallbacks = ", ".join(f"{count} tensors {change}" for change, count in artifact.fallbacks.items())
    intervals = {
        "KL": _interval(f.kl_ci, _number),
        "top-1": _interval(f.top1_agreement_ci, _share),
        "loss": _interval(f.loss_ci, _number),
    }
    return {"artifact": artifact, "served": served, "cells": cells, "fallbacks": fallbacks,
            "intervals": {name: intervals.get(name, "") for name, _ in cells}}  # fmt: skip


def _candidates(view: View) -> dict[str, list[tuple[str, str]]]:
    """Return the examined merges with their figures by name."""
    made = view.export.merge.candidates if view.export else {}
    return {
        name: [
            (label, _share(figures.get(key)) if key == "top1_agreement" else _number(figures.get(key)))
            for key, label in CANDIDATE_FIGURES
        ]
        for name, figures in made.items()
    }


def _facts(view: View) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the groups of name-value pairs at the end of the page."""
    train, export = view.train, view.export
    data = train.data
    groups: list[tuple[str, dict[str, Any]]] = [
        (
            "Model",
            {
                "base": train.base.id,
                "revision": train.base.revision,
                "quantization": train.quantization,
                "loaded as": train.load_dtype,
                "computed in": train.compute_dtype,
                "terminators": " ".join(train.terminators),
                "template date": train.template_date,
            },
        ),
        ("Adapter", adapter_facts(view.run)),
        (
            "Data",
            {
                "file": data.path,
                "sources": _sources(view),
                "format": data.format,
                "rows trained": f"{data.rows:,}",
                "rows held out": "; ".join([f"{data.eval_rows:,}", *data.leaks()]),
                "rows over the limit": f"{data.over_length:,}",
                "limit": f"{train.max_length:,} tokens",
                "exam": f"{train.exam.rows} questions, {train.exam.tokens:,} scored tokens",
            },
        ),
        ("Hardware", train.hardware),
        ("Versions", train.versions),
        ("Versions at export", export.versions if export else {}),
    ]
    return [(name, [(k, str(v)) for k, v in facts.items() if v is not None]) for name, facts in groups if facts]


def _sources(view: View) -> str | None:
    """Return how many rows each of several sources gave; None for a single one."""
    found = view.train.data.sources
    return "; ".join(f"{s.used:,} of {s.rows:,} rows of {s.path}" for s in found) if len(found) > 1 else None


def _hashes(view: View) -> list[tuple[str, str]]:
    train, export, push = view.train, view.export, view.push
    found: list[tuple[str, str | None]] = [
        ("base", train.base.sha256),
        ("data", train.data.sha256),
        ("chat template", train.chat_template_sha256),
        ("adapter", train.adapter.sha256),
        ("adapter continued by training", train.adapter.parent_sha256),
        ("exam", train.exam.sha256),
        *([("train.json, as exported", export.train_sha256)] if export else []),
        *[(a.path, a.sha256) for a in (export.artefacts if export else [])],
        *([("train.json, as pushed", push.train_sha256)] if push else []),
        *([("export.json, as pushed", push.export_sha256)] if push else []),
    ]
    return [(name, value) for name, value in found if value]


def _interval(ends: Interval | None, shown: Callable[[Any], str]) -> str:
    return f"{shown(ends[0])} to {shown(ends[1])}" if ends else ""


def _number(value: Any) -> str:
    if not isinstance(value, int | float):
        return "–"
    return f"{value:.4f}" if abs(value) >= 1e-3 or value == 0 else number(float(f"{value:.1e}"))


def _share(value: Any) -> str:
    return f"{value:.1%}" if isinstance(value, int | float) else "–"
