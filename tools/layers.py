"""The architecture, read from the imports: python -m tools.layers (make layers).

Prints each package's folders in layers: a folder imports only from layers below its own. Ends with exit code 1 where
modules import each other in a circle, where a stage imports another, or where a folder reaches above itself.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("burnish", "train", "export", "serve")
STAGES = ("train", "export", "serve")
OTHERS = ("tools", "bench")  # whose sizes count too
MAX_MODULES, MAX_LINES = 14, 400
Graph = dict[str, set[str]]


def module_name(path: Path, root: Path = ROOT) -> str:
    """Return the dotted name of a file; a package's is that of its folder."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, root: Path = ROOT, typing: bool = False) -> Iterator[str]:
    """Yield every dotted name that a file imports when it runs; `from a import b` gives `a.b`.

    Imports inside functions count; those under `if TYPE_CHECKING`, which import nothing, only with `typing`.
    """
    package = module_name(path, root).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typed = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typed and not typing:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def module_graph(root: Path = ROOT, typing: bool = False) -> Graph:
    """Return every module of the packages with those of them that it imports; `typing`: see `imported`."""
    files = {module_name(path, root): path for name in PACKAGES for path in (root / name).rglob("*.py")}
    graph: Graph = {}
    for name, path in files.items():
        targets = (_known(dotted, files) for dotted in imported(path, root, typing))
        graph[name] = {target for target in targets if target} - {name}
    return graph


def _known(dotted: str, files: dict[str, Path]) -> str | None:
    """Return the module that a dotted name belongs to: itself, or the one that defines its last part."""
    return next((name for name in (dotted, dotted.rpartition(".")[0]) if name in files), None)


def folder(module: str) -> str:
    """Return what a module is drawn as: its sub-package, or itself where it lies in the package's own folder."""
    return ".".join(module.split(".")[:2])


def folder_graph(graph: Graph, package: str) -> Graph:
    """Return a package's folders with those of its folders that they import."""
    edges: Graph = {}
    for module, targets in graph.items():
        if module.startswith(package + "."):
            inside = {folder(t) for t in targets if t.startswith(package + ".")} - {folder(module)}
            edges.setdefault(folder(module), set()).update(inside)
    return edges


def layers(graph: Graph) -> list[list[str]]:
    """Return a graph's nodes in layers, the ones that import nothing first. Raises graphlib.CycleError."""
    sorter = TopologicalSorter(graph)
    sorter.prepare()
    found = []
    while sorter.is_active():
        ready = sorter.get_ready()
        found.append(sorted(ready))
        sorter.done(*ready)
    return found


def faults(root: Path = ROOT, packages: Sequence[str] = PACKAGES) -> list[str]:
    """Return what breaks the architecture in these packages, a line each: circles, imports of another stage, size."""
    graph = {name: targets for name, targets in module_graph(root).items() if name.split(".")[0] in packages}
    found = []
    for what, part in [("modules", graph), *((f"folders of {name}", folder_graph(graph, name)) for name in packages)]:
        try:
            layers(part)
        except CycleError as error:
            found.append(f"circle of {what}: {' -> '.join(error.args[1])}")
    for module, targets in sorted(module_graph(root, typing=True).items()):
        stage = module.split(".")[0]
        if stage not in packages:
            continue
        for target in sorted(targets):
            other = target.split(".")[0]
            if other != stage and other in STAGES:
                found.append(f"{module} imports {target}: a stage is known by its record only")
    return found + sizes(root, packages)


def sizes(root: Path, packages: Sequence[str]) -> list[str]:
    """Return the folders and files of the packages that are too large, a line each."""
    found = []
    for name in packages:
        paths = sorted((root / name).rglob("*.py"))
        for directory in sorted({path.parent for path in paths}):
            if (count := len(list(directory.glob("*.py")))) > MAX_MODULES:
                found.append(f"{directory.relative_to(root)}: {count} modules, at most {MAX_MODULES}")
        for path in paths:
            if (count := path.read_text(encoding="utf-8").count("\n")) > MAX_LINES:
                found.append(f"{path.relative_to(root)}: {count} lines, at most {MAX_LINES}")
    return found


def main() -> int:
    """Print the layers of each package, the top one first, and what breaks the rules."""
    graph = module_graph()
    for package in PACKAGES:
        print(package)
        try:
            for level, names in reversed(list(enumerate(layers(folder_graph(graph, package))))):
                print(f"  {level}  {'  '.join(name.removeprefix(package + '.') for name in names)}")
        except CycleError:
            print("  in a circle")
    found = faults() + sizes(ROOT, OTHERS)
    print("\n".join(found) or "no circle, no import upward, no folder or file too large")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
