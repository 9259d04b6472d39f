"""An exported run consisting of small files with correct hashes, publishable without loading a model."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from burnish.files import file_sha256, tree_sha256
from burnish.run import Run

FIDELITY = {
    "kl": 0.01, "kl_trained": 0.01, "top1_agreement": 0.97, "loss": 0.85, "loss_trained": 0.84, "loss_base": 3.2,
    "prompt_parity": True, "terminator": True,
}  # fmt: skip
WHY = "KL 0.3 is above 0.1"


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link or copy a large file; a symbolic link would point outside the run."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def noise(size: int, seed: str) -> bytes:
    """Return bytes that differ for each seed."""
    return hashlib.shake_256(seed.encode()).digest(size)


def make_run(
    root: Path, name: str = "tuned", failed: tuple[str, ...] = (), model: Path | None = None, **train: Any
) -> Run:
    """Write runs/<name>: merged weights, an adapter and three GGUF files (or the one real `model`) with their records.

    Artifacts whose quantization is in `failed` did not pass; `train` replaces fields of train.json.
    """
    run = Run(root / name)
    ggufs = _ggufs(run, name, model)
    _merged(run.path / "merged")
    _adapter(run.path / "adapter")
    record = _train(run, name) | train
    (run.path / "train.json").write_text(json.dumps(record, indent=2))
    config = {"base": {"quantization": "none"}, "data": {"path": record["data"]["path"]}, "lora": {"r": 8}}
    (run.path / "config.yaml").write_text(json.dumps(config))
    merged = run.path / "merged"
    artifacts = [
        _entry("merged", "safetensors", "F16", sum(p.stat().st_size for p in merged.iterdir()), merged, failed)
    ]
    for quantization, path in ggufs.items():
        artifacts.append(_entry(f"gguf/{path.name}", "gguf", quantization, path.stat().st_size, path, failed))
    passing = [a for a in artifacts if a["kind"] == "gguf" and a["verdict"] == "pass"]
    export = {
        "schema_version": 1, "run_id": name, "created": "2026-01-03T00:00:00Z",
        "train_sha256": file_sha256(run.path / "train.json"),
        "merge": {"base": "original", "reason": "the base was not quantized in training", "candidates": {}},
        "artefacts": artifacts, "default": min(passing, key=lambda a: a["bytes"])["path"] if passing else None,
        "chat_template_sha256": record["chat_template_sha256"], "stop": ["<|im_end|>"], "context_length": 512,
    }  # fmt: skip
    (run.path / "export.json").write_text(json.dumps(export, indent=2))
    return run


def _ggufs(run: Run, name: str, model: Path | None) -> dict[str, Path]:
    directory = run.path / "gguf"
    directory.mkdir(parents=True)
    if model is not None:
        path = directory / f"{name}-Q4_1.gguf"
        link_or_copy(model, path)
        return {"Q4_1": path}
    made = {}
    for quantization, size in {"F16": 3_000_000, "Q8_0": 1_600_000, "Q4_K_M": 900_000}.items():
        made[quantization] = directory / f"{name}-{quantization}.gguf"
        made[quantization].write_bytes(noise(size, name + quantization))
    return made


def _merged(directory: Path) -> None:
    directory.mkdir()
    save_file({"weight": np.ones((64, 64), np.float16)}, directory / "model.safetensors")
    (directory / "config.json").write_text('{"model_type": "llama", "dtype": "float16"}')
    (directory / "tokenizer.json").write_text("{}")


def _adapter(directory: Path) -> None:
    directory.mkdir()
    save_file({"lora_A": np.ones((8, 64), np.float32)}, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text('{"r": 8}')


def _train(run: Run, name: str) -> dict[str, Any]:
    return {
        "schema_version": 1, "run_id": name, "created": "2026-01-02T00:00:00Z",
        "base": {"id": "them/base", "revision": "a" * 40, "sha256": "0" * 64, "license": {"license": "apache-2.0"}},
        "quantization": "none", "load_dtype": "float32", "compute_dtype": "float32", "double_quant": False,
        "skipped_modules": [], "adapter": {"path": "adapter", "sha256": tree_sha256(run.path / "adapter")},
        "data": {"path": "rows.jsonl", "sha256": "d" * 64, "format": "messages", "rows": 90, "eval_rows": 10,
                 "over_length": 2, "lengths": {"bin_tokens": 64, "counts": [70, 30]}},
        "chat_template_sha256": "c" * 64, "template_date": "2026-01-02", "terminators": ["<|im_end|>"],
        "max_length": 512, "metrics": {"train_loss": 0.7, "eval_loss": 0.9, "train_runtime_s": 300.0,
                                       "tokens_per_s": 54.0, "peak_memory_bytes": 1},
        "exam": {"path": "exam", "sha256": "0" * 64, "rows": 15, "tokens": 717},
        "versions": {"torch": "2.13.0"}, "hardware": {"device": "cpu"},
    }  # fmt: skip


def _entry(path: str, kind: str, quantization: str, size: int, file: Path, failed: tuple[str, ...]) -> dict[str, Any]:
    verdict = (
        {"verdict": "fail", "why": WHY} if quantization in failed else {"verdict": "pass", "why": "all checks hold"}
    )
    return {"path": path, "kind": kind, "quantization": quantization, "bytes": size, "sha256": tree_sha256(file),
            "fidelity": FIDELITY, **verdict}  # fmt: skip
