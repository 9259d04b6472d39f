"""What this machine can do for a run: faults of the hardware and its libraries first, then the plan."""

from __future__ import annotations

import importlib.util
import os
import warnings
from dataclasses import replace
from pathlib import Path

import torch

from burnish.config import ConfigError
from burnish.console import say, warn
from burnish.exam_memory import ExamMemory
from burnish.run import read_json
from train import model as models
from train.plan import Machine, Plan, plan
from train.prepare import Prepared
from train.settings import TrainSettings
from train.shape import empty_model, exam_sizes, shape_of
from train.sit import questions
from train.template import loading_fault

OLDEST_CAPABILITY = (7, 0)  # Volta: bitsandbytes' 4-bit kernels and Triton need it


def decide(settings: TrainSettings, prepared: Prepared) -> Plan:
    """Return the plan of a run on this machine, printed. Raises ConfigError with every fault of the machine."""
    faults = machine_faults(settings)
    if faults:
        raise ConfigError(faults)
    try:
        model = empty_model(prepared.base.path, settings.base.trust_remote_code)
    except (ValueError, OSError) as error:
        raise ConfigError(loading_fault(settings.base, error)) from None
    if isinstance(settings.lora.target_modules, list) and not settings.lora.resume_adapter:
        models.check_targets(model, settings.lora.target_modules)
    lengths = [len(row.input_ids) for row in prepared.train]
    made = plan(_with_adapter(settings), shape_of(model), lengths, _machine(settings))
    for line in made.lines():
        say(line)
    asked = questions(prepared.heldout, prepared.truncated, prepared.codec, settings.exam)
    examined = ExamMemory.of(exam_sizes(model), [len(question.input_ids) for question in asked])
    say(f"plan: export examines the merge layer by layer: {examined.line()}")
    if made.device == "cpu" and made.peak_bytes > made.free_bytes:
        need, free = made.peak_bytes / 2**30, made.free_bytes / 2**30
        warn(f"this run may need {need:.1f} GiB of memory and {free:.1f} GiB are free")
    return made


def settled(settings: TrainSettings, made: Plan) -> TrainSettings:
    """Return the settings with what the plan decided in place of "auto"."""
    base = settings.base.model_copy(update={"quantization": made.quantization, "backend": made.backend})
    return settings.model_copy(update={"base": base})


def machine_faults(settings: TrainSettings) -> list[str]:
    """Return what is wrong with this machine for these settings, a line each."""
    faults = [*_gpu_faults(), *_nf4_faults(settings)]
    if settings.base.backend == "unsloth" and not models.has_unsloth():
        faults.append(
            "base.backend: unsloth is not installed here: take the train image (RUNNER=docker), or say transformers"
        )
    if settings.base.backend == "unsloth" and not settings.base.double_quant:
        faults.append("base.double_quant: unsloth always quantizes the constants too: leave it true")
    if settings.base.attn_implementation == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        faults.append("base.attn_implementation: flash_attn is not installed here: install it, or say auto")
    faults += [
        f"train.report_to: {name} is not installed here: pip install {name}, or leave it out"
        for name in settings.train.report_to
        if importlib.util.find_spec(name) is None
    ]
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        faults.append("training runs on one GPU: start it without torchrun")
    return faults + _adapter_faults(settings)


def _machine(settings: TrainSettings) -> Machine:
    """Measure the machine; where a run starts from an adapter, unsloth is no choice."""
    found = models.machine()
    return replace(found, unsloth=False) if settings.lora.resume_adapter else found


def _with_adapter(settings: TrainSettings) -> TrainSettings:
    """Return the settings with what is kept of the adapter that training starts from: its rank and dropout."""
    if not settings.lora.resume_adapter:
        return settings
    kept = read_json(models.adapter_path(settings) / "adapter_config.json")
    ranks = [kept.get("r", settings.lora.r), *(kept.get("rank_pattern") or {}).values()]
    lora = {"r": max(ranks), "lora_dropout": kept.get("lora_dropout", settings.lora.lora_dropout)}
    return settings.model_copy(update={"lora": settings.lora.model_copy(update=lora)})


def _adapter_faults(settings: TrainSettings) -> list[str]:
    if not settings.lora.resume_adapter:
        return []
    if settings.base.backend == "unsloth":
        return ["lora.resume_adapter: only base.backend: transformers goes on from an adapter"]
    try:
        models.adapter_path(settings)
    except ConfigError as error:
        return list(error.faults)
    return []


def _gpu_faults() -> list[str]:
    with warnings.catch_warnings(record=True) as said:  # torch says why only when it is first asked
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    if not usable:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
        if hidden or torch.version.cuda is None or not Path("/dev/nvidia0").exists():
            return []  # no GPU, one that is hidden, or a torch for CPUs: it trains on the CPU
        why = str(said[0].message).split("\n")[0] if said else "torch can't use it"
        return [
            f"there is a GPU, but {why}: update the NVIDIA driver, or hide the GPU (CUDA_VISIBLE_DEVICES=) to train on"
            " the CPU"
        ]
    found = torch.cuda.get_device_capability()
    if found < OLDEST_CAPABILITY:
        name, need = torch.cuda.get_device_name(), ".".join(map(str, OLDEST_CAPABILITY))
        return [
            f"the GPU ({name}) has compute capability {found[0]}.{found[1]}, training needs {need} or newer: hide it"
            " (CUDA_VISIBLE_DEVICES=) to train on the CPU"
        ]
    return []


def _nf4_faults(settings: TrainSettings) -> list[str]:
    if settings.base.quantization == "none" or not torch.cuda.is_available():
        return []
    from bitsandbytes.cextension import lib

    if getattr(lib, "compiled_with_cuda", False):
        return []
    return [
        f"base.quantization: this bitsandbytes has no library for CUDA {torch.version.cuda}: reinstall it"
        " (python -m bitsandbytes says more), or set base.quantization: none"
    ]
