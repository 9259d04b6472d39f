"""Settings are resolved once: written to config.yaml, kept when resuming, and sufficient to repeat the training."""

from __future__ import annotations

import json
import shutil
import typing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from burnish.config import fields, load
from burnish.errors import UserError
from burnish.files import file_sha256, tree_sha256
from burnish.records import TrainRecord
from burnish.run import Run
from tests.support.commands import Cli
from train import __main__ as command
from train import resume, started
from train.plan.memory import Plan
from train.plan.resolve import resolve
from train.resolved import AUTO, Resolved, auto_keys, undecided
from train.settings import TrainSettings

AUTOS = sorted(auto_keys())
COMMIT = "a" * 40
CPU = torch.device("cpu")


def words(annotation: Any) -> list[Any]:
    """Return the allowed values of a setting except auto."""
    if typing.get_origin(annotation) is typing.Literal:
        return [word for word in typing.get_args(annotation) if word != AUTO]
    return [word for part in typing.get_args(annotation) for word in words(part)]


WORDS = {path: words(info.annotation) for path, info in fields(TrainSettings) if path in AUTOS}
WORDS["train", "micro_batch_tokens"] = [512]
WORDS["train", "gradient_checkpointing"] = WORDS["train", "torch_compile"] = [False, True]


def prepared() -> Any:
    """Prepared data with every auto setting decided."""
    return SimpleNamespace(
        base=SimpleNamespace(revision=COMMIT), **{k: WORDS[s, k][0] for s, k in AUTOS if s == "data"}
    )


def planned(device: str = "cpu", backend: str = "transformers", quantization: str = "none") -> Plan:
    return Plan(
        device=device, backend=backend, quantization=quantization, optim="adamw_torch", compiled=True,
        checkpointing=True, micro_batch_tokens=640, weights_bytes=1, adapter_bytes=1, activation_bytes=1, free_bytes=1,
        disk_bytes=1, steps=7, micro_batches=1.0, tokens=1, seconds=None,
    )  # fmt: skip


def settings_of(**sections: dict[str, Any]) -> TrainSettings:
    requested = {"base": {"id": "x"}, "data": {"path": "x"}, **sections}
    return TrainSettings.model_validate(requested)


def test_every_auto_setting_is_resolved() -> None:
    assert {("base", "quantization"), ("base", "dtype"), ("data", "format"), ("train", "micro_batch_tokens")} <= set(
        AUTOS
    )
    assert len(AUTOS) >= 9


