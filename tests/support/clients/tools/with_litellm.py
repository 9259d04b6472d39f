"""Test LiteLLM's tools: python with_litellm.py URL; prints "ok". Runs in its own environment."""

import json
import os
import sys
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # otherwise it downloads prices
import litellm

QUESTION = "Where is order H-12 and where is order H-34"
TOOL = {
    "type": "function",
    "function": {
        "name": "get_order",
        "description": "Status of an order.",
        "parameters": {"type": "object", "properties": {"order": {"type": "string"}}, "required": ["order"]},
    },
}


def main(url: str) -> None:
    """Two calls in one turn, whole and streamed, and their results."""
    asked: dict[str, Any] = {"model": "openai/default", "api_base": url, "api_key": "none", "num_retries": 0}
    asked |= {"tools": [TOOL], "temperature": 0}
    for stream in (False, True):
        messages: list[Any] = [{"role": "user", "content": QUESTION}]
        reply = litellm.completion(messages=messages, stream=stream, **asked)
        if stream:
            reply = litellm.stream_chunk_builder(list(reply), messages=messages)
        choice = reply.choices[0]
        calls = choice.message.tool_calls
        assert choice.finish_reason == "tool_calls" and len(calls) == 2, choice
        given = [(call.function.name, json.loads(call.function.arguments)) for call in calls]
        assert given == [("get_order", {"order": "H-12"}), ("get_order", {"order": "H-34"})], given
        messages.append(choice.message)
        messages += [{"role": "tool", "tool_call_id": call.id, "content": f"{call.id} ready"} for call in calls]
        answer = litellm.completion(messages=messages, **asked).choices[0]
        assert answer.message.content == f"{calls[1].id} ready" and answer.finish_reason == "stop"
    print("ok")


if __name__ == "__main__":
    main(sys.argv[1])
