"""Published model sizes, and GPUs as machine descriptions."""

from __future__ import annotations

from typing import Any

from train.plan.machine import Machine
from train.plan.memory import GIB

# config.json of each model
SHAPES: dict[str, dict[str, Any]] = {
    "Llama-3.1-8B": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128_256,
    },
    "Llama-3.2-1B": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128_256, "tie_word_embeddings": True,
    },
    "DeepSeek-7B": {
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 30, "num_attention_heads": 32,
        "num_key_value_heads": 32, "vocab_size": 102_400,
    },
}  # fmt: skip


def card(gib: float, **more: Any) -> Machine:
    """Return a GPU with this much free memory, and the matrix product rate measured on an H100."""
    return Machine("cuda", round(gib * GIB), 600e12, **more)
