"""Private API of the libraries: still there, named where it is not, and used in one place only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from burnish.private.needs import Need, missing
from train.private import bitsandbytes, peft, torch, transformers, trl

TRAIN = Path(torch.__file__).parents[1]
OTHERS = [path for path in sorted(TRAIN.rglob("*.py")) if path.parent.name != "private"]
OURS = {"_fused", "_fused_place", "_fused_layers"}  # what our kernels put on PEFT's layers


@pytest.mark.parametrize("module", [torch, transformers, trl, peft, bitsandbytes], ids=lambda m: m.__name__)
def test_what_training_needs_of_a_library_is_still_there(module: ModuleType) -> None:
    assert missing(module.NEEDS) == []


@pytest.mark.parametrize(
    ("need", "says"),
    [
        (
            Need("torch.nn:Module._gone", "layers can't be compiled"),
            "has no torch.nn.Module._gone any more: layers can",
        ),
        (Need("torch._gone.config:patch", "it is slow"), "has no torch._gone.config.patch any more: it is slow"),
        (
            Need("torch:Tensor._gone", "it is slow", assigned_in="torch.nn:Module.__init__"),
            "has no torch.Tensor._gone any more",
        ),
        (
            Need("torch.nn:Module.compile", "it is slow", parameters=("model",)),
            "has no torch.nn.Module.compile(model) any more",
        ),
    ],
    ids=["attribute", "module", "assigned", "parameters"],
)
def test_what_a_version_dropped_is_said_in_words(need: Need, says: str) -> None:
    (sentence,) = missing((need,))
    assert sentence.startswith("torch 2.")
    assert says in sentence


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: str(path.relative_to(TRAIN)))
def test_nothing_else_touches_private_names_of_other_objects(path: Path) -> None:
    assert list(private_names(ast.parse(path.read_text(encoding="utf-8")))) == []


def test_private_names_are_found() -> None:
    code = """
import torch._dynamo
from transformers.utils._gone import thing
class Trainer(Base):
    def _own(self): self._made = self._own() + self._theirs
trainer._load(1)
layer._compiled = super()._clip()
"""
    assert sorted(private_names(ast.parse(code))) == [
        "_clip", "_compiled", "_load", "_theirs", "torch._dynamo", "transformers.utils._gone",
    ]  # fmt: skip


def private_names(tree: ast.Module) -> Iterator[str]:
    """Yield private modules that are imported, and private attributes of anything but one's own class."""
    for node in ast.walk(tree):
        imported = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            imported = [str(node.module)]
        yield from (name for name in imported if any(is_private(part) for part in name.split(".")))
        if isinstance(node, ast.Attribute) and is_private(node.attr) and not is_self(node.value):
            yield from {node.attr} - OURS
        if isinstance(node, ast.ClassDef):
            yield from inherited(node)


def inherited(cls: ast.ClassDef) -> set[str]:
    """Return the private attributes of `self` that the class uses and does not make."""
    nodes = [node for node in ast.walk(cls) if isinstance(node, ast.Attribute) and is_self(node.value)]
    used = {node.attr for node in nodes if is_private(node.attr)}
    made = {node.attr for node in nodes if isinstance(node.ctx, ast.Store)}
    return used - made - {node.name for node in ast.walk(cls) if isinstance(node, ast.FunctionDef)} - OURS


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")
