"""A LoRA layer as one operation on a GPU: the frozen weight, in 4 or 16 bits, and the adapter's two thin products.

PEFT's layer makes some thirty small operations of it, casts included, and their launches take longer than the
arithmetic where a micro-batch is small. These operations are opaque to torch.compile, which fuses what lies between
them; they are defined through torch.library's low level, whose calls cost less than a custom_op's. The thin product
comes first: the large one then adds to it as it writes, where the other order reads and writes it once more.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch

NAME = "default"  # PEFT's name of an only adapter
_LIBRARY: Any = torch.library.Library("burnish", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define(
    "lora(Tensor x, Tensor low, Tensor weight, Tensor? scales, SymInt[] shape, Tensor a, Tensor b, Tensor a_low,"
    " Tensor b_low, float factor) -> Tensor"
)
_LIBRARY.define(
    "lora_backward(Tensor dy, Tensor x, Tensor low, Tensor weight, Tensor? scales, SymInt[] shape, Tensor b,"
    " Tensor a_low, Tensor b_low, float factor) -> (Tensor, Tensor, Tensor)"
)
Scales = torch.Tensor | None


def _lora(
    x: torch.Tensor, low: torch.Tensor, weight: torch.Tensor, scales: Scales, shape: list[int], a: torch.Tensor,
    b: torch.Tensor, a_low: torch.Tensor, b_low: torch.Tensor, factor: float,
) -> torch.Tensor:  # fmt: skip
    """x [T, in], low = x·Aᵀ [T, r] → x·Wᵀ + low·(factor·B)ᵀ [T, out].

    `a` [r, in] and `b` [out, r] are the trained float32 tensors, which gradients go to; `a_low` and `b_low` hold A and
    factor·B in x's dtype. `low` is an operation of its own, which backward needs again where this product is not.
    """
    return (low @ b_low.t()).addmm_(x, _dense(weight, scales, shape, x.dtype).t())


def _lora_backward(
    dy: torch.Tensor, x: torch.Tensor, low: torch.Tensor, weight: torch.Tensor, scales: Scales, shape: list[int],
    b: torch.Tensor, a_low: torch.Tensor, b_low: torch.Tensor, factor: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return the gradients by x (its dtype), A and B (float32)."""
    dlow = dy @ b_low
    dx = (dlow @ a_low).addmm_(dy, _dense(weight, scales, shape, dy.dtype))
    da = torch.mm(dlow.t(), x, out_dtype=torch.float32)
    db = torch.addmm(b, dy.t(), low, out_dtype=torch.float32, beta=0, alpha=factor)
    return dx, da, db


def _dense(weight: torch.Tensor, scales: Scales, shape: list[int], dtype: torch.dtype) -> torch.Tensor:
    if scales is None:
        return weight
    out: torch.Tensor = torch.ops.bitsandbytes.dequantize_4bit.default(weight, scales, 64, "nf4", shape, dtype)
    return out


def _lora_shapes(x: Any, low: Any, weight: Any, scales: Any, shape: Any, *_: Any) -> Any:
    return x.new_empty(x.shape[0], shape[0])


def _backward_shapes(dy: Any, x: Any, low: Any, weight: Any, scales: Any, shape: Any, b: Any, *_: Any) -> Any:
    return torch.empty_like(x), b.new_empty(b.shape[1], x.shape[1]), torch.empty_like(b)


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    x, low, weight, scales, shape, _, b, a_low, b_low, factor = inputs
    ctx.save_for_backward(x, low, weight, scales, b, a_low, b_low)
    ctx.shape, ctx.factor = shape, factor


def _gradients(ctx: Any, dy: torch.Tensor) -> Any:
    x, low, weight, scales, b, a_low, b_low = ctx.saved_tensors
    dx, da, db = torch.ops.burnish.lora_backward.default(
        dy.contiguous(), x, low, weight, scales, ctx.shape, b, a_low, b_low, ctx.factor
    )
    return dx, None, None, None, None, da, db, None, None, None


