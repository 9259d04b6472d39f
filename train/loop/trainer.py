"""TRL's trainer with token-based micro-batches that fit into memory, and a loss normalised over the full step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainerCallback
from trl import SFTTrainer

from burnish.console import warn
from burnish.errors import UserError

from ..kernels.compile import FastLayers
from ..kernels.packing import micro_batches, padded_batches
from ..objectives.objective import Objective, Row
from ..private.transformers import ClipsGradients
from ..private.trl import count_tokens


@dataclass
class Batching:
    """The division of a step: at most `tokens` per micro-batch, packed or padded, with or without checkpointing.

    The division changes during training if memory runs out; a step's rows never change.
    """

    tokens: int
    packed: bool = True
    checkpointing: bool = False
    halved: list[int] = field(default_factory=list)

    def cut(self, lengths: Sequence[int]) -> list[list[int]]:
        return micro_batches(lengths, self.tokens) if self.packed else padded_batches(lengths, self.tokens)


@dataclass(frozen=True)
class Rows:
    """A batch's rows, opaque so that no library iterates over the ids."""

    rows: list[Row]


def rows_of(examples: list[Row]) -> dict[str, Rows]:
    """Return the rows uncollated: a step is divided only when it is trained."""
    return {"rows": Rows(examples)}


class PackedTrainer(ClipsGradients, SFTTrainer):  # type: ignore[misc]  # TRL has no types
    """An SFTTrainer whose batch is a full optimizer step: `per_device_train_batch_size` rows, divided by `batching`.

    The loss is the objective's sum over the step's rows divided by the number of terms, however the step is divided.
    """

    def __init__(
        self, *, objective: Objective, batching: Batching, fast_layers: FastLayers | None = None, **options: Any
    ) -> None:
        self.objective, self.batching, self.fast_layers = objective, batching, fast_layers
        super().__init__(**options, data_collator=rows_of)
        self.model.train()  # a loaded base is in eval mode, in which layers would not checkpoint
        self._trained = [p for p in self.model.parameters() if p.requires_grad]
        self._unchecked: tuple[torch.Tensor, torch.Tensor, list[Row]] | None = None
        self.add_callback(_LossCheck(self))

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Run forward and backward for all micro-batches in a step, and return the step's mean loss."""
        if not model.training:
            model.train()
        rows = inputs["rows"].rows

        def step() -> torch.Tensor:
            # includes backward, which may recompute activations
            with self.objective.patched(), self.fast_layers.on() if self.fast_layers else nullcontext():
                return self._micro_steps(rows)

        total = self._until_it_fits(model, rows, step)
        self._unchecked = (total, self._gradient_size(), rows)
        count_tokens(self, sum(map(self.objective.length, rows)))
        return total

    def _until_it_fits(self, model: Any, rows: list[Row], attempt: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Return the result of `attempt`, retrying with less memory if memory runs out."""
        while True:
            try:
                return attempt()
            except torch.OutOfMemoryError:
                pass  # leave this block first: the exception keeps the failed attempt's tensors alive
            model.zero_grad(set_to_none=True)
            self._use_less_memory(max(map(self.objective.length, rows)), training=model.training)

    def check_loss(self) -> None:
        """Raise UserError if the last step's loss or gradient is not finite.

        Called after the optimizer's kernels are queued, so that the GPU stays busy, and before anything is saved.
        """
        if self._unchecked is None:
            return
        (total, size, rows), self._unchecked = self._unchecked, None
        if not torch.isfinite(total + size):
            step, lines = self.state.global_step, ", ".join(str(row["line"]) for row in rows)
            raise UserError(
                f"step {step}: the loss is {total.item()}{self._gradient_note(total)}; its rows in the data: {lines};"
                " check them or lower train.learning_rate in a new run; the last checkpoint is kept"
                " (--lora.resume_adapter DIRECTORY starts from it)"
            )

    def _gradient_size(self) -> torch.Tensor:
        """Return the gradient norm; zero with a scaler, which checks for overflows itself and skips such steps."""
        gradients = [p.grad for p in self._trained if p.grad is not None]
        if self.args.fp16 or not gradients:
            return torch.zeros((), device=self.args.device)
        return torch.nn.utils.get_total_norm(gradients)

    def clip_gradients(self, model: Any) -> Any:
        """Clip with the norm already computed; with a scaler, let accelerate unscale and clip."""
        if self.args.fp16 or self._unchecked is None:
            return super().clip_gradients(model)
        torch.nn.utils.clip_grads_with_norm_(self._trained, self.args.max_grad_norm, self._unchecked[1])
        return self._unchecked[1]

    @staticmethod
    def _gradient_note(total: torch.Tensor) -> str:
        return " and its gradient is not finite" if torch.isfinite(total) else ""

    def _micro_steps(self, rows: list[Row]) -> torch.Tensor:
        terms = max(1, sum(map(self.objective.label_tokens, rows)))
        total = torch.zeros((), device=self.args.device)
        for part in self._cut(rows):
            loss = self.objective.loss(part) / terms
            self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def _cut(self, rows: list[Row]) -> list[list[Row]]:
        return [[rows[i] for i in part] for part in self.batching.cut([self.objective.length(row) for row in rows])]

    def evaluation_loop(self, *args: Any, **options: Any) -> Any:
        """Evaluate; the loss is the mean over all response tokens, as in the exam, not the mean over batches."""
        self._evaluated, self._evaluated_terms = 0.0, 0
        output = super().evaluation_loop(*args, **options)
        output.metrics[f"{options.get('metric_key_prefix', 'eval')}_loss"] = self._evaluated / self._evaluated_terms
        return output

    def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None) -> Any:
        """Return a held-out batch's mean loss, and add it to the evaluation."""
        rows = inputs["rows"].rows

        def evaluate() -> torch.Tensor:
            with torch.no_grad(), self.objective.patched():
                return torch.stack([self.objective.loss(part) for part in self._cut(rows)]).sum()

        total, terms = self._until_it_fits(model, rows, evaluate), max(1, sum(map(self.objective.label_tokens, rows)))
        self._evaluated += float(total)
        self._evaluated_terms += terms
        return total / terms, None, None

    def checkpoint(self) -> None:
        """Enable gradient checkpointing: recompute activations in the backward pass."""
        self.batching.checkpointing = True
        if self.fast_layers and self.fast_layers.layers:
            self.fast_layers.checkpoint()
        else:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write no card: TRL's lacks the base and the rows, and `push` writes one from the records."""

    def _use_less_memory(self, longest: int, training: bool) -> None:
        """Halve the micro-batches or, in training, enable checkpointing. Raises UserError if neither is possible."""
        torch.cuda.empty_cache()
        if self.batching.tokens > longest and len(self.batching.halved) < 8:
            self.batching.halved.append(self.batching.tokens)
            self.batching.tokens = max(longest, self.batching.tokens // 2)
            warn(
                f"out of memory: continuing with micro-batches of {self.batching.tokens} tokens; the rows per step"
                " do not change"
            )
        elif training and not self.batching.checkpointing:
            self.checkpoint()
            warn(
                "out of memory: continuing with gradient checkpointing (about 25% slower); the rows per step do not"
                " change"
            )
        else:
            raise UserError(
                f"out of memory with one row of {longest} tokens and gradient checkpointing: lower data.max_length or"
                " lora.r, or use a smaller base; the last checkpoint is kept"
            )


class _LossCheck(TrainerCallback):  # type: ignore[misc]
    """Checks each step's loss before it is logged or saved, and always logs the last step."""

    def __init__(self, trainer: PackedTrainer) -> None:
        self._trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._trainer.check_loss()
        if state.global_step >= state.max_steps:
            control.should_log = True  # in every process, because logging gathers losses from all of them