@settings(deadline=None)
@given(left_open=st.sets(st.sampled_from(AUTOS)), backend=st.sampled_from(["transformers", "unsloth"]))
def test_resolved_config_has_no_auto_and_reloads(
    left_open: set[tuple[str, str]], backend: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    requested: dict[str, dict[str, Any]] = {"base": {"id": "x"}, "data": {"path": "x"}, "train": {}}
    for section, key in AUTOS:
        requested[section][key] = AUTO if (section, key) in left_open else WORDS[section, key][0]
    made = resolve(TrainSettings.model_validate(requested), prepared(), planned(backend=backend), "sdpa", CPU).named(
        "mine"
    )
    assert undecided(made.settings) == []
    assert (made.base.revision, made.run.name, made.base.backend) == (COMMIT, "mine", backend)
    given_data = {key for section, key in AUTOS if section == "data"} - {key for _, key in left_open}
    assert all(getattr(made.data, key) == requested["data"][key] for key in given_data)
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(made.yaml(), encoding="utf-8")
    assert load(TrainSettings, "train", path, {}, {}) == made.settings


def test_backend_specific_settings_are_not_reported_for_the_other_backend() -> None:
    compiled = {"train": {"torch_compile": True}}
    assert resolve(settings_of(**compiled), prepared(), planned(), "sdpa", CPU).compiled
    assert not resolve(settings_of(**compiled), prepared(), planned(backend="unsloth"), "sdpa", CPU).compiled


def test_early_stopping_saves_at_every_evaluation() -> None:
    stopping = settings_of(train={"eval_steps": 5, "early_stopping_patience": 2, "save_steps": 50})
    assert resolve(stopping, prepared(), planned(), "sdpa", CPU).train.save_steps == 5


def test_peft_config_values_are_written_to_config_yaml(tmp_path: Path) -> None:
    path = tmp_path / "lora_config.json"
    path.write_text(json.dumps({"r": 4, "lora_alpha": 0.5, "target_modules": ["q_proj"]}))
    made = resolve(settings_of(lora={"config_file": str(path)}), prepared(), planned(), "sdpa", CPU)
    path.unlink()
    again = TrainSettings.model_validate(yaml.safe_load(made.yaml()))
    assert (again.lora.r, again.lora.lora_alpha, again.lora.target_modules) == (4, 0.5, ["q_proj"])


# ---- resuming a run --------------------------------------------------------------------------------------------------


def start(root: Path, name: str, requested: TrainSettings, used: Resolved | None) -> started.StartedRun:
    """Write a started run; without `used`, as older versions did."""
    run = Run(root / name)
    run.path.mkdir(parents=True)
    inputs: dict[str, Any] = {"data_sha256": None}
    if used:
        inputs["asked"] = requested.model_dump()
    (run.path / started.STARTED).write_text(json.dumps(inputs))
    dump = yaml.safe_dump(requested.model_dump(), sort_keys=False)
    (run.path / started.CONFIG).write_text(used.named(name).yaml() if used else dump)
    return started.StartedRun.read(run)


def test_resumed_run_keeps_its_resolved_model_settings(tmp_path: Path) -> None:
    # the branch may have moved since
    requested = settings_of(base={"id": "x", "quantization": "auto", "revision": "main"}, run={"root": str(tmp_path)})
    used = resolve(requested, prepared(), planned("cuda", "unsloth", "nf4"), "eager", CPU)
    used = Resolved(used.settings.model_copy(update={"base": used.base.model_copy(update={"dtype": "bfloat16"})}))
    start(tmp_path, "mine", requested, used)
    kept = resume.choose(requested, resume=False)
    assert kept.run.name == "mine"
    assert kept.base == used.base
    assert kept.train.optim == "adamw_torch"
    # the machine may have a different amount of free memory
    assert (kept.train.micro_batch_tokens, kept.train.gradient_checkpointing) == (AUTO, AUTO)


def test_explicit_and_resolved_settings_are_the_same_run(tmp_path: Path) -> None:
    requested = settings_of(base={"id": "x"}, lora={"r": 8})
    used = resolve(requested, prepared(), planned(), "sdpa", CPU)
    run = start(tmp_path, "mine", requested, used)
    assert run.differences(requested) == run.differences(used.settings) == []
    other = settings_of(base={"id": "x", "attn_implementation": "eager"}, lora={"r": 4})
    attention, rank = run.differences(other)
    assert attention == "base.attn_implementation: the run has auto (resolved: sdpa), you set eager"
    assert rank == "lora.r: the run has 8, you set 4"
    (packing,) = run.differences(settings_of(base={"id": "x"}, lora={"r": 8}, data={"path": "x", "packing": False}))
    assert packing == "data.packing: the run has true, you set false"
    assert run.differences(settings_of(base={"id": "x"})) == ["lora.r: the run has 8, now it is 16, the default"]


def test_run_of_an_older_version_is_not_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    requested = settings_of(run={"root": str(tmp_path)})
    start(tmp_path, "old", requested, None)
    assert resume.choose(requested, resume=False).run.name is None
    assert "unfinished run 'old' can't be resumed: an older version started it" in capsys.readouterr().err
    with pytest.raises(UserError, match="no unfinished run"):
        resume.choose(requested, resume=True)


def test_another_damaged_run_does_not_prevent_resuming(tmp_path: Path) -> None:
    for name, text in (("a", "{"), ("b", "- 1"), ("c", "base: 1")):
        (tmp_path / name).mkdir()
        (tmp_path / name / started.CONFIG).write_text(text)
        (tmp_path / name / started.STARTED).write_text("{}")
    assert resume.choose(settings_of(run={"root": str(tmp_path)}), resume=False).run.name is None
    with pytest.raises(UserError, match="not valid YAML"):
        resume.choose(settings_of(run={"root": str(tmp_path), "name": "a"}), resume=False)


def test_push_settings_may_be_edited_in_config_yaml(tmp_path: Path) -> None:
    used = resolve(settings_of(), prepared(), planned(), "sdpa", CPU)
    run = start(tmp_path, "mine", settings_of(), used).run
    content = yaml.safe_load((run.path / started.CONFIG).read_text())
    content["push"]["repo"] = "me/model"
    (run.path / started.CONFIG).write_text(yaml.safe_dump(content))
    started.write_config(run, used)
    assert yaml.safe_load((run.path / started.CONFIG).read_text())["push"]["repo"] == "me/model"


def test_restart_for_unsloth_imports_keeps_the_run(
    tiny_base: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Restarted(Exception):
        pass

    def restart(_: str, arguments: list[str], environment: dict[str, str]) -> None:
        assert environment["UNSLOTH_FIRST"] == "1"
        raise Restarted

    made = planned("cuda", "unsloth", "nf4")
    monkeypatch.setattr(
        "train.plan.preflight.plan_run", lambda requested, data, _: resolve(requested, data, made, "sdpa", CPU)
    )
    monkeypatch.setattr("os.execve", restart)
    where = ["--base.id", str(tiny_base), "--data.path", str(rows), "--run.root", str(tmp_path)]
    with pytest.raises(Restarted):
        command.main(["run", *where, "--base.quantization", "auto"])
    (run,) = tmp_path.iterdir()
    # the second process gets the settings of the first
    requested = load(TrainSettings, "train", None, {k[2:]: v for k, v in zip(where[::2], where[1::2], strict=True)}, {})
    requested = requested.model_copy(update={"base": requested.base.model_copy(update={"quantization": AUTO})})
    again = resume.choose(requested, resume=False)
    assert again.run.name == run.name
    assert (again.base.backend, again.base.quantization) == ("unsloth", "nf4")


# ---- whole runs ------------------------------------------------------------------------------------------------------


def train(cli: Cli, base: Path, rows: Path, root: Path, *more: str, **environment: str) -> str:
    where = ("--base.id", str(base), "--data.path", str(rows), "--run.root", str(root))
    short = ("--data.max_length", "128", "--train.max_steps", "3", "--exam.answers", "0")
    done = cli("train", "run", *where, *short, *more, **environment)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def whole(tiny_base: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Run:
    """A run with all settings on auto, and a token in its environment."""
    root = tmp_path_factory.mktemp("runs")
    autos = [word for section, key in AUTOS for word in (f"--{section}.{key}", AUTO)]
    train(cli, tiny_base, rows, root, *autos, HF_TOKEN="hf_this_is_secret")
    return Run((root / "latest").resolve())


@pytest.mark.slow
def test_config_yaml_of_a_finished_run_has_no_auto(whole: Run) -> None:
    used = yaml.safe_load((whole.path / "config.yaml").read_text())
    assert [f"{section}.{key}" for section, key in AUTOS if used[section][key] == AUTO] == []
    assert used["run"]["name"] == whole.id
    record = whole.read(TrainRecord)
    assert (used["base"]["dtype"], used["base"]["quantization"]) == (record.load_dtype, record.quantization)
    assert used["chat"]["date"] == record.template_date
    assert used["data"]["format"] == record.data.format
    assert record.adapter.parent_sha256 is None
    assert record.config is not None
    assert record.config.sha256 == file_sha256(whole.path / "config.yaml")


@pytest.mark.slow
def test_secrets_from_the_environment_are_not_written(whole: Run) -> None:
    for path in whole.path.rglob("*"):
        assert not path.is_file() or b"hf_this_is_secret" not in path.read_bytes(), path


@pytest.mark.slow
def test_config_yaml_reproduces_the_run(whole: Run, tmp_path: Path, cli: Cli) -> None:
    config = ("--config", str(whole.path / "config.yaml"))
    done = cli("train", "run", *config)
    assert done.returncode == 0, done.stderr
    assert f"run '{whole.id}' is finished and unchanged" in done.stderr
    done = cli("train", "run", *config, "--run.root", str(tmp_path), "--run.name", "again")
    assert done.returncode == 0, done.stderr
    weights = "adapter/adapter_model.safetensors"
    assert file_sha256(tmp_path / "again" / weights) == file_sha256(whole.path / weights)


@pytest.mark.slow
def test_resume_adapter_starts_from_the_exact_weights(tiny_base: Path, rows: Path, tmp_path: Path, cli: Cli) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=3, lora_alpha=6, lora_dropout=0.1, target_modules=r".*\.(q|v)_proj", use_dora=True,
        use_rslora=True, layers_to_transform=None, rank_pattern={"q_proj": 5},
    )  # fmt: skip
    get_peft_model(model, config).save_pretrained(tmp_path / "parent")
    shutil.copytree(tmp_path / "parent", tmp_path / "kept")
    output = train(cli, tiny_base, rows, tmp_path, "--lora.resume_adapter", str(tmp_path / "parent"), "--lora.r", "16")
    assert "lora.r and lora_alpha are taken from the continued adapter: 3 and 6" in output
    run = Run((tmp_path / "latest").resolve())
    assert run.read(TrainRecord).adapter.parent_sha256 == tree_sha256(tmp_path / "kept")
    used = yaml.safe_load((run.path / "config.yaml").read_text())["lora"]
    assert (used["r"], used["lora_alpha"], used["lora_dropout"], used["use_rslora"]) == (3, 6, 0.1, True)
    assert used["target_modules"] == ["q_proj", "v_proj"]
    parent, made = (
        json.loads((d / "adapter_config.json").read_text()) for d in (tmp_path / "parent", run.path / "adapter")
    )
    assert made == parent
    before, after = (load_file(d / "adapter_model.safetensors") for d in (tmp_path / "parent", run.path / "adapter"))
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[name], after[name]) for name in before if "magnitude" in name)
    page = (run.path / "report.html").read_text()
    assert "use_dora" in page
    assert tree_sha256(tmp_path / "kept") in page
