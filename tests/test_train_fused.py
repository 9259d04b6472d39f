"""Fused LoRA layers compute what PEFT's do: outputs, and gradients by everything that is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from tests.test_train_pack import SMALL, adapted
from train.fused import Fused

IDS = torch.randint(3, 96, (2, 17), generator=torch.Generator().manual_seed(3))


def llama() -> Any:
    return LlamaForCausalLM(LlamaConfig(**SMALL))


def qwen() -> Any:
    """Its q, k and v have biases."""
    model = Qwen2ForCausalLM(Qwen2Config(**SMALL))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model


def trained(model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the loss and the adapter's gradients."""
    model.train()
    model.zero_grad(set_to_none=True)
    loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


MODELS: dict[str, tuple[Any, Any, int]] = {
    "llama": (llama, "all-linear", 14),
    "some layers": (llama, ["q_proj", "v_proj", "gate_proj", "up_proj"], 8),
    "biases": (qwen, "all-linear", 14),
}


@pytest.mark.parametrize("name", MODELS)
def test_fused_layers_have_the_losses_and_gradients_of_pefts(name: str) -> None:
    make, targets, count = MODELS[name]
    model = adapted(make, targets)
    loss, gradients = trained(model)
    fused = Fused(model)
    assert len(fused.layers) == count
    again, fused_gradients = trained(model)
    assert torch.allclose(loss, again, rtol=1e-5)
    for parameter, gradient in gradients.items():
        assert torch.allclose(fused_gradients[parameter], gradient, rtol=1e-3, atol=1e-6), parameter


def test_fused_layers_follow_the_adapter_when_told() -> None:
    model = adapted(llama)
    fused = Fused(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.5)
    stale, _ = trained(model)
    fused.refresh()
    fresh, _ = trained(model)
    with torch.no_grad():  # PEFT's own forward
        wanted = model(input_ids=IDS, labels=IDS).loss
    assert torch.allclose(fresh, wanted, rtol=1e-5)
    assert not torch.allclose(stale, wanted, rtol=1e-5)
