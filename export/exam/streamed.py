"""Compute a checkpoint's logits with one layer in memory at a time, passing question groups through layer by layer."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from burnish import machine
from burnish.console import PLAIN_INTERVAL_S, say, warn
from burnish.errors import UserError
from burnish.exam.memory import chunk_positions, group_tokens
from burnish.exam.rows import Question
from burnish.exam.scores import Floats
from burnish.files import first_line

from ..merge.shards import ShardError, sources
from . import layerwise
from .skeleton import NotStreamable, Skeleton, attention, from_pretrained, read_skeleton

GIB = 2**30


class _BaseOutput(BaseException):
    """Raised to stop a forward pass at the base model's output."""

    def __init__(self, output: Any):
        self.output = output


def checkpoint_logits(directory: Path, questions: Sequence[Question]) -> Iterator[Floats]:
    """Yield a checkpoint's float32 logits in [positions, vocabulary] chunks, over all questions in order.

    A model that can't be streamed is loaded completely, with a warning. Raises UserError if there is too little
    memory for that, and ShardError if the checkpoint is damaged.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()  # the exam shows its own progress bar
    chunks = streamed_logits(directory, questions)
    reason = ""
    try:
        first = next(chunks, None)
    except UserError:
        raise
    except Exception as error:  # running a model layer by layer may raise anything
        reason = f"{type(error).__name__} {first_line(error)}".strip()
    if reason:
        yield from whole_logits(directory, questions, reason)
    elif first is not None:
        yield first
        yield from chunks


def streamed_logits(directory: Path, questions: Sequence[Question]) -> Iterator[Floats]:
    """Yield logits as `checkpoint_logits` does, one layer at a time. An unusual model may raise any exception."""
    skeleton = read_skeleton(directory)
    hidden = int(skeleton.model.config.get_text_config().hidden_size)
    vocabulary = int(skeleton.model.config.get_text_config().vocab_size)
    for group in groups(questions, group_tokens(hidden)):
        reached = _base_outputs(skeleton, group)
        kind, states = reached[0][0], torch.cat([states for _, states in reached])
        step = chunk_positions(vocabulary)
        for start in range(0, len(states), step):
            yield _head(skeleton.model, kind, states[start : start + step])


def groups(questions: Sequence[Question], tokens: int) -> Iterator[list[Question]]:
    """Split the questions into consecutive groups of at most `tokens`; a longer question forms its own group."""
    group: list[Question] = []
    used = 0
    for question in questions:
        if group and used + len(question.input_ids) > tokens:
            yield group
            group, used = [], 0
        group.append(question)
        used += len(question.input_ids)
    if group:
        yield group


def _base_outputs(skeleton: Skeleton, group: Sequence[Question]) -> list[tuple[type, torch.Tensor]]:
    """Return the base model's output type and hidden states [scored positions, hidden] for each question."""
    model, base = skeleton.model, skeleton.model.base_model
    forward = base.forward

    def stop(*args: Any, **kwargs: Any) -> Any:
        raise _BaseOutput(forward(*args, **kwargs))

    def ask(question: Question) -> tuple[type, torch.Tensor]:
        try:
            model(input_ids=torch.tensor([question.input_ids]), use_cache=False)
        except _BaseOutput as reached:
            states: torch.Tensor = reached.output[0]
            if states.shape[:2] != (1, len(question.input_ids)):
                raise NotStreamable(f"its base model returns {tuple(states.shape)}") from None
            return type(reached.output), states[0, question.positions]
        raise NotStreamable("its head does not use its base model's output")

    base.forward = stop
    try:
        progress = _progress(skeleton.loaded, len(skeleton.layers))
        return layerwise.run([lambda q=q: ask(q) for q in group], skeleton.layers, progress)  # type: ignore[misc]
    finally:
        del base.forward


def _progress(loaded: Any, count: int) -> Any:
    """Wrap `loaded` to report the current layer every few seconds."""
    last = time.monotonic()

    def load(number: int) -> Any:
        nonlocal last
        if time.monotonic() - last > PLAIN_INTERVAL_S:
            last = time.monotonic()
            say(f"examine: layer {number + 1} of {count}")
        return loaded(number)

    return load


@torch.inference_mode()
def _head(model: Any, kind: type, states: torch.Tensor) -> Floats:
    """Return the logits [positions, vocabulary] for the base model's hidden states [positions, hidden]."""
    base = model.base_model
    output = (states[None],) if kind is tuple else kind(last_hidden_state=states[None])
    base.forward = lambda *_, **__: output
    try:
        logits = model(input_ids=torch.zeros((1, len(states)), dtype=torch.long), use_cache=False).logits
    finally:
        del base.forward
    found: Floats = logits[0].float().numpy()
    return found


def whole_logits(directory: Path, questions: Sequence[Question], reason: str) -> Iterator[Floats]:
    """Load the whole model in float32 and yield logits one question at a time.

    Raises UserError if it does not fit into memory, and ShardError if transformers can't load it.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    needed = sum(2 * source.nbytes for source in sources(directory)) / GIB
    free = machine.memory_available_bytes() / GIB
    what = f"{directory} can't be examined layer by layer ({reason})"
    if needed > free:
        raise UserError(f"{what}, and loading it whole needs {needed:.1f} GiB of memory, but {free:.1f} GiB are free")
    warn(f"{what}: loading it whole, {needed:.1f} GiB")
    gc.collect()
    try:
        options = attention(AutoConfig.from_pretrained(directory, trust_remote_code=False))
        model = from_pretrained(AutoModelForCausalLM, directory, directory, **options)
    except (ValueError, OSError, RuntimeError) as error:
        raise ShardError(f"{directory}: transformers can't load it: {first_line(error)}") from None
    with torch.inference_mode():
        for question in questions:
            logits = model(input_ids=torch.tensor([question.input_ids]), use_cache=False).logits[0, question.positions]
            yield logits.float().numpy()
