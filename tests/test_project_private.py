"""Private APIs of libraries: they still exist, a missing one is a clear error, and they are used in one place."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

import burnish.private.huggingface_hub
import burnish.private.transformers
import export.private.torch
import export.private.transformers
import serve.decoding.constraints.library
import serve.private.uvicorn
import train.private.bitsandbytes
import train.private.peft
import train.private.torch
import train.private.transformers
import train.private.trl
from burnish.private.needs import Need, missing
from tests.support.commands import ROOT
from tests.support.private_names import private_names

MODULES = (
    burnish.private.huggingface_hub, burnish.private.transformers, export.private.torch, export.private.transformers,
    serve.decoding.constraints.library, serve.private.uvicorn, train.private.bitsandbytes, train.private.peft,
    train.private.torch, train.private.transformers, train.private.trl,
)  # fmt: skip
# burnish/llama, the only importer of llama_cpp, has a separate test
OTHERS = [
    path
    for folder in ("burnish", "train", "export", "serve")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.parent.name != "private" and (path.parent.name != "llama" or folder == "serve")
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_private_apis_in_use_still_exist(module: ModuleType) -> None:
    assert missing(module.NEEDS) == []


@pytest.mark.parametrize(
    ("need", "message"),
    [
        (Need("transformers.gone:thing", "it is slow"), "has no transformers.gone.thing any more: it is slow"),
        (Need("torch.nn:Module._gone", "it is slow"), "has no torch.nn.Module._gone any more: it is slow"),
        (Need("torch:Tensor._gone", "it is slow", "torch.nn:Module.__init__"), "has no torch.Tensor._gone any more"),
        (Need("torch.nn:Module.compile", "it is slow", parameters=("gone",)), "no torch.nn.Module.compile(gone) any"),
    ],
    ids=["module", "attribute", "assigned", "parameters"],
)
def test_removed_private_api_is_a_clear_error(need: Need, message: str) -> None:
    (sentence,) = missing((need,))
    assert re.match(r"(torch|transformers) \d", sentence) and message in sentence


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_private_apis_are_used_only_in_private_modules(path: Path) -> None:
    assert private_names(path.read_text(encoding="utf-8")) == set()


def test_private_api_scanner_detects_private_names() -> None:
    code = """
import os, torch._dynamo
from transformers.utils._gone import thing
from transformers.core_model_loading import x
class Trainer(Base):
    _kept: int
    def _own(self): self._made = self._own() + self._theirs + self._kept
trainer._load(1); os._exit(0)
layer._compiled = super()._clip()
"""
    assert private_names(code) == {
        "_clip", "_compiled", "_load", "_theirs", "torch._dynamo", "transformers.core_model_loading",
        "transformers.utils._gone",
    }  # fmt: skip
