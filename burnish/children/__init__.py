"""The stages' child processes: imports, environment and resource limits."""

from .command import ROOT, Limits, confined, environment, module, reaches_network, search_path

__all__ = ["ROOT", "Limits", "confined", "environment", "module", "reaches_network", "search_path"]
