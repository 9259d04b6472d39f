"""The backends that load a base and add an adapter: transformers with PEFT, or unsloth."""

from __future__ import annotations

import importlib.util
from typing import Any, Protocol

import torch
from peft import PeftModel

from burnish.bases.base import Base

from ..resolved import Resolved
from .adapters import add_adapter, resume_adapter
from .transformers import load_base


class Backend(Protocol):
    """Loads a base and adds an adapter; both backends return a PeftModel, so the rest of the code is shared.

    `packs`: whether the attention supports packed rows (train/kernels/attention.py); if not, micro-batches are padded.
    """

    packs: bool

    def load(self, found: Base, resolved: Resolved, device: torch.device) -> Any: ...

    def adapt(self, model: Any, resolved: Resolved) -> PeftModel: ...


class TransformersBackend:
    """transformers, PEFT and bitsandbytes; fused and compiled layers are added later (train/kernels/compile.py)."""

    packs = True

    def load(self, found: Base, resolved: Resolved, device: torch.device) -> Any:
        """Return the frozen base."""
        return load_base(found, resolved.base, device)

    def adapt(self, model: Any, resolved: Resolved) -> PeftModel:
        """Return the base with a new adapter or the adapter to continue from."""
        if resolved.lora.resume_adapter:
            return resume_adapter(model, resolved.settings)
        return add_adapter(model, resolved.lora)


def backend(name: str) -> Backend:
    """Return the backend by name; unsloth is imported only if chosen."""
    if name == "unsloth":
        from .unsloth import UnslothBackend

        return UnslothBackend()
    return TransformersBackend()


def has_unsloth() -> bool:
    """Return whether unsloth is installed, without importing it, which would patch transformers."""
    return importlib.util.find_spec("unsloth") is not None
