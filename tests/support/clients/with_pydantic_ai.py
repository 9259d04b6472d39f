"""Test pydantic-ai: python with_pydantic_ai.py URL; prints "ok". Runs in its own environment."""

import asyncio
import sys

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings

QUESTIONS = ("What is the capital of Italy?", "And of France?", "Thank you.")


async def main(url: str) -> None:
    """Three turns with their history, whole and streamed."""
    model = OpenAIChatModel("default", provider=OpenAIProvider(base_url=url, api_key="none"))
    agent = Agent(model, instructions="Answer briefly.", model_settings=ModelSettings(temperature=0, max_tokens=12))
    whole, streamed = None, None
    for question in QUESTIONS:
        whole = await agent.run(question, message_history=whole.all_messages() if whole else None)
        assert whole.output
        async with agent.run_stream(question, message_history=streamed) as result:
            text = "".join([part async for part in result.stream_text(delta=True)])
            streamed = result.all_messages()
        assert text
    assert whole is not None and len(whole.all_messages()) == 6
    print("ok")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
