"""Convert a GGUF file to a trainable 16-bit checkpoint: python -m burnish.bases.dequantize FILE.gguf DIRECTORY

transformers reads and dequantizes the tensors; the tokenizer is rebuilt by burnish/bases/gguf_tokenizer.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from ..files import atomic_directory
from ..tokenizers import loader as tokenizers
from . import gguf_tokenizer


def main(source: Path, target: Path) -> None:
    """Write the checkpoint directory atomically."""
    _say("reading the tokenizer")
    tokenizer = gguf_tokenizer.load(source)
    _say("reading the tensors")
    loaded = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32, trust_remote_code=False
    )
    config = loaded.config
    del config.quantization_config  # save_pretrained refuses a model marked as quantized
    config.eos_token_id, config.bos_token_id = tokenizer.eos_token_id, tokenizer.bos_token_id
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    _say("writing the checkpoint")
    with atomic_directory(target) as directory:
        model.to(torch.float16).save_pretrained(directory)
        tokenizers.save(tokenizer, directory)
        _say("comparing the tokenizers")
        gguf_tokenizer.compare(source, tokenizers.load(directory))  # loaded the same way as in later use
        for path in directory.iterdir():
            path.chmod(0o644)  # safetensors creates files that only the owner can read


def _say(step: str) -> None:
    """Report a step to the parent, where burnish/children/watch.py displays it."""
    print(f"step: {step}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
