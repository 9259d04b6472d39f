"""bitsandbytes' private API: whether it has CUDA, its CPU layers' repacking, and NF4's quantized scales."""

from __future__ import annotations

from typing import Any

from burnish.private.needs import Need

NEEDS = (
    Need("bitsandbytes.cextension:lib", "a build without CUDA is noticed only when training starts"),
    Need(
        "bitsandbytes.nn:Linear4bit.support_avx512bf16_for_cpu",
        "on some CPUs the exam would score other weights than those that were trained",
        assigned_in="bitsandbytes.nn:Linear4bit.__init__",
    ),
    Need("bitsandbytes.functional:QuantState", "NF4's scales can't be read"),
    Need("bitsandbytes.functional:dequantize_blockwise", "NF4's quantized scales can't be read"),
)


def has_cuda() -> bool:
    """Whether the installed build has a library for this CUDA."""
    from bitsandbytes.cextension import lib

    return bool(getattr(lib, "compiled_with_cuda", False))


def keep_layout(model: Any) -> None:
    """Keep 4-bit layers from repacking for bfloat16 at the first evaluation on some CPUs.

    The exam would then examine other weights than those that were trained.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def is_quantized(weight: Any) -> bool:
    """Whether a weight is held in 4 bits."""
    return getattr(weight, "quant_state", None) is not None


def is_nf4(weight: Any, block: int) -> bool:
    """Whether a weight is held in NF4, with a scale for each so many numbers."""
    state = getattr(weight, "quant_state", None)
    return state is not None and state.quant_type == "nf4" and state.blocksize == block


def block_scales(weight: Any) -> Any:
    """Return the float32 scales of a 4-bit weight's blocks; None where it is not quantized.

    Scales that are quantized themselves are dequantized once, and the layer keeps them so too: the numbers are the
    same, and 8-bit ones beside them would be of no use.
    """
    state = getattr(weight, "quant_state", None)
    if state is None:
        return None
    if state.nested:
        from bitsandbytes.functional import dequantize_blockwise

        state.absmax = (dequantize_blockwise(state.absmax, state.state2) + state.offset).float()
        state.nested, state.state2, state.offset = False, None, None
    return state.absmax
