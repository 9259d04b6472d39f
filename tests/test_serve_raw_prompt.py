"""Raw prompts over HTTP: a model configured for a BOS token gets exactly one, even if the prompt contains it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import ServerProcess, serving, small_model


def adding_bos(target: Path) -> Path:
    """Copy the small model, whose BOS is <|im_start|>, and configure it to add that to every text."""
    from gguf import GGUFReader

    shutil.copyfile(small_model(), target)
    field = GGUFReader(target, "r+").fields["tokenizer.ggml.add_bos_token"]
    field.parts[field.data[0]][0] = True
    return target


def prompt_tokens(server: ServerProcess, prompt: Any) -> int:
    body = {"model": "default", "prompt": prompt, "max_tokens": 1}
    status, _, reply = server.call("POST", "/v1/completions", body)
    assert status == 200, reply
    return int(reply["usage"]["prompt_tokens"])


@pytest.mark.slow
def test_bos_in_the_prompt_is_not_added_twice(tmp_path: Path) -> None:
    chat = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    with serving(model=adding_bos(tmp_path / "model.gguf")) as server:

        def tokens(text: str, **fields: Any) -> list[int]:
            found: list[int] = server.call("POST", "/tokenize", {"content": text, **fields})[2]["tokens"]
            return found

        assert prompt_tokens(server, "Once") == len(tokens("Once")) + 1
        assert prompt_tokens(server, chat) == len(tokens(chat))
        assert prompt_tokens(server, tokens(chat)) == len(tokens(chat))
        assert prompt_tokens(server, f"<|im_start|>{chat}") == len(tokens(chat)) + 1  # two are kept as written
        assert tokens(chat, add_special=True) == tokens(chat)
        assert tokens("Once", add_special=True) == [1, *tokens("Once")]
        assert tokens(chat, add_special=True, parse_special=False)[0] == 1
