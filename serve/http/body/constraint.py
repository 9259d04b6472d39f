"""Compiles the constraints of a request on the content and the calls of its answers."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Many
from typing import Any

from ...decoding.constraints.constraint import Constraint
from ...engine.tokenizer import ConstraintRefused
from ...served import Served
from ..errors import ApiError
from ..output_parsers import opens_thought
from ..schema import ChatRequest, CompletionRequest

CONTINUED = "a continued message can't be constrained, because the whole message would not match"
NO_FORM = "this model's chat template does not write arguments as JSON, so its calls can't be constrained"
Request = ChatRequest | CompletionRequest


async def constraint_of(request: Request, served: Served, prompts: Many[Many[int]]) -> Callable[[], Constraint] | None:
    """Return a factory for the constraints of the choices, or None.

    Raises ApiError 400, and the errors of `Constraints.compiled`.
    """
    asked = request.wanted()
    tools = _tools(request, bool(asked)) if isinstance(request, ChatRequest) else None
    if not asked and tools is None:
        return None
    param = asked[0][0] if asked else _reason(request)
    if isinstance(request, ChatRequest) and request.continue_final_message:
        raise ApiError(400, f"Invalid '{param}': {CONTINUED}.", param=param, code="invalid_value")
    if served.constraints is None:
        text = f"Unsupported parameter: '{param}': answers of this model can't be constrained."
        raise ApiError(400, text, param=param, code="unsupported_parameter")
    if tools is not None and served.dialects.form is None:
        param = _reason(request)
        raise ApiError(400, f"Unsupported '{param}': {NO_FORM}.", param=param, code="unsupported_value")
    wanted = {
        "content": asked[0][1] if asked else None,
        "tools": tools,
        "chat": isinstance(request, ChatRequest),
        "opened": opens_thought(served.dialects.thoughts, prompts[0], served.tokenizer.piece),
    }
    try:
        return await served.constraints.compiled(wanted)
    except ConstraintRefused as error:
        raise _refusal(request, error, param) from None


def _tools(request: ChatRequest, constrained: bool) -> dict[str, Any] | None:
    """Return the tools whose calls are constrained, or None if there are none: nothing is required, chosen or strict,
    and the content is free."""
    choice = request.choice
    needed = choice.mode == "required"
    strict = any(tool.function.strict for tool in request.offered)
    if not request.offered or not (needed or strict or constrained or choice.names):
        return None
    functions = [request.offered[number].function for number in _callable(request)]
    fields = [{"name": f.name, "parameters": f.parameters, "strict": bool(f.strict)} for f in functions]
    parallel = request.parallel_tool_calls is not False and not choice.single
    return {"functions": fields, "needed": needed, "parallel": parallel}


def _callable(request: ChatRequest) -> list[int]:
    """Return the indices of the tools that may be called."""
    names = request.choice.names
    return [i for i, tool in enumerate(request.offered) if names is None or tool.function.name in names]


def _reason(request: Request) -> str:
    """Return the name of the parameter that constrains the calls."""
    assert isinstance(request, ChatRequest)
    if request.choice.mode == "required" or request.choice.names:
        return "tool_choice"
    strict = (i for i, tool in enumerate(request.offered) if tool.function.strict)
    return next((f"tools[{i}].function.strict" for i in strict), "response_format")


def _refusal(request: Request, error: ConstraintRefused, param: str) -> ApiError:
    """Return the error for an unsupported constraint."""
    where = f"at {error.place or 'the root'}: {error.why}"
    if error.function is not None and isinstance(request, ChatRequest):
        param = f"tools[{_callable(request)[error.function]}].function.parameters"
        return ApiError(400, f"Invalid '{param}': {where}.", param=param, code="invalid_function_parameters")
    if any(wanted["kind"] == "json" for _, wanted in request.wanted()):
        return ApiError(400, f"Invalid '{param}': {where}.", param=param, code="invalid_json_schema")
    return ApiError(400, f"Invalid '{param}': {error.why}.", param=param, code="invalid_value")
