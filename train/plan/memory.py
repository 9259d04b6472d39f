"""Memory, disk and time before anything is loaded, and what is decided from them.

The memory's terms are those of the fused path (train/kernels/lora.py) in 16 bits on a GPU, checked against measured
peaks in docs/training.md. A CPU run takes what it is told: its memory is the machine's, and is estimated more roughly.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from burnish.errors import UserError

from ..kernels.loss import CHUNK
from ..kernels.packing import micro_batches, padded_batches
from ..settings import TrainSettings
from .model_shape import Shape

GIB = 2**30
RESERVE_BYTES = GIB  # CUDA's context, fragments, what other programs take meanwhile
USABLE = 0.95
MOST_TOKENS = 16_384  # beyond this a larger micro-batch is not faster
LEAST_TOKENS = 2_048  # below this a GPU idles between launches: rather compute activations again
CPU_TOKENS = 4_096
MOST_DRAWN = 200
COMPILE_S = 25  # what compiling the layers took on an H100's host
EFFICIENCY = {"cuda": 0.6, "cpu": 0.35}  # share of the measured matrix rate that training reaches
EAGER = 2.6  # how much more layers of PEFT's own keep than fused and compiled ones
FUSED = 2.1  # the same of layers that are fused and not compiled: counted in what autograd saves, on a CPU
OPTIMIZER_BYTES = {"adamw_8bit": 2, "paged_adamw_8bit": 0, "paged_adamw_32bit": 0, "sgd": 0, "adafactor": 1}


@dataclass(frozen=True)
class Machine:
    """What a run can use: `free_bytes` of the device's memory, `matrix_flops` a second as measured, or None."""

    device: str
    free_bytes: int
    matrix_flops: float | None = None
    unsloth: bool = False


@dataclass(frozen=True)
class Plan:
    """What a run will do, and what it is expected to take. Bytes are of the device's memory unless said otherwise."""

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
    evaluations: int = 0
    eval_tokens: int = 0
    eval_seconds: float | None = None

    @property
    def peak_bytes(self) -> int:
        return self.weights_bytes + self.adapter_bytes + self.activation_bytes

    def lines(self) -> list[str]:
        """Say it in a few lines."""
        parts = f"weights {_gib(self.weights_bytes)}, adapter and optimizer {_gib(self.adapter_bytes)}"
        checkpointing = "with" if self.checkpointing else "without"
        compiled = ", layers compiled" if self.compiled else ""
        host = f", {_gib(self.host_bytes)} of the host's for checkpoints" if self.host_bytes else ""
        time = f", about {_duration(self.seconds)}" if self.seconds else ""
        return [
            f"plan: {self.backend} on {self.device}, quantization {self.quantization}, {self.optim}{compiled}",
            f"plan: memory {_gib(self.peak_bytes)} of {_gib(self.free_bytes)} free ({parts}, activations"
            f" {_gib(self.activation_bytes)}){host}; disk {_gib(self.disk_bytes)}",
            f"plan: {self.steps} steps of {self.micro_batches:.1f} micro-batches of at most {self.micro_batch_tokens:,}"
            f" tokens, {checkpointing} gradient checkpointing; {self.tokens:,} tokens{time}",
            *([self._evaluated()] if self.evaluations else []),
        ]

    def _evaluated(self) -> str:
        times = "once, at the end" if self.evaluations == 1 else f"{self.evaluations} times"
        time = f", about {_duration(self.eval_seconds)} in all" if self.eval_seconds else ""
        return f"plan: the held-out rows are evaluated {times}: {self.eval_tokens:,} tokens{time}"


