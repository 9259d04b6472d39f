"""The trainer's arguments, and its state after resuming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from burnish.bases.base import Base
from tests.support.small_models import adapted, gradients, llama, rows
from train.loop import arguments
from train.loop.callbacks import Progress
from train.loop.checkpoints import is_last
from train.loop.trainer import Batching, PackedTrainer, Rows
from train.models.adapters import add_adapter
from train.models.transformers import load_base
from train.private.trl import counted_tokens
from train.resolved import Resolved
from train.settings import TrainSettings
from train.world import World

# unsloth 2026.10.9 (models/rl.py) changes the defaults of these TRL arguments; as a result, steps had
# twice as many rows
UNSLOTHS = {
    "output_dir", "logging_nan_inf_filter", "per_device_train_batch_size", "gradient_accumulation_steps",
    "weight_decay", "seed", "optim", "learning_rate", "per_device_eval_batch_size", "eval_accumulation_steps",
    "torch_empty_cache_steps", "logging_steps", "bf16", "fp16", "report_to", "warmup_steps", "loss_type",
}  # fmt: skip


def resolved(**train: Any) -> Resolved:
    train = {"optim": "adamw_torch", **train}
    return Resolved(TrainSettings.model_validate({"base": {"id": "x"}, "data": {"path": "x"}, "train": train}))


def test_training_arguments_do_not_depend_on_defaults_patched_by_unsloth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed: dict[str, Any] = {}
    real = arguments.SFTConfig
    monkeypatch.setattr(arguments, "SFTConfig", lambda **options: passed.update(options) or real(**options))
    arguments.arguments(resolved(), tmp_path, World())
    assert not UNSLOTHS - set(passed)
    assert passed["gradient_accumulation_steps"] == 1


def test_early_stopping_patience_survives_a_resume(base_tokenizer: Any, tmp_path: Path) -> None:
    """Too low a learning rate: no eval loss improves on the first, so the fourth evaluation is the last."""

    def trained(steps: int, checkpoint: str | None) -> int:
        stopping = {"eval_steps": 1, "save_steps": 1, "early_stopping_patience": 3, "save_total_limit": 5}
        settings = resolved(max_steps=steps, learning_rate=1e-30, per_device_train_batch_size=2, **stopping)
        trainer = arguments.make_trainer(
            settings, Batching(128), None, adapted(llama),
            base_tokenizer, (rows(), rows(2)), tmp_path / "checkpoints", World(),
        )  # fmt: skip
        trainer.add_callback(Progress(tmp_path / "logs", lambda *_: None, 0, False, lambda: 0))
        trainer.train(resume_from_checkpoint=checkpoint)
        return int(trainer.state.global_step)

    assert trained(3, None) == 3
    assert trained(20, str(tmp_path / "checkpoints" / "checkpoint-3")) == 4
    assert is_last(tmp_path / "checkpoints" / "checkpoint-4")
    assert not is_last(tmp_path / "checkpoints" / "checkpoint-2")


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_gradient_checkpointing_works_on_a_freshly_loaded_base(
    base_tokenizer: Any, tmp_path: Path, packed: bool
) -> None:
    """transformers loads a base in evaluation mode, in which its layers don't checkpoint and its dropouts are off."""
    llama().save_pretrained(tmp_path / "base")
    settings = resolved(max_steps=1, per_device_train_batch_size=6)
    model = add_adapter(load_base(Base("x", None, tmp_path / "base", ""), settings.base, World().device), settings.lora)
    trainer = arguments.make_trainer(
        settings, Batching(128, packed=packed, checkpointing=True), None, model,
        base_tokenizer, (rows(), rows(2)), tmp_path / "out", World(),
    )  # fmt: skip
    layer, passes = model.get_base_model().model.layers[0], []
    layer.self_attn.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    parts = len(trainer.batching.cut([len(row.input_ids) for row in rows()]))
    trainer.training_step(model, {"rows": Rows([dict(row) for row in trainer.train_dataset])})
    assert len(passes) == 2 * parts


def test_gradients_are_clipped_to_max_grad_norm(base_tokenizer: Any, tmp_path: Path) -> None:
    settings = resolved(max_steps=1, per_device_train_batch_size=6, max_grad_norm=0.01)
    model = adapted(llama)
    trainer = arguments.make_trainer(
        settings, Batching(128), None, model, base_tokenizer,
        (rows(), rows(2)), tmp_path, World(),
    )  # fmt: skip
    trainer.training_step(model, {"rows": Rows([dict(row) for row in trainer.train_dataset])})
    whole = gradients(model).clone()
    assert whole.norm() > 0.1
    trainer.clip_gradients(model)
    assert torch.allclose(gradients(model), whole * (0.01 / whole.norm()), rtol=1e-3)


def logged(base_tokenizer: Any, directory: Path, **train: Any) -> tuple[PackedTrainer, list[tuple[float, str]]]:
    """Return a trainer that has trained a tiny model, and the updates of its progress bar."""
    updates: list[tuple[float, str]] = []
    trainer = arguments.make_trainer(
        resolved(per_device_train_batch_size=2, **train), Batching(128), None, adapted(llama),
        base_tokenizer, (rows(), rows(2)), directory / "checkpoints", World(),
    )  # fmt: skip
    trainer.add_callback(
        Progress(
            directory / "logs",
            lambda done, text="": updates.append((done, text)),
            0,
            False,
            lambda: counted_tokens(trainer),
        )
    )
    trainer.train()
    return trainer, updates


def test_first_logged_speed_covers_only_time_spent_in_steps(
    base_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10_000, 2))  # the clock advances by two seconds per call
    monkeypatch.setattr("train.loop.callbacks.time.monotonic", lambda: float(next(clock)))
    logged(base_tokenizer, tmp_path, max_steps=3, num_train_epochs=1, eval_steps=1, save_steps=100)
    points = [json.loads(line) for line in (tmp_path / "logs" / "metrics.jsonl").read_text().splitlines()]
    steps = [point for point in points if "loss" in point]
    for step in steps:
        assert step["tokens_per_s"] == pytest.approx(step["num_tokens"] / (2 * step["step"]), abs=0.06)
    assert steps[-1]["num_tokens"] == sum(len(row.input_ids) for row in rows())


def test_progress_bar_shows_the_loss_of_its_step_and_the_last_step_is_logged(
    base_tokenizer: Any, tmp_path: Path
) -> None:
    trainer, updates = logged(base_tokenizer, tmp_path, max_steps=5, logging_steps=2, save_steps=100)
    losses = {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}
    assert set(losses) == {1, 2, 4, 5}
    shown = {done: text.split()[1] for done, text in updates if text}
    assert shown == {step: f"{losses.get(step, losses[2]):.3f}" for step in range(1, 6)}


def test_checkpoint_contains_no_generated_model_card(base_tokenizer: Any, tmp_path: Path) -> None:
    logged(base_tokenizer, tmp_path, max_steps=1, save_steps=1)
    assert (tmp_path / "checkpoints" / "checkpoint-1" / "complete").is_file()
    assert not list(tmp_path.rglob("README.md"))
