"""The processes that the stages start: what they may import, see and use of the machine."""

from .command import ROOT, Limits, confined, environment, module, reaches_network, search_path

__all__ = ["ROOT", "Limits", "confined", "environment", "module", "reaches_network", "search_path"]
