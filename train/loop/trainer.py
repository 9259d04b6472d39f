"""TRL's trainer with batches by tokens: a step's rows in micro-batches that fit, normalised over the whole step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainerCallback
from trl import SFTTrainer

from burnish.console import warn
from burnish.errors import UserError

from ..kernels import attention, loss
from ..kernels.compile import Speed
from ..kernels.packing import micro_batches, padded_batches

IGNORED = loss.IGNORED
ROUNDING = 128  # tokens; a product's tiles are of that size too, so that little is computed in vain


@dataclass
class Batching:
    """How a step is cut: at most `tokens` a micro-batch, packed or padded, activations kept or computed again.

    It changes while training where memory runs out; the rows of a step never do.
    """

    tokens: int
    packed: bool = True
    checkpointing: bool = False
    halved: list[int] = field(default_factory=list)

    def cut(self, lengths: Sequence[int]) -> list[list[int]]:
        return micro_batches(lengths, self.tokens) if self.packed else padded_batches(lengths, self.tokens)


@dataclass(frozen=True)
class Rows:
    """A batch's rows as they are, {"input_ids", "labels", "line"}; opaque, so that nobody walks through the ids."""

    rows: list[dict[str, Any]]


def rows_of(examples: list[dict[str, Any]]) -> dict[str, Rows]:
    """Collate nothing: a step is cut when it is trained."""
    return {"rows": Rows(examples)}


