"""The official Node client: installed by npm into a temporary directory, so it needs node and its registry."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.server import serving

PINNED = "openai@6"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="node and npm are not installed")
def test_the_official_node_client(tmp_path: Path) -> None:
    packages = Path(os.environ.get("NODE_PACKAGES", tmp_path))
    if not (packages / "node_modules" / "openai").is_dir():
        (packages / "package.json").write_text('{"private": true}')
        installed = subprocess.run(
            ["npm", "install", "--silent", PINNED], cwd=packages, capture_output=True, timeout=300
        )
        if installed.returncode:
            pytest.skip("npm can't install the openai package here")
    with serving() as server:
        command = ["node", str(Path(__file__).parent / "support" / "serve_client.mjs"), server.url, str(packages)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.stdout.strip() == "ok", done.stderr
        server.wait_idle()
