"""Pipes, sockets and devices given as files are refused at once, so nothing hangs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from burnish.bases.base import resolve
from burnish.bases.weights import examine, gguf_fault
from burnish.chat import load_template
from burnish.config import load
from burnish.data.files import data_sha256, read_rows
from burnish.errors import UserError
from burnish.files import irregular_in
from burnish.llama import Model
from export.settings import ExportSettings
from export.stage import examine_file
from serve.artifact import choose
from serve.http.auth import read_keys
from serve.settings import ServeSettings
from tests.support.published import make_run
from train.models.adapters import adapter_path
from train.peft_config import read
from train.settings import TrainSettings

OPENERS: dict[str, Callable[[Path], Any]] = {
    "data": read_rows,
    "the data's hash": data_sha256,
    "--config": lambda path: load(ServeSettings, "serve", path, {}, {}),
    "a chat template": lambda path: load_template(str(path)),
    "lora.config_file": read,
    "model": lambda path: choose(ServeSettings(model=str(path))),
    "a model file": Model.open,
    "api_keys_file": lambda path: read_keys(ServeSettings(api_keys_file=str(path))),
    "base": lambda path: resolve(str(path)),
}


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("what", OPENERS)
@pytest.mark.parametrize("kind", ["pipe", "a link to a pipe", "device"])
def test_pipes_sockets_and_devices_are_rejected_by_name(what: str, kind: str, tmp_path: Path) -> None:
    path = Path("/dev/zero") if kind == "device" else pipe(tmp_path / "x.gguf")
    if kind == "a link to a pipe":
        (tmp_path / "link.gguf").symlink_to(path)
        path = tmp_path / "link.gguf"
    with pytest.raises(UserError, match="a (named pipe|device)") as caught:
        OPENERS[what](path)
    assert len(caught.value.faults) == 1 and str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "generation_config.json", "model.safetensors"])
def test_base_directory_with_a_pipe_is_rejected(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("")
    (tmp_path / name).unlink(missing_ok=True)
    pipe(tmp_path / name)
    with pytest.raises(UserError):
        resolve(str(tmp_path))
    assert irregular_in(tmp_path)


def test_adapter_with_a_pipe_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    pipe(tmp_path / "adapter_model.safetensors")
    settings = TrainSettings.model_validate(
        {"base": {"id": "b"}, "data": {"path": "d"}, "lora": {"resume_adapter": str(tmp_path)}}
    )
    with pytest.raises(UserError, match="named pipe"):
        adapter_path(settings)


def test_pipes_in_a_data_directory_are_skipped_and_reported(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    pipe(tmp_path / "b.jsonl")
    notes: list[str] = []
    assert len(read_rows(tmp_path, notes)) == 1 and "not read: b.jsonl" in notes
    data_sha256(tmp_path)


def test_examine_rejects_a_pipe_without_reading(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs")
    settings = ExportSettings.model_validate({"run": {"root": str(tmp_path / "runs"), "name": run.id}})
    with pytest.raises(UserError, match="named pipe"):
        examine_file(settings, pipe(tmp_path / "m.gguf"))


def test_weights_and_pointers_are_checked_without_blocking(tmp_path: Path) -> None:
    pipe(tmp_path / "model.safetensors")
    pipe(tmp_path / "model.safetensors.index.json")
    assert examine(tmp_path).faults
    with pytest.raises(OSError, match="named pipe"):
        gguf_fault(pipe(tmp_path / "m.gguf"))
