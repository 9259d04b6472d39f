"""The base as it is held while training, and the adapter on it."""

from __future__ import annotations

import json
import os
import resource
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from burnish.base import Base
from burnish.config import ConfigError
from burnish.console import warn
from burnish.errors import did_you_mean
from train.settings import BaseSection, LoraSection
from train.template import loading_fault

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def device() -> torch.device:
    """Return the device that training uses."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def dtype(base: BaseSection) -> torch.dtype:
    """Return the load and compute dtype: on a CPU float32, since bfloat16 is two to three times slower there."""
    if base.dtype != "auto":
        return DTYPES[base.dtype]
    if device().type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def load_base(found: Base, base: BaseSection) -> Any:
    """Load the base, frozen, in 16/32 bits or NF4. Raises ConfigError where transformers can't."""
    stored_in_nf4 = _stored_in_nf4(found, base)
    if stored_in_nf4 and base.quantization != "nf4":
        raise ConfigError(
            f"base.id {base.id}: is stored in NF4: set base.quantization: nf4, or give its 16-bit checkpoint"
        )
    options: dict[str, Any] = {"dtype": dtype(base), "device_map": {"": device().type}}
    if base.attn_implementation != "auto":
        options["attn_implementation"] = base.attn_implementation
    if base.quantization == "nf4" and not stored_in_nf4:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=base.double_quant,
            bnb_4bit_compute_dtype=dtype(base),
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(found.path, trust_remote_code=base.trust_remote_code, **options)
    except (ValueError, OSError) as error:
        raise ConfigError(loading_fault(base, error)) from None
    for module in model.modules():
        # bitsandbytes would repack such a layer for bfloat16 at the first evaluation on this CPU, and the exam would
        # then examine other weights than those that were trained
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def _stored_in_nf4(found: Base, base: BaseSection) -> bool:
    """Whether the checkpoint itself is bitsandbytes NF4. Raises ConfigError where it is quantized in another way."""
    stored = json.loads((found.path / "config.json").read_text(encoding="utf-8")).get("quantization_config")
    if stored is None:
        return False
    method = stored.get("quant_method")
    if method != "bitsandbytes" or stored.get("bnb_4bit_quant_type") != "nf4":
        raise ConfigError(
            f"base.id {base.id}: is stored quantized ({method}): give its 16-bit checkpoint, or an NF4 one"
        )
    return True


def skipped_modules(model: Any) -> list[str]:
    """Return the modules whose weight matrix a quantized base holds unquantized (head, embeddings); none otherwise.

    Ask before the adapter is added: it renames modules.
    """
    if not getattr(model, "is_loaded_in_4bit", False):
        return []
    import bitsandbytes as bnb

    return sorted(
        name
        for name, module in model.named_modules()
        if getattr(getattr(module, "weight", None), "ndim", 0) == 2 and not isinstance(module, bnb.nn.Linear4bit)
    )


def add_adapter(model: Any, lora: LoraSection, base_id: str) -> PeftModel:
    """Put a LoRA adapter on the base. Raises ConfigError that names the layers there are where a target is none."""
    if isinstance(lora.target_modules, list):
        _check_targets(model, lora.target_modules)
    scale = lora.lora_alpha / (lora.r**0.5 if lora.use_rslora else lora.r)
    if scale < 1:
        warn(f"the adapter's scale is {scale:.2g} (lora_alpha {lora.lora_alpha}, r {lora.r}): below 1 it learns little")
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=lora.target_modules,
        bias=lora.bias,
        use_rslora=lora.use_rslora,
    )
    adapted = get_peft_model(model, config)
    # not this machine's path: the adapter travels
    adapted.peft_config["default"].base_model_name_or_path = base_id
    return adapted


def peak_memory_bytes() -> int:
    """Return the most memory used so far: the GPU's where there is one, else this process's resident set."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def hardware() -> dict[str, Any]:
    """Describe what trained: device, names, sizes."""
    facts: dict[str, Any] = {"device": device().type, "threads": torch.get_num_threads(), "cpus": os.cpu_count()}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        facts |= {
            "gpu": properties.name,
            "gpu_memory_bytes": properties.total_memory,
            "gpus": torch.cuda.device_count(),
        }
    return facts


def _check_targets(model: Any, targets: list[str]) -> None:
    linear = {name.rsplit(".", 1)[-1] for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    names = {name for name, _ in model.named_modules()}
    missing = [t for t in targets if not any(name == t or name.endswith(f".{t}") for name in names)]
    if missing:
        raise ConfigError(
            [
                f"lora.target_modules: this base has no layer '{t}'{did_you_mean(t, linear)} (its linear layers:"
                f" {', '.join(sorted(linear))})"
                for t in missing
            ]
        )
