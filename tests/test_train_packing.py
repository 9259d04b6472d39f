"""Packed rows: each is trained once, unaffected by others, with the loss and gradients of single rows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from burnish.bases.base import Base
from tests.support.small_models import adapted, gemma, gemma_eager, gradients, llama, mamba, mistral, rows, tied_llama
from train.kernels import attention, loss
from train.kernels.packing import micro_batches, padded_batches
from train.loop.arguments import make_trainer
from train.loop.trainer import Batching, PackedTrainer, Rows
from train.models.transformers import load_base
from train.private.transformers import attention_configs
from train.resolved import Resolved
from train.settings import TrainSettings
from train.world import World

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=40)


@given(lengths=LENGTHS, budget=st.integers(1, 100))
def test_every_row_is_trained_once_within_the_micro_batch_budget(lengths: list[int], budget: int) -> None:
    for cut in (micro_batches, padded_batches):
        parts = cut(lengths, budget)
        assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
        for part in parts:
            held = [lengths[row] for row in part]
            size = sum(held) if cut is micro_batches else len(held) * max(held)
            assert size <= budget or len(part) == 1


@given(lengths=LENGTHS, budget=st.integers(60, 200))
def test_packing_leaves_no_two_mergeable_micro_batches(lengths: list[int], budget: int) -> None:
    sizes = sorted(sum(lengths[row] for row in part) for part in micro_batches(lengths, budget))
    assert len(sizes) < 2 or sizes[0] + sizes[1] > budget


SETTINGS = {"base": {"id": "x"}, "data": {"path": "x"}, "train": {"optim": "adamw_torch"}}


@pytest.fixture
def trainer_of(base_tokenizer: Any, tmp_path: Path) -> Any:
    """Create the trainer of a model with the rows of `rows()`."""
    resolved = Resolved(TrainSettings.model_validate(SETTINGS))

    def make(model: Any, batching: Batching) -> PackedTrainer:
        return make_trainer(resolved, batching, None, model, base_tokenizer, (rows(), rows(2)), tmp_path, World())

    return make


def one_row_at_a_time(model: Any) -> tuple[float, torch.Tensor]:
    """A reference step: transformers' forward pass, one row at a time, mean over all response tokens."""
    model.train()
    model.zero_grad(set_to_none=True)
    count, total = sum(end - start for row in rows() for start, end in row.spans), 0.0
    for row in rows():
        logits = model(input_ids=torch.tensor([row.input_ids])).logits[0, :-1]
        nll = torch.nn.functional.cross_entropy(logits, torch.tensor(row.labels()[1:]), reduction="sum") / count
        torch.autograd.backward(nll)
        total += nll.item()
    return total, gradients(model).clone()


MODELS: dict[str, tuple[Any, Any]] = {
    "llama": (llama, "all-linear"),
    "tied": (tied_llama, ["q_proj", "down_proj"]),
    "adapted head": (llama, ["q_proj", "v_proj", "lm_head"]),
    "sliding window": (mistral, "all-linear"),
    "soft caps": (gemma, "all-linear"),
    "soft caps, eager": (gemma_eager, "all-linear"),
    "state space": (mamba, ["in_proj", "x_proj"]),
}


@pytest.mark.parametrize("budget", [1000, 64, 1])
@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("name", MODELS)
def test_packed_step_matches_loss_and_gradients_of_single_rows(
    name: str, packing: bool, budget: int, trainer_of: Any
) -> None:
    model = adapted(*MODELS[name])
    loss_alone, gradients_alone = one_row_at_a_time(model)
    packed = packing and not attention.padding_reason(model)
    trainer = trainer_of(model, Batching(budget, packed))
    model.zero_grad(set_to_none=True)
    found = trainer.training_step(model, {"rows": Rows(list(trainer.train_dataset))})
    assert found.item() == pytest.approx(loss_alone, rel=1e-5)
    assert gradients_alone.norm() > 1e-3
    assert (gradients(model) - gradients_alone).norm() < 1e-4 * gradients_alone.norm()


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_gradient_checkpointing_does_not_change_gradients(packed: bool, trainer_of: Any) -> None:
    model = adapted(llama)
    loss_alone, gradients_alone = one_row_at_a_time(model)
    trainer = trainer_of(model, Batching(64, packed, checkpointing=True))
    assert model.is_gradient_checkpointing
    model.zero_grad(set_to_none=True)
    found = trainer.training_step(model, {"rows": Rows(list(trainer.train_dataset))})
    assert found.item() == pytest.approx(loss_alone, rel=1e-5)
    assert (gradients(model) - gradients_alone).norm() < 1e-4 * gradients_alone.norm()


