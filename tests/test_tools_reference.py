"""docs/settings.md and docs/openai-api.md match the code, and the schema's marks match the server's behaviour."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic.fields import FieldInfo

from serve.http import schema
from serve.http.body.structured import StructuredOutputs
from serve.http.body.treatment import NoEffect, Only, Unsupported
from serve.http.body.validation import validate
from serve.http.body.wire import Wire
from serve.http.errors import ApiError
from serve.http.message import ContentPart, Message
from serve.http.responses.schema import ResponsesRequest
from serve.http.schema import ChatRequest, CompletionRequest, StreamOptions, TemplateRequest
from tools.reference import __main__ as reference
from tools.reference.api import marks

HTTP = Path(__file__).parent.parent / "serve" / "http"
CHAT: dict[str, Any] = {"model": "default", "messages": [{"role": "user", "content": "Hi"}]}
# a complete request for each schema, with the path of its fields
REQUESTS: dict[type[Wire], dict[str, Any]] = {
    ChatRequest: CHAT,
    CompletionRequest: {"model": "default", "prompt": "Hi"},
    Message: {"role": "user", "content": "Hi"},
    ContentPart: {"type": "text", "text": "Hi"},
    StreamOptions: {},
    StructuredOutputs: {},
    ResponsesRequest: {"model": "default", "input": "Hi"},
}
# values that a field marked Only rejects, and one that it accepts
OTHERS: dict[str, tuple[Any, Any]] = {
    "moderation": ({"policy": {"hate": {"mode": "block"}}}, {"model": "omni-moderation-latest"}),
    "best_of": (2, 1),
    "role": ("function", "user"),
    "tool_choice": ({"type": "custom"}, "auto"),
    "type": ("image_url", "text"),
}


def test_generated_pages_match_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main(["--check"]) == 0, capsys.readouterr().out


def test_outdated_page_is_named_and_rewritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reference, "DOCS", tmp_path)
    (tmp_path / "settings.md").write_text("old", encoding="utf-8")
    assert reference.main(["--check"]) == 1
    assert "docs/settings.md: out of date: run `make reference`" in capsys.readouterr().out
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0


def fields() -> Iterator[tuple[type[Wire], str, FieldInfo]]:
    """Yield every field of every request part."""
    return ((model, name, info) for model in REQUESTS for name, info in model.model_fields.items())


def read_in_serve() -> set[str]:
    """Return the names of all attributes that the code of serve/http reads."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in HTTP.rglob("*.py")]
    return {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def test_ignored_fields_are_unused_and_supported_fields_are_used() -> None:
    read = read_in_serve()
    idle = {name for _, name, info in fields() if marks(info, NoEffect)}
    assert idle & read == set()
    honoured = {name for _, name, info in fields() if not marks(info, NoEffect | Unsupported)}
    assert honoured <= read


def code_of(model: type[Wire], **values: Any) -> str | None:
    try:
        validate(model, {**REQUESTS[model], **values})
    except ApiError as error:
        return error.code
    return None


def marked(info: FieldInfo) -> bool:
    return bool(marks(info, NoEffect | Only | Unsupported))


def test_every_request_schema_is_tested() -> None:
    requests = {model for name, model in vars(schema).items() if isinstance(model, type) and issubclass(model, Wire)}
    unmarked = {model for model in requests if not any(map(marked, model.model_fields.values()))}
    parents = {parent for model in requests for parent in model.__mro__[1:]}
    assert requests - unmarked - parents - REQUESTS.keys() == {TemplateRequest}


REFUSED = [(m, n, i) for m, n, i in fields() if marks(i, Unsupported) and not marks(i, Only)]


@pytest.mark.parametrize(("model", "name", "info"), REFUSED, ids=[f"{m.__name__}.{n}" for m, n, _ in REFUSED])
def test_unsupported_fields_are_rejected_unless_they_have_no_effect(
    model: type[Wire], name: str, info: FieldInfo
) -> None:
    found = {code_of(model, **{name: value}) for value in (["audio"], {"a": 1}, "a")}
    assert "unsupported_parameter" in found
    assert found <= {"unsupported_parameter", "invalid_type", "invalid_value"}
    for harmless in marks(info, Unsupported)[0].harmless:
        assert code_of(model, **{name: harmless}) is None


def test_partly_supported_fields_reject_other_values_with_the_documented_code() -> None:
    limited = [(model, name, marks(info, Only)[0]) for model, name, info in fields() if marks(info, Only)]
    assert {name for _, name, _ in limited} == OTHERS.keys()
    for model, name, mark in limited:
        other, taken = OTHERS[name]
        assert code_of(model, **{name: other}) == mark.code
        assert code_of(model, **{name: taken}) is None
