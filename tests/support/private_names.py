"""The private APIs of libraries that a module uses, found in its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator

# undocumented, although no part of the name begins with an underscore
INTERNAL = (
    "transformers.core_model_loading",
    "transformers.conversion_mapping",
    "transformers.convert_slow_tokenizer",
    "transformers.pytorch_utils",
    "huggingface_hub.lfs",
    "huggingface_hub.utils.sha",
)
OURS = {"_fused", "_fused_place", "_fused_layers"}  # attributes that our kernels add to PEFT's layers
DOCUMENTED = {"_exit", "_SubParsersAction"}  # os._exit; argparse offers no other name for its type


def private_names(code: str) -> set[str]:
    """Return imported private modules, and private attributes used on objects of other classes."""
    return set(_names(ast.parse(code))) - OURS - DOCUMENTED


def _names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        imported = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            imported = [str(node.module)]
        yield from (name for name in imported if name in INTERNAL or any(map(_is_private, name.split("."))))
        if isinstance(node, ast.Attribute) and _is_private(node.attr) and not _is_own(node.value):
            yield node.attr
        if isinstance(node, ast.ClassDef):
            yield from _inherited(node)


def _inherited(cls: ast.ClassDef) -> set[str]:
    """Return the private attributes of `self` that the class uses but does not define."""
    nodes = [node for node in ast.walk(cls) if isinstance(node, ast.Attribute) and _is_own(node.value)]
    used = {node.attr for node in nodes if _is_private(node.attr)}
    made = {node.attr for node in nodes if isinstance(node.ctx, ast.Store)}
    made |= {node.name for node in ast.walk(cls) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    made |= {
        node.target.id for node in cls.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    return used - made


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _is_own(node: ast.expr) -> bool:
    """Whether an object is of the same class: self, cls, or other."""
    return isinstance(node, ast.Name) and node.id in ("self", "cls", "other")
