"""The official Node client, as npm has it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.external import installed
from tests.support.server import serving


@pytest.mark.external(name="node")
def test_the_official_node_client() -> None:
    packages = installed("node")
    with serving() as server:
        command = ["node", str(Path(__file__).parent / "support" / "serve_client.mjs"), server.url, str(packages)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.stdout.strip() == "ok", done.stderr
        server.wait_idle()
