"""Processes of a run: only the main process prints and writes; global state is restored after a run."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.config
import torch._functorch.config
from huggingface_hub.utils import are_progress_bars_disabled
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.utils.logging import is_progress_bar_enabled

from burnish.config import ConfigError
from burnish.console import say
from burnish.environment import ENVIRONMENT, QUIET, prepared_process
from burnish.records import TrainRecord
from burnish.run import Run
from tests.support.small_models import adapted, llama
from train import __main__ as command
from train import stage
from train.kernels.compile import FastLayers
from train.world import World

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}


def test_single_process_is_the_main_process() -> None:
    assert World.read({}) == World()
    assert World().is_main


def test_torchrun_variables_set_rank_and_world_size() -> None:
    world = World.read(TORCHRUN)
    assert (world.rank, world.size, world.local_rank, world.is_main) == (3, 4, 1, False)


@pytest.mark.parametrize("variables", [{"RANK": "1"}, {"RANK": "3", "WORLD_SIZE": "2"}, {"WORLD_SIZE": "0"}])
def test_rank_not_below_world_size_is_rejected(variables: dict[str, str]) -> None:
    """Otherwise a run with a stray RANK variable would train to the end and write nothing."""
    with pytest.raises(ConfigError, match="the rank must be less than the size"):
        World.read(variables)


def test_non_numeric_variables_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        World.read({"RANK": "first", "WORLD_SIZE": "2", "LOCAL_RANK": ""})
    assert caught.value.faults == (
        "RANK: expected a number, not 'first'",
        "LOCAL_RANK: expected a number, not ''",
    )


def test_each_process_uses_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert World(3, 4, 1).device == torch.device("cpu") or torch.cuda.is_available()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert World().device == torch.device("cuda")
    assert World(3, 4, 1).device == torch.device("cuda", 1)


def test_only_the_main_process_prints(capsys: pytest.CaptureFixture[str]) -> None:
    for world in (World(), World(1, 2)):
        with world.only_main_prints():
            say(f"rank {world.rank}")
            print(f"rank {world.rank}")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("rank 0\n", "rank 0\n")


# ---- whole runs in this process --------------------------------------------------------------------------------------


def arguments(base: Path, rows: Path, root: Path) -> list[str]:
    where = ["--base.id", str(base), "--data.path", str(rows), "--run.root", str(root), "--run.name", "one"]
    return ["run", *where, "--data.max_length", "128", "--train.max_steps", "2", "--exam.answers", "0"]


def globals_of_the_process() -> dict[str, Any]:
    """Return the global state that a run could change."""
    loggers = [logging.root, *(logging.getLogger(name) for name in list(logging.root.manager.loggerDict))]
    return {
        "environment": dict(os.environ),
        "warnings": list(warnings.filters),
        "logging": {logger.name: (logger.level, logger.disabled, logger.propagate) for logger in loggers},
        "streams": (sys.stdout, sys.stderr, sys.excepthook),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "directory": os.getcwd(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic),
        "benchmark": torch.backends.cudnn.benchmark,
        "precision": (torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32),
        "defaults": (torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "functorch": torch._functorch.config.get_config_copy(),
        "dynamo": torch._dynamo.config.get_config_copy(),
        "attention": (dict(AttentionInterface._global_mapping), dict(AttentionMaskInterface._global_mapping)),
        "bars": (is_progress_bar_enabled(), are_progress_bars_disabled()),
        "forward": (torch.nn.Linear.forward, torch.nn.Module.__call__),
    }


def changed(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return the differences; loggers created in the meantime do not count."""
    after = {**after, "logging": {name: after["logging"][name] for name in before["logging"]}}
    return {name: (value, after[name]) for name, value in before.items() if after[name] != value}


@pytest.mark.slow
def test_global_state_is_restored_after_a_run(
    tiny_base: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    during: dict[str, Any] = {}

    def watched(*arguments: Any) -> TrainRecord | None:
        during.update(globals_of_the_process())
        return stage_train(*arguments)

    stage_train = stage.train
    monkeypatch.setattr(stage, "train", watched)
    command.main(["check", *arguments(tiny_base, rows, tmp_path)[1:]])  # lazily imported modules are loaded now
    before = globals_of_the_process()
    assert command.main(arguments(tiny_base, rows, tmp_path)) == 0
    assert Run(tmp_path / "one").has(TrainRecord)
    assert changed(before, globals_of_the_process()) == {}
    assert {"environment", "warnings"} <= changed(before, during).keys()


@pytest.mark.slow
def test_only_the_main_process_writes_files(
    tiny_base: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of two processes is tested alone, since training with several is rejected."""
    monkeypatch.setattr("train.plan.preflight.machine_faults", lambda *_: [])
    monkeypatch.setattr(command, "environment_faults", lambda *_: [])
    # without torchrun's variables, which would make accelerate wait
    monkeypatch.setattr(World, "read", lambda _: World(1, 2))
    assert command.main(arguments(tiny_base, rows, tmp_path)) == 0
    assert capsys.readouterr() == ("", "")
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["checkpoints"]  # transformers' own
    assert not list(tmp_path.rglob("complete"))
    monkeypatch.setattr(World, "read", lambda _: World(0, 2))
    assert command.main(arguments(tiny_base, rows, tmp_path)) == 0
    assert Run(tmp_path / "one").has(TrainRecord)
    assert (tmp_path / "one" / "report.html").is_file()


# ---- a model with fused layers --------------------------------------------------------------------------------------


def test_library_output_is_silenced_only_inside_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    levels = [logging.getLogger(name).level for name in QUIET]
    filters = list(warnings.filters)
    with prepared_process():
        assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
        assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"  # the user's
        assert [logging.getLogger(name).level for name in QUIET] == [logging.ERROR] * len(QUIET)
        os.environ["MASTER_PORT"] = "1"
        del os.environ["OMP_WAIT_POLICY"]
    assert "TOKENIZERS_PARALLELISM" not in os.environ and "MASTER_PORT" not in os.environ
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    assert [logging.getLogger(name).level for name in QUIET] == levels
    assert warnings.filters == filters


def test_model_layers_and_compiler_settings_are_restored() -> None:
    model = adapted(llama)
    settings = torch._functorch.config.get_config_copy()
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    fast_layers = FastLayers(model, compiled=False)
    assert "forward" in vars(fast_layers.fused.layers[0])
    with fast_layers.on():
        assert torch._functorch.config.ban_recompute_materialized_backward is False
    assert torch._functorch.config.get_config_copy() == settings
    fast_layers.close()
    assert {name: vars(module).keys() for name, module in model.named_modules()} == {
        name: held.keys() for name, held in before.items()
    }
