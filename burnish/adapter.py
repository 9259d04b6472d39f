"""What an adapter is, by its own adapter_config.json: for the card and the report, whatever was asked for."""

from __future__ import annotations

from typing import Any

from .run import Run, RunError, read_json

CONFIG = "adapter/adapter_config.json"
ALWAYS = ("r", "lora_alpha", "lora_dropout", "target_modules", "bias", "use_rslora")
# shown where an adapter that training started from has them
WHERE_SET = (
    "use_dora", "lora_bias", "rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern",
    "exclude_modules", "modules_to_save", "trainable_token_indices",
)  # fmt: skip


def adapter_facts(run: Run) -> dict[str, Any]:
    """Return rank, scale, targets and the like under PEFT's names; empty where the run has no adapter any more."""
    try:
        config = read_json(run.path / CONFIG)
    except RunError:
        return {}
    if not isinstance(config, dict):
        return {}
    facts = {key: config[key] for key in ALWAYS if key in config}
    facts |= {key: config[key] for key in WHERE_SET if _is_set(config.get(key))}
    if isinstance(targets := facts.get("target_modules"), list):
        facts["target_modules"] = sorted(map(str, targets))  # PEFT writes a set, in any order
    return facts


def _is_set(value: Any) -> bool:
    return not (value is None or value is False or value == [] or value == {})
