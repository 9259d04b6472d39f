"""The output of `make check`: counts, token lengths, and one rendered row with its trained part marked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from burnish.console import printable

from ..settings import DataSection
from .mask import Codec, Row, response_text
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


def template_changes(prepared: Prepared, most: int | None = None) -> list[str]:
    """Return how the template changes responses and splits conversations.

    `most` limits the number of rows examined; None means all.
    """
    rows = [row for row in (*prepared.train, *prepared.heldout)[:most] if row.example.messages]
    before: Counter[str] = Counter()
    changed = responses = 0
    for row in rows:
        for added, same in _responses(row, prepared.codec):
            before[added] += bool(added)
            changed += not same
            responses += 1
    said = [
        f"writes {_shown(added)} before {count} of {responses} responses: it is trained with them"
        for added, count in before.most_common(MOST_SHOWN)
        if count
    ]
    if more := sum(count > 0 for count in before.values()) - len(said):
        said.append(f"writes {more} other texts before responses: they are trained with them")
    if changed:
        said.append(f"changes spaces or accents in {changed} of {responses} responses")
    if rows and (after := _after(rows[0], prepared)):
        said.append(f"writes {_shown(after)} after the last turn: it is not trained, since it follows the end token")
    parted = Counter(id(row.example) for row in rows)
    if more := sum(count > 1 for count in parted.values()):
        made = sum(count for count in parted.values() if count > 1)
        said.append(f"renders earlier turns differently: {more} conversations became {made} rows, one per turn")
    return said


def _responses(row: Row, codec: Codec) -> Iterator[tuple[str, bool]]:
    """For each complete response, yield the text before its content and whether the content is unchanged."""
    for (start, end), turn in zip(row.whole, row.turns, strict=False):
        message = (row.example.messages or ())[turn]
        content, thought = message.content, message.reasoning.strip()
        text = None if message.calls else response_text(row.input_ids[start:end], content, codec)
        if text is None:
            continue
        if same := text.endswith(content):
            added = text.removesuffix(content)
        elif text.rstrip().endswith(content.strip()):
            added = text.rstrip().removesuffix(content.strip())
        else:
            added = codec.canonical(text).rstrip().removesuffix(codec.canonical(content).strip())
        yield added.replace(thought, "...") if thought else added, same


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
    rows = [*prepared.train, *prepared.heldout]
    trained = sum(end - start for row in rows for start, end in row.learned(everything))
    total = sum(len(row.input_ids) for row in rows)
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
    for row in rows[:1]:
        console.print(printable(f"\nrow from {row.example.where}, trained part in {OPEN} {CLOSE}:\n"), markup=False)
        console.print(marked(row, prepared, everything))


def _name(percentile: int) -> str:
    return {0: "min", 50: "median", 100: "max"}.get(percentile, f"p{percentile}")
