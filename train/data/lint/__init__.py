"""Warnings about rows that are well-formed but probably teach the wrong thing."""

from .facts import Facts
from .warnings import LintWarning, lint, rows_named, warnings_of

__all__ = ["Facts", "LintWarning", "lint", "rows_named", "warnings_of"]
