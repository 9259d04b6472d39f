"""The output of `make check`: counts, token lengths, and one rendered row with its trained part marked."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from burnish.console import printable

from ..settings import DataSection
from .mask import Row
from .prepare import Prepared

PERCENTILES = (0, 50, 90, 95, 99, 100)
OPEN, CLOSE = "⟦", "⟧"
MOST_SHOWN, LONGEST_SHOWN = 3, 60


def percentiles(lengths: Sequence[int]) -> dict[int, int]:
    """Return the token lengths at PERCENTILES (nearest rank)."""
    ordered = sorted(lengths)
    return {p: ordered[min(len(ordered) - 1, max(0, -(-p * len(ordered) // 100) - 1))] for p in PERCENTILES}


def marked(row: Row, prepared: Prepared, everything: bool = False) -> Text:
    """Return the row's text with the trained part between ⟦ and ⟧, and green on a terminal."""
    text, last = Text(), 0
    for start, end in row.learned(everything):
        text.append(_decoded(row, prepared, last, start), style="dim")
        text.append(OPEN + _decoded(row, prepared, start, end) + CLOSE, style="bold green")
        last = end
    return text.append(_decoded(row, prepared, last, len(row.input_ids)), style="dim")


def _decoded(row: Row, prepared: Prepared, start: int, end: int) -> str:
    return printable(prepared.codec.decode(row.input_ids[start:end]))


def template_changes(prepared: Prepared) -> list[str]:
    """Return how the template changes responses and splits conversations."""
    found = prepared.changes
    said = [
        f"writes {_shown(added)} before {count} of {found.responses} responses, which is trained with them"
        for added, count in found.before.most_common(MOST_SHOWN)
    ]
    if more := len(found.before) - len(said):
        said.append(f"writes {more} other texts before responses: they are trained with them")
    if found.changed:
        said.append(f"changes spaces or accents in {found.changed} of {found.responses} responses")
    first = prepared.train[0]
    if first.example.messages and (after := _after(first, prepared)):
        said.append(
            f"writes {_shown(after)} after the last turn, which is not trained because it follows the end token"
        )
    examples, rows = map(sum, zip(prepared.train.parted(), prepared.heldout.parted(), strict=True))
    if examples:
        said.append(f"renders earlier turns differently: {examples} conversations became {rows} rows, one per turn")
    return said


def _after(row: Row, prepared: Prepared) -> str:
    """Return the template's text after the end token of a conversation's last turn, stripped of whitespace."""
    if prepared.template is None or row.cut:
        return ""
    messages = [m.to_dict() for m in (row.example.messages or ())[: row.turns[-1] + 1]]
    ids = prepared.codec.chat(prepared.template).offering(row.example.tools).ids(messages)
    if ids[: len(row.input_ids)] != row.input_ids:
        return ""
    return prepared.codec.decode(ids[len(row.input_ids) :]).strip()


def _shown(text: str) -> str:
    return repr(text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "...")


def show(prepared: Prepared, data: DataSection) -> None:
    """Print the preview to standard output."""
    console = Console(soft_wrap=True, highlight=False)
    everything = not data.assistant_only_loss
    both = prepared.train, prepared.heldout
    trained = sum(rows.trained_tokens(everything) for rows in both)
    total = sum(int(rows.lengths.sum()) for rows in both)
    console.print(f"format          {prepared.format}")
    console.print(f"rows            {len(prepared.train)} for training, {len(prepared.heldout)} held out")
    console.print(
        f"duplicates      {prepared.duplicates} repeat an earlier row; {prepared.near_duplicates} held-out rows have a"
        " near duplicate among training rows"
    )
    why = "; data.assistant_only_loss is false: prompts are trained too" if everything else ""
    console.print(f"tokens          {total}, {trained} of them trained ({trained / max(total, 1):.0%}){why}")
    lengths = percentiles(prepared.lengths)
    console.print(
        "tokens per row  "
        + ", ".join(f"{_name(p)} {n}" for p, n in lengths.items())
        + (", before truncating or dropping" if prepared.dropped or prepared.truncated else "")
        + f"; max_length {data.max_length}"
    )
    console.print(f"too long        {len(prepared.dropped)} dropped, {len(prepared.truncated)} truncated")
    ends = [prepared.tokenizer.convert_ids_to_tokens(i) for i in prepared.terminators]
    console.print(printable(f"terminators     {', '.join(ends)}"), markup=False)
    for number, change in enumerate(template_changes(prepared)):
        console.print(printable(f"{'' if number else 'template':16}{change}"), markup=False)
    row = prepared.train[0]
    console.print(printable(f"\nrow from {row.example.where}, trained part in {OPEN} {CLOSE}:\n"), markup=False)
    console.print(marked(row, prepared, everything))


def _name(percentile: int) -> str:
    return {0: "min", 50: "median", 100: "max"}.get(percentile, f"p{percentile}")
