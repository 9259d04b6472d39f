"""Private torch API for the exam: a module's parameter and buffer dicts.

The public setters accept only a Parameter, which a matrix on disk is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch

from burnish.private.needs import Need

NEEDS = (
    Need("torch.nn:Module._parameters", "a layer's weights can't be loaded and dropped", "torch.nn:Module"),
    Need("torch.nn:Module._buffers", "a layer's buffers can't be loaded and dropped", "torch.nn:Module"),
)


@dataclass(frozen=True)
class Place:
    """A parameter's or buffer's place in its module; `empty` is the placeholder used while it is not loaded."""

    tensors: dict[str, torch.Tensor | None]
    key: str
    empty: torch.Tensor

    @property
    def now(self) -> torch.Tensor:
        found = self.tensors[self.key]
        return self.empty if found is None else found

    def put(self, tensor: torch.Tensor) -> None:
        self.tensors[self.key] = tensor


def empty_places(layer: torch.nn.Module) -> Iterator[Place]:
    """Yield the places of a layer's parameters and buffers on the meta device."""
    for module in layer.modules():
        for tensors in (module._parameters, module._buffers):
            for key, tensor in tensors.items():
                if tensor is not None and tensor.is_meta:
                    yield Place(cast(dict[str, torch.Tensor | None], tensors), key, tensor)


def replace_parameters(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Replace parameters with tensors by name; a parameter shared by several modules is replaced in each."""
    replaced = {id(model.get_parameter(name)): tensor for name, tensor in tensors.items()}
    for module in model.modules():
        places = cast(dict[str, torch.Tensor | None], module._parameters)
        for key, parameter in places.items():
            if parameter is not None and id(parameter) in replaced:
                places[key] = replaced[id(parameter)]
