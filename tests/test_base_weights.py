"""Weight files that can't be loaded are detected by their headers: pointers, truncated files, an invalid index."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from burnish import children
from burnish.bases import base as bases
from burnish.bases.base import BaseError, resolve
from burnish.bases.weights import examine
from burnish.children import watch

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345678\n"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    save_file({"a.weight": np.ones((3, 2))}, tmp_path / "model.safetensors")
    return tmp_path


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    save_file({"a": np.ones(2)}, tmp_path / ONE)
    save_file({"b": np.ones(2)}, tmp_path / TWO)
    index(tmp_path, {"weight_map": {"a": ONE, "b": TWO}})
    return tmp_path


def index(directory: Path, content: Any) -> None:
    (directory / "model.safetensors.index.json").write_text(json.dumps(content))


def fault(directory: Path) -> str:
    with pytest.raises(BaseError) as caught:
        resolve(str(directory))
    (one,) = caught.value.faults
    assert one.startswith(f"base.id {directory}: {directory}") and "\n" not in one
    return one


def test_intact_files_give_tensor_shapes(base: Path, shards: Path) -> None:
    assert resolve(str(base)).path == base
    assert examine(shards).shapes == {"a": (2,), "b": (2,)}


@pytest.mark.parametrize(
    "name", ["model.safetensors", "pytorch_model.bin", "config.json", "tokenizer.json", "tokenizer.model"]
)
def test_git_lfs_pointer_is_reported(base: Path, name: str) -> None:
    if name.endswith(".bin"):
        (base / "model.safetensors").unlink()
    (base / name).write_bytes(POINTER)
    expected = fault(base)
    assert f"{name} is a Git LFS pointer" in expected and "git lfs pull" in expected


@pytest.mark.parametrize("name", ["tf_model.h5", "training_args.bin", "pytorch_model.bin", "consolidated.safetensors"])
def test_git_lfs_pointer_of_an_unused_file_is_accepted(base: Path, name: str) -> None:
    (base / name).write_bytes(POINTER)
    assert resolve(str(base)).path == base


def test_several_git_lfs_pointers_are_one_line(shards: Path) -> None:
    for name in (ONE, TWO):
        (shards / name).write_bytes(POINTER)
    assert f"{ONE}, {TWO} are Git LFS pointers" in fault(shards)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "only 0 bytes"),
        (b"<!DOCTYPE html><html>", "expected a valid header length"),
        (b"\x02\0\0\0\0\0\0\0[]", "not a JSON object"),
        (b"\x02\0\0\0\0\0\0\0{x", "damaged: "),
        (b"\xff\0\0\0\0\0\0\0{}", "ends inside its header of 255 bytes"),
        (b'\x07\0\0\0\0\0\0\0{"a":1}', "no shape or offsets for 'a'"),
        (save({"a": np.ones(8)})[:-1], "is truncated: expected"),
        (save({"a": np.ones(8)}) + b"x", "is damaged: expected"),
    ],
)
def test_damaged_safetensors_file_is_a_one_line_error(base: Path, content: bytes, expected: str) -> None:
    (base / "model.safetensors").write_bytes(content)
    assert f"{base / 'model.safetensors'} is " in fault(base)
    assert expected in fault(base)


@pytest.mark.parametrize("content", [[], {}, {"weight_map": {}}, {"weight_map": [1]}, {"weight_map": {"a": 1}}, "x"])
def test_invalid_index_is_reported(shards: Path, content: Any) -> None:
    index(shards, content)
    assert "model.safetensors.index.json: the weights' index can't be used: " in fault(shards)


def test_index_that_is_not_json_is_reported(shards: Path) -> None:
    (shards / "model.safetensors.index.json").write_text('{"weight_map": {')
    assert "the weights' index can't be used: " in fault(shards)


def test_index_of_other_files_reports_missing_tensors(shards: Path) -> None:
    index(shards, {"weight_map": {"a": ONE, "b": "model-00003-of-00003.safetensors"}})
    assert "names model-00003-of-00003.safetensors, which is missing" in fault(shards)
    index(shards, {"weight_map": {"a": ONE, "b": ONE}})
    assert f"b should be in {ONE}, but is not" in fault(shards)


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"PK\x03\x04" + b"\0" * 90, "is truncated"), (b"", "it is empty"), (b"<html>", "not written by torch.save")],
)
def test_truncated_or_invalid_bin_file_is_reported(base: Path, content: bytes, expected: str) -> None:
    (base / "model.safetensors").unlink()
    (base / "pytorch_model.bin").write_bytes(content)
    assert expected in fault(base)


def test_weights_with_an_unexpected_name_are_reported(base: Path) -> None:
    (base / "model.safetensors").rename(base / "weights.safetensors")
    assert "no model.safetensors, pytorch_model.bin or model.safetensors.index.json; found:" in fault(base)


def test_gguf_that_is_a_pointer_or_not_gguf_is_reported(tmp_path: Path) -> None:
    for content, expected in ((POINTER, "is a Git LFS pointer"), (b"ggml", "is not a GGUF file")):
        (tmp_path / "x.gguf").write_bytes(content)
        with pytest.raises(BaseError, match=expected):
            resolve(str(tmp_path / "x.gguf"))


@pytest.mark.parametrize("name", ["sub/model.safetensors", "../elsewhere.safetensors"])
def test_index_may_name_only_files_in_its_directory(shards: Path, name: str) -> None:
    index(shards, {"weight_map": {"a": ONE, "b": name}})
    assert f"names '{name}', which is not in the same directory" in fault(shards)


def test_config_links_out_of_the_base_are_rejected_and_weight_links_allowed(
    base: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (base / "model.safetensors").rename(elsewhere / "model.safetensors")
    (base / "model.safetensors").symlink_to(elsewhere / "model.safetensors")
    assert resolve(str(base)).path == base
    (elsewhere / "secret.json").write_text('{"token": "x"}')
    (base / "generation_config.json").symlink_to(elsewhere / "secret.json")
    with pytest.raises(BaseError, match=r"generation_config.json is a symbolic link to .*, outside the directory"):
        resolve(str(base))


def test_dequantizing_reports_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = (
        "import pathlib, sys, time\n"
        "print('\\rConverting:  43%|####    | 3/7', end='', file=sys.stderr, flush=True)\n"
        "time.sleep(1.5)\n"
        "print('\\nstep: writing the checkpoint', file=sys.stderr, flush=True)\n"
        "time.sleep(1)\n"
        "pathlib.Path(sys.argv[1]).mkdir(parents=True)\n"
    )
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(watch, "INTERVAL_S", 0.4)
    monkeypatch.setattr(children, "confined", lambda *words: [sys.executable, "-c", script, words[-1]])
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    assert bases._dequantized(tmp_path / "x.gguf", "0" * 64).is_dir()
    output = capsys.readouterr().err
    assert "base: dequantizing: 43% of the tensors read, " in output
    assert "base: dequantizing: writing the checkpoint, " in output
