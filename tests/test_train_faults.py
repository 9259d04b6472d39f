"""Failures in training give a one-line error, and no trained steps are lost."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from burnish.config import ConfigError
from burnish.errors import UserError
from burnish.records import TrainRecord
from burnish.run import Run
from tests.support.commands import Cli
from tests.support.small_models import adapted, gradients, llama
from tests.support.small_models import rows as packed_rows
from tests.support.training import command, only_fault
from train.loop import checkpoints
from train.loop.arguments import make_trainer
from train.loop.trainer import Batching, PackedTrainer, Rows
from train.models.adapters import check_targets
from train.objectives.sft import SupervisedFineTuning
from train.plan.preflight import machine_faults
from train.private.trl import counted_tokens
from train.resolved import Resolved
from train.settings import TrainSettings
from train.world import World

TWO_STEPS = {"per_device_train_batch_size": 6, "max_steps": 2, "optim": "adamw_torch"}


# ---- machine and settings: before anything is loaded -----------------------------------------------------------------


@pytest.mark.parametrize("rank", ["0", "1"])
@pytest.mark.parametrize("verb", ["check", "plan"])
def test_invalid_launch_is_reported_by_every_process_before_reading_data(
    tmp_path: Path, cli: Cli, rank: str, verb: str
) -> None:
    arguments = command(tmp_path / "none", tmp_path / "none.jsonl", tmp_path, verb=verb)
    done = cli(*arguments, WORLD_SIZE="2", RANK=rank)
    assert only_fault(done) == "error: training supports one GPU: start it without torchrun"


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) for name in ("unsloth", "wandb", "flash_attn")), reason="they are installed here"
)
def test_all_missing_packages_are_reported_together(tiny_base: Path, rows: Path, tmp_path: Path, cli: Cli) -> None:
    arguments = ("--base.backend", "unsloth", "--train.report_to", "wandb,tensorboard")
    arguments += ("--base.attn_implementation", "flash_attention_2")
    done = cli(*command(tiny_base, rows, tmp_path, *arguments, "--run.name", "mine"), WORLD_SIZE="2")
    assert done.returncode == 2
    assert not (tmp_path / "mine").exists()  # the run name stays free for corrected settings
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    expected = ("unsloth is not installed", "flash_attn is not installed", "wandb is not installed", "without torchrun")
    for fault, words in zip(lines, expected, strict=True):
        assert words in fault
    assert "Traceback" not in done.stderr


def of_machine(**base: str) -> list[str]:
    return machine_faults(TrainSettings.model_validate({"base": {"id": "x", **base}, "data": {"path": "x"}}), World())


def test_outdated_gpu_driver_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable() -> bool:
        warnings.warn("The NVIDIA driver on your system is too old (found version 11040).\nPlease", stacklevel=1)
        return False

    monkeypatch.setattr("torch.cuda.is_available", unavailable)
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setattr("train.plan.preflight.Path", lambda _: SimpleNamespace(exists=lambda: True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (fault,) = of_machine()
    assert "driver on your system is too old (found version 11040)." in fault
    assert "update the NVIDIA driver, or hide the GPU" in fault
    assert "\n" not in fault


def test_old_gpu_and_bitsandbytes_without_cuda_are_one_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (6, 1))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "an old GPU")
    monkeypatch.setattr("bitsandbytes.cextension.lib", SimpleNamespace(compiled_with_cuda=False))
    assert len(of_machine()) == 1
    old, without = of_machine(quantization="nf4")
    assert "the GPU (an old GPU) has compute capability 6.1, training needs 7.0 or newer" in old
    assert "base.quantization: this bitsandbytes has no library for CUDA" in without


def test_typo_in_target_modules_lists_the_layers_before_loading_weights(
    tiny_base: Path, rows: Path, tmp_path: Path, cli: Cli
) -> None:
    done = cli(*command(tiny_base, rows, tmp_path, "--lora.target_modules", "q_proj,v_prj", verb="plan"))
    fault = only_fault(done)
    assert "no layer 'v_prj' (did you mean 'v_proj'?)" in fault
    assert "; known: down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj" in fault


def test_layer_suffixes_are_accepted_and_layers_listed_once() -> None:
    with pytest.raises(ConfigError) as caught:
        check_targets(llama(), ["q", "v"])
    output = caught.value.report()
    assert "no layer 'q' (did you mean 'q_proj'?)" in output and "no layer 'v' (did you mean 'v_proj'?)" in output
    assert output.count("gate_proj") == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"micro_batch_tokens": 4}, "greater than or equal to 8"),
        ({"micro_batch_tokens": "many"}, "'auto' or"),
        ({"gradient_checkpointing": "sometimes"}, "'auto' or"),
        ({"optim": "adam"}, "adamw_8bit"),
        ({"report_to": ["mlflow"]}, "'tensorboard' or 'wandb'"),
        ({"memory_gib": 0.0}, "greater than 0"),
    ],
    ids=str,
)
def test_out_of_range_setting_is_one_line_with_the_expected_range(
    given: dict[str, Any], message: str, tmp_path: Path
) -> None:
    import yaml

    from burnish.config import ConfigError, load

    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({"base": {"id": "x"}, "data": {"path": "x"}, "train": given}))
    with pytest.raises(ConfigError) as caught:
        load(TrainSettings, "train", config, {}, {})
    (fault,) = caught.value.faults
    assert message in fault
    assert fault.startswith(f"{config}:")


def test_early_stopping_needs_eval_steps() -> None:
    with pytest.raises(ValueError, match="early_stopping_patience requires eval_steps"):
        TrainSettings.model_validate(
            {"base": {"id": "x"}, "data": {"path": "x"}, "train": {"early_stopping_patience": 2}}
        )


def test_settings_from_yaml_environment_and_command_line_are_equivalent(tmp_path: Path) -> None:
    from burnish.config import load

    config = tmp_path / "c.yaml"
    yaml_text = "{micro_batch_tokens: 512, gradient_checkpointing: false, torch_compile: auto, report_to: [wandb], "
    config.write_text(f"base: {{id: x}}\ndata: {{path: x}}\ntrain: {yaml_text}optim: sgd, memory_gib: 12}}\n")
    words = {
        "micro_batch_tokens": "512", "gradient_checkpointing": "false", "torch_compile": "auto", "report_to": "wandb",
        "optim": "sgd", "memory_gib": "12",
    }  # fmt: skip
    here = {"base.id": "x", "data.path": "x"}
    from_yaml = load(TrainSettings, "train", config, {}, {})
    from_line = load(TrainSettings, "train", None, here | {f"train.{k}": v for k, v in words.items()}, {})
    environ = {f"BURNISH_TRAIN_TRAIN__{k.upper()}": v for k, v in words.items()}
    from_environment = load(TrainSettings, "train", None, here, environ)
    assert from_yaml == from_line == from_environment
    assert from_yaml.train.gradient_checkpointing is False
    assert load(TrainSettings, "train", None, here | {"train.report_to": "[]"}, {}).train.report_to == []


# ---- out of memory: a CPU can't run out of GPU memory, so the forward pass raises what CUDA would --------------------


class Exhausted(SupervisedFineTuning):
    """Raises out-of-memory, like a GPU, for a forward pass of more than `limit` tokens, or at pass `fails_at`."""

    limit = 10**9
    checkpointed: Batching | None = None  # with gradient checkpointing, everything fits
    calls, fails_at = 0, 0

    def loss(self, rows: Sequence[dict[str, Any]]) -> torch.Tensor:
        made = super().loss(rows)
        self.calls += 1
        if self.calls == self.fails_at:
            raise torch.OutOfMemoryError("CUDA out of memory")
        spared = self.checkpointed is not None and self.checkpointed.checkpointing
        if sum(len(row["input_ids"]) for row in rows) > self.limit and not spared:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return made


def exhausted(trainer: PackedTrainer) -> Exhausted:
    assert isinstance(trainer.objective, Exhausted)
    return trainer.objective


@pytest.fixture
def trained(base_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., PackedTrainer]:
    """Train a tiny Llama for two steps of six rows, on a device with memory for `limit` tokens."""
    output = {"base": {"id": "x"}, "data": {"path": "x"}, "train": TWO_STEPS}
    monkeypatch.setattr("train.loop.arguments.SupervisedFineTuning", Exhausted)

    def train(limit: int, unless_checkpointing: bool = False) -> PackedTrainer:
        parts = (packed_rows(), packed_rows(2))
        resolved = Resolved(TrainSettings.model_validate(output))
        trainer = make_trainer(resolved, Batching(128), None, adapted(llama), base_tokenizer, parts, tmp_path, World())
        exhausted(trainer).limit = limit
        exhausted(trainer).checkpointed = trainer.batching if unless_checkpointing else None
        trainer.train()
        return trainer

    return train


def losses(trainer: PackedTrainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_out_of_memory_halves_micro_batches_and_repeats_the_step(
    trained: Callable[..., PackedTrainer], capsys: pytest.CaptureFixture[str]
) -> None:
    roomy, tight = trained(10**9), trained(70)
    assert roomy.batching.tokens == 128
    assert tight.batching.tokens == 64
    assert not tight.batching.checkpointing
    assert losses(tight) == pytest.approx(losses(roomy), rel=1e-5)
    assert counted_tokens(tight) == counted_tokens(roomy) == 2 * sum(len(r.input_ids) for r in packed_rows())
    assert capsys.readouterr().err.count("out of memory: continuing with micro-batches of 64 tokens") == 1


def test_evaluation_out_of_memory_uses_smaller_batches(trained: Callable[..., PackedTrainer]) -> None:
    trainer = trained(10**9)
    whole = trainer.evaluate()["eval_loss"]
    trainer.batching.tokens, exhausted(trainer).limit = 128, max(len(row.input_ids) for row in packed_rows(2))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(whole, rel=1e-5)
    assert trainer.batching.tokens < 128


def test_micro_batches_before_out_of_memory_are_not_counted_twice(
    base_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = (packed_rows(), packed_rows(2))
    output = {"base": {"id": "x"}, "data": {"path": "x"}, "train": {"optim": "adamw_torch"}}
    resolved = Resolved(TrainSettings.model_validate(output))
    monkeypatch.setattr("train.loop.arguments.SupervisedFineTuning", Exhausted)

    def stepped(fails_at: int) -> torch.Tensor:
        model = adapted(llama)
        trainer = make_trainer(resolved, Batching(80), None, model, base_tokenizer, parts, tmp_path, World())
        exhausted(trainer).fails_at = fails_at
        trainer.training_step(model, {"rows": Rows(list(trainer.train_dataset))})
        assert trainer.batching.tokens == (40 if fails_at else 80)
        return gradients(model)

    unbroken = stepped(0)
    assert (stepped(2) - unbroken).norm() < 1e-4 * unbroken.norm()


def test_checkpointing_is_enabled_if_the_longest_row_does_not_fit(
    trained: Callable[..., PackedTrainer], capsys: pytest.CaptureFixture[str]
) -> None:
    roomy, tight = trained(10**9), trained(30, unless_checkpointing=True)
    assert tight.batching.tokens == 40  # the longest row
    assert tight.batching.checkpointing
    assert losses(tight) == pytest.approx(losses(roomy), rel=1e-5)
    assert "continuing with gradient checkpointing" in capsys.readouterr().err


def test_final_out_of_memory_is_one_line_with_advice(trained: Callable[..., PackedTrainer]) -> None:
    with pytest.raises(UserError) as caught:
        trained(30)
    (fault,) = caught.value.faults
    for words in ("one row of 40 tokens", "data.max_length", "lora.r", "smaller base", "checkpoint is kept"):
        assert words in fault


@pytest.mark.parametrize(
    ("raised", "free", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), 10**12, "out of memory while loading, evaluating or examining"),
        (RuntimeError("PytorchStreamWriter failed writing file data/0"), 1000, "the disk is full: free space"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), 1000, "the disk is full: free space"),
    ],
    ids=["memory", "torch", "safetensors"],
)
def test_full_disk_or_memory_is_one_line_with_the_resume_step(
    raised: Exception, free: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    (tmp_path / "checkpoints" / "checkpoint-4").mkdir(parents=True)
    (tmp_path / "checkpoints" / "checkpoint-4" / "complete").touch()
    (tmp_path / "checkpoints" / "checkpoint-8").mkdir()  # half-written
    with pytest.raises(UserError) as caught, checkpoints.explained(tmp_path):
        raise raised
    (fault,) = caught.value.faults
    assert message in fault
    assert "the checkpoint at step 4" in fault


def test_internal_error_is_not_reported_as_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"), checkpoints.explained(tmp_path):
        raise RuntimeError("shapes don't fit")


# ---- whole runs ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def poisoned(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base with an untied head, and with one character whose embedding gives a non-finite loss."""
    from transformers import AutoTokenizer

    base = tmp_path_factory.mktemp("poisoned") / "base"
    shutil.copytree(tiny_base, base)
    weights = load_file(base / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    tokens = AutoTokenizer.from_pretrained(base)(" ß", add_special_tokens=False).input_ids
    weights["model.embed_tokens.weight"][tokens] = torch.nan
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    config = json.loads((base / "config.json").read_text()) | {"tie_word_embeddings": False}
    (base / "config.json").write_text(json.dumps(config))
    return base


@pytest.mark.slow
def test_non_finite_loss_stops_training_and_names_its_rows(
    poisoned: Path, rows: Path, tmp_path: Path, cli: Cli
) -> None:
    data = tmp_path / "rows.jsonl"
    lines = rows.read_text().splitlines()
    lines[9] = lines[9].replace("says", "ß")
    data.write_text("\n".join(lines))
    arguments = command(poisoned, data, tmp_path / "runs", "--train.per_device_train_batch_size", "2")
    done = cli(*arguments)
    assert done.returncode == 2, done.stderr
    found = re.search(
        r"^error: step (\d+): the loss is nan; its rows in the data: ([\d, ]+);", done.stderr, re.MULTILINE
    )
    assert found, done.stderr
    step, named = int(found[1]), [int(n) for n in found[2].split(", ")]
    assert 10 in named
    assert len(named) == 2
    assert "Traceback" not in done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "checkpoints" / f"checkpoint-{step - 1}" / "complete").is_file()
    assert not Run(run).has(TrainRecord)
    again = cli(*arguments, "--resume")
    assert f"resuming from the checkpoint at step {step - 1}" in again.stderr
    assert f"error: step {step}: the loss is nan" in again.stderr


def test_non_finite_gradient_stops_before_saving(base_tokenizer: Any, tmp_path: Path) -> None:
    output = {"base": {"id": "x"}, "data": {"path": "x"}, "train": {**TWO_STEPS, "save_steps": 1}}
    model = adapted(llama)
    weight = next(p for p in model.parameters() if p.requires_grad)
    weight.register_hook(lambda gradient: gradient * float("nan"))
    trainer = make_trainer(
        Resolved(TrainSettings.model_validate(output)), Batching(128), None, model,
        base_tokenizer, (packed_rows(), packed_rows(2)), tmp_path, World(),
    )  # fmt: skip
    with pytest.raises(UserError, match="step 1: .*its gradient is not finite; its rows in the data:"):
        trainer.train()
    assert not list(tmp_path.glob("checkpoint-*"))
    assert not trainer.state.log_history
