"""Private bitsandbytes API: CUDA support, weight repacking in CPU layers, and NF4's quantized scales."""

from __future__ import annotations

from typing import Any

from burnish.private.needs import Need

NEEDS = (
    Need("bitsandbytes.cextension:lib", "a build without CUDA is detected only when training starts"),
    Need(
        "bitsandbytes.nn:Linear4bit.support_avx512bf16_for_cpu",
        "on some CPUs the exam would score other weights than the trained ones",
        assigned_in="bitsandbytes.nn:Linear4bit.__init__",
    ),
    Need("bitsandbytes.functional:QuantState", "NF4's scales can't be read"),
    Need("bitsandbytes.functional:dequantize_blockwise", "NF4's quantized scales can't be read"),
)


def has_cuda() -> bool:
    """Return whether the installed build has a library for this CUDA version."""
    from bitsandbytes.cextension import lib

    return bool(getattr(lib, "compiled_with_cuda", False))


def keep_layout(model: Any) -> None:
    """Prevent 4-bit layers from repacking weights for bfloat16 at the first evaluation, as they do on some CPUs.

    Otherwise the exam would score different weights from the trained ones.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def is_quantized(weight: Any) -> bool:
    """Return whether a weight is stored in 4 bits."""
    return getattr(weight, "quant_state", None) is not None


def is_nf4(weight: Any, block: int) -> bool:
    """Return whether a weight is stored in NF4 with one scale per `block` numbers."""
    state = getattr(weight, "quant_state", None)
    return state is not None and state.quant_type == "nf4" and state.blocksize == block


def block_scales(weight: Any) -> Any:
    """Return a 4-bit weight's float32 block scales; None if the weight is not quantized.

    Quantized scales are dequantized once and replaced in the layer too: the values are the same, and the 8-bit ones
    would only use memory.
    """
    state = getattr(weight, "quant_state", None)
    if state is None:
        return None
    if state.nested:
        from bitsandbytes.functional import dequantize_blockwise

        state.absmax = (dequantize_blockwise(state.absmax, state.state2) + state.offset).float()
        state.nested, state.state2, state.offset = False, None, None
    return state.absmax
