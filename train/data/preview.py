"""What `make check` prints: counts, token lengths, and one rendered row with its trained part marked."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from .mask import Row
from .prepare import Prepared

PERCENTILES = (0, 50, 90, 95, 99, 100)
OPEN, CLOSE = "⟦", "⟧"


def percentiles(lengths: Sequence[int]) -> dict[int, int]:
    """Return the token lengths at PERCENTILES, by the nearest rank."""
    ordered = sorted(lengths)
    return {p: ordered[min(len(ordered) - 1, max(0, -(-p * len(ordered) // 100) - 1))] for p in PERCENTILES}


def marked(row: Row, prepared: Prepared) -> Text:
    """Return the row's text; what is learned stands between ⟦ and ⟧, in green on a terminal."""
    text, last = Text(), 0
    for start, end in row.spans:
        text.append(prepared.codec.decode(row.input_ids[last:start]), style="dim")
        text.append(OPEN + prepared.codec.decode(row.input_ids[start:end]) + CLOSE, style="bold green")
        last = end
    return text.append(prepared.codec.decode(row.input_ids[last:]), style="dim")


def show(prepared: Prepared, max_length: int) -> None:
    """Print the preview to standard output."""
    console = Console(soft_wrap=True, highlight=False)
    rows = [*prepared.train, *prepared.heldout]
    trained = sum(end - start for row in rows for start, end in row.spans)
    total = sum(len(row.input_ids) for row in rows)
    console.print(f"format          {prepared.format}")
    console.print(f"rows            {len(prepared.train)} to train on, {len(prepared.heldout)} held out")
    console.print(
        f"duplicates      {prepared.duplicates} repeat an earlier row; {prepared.near_duplicates} held-out rows have a"
        " near duplicate that is trained"
    )
    console.print(f"tokens          {total}, of them {trained} trained ({trained / max(total, 1):.0%})")
    lengths = percentiles(prepared.lengths)
    console.print(
        "tokens a row    " + ", ".join(f"{_name(p)} {n}" for p, n in lengths.items()) + f"; max_length {max_length}"
    )
    console.print(f"too long        {len(prepared.dropped)} dropped, {len(prepared.truncated)} truncated")
    ends = [prepared.tokenizer.convert_ids_to_tokens(i) for i in prepared.terminators]
    console.print(f"terminators     {', '.join(ends)}", markup=False)
    for row in rows[:1]:
        console.print(f"\nrow of {row.example.where}, trained part in {OPEN} {CLOSE}:\n")
        console.print(marked(row, prepared))


def _name(percentile: int) -> str:
    return {0: "min", 50: "median", 100: "max"}.get(percentile, f"p{percentile}")
