"""The training run: train the rows with TRL, write adapter/ and exam/, and finally train.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import set_seed

from burnish import run as runs
from burnish.chat import ChatError
from burnish.console import bar, millions, say, warn
from burnish.exam.rows import Exam
from burnish.files import atomic_directory, private_directory, read_json, write_atomic
from burnish.records import TrainRecord
from burnish.run import Run
from burnish.tokenizers import loader as tokenizers
from burnish.tokenizers.specials_check import SpecialsCheck

from .data.prepare import Prepared
from .exam import examine, questions
from .kernels.attention import padding_reason
from .kernels.compile import FastLayers
from .loop.arguments import make_trainer
from .loop.callbacks import EvalProgress, Progress, logged_seconds
from .loop.checkpoints import is_last, last_checkpoint, restore, step_of
from .loop.trainer import Batching, PackedTrainer
from .models.backends import Backend, backend
from .models.device import limited_memory
from .models.transformers import skipped_modules
from .private.trl import counted_tokens
from .record import record_of
from .resolved import Resolved
from .started import write_config
from .world import World


def train(resolved: Resolved, prepared: Prepared, run: Run, world: World) -> TrainRecord | None:
    """Train from the beginning or the newest complete checkpoint, and write the record last.

    The main process writes and returns the record; other processes return None.
    """
    checkpoint, step = last_checkpoint(run.path / "checkpoints")
    set_seed(resolved.train.seed)
    with limited_memory(resolved.train.memory_gib, world.device):
        loader = backend(resolved.base.backend)
        base = loader.load(prepared.base, resolved, world.device)
        skipped = skipped_modules(base)
        model = loader.adapt(base, resolved)
        if getattr(base.config.get_text_config(), "router_aux_loss_coef", None):
            warn(
                "this base is a mixture of experts: training does not add its load-balancing loss "
                "(router_aux_loss_coef), so long training may unbalance the experts"
            )
        _say_model(model, resolved, prepared, run, step, world)
        resolved = resolved.packing(_packs(resolved, loader, model))
        if world.is_main:
            write_config(run, resolved)
        with _fast_layers(model, resolved, loader, world) as fast_layers:
            trainer, metrics = _fit(model, fast_layers, resolved, prepared, run, checkpoint, world)
        if not world.is_main:
            return None
        _save_stats(run, trainer, metrics)
        _save_adapter(run, trainer.model, prepared)
        exam = _examine(run, trainer.model, prepared, resolved)
    record = record_of(resolved, prepared, run, skipped, exam, {**metrics, **_whole_run(trainer, metrics)}, world)
    run.write(record)
    runs.point_latest(run)
    return record


@contextmanager
def _fast_layers(model: Any, resolved: Resolved, loader: Backend, world: World) -> Iterator[FastLayers | None]:
    """Inside the context, use fused and compiled layers if there is a GPU."""
    if not loader.packs or world.device.type != "cuda":
        yield None
        return
    with closing(FastLayers(model, resolved.compiled)) as fast_layers:
        yield fast_layers


def _fit(
    model: Any,
    fast_layers: FastLayers | None,
    resolved: Resolved,
    prepared: Prepared,
    run: Run,
    checkpoint: Path | None,
    world: World,
) -> tuple[PackedTrainer, dict[str, Any]]:
    """Train the remaining steps and evaluate; return the trainer and TRL's metrics."""
    batching = Batching(resolved.micro_batch_tokens, resolved.data.packing, resolved.checkpointing)
    rows, output = (prepared.train, prepared.heldout), run.path / "checkpoints"
    trainer = make_trainer(resolved, batching, fast_layers, model, _tokenizer(prepared), rows, output, world)
    if world.is_main:
        private_directory(output)
    with bar("train", resolved.steps) as tick:
        if world.is_main:
            resumed = step_of(checkpoint) if checkpoint else 0
            events, tokens = "tensorboard" in resolved.train.report_to, partial(counted_tokens, trainer)
            trainer.add_callback(Progress(run.path / "logs", tick, resumed, events, tokens))
        if checkpoint and is_last(checkpoint):
            restore(trainer, checkpoint)
            trained = {"train_loss": 0.0, "train_runtime": logged_seconds(run.path / "logs")}
        else:
            trained = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None).metrics
    return trainer, {**trained, **_evaluate(trainer)}


def _examine(run: Run, model: Any, prepared: Prepared, resolved: Resolved) -> Exam:
    """Write the trained model's exam, and print its losses."""
    exam_questions = questions(prepared.heldout, prepared.codec, resolved.exam)
    exam = replace(
        examine(model, exam_questions, prepared.codec, resolved.exam), specials_check=_specials_check(prepared)
    )
    with atomic_directory(run.path / "exam", private=True) as directory:
        exam.save(directory)
    _say_losses(exam)
    return exam


