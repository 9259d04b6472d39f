"""Required, named and strict calls are generated in the template's format, with valid arguments."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest

from burnish.dialects.find import find
from burnish.dialects.probes import CALLS, Probe
from burnish.llama import Model
from serve.decoding.constraints.answer import Style
from serve.decoding.constraints.check import Checker
from serve.decoding.constraints.library import Compiled
from serve.decoding.constraints.schema.places import SchemaError
from serve.llama.token_table import matchers
from tests.support.schemas import HOSTILE, PERSON, TEXT, Schema, closed
from tests.support.server import ServerProcess, serving, small_model
from tests.support.thorough import named
from tests.support.tool_templates import TEMPLATES, tool_template
from tools import tiny_gguf

PARAMETERS = {
    "weather": closed({"city": TEXT, "days": {"type": "integer", "minimum": 1, "maximum": 9}}, ["city"]),
    "paint": closed({"colour": {"enum": ["red", "blue"]}}),
}


def strict(name: str, parameters: Schema) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, "strict": True}}


TOOLS: list[Any] = [strict(name, parameters) for name, parameters in PARAMETERS.items()]
MESSAGES: Any = [{"role": "user", "content": "What is the weather like in Bern?"}]
NOT_JSON = ("pythonic", "gemma", "qwen-xml", "glm")
WRITTEN = [name for name in TEMPLATES if TEMPLATES[name][0] not in NOT_JSON]


@cache
def vocabulary() -> Model:
    return Model.open(small_model(), vocab_only=True)


@contextmanager
def tiny(path: Path, template: str) -> Iterator[ServerProcess]:
    """A model with random weights, which generates any allowed text."""
    source = TEMPLATES[template][2].replace("bos_token", "''")
    tiny_gguf.write(path, replace(tiny_gguf.TINY, context=4096), template=source)
    with serving(model=path, context_length=None) as running:
        yield running


def checker(template: str) -> Checker:
    compiling = matchers(vocabulary(), vocabulary().eog_ids(), find(tool_template(template)))
    assert compiling is not None
    return Checker(compiling, Style(find(tool_template(template))))


def wanted(needed: bool, functions: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    of_probes = [{"name": call.name, "parameters": None, "strict": False} for call in CALLS]
    tools = {"functions": functions or of_probes, "needed": needed, "parallel": True}
    return {"content": None, "tools": tools, "chat": True, "opened": False, **more}


def follows(compiled: Compiled, text: str) -> bool:
    """Whether a text is a whole answer."""
    ids = vocabulary().tokenize(text, add_special=False, parse_special=False)
    matcher = compiled.start().matcher
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def turn(template: str, count: int) -> str:
    """Return the text of a turn with calls, without the end token."""
    found = find(tool_template(template))
    text = Probe(tool_template(template).taking(found.shape)).calls(count).text.rstrip()
    assert found.dialect is not None
    for end in (found.end.strip(), *found.dialect.ends):
        text = text.removesuffix(end).rstrip() if end else text
    return text


@pytest.mark.parametrize("needed", [True, False])
@pytest.mark.parametrize("template", WRITTEN)
def test_grammar_allows_exactly_the_calls_that_the_template_writes(template: str, needed: bool) -> None:
    check, found = checker(template), find(tool_template(template))
    compiled = check.matchers.compile(check.checked(wanted(needed)))
    call = turn(template, 1)
    assert follows(compiled, call) and not follows(compiled, call[:-2])
    assert not follows(compiled, call.replace(CALLS[0].name, "gamma_tool"))
    assert not follows(compiled, call.replace('"days": 3', '"days":  3'))
    assert follows(compiled, "It is grey." if template != "channels" else "<|channel|>final<|message|>x") is not needed
    if found.parallel:
        assert follows(compiled, turn(template, 2))
        alone = check.checked(wanted(needed) | {"tools": {**wanted(needed)["tools"], "parallel": False}})
        assert not follows(check.matchers.compile(alone), turn(template, 2)) or not needed


@pytest.mark.parametrize("opened", [True, False])
def test_reasoning_precedes_constrained_output(opened: bool) -> None:
    check = checker("hermes-think")
    thought = "Hm, {1}.\n</think>\n\n" if opened else "<think>\nHm, {1}.\n</think>\n\n"
    content = {"kind": "json", "schema": PERSON}
    person = '{"name": "Ada", "age": 36, "tags": []}'
    compiled = check.matchers.compile(check.checked(wanted(False, content=content, tools=None, opened=opened)))
    assert follows(compiled, thought + person) and follows(compiled, person) is not opened
    called = check.matchers.compile(check.checked(wanted(True, opened=opened)))
    assert follows(called, thought + turn("hermes-think", 1))
    both = check.matchers.compile(check.checked(wanted(False, content=content, opened=opened)))
    assert follows(both, thought + person) and follows(both, thought + turn("hermes-think", 1))
    assert not follows(both, thought + "Hello.")


def test_unsupported_strict_schema_error_names_function_and_place() -> None:
    unique = {"type": "array", "uniqueItems": True}
    functions = [
        {"name": "paint", "parameters": PARAMETERS["paint"], "strict": True},
        {"name": "sort", "parameters": closed({"items": unique}), "strict": True},
    ]
    with pytest.raises(SchemaError) as error:
        checker("chatml-tools").checked(wanted(True, functions))
    assert (error.value.place, error.value.function) == ("/properties/items/uniqueItems", 1)
    functions[1]["strict"] = False
    check = checker("chatml-tools")
    compiled = check.matchers.compile(check.checked(wanted(True, functions)))
    assert follows(compiled, '<tool_call>\n{"name": "sort", "arguments": {"any": [1]}}\n</tool_call>')
    functions[1].update(parameters=HOSTILE["a loop"])
    assert check.checked(wanted(True, functions))


@pytest.fixture(scope="module", params=named(WRITTEN, "chatml-tools", "deepseek-r1"))
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    path = tmp_path_factory.mktemp(request.param) / "tiny.gguf"
    with ExitStack() as stack:
        server = stack.enter_context(tiny(path, request.param))
        yield openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    request = {"model": "default", "messages": MESSAGES, "tools": TOOLS, "temperature": 1, "max_tokens": 900, **fields}
    return client.chat.completions.create(**request)


@pytest.mark.parametrize("seed", range(3))
def test_tool_choice_required_gives_valid_calls(client: openai.OpenAI, seed: int) -> None:
    for choice in ask(client, tool_choice="required", n=2, seed=seed).choices:
        if choice.finish_reason == "length":
            continue
        assert choice.finish_reason == "tool_calls" and choice.message.content is None
        for call in choice.message.tool_calls:
            jsonschema.validate(json.loads(call.function.arguments), PARAMETERS[call.function.name])


@pytest.mark.parametrize("name", PARAMETERS)
def test_tool_choice_with_a_name_calls_it_once(client: openai.OpenAI, name: str) -> None:
    chosen = {"type": "function", "function": {"name": name}}
    for choice in (chosen, {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [chosen]}}):
        message = ask(client, tool_choice=choice, parallel_tool_calls=False).choices[0].message
        (call,) = message.tool_calls
        assert call.function.name == name
        jsonschema.validate(json.loads(call.function.arguments), PARAMETERS[name])


def test_required_calls_are_streamed(client: openai.OpenAI) -> None:
    chunks = list(ask(client, tool_choice="required", parallel_tool_calls=False, stream=True))
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert deltas[0].function.name in PARAMETERS and chunks[-1].choices[0].finish_reason == "tool_calls"
    arguments = "".join(delta.function.arguments for delta in deltas)
    jsonschema.validate(json.loads(arguments), PARAMETERS[deltas[0].function.name])


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"tool_choice": "required", "tools": openai.omit}, "tool_choice", "invalid_value"),
        ({"tool_choice": {"type": "function", "function": {"name": "sing"}}}, "tool_choice", "invalid_value"),
        ({"tool_choice": {"type": "custom", "custom": {"name": "x"}}}, "tool_choice", "unsupported_value"),
        (
            {"tools": [*TOOLS, strict("f", {"not": {}})]},
            "tools[2].function.parameters",
            "invalid_function_parameters",
        ),
    ],
    ids=["no tools", "unknown", "custom", "schema"],
)  # fmt: skip
def test_unsupported_tool_choice_is_rejected(
    client: openai.OpenAI, fields: dict[str, Any], param: str, code: str
) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, **fields)
    assert (error.value.param, error.value.code) == (param, code)


def test_calls_in_a_non_json_format_cannot_be_required(tmp_path: Path) -> None:
    with tiny(tmp_path / "tiny.gguf", "lfm") as server:
        asking = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)
        with pytest.raises(openai.BadRequestError, match="does not write arguments as JSON") as error:
            ask(asking, tool_choice="required")
    assert (error.value.param, error.value.code) == ("tool_choice", "unsupported_value")
