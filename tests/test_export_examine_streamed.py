"""A merge is examined layer by layer: the same logits as the whole model, within the planned memory."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from bench.examine import bench
from bench.merge import SHAPES, Shape
from burnish import machine
from burnish.errors import UserError
from burnish.exam.memory import ExamMemory, chunk_positions, group_tokens
from burnish.exam.rows import Exam, Question
from burnish.exam.scores import Floats, TopLogprobs
from export.exam import layerwise, streamed
from export.exam.examine import score
from export.exam.ondisk import OnDisk
from export.exam.skeleton import Skeleton
from export.exam.streamed import checkpoint_logits, streamed_logits
from export.merge.shards import ShardError, sources
from train.plan.model_shape import exam_sizes

VOCABULARY = 96
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
GPT: dict[str, Any] = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
WINDOW: dict[str, Any] = {"head_dim": 8, "sliding_window": 6}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": COMMON,
    "mistral": COMMON | WINDOW,
    "qwen2": COMMON,
    "qwen3": COMMON | {"head_dim": 8},
    "gemma2": COMMON | WINDOW | {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
    "gemma3_text": COMMON | WINDOW | {"num_hidden_layers": 7},
    "gemma3n_text": COMMON | WINDOW | {
        "num_hidden_layers": 5, "num_kv_shared_layers": 2, "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 8, "altup_num_inputs": 2, "laurel_rank": 4, "intermediate_size": [48] * 5,
        "activation_sparsity_pattern": [0.0] * 5,
        "layer_types": ["sliding_attention", "full_attention"] * 2 + ["full_attention"],
    },
    "phi3": COMMON | {"pad_token_id": 0},
    "olmo2": COMMON,
    "granite": COMMON | {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5},
    "smollm3": COMMON | {"num_hidden_layers": 5, "pad_token_id": 0},
    "cohere": COMMON | {"logit_scale": 0.3},
    "starcoder2": COMMON,
    "gpt_neox": COMMON,
    "gpt2": GPT,
    "falcon": {k: v for k, v in COMMON.items() if k != "num_key_value_heads"},
    "bloom": {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 3, "n_head": 4},
    "mixtral": COMMON | {"num_local_experts": 4},
    "qwen3_moe": COMMON | EXPERTS | {"head_dim": 8},
    "mamba": {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 4},
    "lfm2": COMMON | {"layer_types": ["conv", "full_attention", "conv"]},
    "zamba2": COMMON | {
        "mamba_headdim": 8, "n_mamba_heads": 8, "mamba_d_state": 8, "num_mem_blocks": 1, "num_key_value_heads": 4,
        "hybrid_layer_ids": [1], "layers_block_type": ["mamba", "hybrid", "mamba"],
    },
}  # fmt: skip


def checkpoint(directory: Path, family: str, **more: Any) -> Path:
    """Save a random model in float16. Norms and biases are random as well, so that omitting one is detected."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **(FAMILIES.get(family, COMMON) | more))
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.half().save_pretrained(directory)
    return directory


def exam_questions() -> list[Question]:
    numbers = np.random.default_rng(1)
    spans = {5: (2, 5), 17: (9, 17), 12: (1, 12), 20: (3, 11)}
    return [
        Question("heldout", numbers.integers(3, VOCABULARY, length).tolist(), [span]) for length, span in spans.items()
    ]


def whole(directory: Path, **options: Any) -> Floats:
    """Return the logits computed by transformers."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, **options).eval()
    with torch.inference_mode():
        parts = [
            model(input_ids=torch.tensor([q.input_ids]), use_cache=False).logits[0, q.positions]
            for q in exam_questions()
        ]
    found: Floats = torch.cat(parts).numpy()
    return found


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several groups of questions and chunks of positions, as with a large model."""
    monkeypatch.setattr(streamed, "group_tokens", lambda hidden: 25)
    monkeypatch.setattr(streamed, "chunk_positions", lambda vocabulary: 5)


