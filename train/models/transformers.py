"""Load the base for training with transformers and bitsandbytes, in 16 or 32 bits or NF4."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from burnish.bases.base import Base
from burnish.config import ConfigError
from burnish.console import as_json, listed

from ..data.template import loading_fault
from ..private.bitsandbytes import keep_layout
from ..private.transformers import attention_name
from ..settings import BaseSection
from .device import dtype


def load_base(found: Base, base: BaseSection, device: torch.device) -> Any:
    """Load the frozen base onto a device, in 16 or 32 bits or NF4. Raises ConfigError if transformers can't."""
    stored_in_nf4 = _stored_in_nf4(found, base)
    if stored_in_nf4 and base.quantization != "nf4":
        raise ConfigError(
            f"base.id {base.id} is stored in NF4: set base.quantization: nf4, or use its 16-bit checkpoint"
        )
    options: dict[str, Any] = {"dtype": dtype(base, device), "device_map": {"": str(device)}}
    config = AutoConfig.from_pretrained(found.path, trust_remote_code=base.trust_remote_code)
    if attended := attention(base, config):
        options["attn_implementation"] = attended
    if base.quantization == "nf4" and not stored_in_nf4:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=base.double_quant,
            bnb_4bit_compute_dtype=dtype(base, device),
        )
    try:
        with _bar_on_terminals():
            model, loaded = AutoModelForCausalLM.from_pretrained(
                found.path, trust_remote_code=base.trust_remote_code, output_loading_info=True, **options
            )
    except (ValueError, OSError, ImportError) as error:
        raise ConfigError(loading_fault(base, error)) from None
    if missing := sorted(loaded["missing_keys"]):  # transformers would initialise them randomly
        raise ConfigError(
            f"base.id {base.id}: tensors of the model are missing in its weight files: {listed(missing, 3)};"
            " download it again, or use the complete checkpoint"
        )
    keep_layout(model)
    return model


@contextmanager
def _bar_on_terminals() -> Iterator[None]:
    """Show transformers' progress bar only on a terminal; elsewhere it prints many lines."""
    if not is_progress_bar_enabled() or (sys.stderr.isatty() and not as_json()):
        yield
        return
    disable_progress_bar()
    try:
        yield
    finally:
        enable_progress_bar()


def stored_quantization(directory: Path) -> dict[str, Any]:
    """Return the quantization in a checkpoint's config; empty if its weights are not quantized."""
    content = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return content.get("quantization_config") or {}


def attention(base: BaseSection, config: Any) -> str | None:
    """Return a base's attention implementation: as set, else as chosen by transformers for this config.

    The config must be from a model instance (as in train/plan/model_shape.py), else transformers' choice is None.
    """
    if base.attn_implementation != "auto":
        return base.attn_implementation
    if getattr(config.get_text_config(), "attn_logit_softcapping", None):
        return "eager"  # transformers' sdpa silently ignores softcapping
    chosen = attention_name(config)
    return chosen if chosen in ("sdpa", "eager", None) else "eager"


def _stored_in_nf4(found: Base, base: BaseSection) -> bool:
    """Return whether the checkpoint is in bitsandbytes NF4. Raises ConfigError for other quantizations."""
    stored = stored_quantization(found.path)
    if not stored:
        return False
    method = stored.get("quant_method")
    if method != "bitsandbytes" or stored.get("bnb_4bit_quant_type") != "nf4":
        raise ConfigError(f"base.id {base.id} is quantized ({method}): use its 16-bit checkpoint, or an NF4 one")
    return True


def skipped_modules(model: Any) -> list[str]:
    """Return a quantized base's modules with unquantized weight matrices (head, embeddings); none for other bases.

    Must be called before the adapter is added, which renames modules.
    """
    if not getattr(model, "is_loaded_in_4bit", False):
        return []
    import bitsandbytes as bnb

    return sorted(
        name
        for name, module in model.named_modules()
        if getattr(getattr(module, "weight", None), "ndim", 0) == 2 and not isinstance(module, bnb.nn.Linear4bit)
    )
