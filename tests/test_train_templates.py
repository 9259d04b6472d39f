"""Real chat templates: text they add or remove, their trained end tokens, and linear time for long conversations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from burnish.chat import ChatTemplate, load_template
from burnish.config import ConfigError
from burnish.data.formats import Example, Message
from burnish.tokenizers import loader
from tests.support import templates as sources
from tests.support.tokenizers import from_npm
from train.data import template as templates
from train.data.mask import Codec, MaskError, Row, build, prove
from train.data.mask import chat as chat_rows
from train.data.mask.changes import Changes
from train.settings import ChatSection

DATE = "2026-01-02"


@pytest.fixture(scope="module")
def tokenizer(base_directory: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base_directory)


@pytest.fixture(scope="module")
def codec(tokenizer: Any) -> Codec:
    return templates.codec(tokenizer)


def made(source: str, **variables: Any) -> ChatTemplate:
    return ChatTemplate(source, DATE, {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}, variables)


def chat(*contents: str, line: int = 1, system: str = "", reasoning: str = "") -> Example:
    turns = [Message("user", text) if i % 2 == 0 else Message("assistant", text, True, reasoning)
            for i, text in enumerate(contents)]  # fmt: skip
    return Example(line, (*([Message("system", system)] if system else []), *turns))


def rows_of(template: ChatTemplate, codec: Codec, *examples: Example) -> list[Row]:
    rows = build(examples, template, codec)
    prove(rows, template, codec)
    for row in rows:  # independent of the proof: every prompt equals the one rendered for serving
        for (start, _), turn in zip(row.spans, row.turns, strict=True):
            messages = [m.to_dict() for m in (row.example.messages or ())[:turn]]
            assert codec.chat(template).ids(messages, add_generation_prompt=True) == row.input_ids[:start]
    return rows


def learned(rows: Sequence[Row], codec: Codec) -> list[str]:
    return [codec.decode(row.input_ids[start:end]) for row in rows for start, end in row.spans]


@pytest.mark.parametrize(
    ("source", "variables", "expected"),
    [
        (sources.HYBRID, {}, ["<think>\n\n</think>\n\nAt noon.<|im_end|>", "<think>\n\n</think>\n\nPier 2.<|im_end|>"]),
        (sources.HYBRID, {"enable_thinking": False}, ["At noon.<|im_end|>", "Pier 2.<|im_end|>"]),
        (sources.TWICE, {}, ["At noon.<|im_end|>", "Pier 2.<|im_end|>"]),
        (
            sources.CHANNELS,
            {},
            [
                "<jupyter_text>final<jupyter_code>At noon.<|endoftext|>",
                "<jupyter_text>final<jupyter_code>Pier 2.<|endoftext|>",
            ],
        ),
        (sources.BRACKETED, {}, ["At noon.<jupyter_output><|im_end|>", "Pier 2.<jupyter_output><|im_end|>"]),
    ],
)
def test_response_is_trained_with_template_prefix_and_one_end_token(
    source: str, variables: dict[str, Any], expected: list[str], codec: Codec
) -> None:
    rows = rows_of(made(source, **variables), codec, chat("When?", "At noon.", "Where?", "Pier 2."))
    assert learned(rows, codec) == expected
    assert len(rows) == (1 if source in (sources.TWICE, sources.BRACKETED) else 2)


@pytest.mark.parametrize("answer", ["final", "code", "assistant", "<jupyter_code>", " pier 2 \n", "<|endoftext|>"])
def test_answer_that_looks_like_template_text_is_masked_correctly(answer: str, codec: Codec) -> None:
    for source in (sources.CHANNELS, sources.TWICE, sources.BRACKETED, sources.HYBRID):
        (text,) = learned(rows_of(made(source), codec, chat("Which?", answer)), codec)
        assert answer.strip() in text
        assert text.count(answer.strip()) >= 1
        assert text.endswith(("<|im_end|>", "<|endoftext|>"))


def test_only_whitespace_around_reasoning_may_change(codec: Codec) -> None:
    tight = "<think>Piers count from one.</think>Pier 2."
    (text,) = learned(rows_of(made(sources.HYBRID), codec, chat("Which?", tight)), codec)
    assert text == "<think>\nPiers count from one.\n</think>\n\nPier 2.<|im_end|>"
    squeezed = made("{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content.replace(' ', '') }}"
                    "{{ '<|im_end|>\n' }}{% endfor %}" + sources.OPENS)  # fmt: skip
    with pytest.raises(MaskError, match="assistant turn 1: the template or tokenizer changes the response"):
        prove(build([chat("a", "Pier 2.")], squeezed, codec), squeezed, codec)


def test_template_that_drops_reasoning_from_content_is_rejected(codec: Codec) -> None:
    source = sources.STRICT.replace("m.content", "m.content.split('</think>')[-1]")
    with pytest.raises(MaskError, match="changes the response: '<think>x</think>2' became '2'"):
        prove(build([chat("1+1?", "<think>x</think>2")], made(source), codec), made(source), codec)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (sources.HYBRID, "<think>\nTwo piers.\n</think>\n\nPier 2.<|im_end|>"),
        (
            sources.CHANNELS,
            "<jupyter_text>analysis<jupyter_code>Two piers.<|im_end|><|im_start|>assistant"
            "<jupyter_text>final<jupyter_code>Pier 2.<|endoftext|>",
        ),
        (sources.STRICT, "Pier 2.<|im_end|>"),
    ],
)
def test_reasoning_uses_the_field_of_the_template_or_causes_a_warning(source: str, expected: str, codec: Codec) -> None:
    rows = rows_of(made(source), codec, chat("Which?", "Pier 2.", reasoning="Two piers.", line=5))
    assert learned(rows, codec) == [expected]
    changes = Changes()
    for row in rows:
        changes.add(row, codec)
    warned = templates.lost_thoughts(changes, made(source))
    if source == sources.STRICT:
        assert "the reasoning of 1 row (first line 5) is not trained: the chat template" in warned[0]
    else:
        assert warned == []


def test_unsupported_system_turn_gets_advice(codec: Codec) -> None:
    with pytest.raises(
        MaskError, match=r"line 1: .*no system turn.*to the start of the first user turn \(the same in 2 rows"
    ):
        build([chat("a", "b", system="S"), chat("c", "d", system="S", line=2)], made(sources.STRICT), codec)
    always = made("{{ raise_exception('never') }}")
    with pytest.raises(MaskError, match="never$"):
        build([chat("a", "b", system="S")], always, codec)


def test_prompt_that_opens_reasoning_suggests_the_template_variable(codec: Codec) -> None:
    source = (
        "{% for m in messages %}" + sources.CHATML_TURN + "{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|im_start|>assistant\n' }}{% if enable_thinking is not defined %}<think>{% endif %}{% endif %}"
    )
    with pytest.raises(MaskError, match="opens reasoning.*template_kwargs to {enable_thinking: false}"):
        build([chat("a", "b")], made(source), codec)
    assert learned(rows_of(made(source, enable_thinking=False), codec, chat("a", "b")), codec) == ["b<|im_end|>"]


def test_unknown_and_reserved_template_variables_are_rejected(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text(sources.HYBRID)
    name = str(tmp_path / "t.jinja")
    found = templates.choose(ChatSection(template=name, template_kwargs={"enable_thinking": False}), tokenizer)
    assert found is not None
    assert found.render([{"role": "user", "content": "x"}], True).endswith("</think>\n\n")
    with pytest.raises(ConfigError, match="no variable 'enable_thoughts'"):
        templates.choose(ChatSection(template=name, template_kwargs={"enable_thoughts": False}), tokenizer)
    with pytest.raises(ValueError, match="messages can't be set"):
        ChatSection(template_kwargs={"messages": []})


words = st.text(st.sampled_from("abc 12.?<|>é好\n"), min_size=1, max_size=12).filter(str.strip)
TEMPLATES = {
    **{name: load_template(name) for name in ("chatml", "mistral", "deepseek-chat")},
    **{name: getattr(sources, name) for name in ("HYBRID", "TWICE", "CHANNELS", "BRACKETED", "NUMBERED", "LATE")},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
@given(
    contents=st.lists(st.tuples(words, words, st.booleans()), min_size=chat_rows.FEWEST_JOINED, max_size=12),
    system=st.sampled_from(["", "Be brief."]),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_fast_path_gives_the_same_rows_for_long_conversations(
    name: str, contents: list[tuple[str, str, bool]], system: str, codec: Codec
) -> None:
    """Rendering each turn with its whole history and joining short exchanges give the same ids and spans."""
    pairs = [(Message("user", user), Message("assistant", answer, train)) for user, answer, train in contents]
    turns = [message for pair in pairs for message in pair]
    turns[-1] = replace(turns[-1], train=True)
    example = Example(1, (*([Message("system", system)] if system else []), *turns))
    template = made(TEMPLATES[name])
    slow = chat_rows.each_turn(example, codec.chat(template), codec)
    whole = chat_rows.one_row(example, slow)
    expected = [whole] if whole else [chat_rows.row_of(example, [turn]) for turn in slow if turn.trained]
    assert rows_of(template, codec, example) == expected


def test_rendering_time_is_linear_in_the_number_of_turns(codec: Codec) -> None:
    """Return the number of characters tokenized and rendered by builder and proof."""
    assert codec.vocabulary is not None
    costs = []
    for count in (60, 120, 240):
        spent = [0]

        def parse(text: str, spent: list[int] = spent) -> list[int]:
            spent[0] += len(text)
            return codec.encode(text)

        counting = replace(codec, vocabulary=replace(codec.vocabulary, parse=parse))
        template = made(TEMPLATES["chatml"])
        rows = build([chat(*[f"Which boat is number {i}?" for i in range(2 * count)])], template, counting)
        prove(rows, template, counting)
        assert [len(row.spans) for row in rows] == [count]
        costs.append(spent[0])
    assert costs[1] < 2.2 * costs[0]
    assert costs[2] < 2.2 * costs[1]


def test_proof_detects_a_wrong_prompt_inside_a_long_row(codec: Codec) -> None:
    template = made(TEMPLATES["chatml"])
    (row,) = build([chat(*[f"text {i}" for i in range(60)])], template, codec)
    for number in range(1, 30, 4):
        at = row.spans[number][0] - 5
        ids = [*row.input_ids[:at], row.input_ids[at] + 1, *row.input_ids[at + 1 :]]
        with pytest.raises(MaskError, match="not the prompt that the server would build"):
            prove([replace(row, input_ids=ids)], template, codec)


@pytest.mark.external(name="tokenizers")
def test_qwen3_template_trains_rows_with_and_without_reasoning() -> None:
    real = loader.load(from_npm("qwen3"))
    codec, own = templates.codec(real), ChatTemplate(real.chat_template, DATE)
    plain = chat("When?", "At noon, über Köln.", "Where?", "Pier 2.")
    empty = "<think>\n\n</think>\n\n"
    expected = ["At noon, über Köln.<|im_end|>", "Pier 2.<|im_end|>"]
    assert learned(rows_of(own, codec, plain), codec) == [empty + text for text in expected]
    assert learned(rows_of(replace(own, variables={"enable_thinking": False}), codec, plain), codec) == expected
    thoughtful = chat("Which?", "Pier 2.", reasoning="Two piers.")
    assert learned(rows_of(own, codec, thoughtful), codec) == ["<think>\nTwo piers.\n</think>\n\nPier 2.<|im_end|>"]
    decomposed = chat("When?", "Um zwo\u0308lf.")  # its tokenizer composes accents
    assert learned(rows_of(own, codec, decomposed), codec) == [f"{empty}Um zw\u00f6lf.<|im_end|>"]


@pytest.mark.external(name="tokenizers")
def test_gpt_oss_template_trains_its_channels() -> None:
    codec = templates.codec(loader.load(from_npm("gptoss")))
    rows = rows_of(made(sources.HARMONY), codec, chat("Which?", "Pier 2.", reasoning="Two piers."))
    assert learned(rows, codec) == [
        "<|channel|>analysis<|message|>Two piers.<|end|><|start|>assistant<|channel|>final<|message|>Pier 2.<|return|>"
    ]
    rows = rows_of(made(sources.HARMONY), codec, chat("a", "final", "b", "<|message|>"))
    assert learned(rows, codec) == [f"<|channel|>final<|message|>{text}<|return|>" for text in ("final", "<|message|>")]
