"""Input items of a response: messages, calls, results and reasoning, also as earlier responses returned them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from burnish.rendering.shape import tool_call

from ..body.tools import UNSUPPORTED_VALUE
from ..body.treatment import UNSUPPORTED, NoEffect
from ..body.wire import Wire

Json = dict[str, Any]
TEXTS = ("input_text", "output_text", "text", "reasoning_text", "summary_text")
Status = Annotated[Literal["in_progress", "completed", "incomplete"] | None, NoEffect("items are complete")]
Identity = Annotated[str | None, NoEffect("nothing is stored")]


def _part(value: str) -> str:
    if value in (*TEXTS, "refusal"):
        return value
    if value in ("input_image", "input_file", "input_audio"):
        raise PydanticCustomError(
            UNSUPPORTED, "{kind} parts are not supported: this model takes text only", {"kind": value}
        )
    raise ValueError(f"expected 'input_text', 'output_text' or 'refusal', not {value[:40]!r}")


class Part(Wire):
    """One part of a message's content."""

    type: Annotated[str, AfterValidator(_part)]
    text: str | None = None
    refusal: str | None = None
    annotations: Annotated[list[Any] | None, NoEffect("there is no web search")] = None
    logprobs: Annotated[list[Any] | None, NoEffect("of an earlier response")] = None

    @model_validator(mode="after")
    def _require_text(self) -> Part:
        field = "refusal" if self.type == "refusal" else "text"
        if getattr(self, field) is None:
            raise PydanticCustomError("missing", "Field required", {"field": field})
        return self


def joined(content: str | list[Part] | None) -> str:
    """Return a content as a single string."""
    if isinstance(content, list):
        return "".join(part.text or part.refusal or "" for part in content)
    return content or ""


class MessageItem(Wire):
    """A message of any role, in OpenAI's short or full form."""

    type: Literal["message"] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    id: Identity = None
    status: Status = None
    phase: Annotated[str | None, NoEffect("the template has none")] = None


class CallItem(Wire):
    """A call that the model made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: Identity = None
    status: Status = None


class CallOutputItem(Wire):
    """The result of a call."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[Part]
    id: Identity = None
    status: Status = None


class ReasoningItem(Wire):
    """Reasoning that precedes an assistant's message or call."""

    type: Literal["reasoning"]
    summary: list[Part] | None = None
    content: list[Part] | None = None
    encrypted_content: Annotated[str | None, NoEffect("the server encrypts none")] = None
    id: Identity = None
    status: Status = None


KINDS = {"message": "Message", "function_call": "Call", "function_call_output": "Result", "reasoning": "Reasoning"}


def _kind(value: Any) -> str | None:
    """Return the tag of an item."""
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    if kind is None and isinstance(value, dict) and "role" in value:
        return "Message"
    return KINDS.get(kind) if isinstance(kind, str) else None


# tags begin with a capital letter, which error locations leave out
Item = Annotated[
    Annotated[MessageItem, Tag("Message")]
    | Annotated[CallItem, Tag("Call")]
    | Annotated[CallOutputItem, Tag("Result")]
    | Annotated[ReasoningItem, Tag("Reasoning")],
    Discriminator(
        _kind,
        custom_error_type=UNSUPPORTED_VALUE,
        custom_error_message="expected a message, function_call, function_call_output or reasoning; nothing is stored"
        " that an item could refer to",
    ),
]
Input = Annotated[list[Item], Field(min_length=1)]


def messages(items: str | list[Item], instructions: str | None) -> list[Json]:
    """Convert input items to chat messages; a turn's reasoning, text and calls become one assistant message."""
    found: list[Json] = [{"role": "system", "content": instructions}] if instructions else []
    if isinstance(items, str):
        return [*found, {"role": "user", "content": items}]
    found += _turns(items)
    return found


def _turns(items: list[Item]) -> Iterator[Json]:
    turn: Json = {}
    for item in items:
        part = _of_assistant(item)
        if turn and (part is None or not _fits(turn, part)):
            yield _complete(turn)
            turn = {}
        if part is None:
            yield _other(item)
        elif "tool_calls" in part:
            turn["tool_calls"] = [*turn.get("tool_calls", ()), *part["tool_calls"]]
        else:
            turn |= part
    if turn:
        yield _complete(turn)


def _of_assistant(item: Item) -> Json | None:
    """Return an assistant's item as part of a message, or None for another item."""
    match item:
        case ReasoningItem():
            return {"reasoning_content": joined(item.content) or joined(item.summary)}
        case CallItem():
            return {"tool_calls": [tool_call(item.call_id, item.name, item.arguments)]}
        case MessageItem(role="assistant"):
            return {"content": joined(item.content)}
    return None


def _fits(turn: Json, part: Json) -> bool:
    """Whether a part continues a turn: reasoning begins one, and nothing but calls follows calls."""
    return "tool_calls" in part or ("content" in part and not turn.keys() & {"content", "tool_calls"})


def _complete(turn: Json) -> Json:
    return {"role": "assistant", "content": turn.pop("content", None), **turn}


def _other(item: Item) -> Json:
    if isinstance(item, CallOutputItem):
        return {"role": "tool", "tool_call_id": item.call_id, "content": joined(item.output)}
    assert isinstance(item, MessageItem)
    return {"role": item.role, "content": joined(item.content)}
