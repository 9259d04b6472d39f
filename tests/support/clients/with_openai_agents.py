"""Test openai-agents (chat completions): python with_openai_agents.py URL; prints "ok"."""

import asyncio
import sys
from typing import Any

from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, set_tracing_disabled
from openai import AsyncOpenAI

QUESTIONS = ("What is the capital of Italy?", "And of France?", "Thank you.")


async def main(url: str) -> None:
    """Three turns with their history, whole and streamed."""
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
    print("ok")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
