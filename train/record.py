"""Build train.json: a training run's base, data, adapter, settings and metrics."""

from __future__ import annotations

import math
from typing import Any

from burnish import run as runs
from burnish.bases.base import licence
from burnish.data.sources.section import JOIN
from burnish.exam.rows import Exam
from burnish.files import file_sha256, tree_sha256
from burnish.records import TrainRecord
from burnish.report import lengths
from burnish.run import CONFIG, Run
from burnish.versions import versions

from .data.prepare import Prepared
from .models.device import hardware, peak_memory_bytes
from .resolved import Resolved
from .started import template_inputs
from .world import World

MAX_NAMED = 8
PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "tokenizers")


def record_of(
    resolved: Resolved,
    prepared: Prepared,
    run: Run,
    skipped: list[str],
    exam: Exam,
    metrics: dict[str, Any],
    world: World,
) -> TrainRecord:
    """Return the record for a run whose adapter and exam are already written; `metrics` cover the whole run."""
    packages = (*PACKAGES, "unsloth") if resolved.base.backend == "unsloth" else PACKAGES
    return TrainRecord.model_validate(
        {
            "run_id": run.id,
            "created": runs.now(),
            **_base(resolved, prepared, skipped),
            **_template(resolved, prepared),
            "adapter": {
                "path": "adapter",
                "sha256": tree_sha256(run.path / "adapter"),
                "parent_sha256": resolved.parent_sha256,
            },
            "config": {"path": CONFIG, "sha256": file_sha256(run.path / CONFIG)},
            "data": _data(resolved, prepared),
            "metrics": _metrics(metrics),
            "exam": _exam(run, exam),
            "versions": versions(packages),
            "hardware": hardware(world.device),
        }
    )


def _base(resolved: Resolved, prepared: Prepared, skipped: list[str]) -> dict[str, Any]:
    base, dtype = prepared.base, resolved.base.dtype
    return {
        "base": {"id": base.id, "revision": base.revision, "sha256": base.sha256, "license": licence(base)},
        "quantization": resolved.base.quantization,
        "load_dtype": dtype,
        "compute_dtype": dtype,
        "double_quant": resolved.base.quantization == "nf4" and resolved.base.double_quant,
        "skipped_modules": skipped,
    }


def _template(resolved: Resolved, prepared: Prepared) -> dict[str, Any]:
    found, tools = template_inputs(prepared), prepared.codec.dialects
    return {
        "chat_template_sha256": found["chat_template_sha256"] if prepared.format != "text" else None,
        "template_date": found["template_date"],
        "terminators": [prepared.tokenizer.convert_ids_to_tokens(i) for i in prepared.terminators],
        "template_kwargs": resolved.chat.template_kwargs,
        "tool_dialect": tools.dialect.name if tools.dialect and tools.defines else None,
        "reasoning_format": tools.thoughts.name if tools.thoughts else None,
        "special_tokens": prepared.codec.reading,
        "max_length": resolved.data.max_length,
    }


def _data(resolved: Resolved, prepared: Prepared) -> dict[str, Any]:
    return {
        "path": _path(prepared.sources) or resolved.data.path,
        "sha256": prepared.data_sha256,
        "eval_sha256": prepared.eval_sha256,
        "sources": prepared.sources,
        "format": prepared.format,
        "rows": len(prepared.train),
        "eval_rows": len(prepared.heldout),
        "duplicates": prepared.duplicates,
        "deduplicated": prepared.deduplicated,
        "near_duplicates": prepared.near_duplicates,
        "eval_overlap": prepared.eval_overlap,
        "eval_overlap_dropped": prepared.eval_overlap_dropped,
        "over_length": len(prepared.dropped) + len(prepared.truncated),
        "dropped": len(prepared.dropped),
        "truncated": len(prepared.truncated),
        "lengths": lengths(prepared.lengths).to_dict(),
    }


def _path(sources: list[dict[str, Any]]) -> str:
    """Return where the data is from, without what a URL may hold besides the file's name."""
    return JOIN.join(one["path"] for one in sources) if len(sources) <= MAX_NAMED else f"{len(sources)} sources"


def _metrics(metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        "train_loss": metrics["train_loss"],
        "eval_loss": metrics.get("eval_loss"),
        "train_runtime_s": metrics["train_runtime"],
        "tokens_per_s": speed if math.isfinite(speed := metrics["tokens_per_s"]) else 0.0,
        "peak_memory_bytes": peak_memory_bytes(),
        "steps": metrics["steps"],
    }


def _exam(run: Run, exam: Exam) -> dict[str, Any]:
    lengths = [len(q.positions) for q in exam.questions]
    return {
        "path": "exam",
        "sha256": tree_sha256(run.path / "exam"),
        "rows": len(lengths),
        "general_rows": sum(q.kind == "general" for q in exam.questions),
        "tokens": sum(lengths),
    }