@pytest.mark.parametrize(
    ("name", "why"), [("llama", ""), ("sliding window", ""), ("state space", "influence one another")]
)
def test_packing_is_used_only_if_rows_do_not_influence_each_other(name: str, why: str) -> None:
    output = attention.padding_reason(adapted(*MODELS[name]))
    assert why in output and bool(output) == bool(why)


def test_attention_with_softcapping_is_not_packed_without_kernel_support() -> None:
    """A real model's softcaps affect only scores that two short rows never reach, so a trial would show nothing."""
    model = adapted(gemma_eager)
    for layer in model.get_base_model().model.layers:
        layer.self_attn.attn_logit_softcapping = 50.0
    assert "softcapping of attention scores" in attention.padding_reason(model)


def test_base_with_softcapping_is_loaded_with_softcapping_applied(tmp_path: Path) -> None:
    """transformers' sdpa ignores softcapping, llama.cpp applies it: serving would differ from training."""
    gemma().save_pretrained(tmp_path)
    loaded = load_base(Base("x", None, tmp_path, ""), TrainSettings.model_validate(SETTINGS).base, World().device)
    assert loaded.config._attn_implementation == "eager"


def test_attention_is_restored_after_packing() -> None:
    model = adapted(llama)
    before = model.config._attn_implementation
    with attention.packed(attention_configs(model)):
        assert model.config._attn_implementation == attention.NAME
    assert model.config._attn_implementation == before


def test_head_is_fused_only_if_frozen_and_plain() -> None:
    def plain(model: Any) -> bool:
        inner = model.get_base_model()
        return loss.is_plain(inner.get_output_embeddings(), inner.config.get_text_config())

    assert plain(adapted(llama))
    assert not plain(adapted(*MODELS["adapted head"]))
    assert not plain(adapted(gemma))


class SquaredRows:
    """An objective without a forward pass: the loss of row n is n² times the sum of the adapter, over n terms."""

    def __init__(self, model: Any) -> None:
        self.adapter = [p for p in model.parameters() if p.requires_grad]
        self.calls: list[int] = []

    def length(self, row: dict[str, Any]) -> int:
        return len(row["input_ids"])

    def label_tokens(self, row: dict[str, Any]) -> int:
        return int(row["line"])

    def loss(self, rows: Sequence[dict[str, Any]]) -> torch.Tensor:
        self.calls.append(len(rows))
        return torch.stack([p.sum() for p in self.adapter]).sum() * sum(row["line"] ** 2 for row in rows)

    def patched(self) -> nullcontext[None]:
        return nullcontext()


def test_trainer_minimises_the_given_objective(trainer_of: Any) -> None:
    model = adapted(llama)
    trainer = trainer_of(model, Batching(64))
    trainer.objective = objective = SquaredRows(model)
    lines = [row["line"] for row in trainer.train_dataset]
    wanted = sum(line**2 for line in lines) / sum(lines)
    total = float(sum(p.sum() for p in objective.adapter))
    found = trainer.training_step(model, {"rows": Rows(list(trainer.train_dataset))})
    assert found.item() == pytest.approx(total * wanted, rel=1e-5)
    assert torch.allclose(gradients(model), torch.full_like(gradients(model), wanted), rtol=1e-5)
    assert sum(objective.calls) == len(lines) and len(objective.calls) > 1
