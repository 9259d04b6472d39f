"""The project's rules: imports between packages, valid files in configs/, and commands in the README."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from burnish.config import load
from tests.support.commands import ROOT
from tools.layers import MAX_LINES, OTHERS, STAGES, faults, sizes
from train.settings import TrainSettings

HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "bitsandbytes", "unsloth"}


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Yield every module that a file imports anywhere; relative ones as their package."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." if node.level else str(node.module)


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def started_modules(code: str) -> Iterator[str]:
    """Yield every module that a command in the code starts: after "-m" in a list, or passed to burnish.children."""
    places = {"confined": 1, "module": 0}  # which argument is the module
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and (name := ast.unparse(node.func).rpartition(".")[2]) in places:
            given = node.args[places[name] : places[name] + 1]
            yield from (str(word.value) for word in given if isinstance(word, ast.Constant))
        if isinstance(node, ast.List | ast.Tuple):
            words = [word.value if isinstance(word, ast.Constant) else ast.unparse(word) for word in node.elts]
            yield from (str(word) for flag, word in pairwise(words) if flag == "-m" and word != "name")


def importing_functions(code: str, package: str) -> Iterator[str]:
    """Yield the function of each import of a package, "" for an import at module level."""
    tree = ast.parse(code)
    owner = {id(inner): f.name for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for inner in ast.walk(f)}
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        if any(name.split(".")[0] == package for name in names):
            yield owner.get(id(node), "")


def test_imports_have_no_cycles_and_files_and_folders_are_small() -> None:
    """No import cycles between modules or folders, and no imports between stages: see tools/layers.py."""
    assert faults() == []


def test_tools_and_benchmarks_are_small() -> None:
    assert sizes(ROOT, OTHERS) == []


def test_layer_violations_are_reported(tmp_path: Path) -> None:
    for name, text in {
        "burnish/a.py": "from export import b\n",
        "export/b.py": "from .c import d\nfrom train import e\n",
        "export/c/__init__.py": "from .. import b\n",
        "train/e.py": "x = 1\n" * (MAX_LINES + 1),
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = "\n".join(faults(tmp_path))
    assert "cycle of modules: export." in found and "cycle of folders of export: export." in found
    assert "burnish.a imports export.b" in found and "export.b imports train.e" in found
    assert f"train/e.py: {MAX_LINES + 1} lines" in found


def test_burnish_never_imports_torch_fastapi_or_a_stage() -> None:
    forbidden = HEAVY | {"fastapi", "starlette", "uvicorn"} | set(STAGES)
    found = {p: roots(p) & forbidden for p in python_files("burnish")}
    # inside functions that serve never calls (it runs without transformers, which a test below proves) ...
    for name in ("tokenizers/comparison", "tokenizers/loader", "private/transformers"):
        found[ROOT / "burnish" / f"{name}.py"] -= {"transformers"}
    # ... and what makes a checkpoint of a GGUF base, or a GGUF of a checkpoint, in a child process
    found[ROOT / "burnish" / "tokenizers" / "convert.py"] -= {"transformers"}
    for name in ("dequantize", "gguf_tokenizer"):
        found[ROOT / "burnish" / "bases" / f"{name}.py"] -= {"torch", "transformers"}
    assert {str(p): names for p, names in found.items() if names} == {}


def test_burnish_never_runs_modules_of_the_stages() -> None:
    started = {p: set(started_modules(p.read_text(encoding="utf-8"))) for p in python_files("burnish")}
    assert {"burnish.llama", "burnish.bases.dequantize"} <= set().union(*started.values())
    above = {str(p): {n for n in names if not n.startswith("burnish.")} for p, names in started.items()}
    assert {path: names for path, names in above.items() if names} == {}


def test_test_modules_do_not_import_each_other() -> None:
    """Shared helpers are in tests/support."""
    found = {p: [name for name in imports(p) if name.startswith("tests.test_")] for p in python_files("tests")}
    assert {str(p): names for p, names in found.items() if names} == {}


def test_llama_cpp_is_imported_only_in_burnish_llama() -> None:
    outside = [p for p in python_files("burnish", "train", "export", "serve") if "llama_cpp" in roots(p)]
    assert all((ROOT / "burnish" / "llama") in p.parents for p in outside)
    assert not [p for p in python_files("train") if any(name.startswith("burnish.llama") for name in imports(p))]


def test_fastapi_and_starlette_are_imported_by_http_and_the_server_only() -> None:
    web = {"fastapi", "starlette"}
    importers = [p for p in python_files("burnish", "train", "export", "serve") if roots(p) & web]
    http, server = ROOT / "serve" / "http", ROOT / "serve" / "server.py"
    assert [str(p) for p in importers if p != server and http not in p.parents] == []


def test_pyarrow_is_imported_lazily() -> None:
    """Only where Parquet, Arrow or zstd is read or written: the serve image does not contain it."""
    found = {p: list(importing_functions(p.read_text(encoding="utf-8"), "pyarrow")) for p in
             python_files("burnish", "train", "export", "serve")}  # fmt: skip
    named = {p.name: set(names) for p, names in found.items() if names}
    written = {"tables.py": {"_pyarrow", "_write_parquet"}}
    assert named == {"arrow.py": {"read_arrow", "_batches"}, "compression.py": {"_zstd"}, **written}


def test_serve_starts_when_torch_and_transformers_cannot_be_imported() -> None:
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


def test_requirements_name_no_package_index() -> None:
    for path in (ROOT / "requirements").iterdir():
        assert not re.search(r"https?://|--(extra-)?index-url|--find-links", path.read_text()), path


def test_make_commands_in_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z][a-z-]*)", (ROOT / "README.md").read_text()))
    assert named <= targets, named - targets


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_make_variables_in_the_docs_exist(page: str) -> None:
    listed = dict(re.findall(r"^([a-z-]+):.*## (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    everywhere = {"RUNNER", "SET"}
    commands = re.findall(r"\bmake ([a-z][a-z-]*)((?: [A-Z_]+=\S+)+)", (ROOT / page).read_text())
    unknown = [
        f"make {name} {variable}="
        for name, given in commands
        for variable in re.findall(r" ([A-Z_]+)=", given)
        if variable not in everywhere and f"{variable}=" not in listed[name]
    ]
    assert commands and unknown == []


def test_readme_is_shorter_than_150_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


LOCKED = sorted(path for path in (ROOT / "requirements").glob("*.in"))


@pytest.mark.parametrize("path", LOCKED, ids=lambda p: p.stem)
def test_requirements_are_pinned_with_hashes(path: Path) -> None:
    locked = path.with_suffix(".txt").read_text()
    blocks = re.split(r"\n(?=\S)", locked.strip())[1:]
    assert blocks and all(re.match(r"[a-z0-9._-]+==\S+", block) and "--hash=sha256:" in block for block in blocks)
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", path.read_text(), re.MULTILINE)
    missing = [f"{name}=={version}" for name, version in pins if f"\n{name.lower()}=={version} " not in locked]
    assert not missing, f"make lock: {missing}"
