"""Differences between runs: settings, figures, evaluations and files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

from burnish.config.schema import show
from burnish.console import cell
from burnish.errors import UserError
from burnish.evaluations.record import evaluations
from burnish.files import first_line
from burnish.overview.summary import Summary
from burnish.records import ExportRecord, TrainRecord
from burnish.run import Run

from .table import console, size

Facts = dict[str, str]
ABSENT = "–"


def compare(runs: Sequence[Summary]) -> int:
    """Print one table with a row for each setting and figure that differs between the runs."""
    columns = [facts(one) for one in runs]
    made = Table()
    for title in ("", *(one.run.id for one in runs)):
        made.add_column(cell(title), overflow="fold")
    same = 0
    for name in dict.fromkeys(name for column in columns for name in column):
        values = [column.get(name, ABSENT) for column in columns]
        if len(set(values)) > 1:
            made.add_row(*map(cell, (name, *values)))
        else:
            same += 1
    console().print(made)
    print(f"{same} settings and figures are the same in all runs")
    return 0


def facts(one: Summary) -> Facts:
    """Return a run's settings, figures, evaluations and files by name."""
    found: Facts = {"state": one.state, "size": size(one.size)}
    for part in (_settings, _trained, _exported, _evaluated):
        try:
            found.update(part(one.run))
        except UserError as error:
            found[part.__name__.strip("_")] = first_line(error)
    return found


def _settings(run: Run) -> Iterator[tuple[str, str]]:
    for section, values in run.settings().items():
        for key, value in values.items():
            yield f"{section}.{key}", show(value)


def _trained(run: Run) -> Iterator[tuple[str, str]]:
    if not run.has(TrainRecord):
        return
    record = run.read(TrainRecord)
    metrics: dict[str, Any] = record.metrics.model_dump()
    yield "created", record.created
    yield "base sha256", record.base.sha256[:12]
    yield "data sha256", record.data.sha256[:12]
    yield "rows", f"{record.data.rows:,} trained, {record.data.eval_rows:,} held out"
    for name in ("train_loss", "eval_loss"):
        yield name, ABSENT if metrics[name] is None else f"{metrics[name]:.4f}"
    yield "seconds", f"{record.metrics.train_runtime_s:,.0f}"


def _exported(run: Run) -> Iterator[tuple[str, str]]:
    if not run.has(ExportRecord):
        return
    record = run.read(ExportRecord)
    yield "serve loads", record.default or ABSENT
    for artifact in record.artefacts:
        kind = "merged" if artifact.kind == "safetensors" else artifact.quantization
        f = artifact.fidelity
        figures = {"KL": f.kl, "loss": f.loss, "general loss": f.loss_general}
        shown = ", ".join(f"{name} {value:.4f}" for name, value in figures.items() if value is not None)
        yield f"file {kind}", f"{artifact.verdict}: {shown}; {size(artifact.bytes)}"


def _evaluated(run: Run) -> Iterator[tuple[str, str]]:
    for one in evaluations(run):
        base = "" if one.base is None else f" (base {one.base.score:.4f})"
        verdict = f", {one.verdict}" if one.verdict else ""
        yield (
            f"evaluation {one.name}, {one.score}, data {one.data_sha256[:12]}",
            f"{one.tuned.score:.4f}{base}{verdict}",
        )
