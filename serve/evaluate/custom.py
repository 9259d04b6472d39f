"""A custom score: a function in a Python file, called with the answer's text and the row."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from burnish.errors import UserError, did_you_mean
from burnish.rendering.bounds import BoundExceeded, bounded

# processor time for running the file or for one call; either may load a model, so memory is hardly limited
LIMIT_S, MOST_BYTES = 60.0, 1 << 44
Function = Callable[[str, dict[str, Any]], Any]


class CustomError(UserError):
    """Raised when the file or the function can't be used."""


def load_function(name: str) -> Function:
    """Return the function `file.py:function`. Raises CustomError.

    The user's file runs with all rights of this process.
    """
    file, _, function = name.rpartition(":")
    path = Path(file)
    if not file or not function.isidentifier():
        raise CustomError(f"score: 'python:{name}': expected python:file.py:function")
    if not path.is_file():
        raise CustomError(f"score: {path}: no such file")
    spec = importlib.util.spec_from_file_location("burnish_score", path)
    if spec is None or spec.loader is None:
        raise CustomError(f"score: {path}: expected a file with the extension .py")
    module = importlib.util.module_from_spec(spec)
    loader = spec.loader
    _limited(lambda: loader.exec_module(module), str(path))
    found = getattr(module, function, None)
    if not callable(found):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise CustomError(f"score: {path} has no function '{function}'{did_you_mean(function, names)}")
    return _guarded(found, f"{path}:{function}")


def _guarded(function: Function, where: str) -> Function:
    def call(answer: str, row: dict[str, Any]) -> Any:
        return _limited(lambda: function(answer, row), where)

    return call


def _limited(call: Callable[[], Any], where: str) -> Any:
    """Run the user's code; its exceptions, sys.exit and excess of time are errors."""
    try:
        return bounded(call, LIMIT_S, MOST_BYTES)
    except BoundExceeded as error:
        raise CustomError(f"score: {where}: {error}") from None
    except (Exception, SystemExit) as error:
        raise CustomError(f"score: {where} raised {type(error).__name__}: {error}") from None
