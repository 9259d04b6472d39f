"""The gate's verdicts on artifacts: computed at export, and rechecked for every record read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from ..exam.gate import RANK, Verdict, judge, judge_recorded
from ..exam.thresholds import Gate, Thresholds
from ..hub import published_name
from .export import Artifact, Examined, ExportRecord


def judged(examined: Examined, gate: Gate, merged: Artifact | None = None) -> Artifact:
    """Return the artifact with its verdict; a GGUF's is never better than that of its source, `merged`."""
    verdict, why = judge(examined.fidelity, gate)
    if merged is not None and merged.verdict != "pass":
        state = "fails" if merged.verdict == "fail" else "is inconclusive"
        cause = f"the merge it was made from {state}: {merged.why}"
        why = cause if verdict == "pass" else f"{cause}; {why}"
        verdict = max(verdict, merged.verdict, key=RANK.__getitem__)
    return with_verdict(examined, verdict, why)


def with_verdict(examined: Examined, verdict: Verdict, why: str) -> Artifact:
    """Return an examined artifact with this verdict, as stored in records."""
    known = {name: getattr(examined, name) for name in Examined.model_fields}
    return Artifact(**known, verdict=verdict, why=why)


def default_artifact(artifacts: Sequence[Artifact]) -> str | None:
    """Return the smallest GGUF that passes, or None if none does."""
    passing = [a for a in artifacts if a.verdict == "pass" and a.kind == "gguf"]
    return min(passing, key=lambda a: a.bytes).path if passing else None


def contradictions(record: ExportRecord) -> Iterator[str]:
    """Yield contradictions within an export record: figures, verdicts, the default, names.

    A verdict may be worse than its figures and thresholds imply, never better.
    """
    merged = next((a for a in record.artefacts if a.kind == "safetensors"), None)
    gate = Thresholds.of(record.gate)
    for number, artifact in enumerate(record.artefacts):
        where = f"artefacts.{number} ({artifact.path})"
        faults = list(artifact.fidelity.contradictions())
        yield from (f"{where}: fidelity: {fault}" for fault in faults)
        if faults or artifact.verdict != "pass":
            continue
        if artifact.fidelity.kl is not None and (lacking := artifact.fidelity.lacking()):
            yield f"{where}: its verdict is pass, but {', '.join(lacking)} is missing"
            continue
        verdict, why = judge_recorded(artifact.fidelity, gate)
        if verdict != "pass":
            yield f"{where}: its verdict is pass, but its figures and thresholds give {verdict}: {why}"
        elif merged is not None and merged.verdict != "pass":
            yield f"{where}: its verdict is pass, but that of the merge it was made from is {merged.verdict}"
    names = Counter(published_name(a.path) if a.kind == "gguf" else a.path for a in record.artefacts)
    yield from (f"artefacts: '{name}' occurs {count} times" for name, count in names.items() if count > 1)
    found = next((a for a in record.artefacts if a.path == record.default), None)
    if record.default is not None and (found is None or found.kind != "gguf" or found.verdict != "pass"):
        yield f"default: '{record.default}' is not a passing GGUF of this record"