@pytest.mark.parametrize("family", FAMILIES)
def test_streamed_model_gives_the_same_logits_as_the_loaded_model(
    family: str, tmp_path: Path, small_groups: None
) -> None:
    directory = checkpoint(tmp_path / family, family)
    options = {"attn_implementation": "eager"} if family == "gemma2" else {}
    chunks = list(streamed_logits(directory, exam_questions()))
    assert max(map(len, chunks)) <= 5 and chunks[0].dtype == np.float32
    assert np.abs(np.concatenate(chunks) - whole(directory, **options)).max() < 1e-5


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox"])
def test_tied_head_is_the_embedding(family: str, tmp_path: Path) -> None:
    directory = checkpoint(tmp_path / family, family, tie_word_embeddings=True)
    assert not any("lm_head" in s.name or "embed_out" in s.name for s in sources(directory))
    assert np.abs(np.concatenate(list(streamed_logits(directory, exam_questions()))) - whole(directory)).max() < 1e-5


def test_only_one_layer_is_in_memory_at_a_time(
    tmp_path: Path, small_groups: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    loaded = Skeleton.loaded

    @contextmanager
    def watched(skeleton: Skeleton, number: int) -> Iterator[None]:
        with loaded(skeleton, number):
            full = [n for n, layer in enumerate(skeleton.layers) if not any(p.is_meta for p in layer.parameters())]
            seen.append((number, full))
            yield
        assert all(p.is_meta for layer in skeleton.layers for p in layer.parameters())

    monkeypatch.setattr(Skeleton, "loaded", watched)
    list(streamed_logits(checkpoint(tmp_path / "m", "llama"), exam_questions()))
    assert seen == [(n, [n]) for _ in range(3) for n in range(3)]  # 5 + 17, 12, 20 tokens: three groups


@pytest.mark.parametrize("fits", [True, False])
def test_models_that_cannot_be_streamed_are_loaded_whole_if_they_fit(
    fits: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"ffn_dim": 48, "word_embed_proj_dim": 32}
    directory = checkpoint(tmp_path / "opt", "opt", **more)  # its head calls the decoder inside the base model
    if not fits:
        monkeypatch.setattr(machine, "memory_available_bytes", lambda: 1000)
        with pytest.raises(UserError, match="layer by layer.*needs .* GiB of memory, but 0.0 GiB are free") as caught:
            list(checkpoint_logits(directory, exam_questions()))
        assert len(caught.value.faults) == 1
        return
    assert np.abs(np.concatenate(list(checkpoint_logits(directory, exam_questions()))) - whole(directory)).max() < 1e-5
    assert "loading it whole" in capsys.readouterr().err


def test_scores_do_not_depend_on_the_logits_chunk_size() -> None:
    questions = exam_questions()
    targets = [t for q in questions for t in q.targets]
    logits = np.random.default_rng(0).standard_normal((len(targets), VOCABULARY)).astype(np.float32)
    answers = TopLogprobs.of(logits + 0.1, targets)
    exam = Exam(questions, answers, answers.true, 0.0, 1.0)
    cuts = [[logits], [logits[:3], logits[3:4], logits[4:]]]
    one, other = (score(exam, cut, answers, "x") for cut in cuts)
    for field in dataclasses.fields(TopLogprobs):
        assert np.array_equal(getattr(one.answers, field.name), getattr(other.answers, field.name))
    assert one.merged is not None and other.merged is not None
    assert np.array_equal(one.trained.kl, other.trained.kl) and np.array_equal(one.merged.kl, other.merged.kl)
    with pytest.raises(AssertionError, match="logits of 3 positions"):
        score(exam, [logits[:3]], None, "x")


def test_truncated_checkpoint_is_a_one_line_error(tmp_path: Path) -> None:
    directory = checkpoint(tmp_path / "m", "llama")
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4000])
    with pytest.raises(ShardError, match="is damaged: the file ends inside") as caught:
        list(checkpoint_logits(directory, exam_questions()))
    assert len(caught.value.faults) == 1


