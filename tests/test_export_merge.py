"""The streaming merge gives PEFT's weights, or refuses with the reason; tiny real Llamas."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from export.merge import MergeError, dequantizer, merge

Making = Callable[..., tuple[Path, Path]]


@pytest.fixture
def make(tmp_path: Path) -> Making:
    """Make a tiny base (two shards) and a LoRA adapter with nonzero B on it; returns their directories."""

    def making(tie: bool = True, dtype: torch.dtype = torch.float16, **lora: Any) -> tuple[Path, Path]:
        torch.manual_seed(0)
        config = LlamaConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            vocab_size=256,
            tie_word_embeddings=tie,
            attention_bias=True,
        )
        base, adapter = tmp_path / "base", tmp_path / "adapter"
        LlamaForCausalLM(config).to(dtype).save_pretrained(base, max_shard_size="150KB")
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        peft = get_peft_model(
            model, LoraConfig(**{"r": 4, "target_modules": "all-linear", **lora}, task_type="CAUSAL_LM")
        )
        for name, parameter in peft.named_parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.1) if "lora" in name else parameter.data.add_(0.25)
        peft.save_pretrained(adapter)
        return base, adapter

    return making


def run(
    base: Path, adapter: Path, target: Path, dtype: str = "auto", as_trained: Any = None, shard: int = 10**9
) -> str:
    target.mkdir()
    return merge(base, adapter, target, as_trained, dtype, shard, lambda done, text="": None)


def weights(directory: Path, dtype: torch.dtype = torch.float16) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).state_dict())


def peft_weights(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return dict(PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict())


@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"use_rslora": True, "r": 8},
        {"lora_alpha": 64},
        {"target_modules": ["q_proj", "down_proj"]},
        {"bias": "all"},
        {"bias": "lora_only"},
    ],
)
@pytest.mark.parametrize("tie", [True, False])
def test_the_merge_equals_pefts(make: Making, tmp_path: Path, lora: dict[str, Any], tie: bool) -> None:
    base, adapter = make(tie=tie, **lora)
    assert run(base, adapter, tmp_path / "merged") == "float16"
    ours, theirs = weights(tmp_path / "merged"), peft_weights(base, adapter)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor.half()), name


def test_the_base_is_changed_at_all(make: Making, tmp_path: Path) -> None:
    base, adapter = make()
    run(base, adapter, tmp_path / "merged")
    name = "model.layers.1.mlp.down_proj.weight"
    assert not torch.equal(weights(tmp_path / "merged")[name], weights(base)[name])


def test_shards_and_index_load_as_one_file_does(make: Making, tmp_path: Path) -> None:
    base, adapter = make()
    run(base, adapter, tmp_path / "one")
    run(base, adapter, tmp_path / "many", shard=60_000)
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    one, many = weights(tmp_path / "one"), weights(tmp_path / "many")
    assert all(torch.equal(one[name], many[name]) for name in one)


def test_a_value_that_float16_cannot_hold_makes_it_bfloat16_and_is_named(
    make: Making, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, adapter = make(dtype=torch.float32, lora_alpha=10**7)
    assert run(base, adapter, tmp_path / "merged") == "bfloat16"
    assert "more than float16 can (65504)" in capsys.readouterr().err
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == "bfloat16"
    assert torch.isfinite(weights(tmp_path / "merged", torch.float32)["model.layers.0.mlp.up_proj.weight"]).all()
    with pytest.raises(MergeError, match="merge.dtype float16"):
        run(base, adapter, tmp_path / "forced", dtype="float16")


def test_the_dequantized_base_is_what_an_nf4_adapter_saw(make: Making, tmp_path: Path) -> None:
    from transformers import BitsAndBytesConfig

    base, adapter = make(dtype=torch.float32)
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, quantization_config=config, device_map={"": "cpu"}
    )
    trained = PeftModel.from_pretrained(model, adapter).train()  # train: the layers compute as they did in training
    record: Any = SimpleNamespace(
        quantization="nf4", load_dtype="float32", double_quant=True, skipped_modules=["lm_head", "model.embed_tokens"]
    )
    run(base, adapter, tmp_path / "merged", as_trained=dequantizer(record))
    run(base, adapter, tmp_path / "original")
    ids = torch.arange(32)[None]
    with torch.no_grad():
        want = trained(ids).logits
        merged, original = (
            AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32)(ids).logits
            for name in ("merged", "original")
        )
    assert (merged - want).abs().max() < 0.01 * (original - want).abs().max()


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("use_dora", True, "DoRA"),
        ("modules_to_save", ["lm_head"], "not merged"),
        ("peft_type", "IA3", "only LORA"),
        ("init_lora_weights", "pissa", "rewrote the base"),
    ],
)
def test_what_cannot_be_merged_is_refused_with_the_reason(
    make: Making, tmp_path: Path, key: str, value: Any, reason: str
) -> None:
    base, adapter = make()
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(MergeError, match=reason):
        run(base, adapter, tmp_path / "merged")


def test_an_adapter_of_another_architecture_names_what_is_missing(make: Making, tmp_path: Path) -> None:
    _, adapter = make()
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4, vocab_size=256
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "other")
    with pytest.raises(MergeError, match=r"has no tensor 'model.layers.1.mlp.down_proj.weight'"):
        run(tmp_path / "other", adapter, tmp_path / "merged")
