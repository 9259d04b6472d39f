"""The limit on a request's reasoning: thinking_token_budget."""

from __future__ import annotations

import json

from ...decoding.constraints.thought import ThoughtBudget
from ...served import Served
from ..errors import ApiError
from ..schema import ChatRequest, CompletionRequest

PARAM = "thinking_token_budget"


async def budget_of(request: ChatRequest | CompletionRequest, served: Served) -> ThoughtBudget | None:
    """Return the limit on the reasoning of a request's answers, or None.

    Raises ApiError 400 for a model without reasoning, and what `Tokenizer.encode_json` raises.
    """
    tokens = request.thinking_token_budget if isinstance(request, ChatRequest) else None
    if tokens is None or tokens < 0:
        return None
    thoughts, tokenizer = served.dialects.thoughts, served.tokenizer
    if thoughts is None:
        text = f"Unsupported parameter: '{PARAM}': this model's chat template has no reasoning."
        raise ApiError(400, text, param=PARAM, code="unsupported_parameter")
    begin, end = thoughts.begin.strip(), thoughts.end.strip()
    closing = json.loads(await tokenizer.encode_json(end))
    return ThoughtBudget(tokens, begin.encode(), end.encode(), closing, tokenizer.piece, tokenizer.vocab_size)
