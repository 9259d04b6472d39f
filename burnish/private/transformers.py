"""Private transformers API for the tokenizer loader."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer

from .needs import Need

FAST = "transformers.tokenization_utils_tokenizers:TokenizersBackend"
BASE = "transformers.tokenization_utils_base:PreTrainedTokenizerBase"
KINDS = "transformers.models.auto.configuration_auto"
NEEDS = (
    Need(
        "transformers.convert_slow_tokenizer:convert_slow_tokenizer",
        "a tokenizer that exists only as Python code can't be converted",
    ),
    Need(f"{BASE}.init_kwargs", "add_prefix_space is not saved, and llama.cpp adds an extra space", f"{BASE}.__init__"),
    Need(f"{FAST}.add_bos_token", "a configured start token is not added"),
    Need(f"{KINDS}:CONFIG_MAPPING_NAMES", "an unknown architecture is reported only by the plan"),
    Need(f"{FAST}.add_eos_token", "a configured end token is not added"),
)


def knows_architecture(model_type: str) -> bool:
    """Return whether transformers has a model for this model_type (config.json)."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return model_type in CONFIG_MAPPING_NAMES


def convert_slow(tokenizer: Any) -> Tokenizer:
    """Convert a Python tokenizer to the tokenizers library. May raise any exception for an unknown class."""
    from transformers.convert_slow_tokenizer import convert_slow_tokenizer

    converted: Tokenizer = convert_slow_tokenizer(tokenizer)
    return converted


def set_saved_option(tokenizer: Any, name: str, value: Any) -> None:
    """Set a tokenizer option so that save_pretrained writes it to tokenizer_config.json."""
    setattr(tokenizer, name, value)
    tokenizer.init_kwargs[name] = value


def add_token(tokenizer: Any, name: str) -> None:
    """Add the token `name` ("bos" or "eos") to every text, by letting transformers update the post-processor."""
    setattr(tokenizer, f"add_{name}_token", True)