class PackedTrainer(SFTTrainer):  # type: ignore[misc]  # TRL is not typed for us
    """SFTTrainer whose batch is a whole optimizer step: `per_device_train_batch_size` rows, cut by `batching`.

    Loss: the sum over the step's response tokens divided by their number, whatever the cut.
    """

    def __init__(self, *, batching: Batching, speed: Speed | None = None, **options: Any) -> None:
        self.batching, self.speed = batching, speed
        super().__init__(**options, data_collator=rows_of)
        # a walk through thousands of modules takes as long as some layers: each is made once
        self._inner = self.model.get_base_model()
        self.model.train()  # a loaded base under its new adapter is not; layers look at it before they checkpoint
        self._configs = attention.configs_of(self._inner)
        self._trained = [p for p in self.model.parameters() if p.requires_grad]
        self._unseen: tuple[torch.Tensor, torch.Tensor, list[dict[str, Any]]] | None = None
        self.add_callback(_Looking(self))

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Return the step's mean loss after all its micro-batches went forward and backward."""
        if not model.training:
            model.train()
        rows = inputs["rows"].rows

        def step() -> torch.Tensor:
            # around backward too, which may compute activations again
            with self._attending(), self.speed.on() if self.speed else nullcontext():
                return self._micro_steps(model, rows)

        total = self._in_memory(model, rows, step)
        self._unseen = (total, self._gradient_size(), rows)
        self._total_train_tokens += sum(len(row["input_ids"]) for row in rows)
        self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
        return total

    def _in_memory(self, model: Any, rows: list[dict[str, Any]], attempt: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Return what `attempt` makes of the rows, begun anew in smaller parts where memory runs out."""
        while True:
            try:
                return attempt()
            except torch.OutOfMemoryError:
                pass  # outside this block nothing holds the failed attempt's tensors any more
            model.zero_grad(set_to_none=True)
            self._need_less(max(len(row["input_ids"]) for row in rows), training=model.training)

    def look(self) -> None:
        """Raise UserError where the last step's loss or gradient is no number.

        Asked once the optimizer's work is under way, so that the GPU has some meanwhile; nothing is saved before.
        """
        if self._unseen is None:
            return
        (total, size, rows), self._unseen = self._unseen, None
        if not torch.isfinite(total + size):
            step, lines = self.state.global_step, ", ".join(str(row["line"]) for row in rows)
            raise UserError(
                f"step {step}: the loss is {total.item()}{self._unlike_loss(total)}; its rows are lines {lines} of the"
                " data: look at them, or lower train.learning_rate, in a new run; the last checkpoint is kept"
                " (--lora.resume_adapter DIRECTORY starts from it)"
            )

    def _gradient_size(self) -> torch.Tensor:
        """Return the gradient's norm; zero under a scaler, which looks for overflows itself and skips such a step."""
        made = [p.grad for p in self._trained if p.grad is not None]
        if self.args.fp16 or not made:
            return torch.zeros((), device=self.args.device)
        return torch.nn.utils.get_total_norm(made)

    def _clip_grad_norm(self, model: Any) -> Any:
        """Clip by the norm that is known already; a scaler's gradients are accelerate's to unscale first."""
        if self.args.fp16 or self._unseen is None:
            return super()._clip_grad_norm(model)
        torch.nn.utils.clip_grads_with_norm_(self._trained, self.args.max_grad_norm, self._unseen[1])
        return self._unseen[1]

    @staticmethod
    def _unlike_loss(total: torch.Tensor) -> str:
        return " and its gradient is not finite" if torch.isfinite(total) else ""

    def _micro_steps(self, model: Any, rows: list[dict[str, Any]]) -> torch.Tensor:
        responses = max(1, sum(_responses(row) for row in rows))
        total = torch.zeros((), device=self.args.device)
        for part in self.batching.cut([len(row["input_ids"]) for row in rows]):
            nll = self.nll(model, [rows[i] for i in part]) / responses
            self.accelerator.backward(nll)
            total += nll.detach()
        return total

    def nll(self, model: Any, rows: list[dict[str, Any]]) -> torch.Tensor:
        """Return the summed loss of rows' response tokens, in one forward pass."""
        inner = self._inner
        inputs, targets, places = (_pack if self.batching.packed else _pad)(rows, self.args.device)
        head, config = inner.get_output_embeddings(), inner.config.get_text_config()
        if not loss.is_plain(head, config):
            return loss.logits_nll(_logits(inner, inputs, places), targets)
        hidden = getattr(inner, inner.base_model_prefix)(**inputs, use_cache=False).last_hidden_state
        return loss.response_nll(hidden.flatten(0, 1)[places], head, targets)

    def _attending(self) -> AbstractContextManager[None]:
        return attention.packed(self._configs) if self.batching.packed else nullcontext()

    def evaluation_loop(self, *args: Any, **options: Any) -> Any:
        """Evaluate; the loss is the mean over all response tokens, as the exam's is, not one over batches' means."""
        self._evaluated, self._evaluated_tokens = 0.0, 0
        output = super().evaluation_loop(*args, **options)
        output.metrics[f"{options.get('metric_key_prefix', 'eval')}_loss"] = self._evaluated / self._evaluated_tokens
        return output

    def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None) -> Any:
        """Return the mean loss of a batch of held-out rows, and count it in."""
        rows = inputs["rows"].rows

        def evaluate() -> torch.Tensor:
            with torch.no_grad(), self._attending():
                parts = self.batching.cut([len(row["input_ids"]) for row in rows])
                return torch.stack([self.nll(model, [rows[i] for i in part]) for part in parts]).sum()

        total, tokens = self._in_memory(model, rows, evaluate), max(1, sum(_responses(row) for row in rows))
        self._evaluated += float(total)
        self._evaluated_tokens += tokens
        return total / tokens, None, None

    def checkpoint(self) -> None:
        """Compute activations again in the backward pass instead of keeping them."""
        self.batching.checkpointing = True
        if self.speed and self.speed.layers:
            self.speed.checkpoint()
        else:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def _need_less(self, longest: int, training: bool) -> None:
        """After memory ran out: smaller micro-batches, then (it helps training alone) checkpointing, then the end."""
        torch.cuda.empty_cache()
        if self.batching.tokens > longest and len(self.batching.halved) < 8:
            self.batching.halved.append(self.batching.tokens)
            self.batching.tokens = max(longest, self.batching.tokens // 2)
            warn(f"out of memory: micro-batches of {self.batching.tokens} tokens from here on; the step stays the same")
        elif training and not self.batching.checkpointing:
            self.checkpoint()
            warn("out of memory: gradient checkpointing from here on (about a quarter slower); the step stays the same")
        else:
            raise UserError(
                f"out of memory with one row of {longest} tokens and gradient checkpointing: lower data.max_length or"
                " lora.r, or take a smaller base; the last checkpoint is kept"
            )


class _Looking(TrainerCallback):  # type: ignore[misc]
    """Has the trainer look at each step's loss before anything is logged or saved of it."""

    def __init__(self, trainer: PackedTrainer) -> None:
        self._trainer = trainer

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._trainer.look()


def _responses(row: dict[str, Any]) -> int:
    return sum(label != IGNORED for label in row["labels"][1:])


def _pack(rows: list[dict[str, Any]], device: torch.device) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
    """Return forward's arguments [1, T], the targets [N] and the places [N] in the flat sequence that predict them.

    On a GPU a row of nothing, without a target, rounds T up: the libraries' choice of a kernel for a product's sizes
    costs milliseconds wherever they are new, and is remembered.
    """
    lengths = [len(row["input_ids"]) for row in rows]
    if device.type == "cuda" and (rest := -sum(lengths) % ROUNDING):
        rows, lengths = [*rows, {"input_ids": [0] * rest, "labels": [IGNORED] * rest}], [*lengths, rest]
    ids = torch.tensor([i for row in rows for i in row["input_ids"]])
    # the first token of a row is nobody's target: it would be the row's before
    labels = torch.tensor([label for row in rows for label in [*row["labels"][1:], IGNORED]])
    places = (labels != IGNORED).nonzero().squeeze(1)
    inputs = {"input_ids": ids.unsqueeze(0).to(device, non_blocking=True)}
    inputs |= attention.packed_arguments(lengths, device)
    return inputs, labels[places].to(device, non_blocking=True), places.to(device, non_blocking=True)


def _pad(rows: list[dict[str, Any]], device: torch.device) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
    """The same, padded on the right: [rows, longest]."""
    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full((len(rows), longest), IGNORED)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        length = len(row["input_ids"])
        ids[number, :length] = torch.tensor(row["input_ids"])
        labels[number, : length - 1] = torch.tensor(row["labels"][1:])
        mask[number, :length] = 1
    flat = labels.flatten()
    places = (flat != IGNORED).nonzero().squeeze(1)
    inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
    return inputs, flat[places].to(device), places.to(device)


def _logits(model: Any, inputs: dict[str, Any], places: torch.Tensor) -> torch.Tensor:
    """Return the logits [N, vocabulary] at `places`, from a head that is adapted or does more than a product."""
    made = model(**inputs, use_cache=False).logits
    picked: torch.Tensor = made.flatten(0, 1)[places]
    return picked
