"""Private transformers API: a model's attention, layer classes, and the trainer's work between steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AttentionInterface, AttentionMaskInterface, TrainingArguments
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from burnish.private.needs import Need

__all__ = ["Conv1D", "GradientCheckpointingLayer"]

NEEDS = (
    Need("transformers:PreTrainedConfig._attn_implementation", "a model's attention can't be read or switched"),
    Need("transformers:AttentionInterface._global_mapping", "the attention of packed rows can't be removed again"),
    Need("transformers:AttentionMaskInterface._global_mapping", "the mask of packed rows can't be removed again"),
    Need("transformers.modeling_layers:GradientCheckpointingLayer", "decoder layers to compile are not found"),
    Need("transformers.pytorch_utils:Conv1D", "GPT-2's matrices are missing in the plan"),
    Need(
        "transformers:TrainingArguments._n_gpu",
        "several GPUs of one process would be split by DataParallel",
        assigned_in="transformers:TrainingArguments._setup_devices.func",
    ),
    Need("transformers:Trainer._clip_grad_norm", "gradients' norms are computed twice", parameters=("model",)),
    Need(
        "transformers:Trainer._load_from_checkpoint",
        "a run interrupted after its last step can't be finished",
        parameters=("resume_from_checkpoint",),
    ),
)


def attention_name(config: Any) -> str | None:
    """Return the attention implementation in a model config, or None if not chosen yet."""
    name: str | None = config._attn_implementation
    return name


def attention_configs(model: Any) -> list[Any]:
    """Return the distinct configurations that set a model's attention; modules share configurations."""
    found = {id(c): c for m in model.modules() if hasattr(c := getattr(m, "config", None), "_attn_implementation")}
    return list(found.values())


@contextmanager
def attention_switched(configs: list[Any], name: str, attend: Callable[..., Any]) -> Iterator[None]:
    """Inside the context, use `attend`, without a mask, as the attention in models with these configs."""
    before = [config._attn_implementation for config in configs]
    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, _no_mask)
    try:
        for config in configs:
            config._attn_implementation = name
        yield
    finally:
        for config, former in zip(configs, before, strict=True):
            config._attn_implementation = former
        for interface in (AttentionInterface, AttentionMaskInterface):
            interface._global_mapping.pop(name, None)


def _no_mask(*_: Any, **__: Any) -> None:
    return None


def use_one_gpu(arguments: TrainingArguments) -> None:
    """Prevent a trainer from using DataParallel on multiple GPUs, since DataParallel does not support packed rows."""
    _ = arguments.device  # initialises the devices
    arguments._n_gpu = min(1, arguments.n_gpu)


def load_checkpoint(trainer: Any, checkpoint: Path) -> None:
    """Load a checkpoint's weights into the trainer's model."""
    trainer._load_from_checkpoint(str(checkpoint))


class ClipsGradients:
    """First base class for a trainer: transformers calls `clip_gradients`, which clips and returns the norm."""

    def _clip_grad_norm(self, model: Any) -> Any:
        return self.clip_gradients(model)

    def clip_gradients(self, model: Any) -> Any:
        """Clip as transformers does. Subclasses override this."""
        return super()._clip_grad_norm(model)  # type: ignore[misc]
