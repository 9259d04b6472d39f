"""What makes a training step fast on a GPU: fused LoRA layers, and decoder layers compiled one by one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch._dynamo
import torch._functorch.config
from transformers.modeling_layers import GradientCheckpointingLayer

from .lora import Fused
from .offload import Offload


class Speed:
    """A model's decoder layers, compiled; switched on for training steps only.

    Evaluation and the exam run the model as its authors wrote it, with shapes that the compiler would never see twice.
    """

    def __init__(self, model: Any, compiled: bool) -> None:
        self.fused = Fused(model)
        # keep gate and up, not their product: it is made again where its gradient is, for next to nothing
        torch._functorch.config.ban_recompute_materialized_backward = False
        self.layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)] if compiled else []
        self._compiled = [_compile(layer) for layer in self.layers]
        self._offload: Offload | None = None
        torch._functorch.config.activation_memory_budget = 1.0

    def checkpoint(self) -> None:
        """Keep of each compiled layer its input only, in the host's memory, and compute the rest again in backward.

        The compiler does it: unlike torch.utils.checkpoint it leaves out what no gradient needs, the layer's last
        product above all, a quarter of its arithmetic.
        """
        torch._functorch.config.activation_memory_budget = 0.0
        torch._dynamo.reset()  # layers may have been compiled to keep more
        self._offload = Offload(len(self.layers))

    @contextmanager
    def on(self) -> Iterator[None]:
        """Run the compiled layers inside, with the adapter as it is now."""
        self.fused.refresh()
        for layer, call in zip(self.layers, self._compiled, strict=True):
            layer._compiled_call_impl = self._offload.around(call) if self._offload else call
        try:
            yield
        finally:
            for layer in self.layers:
                layer._compiled_call_impl = None
            self.fused.clear()
            if self._offload:
                self._offload.clear()


def _compile(layer: Any) -> Any:
    """Return the layer's compiled call, one for any number of tokens, and leave the layer as it was."""
    layer.compile(dynamic=True)
    call, layer._compiled_call_impl = layer._compiled_call_impl, None
    return call
