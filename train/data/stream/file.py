"""Load one data file's prepared rows from the cache, or prepare them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from burnish.bases import embeddings
from burnish.console import counted, gib, say, warn
from burnish.data.files import DataError

from ...settings import DataSection
from ..cache.key import rows_key
from ..cache.shelf import Shelf
from ..cache.store import META, Store
from ..lint import warnings_of
from ..mask import MaskError
from ..rendered import rendering
from ..sources import Opened
from ..special_text import written_warning
from ..text import Text
from ..tools import check_tools
from ..vocabulary import UnknownIds
from .fill import LOOKED, Filling
from .work import Findings, Work

MOST_LINES = 1000  # of a warning that are kept


def check_rows(opened: Opened, data: DataSection) -> None:
    """Raise DataError with the errors of all rows, without rendering them."""
    work = Work(opened.converter(data), None, None, UnknownIds(None))
    filling = Filling(opened, work, None)
    _raise_data_faults(filling.run(), filling)


def file_rows(opened: Opened, content: str, text: Text, data: DataSection, shelf: Shelf) -> Store:
    """Return a file's prepared rows; `content` is the file's sha256. Raises UserError with the errors of all rows."""
    key = rows_key(content, opened.path, opened.format, data, text, embeddings.rows(text.base.path))
    store = shelf.find(key)
    if store is None:
        with shelf.preparing(key):
            store = shelf.find(key)  # another command may have been first
            if store is None:
                with shelf.writing(key) as directory:
                    _write(opened, text, data, directory)
                store = shelf.find(key)
        if store is None:
            raise DataError(f"{shelf.root / key}: the prepared rows disappeared: run again")
        size = sum(path.stat().st_size for path in store.directory.iterdir())
        say(f"data: {opened.path}: prepared rows are cached for the next command ({gib(size)} in {shelf.root})")
        shelf.tidy(keep=key)
    _say(opened, store)
    return store


def _write(opened: Opened, text: Text, data: DataSection, directory: Path) -> None:
    unknown = UnknownIds(embeddings.rows(text.base.path), text.dropped_tokens)
    work = Work(opened.converter(data), text.template, text.codec, unknown)
    filling = Filling(opened, work, directory)
    found = filling.run()
    _raise_data_faults(found, filling)
    opened.check_unchanged()
    others = f"; none of the first {LOOKED} rows can be trained, so the others were not checked"
    _raise_faults(found, opened.path, text, data, others if filling.given_up else "")
    start = {"files": list(filling.files), "sums": filling.sums}
    _dump(directory, start)  # so that the store can be read
    _dump(directory, {**start, **_findings(found, opened, text, data, Store(directory))})


def _raise_data_faults(found: Findings, filling: Filling) -> None:
    faults, more = list(filling.error.faults if filling.error else ()), filling.error.more if filling.error else 0
    try:
        found.converter.conversion()
    except DataError as error:
        faults, more = [*faults, *error.faults], more + error.more
    if faults:
        raise DataError(faults, more)


def _raise_faults(found: Findings, path: str, text: Text, data: DataSection, others: str) -> None:
    """Raise UserError if rows can't be trained with this base and template; `others` ends the list of errors."""
    if text.template is not None:
        check_tools(text.codec.dialects, found.with_tools, found.with_results)
    if data.special_tokens == "error":
        found.special.refuse(path)
    if found.faults.most:
        *before, last = (f"{path}: {fault}" for fault in found.faults.listed())
        raise MaskError([*before, last + others], found.faults.most)
    found.unknown.raise_any(text.tokenizer, text.base, path)


def _findings(found: Findings, opened: Opened, text: Text, data: DataSection, store: Store) -> dict[str, Any]:
    """Return the messages about the file for later commands."""
    conversion, unit = found.converter.conversion(), store[0].unit
    parsed = not opened.chats or text.codec.reading == "parse"
    special = found.special.rows()
    rendered = None if opened.chats or found.signs is None else rendering(found.signs, text.template, text.codec)
    known = {*special, *(rendered.markers if rendered else ())}
    lint = warnings_of(found.facts, store.contents(), unit, parsed, known)
    written = special and data.special_tokens in ("auto", "parse")
    return {
        "rows": found.converter.converted,
        "unused": dict(conversion.unused_columns),
        "notes": list(conversion.notes),
        "remarks": [*opened.dataset.remarks(), *conversion.remarks],
        "sources": opened.dataset.counted(),
        "special": written_warning(special, unit, text.codec.reading) if written else "",
        "rendered": rendered.text if rendered else "",
        "lint": [warning.text for warning in lint],
        "lint_lines": [warning.lines[:MOST_LINES] for warning in lint],
        "duplicates": sum(len(warning.lines) for warning in lint if warning.kind == "duplicate"),
        "lint_heldout": [w.text for w in warnings_of(found.facts, None, unit, parsed)],
        "changes": found.changes.to_json(),
    }


def _dump(directory: Path, meta: dict[str, Any]) -> None:
    with (directory / META).open("w", encoding="utf-8") as file:
        json.dump(meta, file, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())


def _say(opened: Opened, store: Store) -> None:
    path, meta = opened.path, store.meta
    how = f" ({opened.dataset.how})" if opened.dataset.how else ""
    say(f"data: {path}: {counted(meta['rows'], 'row')}, format {opened.format}{how}")
    for remark in meta["remarks"]:
        say(f"data: {path}: {remark}")
    for note in meta["notes"]:
        warn(f"{path}: {note}")
    if meta["unused"]:
        used = ", ".join(f"{column} ({counted(count, 'row')})" for column, count in meta["unused"].items())
        say(f"data: unused columns: {used}")
