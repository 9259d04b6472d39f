"""The house's own rules: who imports whom, what every file in configs/ and the README promise."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from burnish.config import load
from tests.support.commands import ROOT
from train.settings import TrainSettings

STAGES = ("train", "export", "serve")
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "bitsandbytes", "unsloth"}


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it; relative ones as their package."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." if node.level else str(node.module)


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_knows_another_only_by_its_record(stage: str) -> None:
    others = set(STAGES) - {stage}
    assert {str(p): roots(p) & others for p in python_files(stage) if roots(p) & others} == {}


def test_the_shared_rooms_never_import_torch_fastapi_or_a_stage() -> None:
    forbidden = HEAVY | {"fastapi", "starlette", "uvicorn"} | set(STAGES)
    found = {p: roots(p) & forbidden for p in python_files("burnish")}
    # the loader inside its functions (serve runs without transformers, which the test below proves), and what makes a
    # checkpoint of a GGUF base, in a child process
    found[ROOT / "burnish" / "tokenizers" / "loader.py"] -= {"transformers"}
    for name in ("dequantize", "gguf_tokenizer"):
        found[ROOT / "burnish" / "bases" / f"{name}.py"] -= {"torch", "transformers"}
    assert {str(p): names for p, names in found.items() if names} == {}


def test_no_test_module_imports_another() -> None:
    """What several of them use stands in tests/support."""
    found = {p: [name for name in imports(p) if name.startswith("tests.test_")] for p in python_files("tests")}
    assert {str(p): names for p, names in found.items() if names} == {}


def test_llama_cpp_has_one_room_and_train_never_enters_it() -> None:
    outside = [p for p in python_files("burnish", "train", "export", "serve") if "llama_cpp" in roots(p)]
    assert all((ROOT / "burnish" / "llama") in p.parents for p in outside)
    assert not [p for p in python_files("train") if any(name.startswith("burnish.llama") for name in imports(p))]


def test_serve_runs_where_torch_and_transformers_cannot_be_imported() -> None:
    code = (
        "import sys\n"
        f"blocked = {sorted(HEAVY)!r}\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in blocked: raise ImportError('blocked: ' + name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "sys.argv = ['serve', '--help']\n"
        "import runpy; runpy.run_module('serve', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "--port" in done.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_config_loads(path: Path) -> None:
    assert load(TrainSettings, "train", path, {}, {}).base.id


def test_no_requirement_names_an_index() -> None:
    for path in (ROOT / "requirements").iterdir():
        assert not re.search(r"https?://|--(extra-)?index-url|--find-links", path.read_text()), path


def test_every_make_verb_in_the_readme_is_a_target() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z][a-z-]*)", (ROOT / "README.md").read_text()))
    assert named <= targets, named - targets


def test_rooms_are_small() -> None:
    sizes = {p: len(p.read_text().splitlines()) for p in python_files("burnish", "train", "export", "serve", "tools")}
    assert {str(p): n for p, n in sizes.items() if n > 400} == {}
