"""Settings: YAML file < environment < command line. Strict: every error names its source."""

from .loading import load
from .options import add_arguments, add_command, parse_arguments
from .schema import ConfigError, Flat, Given, Strict, fields, type_name

__all__ = [
    "ConfigError", "Flat", "Given", "Strict", "add_arguments", "add_command", "fields", "load", "parse_arguments",
    "type_name",
]  # fmt: skip
