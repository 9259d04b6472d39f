"""LoRA layers as one GPU operation: frozen weights in 4 or 16 bits, and the adapter's thin products.

PEFT's layer launches about thirty small operations, including casts, and for a small micro-batch the launches take
longer than the arithmetic. Layers with the same input (q, k, v; gate, up) form one operation: the adapter products
read the input once, and its gradient is written once. The operations are opaque to torch.compile, which fuses the code
between them. torch.library's low-level API has a lower call overhead than custom_op. The thin product is computed
first and the large one accumulates into its output; the reverse order would read and write the output once more.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor

from ..private.bitsandbytes import block_scales, is_nf4, is_quantized
from ..private.torch import copy_scaled

NF4_BLOCK = 64  # weights per scale
NAME = "default"  # PEFT's name for a single adapter
SHARED_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # layer names in transformers
_LIBRARY: Any = torch.library.Library("burnish", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define(
    "lora(Tensor x, Tensor low, Tensor[] weights, Tensor[] scales, int[] outs, Tensor[] a, Tensor[] b, Tensor a_low,"
    " Tensor[] b_low, float[] factors) -> Tensor[]"
)
_LIBRARY.define(
    "lora_backward(Tensor[] dy, Tensor x, Tensor low, Tensor[] weights, Tensor[] scales, Tensor[] b, Tensor a_low,"
    " Tensor[] b_low, float[] factors) -> (Tensor, Tensor, Tensor[])"
)


def _lora(
    x: Tensor, low: Tensor, weights: list[Tensor], scales: list[Tensor], outs: list[int], a: list[Tensor],
    b: list[Tensor], a_low: Tensor, b_low: list[Tensor], factors: list[float],
) -> list[Tensor]:  # fmt: skip
    """Compute from x [T, in] and low = x·[A₁; A₂; …]ᵀ [T, Σr] for each layer i: x·Wᵢᵀ + lowᵢ·(factorᵢ·Bᵢ)ᵀ [T, outᵢ].

    `a` [r, in] and `b` [out, r] are the trained float32 tensors, which receive the gradients; `a_low` [Σr, in] and
    `b_low` contain A and factor·B in x's dtype. `low` is a separate input because backward needs `low` but not y.
    """
    parts = _split(low, b_low)
    return [(part @ b_low[i].t()).addmm_(x, _dense(weights, scales, i, outs[i], x).t()) for i, part in enumerate(parts)]


def _lora_backward(
    dy: list[Tensor], x: Tensor, low: Tensor, weights: list[Tensor], scales: list[Tensor], b: list[Tensor],
    a_low: Tensor, b_low: list[Tensor], factors: list[float],
) -> tuple[Tensor, Tensor, list[Tensor]]:  # fmt: skip
    """Return the gradients with respect to x (in its dtype), [A₁; A₂; …] and each B (float32)."""
    dlow = torch.empty_like(low)
    for each, part, lower in zip(dy, _split(dlow, b_low), b_low, strict=True):
        torch.mm(each, lower, out=part)
    dx = dlow @ a_low
    for i, each in enumerate(dy):
        dx.addmm_(each, _dense(weights, scales, i, each.shape[1], x))
    db = [_product32(each, part, factor) for each, part, factor in zip(dy, _split(low, b_low), factors, strict=True)]
    return dx, _product32(dlow, x, 1.0), db


def _split(low: Tensor, b_low: list[Tensor]) -> tuple[Tensor, ...]:
    """Return each layer's columns of `low` [T, Σr]."""
    return torch.split(low, [each.shape[1] for each in b_low], dim=1)


def _product32(left: Tensor, right: Tensor, factor: float) -> Tensor:
    """Return factor·leftᵀ·right, summed and returned in float32."""
    if left.dtype == torch.float32:
        return (left.t() @ right).mul_(factor)
    nothing = left.new_empty((), dtype=torch.float32).expand(left.shape[1], right.shape[1])
    return torch.addmm(nothing, left.t(), right, out_dtype=torch.float32, beta=0, alpha=factor)


