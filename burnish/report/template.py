"""Render the pages' templates, which stand beside this file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def rendered(name: str, **values: Any) -> str:
    """Render a template. Its autoescaping escapes all text from data and records."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(name).render(**values)
    # an unpaired surrogate in a row could not be encoded
    return page.encode("utf-8", "replace").decode("utf-8")
