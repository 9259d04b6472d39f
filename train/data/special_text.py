"""The base's special strings in the rows' text: which strings, in which rows, and how they are tokenized."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from burnish.chat import ChatTemplate
from burnish.data.files import DataError
from burnish.data.formats import Example
from burnish.tokenizers.special_text import Reading, find_strings

from .lint import rows_named
from .mask import Codec


def reading(setting: str) -> Reading:
    """Return how special strings in messages are tokenized: only `parse` turns them into control tokens."""
    return "parse" if setting == "parse" else "text"


def special_strings(
    examples: Sequence[Example], template: ChatTemplate | None, codec: Codec
) -> dict[str, tuple[int, ...]]:
    """Return the rows containing each special string except assistant markers, most frequent first."""
    found: defaultdict[str, dict[int, None]] = defaultdict(dict)
    for example, _, string in _found(examples, template, codec):
        found[string][example.number] = None
    return {string: tuple(rows) for string, rows in sorted(found.items(), key=lambda item: -len(item[1]))}


def refuse(examples: Sequence[Example], template: ChatTemplate | None, codec: Codec, path: str) -> None:
    """Raise DataError listing every row and turn whose text contains a special string."""
    turns: defaultdict[tuple[str, int], dict[str, None]] = defaultdict(dict)
    for example, index, string in _found(examples, template, codec):
        turns[example.where, index][string] = None
    way = "remove them, or set data.special_tokens to text or parse"
    faults = [
        f"{path}: {where}: turn {index + 1}: its text has {', '.join(strings)}, special tokens of this base: {way}"
        for (where, index), strings in turns.items()
    ]
    if faults:
        raise DataError(faults)


def written_warning(found: Mapping[str, tuple[int, ...]], unit: str, reading: Reading) -> str:
    """Return a warning with the strings, their rows, and how they are tokenized."""
    made = {
        "text": "trained and served as text (data.special_tokens: text silences this, parse makes them control tokens)",
        "parse": "read as control tokens (data.special_tokens is parse)",
    }
    return f"special strings of this base, {rows_named(found, unit)}, are in the messages: they are {made[reading]}"


def _found(
    examples: Sequence[Example], template: ChatTemplate | None, codec: Codec
) -> Iterator[tuple[Example, int, str]]:
    """Yield each special string with its row and the index of its message."""
    if template is None:
        return
    chat = codec.chat(template)
    for example in examples:
        for index, _, string in find_strings(chat, [message.to_dict() for message in example.messages or ()]):
            yield example, index, string