def _dense(weights: list[Tensor], scales: list[Tensor], i: int, out: int, x: Tensor) -> Tensor:
    """Return layer i's weight [out, in] in x's dtype."""
    if not scales:
        return weights[i]
    weight: Tensor = torch.ops.bitsandbytes.dequantize_4bit.default(
        weights[i], scales[i], NF4_BLOCK, "nf4", [out, x.shape[1]], x.dtype
    )
    return weight


def _lora_shapes(x: Any, low: Any, weights: Any, scales: Any, outs: Any, *_: Any) -> Any:
    return [x.new_empty(x.shape[0], out) for out in outs]


def _backward_shapes(dy: Any, x: Any, low: Any, weights: Any, scales: Any, b: Any, a_low: Any, *_: Any) -> Any:
    return torch.empty_like(x), torch.empty_like(a_low, dtype=b[0].dtype), [torch.empty_like(each) for each in b]


def _save_for_backward(ctx: Any, inputs: Any, output: Any) -> None:
    x, low, weights, scales, _, _, b, a_low, b_low, factors = inputs
    ctx.save_for_backward(x, low, a_low, *weights, *b, *b_low, *scales)
    ctx.factors = factors


def _gradients(ctx: Any, dy: list[Tensor]) -> Any:
    x, low, a_low, *rest = ctx.saved_tensors
    n = len(ctx.factors)
    weights, b, b_low, scales = rest[:n], rest[n : 2 * n], rest[2 * n : 3 * n], rest[3 * n :]
    dx, da, db = torch.ops.burnish.lora_backward.default(
        [each.contiguous() for each in dy], x, low, weights, scales, b, a_low, b_low, ctx.factors
    )
    by_a = list(torch.split(da, [each.shape[1] for each in b_low]))
    return dx, None, [None] * n, [None] * len(scales), None, by_a, db, None, [None] * n, None


for _device in ("CUDA", "CPU"):
    _LIBRARY.impl("lora", _lora, _device)
    _LIBRARY.impl("lora_backward", _lora_backward, _device)
torch.library.register_fake("burnish::lora", _lora_shapes, lib=_LIBRARY)
torch.library.register_fake("burnish::lora_backward", _backward_shapes, lib=_LIBRARY)
torch.library.register_autograd("burnish::lora", _gradients, setup_context=_save_for_backward, lib=_LIBRARY)


class _Group(torch.nn.Module):
    """Layers with the same input, as one operation. The first layer called computes the outputs of all."""

    a_low: Tensor

    def __init__(self, layers: list[Any]) -> None:
        super().__init__()
        bases = [layer.base_layer for layer in layers]
        dtype = getattr(bases[0], "compute_dtype", None) or bases[0].weight.dtype
        self.outs = [base.out_features for base in bases]
        self.factors = [float(layer.scaling[NAME]) for layer in layers]
        self.outputs: tuple[Tensor, tuple[Tensor | None, ...]] | None = None
        a = [layer.lora_A[NAME].weight for layer in layers]
        self.register_buffer("a_low", torch.cat([each.detach().to(dtype) for each in a]), persistent=False)
        self.ranks = [len(each) for each in a]
        for i, (layer, base) in enumerate(zip(layers, bases, strict=True)):
            # a plain tensor sharing the memory, because the compiler does not support bitsandbytes' class
            self.register_buffer(f"weight_{i}", base.weight.detach().as_subclass(Tensor), persistent=False)
            self.register_buffer(f"b_{i}", layer.lora_B[NAME].weight.detach().to(dtype, copy=True), persistent=False)
            if (scales := block_scales(base.weight)) is not None:
                self.register_buffer(f"scales_{i}", scales, persistent=False)

    def forward(self, x: Tensor, place: int, layers: list[Any]) -> Tensor:
        """Return the output [..., out] of the layer at `place` in the group's `layers` for x [..., in]."""
        if self.outputs is None or self.outputs[0] is not x or self.outputs[1][place] is None:
            self.outputs = (x, self._outputs(x.reshape(-1, x.shape[-1]), layers))
        outputs = self.outputs[1]
        y = outputs[place]
        assert y is not None
        left = tuple(None if i == place else output for i, output in enumerate(outputs))
        self.outputs = None if all(output is None for output in left) else (x, left)
        return y.view(*x.shape[:-1], self.outs[place])

    def _outputs(self, x: Tensor, layers: list[Any]) -> tuple[Tensor, ...]:
        # detached: the operation computes the full gradient, including the part through `low`
        low = x.detach() @ self.a_low.t()
        outputs: list[Tensor] = torch.ops.burnish.lora.default(
            x, low, self._each("weight"), self._each("scales") if hasattr(self, "scales_0") else [], self.outs,
            [layer.lora_A[NAME].weight for layer in layers], [layer.lora_B[NAME].weight for layer in layers],
            self.a_low, self._each("b"), self.factors,
        )  # fmt: skip
        return tuple(outputs)

    def _each(self, name: str) -> list[Tensor]:
        return [getattr(self, f"{name}_{i}") for i in range(len(self.outs))]

    def adapter(self) -> list[Tensor]:
        """Return views of the adapter buffers: each layer's A, then each layer's B."""
        return [*torch.split(self.a_low, self.ranks), *self._each("b")]


