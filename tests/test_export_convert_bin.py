"""A base of .bin files is converted to safetensors once, bit for bit, without running code in its pickles."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from burnish.bases.base import BaseError, resolve
from export.merge.convert_bin import ConvertError, with_safetensors


@pytest.fixture
def bins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny Llama in two .bin files with their index, and its own cache directory."""
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    directory = tmp_path / "base"
    config = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4, vocab_size=128,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).half()
    config.save_pretrained(directory)
    state = model.state_dict()
    parts = {"pytorch_model-00001-of-00002.bin": list(state)[:3], "pytorch_model-00002-of-00002.bin": list(state)[3:]}
    for name, keys in parts.items():
        torch.save({key: state[key] for key in keys}, directory / name)
    weight_map = {key: name for name, keys in parts.items() for key in keys}
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return directory


def test_every_tensor_is_converted_and_the_result_is_cached(bins: Path) -> None:
    base = resolve(str(bins))
    made = with_safetensors(base)
    assert made.sha256 == base.sha256 and made.path != base.path
    before, after = (
        AutoModelForCausalLM.from_pretrained(p, dtype=torch.float16).state_dict() for p in (bins, made.path)
    )
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    (bins / "pytorch_model-00001-of-00002.bin").write_bytes(b"")
    assert with_safetensors(base) == made
    assert with_safetensors(made) is made


def test_pickle_containing_code_is_rejected_without_running_it(bins: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"model.norm.weight": Evil()}, bins / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(ConvertError, match="can't be read as tensors only"):
        with_safetensors(resolve(str(bins)))
    assert not (tmp_path / "ran").exists()
    assert not list((tmp_path / "cache" / "bases").iterdir())


def test_missing_and_damaged_files_are_named(bins: Path) -> None:
    base = resolve(str(bins))
    (bins / "pytorch_model-00001-of-00002.bin").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ConvertError, match="00001-of-00002.bin can't be read"):
        with_safetensors(base)
    with pytest.raises(BaseError, match="00001-of-00002.bin is truncated"):
        resolve(str(bins))
    (bins / "pytorch_model-00001-of-00002.bin").unlink()
    with pytest.raises(BaseError, match=r"names pytorch_model-00001-of-00002.bin, which is missing: restore"):
        resolve(str(bins))
