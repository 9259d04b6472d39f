"""The streaming merge equals PEFT's, or is rejected with a reason; uses tiny real Llamas."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from export.merge.adapter_config import MergeError
from export.merge.dequantize import AsTrained, dequantizer
from export.merge.shards import ShardError, row_ranges, sources
from export.merge.weights import merge
from tests.support.thorough import some

Making = Callable[..., tuple[Path, Path]]


@pytest.fixture
def make(tmp_path: Path) -> Making:
    """Create a tiny base (two shards) and a LoRA adapter with nonzero B; return their directories."""

    def making(tie: bool = True, dtype: torch.dtype = torch.float16, grow: int = 0, **lora: Any) -> tuple[Path, Path]:
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
        if grow:
            model.resize_token_embeddings(256 + grow)
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


def trained_model(base: Path, adapter: Path, grow: int = 0) -> Any:
    """Return the base with the unmerged adapter: the trained model."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if grow:
        model.resize_token_embeddings(256 + grow)
    return PeftModel.from_pretrained(model, adapter)


def peft_weights(base: Path, adapter: Path, grow: int = 0) -> dict[str, torch.Tensor]:
    return dict(trained_model(base, adapter, grow).merge_and_unload().state_dict())


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(model.float().eval()(torch.arange(64)[None]).logits)


def assert_merged_is_trained(base: Path, adapter: Path, merged: Path, grow: int = 0) -> None:
    """The merged model's logits equal the trained model's, up to 16-bit rounding."""
    want = logits(trained_model(base, adapter, grow))
    plain, ours = (logits(AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)) for path in (base, merged))
    assert (ours - want).abs().max() < 0.01 * (plain - want[..., : plain.shape[-1]]).abs().max()


@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"use_rslora": True, "r": 8},
        {"lora_alpha": 64},
        {"target_modules": ["q_proj", "down_proj"]},
        {"bias": "all"},
        {"bias": "lora_only"},
        {"lora_bias": True, "target_modules": ["q_proj", "v_proj"]},
        {"use_dora": True},
        {"use_dora": True, "use_rslora": True, "bias": "all"},
        {"rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 8}, "alpha_pattern": {"v_proj": 3, "^.*0.mlp.*": 5}},
        {"modules_to_save": ["norm", "input_layernorm"]},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["embed_tokens", "lm_head"], "use_dora": True},
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        {"trainable_token_indices": [3, 255]},
        {"trainable_token_indices": {"embed_tokens": [7]}, "target_modules": ["q_proj"]},
    ],
)
@pytest.mark.parametrize("tie", [True, False])
def test_merge_equals_the_peft_merge(make: Making, tmp_path: Path, lora: dict[str, Any], tie: bool) -> None:
    base, adapter = make(tie=tie, **lora)
    assert run(base, adapter, tmp_path / "merged") == "float16"
    ours, theirs = weights(tmp_path / "merged"), peft_weights(base, adapter)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor.half()), name


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_lora_on_an_untied_embedding_or_head_equals_the_peft_merge(make: Making, tmp_path: Path, target: str) -> None:
    base, adapter = make(tie=False, target_modules=["q_proj", target])
    run(base, adapter, tmp_path / "merged")
    ours, theirs = weights(tmp_path / "merged"), peft_weights(base, adapter)
    assert all(torch.equal(ours[name], tensor.half()) for name, tensor in theirs.items())


@pytest.mark.parametrize("targets", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]])
def test_lora_on_one_of_two_tied_weights_unties_the_head(make: Making, tmp_path: Path, targets: list[str]) -> None:
    """PEFT would add B·A to both weights, since they are one tensor; that differs from the trained model."""
    base, adapter = make(tie=True, target_modules=["q_proj", *targets])
    run(base, adapter, tmp_path / "merged")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"] is False
    assert_merged_is_trained(base, adapter, tmp_path / "merged")


def test_same_change_to_both_tied_weights_keeps_them_tied(make: Making, tmp_path: Path) -> None:
    base, adapter = make(tie=True, target_modules=["q_proj", "embed_tokens"], ensure_weight_tying=True)
    run(base, adapter, tmp_path / "merged")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"] is True
    assert_merged_is_trained(base, adapter, tmp_path / "merged")


