"""The installed llama_cpp has everything that burnish.llama uses, including private names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import llama_cpp
import pytest

from burnish.llama.runtime import api, base_function
from tests.support.commands import ROOT

FOLDER = ROOT / "burnish" / "llama"
Needs = dict[str, str]  # a name -> the module that needs it


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(FOLDER.glob("*.py")):
        yield path.name, ast.parse(path.read_text(encoding="utf-8"))


def is_api(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "api"


def functions_and_types() -> Needs:
    """Return every name used as api.NAME."""
    return {
        n.attr: file for file, tree in trees() for n in ast.walk(tree) if isinstance(n, ast.Attribute) and is_api(n)
    }


def library_functions() -> Needs:
    """Return the functions of ggml and gguf without a wrapper in llama_cpp: base_function("NAME", ...)."""
    calls = ((file, n) for file, tree in trees() for n in ast.walk(tree) if isinstance(n, ast.Call))
    return {
        str(n.args[0].value): file
        for file, n in calls
        if isinstance(n.func, ast.Name) and n.func.id == "base_function" and isinstance(n.args[0], ast.Constant)
    }


def parameters() -> dict[tuple[str, str], str]:
    """Return the parameter fields that are set: (function that returns the defaults, field) -> module.

    ctypes accepts any attribute, so setting a renamed field would have no effect and raise no error.
    """
    found: dict[tuple[str, str], str] = {}
    for file, tree in trees():
        for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)):
            makers = dict(defaults_made(function))
            for n in ast.walk(function):
                if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store) and ast.unparse(n.value) in makers:
                    found[makers[ast.unparse(n.value)], n.attr] = file
    return found


def defaults_made(function: ast.FunctionDef) -> Iterator[tuple[str, str]]:
    """Yield the variable and the function of every `params = api.llama_..._default_params()`."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            made_by = node.value.func
            if isinstance(made_by, ast.Attribute) and is_api(made_by) and made_by.attr.endswith("_default_params"):
                yield ast.unparse(node.targets[0]), made_by.attr


def dropped(there: Any, names: Needs) -> list[str]:
    """Return one message per name that this llama_cpp no longer has."""
    version = getattr(llama_cpp, "__version__", "of unknown version")
    return [
        f"llama_cpp {version} has no '{name}' any more; burnish/llama/{file} needs it"
        for name, file in sorted(names.items())
        if not hasattr(there, name)
    ]


def test_used_functions_types_and_constants_exist() -> None:
    names = functions_and_types()
    assert {"llama_decode", "llama_batch", "llama_get_logits_ith", "LLAMA_LOAD_MODE_AUTO", "_lib"} <= set(names)
    assert dropped(api, names) == []


def test_used_parameters_are_struct_fields() -> None:
    needed = parameters()
    assert ("llama_context_default_params", "n_outputs_max") in needed
    assert ("llama_model_default_params", "use_extra_bufts") in needed
    assert ("llama_model_quantize_default_params", "allow_requantize") in needed
    for maker in {maker for maker, _ in needed}:
        structure = type(getattr(api, maker)())
        names = {field: file for (made_by, field), file in needed.items() if made_by == maker}
        fields = SimpleNamespace(**dict.fromkeys(field[0] for field in structure._fields_))
        assert dropped(fields, names) == [], f"fields of {structure.__name__}"


@pytest.mark.parametrize(("name", "file"), sorted(library_functions().items()))
def test_used_library_functions_without_a_wrapper_are_exported(name: str, file: str) -> None:
    try:
        base_function(name, None)
    except AttributeError:
        pytest.fail(f"llama.cpp's library exports no '{name}' any more; burnish/llama/{file} needs it")


def test_private_backend_loader_exists() -> None:
    """A portable build loads its CPU variants through llama_cpp._ggml.libggml; no public name reaches that library."""
    from llama_cpp import _ggml

    assert dropped(_ggml, {"libggml": "runtime.py"}) == []
    assert dropped(_ggml.libggml, {"ggml_backend_load_all_from_path": "runtime.py"}) == []


def test_missing_names_are_reported() -> None:
    (output,) = dropped(SimpleNamespace(llama_decode=1), {"llama_decode": "context.py", "llama_gone": "model.py"})
    assert output.startswith("llama_cpp ") and output.endswith(
        "has no 'llama_gone' any more; burnish/llama/model.py needs it"
    )
    with pytest.raises(AttributeError):
        base_function("ggml_no_such_function", None)
    importing = [
        path.relative_to(ROOT)
        for folder in ("burnish", "train", "export", "serve")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Import) and any(a.name.split(".")[0] == "llama_cpp" for a in node.names))
        or (isinstance(node, ast.ImportFrom) and not node.level and str(node.module).split(".")[0] == "llama_cpp")
    ]
    assert set(importing) == {Path("burnish/llama/runtime.py")}
