"""The base as it is held while training, and the adapter on it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D
from transformers.utils.logging import disable_progress_bar

from burnish.bases.base import Base
from burnish.config import ConfigError
from burnish.console import as_json, warn
from burnish.errors import did_you_mean
from burnish.files import first_line
from burnish.machine import memory_available_bytes

from ..data.template import loading_fault
from ..plan.memory import Machine
from ..settings import BaseSection, LoraSection, TrainSettings

if TYPE_CHECKING:
    from ..plan.resolve import Resolved

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Backend(Protocol):
    """What loads a base and puts an adapter on it; both kinds give a PeftModel, so that all that follows is one code.

    `packs`: whether its attention takes packed rows (train/kernels/attention.py); without, micro-batches are padded.
    """

    packs: bool

    def load(self, found: Base, resolved: Resolved) -> Any: ...

    def adapt(self, model: Any, resolved: Resolved) -> PeftModel: ...


class TransformersBackend:
    """transformers, PEFT and bitsandbytes; fused and compiled layers come on top (train/kernels/compile.py)."""

    packs = True

    def load(self, found: Base, resolved: Resolved) -> Any:
        """Return the frozen base."""
        return load_base(found, resolved.base)

    def adapt(self, model: Any, resolved: Resolved) -> PeftModel:
        """Return the base with a new adapter, or with the one to go on from."""
        if resolved.lora.resume_adapter:
            return resume_adapter(model, resolved.settings)
        return add_adapter(model, resolved.lora)


def backend(name: str) -> Backend:
    """Return the backend of that name; unsloth's is imported only when chosen."""
    if name == "unsloth":
        from .unsloth import UnslothBackend

        return UnslothBackend()
    return TransformersBackend()


def has_unsloth() -> bool:
    """Whether unsloth is installed; importing it would patch transformers."""
    return importlib.util.find_spec("unsloth") is not None


def device() -> torch.device:
    """Return the device that training uses."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def dtype(base: BaseSection) -> torch.dtype:
    """Return the load and compute dtype: on a CPU float32, since bfloat16 is two to three times slower there."""
    if base.dtype != "auto":
        return DTYPES[base.dtype]
    if device().type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def dtype_name(base: BaseSection) -> str:
    """Return its name as records have it ("bfloat16")."""
    return str(dtype(base)).removeprefix("torch.")


def load_base(found: Base, base: BaseSection) -> Any:
    """Load the base, frozen, in 16/32 bits or NF4. Raises ConfigError where transformers can't."""
    stored_in_nf4 = _stored_in_nf4(found, base)
    if stored_in_nf4 and base.quantization != "nf4":
        raise ConfigError(
            f"base.id {base.id}: is stored in NF4: set base.quantization: nf4, or give its 16-bit checkpoint"
        )
    options: dict[str, Any] = {"dtype": dtype(base), "device_map": {"": device().type}}
    config = AutoConfig.from_pretrained(found.path, trust_remote_code=base.trust_remote_code)
    if attended := attention(base, config):
        options["attn_implementation"] = attended
    if base.quantization == "nf4" and not stored_in_nf4:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=base.double_quant,
            bnb_4bit_compute_dtype=dtype(base),
        )
    if as_json() or not sys.stderr.isatty():
        disable_progress_bar()  # a bar of many lines is no bar
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(
            found.path, trust_remote_code=base.trust_remote_code, output_loading_info=True, **options
        )
    except (ValueError, OSError, ImportError) as error:
        raise ConfigError(loading_fault(base, error)) from None
    if (missing := sorted(loaded["missing_keys"])) and not stored_in_nf4:  # transformers would make them random
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ConfigError(
            f"base.id {base.id}: its weight files lack tensors that the model needs: {', '.join(missing[:3])}{more};"
            " download it again, or give the whole checkpoint"
        )
    for module in model.modules():
        # bitsandbytes would repack such a layer for bfloat16 at the first evaluation on this CPU, and the exam would
        # then examine other weights than those that were trained
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def stored_quantization(directory: Path) -> dict[str, Any]:
    """Return what a checkpoint's config says of how its weights are quantized; empty: they are not."""
    content = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return content.get("quantization_config") or {}


