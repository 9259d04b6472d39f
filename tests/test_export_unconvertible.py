"""Bases that can be trained but not converted are exported as merged/; GPT-2's Conv1D is converted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from burnish.records import ExportRecord
from burnish.run import Run
from burnish.tokenizers.llama_cpp import refusal, refuses
from tests.support.commands import Cli
from tests.support.thorough import some

pytestmark = pytest.mark.slow

SHORT = ("--data.max_length", "128", "--train.max_steps", "4", "--exam.answers", "0")
PUNCTUATION = {"type": "Punctuation", "behavior": "Isolated"}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def with_tokenizer_of(base: Path, model: Any, target: Path) -> Path:
    model.half().save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (base / name).is_file():
            shutil.copyfile(base / name, target / name)
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    (target / "generation_config.json").write_text(json.dumps(ends))
    return target


def opt(base: Path, target: Path) -> Path:
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        vocab_size=49152, hidden_size=64, ffn_dim=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=512, word_embed_proj_dim=64, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    return with_tokenizer_of(base, OPTForCausalLM(config), target)


def pre_tokenizer(base: Path, target: Path) -> Path:
    shutil.copytree(base, target)
    content = json.loads((target / "tokenizer.json").read_text())
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [PUNCTUATION, BYTES]}
    (target / "tokenizer.json").write_text(json.dumps(content))
    return target


@pytest.mark.parametrize(
    ("make", "reason"),
    some([(opt, "does not know the architecture OPTForCausalLM"), (pre_tokenizer, "its pre-tokenizer")], [1]),
)
def test_unconvertible_base_causes_a_warning_and_exports_only_merged(
    make: Any, reason: str, tiny_base: Path, rows: Path, tmp_path: Path, cli: Cli
) -> None:
    base = make(tiny_base, tmp_path / "base")
    arguments = ("--base.id", str(base), "--data.path", str(rows), "--run.root", str(tmp_path), *SHORT)
    checked = cli("train", "check", *arguments)
    assert checked.returncode == 0, checked.stderr
    warning = next(line for line in checked.stderr.splitlines() if reason in line)
    assert warning.startswith("warning: llama.cpp's converter does not know")
    trained = cli("train", "run", *arguments, "--run.name", "x")
    assert trained.returncode == 0, trained.stderr
    assert warning in trained.stderr.splitlines()
    exported = cli("export", "run", "--run.root", str(tmp_path), "--run.name", "x")
    assert exported.returncode == 0, exported.stderr
    assert "warning: no GGUF was made, but `make serve` needs one: llama.cpp's converter" in exported.stderr
    assert "next: make serve" not in exported.stderr
    record = Run(tmp_path / "x").read(ExportRecord)
    assert [a.kind for a in record.artefacts] == ["safetensors"]
    assert record.artefacts[0].fidelity.prompt_parity is True
    assert record.default is None
    assert record.no_gguf is not None and reason in record.no_gguf
    served = cli("serve", "--runs", str(tmp_path), "--run", "x")
    assert served.returncode == 2
    assert "has no GGUF file" in served.stderr and reason in served.stderr
    pushed = cli("export", "push", "--run.root", str(tmp_path), "--run.name", "x", "--push.repo", "me/x", "--dry-run",
                 "--push.allow_failed", "true")  # fmt: skip
    assert pushed.returncode == 0, pushed.stderr
    assert "model.safetensors" in pushed.stdout + pushed.stderr


def test_gpt2_is_trained_merged_and_converted(tiny_base: Path, rows: Path, tmp_path: Path, cli: Cli) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_embd=64, n_layer=2, n_head=4, vocab_size=49152, n_positions=512, bos_token_id=1, eos_token_id=2
    )
    base = with_tokenizer_of(tiny_base, GPT2LMHeadModel(config), tmp_path / "base")
    arguments = ("--base.id", str(base), "--data.path", str(rows), "--run.root", str(tmp_path), *SHORT)
    refused = cli("train", "plan", *arguments, "--base.quantization", "nf4")
    assert refused.returncode == 2
    assert "Conv1D (GPT-2), which NF4 does not support here: set none" in refused.stderr
    trained = cli("train", "run", *arguments, "--run.name", "x", "--lora.target_modules", "c_attn,c_proj,c_fc")
    assert trained.returncode == 0, trained.stderr
    exported = cli("export", "run", "--run.root", str(tmp_path), "--run.name", "x", "--gguf.quants", "Q8_0")
    assert exported.returncode == 0, exported.stderr
    record = Run(tmp_path / "x").read(ExportRecord)
    assert [a.kind for a in record.artefacts] == ["safetensors", "gguf", "gguf"]
    for artifact in record.artefacts:
        assert artifact.fidelity.kl is not None
        assert artifact.fidelity.kl < 0.01


@pytest.mark.parametrize(
    "line",
    [
        "OSError: [Errno 5] Input/output error",
        "RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes",
        "ModuleNotFoundError: No module named 'gguf'",
        "",
    ],
)
def test_local_failure_is_not_reported_as_an_unsupported_model(line: str) -> None:
    """The export must then fail and keep existing files, not record a run without GGUF files."""
    assert not refuses(line)


def test_converter_error_is_explained() -> None:
    assert refuses("ERROR:hf-to-gguf:Model OPTForCausalLM is not supported")
    assert "does not know the tensor 'model.x.weight'" in refusal("ValueError: Can not map tensor 'model.x.weight'")
