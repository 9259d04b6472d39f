"""Test llama-index: python with_llama_index.py URL; prints "ok". Runs in its own environment."""

import sys
from typing import Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.llms.openai_like import OpenAILike

QUESTIONS = ("What is the capital of Italy?", "And of France?", "Thank you.")


def main(url: str) -> None:
    """Three turns with their history, whole and streamed, directly and with its chat engine; a completion."""
    options: dict[str, Any] = {"api_base": url, "api_key": "none", "temperature": 0, "max_tokens": 12, "max_retries": 0}
    model = OpenAILike(model="default", is_chat_model=True, context_window=512, **options)
    messages: list[ChatMessage] = []
    for question in QUESTIONS:
        messages.append(ChatMessage(role="user", content=question))
        whole = model.chat(messages)
        streamed = list(model.stream_chat(messages))
        assert whole.message.content and streamed[-1].message.content == whole.message.content
        messages.append(whole.message)
    engine = SimpleChatEngine.from_defaults(llm=model)
    assert all(str(engine.chat(question)) for question in QUESTIONS)
    assert "".join(engine.stream_chat("And of Spain?").response_gen)
    assert OpenAILike(model="default", is_chat_model=False, **options).complete("One, two, three,").text
    print("ok")


if __name__ == "__main__":
    main(sys.argv[1])
