"""Make a trainable 16-bit checkpoint of a GGUF file: python -m tools.dequantize FILE.gguf DIRECTORY

transformers reads and dequantizes the tensors. Its tokenizer conversion loses which tokens are control tokens and may
take another end-of-turn token than the file names, so both are set again from the file's own metadata.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gguf
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from burnish.run import whole_directory

CONTROL, USER_DEFINED = 3, 4  # gguf.TokenType
SPECIAL_IDS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}


def metadata(path: Path) -> dict[str, Any]:
    """Return the tokenizer's fields of a GGUF file, by name without their prefix."""
    fields = gguf.GGUFReader(path).fields
    prefix = "tokenizer.ggml."
    wanted = {*SPECIAL_IDS.values(), "tokens", "token_type", "add_bos_token"}
    return {name: fields[prefix + name].contents() for name in wanted if prefix + name in fields}


def load_tokenizer(path: Path) -> Any:
    """Return transformers' tokenizer with the special tokens that the file itself names."""
    fields = metadata(path)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    tokens: list[str] = fields["tokens"]
    named = {ours: tokens[fields[theirs]] for ours, theirs in SPECIAL_IDS.items() if theirs in fields}
    control = [t for t, kind in zip(tokens, fields["token_type"], strict=True) if kind == CONTROL]
    user = [t for t, kind in zip(tokens, fields["token_type"], strict=True) if kind == USER_DEFINED]
    tokenizer.add_special_tokens({**named, "extra_special_tokens": control})
    tokenizer.add_tokens(user)
    if len(tokenizer) != len(tokens):
        raise SystemExit(f"the tokenizer has {len(tokenizer)} tokens, the file {len(tokens)}")
    return tokenizer


def main(source: Path, target: Path) -> None:
    """Write the checkpoint; the directory appears whole or not at all."""
    tokenizer = load_tokenizer(source)
    loaded = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    config = loaded.config
    del config.quantization_config  # save_pretrained refuses a model that says it is quantized
    config.eos_token_id, config.bos_token_id = tokenizer.eos_token_id, tokenizer.bos_token_id
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    with whole_directory(target) as directory:
        model.to(torch.float16).save_pretrained(directory)
        tokenizer.save_pretrained(directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
