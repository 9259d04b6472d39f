"""The training run: rows → TRL → adapter/ → exam/ → train.json."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from transformers import set_seed
from trl import SFTTrainer

from burnish import run as runs
from burnish.base import licence
from burnish.console import bar, say, warn
from burnish.exam import Exam
from burnish.report import lengths
from burnish.run import Run, TrainRecord
from train import model as models
from train.attention import packs
from train.begin import inputs
from train.build import make_trainer
from train.plan import Plan, rows_per_step
from train.prepare import Prepared
from train.progress import EvalProgress, Progress, last_checkpoint
from train.settings import TrainSettings
from train.sit import questions, sit
from train.speed import Speed
from train.trainer import Batching

PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "tokenizers")


def train(settings: TrainSettings, prepared: Prepared, run: Run, planned: Plan) -> TrainRecord:
    """Train from the start, or from the newest whole checkpoint, and write the record last."""
    checkpoint, step = last_checkpoint(run.path / "checkpoints")
    set_seed(settings.train.seed)
    models.limit_memory(settings.train.memory_gib)
    backend = models.backend(planned.backend)
    base = backend.load(prepared.base, settings)
    skipped = models.skipped_modules(base)
    model = backend.adapt(base, settings, prepared.base.id, planned.checkpointing)
    if getattr(base.config.get_text_config(), "router_aux_loss_coef", None):
        warn("this base is a mixture of experts: the loss that balances its experts is not added; the router is frozen")
    _say_model(model, settings, prepared, run, step)
    free_choice = settings.base.attn_implementation in ("auto", "sdpa")
    packed = settings.data.packing and backend.packs and free_choice and packs(model)
    if settings.data.packing and not free_choice:
        say("train: micro-batches are padded: base.attn_implementation names an attention that takes no packed rows")
    elif settings.data.packing and not packed:
        say(f"train: micro-batches are padded: {planned.backend} can't keep packed rows apart in this base")
    batching = Batching(planned.micro_batch_tokens, packed, planned.checkpointing)
    speed = Speed(model, planned.compiled) if backend.packs and models.device().type == "cuda" else None
    rows = (prepared.train, prepared.heldout)
    output = run.path / "checkpoints"
    trainer = make_trainer(settings, batching, speed, planned.optim, model, prepared.tokenizer, rows, output)
    total = _total_steps(settings, trainer)
    with bar("train", total) as tick:
        trainer.add_callback(Progress(run.path / "logs", tick, step, "tensorboard" in settings.train.report_to))
        result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    metrics = {**result.metrics, **_evaluate(trainer)}
    _save_stats(run, trainer, metrics)
    _save_adapter(run, trainer.model, prepared)
    asked = questions(prepared.heldout, prepared.truncated, prepared.codec, settings.exam)
    exam = sit(trainer.model, asked, prepared.codec, settings.exam)
    with runs.whole_directory(run.path / "exam") as directory:
        exam.save(directory)
    _judge(exam)
    record = _record(settings, prepared, run, skipped, exam, metrics, trainer)
    run.write(record)
    runs.point_latest(run)
    return record


def _dtype_name(settings: TrainSettings) -> str:
    return str(models.dtype(settings.base)).removeprefix("torch.")


def _total_steps(settings: TrainSettings, trainer: SFTTrainer) -> int:
    if settings.train.max_steps > 0:
        return settings.train.max_steps
    return max(1, round(-(-len(trainer.train_dataset) // rows_per_step(settings)) * settings.train.num_train_epochs))


def _say_model(model: Any, settings: TrainSettings, prepared: Prepared, run: Run, step: int) -> None:
    trained, total = model.get_nb_trainable_parameters()
    say(f"run: {run.path}")
    say(
        f"model: {prepared.base.name} on {models.device().type}, {_dtype_name(settings)},"
        f" quantization {settings.base.quantization}; {trained / 1e6:.1f}M of {total / 1e6:.0f}M parameters are trained"
    )
    say(f"data: {len(prepared.train)} rows to train on, {len(prepared.heldout)} held out")
    if step:
        say(f"train: going on from the checkpoint at step {step}")


def _evaluate(trainer: SFTTrainer) -> dict[str, float]:
    """Return TRL's metrics on the held-out rows."""
    batches = -(-len(trainer.eval_dataset) // trainer.args.per_device_eval_batch_size)
    with bar("eval", batches) as tick:
        trainer.add_callback(EvalProgress(tick))
        metrics: dict[str, float] = trainer.evaluate()
    return metrics


def _save_stats(run: Run, trainer: SFTTrainer, metrics: dict[str, Any]) -> None:
    stats = {"metrics": metrics, "log_history": trainer.state.log_history, "global_step": trainer.state.global_step}
    runs.write_atomic(run.path / "logs" / "trainer-stats.json", json.dumps(stats, indent=2, default=float) + "\n")


def _save_adapter(run: Run, model: Any, prepared: Prepared) -> None:
    with runs.whole_directory(run.path / "adapter") as directory:
        model.save_pretrained(directory)
        _name_base(directory / "adapter_config.json", prepared.base.id)
        tokenizer = prepared.tokenizer
        if prepared.template is not None:
            tokenizer.chat_template = prepared.template.source
        tokenizer.save_pretrained(directory)
        (directory / "README.md").unlink(missing_ok=True)  # PEFT's empty model card


def _name_base(path: Path, base_id: str) -> None:
    """Say whose adapter it is by the base's id: it travels, and this machine's paths don't.

    Only here: with an id in its configuration PEFT would ask the hub about the base at every checkpoint.
    """
    config = {**runs.read_json(path), "base_model_name_or_path": base_id}
    path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def _mean_loss(trainer: SFTTrainer, metrics: dict[str, Any]) -> float:
    """Return the mean of the logged losses: after a resume transformers' own divides the last part by all steps."""
    logged = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    return sum(logged) / len(logged) if logged else float(metrics["train_loss"])


def _judge(exam: Exam) -> None:
    """Print the exam's held-out losses, and warn where training gained nothing."""
    held = exam.heldout()
    if not held.any():
        warn("the exam has no held-out row: every held-out row is longer than the exam's limits")
        return
    trained, base = -float(exam.trained.true[held].mean()), -float(exam.base_true[held].mean())
    say(
        f"exam: held-out response loss {base:.3f} without the adapter, {trained:.3f} with it"
        f" (noise KL {exam.noise_kl:.1e})"
    )
    if trained >= base:
        warn("training gained nothing on held-out rows: more rows or another learning rate may help")


def _record(
    settings: TrainSettings,
    prepared: Prepared,
    run: Run,
    skipped: list[str],
    exam: Exam,
    metrics: dict[str, Any],
    trainer: SFTTrainer,
) -> TrainRecord:
    dtype = _dtype_name(settings)
    speed = next((e["tokens_per_s"] for e in reversed(trainer.state.log_history) if "tokens_per_s" in e), 0.0)
    held = [len(q.positions) for q in exam.questions]
    nf4 = settings.base.quantization == "nf4"
    began = inputs(prepared)
    packages = (*PACKAGES, "unsloth") if settings.base.backend == "unsloth" else PACKAGES
    return TrainRecord.model_validate(
        {
            "run_id": run.id,
            "created": runs.now(),
            "base": {
                "id": prepared.base.id,
                "revision": prepared.base.revision,
                "sha256": prepared.base.sha256,
                "license": licence(prepared.base),
            },
            "quantization": settings.base.quantization,
            "load_dtype": dtype,
            "compute_dtype": dtype,
            "double_quant": nf4 and settings.base.double_quant,
            "skipped_modules": skipped,
            "adapter": {"path": "adapter", "sha256": runs.tree_sha256(run.path / "adapter")},
            "data": {
                "path": settings.data.path,
                "sha256": prepared.data_sha256,
                "format": prepared.format,
                "rows": len(prepared.train),
                "eval_rows": len(prepared.heldout),
                "over_length": len(prepared.dropped) + len(prepared.truncated),
                "dropped": len(prepared.dropped),
                "truncated": len(prepared.truncated),
                "lengths": lengths(prepared.lengths).to_dict(),
            },
            "chat_template_sha256": began["chat_template_sha256"] if prepared.format != "text" else None,
            "template_date": began["template_date"],
            "terminators": [prepared.tokenizer.convert_ids_to_tokens(i) for i in prepared.terminators],
            "max_length": settings.data.max_length,
            "metrics": {
                "train_loss": _mean_loss(trainer, metrics),
                "eval_loss": metrics.get("eval_loss"),
                "train_runtime_s": metrics["train_runtime"],
                "tokens_per_s": speed,
                "peak_memory_bytes": models.peak_memory_bytes(),
                "steps": trainer.state.global_step,
            },
            "exam": {
                "path": "exam",
                "sha256": runs.tree_sha256(run.path / "exam"),
                "rows": len(held),
                "tokens": sum(held),
            },
            "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}},
            "hardware": models.hardware(),
        }
    )
