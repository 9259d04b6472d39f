"""Private torch API: the compiler's choice of saved tensors, compiled calls, and multi-tensor operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch._functorch.config

from burnish.private.needs import Need

NEEDS = (
    Need("torch._functorch.config:patch", "the compiler's settings can't be changed only for training steps"),
    Need("torch._functorch.config:activation_memory_budget", "compiled layers can't checkpoint"),
    Need("torch._functorch.config:ban_recompute_materialized_backward", "compiled layers save more than they need"),
    Need("torch.nn:Module._compiled_call_impl", "layers can't be compiled only for training steps"),
    Need("torch:_foreach_copy_", "the fused layers' copies of the adapter can't be refreshed at once"),
    Need("torch:_foreach_mul", "the fused layers' copies of the adapter can't be refreshed at once"),
)


def compiler_settings(recompute: bool) -> AbstractContextManager[None]:
    """Inside the context, compile layers to save only their inputs (`recompute`) or everything that gradients need.

    Gate and up are saved, but not their product, which is cheap to recompute along with its gradient.
    """
    config: Any = torch._functorch.config
    patched: AbstractContextManager[None] = config.patch(
        activation_memory_budget=0.0 if recompute else 1.0, ban_recompute_materialized_backward=False
    )
    return patched


def compiled_call(layer: Any) -> Callable[..., Any]:
    """Return a layer's compiled call for any number of tokens, without changing the layer."""
    layer.compile(dynamic=True)
    call, layer._compiled_call_impl = layer._compiled_call_impl, None
    compiled: Callable[..., Any] = call
    return compiled


@contextmanager
def calling(layers: Sequence[Any], calls: Sequence[Callable[..., Any]]) -> Iterator[None]:
    """Replace each layer's call with the given one inside the context."""
    for layer, call in zip(layers, calls, strict=True):
        layer._compiled_call_impl = call
    try:
        yield
    finally:
        for layer in layers:
            layer._compiled_call_impl = None


def copy_scaled(targets: list[torch.Tensor], sources: list[torch.Tensor], factors: list[float]) -> None:
    """Write factor·source into each target, with few kernel launches."""
    torch._foreach_copy_(targets, torch._foreach_mul(sources, factors))
