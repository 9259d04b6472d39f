"""Test LangChain's bind_tools: python with_langchain.py URL; prints "ok". Runs in its own environment."""

import functools
import operator
import sys
from typing import Any

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI


@tool
def get_order(order: str) -> str:
    """Status of an order."""
    return f"{order} is ready"


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


TOOLS = {"get_order": get_order, "add": add}


def main(url: str) -> None:
    """Calls whole and streamed, two in one turn, their results, and a tool's mistake."""
    plain = ChatOpenAI(base_url=url, api_key="none", model="default", temperature=0, max_retries=0)
    model = plain.bind_tools([get_order, add])
    for ask in (model.invoke, lambda messages: functools.reduce(operator.add, model.stream(messages))):
        messages: list[Any] = [HumanMessage("Where is order H-12 and add 3, 4")]
        reply = ask(messages)
        assert [call["name"] for call in reply.tool_calls] == ["get_order", "add"], reply
        assert [call["args"] for call in reply.tool_calls] == [{"order": "H-12"}, {"a": 3, "b": 4}]
        assert not reply.invalid_tool_calls and len({call["id"] for call in reply.tool_calls}) == 2
        messages += [reply, *(TOOLS[call["name"]].invoke(call) for call in reply.tool_calls)]
        assert ask(messages).content == "7"
    reply = model.invoke("Where is order H-9?")
    failed = ToolMessage("no such order", tool_call_id=reply.tool_calls[0]["id"], status="error")
    assert model.invoke([HumanMessage("Where is order H-9?"), reply, failed]).content == "no such order"
    assert model.invoke("Hello there").tool_calls == []
    assert not plain.bind_tools([add], tool_choice="none").invoke("Add 1, 2").tool_calls
    print("ok")


if __name__ == "__main__":
    main(sys.argv[1])
