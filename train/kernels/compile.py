"""Fast layers for training on a GPU: fused LoRA layers, and separately compiled decoder layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..private.torch import calling, compiled_call, compiler_settings
from ..private.transformers import GradientCheckpointingLayer
from .lora import Fused
from .offload import Offload


class FastLayers:
    """A model's compiled decoder layers, used only in training steps.

    Evaluation and the exam run the original model, since their shapes rarely repeat and compilation would not pay off.
    """

    def __init__(self, model: Any, compiled: bool) -> None:
        self.fused = Fused(model)
        self.layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)] if compiled else []
        self._compiled = [compiled_call(layer) for layer in self.layers]
        self._offload: Offload | None = None

    def checkpoint(self) -> None:
        """Store only each compiled layer's input, in host memory, and recompute the rest in the backward pass.

        The compiler does the recomputation. Unlike torch.utils.checkpoint, it skips operations that no gradient needs,
        mainly the layer's last product, a quarter of its arithmetic.
        """
        torch.compiler.reset()  # layers may have been compiled to save more tensors
        self._offload = Offload(len(self.layers))

    @contextmanager
    def on(self) -> Iterator[None]:
        """Use the compiled layers inside the context, with the current adapter."""
        self.fused.refresh()
        calls = [self._offload.wrap(call) if self._offload else call for call in self._compiled]
        try:
            with compiler_settings(recompute=self._offload is not None), calling(self.layers, calls):
                yield
        finally:
            self.fused.clear()
            if self._offload:
                self._offload.clear()

    def close(self) -> None:
        """Restore the model's own layers."""
        self.fused.close()
