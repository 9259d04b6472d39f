"""Test openai-agents' tools (chat completions): python with_openai_agents.py URL; prints "ok"."""

import asyncio
import sys
from typing import Any

from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI

QUESTION = "Where is order H-12 and add 3, 4"
CALLED: list[str] = []


# the SDK declares these tools as strict
@function_tool
def get_order(order: str) -> str:
    """Status of an order."""
    CALLED.append(order)
    return f"{order} is ready"


@function_tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    CALLED.append(f"{a} + {b}")
    return a + b


async def main(url: str) -> None:
    """An agent loop, whole and streamed, with two calls in one turn; then another turn with that history."""
    set_tracing_disabled(True)  # otherwise it reports to the network
    model = OpenAIChatCompletionsModel(
        model="default", openai_client=AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
    )
    settings = ModelSettings(temperature=0, parallel_tool_calls=True)
    agent = Agent("clerk", instructions="Be brief.", model=model, model_settings=settings, tools=[get_order, add])
    whole: Any = await Runner.run(agent, QUESTION)
    assert whole.final_output == "7" and sorted(CALLED) == ["3 + 4", "H-12"], (whole.final_output, CALLED)
    streamed: Any = Runner.run_streamed(agent, QUESTION)
    names = [event.name async for event in streamed.stream_events() if event.type == "run_item_stream_event"]
    assert streamed.final_output == "7" and names.count("tool_called") == names.count("tool_output") == 2, names
    history = [*whole.to_input_list(), {"role": "user", "content": "Hello again"}]
    assert (await Runner.run(agent, history)).final_output == "Hello again"
    print("ok")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
