"""Get llama.cpp's ids for texts from tokenizer files, which the converter turns into a vocabulary-only GGUF.

llama.cpp and its converter run as child processes: the converter needs torch, and llama.cpp aborts on invalid input.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import children
from ..errors import UserError
from ..files import atomic_file, cache_root, file_sha256
from ..process import crashed, exit_reason

CONVERTER = Path(sys.prefix) / "share" / "burnish" / "llama.cpp" / "convert_hf_to_gguf.py"
CONVERT = "burnish.tokenizers.convert"  # runs the converter
TIMEOUT_S = 600


# converter messages and their meanings
REFUSALS = (
    (re.compile(r"Model (\S+) is not supported"), r"llama.cpp's converter does not know the architecture \1"),
    (re.compile(r".*BPE pre-tokenizer was not recognized.*"), "llama.cpp's converter does not know its pre-tokenizer"),
    (re.compile(r".*Can not map tensor ('\S+')"), r"llama.cpp's converter does not know the tensor \1"),
    (
        re.compile(r".*`trust_remote_code=True`.*"),
        "llama.cpp's converter needs the model's own Python code for its tokenizer, and Burnish never runs that code",
    ),
    (re.compile(r".*(NotImplementedError: .*)"), r"llama.cpp's converter refuses it: \1"),
)


class VocabularyError(UserError):
    """Raised when llama.cpp or its converter does not support a tokenizer."""


class Unconvertible(VocabularyError):
    """The converter does not support a base: neither the base nor a model trained on it can be converted to GGUF."""


def for_converter(config: dict[str, Any]) -> dict[str, Any]:
    """Return the contents of config.json as required by the converter: with GPT-2's n_ctx, which transformers drops."""
    if config.get("model_type") == "gpt2" and "n_positions" in config:
        return {"n_ctx": config["n_positions"], **config}
    return config


def refuses(line: str) -> bool:
    """Return whether the converter's last line means that the model is unsupported, as opposed to a local failure."""
    return any(pattern.search(line) for pattern, _ in REFUSALS)


def refusal(line: str) -> str:
    """Return the meaning of a line that `refuses` recognises."""
    found, meaning = next((found, meaning) for pattern, meaning in REFUSALS if (found := pattern.search(line)))
    return found.expand(meaning)


def ids_by_llama_cpp(directory: Path, texts: Sequence[str]) -> list[list[int]]:
    """Return llama.cpp's ids for each text, with special tokens parsed and none added.

    `directory` contains config.json and tokenizer files. Raises VocabularyError with the tool's reason.
    """
    return tokenize(vocabulary(directory), texts)


def vocabulary(directory: Path) -> Path:
    """Return a GGUF with the directory's vocabulary and no tensors, created once and cached."""
    files = sorted(p for p in directory.iterdir() if p.is_file())
    lines = [f"{file_sha256(p)}  {p.name}\n" for p in files] + [file_sha256(CONVERTER.parent / "VERSION")]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    target = cache_root() / "vocabularies" / f"{digest[:24]}.gguf"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as temporary:
            size = sum(file.stat().st_size for file in files)
            words = (str(directory.resolve()), "--vocab-only", "--outfile", str(temporary.resolve()))
            _child(CONVERT, children.Limits.of(size, size), words, "")
    return target


def tokenize(path: Path, texts: Sequence[str]) -> list[list[int]]:
    """Return llama.cpp's ids for each text, using a GGUF's vocabulary."""
    limits = children.Limits.of(path.stat().st_size, 0)
    output = _child("burnish.llama", limits, ("tokenize", str(path.resolve())), json.dumps(list(texts)))
    ids: list[list[int]] = json.loads(output)
    return ids


def _child(module: str, limits: children.Limits, words: Sequence[str], given: str) -> str:
    name = CONVERTER.name if module == CONVERT else "llama.cpp"
    try:
        done = subprocess.run(
            children.confined(limits, module, *words),
            cwd=children.ROOT,
            env=children.environment(),
            input=given,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise VocabularyError(f"{name}: not finished after {TIMEOUT_S} s") from None
    if done.returncode:
        lines = [line.strip() for line in done.stderr.split("\n") if line.strip(" *^~")]
        if lines[-1:] == ["AssertionError"]:
            lines = [f"{lines[-1]}: {line}" for line in lines[-2:-1]] or lines  # include the code line that failed
        if not lines or crashed(done.returncode):
            raise VocabularyError(f"{name}: {exit_reason(done.returncode)}")
        if module == CONVERT and refuses(lines[-1]):
            raise Unconvertible(refusal(lines[-1]))
        raise VocabularyError(lines[-1])
    return done.stdout
