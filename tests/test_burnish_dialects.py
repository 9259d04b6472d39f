"""Tool calls and reasoning: text written by a template is parsed back exactly, at once or in chunks."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.dialects.comparison import same_call, same_json
from burnish.dialects.dialect import Dialect
from burnish.dialects.events import Call, CallBegin, CallBroken, CallEnd, Parsed, collect
from burnish.dialects.find import Found, find
from burnish.dialects.formats import DIALECTS
from burnish.dialects.reader import Parser, parse
from burnish.dialects.thoughts import FORMATS, Thoughts
from burnish.rendering.shape import tool_call
from tests.support.thorough import THOROUGH
from tests.support.tool_calls import CALLS, MARKERS, holds, parameters
from tests.support.tool_templates import QUOTES, TEMPLATES, tool_template


@cache
def found(name: str) -> Found:
    return find(tool_template(name))


def written(name: str, calls: list[Call], **answer: Any) -> tuple[str, bool]:
    """Return a turn with calls as generated, without its end token, and whether the prompt opened its reasoning."""
    facts = found(name)
    template = replace(tool_template(name), shape=facts.shape)
    question = {"role": "user", "content": "go"}
    entries = [tool_call(f"abcdefg{i:02}", call.name, call.arguments) for i, call in enumerate(calls)]
    turn = {"role": "assistant", "content": "", **answer, "tool_calls": entries}
    prompt = template.render([question], True)
    whole = template.render([question, turn])
    assert whole.startswith(prompt)
    text = whole[len(prompt) :]
    return text[: text.rindex(facts.end)] if facts.end else text, bool(
        facts.thoughts and facts.thoughts.open_in(prompt)
    )


def in_pieces(text: str, sizes: list[int], *about: Any) -> Parsed:
    parser, events, at = Parser(*about), [], 0
    for size in sizes:
        events += parser.feed(text[at : at + size])
        at += size
    return collect([*events, *parser.feed(text[at:]), *parser.feed("", final=True)])


@pytest.mark.parametrize("name", TEMPLATES)
def test_dialect_of_a_template_is_detected(name: str) -> None:
    dialect, thoughts, _ = TEMPLATES[name]
    facts = found(name)
    assert facts.dialect is DIALECTS[dialect], facts.why
    assert (facts.thoughts and facts.thoughts.name) == thoughts
    assert facts.usable and facts.parallel == (name not in ("llama-json", "channels"))
    assert facts.shape.short_ids == (name == "mistral-list")


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=40 if THOROUGH else 12)
@given(calls=CALLS, sizes=st.lists(st.integers(0, 9), max_size=30))
def test_calls_written_by_a_template_round_trip(name: str, calls: list[Call], sizes: list[int]) -> None:
    facts = found(name)
    calls = calls if facts.parallel else calls[:1]
    if name in QUOTES and any(holds(call.value(), QUOTES[name]) for call in calls):
        return  # such a call can't be written; see the next test
    text, opened = written(name, calls)
    about = (facts.dialect, facts.thoughts, opened, parameters(calls))
    read = parse(text, *about)
    assert (read.content, read.reasoning) == ("", "")
    assert len(read.calls) == len(calls) and all(map(same_call, calls, read.calls))
    assert in_pieces(text, sizes, *about) == read
    assert in_pieces(text, [1] * len(text), *about) == read


@pytest.mark.parametrize("name", QUOTES)
def test_unrepresentable_string_is_not_parsed_as_another(name: str) -> None:
    call = Call("say", json.dumps({"words": f"a{QUOTES[name]}b"}))
    read = parse(written(name, [call])[0], found(name).dialect)
    assert not any(same_call(call, other) for other in read.calls)


@pytest.mark.parametrize("name", ["chatml-tools", "hermes-think", "lfm", "mistral-args"])
def test_content_before_calls_is_kept(name: str) -> None:
    call = Call("look", '{"at": "x"}')
    text, opened = written(name, [call, call], content="Let me look.")
    assert parse(text, found(name).dialect, found(name).thoughts, opened) == Parsed("Let me look.", "", (call, call))


def test_python_string_keeps_backslashes_that_are_not_escapes() -> None:
    (call,) = parse(r"""[f(p="\d+\n")]""", DIALECTS["pythonic"], None, False, frozenset({"f"})).calls
    assert call.value() == {"p": "\\d+\n"}


def test_harmony_channels_are_not_calls_without_tools() -> None:
    text = '<|channel|>commentary to=functions.f<|message|>{"a": 1}<|call|>'
    assert parse(text, DIALECTS["channels"], None, False, frozenset()).calls == ()
    assert len(parse(text, DIALECTS["channels"], None, False, frozenset({"f"})).calls) == 1


TYPED = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": ["integer", "null"]}, "d": {}}}


@pytest.mark.parametrize("name", ["qwen-xml", "glm"])
@pytest.mark.parametrize(
    "key, text, value",
    [
        ("a", "12", "12"), ("a", "", ""), ("a", "x\n", "x\n"), ("a", "null", "null"), ("b", "12", 12), ("b", "x", "x"),
        ("b", "null", None), ("b", "true", "true"), ("c", "12", 12), ("c", '{"x": [1]}', {"x": [1]}),
        ("c", '"x"', '"x"'), ("c", "1 2", "1 2"), ("d", "1.5", 1.5), ("d", "", ""),
        ("c", "[" * 99 + "]" * 99, "[" * 99 + "]" * 99),
    ],
)  # fmt: skip
def test_tagged_arguments_are_typed_by_the_tool_parameters(name: str, key: str, text: str, value: Any) -> None:
    """Values of unknown parameters are parsed as JSON if possible."""
    said = {
        "qwen-xml": f"<tool_call>\n<function=f>\n<parameter={key}>\n{text}\n</parameter>\n</function>\n</tool_call>",
        "glm": f"<tool_call>f\n<arg_key>{key}</arg_key>\n<arg_value>{text}</arg_value>\n</tool_call>",
    }[name]
    about = (DIALECTS[name], None, False, {"f": TYPED, "g": None})
    (call,) = parse(said, *about).calls
    assert same_json(call.value(), {key: value})
    assert in_pieces(said, [1] * len(said), *about).calls == (call,)


@pytest.mark.parametrize("name", ["hermes-think", "channels"])
def test_reasoning_before_calls_is_parsed_as_reasoning(name: str) -> None:
    call = Call("look", '{"at": "x"}')
    text, opened = written(name, [call], reasoning_content="I should look.\nNow.")
    assert parse(text, found(name).dialect, found(name).thoughts, opened) == Parsed("", "I should look.\nNow.", (call,))


FRAGMENTS = st.sampled_from(
    [
        *MARKERS,
        '{"name": "f", "arguments": {"a": 1}}',
        '{"name": "f", "parameters": ',
        "f(a=1)",
        "call:f{a:1}",
        " ",
        "\n",
        *(
            "function",
            "f",
            "<",
            "<|",
            "[",
            "{",
            "}",
            '"',
            ",",
            ": ",
            "1",
            "true",
            "to=functions.f",
            "x",
            "é",
            "<think>",
        ),
    ]
)


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda d: d.name)
@settings(max_examples=120 if THOROUGH else 30)
@given(parts=st.lists(FRAGMENTS, max_size=14), sizes=st.lists(st.integers(0, 7), max_size=60), think=st.booleans())
def test_parsing_does_not_depend_on_chunk_boundaries(
    dialect: Dialect, parts: list[str], sizes: list[int], think: bool
) -> None:
    text, about = "".join(parts), (dialect, FORMATS["think"] if think else None, False, frozenset({"f"}))
    read = parse(text, *about)
    assert in_pieces(text, sizes, *about) == in_pieces(text, [1] * len(text), *about) == read
    assert all(isinstance(call.value(), dict) for call in read.calls)
    if not read.calls and not think and not dialect.whole:
        assert read.content == text


def test_truncated_call_name_is_content() -> None:
    parser = Parser(DIALECTS["mistral"])
    events = [*parser.feed("[TOOL_CALLS]"), *parser.feed("look"), *parser.feed("", final=True)]
    assert collect(events) == Parsed("[TOOL_CALLS]look", "", ())


@pytest.mark.parametrize("thoughts", FORMATS.values(), ids=lambda t: t.name)
@pytest.mark.parametrize("opened", [True, False])
def test_reasoning_is_separated_from_the_answer(thoughts: Thoughts, opened: bool) -> None:
    text = f"{'' if opened else thoughts.begin}\nhm {thoughts.begin}?\n{thoughts.end}\n\nYes {thoughts.end}."
    expected = Parsed(f"Yes {thoughts.end}.", f"hm {thoughts.begin}?")
    assert parse(text, None, thoughts, opened) == expected
    assert in_pieces(text, [1] * len(text), None, thoughts, opened) == expected


def test_only_possible_marker_prefixes_are_held_back() -> None:
    parser = Parser(DIALECTS["hermes"])
    texts = [collect(parser.feed(piece)).content for piece in ("a", " b", " <", "tool", "s> ", "c")]
    assert texts == ["a", " b", "", "", " <tools>", " c"]


def test_name_and_arguments_are_streamed_as_generated() -> None:
    parser = Parser(DIALECTS["hermes"])
    assert parser.feed('<tool_call>\n{"name": "look", ') == [CallBegin("look")]
    assert collect([CallBegin("look"), *parser.feed('"arguments": {"at": "the s'), CallEnd()]).calls[0].arguments == (
        '{"at": "the s'
    )


def test_broken_call_is_returned_unchanged_as_content() -> None:
    text = 'Hm. <tool_call>{"name": "look", "arguments": {"at": ?}}</tool_call> So.'
    assert parse(text, DIALECTS["hermes"]) == Parsed(text)
    events = Parser(DIALECTS["hermes"]).feed(text, final=True)
    assert CallBroken(' <tool_call>{"name": "look", "arguments": {"at": ') in events


@pytest.mark.parametrize("name", ["json", "llama-json", "pythonic"])
def test_bare_json_is_a_call_only_for_offered_tools(name: str) -> None:
    text = {"json": '{"name": "f", "arguments": {}}', "llama-json": '{"name": "f", "parameters": {}}'}.get(
        name, "[f()]"
    )
    assert parse(text, DIALECTS[name], names={"f"}).calls == (Call("f", "{}"),)
    assert parse(text, DIALECTS[name], names={"g"}) == Parsed(text)


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda d: d.name)
@pytest.mark.parametrize(
    "part", ["[", '{"name":"', "<tool_call>", '{"name": "f", "arguments": {"a":', "<", "\n", "\\", '"']
)
def test_hostile_text_is_parsed_in_linear_time(dialect: Dialect, part: str) -> None:
    text = "".join(dialect.begins[:1]) + part * (60_000 // len(part))
    began = time.process_time()
    read = in_pieces(text, [7] * (len(text) // 7), dialect, FORMATS["think"])
    assert time.process_time() - began < 3
    assert len(read.content) <= len(text)


@pytest.mark.parametrize(
    "one, other, same",
    [
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        ([1], [True], False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
    ],
)
def test_arguments_are_compared_as_json(one: Any, other: Any, same: bool) -> None:
    assert same_json(one, other) is same
