"""Check the hardware and its libraries, then plan the run."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from burnish.config import ConfigError
from burnish.console import gib, say, warn
from burnish.exam.memory import ExamMemory, export_disk

from .. import peft_config
from ..data.prepare import Prepared
from ..data.template import loading_fault
from ..exam import questions
from ..models.adapters import check_targets
from ..models.device import dtype
from ..models.transformers import attention, stored_quantization
from ..private.bitsandbytes import has_cuda
from ..private.transformers import Conv1D
from ..resolved import Resolved, changed
from ..settings import LoraSection, TrainSettings
from ..world import World
from .environment import environment_faults
from .evaluations import evaluations
from .machine import Machine, measure
from .memory import Plan, plan
from .model_shape import Shape, empty_model, exam_sizes, shape_of
from .resolve import resolve, with_adapter

OLDEST_CAPABILITY = (7, 0)  # Volta, required by bitsandbytes' 4-bit kernels and Triton


def plan_run(settings: TrainSettings, prepared: Prepared, world: World) -> Resolved:
    """Plan a run on this machine, print the plan and return the resolved settings. Raises ConfigError."""
    faults = machine_faults(settings, world)
    if faults:
        raise ConfigError(faults)
    try:
        model = empty_model(prepared.base.path, settings.base.trust_remote_code)
    except (ValueError, OSError) as error:
        raise ConfigError(loading_fault(settings.base, error)) from None
    settings = _unquantized(settings, model)
    if not settings.lora.resume_adapter:
        check_targets(model, settings.lora.target_modules)
    _warn_of_adapters(settings)
    requested, settings = settings, with_adapter(_as_stored(settings, prepared), model)
    _warn_of_overridden(requested.lora, settings.lora)
    lengths = prepared.train.lengths.tolist()
    shape, found = shape_of(model), _machine(settings, world)
    planned = plan(settings, shape, lengths, found)
    heldout = prepared.heldout.lengths.tolist()
    for line in (*planned.lines(), evaluations(settings, shape, heldout, found, planned).line()):
        say(line)
    rows = questions(prepared.heldout, prepared.codec, settings.exam)
    exam_memory = ExamMemory.of(exam_sizes(model), [len(question.input_ids) for question in rows])
    disk = gib(_export_disk(shape, planned))
    say(f"plan: export examines the merge layer by layer: {exam_memory.line()}; disk {disk}")
    if planned.device == "cpu" and planned.peak_bytes > planned.free_bytes:
        need, free = planned.peak_bytes / 2**30, planned.free_bytes / 2**30
        warn(f"this run may need {need:.1f} GiB of memory, but {free:.1f} GiB are free")
    return resolve(settings, prepared, planned, attention(settings.base, model.config) or "eager", world.device)


def _export_disk(shape: Shape, planned: Plan) -> int:
    """Return the bytes written by an export of this run with default types; a 4-bit base is merged in two ways."""
    merges = 2 if planned.quantization == "nf4" else 1
    return export_disk(shape.linear_parameters + shape.other, merges, types=2)


def _unquantized(settings: TrainSettings, model: Any) -> TrainSettings:
    """Keep a base with Conv1D layers in 16 bits. Raises ConfigError if NF4 is set.

    bitsandbytes' blocks run along such a matrix's other dimension, so a merge could not reproduce the same weights.
    """
    if settings.base.quantization == "none" or not any(isinstance(m, Conv1D) for m in model.modules()):
        return settings
    if settings.base.quantization == "nf4":
        raise ConfigError(
            "base.quantization: this base's layers are Conv1D (GPT-2), which NF4 does not support here: set none"
        )
    return changed(settings, "base", quantization="none")


def _as_stored(settings: TrainSettings, prepared: Prepared) -> TrainSettings:
    """Return the settings with the base's own quantization if it is stored in NF4."""
    stored = stored_quantization(prepared.base.path)
    if stored.get("bnb_4bit_quant_type") != "nf4" or settings.base.quantization == "none":
        return settings
    double = bool(stored.get("bnb_4bit_use_double_quant", False))
    return changed(settings, "base", quantization="nf4", double_quant=double)


def _warn_of_adapters(settings: TrainSettings) -> None:
    """Warn if a PEFT config is for a different base, and about PEFT defaults that differ from Burnish's."""
    lora = settings.lora
    if lora.config_file:
        path = Path(lora.config_file)
        if (base := peft_config.read(path).get("base_model_name_or_path")) not in (None, "", settings.base.id):
            warn(f"lora.config_file {path} was written for {base}, here it is used for {settings.base.id}")
        unset = [name for name in ("r", "lora_alpha", "target_modules") if name not in lora.model_fields_set]
        for name in unset:
            ours, theirs = getattr(lora, name), peft_config.defaults()[name]
            theirs = "a choice by architecture" if theirs is None else theirs
            warn(f"lora.config_file {path} does not set {name}: using {ours} (PEFT's default: {theirs})")
    if lora.resume_adapter:
        directory = peft_config.adapter_path(settings)
        base = peft_config.read(directory / peft_config.CONFIG).get("base_model_name_or_path")
        if base not in (None, "", settings.base.id):
            warn(f"lora.resume_adapter {directory} was trained on {base}, here it is used for {settings.base.id}")


def _warn_of_overridden(requested: LoraSection, continued: LoraSection) -> None:
    """Warn about settings overridden by the adapter that training starts from."""
    if (continued.r, continued.lora_alpha) != (requested.r, requested.lora_alpha):
        warn(f"lora.r and lora_alpha are taken from the continued adapter: {continued.r} and {continued.lora_alpha}")
    for name in ("lora_dropout", "target_modules", "bias", "use_rslora"):
        was, now = getattr(requested, name), getattr(continued, name)
        if name in requested.model_fields_set and was != now:
            warn(f"lora.{name} is taken from the continued adapter: {now}")


def machine_faults(settings: TrainSettings, world: World) -> list[str]:
    """Return this machine's errors for these settings, one line each."""
    faults = [*_gpu_faults(), *_nf4_faults(settings), *environment_faults(settings, world)]
    return faults or _adapter_faults(settings)


def _machine(settings: TrainSettings, world: World) -> Machine:
    """Measure the machine; exclude unsloth if the settings need features that unsloth lacks."""
    found = measure(world.device, used := dtype(settings.base, world.device))
    if found.device == "cpu" and used == torch.float16:
        warn("float16 is slow on a CPU: set base.dtype: float32")
    other = settings.lora.resume_adapter or settings.lora.has_pattern
    return replace(found, unsloth=False) if other else found


def _adapter_faults(settings: TrainSettings) -> list[str]:
    if not settings.lora.resume_adapter:
        return []
    return peft_config.continued_faults(peft_config.adapter_path(settings) / peft_config.CONFIG, LoraSection)


def _gpu_faults() -> list[str]:
    with warnings.catch_warnings(record=True) as caught:  # torch gives the reason only on the first call
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    if not usable:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
        if hidden or torch.version.cuda is None or not Path("/dev/nvidia0").exists():
            return []  # no GPU, a hidden one, or a CPU build of torch: train on the CPU
        why = str(caught[0].message).split("\n")[0] if caught else "torch can't use it"
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
    if has_cuda():
        return []
    return [
        f"base.quantization: this bitsandbytes has no library for CUDA {torch.version.cuda}: reinstall it"
        " (`python -m bitsandbytes` has details), or set base.quantization: none"
    ]
