"""The loss over response tokens, without storing all logits."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch.nn.functional import cross_entropy

IGNORED = -100
CHUNK = 1024  # tokens per chunk of logits: 0.25 GiB in bfloat16 with a vocabulary of 128,256


def response_nll(hidden: torch.Tensor, head: Any, targets: torch.Tensor) -> torch.Tensor:
    """Return the summed negative log-likelihood of `targets` [N] for `hidden` [N, width] and a frozen linear head.

    The forward pass also computes the gradient, so that each chunk of logits is computed only once.
    """
    apply: Any = _FrozenHeadNll.apply
    loss: torch.Tensor = apply(hidden, head.weight, getattr(head, "bias", None), targets)
    return loss


def is_plain(head: Any, config: Any) -> bool:
    """Return whether the head is frozen and linear, and its logits are neither softcapped nor scaled."""
    shaped = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
    plain = type(head) is torch.nn.Linear and not any(p.requires_grad for p in head.parameters())
    return plain and not any(getattr(config, name, None) not in (None, 1, 1.0) for name in shaped)


def logits_nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the summed negative log-likelihood from logits [N, vocabulary]."""
    return cross_entropy(logits.float(), targets, reduction="sum")


class _FrozenHeadNll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
    ) -> torch.Tensor:
        gradient = torch.empty_like(hidden)
        total = hidden.new_zeros((), dtype=torch.float32)
        of_logits = _compiled() if hidden.is_cuda else _nll_and_gradient
        for start in range(0, len(targets), CHUNK):
            part = slice(start, start + CHUNK)
            logits = torch.nn.functional.linear(hidden[part], weight, bias)
            nll, by_logits = of_logits(logits, targets[part])
            total += nll
            torch.mm(by_logits, weight, out=gradient[part])
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0].to(gradient.dtype), None, None, None


def _nll_and_gradient(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a chunk's summed loss, and its gradient with respect to the logits: softmax minus one-hot targets."""
    full = logits.float()
    log_sum = full.logsumexp(-1, keepdim=True)
    true = full.gather(-1, targets[:, None])
    one_hot = torch.arange(full.shape[-1], device=full.device)[None, :] == targets[:, None]
    return (log_sum - true).sum(), ((full - log_sum).exp() - one_hot.to(full.dtype)).to(logits.dtype)


@cache
def _compiled() -> Any:
    return torch.compile(_nll_and_gradient, dynamic=True)