def plan(
    settings: TrainSettings, shape: Shape, lengths: Sequence[int], machine: Machine, heldout: Sequence[int] = ()
) -> Plan:
    """Decide what the settings leave open ("auto"). Raises UserError where the run can't fit.

    `lengths` are those of the rows to train on, in tokens, `heldout` those of the rows that are evaluated.
    """
    made = _decide(settings, shape, lengths, machine)
    if not heldout:
        return made
    # as training has it: one at the end, and one every eval_steps
    times = 1 + (made.steps // settings.train.eval_steps if settings.train.eval_steps else 0)
    flops = times * sum(heldout) * shape.flops_per_token(False) / 2  # forward only
    rate = machine.matrix_flops * EFFICIENCY[machine.device] if machine.matrix_flops else None
    return replace(
        made,
        evaluations=times,
        eval_tokens=times * sum(heldout),
        eval_seconds=flops / rate if rate else None,
    )


def _decide(settings: TrainSettings, shape: Shape, lengths: Sequence[int], machine: Machine) -> Plan:
    cuda = machine.device == "cuda"
    tried = []
    # 4 bits without checkpointing are faster than 16 bits with it
    for checkpointing in _checkpointing(settings):
        for quantization in _quantizations(settings, cuda):
            tried.append(_candidate(settings, shape, lengths, machine, quantization, checkpointing))
            if _fits(settings, tried[-1], lengths, cuda):
                return tried[-1]
    # none is roomy: the first that holds the longest row at all, else the leanest
    for candidate in tried:
        if candidate.peak_bytes <= candidate.free_bytes:
            return candidate
    least = min(tried, key=lambda candidate: candidate.peak_bytes)
    held = least.weights_bytes + least.adapter_bytes < least.free_bytes and least.checkpointing
    if cuda and held and machine.unsloth and settings.base.backend != "transformers":
        return replace(least, backend="unsloth", compiled=False)  # it keeps its checkpoints in the host's memory
    if not cuda:
        return least  # the machine may swap; the caller warns
    raise UserError(
        f"this run needs about {_gib(least.peak_bytes)} of GPU memory, {_gib(least.free_bytes)} are free (weights"
        f" {_gib(least.weights_bytes)}, longest row {max(lengths)} tokens): take a smaller base,"
        " base.quantization: nf4, a lower data.max_length or lora.r, or free the GPU"
    )


def _quantizations(settings: TrainSettings, cuda: bool) -> list[str]:
    if settings.base.quantization != "auto":
        return [settings.base.quantization]
    return ["none", "nf4"] if cuda else ["none"]


def _checkpointing(settings: TrainSettings) -> list[bool]:
    asked = settings.train.gradient_checkpointing
    return [False, True] if asked == "auto" else [asked]


def _fits(settings: TrainSettings, candidate: Plan, lengths: Sequence[int], cuda: bool) -> bool:
    if candidate.peak_bytes > candidate.free_bytes:
        return False
    # a GPU that must take a step in crumbs is better off computing activations again, or in 4 bits
    step = sum(lengths) / len(lengths) * rows_per_step(settings)
    enough = min(step, LEAST_TOKENS if candidate.quantization == "nf4" else LEAST_TOKENS * 2)
    return not cuda or settings.train.micro_batch_tokens != "auto" or candidate.micro_batch_tokens >= enough


def _candidate(
    settings: TrainSettings,
    shape: Shape,
    lengths: Sequence[int],
    machine: Machine,
    quantization: str,
    checkpointing: bool,
) -> Plan:
    cuda, longest = machine.device == "cuda", max(lengths)
    optim = settings.train.optim
    if optim == "auto":
        optim = "adamw_torch_fused" if cuda else "adamw_torch"
    fused = cuda and settings.lora.lora_dropout == 0
    weights = shape.weight_bytes(quantization, 2 if cuda else 4)
    adapter = shape.adapter_parameters(settings.lora.r) * (8 + OPTIMIZER_BYTES.get(optim, 8) + 2 * fused)
    free = int(machine.free_bytes * USABLE) - (RESERVE_BYTES if cuda else 0)
    if cuda and settings.train.memory_gib is not None:
        free = min(free, int(settings.train.memory_gib * GIB * USABLE) - RESERVE_BYTES)
    per_step = rows_per_step(settings)
    steps = settings.train.max_steps
    if steps <= 0:
        steps = max(1, round(math.ceil(len(lengths) / per_step) * settings.train.num_train_epochs))
    trained = round(sum(lengths) / len(lengths) * min(per_step, len(lengths)) * steps)
    flops = trained * shape.flops_per_token(checkpointing)
    seconds = flops / (machine.matrix_flops * EFFICIENCY[machine.device]) if machine.matrix_flops else None
    compiled = fused and (seconds is None or seconds > COMPILE_S * 5)
    if settings.train.torch_compile != "auto":
        compiled = cuda and settings.train.torch_compile
    held = activations(shape, 2 if cuda else 4, checkpointing, fused, compiled)
    if settings.train.micro_batch_tokens == "auto":
        tokens = max(longest, min(held.tokens(free - weights - adapter), MOST_TOKENS if cuda else CPU_TOKENS))
    else:
        tokens = max(longest, settings.train.micro_batch_tokens)
    # what one micro-batch will really hold: a step may have fewer tokens than the budget
    packed = settings.data.packing and settings.base.backend != "unsloth"
    most = max(longest, _largest_micro_batch(lengths, per_step, steps, tokens, packed))
    return Plan(
        machine.device, "transformers" if settings.base.backend == "auto" else settings.base.backend, quantization,
        optim, compiled, checkpointing, tokens, weights, adapter, held.bytes(most), free,
        adapter * (1 + settings.train.save_total_limit), steps, _cuts(lengths, per_step, tokens), trained, seconds,
        (shape.layers - 1) * most * shape.hidden * 2 if checkpointing and compiled else 0,
    )  # fmt: skip


@dataclass(frozen=True)
class Activations:
    """Bytes that a micro-batch holds beside weights and adapter: `per_token`, at least `least`, and `fixed` anyway."""

    per_token: int
    least: int
    fixed: int

    def bytes(self, tokens: int) -> int:
        return max(self.per_token * tokens, self.least) + self.fixed

    def tokens(self, room: int) -> int:
        """Return how many tokens fit into so many bytes."""
        return (room - self.fixed) // self.per_token


def activations(shape: Shape, item: int, checkpointing: bool, fused: bool, compiled: bool) -> Activations:
    """Return what a micro-batch holds (`item`: bytes of a number).

    Checkpoints of compiled layers wait in the host's memory, a few at a time on the device (train/kernels/offload.py).
    """
    layer = item * shape.kept_per_token * ((1 if compiled else FUSED) if fused else EAGER)
    logits, dequantized = CHUNK * shape.vocabulary * 2 * item, 2 * item * shape.largest_matrix
    if not checkpointing:  # the most is held at the end of forward, when the logits are there too
        return Activations(round(shape.layers * layer), 0, round(logits + dequantized))
    # the most is held in one layer's backward pass, beside the gradients of its widest outputs; the logits are gone
    inputs = min(shape.layers, 3) if compiled else shape.layers
    per_token = inputs * item * shape.hidden + layer + 2 * item * shape.widest
    return Activations(round(per_token), round(logits), round(dequantized))


def rows_per_step(settings: TrainSettings) -> int:
    """Return how many rows an optimizer step has: what the user asked for, however it is cut."""
    return settings.train.per_device_train_batch_size * settings.train.gradient_accumulation_steps


def _largest_micro_batch(lengths: Sequence[int], per_step: int, steps: int, tokens: int, packed: bool) -> int:
    """Return the tokens of the largest micro-batch to expect, drawn: that all long rows meet is not likely."""
    drawn = random.Random(0)
    few = min(per_step, len(lengths))
    drawings = [drawn.sample(lengths, few) for _ in range(min(steps, MOST_DRAWN))]
    if packed:
        return max(sum(step[i] for i in part) for step in drawings for part in micro_batches(step, tokens))
    # the first row of a padded batch is its longest
    return max(step[part[0]] * len(part) for step in drawings for part in padded_batches(step, tokens))


def _cuts(lengths: Sequence[int], per_step: int, tokens: int) -> float:
    """Return how many micro-batches a step has, over the rows in file order."""
    steps = [lengths[i : i + per_step] for i in range(0, len(lengths), per_step)][:200]
    return sum(len(micro_batches(step, tokens)) for step in steps) / len(steps)


def _gib(count: float) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{max(0.0, count) / 2**20:.0f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
