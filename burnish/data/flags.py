"""Which turns are learned: OpenAI's `weight`, and the flags that other tools write on a turn."""

from __future__ import annotations

from typing import Any

# a turn with one of these is learned where it is true
LEARNED = ("weight", "train", "training", "trainable", "learn", "loss")
# and with one of these where it is false
MASKED = ("masked", "mask")
FLAGS = frozenset({*LEARNED, *MASKED})
# what says it for parts of a turn, which is learned whole or not at all
PARTIAL = frozenset({"train_detail", "training_detail", "loss_mask", "assistant_masks", "assistant_mask"})
_WORDS = {"true": True, "false": False, "1": True, "0": False}


def is_trained(turn: dict[str, Any], role: str, faults: list[str], ignored: set[str]) -> bool:
    """Return whether a turn is learned, True where nothing says otherwise.

    Flags on other turns than the assistant's say nothing: they are added to `ignored`.
    """
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
        faults.append(" and ".join(f"'{name}' is {turn[name]!r}" for name in said) + ": is the turn learned or not?")
    return all(said.values())


def _read(name: str, value: Any) -> bool | str:
    """Return whether a flag wants its turn learned, or what is wrong with it."""
    flag = _WORDS.get(value.strip().lower()) if isinstance(value, str) else value
    if name == "mask" and not isinstance(value, bool):
        return f"'mask' is {value!r}: some tools mean learned by that, some not; write it as 'train': true or false"
    if not isinstance(flag, (bool, int, float)) or flag not in (0, 1):
        return f"'{name}' is {value!r}, expected {'0 or 1' if name == 'weight' else 'true or false'}"
    return bool(flag) != (name in MASKED)
