"""Runs that continue a trained adapter or stop early, and their errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from burnish.records import TrainRecord
from burnish.run import Run
from tests.support.commands import Cli
from tests.support.training import command, only_fault, points


@pytest.mark.slow
def test_early_stopping_keeps_the_best_checkpoint(tiny_base: Path, rows: Path, tmp_path: Path, cli: Cli) -> None:
    steps = ("--train.max_steps", "40", "--train.eval_steps", "1", "--train.early_stopping_patience", "3")
    much = ("--train.learning_rate", "0.02", "--train.lr_scheduler_type", "constant", "--run.name", "stopped")
    done = cli(*command(tiny_base, rows, tmp_path, *steps, *much))
    assert done.returncode == 0, done.stderr
    run = Run(tmp_path / "stopped")
    curve = points(run.path, "eval_loss")
    best = min(range(len(curve)), key=curve.__getitem__) + 1
    record = run.read(TrainRecord)
    assert len(curve) - 1 == best + 3 < 40  # and once more at the end
    assert record.metrics.eval_loss == pytest.approx(curve[best - 1], rel=1e-4)
    checkpoints = run.path / "checkpoints"
    saved, kept, last = (
        load_file(folder / "adapter_model.safetensors")
        for folder in (run.path / "adapter", checkpoints / f"checkpoint-{best}", checkpoints / f"checkpoint-{best + 3}")
    )
    assert all(torch.equal(saved[name], kept[name]) for name in kept)
    assert not all(torch.equal(saved[name], last[name]) for name in kept)
    # killed during the exam, with training complete: the same command gives the same adapter and record
    (run.path / "train.json").unlink()
    shutil.rmtree(run.path / "adapter")
    again = cli(*command(tiny_base, rows, tmp_path, *steps, *much))
    assert again.returncode == 0, again.stderr
    reloaded = load_file(run.path / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(reloaded[name], saved[name]) for name in saved)
    assert run.read(TrainRecord).metrics.eval_loss == pytest.approx(record.metrics.eval_loss, rel=1e-6)
    assert len(points(run.path, "loss")) == best + 3


@pytest.fixture(scope="module")
def first(tiny_base: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Run:
    """A run without TensorBoard events, whose adapter other runs continue."""
    root = tmp_path_factory.mktemp("runs")
    more = ("--run.name", "first", "--train.max_steps", "6", "--train.learning_rate", "0.01", "--lora.r", "4")
    done = cli(*command(tiny_base, rows, root, *more, "--train.report_to", "[]"))
    assert done.returncode == 0, done.stderr
    return Run(root / "first")


@pytest.mark.slow
def test_no_events_are_written_without_tensorboard(first: Run) -> None:
    assert not list((first.path / "logs").glob("events.*"))
    assert points(first.path, "loss")


@pytest.mark.slow
@pytest.mark.parametrize("given", ["id", "directory"])
def test_resume_adapter_keeps_the_rank_of_the_adapter(
    first: Run, tiny_base: Path, rows: Path, tmp_path: Path, cli: Cli, given: str
) -> None:
    start, base = ("first", tiny_base) if given == "id" else (str(first.path / "adapter"), tmp_path / "moved")
    if given == "directory":
        shutil.copytree(tiny_base, base)
    more = ("--lora.resume_adapter", start, "--run.name", f"second-{given}", "--train.max_steps", "2")
    done = cli(*command(base, rows, first.path.parent, *more))
    assert done.returncode == 0, done.stderr
    assert (f"was trained on {tiny_base}, here it is used for {base}" in done.stderr) is (given == "directory")
    assert "are taken from the continued adapter: 4 and 32" in done.stderr
    second = first.path.parent / f"second-{given}"
    # the same rows in the same order: the first step starts from the first run's weights
    assert points(second, "loss")[0] < points(first.path, "loss")[0] - 0.5
    config = json.loads((second / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == 4
    assert str(first.path) not in json.dumps(config)


@pytest.mark.slow
def test_adapter_for_a_different_base_is_a_one_line_error(
    first: Run, tiny_base: Path, rows: Path, tmp_path: Path, cli: Cli
) -> None:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    narrow = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=len(tokenizer),
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(narrow).half().save_pretrained(tmp_path / "narrow")
    tokenizer.save_pretrained(tmp_path / "narrow")
    more = ("--lora.resume_adapter", str(first.path))
    done = cli(*command(tmp_path / "narrow", rows, tmp_path / "runs", *more))
    fault = only_fault(done)
    assert f"lora.resume_adapter {first.path / 'adapter'}: doesn't fit this base" in fault
    assert "Traceback" not in done.stderr


def test_missing_adapter_is_a_one_line_error_before_loading_weights(
    tiny_base: Path, rows: Path, tmp_path: Path, cli: Cli
) -> None:
    done = cli(*command(tiny_base, rows, tmp_path, "--lora.resume_adapter", "nothing", verb="plan"))
    fault = only_fault(done)
    assert "lora.resume_adapter nothing: no adapter_config.json there, and no such run" in fault
