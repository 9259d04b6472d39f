"""Test instructor: python with_instructor.py URL; prints "ok". Runs in its own environment."""

import sys
from typing import Any

import instructor
import openai
from instructor.core import InstructorError
from pydantic import BaseModel


class Capital(BaseModel):
    """The requested object."""

    city: str


def main(url: str) -> None:
    """Plain turns with replies as history, including null fields, and JSON in Markdown with retries."""
    plain = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    options: dict[str, Any] = {"model": "default", "temperature": 0, "max_tokens": 16}
    messages: list[Any] = [{"role": "user", "content": "What is the capital of Italy? Answer as JSON."}]
    client = instructor.from_openai(plain, mode=instructor.Mode.MD_JSON)
    for _ in range(2):
        reply = client.chat.completions.create(response_model=None, messages=messages, **options)
        messages += [reply.choices[0].message.model_dump(), {"role": "user", "content": "Say it again."}]
    refused: list[Exception] = []
    client.on("completion:error", refused.append)
    try:
        client.chat.completions.create(
            response_model=Capital, max_retries=2, messages=messages[:1], **{**options, "max_tokens": 64}
        )
    except InstructorError as error:
        refused.append(error)  # a model of this size rarely writes the JSON
    assert not any("Error code" in str(error) for error in refused), refused
    print("ok")


if __name__ == "__main__":
    main(sys.argv[1])
