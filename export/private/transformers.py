"""Private transformers API for the exam: the mapping from checkpoint tensors to model tensors.

Architectures rename, stack and split tensors while loading.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from burnish.private.needs import Need

__all__ = ["Conv1D"]

LOADING = "transformers.core_model_loading"
STREAM = "a checkpoint can't be loaded a layer at a time"
NEEDS = (
    Need("transformers.pytorch_utils:Conv1D", "GPT-2's matrices are merged transposed"),
    Need("transformers.conversion_mapping:get_model_conversion_mapping", STREAM, parameters=("model",)),
    Need(f"{LOADING}:WeightConverter", STREAM),
    Need(f"{LOADING}:WeightRenaming", STREAM),
    Need(
        f"{LOADING}:rename_source_key",
        "a stored tensor's name in the model is unknown",
        parameters=("source_key", "weight_renamings", "weight_converters", "base_model_prefix", "meta_state_dict"),
    ),
    Need(f"{LOADING}:convert_and_load_state_dict_in_model", STREAM, parameters=("model", "state_dict", "load_config")),
    Need(
        f"{LOADING}:LoadStateDictInfo",
        "mismatched tensors go unnoticed",
        parameters=("mismatched_keys", "conversion_errors", "error_msgs"),
    ),
    Need("transformers.modeling_utils:LoadStateDictConfig", STREAM, parameters=("dtype", "weight_mapping")),
)


def model_names(model: Any, names: Collection[str]) -> dict[str, str]:
    """Return the (first) model tensor name for each checkpoint tensor."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    known, prefix = model.state_dict(), model.base_model_prefix
    made = {}
    for name in names:
        target, pattern = rename_source_key(name, renamings, converters, prefix, known)
        if target not in known and pattern is None:
            target, _ = rename_source_key(name, [], [], prefix, known)
        made[name] = target
    return made


def load_tensors(model: Any, tensors: Mapping[str, Any]) -> list[str]:
    """Load some checkpoint tensors into a model in its parameters' dtypes, and return the mismatches.

    A tensor may be any object that returns the tensor when indexed. transformers hides errors raised while reading it.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import convert_and_load_state_dict_in_model
    from transformers.modeling_utils import LoadStateDictConfig

    config = LoadStateDictConfig(dtype=torch.float32, weight_mapping=get_model_conversion_mapping(model))
    info, _ = convert_and_load_state_dict_in_model(model, dict(tensors), config)
    return [*(str(name) for name, *_ in info.mismatched_keys), *info.conversion_errors, *info.error_msgs]
