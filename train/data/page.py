"""Collect what the page of `make check` shows: counts, warnings with their rows, and rows with their trained part."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from burnish.console import counted, printable
from burnish.files import write_atomic
from burnish.report.check import CheckView, Piece, ShownRow, ShownWarning, length_plot, render_check, share_plot

from ..settings import TrainSettings
from .mask import Row
from .prepare import Prepared
from .preview import percentiles, template_changes

RANDOM_ROWS, EXTREME_ROWS = 20, 3
MOST_LOOKED_AT = 5000  # rows among which the shortest, longest and strangest are looked for, by the seed
HEAD_TOKENS, TAIL_TOKENS = 1200, 300  # of a long row that are shown
MOST_LINES = 500


def write_page(path: Path, prepared: Prepared, settings: TrainSettings) -> Path:
    """Write the page, readable only by its owner, since it shows rows; return its path."""
    write_atomic(path, render_check(view_of(prepared, settings)), private=True)
    return path


def view_of(prepared: Prepared, settings: TrainSettings) -> CheckView:
    """Return the data for the page of `make check`."""
    data, both = settings.data, (prepared.train, prepared.heldout)
    everything = not data.assistant_only_loss
    total = sum(int(rows.lengths.sum()) for rows in both)
    trained = sum(rows.trained_tokens(everything) for rows in both)
    rows = _sample(prepared, settings.train.seed)
    shown = _Shown(prepared, everything)
    warnings = [_warning(text, prepared) for text in prepared.warnings]
    return CheckView(
        title=data.path,
        subtitle=f"format {prepared.format}, for {prepared.base.id}",
        rows=counted(len(prepared.train) + len(prepared.heldout), "row"),
        headline=f"{counted(len(warnings), 'warning')} to look at" if warnings else "No warnings",
        why="The rows are well-formed, and what is trained of each is proven. Look at some of them below.",
        tiles=_tiles(prepared, total, trained),
        sources=prepared.sources,
        warnings=warnings,
        lengths=length_plot([int(length) for length in prepared.lengths]),
        lengths_note=", ".join(f"{_percentile(p)} {n:,}" for p, n in percentiles(prepared.lengths).items())
        + f"; data.max_length {data.max_length:,}",
        shares=share_plot([_trained(row, everything) / len(row.input_ids) for row, _ in rows]),
        shares_note="prompts are trained too: data.assistant_only_loss is false" if everything else "only responses",
        random=[shown.row(row, held) for row, held in rows[:RANDOM_ROWS]],
        extremes=_extremes(rows, shown),
        facts=_facts(prepared),
    )


class _Shown:
    """Shows rows: pieces of text, by whether they are trained and whether they are special tokens."""

    def __init__(self, prepared: Prepared, everything: bool) -> None:
        self.codec, self.tokenizer, self.everything = prepared.codec, prepared.tokenizer, everything
        self.special = {*prepared.codec.vocabulary.specials.values(), *prepared.codec.end_ids, *prepared.codec.bos}

    def row(self, row: Row, heldout: bool, why: str = "") -> ShownRow:
        trained = _trained(row, self.everything)
        pieces = tuple(self._pieces(row))
        return ShownRow(row.example.where, len(row.input_ids), trained, pieces, heldout, why)

    def _pieces(self, row: Row) -> Iterator[Piece]:
        count = len(row.input_ids)
        if count <= HEAD_TOKENS + TAIL_TOKENS:
            yield from self._between(row, 0, count)
            return
        yield from self._between(row, 0, HEAD_TOKENS)
        yield Piece(f"… {count - HEAD_TOKENS - TAIL_TOKENS:,} tokens are not shown …", left=True)
        yield from self._between(row, count - TAIL_TOKENS, count)

    def _between(self, row: Row, start: int, end: int) -> Iterator[Piece]:
        learned = [False] * len(row.input_ids)
        for first, last in row.learned(self.everything):
            learned[first:last] = [True] * (last - first)
        tokens = [(row.input_ids[i], learned[i]) for i in range(start, end)]
        for (trained, special), group in groupby(tokens, key=lambda token: (token[1], token[0] in self.special)):
            text = self.codec.decode([token for token, _ in group])
            yield Piece(printable(text), f"{'learned' if trained else ''}{' special' if special else ''}".strip())

    def strangeness(self, row: Row) -> float:
        """Return the tokens per character: garbled text, codes and rare scripts take many."""
        return len(row.input_ids) / max(1, len(self.codec.decode(row.input_ids)))


def _sample(prepared: Prepared, seed: int) -> list[tuple[Row, bool]]:
    """Return up to MOST_LOOKED_AT rows in random order, each with whether it is held out."""
    chosen = random.Random(seed)
    count = len(prepared.train) + len(prepared.heldout)
    places = chosen.sample(range(count), min(count, MOST_LOOKED_AT))
    border = len(prepared.train)
    return [(prepared.train[n], False) if n < border else (prepared.heldout[n - border], True) for n in places]


def _extremes(rows: Sequence[tuple[Row, bool]], shown: _Shown) -> list[tuple[str, list[ShownRow]]]:
    by_length = sorted(rows, key=lambda row: len(row[0].input_ids))
    strange = sorted(((shown.strangeness(row), row, held) for row, held in rows), key=lambda one: -one[0])
    return [
        ("The longest", [shown.row(*row) for row in by_length[::-1][:EXTREME_ROWS]]),
        ("The shortest", [shown.row(*row) for row in by_length[:EXTREME_ROWS]]),
        (
            "The strangest: the most tokens per character, as in garbled text, codes and rare scripts",
            [shown.row(row, held, f"{ratio:.2f} tokens per character") for ratio, row, held in strange[:EXTREME_ROWS]],
        ),
    ]


def _tiles(prepared: Prepared, total: int, trained: int) -> list[tuple[str, str]]:
    return [
        ("rows for training, held out", f"{len(prepared.train):,}, {len(prepared.heldout):,}"),
        ("tokens", f"{total:,}"),
        ("of the tokens trained", f"{trained / max(total, 1):.0%}"),
        ("rows that repeat an earlier one", f"{prepared.duplicates:,}"),
        (
            "held-out rows like a training row, or in both files",
            f"{prepared.near_duplicates:,}, {prepared.eval_overlap:,}",
        ),
        ("too long: dropped, truncated", f"{len(prepared.dropped):,}, {len(prepared.truncated):,}"),
    ]


def _warning(text: str, prepared: Prepared) -> ShownWarning:
    lines = prepared.lines_of.get(text, ())
    more = f" and {len(lines) - MOST_LINES:,} more" if len(lines) > MOST_LINES else ""
    return ShownWarning(text, ", ".join(map(str, lines[:MOST_LINES])) + more, prepared.train[0].example.unit)


def _facts(prepared: Prepared) -> list[tuple[str, str]]:
    ends = [str(prepared.tokenizer.convert_ids_to_tokens(i)) for i in prepared.terminators]
    changes = [("the template", printable(change)) for change in template_changes(prepared)]
    return [("turns end in", printable(", ".join(ends))), *changes, ("data sha256", prepared.data_sha256)]


def _trained(row: Row, everything: bool) -> int:
    return sum(end - start for start, end in row.learned(everything))


def _percentile(percentile: int) -> str:
    return {0: "min", 50: "median", 100: "max"}.get(percentile, f"p{percentile}")
