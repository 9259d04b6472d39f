"""Test aider: python with_aider.py URL; prints "ok". Runs in its own environment."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path


def main(url: str) -> None:
    """Ask about a file, streamed and whole, in a temporary directory."""
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "HOME": tempfile.mkdtemp()}
    command = [str(Path(sys.executable).parent / "aider"), "--model", "openai/default", "--openai-api-base", url]
    command += ["--openai-api-key", "none", "--no-git", "--yes-always", "--no-check-update", "--analytics-disable"]
    command += ["--no-show-model-warnings", "--map-tokens", "0", "--chat-mode", "ask", "--no-show-release-notes"]
    for stream in ("--stream", "--no-stream"):
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "hello.py").write_text('print("hello")\n')
            words = [*command, stream, "--message", "What does it print?", "hello.py"]
            done = subprocess.run(words, cwd=directory, env=environment, capture_output=True, text=True, timeout=280)
            assert done.returncode == 0 and "received" in done.stdout, done.stdout  # "Tokens: 142 sent, 32 received."
    print("ok")


if __name__ == "__main__":
    main(sys.argv[1])
