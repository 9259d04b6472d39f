"""Test guidellm: python with_guidellm.py URL TOKENIZER PACKAGES; prints "ok".

Runs in its own environment; torch comes from PACKAGES.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REQUESTS, PROMPT_TOKENS, OUTPUT_TOKENS = 4, 48, 12
# the command `guidellm`, with more packages to import; they come after its own
COMMAND = "import sys; sys.path.append(sys.argv.pop(1)); from guidellm.__main__ import cli; cli()"
ROUTES = ("/v1/chat/completions", "/v1/completions")
DATA = f"kind=synthetic_text,prompt_tokens={PROMPT_TOKENS},output_tokens={OUTPUT_TOKENS}"


def benchmarks(
    url: str, tokenizer: str, packages: str, route: str, stream: bool, *profile: str
) -> list[dict[str, Any]]:
    """Run one small benchmark; return its results, one per level of concurrency."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory, "report.json")
        backend = f"kind=openai_http,target={url},request_format={route},stream={str(stream).lower()}"
        command = [sys.executable, "-c", COMMAND, packages, "run", "--backend", backend, *profile, "--data", DATA]
        command += ["--tokenizer", f"kind=huggingface_auto,model={tokenizer}", "--disable-console-interactive"]
        command += ["--constraint", f"kind=max_requests,count={REQUESTS}", "--output", f"kind=json,path={report}"]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stdout + done.stderr
        found: list[dict[str, Any]] = json.loads(report.read_text())["benchmarks"]
        return found


def check(benchmark: dict[str, Any]) -> None:
    """Every request succeeded, with as many tokens as were asked for."""
    requests = benchmark["requests"]
    assert len(requests["successful"]) == REQUESTS, requests
    assert not requests["errored"] and not requests["incomplete"], requests
    for request in requests["successful"]:
        assert request["output_metrics"]["text_tokens"] == OUTPUT_TOKENS, request
        assert request["input_metrics"]["text_tokens"] >= PROMPT_TOKENS, request


def main(url: str, tokenizer: str, packages: str) -> None:
    """Both routes, streamed at one and two requests at a time, and whole."""
    for route in ROUTES:
        concurrent = ("--profile", '{"kind": "concurrent", "streams": [1, 2]}')
        streamed = benchmarks(url, tokenizer, packages, route, True, *concurrent)
        assert len(streamed) == 2
        whole = benchmarks(url, tokenizer, packages, route, False, "--profile", "kind=synchronous")
        for benchmark in (*streamed, *whole):
            check(benchmark)
    print("ok")


if __name__ == "__main__":
    main(*sys.argv[1:4])
