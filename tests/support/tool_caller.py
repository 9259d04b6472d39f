"""A pure Python model that calls the offered tools by simple rules, and repeats the last result as its answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from burnish.dialects.find import Found
from burnish.dialects.form import CallForm
from burnish.dialects.formats import DIALECTS
from burnish.dialects.formats.hermes import BEGIN, END
from serve.decoding.constraints.constraint import UNCONSTRAINED, Constraint
from serve.engine.tokenizer import Ending
from tests.support.echo_server import EchoServer, LastMessage, echoing

FORM = CallForm(
    BEGIN, f'{BEGIN}\n{{"name": "', '", "arguments": ', f'}}\n{END}\n{BEGIN}\n{{"name": "', f"}}\n{END}", ", ", ": "
)
HERMES = Found(DIALECTS["hermes"], defines=True, parallel=True, results=True, form=FORM)
NO_CALL = "Hello"  # questions that begin so are answered without a call
_CODE, _NUMBER = re.compile(r"\b[A-Z]-\d+"), re.compile(r"-?\d+")


class ToolCaller(LastMessage):
    """Answers with a call to the named tool, or to the first tool; with two calls if the question contains " and "."""

    async def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], ending: Ending, limit: int
    ) -> list[int]:
        said, tools = str(messages[-1]["content"]), variables.get("tools")
        if tools and messages[-1]["role"] == "user" and not said.startswith(NO_CALL):
            said = "\n".join(_call(part, tools) for part in said.split(" and "))
        return await super().encode_chat([{"role": "assistant", "content": said}], {}, ending, limit)


def _call(question: str, tools: Sequence[Mapping[str, Any]]) -> str:
    functions = [tool["function"] for tool in tools]
    words = set(re.findall(r"[a-z]+", question.lower()))
    function = max(functions, key=lambda f: len(words & set(f["name"].lower().split("_"))))
    schema = function.get("parameters") or {}
    properties = schema.get("properties") or {}
    numbers = iter(_NUMBER.findall(question))
    arguments = {
        name: _value(properties[name], question, numbers) for name in schema.get("required") or () if name in properties
    }
    call = json.dumps({"name": function["name"], "arguments": arguments}, ensure_ascii=False)
    return f"{BEGIN}\n{call}\n{END}"


def _value(schema: Mapping[str, Any], question: str, numbers: Iterator[str]) -> Any:
    """Return a number of the question, or its code (H-12), or its text after a colon, or all of it."""
    if schema.get("type") in ("integer", "number"):
        return int(next(numbers, "0"))
    code = _CODE.search(question)
    return code.group() if code else question.rpartition(": ")[2]


class Unneeded:
    """A mock that constrains nothing: this model's calls match their schemas, and its vocabulary has no grammar."""

    async def compiled(self, wanted: Mapping[str, Any]) -> Callable[[], Constraint]:
        return lambda: UNCONSTRAINED


@contextmanager
def calling() -> Iterator[EchoServer]:
    """Serve this model for the duration of the `with` block."""
    with echoing(dialects=HERMES, tokenizer=ToolCaller(), constraints=Unneeded()) as server:
        yield server
