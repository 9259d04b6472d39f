"""Test the command `llm`: python with_llm.py URL; prints "ok". Runs in its own environment."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path


def main(url: str) -> None:
    """A prompt, then two more in the same conversation, streamed and whole."""
    with tempfile.TemporaryDirectory() as home:
        models = f"- model_id: burnish\n  model_name: default\n  api_base: {url}\n  api_key_name: burnish\n"
        Path(home, "extra-openai-models.yaml").write_text(models)
        environment = {**os.environ, "LLM_USER_PATH": home, "OPENAI_API_KEY": "none"}
        command = [str(Path(sys.executable).parent / "llm")]
        options = ["--key", "none", "-o", "temperature", "0", "-o", "max_tokens", "12"]
        for words in (
            ["-m", "burnish", "-s", "Be brief.", "What is the capital of Italy?"],
            ["-c", "--no-stream", "And of France?"],
            ["-c", "Thank you."],
        ):
            done = subprocess.run([*command, *words, *options], env=environment, capture_output=True, text=True)
            assert done.returncode == 0 and done.stdout.strip(), done.stderr
    print("ok")


if __name__ == "__main__":
    main(sys.argv[1])
