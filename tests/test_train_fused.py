"""Fused LoRA layers give the same outputs and gradients as PEFT's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from tests.support.small_models import SMALL, adapted
from tests.support.thorough import named
from train.kernels.compile import FastLayers
from train.kernels.lora import Fused

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


class Backwards(torch.nn.Module):
    """Llama's MLP, but with up computed before gate, as in some models."""

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = mlp.gate_proj, mlp.up_proj, mlp.down_proj
        self.act_fn = mlp.act_fn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        up = self.up_proj(x)
        made: torch.Tensor = self.down_proj(up * self.act_fn(self.gate_proj(x)))
        return made


def backwards() -> Any:
    model = llama()
    for layer in model.model.layers:
        layer.mlp = Backwards(layer.mlp)
    return model


def trained(model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the loss and the adapter's gradients."""
    model.train()
    model.zero_grad(set_to_none=True)
    loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


# fused layers, and the operations they are fused into
MODELS: dict[str, tuple[Any, Any, int, int]] = {
    "llama": (llama, "all-linear", 14, 8),
    "some layers": (llama, ["q_proj", "v_proj", "gate_proj", "up_proj"], 8, 6),
    "biases": (qwen, "all-linear", 14, 8),
    "up before gate": (backwards, "all-linear", 14, 8),
}


@pytest.mark.parametrize("name", MODELS)
def test_fused_layers_match_losses_and_gradients_of_peft(name: str) -> None:
    make, targets, layers, operations = MODELS[name]
    model = adapted(make, targets)
    loss, gradients = trained(model)
    fused = Fused(model)
    assert len(fused.layers) == layers
    with torch.profiler.profile() as profile:
        again, fused_gradients = trained(model)
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls["burnish::lora"] == calls["burnish::lora_backward"] == operations
    assert torch.allclose(loss, again, rtol=1e-5)
    for parameter, gradient in gradients.items():
        assert torch.allclose(fused_gradients[parameter], gradient, rtol=1e-3, atol=1e-6), parameter


def test_fused_layers_refresh_their_copy_of_the_adapter() -> None:
    model = adapted(llama)
    fused = Fused(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.5)
    stale, _ = trained(model)
    fused.refresh()
    fresh, _ = trained(model)
    with torch.no_grad():  # PEFT's forward
        wanted = model(input_ids=IDS, labels=IDS).loss
    assert torch.allclose(fresh, wanted, rtol=1e-5)
    assert not torch.allclose(stale, wanted, rtol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        name if name == "some layers" else pytest.param(name, marks=pytest.mark.slow)
        for name in named(MODELS, "some layers", "biases")
    ],
)
def test_compiled_layers_match_gradients_of_peft(name: str) -> None:
    make, targets, _, _ = MODELS[name]
    model = adapted(make, targets)
    _, gradients = trained(model)
    Fused(model)
    torch._dynamo.reset()
    for layer in model.get_base_model().model.layers:
        layer.compile(backend="aot_eager", dynamic=True, fullgraph=True)
    for _ in range(2):
        _, compiled = trained(model)
    for parameter, gradient in gradients.items():
        assert torch.allclose(compiled[parameter], gradient, rtol=1e-3, atol=1e-6), parameter


def test_aborted_forward_pass_leaves_no_outputs() -> None:
    """If memory runs out inside a layer, outputs for its neighbours must not keep the whole pass in memory."""

    def scarce(*_: Any) -> None:
        raise torch.OutOfMemoryError

    model = adapted(llama)
    fast_layers = FastLayers(model, False)
    model.get_base_model().model.layers[1].mlp.act_fn.register_forward_pre_hook(scarce)
    with fast_layers.on():
        with pytest.raises(torch.OutOfMemoryError):
            trained(model)
        assert any(group.outputs is not None for group in fast_layers.fused._groups)
    assert all(group.outputs is None for group in fast_layers.fused._groups)