@pytest.mark.parametrize("lost", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_missing_tensor_is_reported_and_never_initialised_randomly(lost: str, tmp_path: Path) -> None:
    directory = checkpoint(tmp_path / "m", "llama")
    tensors = load_file(directory / "model.safetensors")
    save_file({name: t for name, t in tensors.items() if name != lost}, directory / "model.safetensors")
    with pytest.raises(ShardError, match=f"lacks 1 tensor of the model: {lost}"):
        list(checkpoint_logits(directory, exam_questions()))


def test_unknown_architecture_is_a_one_line_error(tmp_path: Path) -> None:
    directory = checkpoint(tmp_path / "m", "llama")
    (directory / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(ShardError, match="transformers can't load it") as caught:
        list(checkpoint_logits(directory, exam_questions()))
    assert len(caught.value.faults) == 1 and "\n" not in caught.value.faults[0]


def test_on_disk_matrix_reads_only_the_needed_rows(tmp_path: Path) -> None:
    stored = {s.name: s for s in sources(checkpoint(tmp_path / "m", "llama"))}["model.embed_tokens.weight"]
    matrix, values = OnDisk.of(stored), stored.read().float()
    ids, states = torch.tensor([[3, 3, 95], [0, 7, 3]]), torch.randn(2, 5, 32)
    assert torch.equal(functional.embedding(ids, matrix), values[ids])
    assert torch.allclose(functional.linear(states, matrix), states @ values.T, atol=1e-5)
    assert torch.equal(matrix[2:4] * 2, values[2:4] * 2)
    assert (matrix.shape, matrix.device.type, matrix.dtype) == (values.shape, "cpu", torch.float32)
    with pytest.raises(ShardError, match="has 96 rows; token 96 has none"):
        functional.embedding(torch.tensor([96]), matrix)


def test_passes_share_loaded_layers_and_leave_no_thread() -> None:
    layers = [torch.nn.Linear(64, 64) for _ in range(2)]
    order: list[str] = []

    @contextmanager
    def loaded(number: int) -> Iterator[None]:
        order.append(f"load {number}")
        yield

    def forward(name: int) -> torch.Tensor:
        values = torch.full((600, 64), float(name))
        for layer in layers:
            values = layer(values) + 1  # large enough for OpenMP to split
            order.append(f"pass {name}")
        return values

    threads, tasks = threading.active_count(), len(os.listdir("/proc/self/task"))
    made = layerwise.run([lambda n=n: forward(n) for n in range(8)], layers, loaded)  # type: ignore[misc]
    assert order[:1] == ["load 0"] and order.count("load 0") == order.count("load 1") == 1
    assert order[9] == "load 1"
    assert all(torch.equal(values, forward(n)) for n, values in enumerate(made))
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/task")) <= tasks + torch.get_num_threads()

    def fails() -> torch.Tensor:
        layers[0](torch.zeros(1, 64))
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        layerwise.run([lambda: forward(1), fails, lambda: forward(2)], layers, loaded)
    assert threading.active_count() == threads
    assert "forward" not in vars(layers[0])


def llama_8b() -> Any:
    with torch.device("meta"):
        return LlamaForCausalLM(
            LlamaConfig(
                hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
                num_key_value_heads=8, vocab_size=128_256,
            )
        )  # fmt: skip


@pytest.mark.parametrize("lengths", [[300] * 9, [2048] * 69, [4096] * 69])
def test_8b_examination_stays_below_3_gib_for_any_number_of_rows(lengths: list[int]) -> None:
    needs = ExamMemory.of(exam_sizes(llama_8b()), lengths)
    assert needs.layer == 4 * 218_112_000
    assert needs.peak < 3 * 2**30
    assert needs.states <= 4 * 4096 * group_tokens(4096) and chunk_positions(128_256) >= 64


@pytest.mark.slow
def test_memory_use_matches_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Shape(1024, 3072, 12, 8, 4, 32_000, False)
    monkeypatch.setitem(SHAPES, "small", shape)
    result = bench("small", tmp_path, ["streamed", "whole"], 1, 4, 64)
    kinds, total = result["kinds"], 4 * (12 * (1024 * 1024 * 3 + 3 * 1024 * 3072) + 2 * 32_000 * 1024)
    assert kinds["whole"]["peak_bytes"] > kinds["whole"]["imports_bytes"] + total
    assert kinds["streamed"]["peak_bytes"] < min(result["planned_bytes"], kinds["whole"]["peak_bytes"] - total / 2)
    assert result["difference"] < 1e-3
