"""End tokens: every trained turn ends in a token at which the artefact stops, and it stops nowhere else."""

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

MOST_NAMED = 8  # how many wrong stops a message names


@dataclass(frozen=True)
class Ends:
    """Where a server of an artefact ends an answer: `own` by the artefact itself, `recorded` in train.json.

    `text` gives a token's own text, empty for a control token.
    """

    own: frozenset[int]
    recorded: frozenset[int]
    text: Callable[[int], str]

    @property
    def all(self) -> frozenset[int]:
        """Every id at which an answer ends."""
        return self.own | self.recorded


def terminator(exam: Exam, ends: Ends) -> Check:
    """Check that every examined turn ends in a token that ends the artefact's generation, and that nothing else does.

    A recorded end that is ordinary text, and any stop inside a trained turn, would cut answers short.
    """
    turns = [q.input_ids[max(start, 1) : end] for q in exam.questions if q.messages for start, end in q.spans]
    last = {ids[-1] for ids in turns}
    faults = []
    if lost := sorted(last - ends.own):
        faults.append(f"trained turns end in token {', '.join(map(str, lost))}, at which it does not stop")
    if wrong := sorted(i for i in ends.recorded - last if ends.text(i).strip()):
        faults.append(
            f"train.json records ordinary text as ends, at which answers would be cut: {_named(wrong, ends)}; train"
            " again"
        )
    if inside := sorted({i for ids in turns for i in _inside(ids, ends)} - set(wrong)):
        faults.append(f"it stops inside trained turns, at {_named(inside, ends)}, so answers would be cut there")
    return Check(not faults if turns or faults else None, "; ".join(faults))


def _inside(ids: list[int], ends: Ends) -> Iterator[int]:
    """Yield the stops of one turn that come before its end: with ordinary text still to follow."""
    stops = ends.all
    following = False
    for token in reversed(ids):
        if token in stops and following:
            yield token
        following = following or (token not in stops and bool(ends.text(token).strip()))


def _named(tokens: list[int], ends: Ends) -> str:
    """Name tokens by id and text, the first few of many."""
    shown = ", ".join(f"{i} {text!r}" if (text := ends.text(i)) else str(i) for i in tokens[:MOST_NAMED])
    return f"{len(tokens)} tokens ({shown}{', …' if len(tokens) > MOST_NAMED else ''})"


def checkpoint_ends(directory: Path, tokenizer: Any, record: TrainRecord) -> Ends:
    """Return where transformers ends a generation of a checkpoint, and the recorded ends in its vocabulary."""
    recorded = tokenizer.convert_tokens_to_ids(record.terminators)
    return Ends(
        _eos(directory),
        frozenset(token for token in recorded if token is not None),
        lambda token: str(tokenizer.decode([token], skip_special_tokens=True)),
    )


def _eos(directory: Path) -> frozenset[int]:
    """Return the ids at which transformers ends a generation: generation_config.json's, else config.json's."""
    files = (directory / "generation_config.json", directory / "config.json")
    content: dict[str, Any] = next((read_json(path) for path in files if path.is_file()), {})
    eos = content.get("eos_token_id")
    return frozenset(eos if isinstance(eos, list) else [] if eos is None else [eos])


def gguf_ends(model: Model, record: TrainRecord) -> Ends:
    """Return where a server would stop: llama.cpp's own set, and each recorded end that is one token here."""
    recorded = [model.tokenize(text) for text in record.terminators]
    return Ends(
        model.eog_ids(),
        frozenset(ids[0] for ids in recorded if len(ids) == 1),
        lambda token: model.piece(token).decode("utf-8", "replace"),
    )
