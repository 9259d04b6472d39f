"""Estimate memory, disk and time before anything is loaded, and choose the plan.

The memory terms apply to the fused path (train/kernels/lora.py) in 16 bits on a GPU, and were checked against the
peaks in bench/results/training-h100-2026-11-24.md. A CPU run is not limited by its rougher estimate.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from burnish.console import gib
from burnish.errors import UserError

from ..kernels.loss import CHUNK
from ..kernels.packing import micro_batches, padded_batches
from ..settings import TrainSettings
from .machine import Machine
from .model_shape import Shape

GIB = 2**30
RESERVE_BYTES = GIB  # CUDA's context, fragmentation, other programs
USABLE = 0.95
MAX_TOKENS = 16_384  # beyond this, larger micro-batches are not faster
MIN_TOKENS = 2_048  # below this, a GPU idles between launches, and checkpointing is faster
CPU_TOKENS = 4_096
MAX_SAMPLED_STEPS = 200
COMPILE_S = 25  # layer compile time on an H100 host
EFFICIENCY = {"cuda": 0.6, "cpu": 0.35}  # fraction of the measured matrix rate reached in training
EAGER = 2.6  # PEFT layers' memory saved for backward, relative to fused and compiled layers
FUSED = 2.1  # the same for fused but uncompiled layers, from autograd's saved tensors on a CPU
OPTIMIZER_BYTES = {"adamw_8bit": 2, "paged_adamw_8bit": 0, "paged_adamw_32bit": 0, "sgd": 0, "adafactor": 1}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run's planned configuration and expected cost. Bytes are device memory unless noted."""

    device: str
    backend: str
    quantization: str
    optim: str
    compiled: bool
    checkpointing: bool
    micro_batch_tokens: int
    weights_bytes: int
    adapter_bytes: int
    activation_bytes: int
    free_bytes: int
    disk_bytes: int
    steps: int
    micro_batches: float
    tokens: int
    seconds: float | None
    host_bytes: int = 0

    @property
    def peak_bytes(self) -> int:
        return self.weights_bytes + self.adapter_bytes + self.activation_bytes

    def lines(self) -> list[str]:
        """Return the plan's three log lines."""
        parts = f"weights {gib(self.weights_bytes)}, adapter and optimizer {gib(self.adapter_bytes)}"
        checkpointing = "with" if self.checkpointing else "without"
        compiled = ", layers compiled" if self.compiled else ""
        host = f", {gib(self.host_bytes)} of host memory for checkpoints" if self.host_bytes else ""
        time = f", about {duration(self.seconds)}" if self.seconds else ""
        return [
            f"plan: {self.backend} on {self.device}, quantization {self.quantization}, {self.optim}{compiled}",
            f"plan: memory {gib(self.peak_bytes)} of {gib(self.free_bytes)} free ({parts}, activations"
            f" {gib(self.activation_bytes)}){host}; disk {gib(self.disk_bytes)}",
            f"plan: {self.steps} steps of {self.micro_batches:.1f} micro-batches of at most {self.micro_batch_tokens:,}"
            f" tokens, {checkpointing} gradient checkpointing; {self.tokens:,} tokens{time}",
        ]


def plan(settings: TrainSettings, shape: Shape, lengths: Sequence[int], machine: Machine) -> Plan:
    """Return the plan for the settings, with "auto" resolved. Raises UserError if the run can't fit.

    `lengths` contains the training rows' lengths in tokens.
    """
    cuda = machine.device == "cuda"
    candidates = []
    # 4 bits without checkpointing is faster than 16 bits with checkpointing
    for checkpointing in _checkpointing(settings):
        for quantization in _quantizations(settings, cuda):
            candidates.append(_candidate(settings, shape, lengths, machine, quantization, checkpointing))
            if _fits(settings, candidates[-1], lengths, cuda):
                return candidates[-1]
    # none leaves memory for large micro-batches: use the first that fits at all, else the one that needs the least
    for candidate in candidates:
        if candidate.peak_bytes <= candidate.free_bytes:
            return candidate
    least = min(candidates, key=lambda candidate: candidate.peak_bytes)
    weights_fit = least.weights_bytes + least.adapter_bytes < least.free_bytes and least.checkpointing
    if cuda and weights_fit and machine.unsloth and settings.base.backend != "transformers":
        return replace(least, backend="unsloth", compiled=False)  # unsloth stores checkpoints in host memory
    if not cuda:
        return least  # the machine may swap; the caller warns
    raise UserError(
        f"this run needs about {gib(least.peak_bytes)} of GPU memory, but {gib(least.free_bytes)} are free (weights"
        f" {gib(least.weights_bytes)}, longest row {max(lengths)} tokens): use a smaller base,"
        " base.quantization: nf4, a lower data.max_length or lora.r, or free the GPU"
    )


