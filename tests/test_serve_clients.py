"""Clients that need packages of their own: the official one for Node, and LangChain's."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.external import installed
from tests.support.server import serving

SUPPORT = Path(__file__).parent / "support"


def says_ok(*command: str) -> None:
    with serving() as server:
        words = [word.format(url=server.url) for word in command]
        done = subprocess.run(words, capture_output=True, text=True, timeout=300)
        assert done.stdout.strip() == "ok", done.stderr
        server.wait_idle()


@pytest.mark.external(name="node")
def test_the_official_node_client() -> None:
    says_ok("node", str(SUPPORT / "serve_client.mjs"), "{url}", str(installed("node")))


@pytest.mark.external(name="langchain")
def test_langchains_client() -> None:
    says_ok(str(installed("langchain") / "bin" / "python"), str(SUPPORT / "serve_langchain.py"), "{url}")
