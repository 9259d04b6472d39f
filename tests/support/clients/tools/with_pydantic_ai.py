"""Test pydantic-ai's tools: python with_pydantic_ai.py URL; prints "ok". Runs in its own environment."""

import asyncio
import sys

from pydantic_ai import Agent
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings

QUESTION = "Where is order H-12 and add 3, 4"


async def main(url: str) -> None:
    """An agent loop, whole and streamed, with two calls in one turn; then another turn with that history."""
    model = OpenAIChatModel("default", provider=OpenAIProvider(base_url=url, api_key="none"))
    agent = Agent(model, model_settings=ModelSettings(temperature=0))
    called: list[str] = []

    @agent.tool_plain
    def get_order(order: str) -> str:
        """Status of an order."""
        called.append(order)
        return f"{order} is ready"

    @agent.tool_plain
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        called.append(f"{a} + {b}")
        return a + b

    whole = await agent.run(QUESTION)
    assert whole.output == "7" and sorted(called) == ["3 + 4", "H-12"], (whole.output, called)
    parts = [part for message in whole.all_messages() for part in message.parts if isinstance(part, ToolCallPart)]
    assert [part.tool_name for part in parts] == ["get_order", "add"]
    async with agent.run_stream(QUESTION) as result:
        assert "".join([part async for part in result.stream_text(delta=True)]) == "7"
    assert len(called) == 4
    assert (await agent.run("Hello again", message_history=whole.all_messages())).output == "Hello again"
    print("ok")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
