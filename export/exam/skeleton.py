"""A checkpoint's model without weights; each layer's weights are loaded only while needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from burnish.console import counted

from ..merge.shards import TYPES, ShardError, Source, sources
from ..private.torch import Place, empty_places, replace_parameters
from ..private.transformers import load_tensors, model_names
from .ondisk import OnDisk, read_float32


class NotStreamable(Exception):
    """An architecture's layers can't be loaded one at a time; the message says why."""


class _LazyTensor:
    """A stored tensor for transformers' loader, read when indexed. `fault` keeps a read error the loader hides."""

    def __init__(self, read: Callable[[], torch.Tensor]):
        self.fault: ShardError | None = None
        self._read = read

    def __getitem__(self, _: Any) -> torch.Tensor:
        try:
            return self._read()
        except ShardError as fault:
            self.fault = fault
            raise


class _EmptyTensor(torch.Tensor):
    """A tensor without values that stays empty when moved to a different device."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.to:
            return args[0].as_subclass(torch.Tensor)
        return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]


def _empty_tensor(source: Source) -> torch.Tensor:
    return torch.empty(source.shape, dtype=torch.float32, device="meta").as_subclass(_EmptyTensor)


@dataclass(frozen=True)
class Skeleton:
    """A float32 model whose `layers` have no weights; `stored` maps checkpoint names to tensors for each layer.

    Matrices outside the layers (embeddings, the head) stay on disk; all other tensors are in memory.
    """

    model: Any
    layers: list[torch.nn.Module]
    names: list[str]
    stored: list[dict[str, Source]]

    @contextmanager
    def loaded(self, number: int) -> Iterator[None]:
        """Keep one layer's weights loaded in float32. Raises NotStreamable if a weight is not stored."""
        places = list(empty_places(self.layers[number]))
        stored = self.stored[number]
        dtypes = {TYPES[source.dtype] for source in stored.values() if TYPES[source.dtype].is_floating_point}
        try:
            if len(stored) > len(places) and len(dtypes) == 1:
                # stacked matrices: load in the stored 16 bits, since stacking in float32 needs twice a layer's memory
                _load_as(self.model, places, stored, *dtypes)
            else:
                _load(self.model, {name: _LazyTensor(partial(read_float32, source)) for name, source in stored.items()})
            if left := sorted({place.key for place in places if place.now.is_meta}):
                raise NotStreamable(f"{self.names[number]} has no stored {', '.join(left)}")
            yield
        finally:
            for place in places:
                place.put(place.empty)


def read_skeleton(directory: Path) -> Skeleton:
    """Build a checkpoint's model without layer weights.

    Raises NotStreamable if no layers are found, and ShardError if tensors are missing.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    options = attention(config)
    with torch.device("meta"):
        outline = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False, **options)
    layers = find_layers(outline)
    if not layers or outline.base_model is outline:
        raise NotStreamable("the model has no list of layers")
    stored = {source.name: source for source in sources(directory)}
    targets = model_names(outline, stored)
    owners = {name: _owner(target, layers) for name, target in targets.items()}
    matrices = {name: t for name, t in targets.items() if owners[name] is None and _is_matrix(outline, t)}
    given = {
        name: _LazyTensor(partial(read_float32, source))
        if owners[name] is None and name not in matrices
        else _empty_tensor(source)
        for name, source in stored.items()
    }
    options |= {"config": outline.config, "state_dict": given}
    model = from_pretrained(type(outline), None, directory, **options)
    replace_parameters(model, {target: OnDisk.of(stored[name]) for name, target in matrices.items()})
    own = [{name: stored[name] for name, owner in owners.items() if owner == layer} for layer in layers]
    return Skeleton(model, [model.get_submodule(name) for name in layers], layers, own)


def from_pretrained(kind: Any, source: Path | None, directory: Path, **options: Any) -> Any:
    """Load a model in float32. Raises ShardError for missing tensors, which would be random."""
    model, info = kind.from_pretrained(
        source, dtype=torch.float32, output_loading_info=True, trust_remote_code=False, **options
    )
    if missing := sorted(info["missing_keys"]):
        named = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise ShardError(f"{directory} lacks {counted(len(missing), 'tensor')} of the model: {named}")
    return model.eval()


def attention(config: Any) -> dict[str, Any]:
    """Return from_pretrained's attention option: eager for logit softcapping, as in training, since sdpa ignores it."""
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    return {"attn_implementation": "eager"} if capped else {}


def find_layers(model: Any) -> list[str]:
    """Return the names of modules with weights in the outermost module lists."""
    found: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and _owner(name, found) is None:
            found += [
                f"{name}.{key}" for key, child in module.named_children() if any(True for _ in child.parameters())
            ]
    return found


def _owner(name: str, layers: list[str]) -> str | None:
    """Return the layer that a tensor name belongs to, or None."""
    parts = name.split(".")
    every = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    return next((layer for layer in layers if layer in every), None)


def _is_matrix(model: Any, name: str) -> bool:
    module, _, key = name.rpartition(".")
    try:
        found = model.get_submodule(module)
    except AttributeError:  # the model does not have this tensor
        return False
    return key == "weight" and isinstance(found, torch.nn.Embedding | torch.nn.Linear)


def _load_as(model: Any, places: Sequence[Place], stored: Mapping[str, Source], dtype: torch.dtype) -> None:
    """Load a layer in its stored dtype, then convert it to float32 one tensor at a time."""
    for place in places:
        if place.empty.is_floating_point():
            place.put(torch.nn.Parameter(place.empty.to(dtype), requires_grad=False))
    _load(model, {name: _LazyTensor(source.read) for name, source in stored.items()})
    for place in places:
        if place.now.dtype == dtype and not place.now.is_meta:
            place.put(torch.nn.Parameter(place.now.float(), requires_grad=False))


def _load(model: Any, given: Mapping[str, _LazyTensor]) -> None:
    """Load some checkpoint tensors into a model, as from_pretrained does."""
    faults = load_tensors(model, given)
    for later in given.values():
        if later.fault is not None:
            raise later.fault
    if faults:
        raise NotStreamable(f"its tensors do not fit: {', '.join(sorted(faults)[:3])}")
