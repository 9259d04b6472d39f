"""The errors that the server returns, collected from the source of serve/."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serve.connection import framing
from serve.http.body.validation import validate
from serve.http.errors import ApiError, failed, too_many
from serve.http.schema import ChatRequest

from .markdown import table

SERVE = Path(__file__).resolve().parents[2] / "serve"
# callables that create an error with a status: positions of the code (None: a keyword) and the message argument
MAKERS: dict[str, tuple[int | None, int]] = {"ApiError": (None, 1), "Refusal": (1, 2), "_refuse": (1, 2)}
# functions that create an error with a fixed status and code; the first argument is the message
WRAPPERS = {"too_many": too_many("", 1), "failed": failed("")}
NOT_READ = {499}  # the client has disconnected
ELLIPSIS = "…"
CHAT = {"model": "default", "messages": [{"role": "user", "content": "Hi"}]}
# bodies that the schema rejects; their messages are listed in the table
REFUSED: tuple[dict[str, Any], ...] = (
    {"model": "default"},
    {**CHAT, "tempratur": 1},
    {**CHAT, "tools": [{"type": "function"}]},
    {**CHAT, "stream": "yes"},
    {**CHAT, "service_tier": "gold"},
    {**CHAT, "messages": []},
    {**CHAT, "n": 0},
    {**CHAT, "n": 1000},
    {**CHAT, "temperature": -0.5},
    {**CHAT, "temperature": 2.5},
)
Found = tuple[int, str, str]


def error_table() -> str:
    """Return the table of statuses, codes and messages."""
    found = sorted({*_from_source(), *_from_schema()})
    rows: dict[tuple[int, str], list[str]] = {}
    for status, code, message in found:
        message = re.sub(f"{ELLIPSIS}{{2,}}", ELLIPSIS, message)
        rows.setdefault((status, code), []).extend([message] if message.strip(ELLIPSIS) else [])
    cells = [
        (str(status), f"`{code}`" if code else "none", "<br>".join(texts)) for (status, code), texts in rows.items()
    ]
    return table(("status", "code", "message"), cells) + "\n"


def _from_schema() -> Iterator[Found]:
    """Yield the errors for bodies that the schema rejects, and the codes for malformed HTTP."""
    for body in REFUSED:
        try:
            validate(ChatRequest, body)
        except ApiError as error:
            yield error.status, str(error.code), error.message
    for status, code in framing.CODES.items():
        yield status, code, ""


def _from_source() -> Iterator[Found]:
    for path in sorted(SERVE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        for scope in (*functions, *(node for node in tree.body if isinstance(node, ast.Assign))):
            texts = [node for node in ast.walk(scope) if isinstance(node, ast.Assign)]
            for call in [node for node in ast.walk(scope) if isinstance(node, ast.Call)]:
                yield from _made(call, [text for text in texts if text.lineno < call.lineno])


def _made(call: ast.Call, before: list[ast.Assign]) -> Iterator[Found]:
    """Yield the error that a call creates if its status is constant; `before`: the preceding assignments."""
    maker = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    if maker in WRAPPERS:
        yield WRAPPERS[maker].status, str(WRAPPERS[maker].code), _words(call.args[0], before)
    if maker not in MAKERS or not call.args or not isinstance(call.args[0], ast.Constant):
        return
    code_at, text_at = MAKERS[maker]
    keywords = {word.arg: word.value for word in call.keywords}
    code = keywords.get("code") if code_at is None else call.args[code_at]
    status = call.args[0].value
    if isinstance(status, int) and status not in NOT_READ and (code is None or isinstance(code, ast.Constant)):
        text = _words(call.args[text_at], before) if len(call.args) > text_at else ""
        yield status, str(code.value) if isinstance(code, ast.Constant) else "", text


def _words(node: ast.expr, before: list[ast.Assign]) -> str:
    """Return a message, with an ellipsis for each value inserted at run time."""
    if isinstance(node, ast.Name):
        values = [text.value for text in before if ast.unparse(text.targets[0]) == node.id]
        return _words(values[-1], []) if values else ELLIPSIS
    if isinstance(node, ast.IfExp):
        return f"{_words(node.body, before)}<br>{_words(node.orelse, before)}"
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_words(part, before) for part in node.values)
    return ELLIPSIS