@pytest.mark.parametrize("lora", [{}, {"modules_to_save": ["embed_tokens", "lm_head"]}])
@pytest.mark.parametrize("tie", [True, False])
def test_resized_vocabulary_is_kept(make: Making, tmp_path: Path, lora: dict[str, Any], tie: bool) -> None:
    base, adapter = make(tie=tie, grow=6, **lora)
    run(base, adapter, tmp_path / "merged")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["vocab_size"] == 262
    ours, theirs = weights(tmp_path / "merged"), peft_weights(base, adapter, grow=6)
    assert all(torch.equal(ours[name], tensor.half()) for name, tensor in theirs.items())


def test_trained_rows_of_added_tokens_are_merged(make: Making, tmp_path: Path) -> None:
    base, adapter = make(tie=True, grow=6, trainable_token_indices=[256, 261])
    run(base, adapter, tmp_path / "merged")
    assert_merged_is_trained(base, adapter, tmp_path / "merged", grow=6)


def test_vocabulary_resized_in_only_one_matrix_is_rejected(make: Making, tmp_path: Path) -> None:
    base, adapter = make(tie=False, grow=6, target_modules=["q_proj", "embed_tokens"])
    with pytest.raises(
        MergeError, match=r"resized in only one place \(model.embed_tokens.weight 262, lm_head.weight 256"
    ):
        run(base, adapter, tmp_path / "merged")


def test_token_without_an_embedding_row_is_rejected(make: Making, tmp_path: Path) -> None:
    base, adapter = make()
    added = {"added_tokens": [{"id": 255, "content": "<there>"}, {"id": 256, "content": "<new>"}]}
    (adapter / "tokenizer.json").write_text(json.dumps(added))
    with pytest.raises(MergeError, match="token '<new>' has id 256, the model has 256 rows"):
        run(base, adapter, tmp_path / "merged")


def test_merge_changes_the_base_weights(make: Making, tmp_path: Path) -> None:
    base, adapter = make()
    run(base, adapter, tmp_path / "merged")
    name = "model.layers.1.mlp.down_proj.weight"
    assert not torch.equal(weights(tmp_path / "merged")[name], weights(base)[name])


def test_sharded_merge_loads_like_a_single_file(make: Making, tmp_path: Path) -> None:
    base, adapter = make()
    run(base, adapter, tmp_path / "one")
    run(base, adapter, tmp_path / "many", shard=60_000)
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    one, many = weights(tmp_path / "one"), weights(tmp_path / "many")
    assert all(torch.equal(one[name], many[name]) for name in one)


def test_float16_overflow_switches_to_bfloat16_and_is_reported(
    make: Making, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, adapter = make(dtype=torch.float32, lora_alpha=10**7)
    assert run(base, adapter, tmp_path / "merged") == "bfloat16"
    assert "above float16's largest (65504)" in capsys.readouterr().err
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == "bfloat16"
    assert torch.isfinite(weights(tmp_path / "merged", torch.float32)["model.layers.0.mlp.up_proj.weight"]).all()
    with pytest.raises(MergeError, match="merge.dtype float16"):
        run(base, adapter, tmp_path / "forced", dtype="float16")


def test_dequantized_base_equals_the_weights_seen_in_nf4_training(make: Making, tmp_path: Path) -> None:
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
    trained = PeftModel.from_pretrained(model, adapter).train()  # training mode: the layers compute as in training
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
        ("use_dora", True, "DoRA's magnitudes are missing"),
        ("modules_to_save", ["lm_head"], "modules_to_save names 'lm_head', whose trained weights are missing"),
        ("layer_replication", [[0, 2], [1, 2]], "repeated layers"),
        ("alora_invocation_tokens", [1, 2], "can't be merged into weights"),
        ("a_later_pefts_invention", True, "a_later_pefts_invention is set: its effect on the weights is unknown"),
        ("peft_type", "IA3", "only LORA"),
        ("init_lora_weights", "pissa", "changed the base"),
    ],
)
def test_unsupported_adapters_are_rejected_with_a_reason(
    make: Making, tmp_path: Path, key: str, value: Any, reason: str
) -> None:
    base, adapter = make()
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(MergeError, match=reason):
        run(base, adapter, tmp_path / "merged")


def test_shape_mismatch_between_adapter_and_base_is_reported(make: Making, tmp_path: Path) -> None:
    _, adapter = make()
    config = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, vocab_size=256,
        attention_bias=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "other")
    with pytest.raises(
        MergeError,
        match=r"mlp.down_proj.weight' has shape \[64, 96\], the adapter's B·A has \[64, 128\]",
    ):
        run(tmp_path / "other", adapter, tmp_path / "merged")


