"""Test LangChain's client: python with_langchain.py URL; prints "ok". Runs in its own environment."""

import functools
import operator
import sys
from typing import Any

import openai
from langchain_openai import ChatOpenAI

QUESTION = "What is the capital of Italy?"


def main(url: str) -> None:
    """Whole replies, streams, three turns, and an unknown model."""
    model = ChatOpenAI(base_url=url, api_key="none", model="default", temperature=0, max_tokens=16, max_retries=0)
    whole = model.invoke(QUESTION)
    assert whole.usage_metadata and whole.usage_metadata["output_tokens"] > 0
    assert whole.response_metadata["finish_reason"] in ("stop", "length")
    assert "".join(str(part.content) for part in model.stream(QUESTION)) == whole.content
    messages: list[Any] = []
    for question in (QUESTION, "And of France?", "Thank you."):
        messages.append(("human", question))
        reply = model.invoke(messages)
        added = functools.reduce(operator.add, model.stream(messages))
        assert added.content == reply.content
        messages.append(reply if len(messages) < 2 else added)
    try:
        ChatOpenAI(base_url=url, api_key="none", model="other", max_retries=0).invoke(QUESTION)
    except openai.NotFoundError as error:
        assert error.code == "model_not_found"
    else:
        raise AssertionError("an unknown model has answered")
    print("ok")


if __name__ == "__main__":
    main(sys.argv[1])
