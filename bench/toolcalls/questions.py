"""Questions of the Berkeley Function-Calling Leaderboard: read, split, and turned into training rows.

A line is {"id", "question", "function", "ground_truth"} as in the leaderboard's files. A ground truth maps each
function to its parameters, and each parameter to its accepted values; "" among them means that the parameter may be
left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from burnish.errors import UserError
from burnish.files import read_lines

CALLS = ("simple_python", "multiple", "parallel", "parallel_multiple")
IRRELEVANCE = "irrelevance"
REFUSAL = "None of the available tools can answer this."
# the leaderboard's type names → those of JSON schema; "any" has no type
TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": None}
NAMED = ("properties",)
KEYS = {"id", "question", "function", "ground_truth"}


@dataclass(frozen=True)
class Question:
    """One question, its functions as the leaderboard defines them, and the accepted calls."""

    id: str
    messages: tuple[Mapping[str, Any], ...]
    functions: tuple[Mapping[str, Any], ...]
    truth: tuple[Mapping[str, Mapping[str, Sequence[Any]]], ...]

    @property
    def category(self) -> str:
        """The category, which is the prefix of the id."""
        return self.id.rpartition("_")[0]

    @property
    def names(self) -> frozenset[str]:
        """The names of its functions."""
        return frozenset(function["name"] for function in self.functions)

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The definitions in OpenAI's form."""
        return [{"type": "function", "function": {**f, "parameters": schema(f["parameters"])}} for f in self.functions]

    def row(self) -> dict[str, Any]:
        """Return a training row: the question and one accepted answer, which is a refusal if no function fits."""
        known = {function["name"]: function["parameters"] for function in self.functions}
        calls = [
            {"name": name, "arguments": arguments(accepted, known[name])}
            for call in self.truth
            for name, accepted in call.items()
        ]
        answer: dict[str, Any] = {"content": "", "tool_calls": calls} if calls else {"content": REFUSAL}
        return {"messages": [*self.messages, {"role": "assistant", **answer}], "tools": self.tools}


def read(path: Path) -> list[Question]:
    """Read the questions. Raises UserError with the line for a line that is not a single-turn question."""
    found = []
    for number, line in enumerate(read_lines(path), start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or row.keys() != KEYS or len(row["question"]) != 1:
                raise ValueError(f"expected an object with {', '.join(sorted(KEYS))} and one turn")
            question = Question(
                row["id"], tuple(row["question"][0]), tuple(row["function"]), tuple(row["ground_truth"] or ())
            )
            if question.category not in (*CALLS, IRRELEVANCE):
                raise ValueError(f"unknown category '{question.category}'")
            found.append(question)
        except ValueError as error:
            raise UserError(f"{path}: line {number}: {error}") from None
    return found


def split(questions: Iterable[Question]) -> tuple[list[Question], list[Question]]:
    """Return two thirds of every category for training, and the rest; the split depends only on the ids."""
    by_category: dict[str, list[Question]] = {}
    for question in questions:
        by_category.setdefault(question.category, []).append(question)
    train: list[Question] = []
    rest: list[Question] = []
    for group in by_category.values():
        group.sort(key=lambda question: sha256(question.id.encode()).digest())
        cut = round(len(group) * 2 / 3)
        train += group[:cut]
        rest += group[cut:]
    return sorted(train, key=lambda question: sha256(question.id.encode()).digest()), rest


def schema(given: Any) -> Any:
    """Return a schema with JSON schema's type names."""
    if isinstance(given, list):
        return [schema(item) for item in given]
    if not isinstance(given, dict):
        return given
    found = {}
    for key, value in given.items():
        if key == "type" and isinstance(value, str):
            if (name := TYPES.get(value, value)) is not None:
                found[key] = name
        elif key in NAMED and isinstance(value, dict):  # a parameter may be called "type"
            found[key] = {name: schema(inner) for name, inner in value.items()}
        else:
            found[key] = schema(value)
    return found


def arguments(accepted: Mapping[str, Sequence[Any]], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return accepted arguments: the first accepted values, without the parameters that may be left out."""
    required = parameters.get("required") or ()
    found = {}
    for name, values in accepted.items():
        if "" in values and name not in required:
            continue
        found[name] = _first(values)
    return found


def _first(values: Sequence[Any]) -> Any:
    value = next((value for value in values if value != ""), "")
    if isinstance(value, dict):
        return {key: _first(options) for key, options in value.items() if "" not in options}
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return [{key: _first(options) for key, options in item.items() if "" not in options} for item in value]
    return value
