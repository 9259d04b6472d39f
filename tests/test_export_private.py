"""Private API of the libraries, as export and the tokenizers need it: still there, and used in one place only."""

from __future__ import annotations

import ast
import re
from types import ModuleType

import pytest

from burnish.private import huggingface_hub
from burnish.private import transformers as tokenizers
from burnish.private.needs import Need, missing
from export.private import torch, transformers
from tests.support.commands import ROOT

PRIVATE = re.compile(r"_[a-z]\w*")
# without an underscore, and yet not documented
INTERNAL = (
    "transformers.core_model_loading",
    "transformers.conversion_mapping",
    "transformers.convert_slow_tokenizer",
    "huggingface_hub.lfs",
    "huggingface_hub.utils.sha",
)
OWN = {"_exit"}  # os._exit is documented


@pytest.mark.parametrize("module", [torch, transformers, tokenizers, huggingface_hub], ids=lambda m: m.__name__)
def test_what_is_needed_of_a_library_is_still_there(module: ModuleType) -> None:
    assert missing(module.NEEDS) == []


@pytest.mark.parametrize(
    ("need", "says"),
    [
        (Need("transformers.gone:thing", "it is slow"), "has no transformers.gone.thing any more: it is slow"),
        (Need("torch.nn:Module._gone", "it is slow"), "has no torch.nn.Module._gone any more: it is slow"),
        (Need("torch.nn:Module._gone", "it is slow", "torch.nn:Module.__init__"), "has no torch.nn.Module._gone any"),
        (Need("torch.nn:Module.compile", "it is slow", parameters=("gone",)), "no torch.nn.Module.compile(gone) any"),
    ],
    ids=["module", "attribute", "assigned", "parameters"],
)
def test_what_a_version_dropped_is_said_in_words(need: Need, says: str) -> None:
    (sentence,) = missing((need,))
    assert re.match(r"(torch|transformers) \d", sentence) and says in sentence


@pytest.mark.parametrize("folder", ["export", "burnish"])
def test_nothing_else_touches_what_libraries_keep_private(folder: str) -> None:
    # burnish/llama, the one importer of llama_cpp, has a test of its own
    paths = [p for p in sorted((ROOT / folder).rglob("*.py")) if p.parent.name not in ("private", "llama")]
    found = {str(p.relative_to(ROOT)): private_names(p.read_text(encoding="utf-8")) for p in paths}
    assert {path: names for path, names in found.items() if names} == {}


def test_private_names_are_found() -> None:
    code = "from transformers.core_model_loading import x\nimport torch._dynamo\nlayer._parameters\nself._own\nos._exit"
    assert private_names(code) == {"transformers.core_model_loading", "torch._dynamo", "_parameters"}


def private_names(code: str) -> set[str]:
    """Return the private modules that are imported, and the private attributes of anything but `self` and `cls`."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module))
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls", "other"):
            found.add(node.attr)
    return {n for n in found if n in INTERNAL or any(PRIVATE.fullmatch(part) for part in n.split("."))} - OWN
