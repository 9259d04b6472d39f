"""Make a trainable 16-bit checkpoint of a GGUF file: python -m tools.dequantize FILE.gguf DIRECTORY

transformers reads and dequantizes the tensors; the tokenizer is rebuilt by tools/gguf_tokenizer.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from burnish.run import whole_directory
from tools import gguf_tokenizer


def main(source: Path, target: Path) -> None:
    """Write the checkpoint; the directory appears whole or not at all."""
    tokenizer = gguf_tokenizer.load(source)
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
        _name_class(directory / "tokenizer_config.json")
        for path in directory.iterdir():
            path.chmod(0o644)  # safetensors writes files that only their owner may read


def _name_class(path: Path) -> None:
    """Name the tokenizer's class as every transformers version knows it, older ones of other servers included."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
