"""Run llama.cpp's converter without executing a model's own code: python -m burnish.tokenizers.convert WORDS...

For some architectures the converter loads a tokenizer with trust_remote_code=True (chatglm, deepseek, dream, glm,
hunyuan, kimi, llada, minimax, nemotron, qwen). Here trust_remote_code is always False.
"""

from __future__ import annotations

import runpy
import sys
from typing import Any

from .llama_cpp import CONVERTER


def distrust(kind: Any) -> None:
    """Patch a class's from_pretrained so that it never executes a model's own code."""
    original = kind.from_pretrained

    def from_pretrained(*given: Any, **options: Any) -> Any:
        return original(*given, **{**options, "trust_remote_code": False})

    kind.from_pretrained = from_pretrained


def main() -> None:
    """Run the converter with this process's arguments."""
    from transformers import AutoConfig, AutoTokenizer

    distrust(AutoConfig)
    distrust(AutoTokenizer)
    sys.argv[0] = str(CONVERTER)
    sys.path.insert(0, str(CONVERTER.parent))  # to find packages in the script's directory
    runpy.run_path(str(CONVERTER), run_name="__main__")


if __name__ == "__main__":
    main()