_LIBRARY.impl("lora", _lora, "CUDA")
_LIBRARY.impl("lora_backward", _lora_backward, "CUDA")
torch.library.register_fake("burnish::lora", _lora_shapes, lib=_LIBRARY)
torch.library.register_fake("burnish::lora_backward", _backward_shapes, lib=_LIBRARY)
torch.library.register_autograd("burnish::lora", _gradients, setup_context=_keep, lib=_LIBRARY)


class Fused:
    """The LoRA layers of a model that use the fused operation while gradients are made.

    One that can't (dropout, a bias, several adapters, other quantization) stays PEFT's.
    """

    def __init__(self, model: Any) -> None:
        self.layers = [m for m in model.modules() if hasattr(m, "lora_A") and hasattr(m, "base_layer") and _can(m)]
        for layer in self.layers:
            base = layer.base_layer
            dtype = getattr(base, "compute_dtype", None) or base.weight.dtype
            buffers = {
                # a plain tensor on the same memory: bitsandbytes' own class gets in the compiler's way
                "weight": base.weight.detach().as_subclass(torch.Tensor),
                "scales": _scales(base),
                "a": layer.lora_A[NAME].weight.detach().to(dtype),
                "b": layer.lora_B[NAME].weight.detach().to(dtype),
            }
            for name, buffer in buffers.items():
                layer.register_buffer(f"_fused_{name}", buffer, persistent=False)
            layer.forward = MethodType(_forward, layer)

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the trained adapter: once a step, for all layers at once."""
        if not self.layers:
            return
        a = [layer.lora_A[NAME].weight for layer in self.layers]
        b = [layer.lora_B[NAME].weight for layer in self.layers]
        scaled = torch._foreach_mul(b, [float(layer.scaling[NAME]) for layer in self.layers])
        torch._foreach_copy_([layer._fused_a for layer in self.layers], a)
        torch._foreach_copy_([layer._fused_b for layer in self.layers], scaled)


def _can(layer: Any) -> bool:
    if list(layer.lora_A) != [NAME] or layer.use_dora.get(NAME) or layer.lora_bias.get(NAME):
        return False
    weight = layer.base_layer.weight
    state = getattr(weight, "quant_state", None)
    held = isinstance(layer.base_layer, torch.nn.Linear) and weight.is_cuda and layer.base_layer.bias is None
    plain = state is None and weight.dtype in (torch.bfloat16, torch.float16)
    nf4 = state is not None and state.quant_type == "nf4" and state.blocksize == 64
    return bool(held and (plain or nf4) and isinstance(layer.lora_dropout[NAME], torch.nn.Identity))


def _scales(base: Any) -> Scales:
    """Return the scales of NF4's blocks in float32: those that are quantized themselves are dequantized once.

    The layer keeps them so too: the numbers are the same, and 8-bit ones beside them would be of no use.
    """
    state = getattr(base.weight, "quant_state", None)
    if state is None:
        return None
    if state.nested:
        from bitsandbytes.functional import dequantize_blockwise

        state.absmax = (dequantize_blockwise(state.absmax, state.state2) + state.offset).float()
        state.nested, state.state2, state.offset = False, None, None
    scales: torch.Tensor = state.absmax
    return scales


def _forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    if self.disable_adapters or self.merged or not torch.is_grad_enabled() or kwargs:
        out: torch.Tensor = type(self).forward(self, x, *args, **kwargs)
        return out
    shape = [self.base_layer.out_features, self.base_layer.in_features]
    x_flat = x.reshape(-1, shape[1])
    # the operation makes the whole gradient, the part through `low` too
    low = x_flat.detach() @ self._fused_a.t()
    y = torch.ops.burnish.lora.default(
        x_flat, low, self._fused_weight, self._fused_scales, shape, self.lora_A[NAME].weight,
        self.lora_B[NAME].weight, self._fused_a, self._fused_b, float(self.scaling[NAME]),
    )  # fmt: skip
    made: torch.Tensor = y.view(*x.shape[:-1], shape[0])
    return made