def _quantizations(settings: TrainSettings, cuda: bool) -> list[str]:
    if settings.base.quantization != "auto":
        return [settings.base.quantization]
    return ["none", "nf4"] if cuda else ["none"]


def _checkpointing(settings: TrainSettings) -> list[bool]:
    setting = settings.train.gradient_checkpointing
    return [False, True] if setting == "auto" else [setting]


def _fits(settings: TrainSettings, candidate: Plan, lengths: Sequence[int], cuda: bool) -> bool:
    if candidate.peak_bytes > candidate.free_bytes:
        return False
    # if a GPU would need small micro-batches, checkpointing or 4 bits is faster
    step = sum(lengths) / len(lengths) * rows_per_step(settings)
    enough = min(step, MIN_TOKENS if candidate.quantization == "nf4" else MIN_TOKENS * 2)
    return not cuda or settings.train.micro_batch_tokens != "auto" or candidate.micro_batch_tokens >= enough


def _candidate(
    settings: TrainSettings,
    shape: Shape,
    lengths: Sequence[int],
    machine: Machine,
    quantization: str,
    checkpointing: bool,
) -> Plan:
    """Return the plan with this quantization, with or without gradient checkpointing."""
    cuda = machine.device == "cuda"
    fused, item = cuda and settings.lora.lora_dropout == 0, 2 if cuda else 4
    optim = _optimizer(settings, cuda)
    weights = shape.weight_bytes(quantization, item)
    adapter = shape.adapter_parameters(settings.lora.r) * (8 + OPTIMIZER_BYTES.get(optim, 8) + 2 * fused)
    free, per_step = _free_bytes(settings, machine), rows_per_step(settings)
    steps, trained, seconds = _work(settings, shape, lengths, machine, checkpointing)
    compiled = _compiled(settings, cuda, fused, seconds)
    held = activations(shape, item, checkpointing, fused, compiled)
    tokens = _micro_batch_tokens(settings, max(lengths), held.tokens(free - weights - adapter), cuda)
    # the actual micro-batch size: a step may have fewer tokens than the budget
    packed = settings.data.packing and settings.base.backend != "unsloth"
    most = max(max(lengths), _largest_micro_batch(lengths, per_step, steps, tokens, packed))
    return Plan(
        device=machine.device,
        backend="transformers" if settings.base.backend == "auto" else settings.base.backend,
        quantization=quantization,
        optim=optim,
        compiled=compiled,
        checkpointing=checkpointing,
        micro_batch_tokens=tokens,
        weights_bytes=weights,
        adapter_bytes=adapter,
        activation_bytes=held.bytes(most),
        free_bytes=free,
        disk_bytes=adapter * (1 + settings.train.save_total_limit),
        steps=steps,
        micro_batches=_micro_batches_per_step(lengths, per_step, tokens),
        tokens=trained,
        seconds=seconds,
        host_bytes=(shape.layers - 1) * most * shape.hidden * 2 if checkpointing and compiled else 0,
    )


def _optimizer(settings: TrainSettings, cuda: bool) -> str:
    if settings.train.optim != "auto":
        return settings.train.optim
    return "adamw_torch_fused" if cuda else "adamw_torch"


def _free_bytes(settings: TrainSettings, machine: Machine) -> int:
    """Return the memory that a run may use: free memory minus the CUDA context, at most the user's limit."""
    if machine.device != "cuda":
        return int(machine.free_bytes * USABLE)
    free = int(machine.free_bytes * USABLE) - RESERVE_BYTES
    if settings.train.memory_gib is None:
        return free
    return min(free, int(settings.train.memory_gib * GIB * USABLE) - RESERVE_BYTES)


