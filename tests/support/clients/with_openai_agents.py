"""Test openai-agents (chat completions, and responses, its default): python with_openai_agents.py URL; prints "ok"."""

import asyncio
import sys
from typing import Any

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from pydantic import BaseModel

QUESTIONS = ("What is the capital of Italy?", "And of France?", "Thank you.")


class Person(BaseModel):
    name: str
    age: int


async def main(url: str) -> None:
    """Three turns with their history, whole and streamed, and answers with a schema."""
    set_tracing_disabled(True)  # otherwise it reports to the network
    client = AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
    model = OpenAIChatCompletionsModel(model="default", openai_client=client)
    agent = Agent(
        "a", instructions="Be brief.", model=model, model_settings=ModelSettings(temperature=0, max_tokens=12)
    )
    history: list[Any] = []
    for number, question in enumerate(QUESTIONS):
        messages = [*history, {"role": "user", "content": question}]
        if number == 1:
            result: Any = Runner.run_streamed(agent, messages)
            async for _ in result.stream_events():
                pass
        else:
            result = await Runner.run(agent, messages)
        assert result.final_output
        history = result.to_input_list()
    assert len(history) == 6
    await constrained(client)
    print("ok")


async def constrained(client: AsyncOpenAI) -> None:
    """An output type becomes a strict schema: the answer ends by itself, and can be parsed."""
    agent = Agent(
        "b",
        model=OpenAIResponsesModel(model="default", openai_client=client),
        output_type=Person,
        model_settings=ModelSettings(temperature=0, max_tokens=200),
    )
    whole = await Runner.run(agent, "Invent a person.")
    streamed = Runner.run_streamed(agent, "Invent a person.")
    async for _ in streamed.stream_events():
        pass
    for result in (whole, streamed):
        assert isinstance(result.final_output, Person)
        assert [item["type"] for item in result.to_input_list() if item.get("role") == "assistant"] == ["message"]


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
