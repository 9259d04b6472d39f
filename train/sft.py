"""The training run: rows → TRL → adapter/ → exam/ → train.json."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, set_seed
from trl import SFTConfig, SFTTrainer

from burnish import run as runs
from burnish.base import licence
from burnish.config import ConfigError
from burnish.console import bar, say, warn
from burnish.exam import Exam
from burnish.report import lengths
from burnish.run import Run, TrainRecord
from train import model as models
from train.begin import inputs
from train.mask import Row
from train.prepare import Prepared
from train.progress import EvalProgress, Progress, last_checkpoint
from train.settings import TrainSettings
from train.sit import questions, sit

PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "tokenizers")


def train(settings: TrainSettings, prepared: Prepared, run: Run) -> TrainRecord:
    """Train from the start, or from the newest whole checkpoint, and write the record last."""
    checkpoint, step = last_checkpoint(run.path / "checkpoints")
    set_seed(settings.train.seed)
    base = models.load_base(prepared.base, settings.base)
    skipped = models.skipped_modules(base)
    model = models.add_adapter(base, settings.lora, prepared.base.id)
    _say_model(model, settings, prepared, run, step)
    trainer = _trainer(settings, prepared, run, model)
    total = _total_steps(settings, trainer)
    with bar("train", total) as tick:
        trainer.add_callback(Progress(run.path / "logs", tick, step))
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


def _trainer(settings: TrainSettings, prepared: Prepared, run: Run, model: Any) -> SFTTrainer:
    """Make TRL's trainer over ready ids and labels: it is never given messages, and nothing is left for it to cut."""
    t, data = settings.train, settings.data
    dtype = models.dtype(settings.base)
    cuda = models.device().type == "cuda"
    arguments = SFTConfig(
        output_dir=str(run.path / "checkpoints"),
        learning_rate=t.learning_rate,
        lr_scheduler_type=t.lr_scheduler_type,
        warmup_steps=t.warmup_steps,
        num_train_epochs=t.num_train_epochs,
        max_steps=t.max_steps,
        weight_decay=t.weight_decay,
        per_device_train_batch_size=t.per_device_train_batch_size,
        per_device_eval_batch_size=t.per_device_train_batch_size,
        gradient_accumulation_steps=t.gradient_accumulation_steps,
        gradient_checkpointing=t.gradient_checkpointing,
        max_grad_norm=t.max_grad_norm,
        optim=t.optim,
        seed=t.seed,
        data_seed=t.seed,
        logging_steps=t.logging_steps,
        logging_first_step=True,
        save_steps=t.save_steps,
        save_total_limit=t.save_total_limit,
        eval_strategy="steps" if t.eval_steps else "no",
        eval_steps=t.eval_steps,
        bf16=cuda and dtype == torch.bfloat16,
        fp16=cuda and dtype == torch.float16,
        use_cpu=not cuda,
        packing=data.packing,
        eval_packing=False,
        max_length=data.max_length if data.packing else None,
        loss_type="nll" if _head_is_adapted(model) else "chunked_nll",
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=0,
        remove_unused_columns=True,
    )
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        processing_class=prepared.tokenizer,
        train_dataset=_dataset(prepared.train, data.assistant_only_loss),
        eval_dataset=_dataset(prepared.heldout, data.assistant_only_loss),
    )
    trainer.remove_callback(PrinterCallback)
    if len(trainer.train_dataset) != len(prepared.train) and not data.packing:
        raise ConfigError(
            f"TRL kept {len(trainer.train_dataset)} of {len(prepared.train)} rows: this is a fault of ours"
        )
    if dtype == torch.float32:
        # TRL casts the adapter of a quantized base to bfloat16, which is slower and coarser on a CPU
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return trainer


def _dataset(rows: list[Row], assistant_only: bool) -> Dataset:
    return Dataset.from_dict(
        {
            "input_ids": [row.input_ids for row in rows],
            "labels": [row.labels(everything=not assistant_only) for row in rows],
        }
    )


def _dtype_name(settings: TrainSettings) -> str:
    return str(models.dtype(settings.base)).removeprefix("torch.")


def _head_is_adapted(model: Any) -> bool:
    return hasattr(model.get_base_model().get_output_embeddings(), "lora_A")


def _total_steps(settings: TrainSettings, trainer: SFTTrainer) -> int:
    if settings.train.max_steps > 0:
        return settings.train.max_steps
    per_step = settings.train.per_device_train_batch_size * settings.train.gradient_accumulation_steps
    return max(1, round(-(-len(trainer.train_dataset) // per_step) * settings.train.num_train_epochs))


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
        tokenizer = prepared.tokenizer
        if prepared.template is not None:
            tokenizer.chat_template = prepared.template.source
        tokenizer.save_pretrained(directory)
        (directory / "README.md").unlink(missing_ok=True)  # PEFT's empty model card


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
                "train_loss": metrics["train_loss"],
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
            "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
            "hardware": models.hardware(),
        }
    )
