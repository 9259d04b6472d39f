"""train.json: what was trained, on what, with what, and how it went."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from burnish import run as runs
from burnish.base import licence
from burnish.exam import Exam
from burnish.report import lengths
from burnish.run import Run, TrainRecord
from train import model as models
from train.begin import inputs
from train.prepare import Prepared
from train.settings import TrainSettings

PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "tokenizers")


def record_of(
    settings: TrainSettings, prepared: Prepared, run: Run, skipped: list[str], exam: Exam, metrics: dict[str, Any]
) -> TrainRecord:
    """Return the record of a run whose adapter and exam are written; `metrics` are those of the whole run."""
    packages = (*PACKAGES, "unsloth") if settings.base.backend == "unsloth" else PACKAGES
    return TrainRecord.model_validate(
        {
            "run_id": run.id,
            "created": runs.now(),
            **_base(settings, prepared, skipped),
            **_template(settings, prepared),
            "adapter": {"path": "adapter", "sha256": runs.tree_sha256(run.path / "adapter")},
            "data": _data(settings, prepared),
            "metrics": _metrics(metrics),
            "exam": _exam(run, exam),
            "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}},
            "hardware": models.hardware(),
        }
    )


def _base(settings: TrainSettings, prepared: Prepared, skipped: list[str]) -> dict[str, Any]:
    base, dtype = prepared.base, models.dtype_name(settings.base)
    return {
        "base": {"id": base.id, "revision": base.revision, "sha256": base.sha256, "license": licence(base)},
        "quantization": settings.base.quantization,
        "load_dtype": dtype,
        "compute_dtype": dtype,
        "double_quant": settings.base.quantization == "nf4" and settings.base.double_quant,
        "skipped_modules": skipped,
    }


def _template(settings: TrainSettings, prepared: Prepared) -> dict[str, Any]:
    began = inputs(prepared)
    return {
        "chat_template_sha256": began["chat_template_sha256"] if prepared.format != "text" else None,
        "template_date": began["template_date"],
        "terminators": [prepared.tokenizer.convert_ids_to_tokens(i) for i in prepared.terminators],
        "special_tokens": prepared.codec.reading,
        "max_length": settings.data.max_length,
    }


def _data(settings: TrainSettings, prepared: Prepared) -> dict[str, Any]:
    return {
        "path": settings.data.path,
        "sha256": prepared.data_sha256,
        "eval_sha256": prepared.eval_sha256,
        "format": prepared.format,
        "rows": len(prepared.train),
        "eval_rows": len(prepared.heldout),
        "duplicates": prepared.duplicates,
        "near_duplicates": prepared.near_duplicates,
        "eval_overlap": prepared.eval_overlap,
        "eval_overlap_dropped": prepared.eval_overlap_dropped,
        "over_length": len(prepared.dropped) + len(prepared.truncated),
        "dropped": len(prepared.dropped),
        "truncated": len(prepared.truncated),
        "lengths": lengths(prepared.lengths).to_dict(),
    }


def _metrics(metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        "train_loss": metrics["train_loss"],
        "eval_loss": metrics.get("eval_loss"),
        "train_runtime_s": metrics["train_runtime"],
        "tokens_per_s": metrics["tokens_per_s"],
        "peak_memory_bytes": models.peak_memory_bytes(),
        "steps": metrics["steps"],
    }


def _exam(run: Run, exam: Exam) -> dict[str, Any]:
    held = [len(q.positions) for q in exam.questions]
    return {"path": "exam", "sha256": runs.tree_sha256(run.path / "exam"), "rows": len(held), "tokens": sum(held)}
