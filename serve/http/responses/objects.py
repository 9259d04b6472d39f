"""The response object and its output items, with every required field of OpenAI's schema."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from ...engine.events import Finished
from ...served import Served
from ..output_parsers import CallDelta, ParsedDelta
from .items import Json
from .schema import ResponsesRequest

# parameters without effect that a response returns
RETURNED = {"metadata", "prompt_cache_key", "safety_identifier", "user"}


def identity(prefix: str) -> str:
    """Return a new id."""
    return f"{prefix}_{uuid.uuid4().hex}"


def reasoning_item(text: str, key: str, status: str = "completed") -> Json:
    """Return an output item of type `reasoning`."""
    content = [{"type": "reasoning_text", "text": text}]
    return {"id": key, "type": "reasoning", "summary": [], "content": content, "status": status}


def text_part(text: str) -> Json:
    """Return a message's content part."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def message_item(text: str, key: str, status: str = "completed") -> Json:
    """Return an output item of type `message`."""
    return {"id": key, "type": "message", "status": status, "role": "assistant", "content": [text_part(text)]}


def call_item(call: CallDelta, key: str, status: str = "completed") -> Json:
    """Return an output item of type `function_call`."""
    base = {"id": key, "type": "function_call", "status": status}
    return {**base, "call_id": call.id, "name": call.name, "arguments": call.arguments}


@dataclass(frozen=True)
class ResponseObject:
    """What all versions of one response share."""

    served: Served
    request: ResponsesRequest
    id: str = field(default_factory=lambda: identity("resp"))
    created: int = field(default_factory=lambda: int(time.time()))

    def body(self, status: str, output: list[Json], usage: Json | None = None, error: Json | None = None) -> Json:
        """Return the response at one point in time."""
        request, text, reasoning = self.request, self.request.text, self.request.reasoning
        returned = request.model_dump(include=RETURNED)
        chosen = text.format.model_dump(by_alias=True, exclude_none=True) if text and text.format else {"type": "text"}
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "background": False,
            "error": error,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "max_tool_calls": None,
            "model": self.served.name,
            "output": output,
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": reasoning.effort if reasoning else None, "summary": None},
            "service_tier": "default",
            "store": False,
            "temperature": 1.0 if request.temperature is None else request.temperature,
            "text": {"format": chosen, "verbosity": "medium"},
            "tool_choice": request.tool_choice or "auto",
            "tools": [dict(tool) for tool in request.tools or ()],
            "top_logprobs": 0,
            "top_p": 1.0 if request.top_p is None else request.top_p,
            "truncation": "disabled",
            "usage": usage,
            **returned,
            "metadata": returned["metadata"] or {},
        }

    def whole(self, end: Finished, parsed: ParsedDelta, reasoning_tokens: int) -> Json:
        """Return the finished response."""
        cut = "incomplete" if end.reason == "length" else "completed"
        output: list[Json] = []
        if parsed.reasoning:
            output.append(reasoning_item(parsed.reasoning, identity("rs")))
        if parsed.content or not parsed.calls:
            output.append(message_item(parsed.content, identity("msg"), cut))
        output += [call_item(call, identity("fc")) for call in parsed.calls]
        return self.body(cut, output, usage_of(end, reasoning_tokens))


def usage_of(end: Finished, reasoning_tokens: int) -> Json:
    """Return the token counts."""
    details: dict[str, Any] = {"input_tokens_details": {"cached_tokens": end.cached_tokens, "cache_write_tokens": 0}}
    return {
        "input_tokens": end.prompt_tokens,
        **details,
        "output_tokens": end.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning_tokens},
        "total_tokens": end.prompt_tokens + end.completion_tokens,
    }
