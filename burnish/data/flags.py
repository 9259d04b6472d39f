"""Flags that select the trained turns: OpenAI's `weight`, and turn flags from other tools."""

from __future__ import annotations

from typing import Any

# flags that are true for a trained turn
LEARNED = ("weight", "train", "training", "trainable", "learn", "loss")
# flags that are false for a trained turn
MASKED = ("masked", "mask")
FLAGS = frozenset({*LEARNED, *MASKED})
# flags for parts of a turn; only whole turns can be trained
PARTIAL = frozenset({"train_detail", "training_detail", "loss_mask", "assistant_masks", "assistant_mask"})
_WORDS = {"true": True, "false": False, "1": True, "0": False}


def is_trained(turn: dict[str, Any], role: str, faults: list[str], ignored: set[str]) -> bool:
    """Return whether a turn is trained; True unless a flag excludes it.

    Flags on turns of any role but the assistant have no effect and are added to `ignored`.
    """
    if turn.keys().isdisjoint(FLAGS):
        return True
    said: dict[str, bool] = {}
    for name in (*LEARNED, *MASKED):
        if (value := turn.get(name)) is not None:
            found = _read(name, value)
            if isinstance(found, str):
                if role == "assistant":
                    faults.append(found)
            else:
                said[name] = found
    if role != "assistant":
        ignored.update(said)
        return True
    if len(set(said.values())) > 1:
        faults.append(" and ".join(f"'{name}' is {turn[name]!r}" for name in said) + ": is the turn trained or not?")
    return all(said.values())


def _read(name: str, value: Any) -> bool | str:
    """Return whether a flag requests training of its turn, or an error message if the flag is invalid."""
    flag = _WORDS.get(value.strip().lower()) if isinstance(value, str) else value
    if name == "mask" and not isinstance(value, bool):
        return f"'mask' is {value!r}: tools disagree on its meaning; use 'train': true or false"
    if not isinstance(flag, (bool, int, float)) or flag not in (0, 1):
        return f"'{name}': expected {'0 or 1' if name == 'weight' else 'true or false'}, got {value!r}"
    return bool(flag) != (name in MASKED)
