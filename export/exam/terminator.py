"""End tokens: the artifact stops at the end of every trained turn, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.exam.rows import Exam
from burnish.files import read_json
from burnish.llama import Model
from burnish.records import TrainRecord

from .parity import Check

MAX_NAMED = 8  # maximum number of wrong stops listed in a message


@dataclass(frozen=True)
class Ends:
    """The ids at which a server stops generating: the artifact's `own`, and those `recorded` in train.json.

    `text` returns a token's text, empty for a control token.
    """

    own: frozenset[int]
    recorded: frozenset[int]
    text: Callable[[int], str]

    @property
    def all(self) -> frozenset[int]:
        """All ids that end an answer."""
        return self.own | self.recorded


def terminator(exam: Exam, ends: Ends) -> Check:
    """Check that every examined turn ends with an end-of-generation token, and that generation stops nowhere else.

    A recorded end token that is ordinary text, or a stop token inside a trained turn, would truncate answers.
    """
    turns = [q.input_ids[max(start, 1) : end] for q in exam.questions if q.messages for start, end in q.spans]
    last = {ids[-1] for ids in turns}
    faults = []
    if lost := sorted(last - ends.own):
        faults.append(f"trained turns end in token {', '.join(map(str, lost))}, where it does not stop")
    if wrong := sorted(i for i in ends.recorded - last if ends.text(i).strip()):
        faults.append(
            f"train.json records ordinary text as end tokens, which would cut answers: {_named(wrong, ends)}; train"
            " again"
        )
    if inside := sorted({i for ids in turns for i in _inside(ids, ends)} - set(wrong)):
        faults.append(f"the file stops inside trained turns, at {_named(inside, ends)}, so answers would be cut")
    return Check(not faults if turns or faults else None, "; ".join(faults))


def _inside(ids: list[int], ends: Ends) -> Iterator[int]:
    """Yield one turn's stop tokens that are followed by more ordinary text."""
    stops = ends.all
    following = False
    for token in reversed(ids):
        if token in stops and following:
            yield token
        following = following or (token not in stops and bool(ends.text(token).strip()))


def _named(tokens: list[int], ends: Ends) -> str:
    """Format the first few tokens with id and text, for messages."""
    shown = ", ".join(f"{i} {text!r}" if (text := ends.text(i)) else str(i) for i in tokens[:MAX_NAMED])
    return f"{len(tokens)} tokens ({shown}{', …' if len(tokens) > MAX_NAMED else ''})"


def checkpoint_ends(directory: Path, tokenizer: Any, record: TrainRecord) -> Ends:
    """Return a checkpoint's end tokens in transformers, and the recorded ones found in its vocabulary."""
    recorded = tokenizer.convert_tokens_to_ids(record.terminators)
    return Ends(
        _eos(directory),
        frozenset(token for token in recorded if token is not None),
        lambda token: str(tokenizer.decode([token], skip_special_tokens=True)),
    )


def _eos(directory: Path) -> frozenset[int]:
    """Return the end tokens used by transformers: from generation_config.json, else from config.json."""
    files = (directory / "generation_config.json", directory / "config.json")
    content: dict[str, Any] = next((read_json(path) for path in files if path.is_file()), {})
    eos = content.get("eos_token_id")
    return frozenset(eos if isinstance(eos, list) else [] if eos is None else [eos])


def gguf_ends(model: Model, record: TrainRecord) -> Ends:
    """Return a server's end tokens: llama.cpp's own set, and each recorded end that is a single token here."""
    recorded = [model.tokenize(text) for text in record.terminators]
    return Ends(
        model.eog_ids(),
        frozenset(ids[0] for ids in recorded if len(ids) == 1),
        lambda token: model.piece(token).decode("utf-8", "replace"),
    )
