"""The 16-bit merged model as safetensors. With two possible bases, both merges are examined and the better is kept.

No simple rule predicts the better base. The lower held-out response loss wins; within 1%, the lower general-text loss.
A merge that fails the gate never beats one that passes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import load_file, save_file

from burnish.bases.base import Base
from burnish.console import bar, say
from burnish.exam.gate import RANK, judge
from burnish.exam.scores import TopLogprobs
from burnish.files import atomic_directory, atomic_file, remove_partial
from burnish.records import Examined, Fidelity, Kind, Merge
from burnish.run import Run

from .artifacts import WORK, Job, Made, produce
from .exam.examine import examine_checkpoint
from .merge.bases import MERGED, MergeBase, merge_bases, merge_onto
from .merge.dequantize import DTYPES
from .merge.shards import NAMES, sources
from .settings import GateSection

SAME_LOSS = 0.01  # losses that differ by less than this fraction count as equal
ANSWERS = "merged.safetensors"


class Merged(Examined):
    """The examined merged model and its base."""

    merge: Merge


@dataclass(frozen=True)
class Checkpoint:
    """Format: a 16-bit checkpoint merged onto one of the two bases, kept in .export/ until chosen."""

    job: Job
    base: Base
    onto: MergeBase
    kind: Kind = "safetensors"

    @property
    def path(self) -> str:
        return f"{WORK}/{self.onto}"

    def make(self, target: Path) -> Made:
        """Merge the adapter onto this base."""
        merge, run, record = self.job.settings.merge, self.job.run, self.job.record
        remove_partial(target.parent)
        with atomic_directory(target) as directory, bar(f"merge ({self.onto})", len(sources(self.base.path))) as tick:
            adapter = run.path / record.adapter.path
            dtype = merge_onto(self.base.path, adapter, directory, record, self.onto, merge, tick)
        return Made(NAMES[DTYPES[dtype]])

    def examine(self, path: Path) -> Fidelity:
        """Score the checkpoint with transformers, and save its answers beside it as the reference for GGUF files."""
        title = f"the merge ({self.onto})"
        fidelity, answers = examine_checkpoint(
            path, self.job.exam, self.job.record, title, self.job.settings.template_timeout_s
        )
        with atomic_file(path.parent / f"{self.onto}.safetensors") as temporary:
            save_file({"ids": answers.ids, "logp": answers.logp, "true": answers.true}, temporary)
        return fidelity


def make_merged(job: Job, base: Base) -> Merged:
    """Write and examine merged/ unless it already exists unchanged."""
    if found := job.finished.find(job.run, MERGED, Merged):
        say(f"export: {MERGED} exists and is unchanged")
        return found
    bases, reason = merge_bases(job.settings.merge.base, job.record)
    examined = {onto: produce(job, Checkpoint(job, base, onto)) for onto in bases}
    fidelity = {onto: one.fidelity for onto, one in examined.items()}
    best = bases[0]
    if len(bases) > 1:
        best, reason = choose(fidelity, job.settings.gate)
    say(f"export: merged onto the {best} base: {reason}")
    _take(job.run, best, [onto for onto in bases if onto != best])
    figures = {onto: one.model_dump() for onto, one in fidelity.items()}
    merge = Merge(base=best, reason=reason, candidates=figures)
    merged = Merged(**{**dict(examined[best]), "path": MERGED, "merge": merge})
    job.finished.add(merged)
    return merged


def choose(fidelity: Mapping[MergeBase, Fidelity], gate: GateSection) -> tuple[MergeBase, str]:
    """Return the base of the better merged model, and why; the verdict takes precedence over the loss.

    A merge onto weights that the adapter was not trained on may have the lower loss but not match the trained model.
    """
    (first, a), (second, b) = fidelity.items()
    best, reason = _lower_loss(first, a, second, b)
    verdicts = {onto: judge(figures, gate) for onto, figures in fidelity.items()}
    other = second if best == first else first
    if RANK[verdicts[other][0]] < RANK[verdicts[best][0]]:
        state = "fails the gate" if verdicts[best][0] == "fail" else "is inconclusive"
        return other, f"{reason}, but {best} {state}: {verdicts[best][1]}"
    return best, reason


def _lower_loss(first: MergeBase, a: Fidelity, second: MergeBase, b: Fidelity) -> tuple[MergeBase, str]:
    what, losses = "held-out response loss", (a.loss, b.loss)
    if losses[0] is None or losses[1] is None or abs(losses[0] - losses[1]) <= SAME_LOSS * min(losses[0], losses[1]):
        what, losses = "held-out response losses within 1%; general-text loss", (a.loss_general, b.loss_general)
    assert losses[0] is not None and losses[1] is not None  # an exam without held-out rows still contains general text
    best = first if losses[0] <= losses[1] else second
    return best, f"{what} {losses[0]:.4f} ({first}) against {losses[1]:.4f} ({second})"


def merged_answers(run: Run) -> TopLogprobs:
    """Return the merged model's exam answers, the reference for every GGUF file."""
    tensors = load_file(run.path / WORK / ANSWERS)
    return TopLogprobs(tensors["ids"], tensors["logp"], tensors["true"])


def _take(run: Run, best: MergeBase, others: list[MergeBase]) -> None:
    """Move the chosen merged model to merged/ and remove the others."""
    work = run.path / WORK
    shutil.rmtree(run.path / MERGED, ignore_errors=True)
    os.replace(work / best, run.path / MERGED)
    os.replace(work / f"{best}.safetensors", work / ANSWERS)
    for other in others:
        shutil.rmtree(work / other)
