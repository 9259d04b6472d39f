"""Attention over packed rows: several rows in one sequence, without attention across rows."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from ..private.transformers import attention_configs, attention_switched

NAME = "burnish_packed"
MAX_HEAD_WIDTH = 256
_MAX_LENGTH_STEP = 256  # the longest row's length is rounded up, so that the compiler builds fewer variants


class NotPackable(Exception):
    """A model needs an attention feature that packed rows don't support."""


def packed_arguments(lengths: list[int], device: torch.device) -> dict[str, Any]:
    """Return the forward arguments for rows of these lengths: position_ids [1, T] and row boundaries [n + 1].

    The names match what transformers models pass to their attention function.
    """
    borders = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    positions = torch.cat([torch.arange(n) for n in lengths]).unsqueeze(0)
    longest = -(-max(lengths) // _MAX_LENGTH_STEP) * _MAX_LENGTH_STEP
    borders = borders.to(device, non_blocking=True)
    return {
        "position_ids": positions.to(device, non_blocking=True),
        "cu_seq_lens_q": borders,
        "cu_seq_lens_k": borders,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def packed(configs: list[Any]) -> AbstractContextManager[None]:
    """Restrict a model's attention to within packed rows (see `packed_arguments`) inside the context."""
    return attention_switched(configs, NAME, attend)


@torch.no_grad()
def padding_reason(model: Any) -> str:
    """Return why a model's rows can't be packed, or "" if they can.

    Leakage between rows (as in state-space layers) is tested with two short rows, packed and separate. Features that
    short rows would not reveal are read from the configuration.
    """
    inner, was_training = model.get_base_model(), model.training
    config, body = inner.config.get_text_config(), getattr(inner, inner.base_model_prefix, None)
    if body is None:
        return "this base does not separate its body from its head"
    if getattr(config, "attention_dropout", None) or getattr(config, "attention_chunk_size", None):
        return "this base uses attention dropout or chunked attention"
    if fault := _kernel_fault(inner):
        return fault
    model.eval()
    ids = torch.arange(1, 13, device=inner.device).unsqueeze(0)
    alone = torch.cat([body(input_ids=row, use_cache=False).last_hidden_state for row in (ids[:, :7], ids[:, 7:])], 1)
    try:
        with packed(attention_configs(inner)):
            together = body(input_ids=ids, **packed_arguments([7, 5], inner.device), use_cache=False).last_hidden_state
    except NotPackable as error:
        return str(error)
    except TypeError:
        return "this base's forward does not accept row boundaries"
    finally:
        model.train(was_training)
    leaks = (together - alone).float().norm() > 0.1 * alone.float().norm()
    return "in this base, packed rows influence one another" if leaks else ""


def _kernel_fault(model: Any) -> str:
    """Return why the GPU's variable-length kernel can't be used (requires Ampere, 16 bits, heads up to 256)."""
    if model.device.type != "cuda":
        return ""
    if torch.cuda.get_device_capability() < (8, 0):
        return "this GPU is too old for packed attention (it needs compute capability 8.0)"
    config = model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    fits = width <= MAX_HEAD_WIDTH and model.dtype in (torch.bfloat16, torch.float16)
    return "" if fits else f"packed attention on a GPU needs 16-bit numbers and heads of at most {MAX_HEAD_WIDTH}"


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each row: query [1, heads, T, d], key, value [1, kv heads, T, d] → [1, T, heads, d]."""
    if softcap is not None or s_aux is not None:
        raise NotPackable("this base uses softcapping of attention scores, or attention sinks")
    if cu_seq_lens_q is None or max_length_q is None:
        raise NotPackable("this base doesn't pass row boundaries to its attention")
    if query.is_cuda:
        out = _varlen(query, key, value, cu_seq_lens_q, max_length_q, scaling, sliding_window)
    else:
        out = _row_by_row(query, key, value, cu_seq_lens_q, scaling, sliding_window)
    return out, None


def _varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    borders: torch.Tensor,
    longest: int,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    options: dict[str, Any] = {**_GROUPS, **({"scale": scaling} if scaling is not None else {})}
    options["window_size"] = (window - 1 if window else -1, 0)
    out: Any = varlen_attn(q, k, v, borders, borders, longest, longest, **options)
    batch: torch.Tensor = out.unsqueeze(0)
    return batch


def _row_by_row(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    borders: torch.Tensor,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """Compute the same as `_varlen` without the kernel, one row at a time."""
    rows = []
    for start, end in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True):
        q, k, v = (x[:, :, start:end] for x in (query, key, value))
        mask = _window_mask(end - start, window, q.device) if window and end - start > window else None
        rows.append(
            scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True
            )
        )
    return torch.cat(rows, dim=2).transpose(1, 2)


def _window_mask(length: int, window: int, device: torch.device) -> torch.Tensor:
    ones = torch.ones(length, length, dtype=torch.bool, device=device)
    return ones.tril() & ones.triu(1 - window)


def _groups() -> dict[str, bool]:
    """Return the installed torch's kernel option for heads that share keys and values.

    Version 2.11 needs none (tests/test_train_gpu.py compares its gradients); later versions need one.
    """
    from torch.nn.attention.varlen import varlen_attn

    return {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}


_GROUPS = _groups()
