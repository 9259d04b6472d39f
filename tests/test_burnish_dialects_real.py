"""The chat templates of known models: the dialect of each, and that its calls are parsed back.

They are in llama.cpp's source archive, which is fetched once; this project has no copy.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from burnish.chat import ChatTemplate
from burnish.dialects.comparison import same_call
from burnish.dialects.events import Call
from burnish.dialects.find import Found, find
from burnish.dialects.reader import parse
from burnish.rendering.shape import tool_call
from tests.support.tokenizers import llama_cpp_template
from tests.support.tool_calls import CALLS, holds, parameters

# file → dialect, thoughts, several calls in a turn
KNOWN = {
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": ("hermes", None, True),
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": ("hermes", None, True),
    "Qwen-QwQ-32B": ("hermes", "think", True),
    "Qwen-Qwen2.5-7B-Instruct": ("hermes", None, True),
    "Qwen-Qwen3-0.6B": ("hermes", "think", True),
    "ibm-granite-granite-4.0": ("hermes", None, True),
    "meta-llama-Llama-3.1-8B-Instruct": ("llama-json", None, False),
    "meta-llama-Llama-3.2-3B-Instruct": ("llama-json", None, False),
    "meta-llama-Llama-3.3-70B-Instruct": ("llama-json", None, False),
    "mistralai-Mistral-Nemo-Instruct-2407": ("mistral", None, True),
    "Mistral-Small-3.2-24B-Instruct-2506": ("mistral", None, True),
    "mistralai-Ministral-3-14B-Reasoning-2512": ("mistral", "bracket-think", True),
    "unsloth-mistral-Devstral-Small-2507": ("mistral", None, True),
    "deepseek-ai-DeepSeek-V3.1": ("deepseek", "think", True),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": ("deepseek", "think", True),
    "google-gemma-4-31B-it": ("gemma", "gemma-channel", True),
    "LFM2.5-8B-A1B": ("pythonic", "think", True),
    "openai-gpt-oss-120b": ("channels", "channels", False),
    "Qwen3-Coder": ("qwen-xml", None, True),
    "GLM-4.6": ("glm", "think", True),
}
# templates without a supported dialect, and a fragment of the reason
UNKNOWN = {
    "google-gemma-2-2b-it": "does not render tool calls",
    "microsoft-Phi-3.5-mini-instruct": "does not render tool calls",
}
# templates that write strings unescaped, and what these can't contain; Gemma's keys are also unquoted
UNESCAPED = {
    "google-gemma-4-31B-it": ('<|"|>',),
    "LFM2.5-8B-A1B": ("'", "\\"),
    "Qwen3-Coder": ("</parameter>",),
    "GLM-4.6": ("</arg_value>",),
}
BARE_KEYS = "google-gemma-4-31B-it"


@cache
def template(name: str) -> ChatTemplate:
    return ChatTemplate(llama_cpp_template(name), "2026-01-02", {"bos_token": "<s>", "eos_token": "</s>"})


@cache
def found(name: str) -> Found:
    return find(template(name))


def bare_keys(value: Any) -> bool:
    if isinstance(value, dict):
        return all(key.isidentifier() and bare_keys(inner) for key, inner in value.items())
    return all(map(bare_keys, value)) if isinstance(value, list) else True


@pytest.mark.parametrize("name", KNOWN)
def test_dialect_of_a_known_template_is_detected(name: str) -> None:
    facts = found(name)
    assert facts.dialect is not None, facts.why
    assert (facts.dialect.name, facts.thoughts and facts.thoughts.name, facts.parallel) == KNOWN[name]


@pytest.mark.parametrize("name", UNKNOWN)
def test_unsupported_template_is_rejected_with_a_reason(name: str) -> None:
    assert found(name).dialect is None
    assert UNKNOWN[name] in found(name).why


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(calls=CALLS)
def test_calls_written_by_a_known_template_round_trip(name: str, calls: list[Call]) -> None:
    facts = found(name)
    calls = calls if facts.parallel else calls[:1]
    if any(holds(call.value(), text) for call in calls for text in UNESCAPED.get(name, ())):
        return
    if name == BARE_KEYS and not all(bare_keys(call.value()) for call in calls):
        return
    tools = [{"type": "function", "function": {"name": c.name, "description": "", "parameters": {}}} for c in calls]
    shaped = replace(template(name), shape=facts.shape)
    question = {"role": "user", "content": "go"}
    entries = [tool_call(f"abcdefg{i:02}", call.name, call.arguments) for i, call in enumerate(calls)]
    turn = {"role": "assistant", "content": "", "tool_calls": entries}
    prompt = shaped.render([question], True, tools=tools)
    whole = shaped.render([question, turn], tools=tools)
    text = whole[len(prompt) :] if whole.startswith(prompt) else whole[whole.index("go") + len("go") :]
    opened = facts.thoughts is not None and facts.thoughts.open_in(prompt) and whole.startswith(prompt)
    text = text[: text.rindex(facts.end.strip())] if facts.end.strip() else text
    read = parse(text, facts.dialect, facts.thoughts, opened, parameters(calls))
    assert len(read.calls) == len(calls) and all(map(same_call, calls, read.calls)), json.dumps(text)