@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("shape", some([(2100, 1024), (200, 96), (3, 5)], [1, 2]))
def test_sliced_nf4_quantization_equals_whole_tensor_quantization(
    tmp_path: Path, double_quant: bool, shape: tuple[int, int]
) -> None:
    import bitsandbytes.functional as bnb

    torch.manual_seed(0)
    weight = torch.randn(shape, dtype=torch.bfloat16)
    save_file({"w": weight}, tmp_path / "model.safetensors")
    quantized = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=double_quant)
    (source,) = sources(tmp_path)
    rows = AsTrained(torch.bfloat16, True, double_quant, frozenset()).rows(source)
    assert torch.equal(torch.cat([rows(*r) for r in row_ranges(source)]), bnb.dequantize_4bit(*quantized))


@pytest.mark.parametrize("double_quant", [True, False])
def test_base_stored_in_nf4_is_dequantized_for_the_merge(make: Making, tmp_path: Path, double_quant: bool) -> None:
    from transformers import BitsAndBytesConfig

    base, adapter = make(tie=False, dtype=torch.float32)
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=torch.float32,
    )  # fmt: skip
    cpu: Any = {"dtype": torch.float32, "device_map": {"": "cpu"}}
    packed = AutoModelForCausalLM.from_pretrained(base, quantization_config=config, **cpu)
    packed.save_pretrained(tmp_path / "packed")
    trained = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "packed", **cpu), adapter
    ).train()
    run(tmp_path / "packed", adapter, tmp_path / "merged")
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())
    with torch.no_grad():
        want = trained(torch.arange(64)[None]).logits
    merged, original = (logits(AutoModelForCausalLM.from_pretrained(p)) for p in (tmp_path / "merged", base))
    assert (merged - want).abs().max() < 0.01 * (original - want).abs().max()


def test_nan_and_truncated_shard_are_reported(make: Making, tmp_path: Path) -> None:
    base, adapter = make(dtype=torch.bfloat16)
    shard = sorted(base.glob("*.safetensors"))[-1]
    content = bytearray(shard.read_bytes())
    content[-2:] = b"\xc0\x7f"  # a bfloat16 NaN
    shard.write_bytes(content)
    with pytest.raises(MergeError, match="has a NaN"):
        run(base, adapter, tmp_path / "merged")
    shard.write_bytes(content[:-2])
    with pytest.raises(ShardError, match="is damaged: the file ends inside"):
        run(base, adapter, tmp_path / "again")


def test_sliced_merge_equals_whole_tensor_merge(make: Making, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, adapter = make(use_dora=True, bias="all", trainable_token_indices=[3, 200])
    run(base, adapter, tmp_path / "whole")
    monkeypatch.setattr("export.merge.weights.row_ranges", lambda tensor: row_ranges(tensor, values=1000))
    run(base, adapter, tmp_path / "sliced")
    whole, sliced = weights(tmp_path / "whole"), weights(tmp_path / "sliced")
    assert all(torch.equal(whole[name], sliced[name]) for name in whole)


def test_adapter_for_different_architecture_reports_the_missing_tensor(make: Making, tmp_path: Path) -> None:
    _, adapter = make()
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4, vocab_size=256
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "other")
    with pytest.raises(MergeError, match=r"has no tensor 'model.layers.1.mlp.down_proj.weight'"):
        run(tmp_path / "other", adapter, tmp_path / "merged")


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("more", [{}, {"use_rslora": True, "bias": "lora_only"}])
def test_conv1d_layers_are_merged_like_peft(bare: bool, more: dict[str, Any], tmp_path: Path) -> None:
    """`bare`: saved without head and name prefix, like OpenAI's GPT-2 checkpoint."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=96, n_positions=64)).half()
    (model.transformer if bare else model).save_pretrained(tmp_path / "base")
    if bare:
        model.config.save_pretrained(tmp_path / "base")
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", **more)
    peft = get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32), config)
    for name, parameter in peft.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    peft.save_pretrained(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["fan_in_fan_out"] is True
    run(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    want = logits(trained_model(tmp_path / "base", tmp_path / "adapter"))
    before, after = (
        logits(AutoModelForCausalLM.from_pretrained(tmp_path / p, dtype=torch.float32)) for p in ("base", "merged")
    )
    assert (after - want).abs().max() < 0.01 * (before - want).abs().max()


def test_dora_on_conv1d_is_rejected(tmp_path: Path) -> None:
    GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=96)).save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    config = LoraConfig(r=4, target_modules=["c_attn"], use_dora=True, task_type="CAUSAL_LM")
    get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(MergeError, match="merging DoRA of a Conv1D is not supported"):
        run(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
