"""Where the GGUF of an untuned base is cached, for comparing a run with it. export writes it, serve evaluates it."""

from __future__ import annotations

from pathlib import Path

from ..files import cache_root, file_sha256, text_sha256
from ..run import Run

DIRECTORY = "evaluated-bases"


def base_gguf(run: Run, adapter: str, base_sha256: str, quantization: str) -> Path:
    """Return the path of the base's GGUF, with the run's tokenizer and chat template; it need not exist.

    `adapter`: the run's adapter directory, relative to it, which has the tokenizer.
    """
    directory = run.tree(adapter)
    names = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "chat_template.jinja")
    hashes = "".join(file_sha256(directory / name) for name in names if (directory / name).is_file())
    key = f"{base_sha256[:24]}-{text_sha256(hashes)[:12]}"
    return cache_root() / DIRECTORY / key / f"base-{quantization}.gguf"