def _specials_check(prepared: Prepared) -> SpecialsCheck | None:
    """Return the check for how artifacts tokenize special strings in messages; None for plain texts."""
    if prepared.template is None or prepared.format == "text":
        return None
    try:
        return SpecialsCheck.of(prepared.codec.chat(prepared.template))
    except ChatError as error:
        warn(f"the exam can't check how special strings in messages are read: {error}")
        return None


def _packs(resolved: Resolved, loader: Backend, model: Any) -> bool:
    """Return whether rows are packed; print why if they should be but can't."""
    if not resolved.data.packing:
        return False
    if not loader.packs:
        why = f"{resolved.base.backend} does not support packed rows"
    elif not (why := padding_reason(model)) and resolved.base.attn_implementation != "sdpa":
        why = f"base.attn_implementation {resolved.base.attn_implementation} does not support packed rows"
    if why:
        say(f"train: micro-batches are padded: {why}")
    return not why


def _say_model(model: Any, resolved: Resolved, prepared: Prepared, run: Run, step: int, world: World) -> None:
    trained, total = model.get_nb_trainable_parameters()
    say(f"run: {run.path}")
    say(
        f"model: {prepared.base.name} on {world.device.type}, {resolved.base.dtype},"
        f" quantization {resolved.base.quantization}; training {millions(trained)} of {millions(total)} parameters"
    )
    say(f"data: {len(prepared.train)} rows for training, {len(prepared.heldout)} held out")
    if step:
        say(f"train: resuming from the checkpoint at step {step}")


def _evaluate(trainer: PackedTrainer) -> dict[str, float]:
    """Return TRL's metrics on the held-out rows."""
    batches = -(-len(trainer.eval_dataset) // trainer.args.per_device_eval_batch_size)
    with bar("eval", batches) as tick:
        trainer.add_callback(EvalProgress(tick))
        metrics: dict[str, float] = trainer.evaluate()
    return metrics


def _save_stats(run: Run, trainer: PackedTrainer, metrics: dict[str, Any]) -> None:
    stats = {
        "created": runs.now(),
        "metrics": metrics,
        "log_history": trainer.state.log_history,
        "global_step": trainer.state.global_step,
    }
    write_atomic(run.path / "logs" / "trainer-stats.json", json.dumps(stats, indent=2, default=float) + "\n")


def _save_adapter(run: Run, model: Any, prepared: Prepared) -> None:
    with atomic_directory(run.path / "adapter") as directory:
        model.save_pretrained(directory)
        _name_base(directory / "adapter_config.json", prepared.base.id)
        tokenizers.save(_tokenizer(prepared), directory)
        (directory / "README.md").unlink(missing_ok=True)  # PEFT's empty model card


def _tokenizer(prepared: Prepared) -> Any:
    """Return the tokenizer for checkpoints and the adapter, with the run's template instead of the base's."""
    if prepared.template is not None:
        prepared.tokenizer.chat_template = prepared.template.source
    return prepared.tokenizer


def _name_base(path: Path, base_id: str) -> None:
    """Set the base's id in the adapter's config, since local paths are useless elsewhere.

    The id is set only at the end: with an id, PEFT would query the Hub about the base at every checkpoint.
    """
    config = {**read_json(path), "base_model_name_or_path": base_id}
    path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def _whole_run(trainer: PackedTrainer, metrics: dict[str, Any]) -> dict[str, float]:
    """Return the steps, speed and mean logged loss.

    After a resume, transformers' own mean would divide the losses since the resume by all steps.
    """
    history = trainer.state.log_history
    logged = [float(entry["loss"]) for entry in history if "loss" in entry] or [float(metrics["train_loss"])]
    speed = next((entry["tokens_per_s"] for entry in reversed(history) if "tokens_per_s" in entry), 0.0)
    return {"train_loss": sum(logged) / len(logged), "tokens_per_s": speed, "steps": trainer.state.global_step}


def _say_losses(exam: Exam) -> None:
    """Print the exam's held-out losses, with a warning if training gained nothing."""
    held = exam.heldout()
    if not held.any():
        warn("the exam has no held-out rows: all of them exceed the exam's limits")
        return
    trained, base = -float(exam.trained.true[held].mean()), -float(exam.base_true[held].mean())
    say(
        f"exam: held-out response loss {base:.3f} without the adapter, {trained:.3f} with it"
        f" (noise KL {exam.noise_kl:.1e})"
    )
    if trained >= base:
        warn("training did not improve the held-out loss: more rows or another learning rate may help")