class Fused:
    """A model's LoRA layers that use the fused operation when gradients are computed.

    Layers that can't be fused (dropout, several adapters, other quantization) keep PEFT's code.
    """

    def __init__(self, model: Any) -> None:
        self.layers: list[Any] = []
        self._groups: list[_Group] = []
        self._low: list[Tensor] = []
        self._trained: list[Tensor] = []
        self._factors: list[float] = []
        for layers in _groups(model):
            group = _Group(layers)
            self._groups.append(group)
            self.layers += layers
            self._low += group.adapter()
            self._trained += [layer.lora_A[NAME].weight for layer in layers]
            self._trained += [layer.lora_B[NAME].weight for layer in layers]
            self._factors += [1.0] * len(layers) + group.factors
            for place, layer in enumerate(layers):
                layer._fused, layer._fused_place, layer._fused_layers = group, place, tuple(layers)
                layer.forward = MethodType(_forward, layer)
        self.refresh()

    def close(self) -> None:
        """Restore the forward method that PEFT had installed."""
        for layer in self.layers:
            del layer.forward, layer._fused, layer._fused_place, layer._fused_layers
        self._groups.clear()

    def clear(self) -> None:
        """Drop unused outputs after an aborted pass or a skipped layer."""
        for group in self._groups:
            group.outputs = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy all layers' trained adapter weights into the buffers, once per step."""
        if not self.layers:
            return
        copy_scaled(self._low, self._trained, self._factors)


def _groups(model: Any) -> list[list[Any]]:
    """Return the layers that can be fused, grouped by shared input."""
    single = {id(m): m for m in model.modules() if hasattr(m, "lora_A") and hasattr(m, "base_layer") and _fusable(m)}
    found = []
    for parent in model.modules():
        for names in SHARED_INPUT:
            layers = [getattr(parent, name, None) for name in names]
            if all(id(layer) in single for layer in layers) and len({_kind(layer) for layer in layers}) == 1:
                found.append([single.pop(id(layer)) for layer in layers])
    return found + [[layer] for layer in single.values()]


def _kind(layer: Any) -> tuple[int, bool]:
    return layer.base_layer.in_features, is_quantized(layer.base_layer.weight)


def _fusable(layer: Any) -> bool:
    if list(layer.lora_A) != [NAME] or layer.use_dora.get(NAME) or layer.lora_bias.get(NAME):
        return False
    weight = layer.base_layer.weight
    held = isinstance(layer.base_layer, torch.nn.Linear)
    fits = is_nf4(weight, NF4_BLOCK) if is_quantized(weight) else weight.is_floating_point()
    return bool(held and fits and isinstance(layer.lora_dropout[NAME], torch.nn.Identity))


def _forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if self.disable_adapters or self.merged or not torch.is_grad_enabled() or kwargs:
        out: Tensor = type(self).forward(self, x, *args, **kwargs)
        return out
    y: Tensor = self._fused(x, self._fused_place, self._fused_layers)
    bias = self.base_layer.bias
    return y if bias is None else y + bias.to(y.dtype)
