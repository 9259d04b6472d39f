"""runs/index.html: a self-contained page with a line for each run, linking the reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..files import write_atomic
from ..report import REPORT
from .summary import Summary

INDEX = "index.html"


def write_index(root: Path, runs: Sequence[Summary]) -> Path:
    """Write the page atomically; return its path. The template escapes all text from records."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    links = {one.run.id: f"{quote(one.run.id)}/{REPORT}" for one in runs if (one.run.path / REPORT).is_file()}
    page = environment.get_template("index.html.jinja").render(runs=runs, links=links)
    path = root / INDEX
    write_atomic(path, page.encode("utf-8", "replace").decode(), private=True)  # names of data files
    return path
