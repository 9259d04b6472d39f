"""Third-party clients in their own environments call tools over HTTP, in whole replies, streams and their own loops."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.external import installed
from tests.support.tool_caller import calling

CLIENTS = Path(__file__).parent / "support" / "clients" / "tools"
TIMEOUT_S = 300


def says_ok(*command: object) -> None:
    """Run a client command against a server whose calls are certain; "{url}" in it is replaced by the server's URL."""
    with calling() as server:
        words = [str(word).format(url=f"{server.url}v1") for word in command]
        done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.stdout.strip().endswith("ok") and done.returncode == 0, done.stderr


@pytest.mark.external(name="node")
def test_openai_node_client_calls_tools() -> None:
    says_ok("node", CLIENTS / "with_node.mjs", "{url}", installed("node"))


def python(name: str) -> None:
    """Run with_<name>.py in the set's own environment."""
    says_ok(installed(name) / "bin" / "python", CLIENTS / f"with_{name.replace('-', '_')}.py", "{url}")


@pytest.mark.external(name="langchain")
def test_langchain_calls_tools() -> None:
    python("langchain")


@pytest.mark.external(name="langchain")
def test_langchain_standard_tool_tests_pass() -> None:
    """All tests except those that force a call, and one with history in Anthropic's format."""
    alone = ["-c", os.devnull, "--confcutdir", str(CLIENTS), "-p", "no:cacheprovider", "-o", "asyncio_mode=auto"]
    chosen = "(tool or agent_loop) and not (choice or few_shot or unicode or list_content or image or pdf)"
    command = [installed("langchain") / "bin" / "python", "-m", "pytest", "-q", CLIENTS / "langchain_standard.py"]
    with calling() as server:
        environment = {**os.environ, "CHAT_URL": f"{server.url}v1"}
        done = subprocess.run(
            [*map(str, command), *alone, "-k", chosen],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env=environment,
        )
    assert done.returncode == 0 and " passed" in done.stdout and "skipped" not in done.stdout, done.stdout


@pytest.mark.external(name="litellm")
def test_litellm_calls_tools() -> None:
    python("litellm")


@pytest.mark.external(name="pydantic-ai")
def test_pydantic_ai_calls_tools() -> None:
    python("pydantic-ai")


@pytest.mark.external(name="openai-agents")
def test_openai_agents_call_tools() -> None:
    python("openai-agents")