def _work(
    settings: TrainSettings, shape: Shape, lengths: Sequence[int], machine: Machine, checkpointing: bool
) -> tuple[int, int, float | None]:
    """Return the number of optimizer steps, tokens, and seconds (None: unknown)."""
    per_step, steps = rows_per_step(settings), settings.train.max_steps
    if steps <= 0:
        steps = max(1, round(math.ceil(len(lengths) / per_step) * settings.train.num_train_epochs))
    trained = round(sum(lengths) / len(lengths) * min(per_step, len(lengths)) * steps)
    if not machine.matrix_flops:
        return steps, trained, None
    flops = trained * shape.flops_per_token(checkpointing)
    return steps, trained, flops / (machine.matrix_flops * EFFICIENCY[machine.device])


def _compiled(settings: TrainSettings, cuda: bool, fused: bool, seconds: float | None) -> bool:
    """Return whether layers are compiled: as set, else if the run is long enough to benefit."""
    if settings.train.torch_compile != "auto":
        return cuda and settings.train.torch_compile
    return fused and (seconds is None or seconds > COMPILE_S * 5)


def _micro_batch_tokens(settings: TrainSettings, longest: int, fitting: int, cuda: bool) -> int:
    if settings.train.micro_batch_tokens != "auto":
        return max(longest, settings.train.micro_batch_tokens)
    return max(longest, min(fitting, MAX_TOKENS if cuda else CPU_TOKENS))


@dataclass(frozen=True)
class Activations:
    """A micro-batch's memory besides weights and adapter: `per_token`, but at least `least`, plus `fixed` bytes."""

    per_token: int
    least: int
    fixed: int

    def bytes(self, tokens: int) -> int:
        return max(self.per_token * tokens, self.least) + self.fixed

    def tokens(self, limit: int) -> int:
        """Return the number of tokens that fit into `limit` bytes."""
        return (limit - self.fixed) // self.per_token


def activations(shape: Shape, item: int, checkpointing: bool, fused: bool, compiled: bool) -> Activations:
    """Return a micro-batch's memory (`item`: bytes per number).

    Compiled layers' checkpoints are in host memory, with only a few on the device at a time (train/kernels/offload.py).
    """
    layer = item * shape.saved_per_token * ((1 if compiled else FUSED) if fused else EAGER)
    logits, dequantized = CHUNK * shape.vocabulary * 2 * item, 2 * item * shape.largest_matrix
    if not checkpointing:  # the peak is at the end of forward, with the logits
        return Activations(round(shape.layers * layer), 0, round(logits + dequantized))
    # the peak is in a layer's backward pass, with the gradients of its widest outputs but without logits
    inputs = min(shape.layers, 3) if compiled else shape.layers
    per_token = inputs * item * shape.hidden + layer + 2 * item * shape.widest
    return Activations(round(per_token), round(logits), round(dequantized))


def rows_per_step(settings: TrainSettings) -> int:
    """Return the number of rows per optimizer step, as set, however the step is divided."""
    return settings.train.per_device_train_batch_size * settings.train.gradient_accumulation_steps


def _largest_micro_batch(lengths: Sequence[int], per_step: int, steps: int, tokens: int, packed: bool) -> int:
    """Return the largest micro-batch's tokens in sampled steps, as one step is unlikely to contain all long rows."""
    generator = random.Random(0)
    size = min(per_step, len(lengths))
    samples = [generator.sample(lengths, size) for _ in range(min(steps, MAX_SAMPLED_STEPS))]
    if packed:
        return max(sum(step[i] for i in part) for step in samples for part in micro_batches(step, tokens))
    # a padded batch's first row is its longest
    return max(step[part[0]] * len(part) for step in samples for part in padded_batches(step, tokens))


def _micro_batches_per_step(lengths: Sequence[int], per_step: int, tokens: int) -> float:
    """Return the mean number of micro-batches per step, with rows in file order."""
    steps = [lengths[i : i + per_step] for i in range(0, len(lengths), per_step)][:200]
    return sum(len(micro_batches(step, tokens)) for step in steps) / len(steps)


def duration(seconds: float) -> str:
    """Format a duration in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
