"""What the trainer is told, and what it remembers over a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.test_train_pack import adapted, llama, rows
from train import build
from train.progress import Progress
from train.settings import TrainSettings
from train.trainer import Batching

# unsloth 2026.10.9 (models/rl.py) gives these arguments of TRL's other defaults where they aren't said; steps of twice
# as many rows came of it
UNSLOTHS = {
    "output_dir", "logging_nan_inf_filter", "per_device_train_batch_size", "gradient_accumulation_steps",
    "weight_decay", "seed", "optim", "learning_rate", "per_device_eval_batch_size", "eval_accumulation_steps",
    "torch_empty_cache_steps", "logging_steps", "bf16", "fp16", "report_to", "warmup_steps", "loss_type",
}  # fmt: skip


def settings_of(**train: Any) -> TrainSettings:
    return TrainSettings.model_validate({"base": {"id": "x"}, "data": {"path": "x"}, "train": train})


def test_nothing_is_left_to_the_defaults_that_unsloth_puts_in_place_of_trls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: dict[str, Any] = {}
    real = build.SFTConfig
    monkeypatch.setattr(build, "SFTConfig", lambda **options: said.update(options) or real(**options))
    build.arguments(settings_of(), tmp_path, "adamw_torch", False)
    assert not UNSLOTHS - set(said)
    assert said["gradient_accumulation_steps"] == 1


def test_early_stopping_counts_on_after_a_resume(base_directory: Path, tmp_path: Path) -> None:
    """Nothing is learned at this rate: no eval loss is below the first, and the fourth evaluation is the last."""

    def trained(steps: int, checkpoint: str | None) -> int:
        stopping = {"eval_steps": 1, "early_stopping_patience": 3, "save_total_limit": 5}
        settings = settings_of(max_steps=steps, learning_rate=1e-30, per_device_train_batch_size=2, **stopping)
        trainer = build.make_trainer(
            settings, Batching(128), None, "adamw_torch", adapted(llama),
            AutoTokenizer.from_pretrained(base_directory), (rows(), rows(2)), tmp_path / "checkpoints",
        )  # fmt: skip
        trainer.add_callback(Progress(tmp_path / "logs", lambda *_: None, 0, False))
        trainer.train(resume_from_checkpoint=checkpoint)
        return int(trainer.state.global_step)

    assert trained(3, None) == 3
    assert trained(20, str(tmp_path / "checkpoints" / "checkpoint-3")) == 4