def attention(base: BaseSection, config: Any) -> str | None:
    """Return the attention of a base: what was asked for, else what transformers takes for a model of this config.

    The config must be a made model's (train/plan/model_shape.py's is enough) for transformers' choice; else None.
    """
    if base.attn_implementation != "auto":
        return base.attn_implementation
    if getattr(config.get_text_config(), "attn_logit_softcapping", None):
        return "eager"  # transformers' sdpa leaves the cap out without a word
    chosen = config._attn_implementation
    return chosen if chosen in ("sdpa", "eager", None) else "eager"


def _stored_in_nf4(found: Base, base: BaseSection) -> bool:
    """Whether the checkpoint itself is bitsandbytes NF4. Raises ConfigError where it is quantized in another way."""
    stored = stored_quantization(found.path)
    if not stored:
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


def add_adapter(model: Any, lora: LoraSection) -> PeftModel:
    """Put a LoRA adapter on the base. Raises ConfigError that names the layers there are where a target is none."""
    check_targets(model, lora.target_modules)
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
    try:
        return get_peft_model(model, config)
    except ValueError as error:  # PEFT knows layers that an adapter would break (Mamba's out_proj)
        raise ConfigError(f"lora.target_modules: {first_line(error)}") from None


def resume_adapter(model: Any, settings: TrainSettings) -> PeftModel:
    """Put a trained adapter on the base, to go on from. Raises ConfigError where there is none, or it doesn't fit."""
    path = adapter_path(settings)
    try:
        adapted = PeftModel.from_pretrained(model, str(path), is_trainable=True)
    except (ValueError, OSError, RuntimeError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"lora.resume_adapter {path}: doesn't go on this base: {reason}") from None
    adapted.peft_config["default"].base_model_name_or_path = model.name_or_path
    return adapted


def adapter_path(settings: TrainSettings) -> Path:
    """Return the directory of the adapter to start from: given as such, or as a run's id."""
    name = str(settings.lora.resume_adapter)
    places = [Path(name), Path(name) / "adapter", Path(settings.run.root) / name / "adapter"]
    found = next((place for place in places if (place / "adapter_config.json").is_file()), None)
    if found is None:
        raise ConfigError(
            f"lora.resume_adapter {name}: no adapter_config.json there, and no run of that id in {settings.run.root}/:"
            " give an adapter's directory or a run's id"
        )
    return found


def machine() -> Machine:
    """Measure what this machine can give a run: free memory, and the rate of a matrix product."""
    if device().type != "cuda":
        return Machine("cpu", memory_available_bytes(), matrix_flops(torch.float32, 1024))
    return Machine("cuda", torch.cuda.mem_get_info()[0], matrix_flops(torch.bfloat16, 8192), has_unsloth())


def matrix_flops(dtype: torch.dtype, size: int) -> float:
    """Return the best rate of four products of two square matrices, in operations a second."""
    a = torch.randn(size, size, device=device()).to(dtype)
    seconds = []
    for _ in range(4):
        begun = time.perf_counter()
        out = a @ a
        _ = out[0, 0].item()  # waits for the product
        seconds.append(time.perf_counter() - begun)
    return float(2 * size**3 / min(seconds))


def limit_memory(gib: float | None) -> None:
    """Let the process take no more of the GPU's memory than this."""
    if gib is not None and device().type == "cuda":
        torch.cuda.set_per_process_memory_fraction(min(1.0, gib * 2**30 / torch.cuda.mem_get_info()[1]))


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


def check_targets(model: Any, targets: list[str] | str) -> None:
    """Raise ConfigError that names the linear layers there are where a target is no layer of the model.

    A text is a regular expression over whole names, as PEFT takes it, or all-linear.
    """
    kinds = (torch.nn.Linear, Conv1D)
    linear = {name.rsplit(".", 1)[-1] for name, m in model.named_modules() if isinstance(m, kinds)}
    names = {name for name, _ in model.named_modules()}
    if isinstance(targets, str):
        if targets != "all-linear" and not any(re.fullmatch(targets, name) for name in names):
            raise ConfigError(
                f"lora.target_modules: the regular expression {targets!r} matches no whole name of a layer of this base"
                f" (such as {next((n for n in names if n.rsplit('.', 1)[-1] in linear), 'none')}; its linear layers:"
                f" {', '.join(sorted(linear))})"
            )
        return
    missing = [t for t in targets if not any(name == t or name.endswith(f".{t}") for name in names)]
    if missing:
        raise ConfigError(
            [
                f"lora.target_modules: this base has no layer '{t}'{did_you_mean(t, linear)} (its linear layers:"
                f" {', '.join(sorted(linear))})"
                for t in missing
            ]
        )
