"""OpenAI's error object, and the status, type, param and code of each error."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from burnish.errors import did_you_mean

# code in metrics for a client that disconnected before its reply
CLIENT_DISCONNECTED = "client_closed_request"


class ApiError(Exception):
    """An error reply to the client: {"error": {"message", "type", "param", "code"}}."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.kind = status, message, param, code, kind
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """Return the JSON body."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def unknown_model(name: str, known: Sequence[str]) -> ApiError:
    """The requested model is not served here."""
    return ApiError(404, f"The model '{name}' does not exist; available: {', '.join(known)}", code="model_not_found")


def too_long(prompt_tokens: int, context: int, param: str, least: bool = False) -> ApiError:
    """The prompt leaves no room for a completion; `least`: the token count is a lower bound."""
    number = f"at least {prompt_tokens}" if least else str(prompt_tokens)
    return ApiError(
        400,
        f"This model's maximum context length is {context} tokens, completion included. "
        f"However, your {param} resulted in {number} tokens. Please reduce the length of the {param}.",
        param=param,
        code="context_length_exceeded",
    )


def busy(retry_after_s: int) -> ApiError:
    """The queue is full."""
    return too_many("The server's request queue is full; try again later.", retry_after_s)


def too_many(text: str, retry_after_s: int) -> ApiError:
    """A request limit has been reached: 429 with Retry-After."""
    headers = {"Retry-After": str(retry_after_s)}
    return ApiError(429, text, kind="rate_limit_error", code="rate_limit_exceeded", headers=headers)


def draining() -> ApiError:
    """The server is shutting down, or its engine has failed."""
    return ApiError(
        503,
        "The server is shutting down and does not accept new requests.",
        kind="server_error",
        code="unavailable",
        headers={"Retry-After": "5"},
    )


def out_of_resources() -> ApiError:
    """No process can be started to render and tokenize."""
    return ApiError(
        503,
        "The server can't start a process to tokenize this text: memory, processes or file descriptors ran out."
        " Try"
        " again later.",
        kind="server_error",
        code="unavailable",
        headers={"Retry-After": "5"},
    )


def failed(message: str) -> ApiError:
    """An internal server error."""
    return ApiError(500, message, kind="server_error", code="internal_error")


def ended(message: str, refused: bool) -> ApiError:
    """The generation of an answer ended with an error; `refused`: the request is at fault."""
    return ApiError(400, message, code="invalid_value") if refused else failed(message)


CODES = {
    "unsupported_parameter": "unsupported_parameter",
    "unsupported_value": "unsupported_value",
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "literal_error": "invalid_value",
    "enum": "invalid_value",
    "union_tag_invalid": "invalid_value",
    "value_error": "invalid_value",
    "string_pattern_mismatch": "invalid_value",
    "too_short": "empty_array",
    "too_long": "array_above_max_length",
    "string_too_short": "empty_string",
    "string_too_long": "string_above_max_length",
}
BOUNDS = {"greater_than_equal": "below_min", "greater_than": "below_min", "less_than_equal": "above_max"}


def from_validation(error: ValidationError, known: Sequence[str]) -> ApiError:
    """Turn pydantic's errors into one that names the invalid parameter."""
    found = error.errors(include_url=False, include_context=True)
    # a value that matches no branch of a union is reported once per branch: use the deepest error
    worst = max(found, key=lambda item: (item["type"] == "extra_forbidden", len(_path(item)), item["type"] in CODES))
    first = found[0] if found[0]["type"] in ("missing", "extra_forbidden") else worst
    first = next((item for item in found if item["type"] == "unsupported_parameter"), first)
    param = _param(first)
    return ApiError(400, _message(first, param, known), param=param, code=_code(first))


def _path(item: ErrorDetails) -> list[str | int]:
    """Return the location of the error, without the names of union branches that pydantic inserts."""
    return [
        p
        for p in item["loc"]
        if isinstance(p, int) or not (p[:1].isupper() or p[-1:] in ")]" or "[" in p or p in BRANCHES)
    ]


BRANCHES = {"str", "int", "float", "bool", "list", "dict", "none", "union"}


def _param(item: ErrorDetails) -> str:
    text = ""
    for part in _path(item):
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    if field := item.get("ctx", {}).get("field"):
        return f"{text}.{field}" if text else str(field)  # a validator of a content part names the invalid field
    if not text and (quoted := re.match(r"(?:Value error, )?'(\w+)'", item["msg"])):
        return quoted[1]  # a validator of several parameters names the invalid one first
    return text


def _code(item: ErrorDetails) -> str:
    kind = item["type"]
    if kind in BOUNDS:
        number = "integer" if isinstance(item["input"], int) else "decimal"
        return f"{number}_{BOUNDS[kind]}_value"
    return CODES.get(kind, "invalid_type")


def _message(item: ErrorDetails, param: str, known: Sequence[str]) -> str:
    kind, detail = item["type"], str(item["msg"]).removeprefix("Value error, ")
    if kind == "missing":
        return f"Missing required parameter: '{param}'."
    if kind == "extra_forbidden":
        hint = did_you_mean(param, known) if "." not in param and "[" not in param else ""
        return f"Unknown parameter: '{param}'{hint if 'did you mean' in hint else '.'}"
    if kind == "too_short":
        return f"Invalid '{param}': empty array. Expected an array with at least 1 element."
    if kind == "unsupported_parameter":
        return f"Unsupported parameter: '{param}': {detail}."
    return f"Invalid value for '{param}': {detail[:1].lower()}{detail[1:]}."
