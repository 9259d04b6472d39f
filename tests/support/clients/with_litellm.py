"""Test LiteLLM: python with_litellm.py URL; prints "ok". Runs in its own environment."""

import os
import sys
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # otherwise it downloads prices
import litellm

QUESTIONS = ("What is the capital of Italy?", "And of France?", "Thank you.")


def main(url: str) -> None:
    """Three turns with their history, whole and streamed; text completions; the type of an error."""
    options: dict[str, Any] = {"api_base": url, "api_key": "none", "temperature": 0, "max_tokens": 12, "num_retries": 0}
    messages: list[Any] = []
    for question in QUESTIONS:
        messages.append({"role": "user", "content": question})
        reply = litellm.completion(model="openai/default", messages=messages, **options)
        message = reply.choices[0].message
        assert message.content and reply.usage.completion_tokens > 0
        parts = list(litellm.completion(model="openai/default", messages=messages, stream=True, **options))
        built = litellm.stream_chunk_builder(parts, messages=messages)
        assert built.choices[0].message.content == message.content
        messages.append(message if len(messages) < 2 else built.choices[0].message.model_dump())
    text = litellm.text_completion(model="text-completion-openai/default", prompt="One, two,", **options)
    assert text.choices[0].text
    try:
        litellm.completion(model="openai/other", messages=messages, **options)
    except litellm.NotFoundError:
        print("ok")


if __name__ == "__main__":
    main(sys.argv[1])
