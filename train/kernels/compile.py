"""What makes a training step fast on a GPU: fused LoRA layers, and decoder layers compiled one by one."""

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
    """A model's decoder layers, compiled; switched on for training steps only.

    Evaluation and the exam run the model as its authors wrote it, with shapes that the compiler would never see twice.
    """

    def __init__(self, model: Any, compiled: bool) -> None:
        self.fused = Fused(model)
        self.layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)] if compiled else []
        self._compiled = [compiled_call(layer) for layer in self.layers]
        self._offload: Offload | None = None

    def checkpoint(self) -> None:
        """Keep of each compiled layer its input only, in the host's memory, and compute the rest again in backward.

        The compiler does it: unlike torch.utils.checkpoint it leaves out what no gradient needs, the layer's last
        product above all, a quarter of its arithmetic.
        """
        torch.compiler.reset()  # layers may have been compiled to keep more
        self._offload = Offload(len(self.layers))

    @contextmanager
    def on(self) -> Iterator[None]:
        """Run the compiled layers inside, with the adapter as it is now."""
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
        """Give the model its own layers back."""
        self.fused.close()
