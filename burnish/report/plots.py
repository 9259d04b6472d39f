"""A run's plots: training curves, row lengths, artifact losses, drift against size."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from ..console import counted
from ..records import Artifact
from .axis import Axis, number
from .chart import Labelled, Series, bars, curves, histogram, scatter
from .collect import View

MIN_KL = 1e-9  # nats; float32 can't distinguish smaller values from 0, and a log axis needs values above 0
MEANS_NOTE = "faint: every logged step; strong: the mean"
LEGEND = {"pass": "artifact, passes", "fail": "artifact, fails", "inconclusive": "artifact, inconclusive"}


@dataclass(frozen=True)
class Plot:
    """A plot: title, a note on its content, the legend as (name, colour class), and the drawing."""

    title: str
    note: str
    legend: list[tuple[str, str]]
    svg: Markup


def training(view: View) -> list[Plot]:
    """Return the plots of training curves and row lengths."""
    figures = (
        _loss(view),
        _curve(view, "learning_rate", "Learning rate", "learning rate", noisy=False),
        _curve(view, "grad_norm", "Gradient norm", "norm before clipping", noisy=True),
        _lengths(view),
    )
    return [plot for plot in figures if plot]


def fidelity(view: View) -> list[Plot]:
    """Return the plots of artifact losses and of drift against size."""
    return [plot for plot in (_losses(view), _drift(view)) if plot]


def short_name(artifact: Artifact) -> str:
    """Return an artifact's plot label: its quantization, with its kind unless it is a GGUF."""
    kind = {"gguf": "", "safetensors": "merged ", "gguf-lora": "lora "}[artifact.kind]
    return kind + artifact.quantization


def _loss(view: View) -> Plot | None:
    series = [Series("train", view.curve("loss"), "trained"), Series("held-out", view.curve("eval_loss"), "held")]
    series = [s for s in series if s.points]
    if not series:
        return None
    values = [p for s in series for p in s.points]
    x = Axis.over("optimizer step", [p[0] for p in values], zero=True)
    y = Axis.over("loss, nats per token", [p[1] for p in values])
    title = "Loss while training"
    note = MEANS_NOTE if series[0].smoothed else ""
    if lost := view.diverged():
        note = f"the loss is not finite at {counted(lost, 'logged step')}: the run diverged"
    return Plot(title, note, [(s.name, s.colour) for s in series], curves(title, x, y, series))


def _curve(view: View, key: str, title: str, label: str, noisy: bool) -> Plot | None:
    one = Series(title, view.curve(key), "trained", noisy)
    if not one.points:
        return None
    x = Axis.over("optimizer step", [p[0] for p in one.points], zero=True)
    y = Axis.over(label, [p[1] for p in one.points], zero=True)
    return Plot(title, MEANS_NOTE if one.smoothed else "", [], curves(title, x, y, [one]))


def _lengths(view: View) -> Plot | None:
    if view.lengths is None:
        return None
    title = f"Length of the {view.lengths_of} rows"
    svg = histogram(title, "tokens in a row", "rows", view.lengths.bin_tokens, view.lengths.counts)
    return Plot(title, f"the limit is {view.train.max_length:,} tokens", [], svg)


def _losses(view: View) -> Plot | None:
    rows = [
        Labelled(name, loss, name) for name, loss in zip(("base", "trained"), view.held_losses() or (), strict=False)
    ]
    rows += [
        Labelled(short_name(a), a.fidelity.loss, a.verdict)
        for a in (view.export.artefacts if view.export else [])
        if a.fidelity.loss is not None
    ]
    if not rows:
        return None
    title = "Held-out response loss"
    legend = _legend(rows)
    note = "mean negative log-likelihood of the true tokens; lower is better"
    return Plot(title, note, legend, bars(title, "nats per token", rows))


def _drift(view: View) -> Plot | None:
    """Plot KL to the trained model, not to the merge: with a common reference, the points are comparable."""
    points = [
        Labelled(short_name(a), a.bytes / 1e6, a.verdict, max(a.fidelity.kl_trained, MIN_KL))
        for a in (view.export.artefacts if view.export else [])
        if a.fidelity.kl_trained is not None
    ]
    if not points:
        return None
    # a floor far below every point would squash the plot; it is then only in the note
    noise = view.exam.noise_kl if view.exam else 0.0
    drawn = noise >= min(p.y for p in points) / 100
    title = "Drift against size"
    x = Axis.over("size, MB", [p.x for p in points], zero=True)
    y = Axis.over("KL to the trained model, nats per token", [p.y for p in points] + [noise] * drawn, log=True)
    note = f"held-out responses; differences below {number(noise)} (one model scored in two batchings) are noise"
    svg = scatter(title, x, y, points, (noise, "noise floor") if drawn else None)
    return Plot(title, note if noise > 0 else "held-out responses", _legend(points), svg)


def _legend(shown: list[Labelled]) -> list[tuple[str, str]]:
    return [(LEGEND.get(colour, colour), colour) for colour in dict.fromkeys(one.colour for one in shown)]
