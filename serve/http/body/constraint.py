"""Compiles what a request asks its answers to be."""

from __future__ import annotations

from collections.abc import Callable

from ...decoding.constraints.constraint import Constraint
from ...engine.tokenizer import ConstraintRefused
from ...served import Served
from ..errors import ApiError
from ..schema import ChatRequest, CompletionRequest

CONTINUED = "it can't constrain an answer that continues a message: the whole would not follow it"


async def constraint_of(request: ChatRequest | CompletionRequest, served: Served) -> Callable[[], Constraint] | None:
    """Return what creates the constraint of each choice, or None without one. Raises ApiError 400, and what
    `Constraints.compiled` raises besides."""
    asked = request.wanted()
    if not asked:
        return None
    param, wanted = asked[0]
    if isinstance(request, ChatRequest) and request.continue_final_message:
        raise ApiError(400, f"Invalid '{param}': {CONTINUED}.", param=param, code="invalid_value")
    if served.constraints is None:
        text = f"Unsupported parameter: '{param}': answers of this model can't be constrained."
        raise ApiError(400, text, param=param, code="unsupported_parameter")
    try:
        return await served.constraints.compiled(wanted)
    except ConstraintRefused as error:
        if wanted["kind"] != "json":
            raise ApiError(400, f"Invalid '{param}': {error.why}.", param=param, code="invalid_value") from None
        text = f"Invalid '{param}': at {error.place or 'the root'}: {error.why}."
        raise ApiError(400, text, param=param, code="invalid_json_schema") from None
