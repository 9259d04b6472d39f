"""Check the architecture from the imports: python -m tools.layers (make layers).

Prints the folders of each package in layers: a folder imports only from layers below it. The exit code is 1 if modules
or folders import each other in a cycle, if a stage imports another, or if a folder or file is too large.
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
OTHERS = ("tools", "bench")  # checked for size only
MAX_MODULES, MAX_LINES = 14, 400
Graph = dict[str, set[str]]


def module_name(path: Path, root: Path = ROOT) -> str:
    """Return a file's dotted name; for __init__.py, its folder's."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, root: Path = ROOT, typing: bool = False) -> Iterator[str]:
    """Yield every dotted name that a file imports at run time; `from a import b` yields `a.b`.

    Imports inside functions count; those under `if TYPE_CHECKING` only with `typing`.
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
    """Map each module in the packages to the modules it imports from them; for `typing` see `imported`."""
    files = {module_name(path, root): path for name in PACKAGES for path in (root / name).rglob("*.py")}
    graph: Graph = {}
    for name, path in files.items():
        targets = (_known(dotted, files) for dotted in imported(path, root, typing))
        graph[name] = {target for target in targets if target} - {name}
    return graph


def _known(dotted: str, files: dict[str, Path]) -> str | None:
    """Return a dotted name's module: the name itself, or the module that defines its last part."""
    return next((name for name in (dotted, dotted.rpartition(".")[0]) if name in files), None)


def folder(module: str) -> str:
    """Return the sub-package of a module, or the module itself if it is directly in the package."""
    return ".".join(module.split(".")[:2])


def folder_graph(graph: Graph, package: str) -> Graph:
    """Map each folder of a package to the folders it imports from that package."""
    edges: Graph = {}
    for module, targets in graph.items():
        if module.startswith(package + "."):
            inside = {folder(t) for t in targets if t.startswith(package + ".")} - {folder(module)}
            edges.setdefault(folder(module), set()).update(inside)
    return edges


def layers(graph: Graph) -> list[list[str]]:
    """Return a graph's nodes in layers, lowest first. Raises graphlib.CycleError."""
    sorter = TopologicalSorter(graph)
    sorter.prepare()
    found = []
    while sorter.is_active():
        ready = sorter.get_ready()
        found.append(sorted(ready))
        sorter.done(*ready)
    return found


def faults(root: Path = ROOT, packages: Sequence[str] = PACKAGES) -> list[str]:
    """Return the violations in these packages, one per line: cycles, imports from a different stage, sizes."""
    graph = {name: targets for name, targets in module_graph(root).items() if name.split(".")[0] in packages}
    found = []
    for what, part in [("modules", graph), *((f"folders of {name}", folder_graph(graph, name)) for name in packages)]:
        try:
            layers(part)
        except CycleError as error:
            found.append(f"cycle of {what}: {' -> '.join(error.args[1])}")
    for module, targets in sorted(module_graph(root, typing=True).items()):
        stage = module.split(".")[0]
        if stage not in packages:
            continue
        for target in sorted(targets):
            other = target.split(".")[0]
            if other != stage and other in STAGES:
                found.append(f"{module} imports {target}: stages must not import each other, only read their records")
    return found + sizes(root, packages)


def sizes(root: Path, packages: Sequence[str]) -> list[str]:
    """Return the folders and files that are too large, one per line."""
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
    """Print the layers of each package, highest first, and all violations."""
    graph = module_graph()
    for package in PACKAGES:
        print(package)
        try:
            for level, names in reversed(list(enumerate(layers(folder_graph(graph, package))))):
                print(f"  {level}  {'  '.join(name.removeprefix(package + '.') for name in names)}")
        except CycleError:
            print("  in a cycle")
    found = faults() + sizes(ROOT, OTHERS)
    print("\n".join(found) or "no cycles, no imports between stages, no folder or file too large")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
