"""Third-party clients in their own environments, each with the requests its users make, over several turns."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import Cli
from tests.support.external import installed
from tests.support.server import serving

CLIENTS = Path(__file__).parent / "support" / "clients"
PACKAGES = Path(pytest.__file__).parents[1]  # torch, which no set contains


def says_ok(*command: object, **settings: Any) -> list[str]:
    """Run a client command against a new server, return its output; "{url}" is replaced by the server's URL."""
    with serving(**settings) as server:
        words = [str(word).format(url=server.url) for word in command]
        done = subprocess.run(words, capture_output=True, text=True, timeout=900)
        assert done.stdout.strip().endswith("ok") and done.returncode == 0, done.stderr
        server.wait_idle()
        assert server.metric("burnish_errors_total") <= 2  # errors that clients cause on purpose, by an unknown model
    return done.stdout.strip().splitlines()


def python(name: str, *more: object, **settings: Any) -> list[str]:
    """Run tests/support/clients/with_<name>.py in the set's own environment; return its output."""
    script = CLIENTS / f"with_{name.replace('-', '_')}.py"
    return says_ok(installed(name) / "bin" / "python", script, "{url}", *more, **settings)


@pytest.mark.external(name="node")
def test_openai_node_client_works() -> None:
    says_ok("node", CLIENTS / "with_node.mjs", "{url}", installed("node"))


@pytest.mark.external(name="langchain")
def test_langchain_client_passes_its_test_suite() -> None:
    python("langchain")


@pytest.mark.external(name="litellm")
def test_litellm_client_works() -> None:
    python("litellm")


@pytest.mark.external(name="llama-index")
def test_llama_index_client_works() -> None:
    python("llama-index")


@pytest.mark.external(name="pydantic-ai")
def test_pydantic_ai_client_works() -> None:
    python("pydantic-ai")


@pytest.mark.external(name="instructor")
def test_instructor_client_works() -> None:
    python("instructor")


@pytest.mark.external(name="openai-agents")
def test_openai_agents_client_works() -> None:
    python("openai-agents")


@pytest.mark.external(name="llm")
def test_llm_command_works() -> None:
    python("llm")


@pytest.mark.external(name="aider")
def test_aider_client_works() -> None:
    python("aider", context_length=4096, max_sequences=1)


@pytest.mark.external(name="guidellm")
def test_guidellm_client_works(base_directory: Path) -> None:
    python("guidellm", base_directory, PACKAGES, context_length=2048)


@pytest.mark.external(name="lm-eval")
def test_lm_eval_results_match_transformers(
    cli: Cli, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Compare lm-eval's three kinds of requests to a served run and to the run's merged/ in transformers."""
    where = ("--run.root", str(tmp_path), "--run.name", "tuned")
    short = ("--config", "configs/quickstart.yaml", "--train.max_steps", "16", "--exam.answers", "0")
    for command in (["train", "run", *short, *where], ["export", "run", "--gguf.quants", "F16", *where]):
        done = cli(*command, timeout=1800)
        assert done.returncode == 0, done.stderr
    served = {"model": None, "runs": tmp_path, "run": "tuned", "artifact": "F16", "context_length": 2048}
    measured = python("lm-eval", tmp_path / "tuned" / "merged", PACKAGES, **served)
    for line in measured[:-1]:
        record_property(*line.split(": ", 1))
