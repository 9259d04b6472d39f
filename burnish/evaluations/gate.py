"""The gate on evaluations: what a run's config requires before it is served or published."""

from __future__ import annotations

from ..errors import UserError
from ..records import ExportRecord
from ..run import Run, RunError
from .record import Evaluation, evaluations, read_evaluation
from .thresholds import Threshold, parse_threshold

SECTION = "evaluation"


def required(run: Run) -> dict[str, Threshold]:
    """Return the thresholds in the run's config by the evaluation's name. Raises RunError if one is malformed."""
    found: dict[str, Threshold] = {}
    for name, text in run.settings().get(SECTION, {}).items():
        try:
            found[str(name)] = parse_threshold(str(text))
        except ValueError as error:
            raise RunError(f"{run.path}/config.yaml: {SECTION}.{name}: {error}") from None
    return found


def unmet(run: Run, export: ExportRecord) -> list[str]:
    """Return a line for each required evaluation that is missing, out of date or below its threshold.

    Required are those in the run's config, and those that were recorded with a threshold of their own.
    """
    wanted = {found.name: parse_threshold(found.threshold) for found in evaluations(run) if found.threshold}
    wanted |= {name: threshold for name, threshold in required(run).items() if name not in wanted}
    return [fault for name, threshold in wanted.items() if (fault := _fault(run, export, name, threshold))]


def _fault(run: Run, export: ExportRecord, name: str, threshold: Threshold) -> str:
    try:
        found = read_evaluation(run, name)
    except UserError as error:
        return f"{error} (required: {threshold})"
    again = f"run `make evaluate RUN={run.id} NAME={name} ...` again"
    if not of_this_export(found, export):
        return f"run '{run.id}': its evaluation '{name}' belongs to a different export: {again}"
    if not threshold.holds(found.tuned.score):
        return f"run '{run.id}': its evaluation '{name}' is {found.tuned.score:.4g}, required: {threshold}"
    return ""


def of_this_export(evaluation: Evaluation, export: ExportRecord) -> bool:
    """Return whether the evaluated file is one of this export's."""
    return evaluation.tuned.sha256 in {artifact.sha256 for artifact in export.artefacts}
