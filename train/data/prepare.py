"""From a data file to proven training rows: everything that happens before a weight is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from burnish.bases import architecture
from burnish.bases.base import Base, resolve
from burnish.bases.embeddings import read_config
from burnish.chat import ChatTemplate
from burnish.config import ConfigError
from burnish.console import say, warn
from burnish.data.files import DataError, read_rows
from burnish.data.formats import Conversion, Example, convert, recognise
from burnish.run import file_sha256
from burnish.tokenizers.special_text import Reading

from ..settings import DataSection, TrainSettings
from . import template as templates
from .embeddings import check_ids, embedded
from .lint import lint
from .mask import Codec, MaskError, Row, build, prove
from .rendered import rendering, turn_ends
from .special_text import reading, refuse, special_strings, written_warning
from .split import apart, bounded, near, split
from .vocabulary import check_vocabulary


@dataclass(frozen=True)
class Prepared:
    """Rows ready to train on, and how they came to be.

    `heldout` is never trained on: the eval loss and the exam use it. `truncated` holds the lines of shortened rows.
    `duplicates` counts the rows of the data that repeat an earlier one; of the held-out rows, `near_duplicates` counts
    those with a near duplicate that is trained, `eval_overlap` those of the eval file that the data had as well;
    `eval_overlap_dropped` are the training rows that were left out for it.
    """

    base: Base
    tokenizer: Any
    codec: Codec
    template: ChatTemplate | None
    format: str
    data_sha256: str
    train: list[Row]
    heldout: list[Row]
    lengths: list[int]
    dropped: list[int]
    truncated: list[int]
    warnings: list[str]
    duplicates: int = 0
    near_duplicates: int = 0
    eval_overlap: int = 0
    eval_overlap_dropped: int = 0
    eval_sha256: str | None = None

    @property
    def special_tokens(self) -> Reading:
        """What data.special_tokens became."""
        return self.codec.reading

    @property
    def terminators(self) -> list[int]:
        """The ids that end the trained spans, each once; where a row was cut its last token does not end it."""
        return list(
            dict.fromkeys(row.input_ids[end - 1] for row in (*self.train, *self.heldout) for _, end in row.whole)
        )


def prepare(settings: TrainSettings) -> Prepared:
    """Read, check, render, tokenize, mask and split the data; raises the named errors with all faults of a step.

    No weights are loaded. What was decided and found is printed as it goes.
    """
    data = settings.data
    converted = _read("data.path", data.path, data)
    heldout_examples = None
    if data.eval_path:
        heldout_examples = _same_kind(_read("data.eval_path", data.eval_path, data), converted, data).examples
    examples, shared = list(converted.examples), 0
    if heldout_examples is not None:
        examples, shared = apart(converted.examples, heldout_examples, data)
    base = resolve(settings.base.id, settings.base.revision)
    if fault := architecture.fault(read_config(base.path)):
        raise ConfigError(f"base.id {base.id}: {fault}")
    tokenizer = templates.load_tokenizer(base.path, settings.base)
    tokenizer, dropped, lacking = embedded(tokenizer, base)
    codec = templates.codec(tokenizer, reading(data.special_tokens))
    template = templates.choose(settings.chat, tokenizer)
    codec = replace(codec, ends=_end_ids(template, base, tokenizer, codec))
    chats = converted.format != "text"
    if chats:
        template = templates.require(template, settings.base)
    written = special_strings(converted.examples, template, codec)
    if data.special_tokens == "error":
        refuse(converted.examples, template, codec, data.path)
        refuse(heldout_examples or (), template, codec, str(data.eval_path))
    maker = _RowMaker(template, codec, data)
    rows = maker.rows(examples, data.path)
    heldout = maker.rows(heldout_examples, str(data.eval_path)) if heldout_examples is not None else None
    check_ids(rows, tokenizer, base, data.path, dropped)
    check_ids(heldout or (), tokenizer, base, str(data.eval_path), dropped)
    if heldout is None:
        train, heldout = split(rows, data.eval_split, settings.train.seed, data.eval_rows)
    else:
        train, heldout = rows, bounded(heldout, data.eval_rows, settings.train.seed, str(data.eval_path))
    parsed = converted.format == "text" or codec.reading == "parse"
    rendered = None if chats else rendering(converted.examples, template, codec)
    known = {*written, *(rendered.markers if rendered else ())}
    found = lint(converted.examples, converted.examples[0].unit, parsed, known)
    close, warning = near(train, heldout, data)
    warnings = [*lacking, *(w.text for w in found), *[warning] * bool(warning)]
    if rendered:
        warnings.insert(0, rendered.text)
    if written and data.special_tokens in ("auto", "parse"):
        warnings.insert(0, written_warning(written, converted.examples[0].unit, codec.reading))
    prepared = Prepared(
        base,
        tokenizer,
        codec,
        template,
        converted.format,
        file_sha256(Path(data.path)),
        train,
        heldout,
        maker.lengths,
        maker.dropped,
        maker.truncated,
        warnings,
        sum(len(w.lines) for w in found if w.kind == "duplicate"),
        close,
        shared,
        len(converted.examples) - len(examples),
        file_sha256(Path(data.eval_path)) if data.eval_path else None,
    )
    warnings += check_vocabulary(tokenizer, base, converted.examples, template if chats else None, codec)
    if template is not None and chats:
        _check_ends(prepared, data)
        ends = templates.base_end_ids(base.path, tokenizer)
        warnings += templates.warnings(template, tokenizer, prepared.terminators, ends)
    for text in warnings:
        warn(text)
    return prepared


def _end_ids(template: ChatTemplate | None, base: Base, tokenizer: Any, codec: Codec) -> frozenset[int]:
    """Return the control tokens that end a generation: by the base's configuration, and by the template."""
    return codec.terminators & (templates.base_end_ids(base.path, tokenizer) | turn_ends(template, codec))


def _check_ends(prepared: Prepared, data: DataSection) -> None:
    """Raise DataError where cutting left no conversation to learn an end from; warn where none is left to examine."""
    advice = f"raise data.max_length ({data.max_length}), or set data.over_length to drop"
    if not any(row.whole for row in prepared.train):
        raise DataError(f"every row is cut before its end token, so the model would never learn to stop: {advice}")
    if not any(row.whole for row in prepared.heldout):
        prepared.warnings.append(f"every held-out row is cut, so the exam can prove nothing of the answers: {advice}")


class _RowMaker:
    """Turns examples into proven rows and keeps count of what was too long."""

    def __init__(self, template: ChatTemplate | None, codec: Codec, data: DataSection) -> None:
        self.template, self.codec, self.data = template, codec, data
        self.lengths: list[int] = []
        self.dropped: list[int] = []
        self.truncated: list[int] = []

    def rows(self, examples: Sequence[Example], path: str) -> list[Row]:
        try:
            rows = build(examples, self.template, self.codec)
            prove(rows, self.template, self.codec)
        except MaskError as error:
            raise MaskError([f"{path}: {fault}" for fault in error.faults]) from None
        self.lengths += [len(row.input_ids) for row in rows]
        long = [row for row in rows if len(row.input_ids) > self.data.max_length]
        if long and self.data.over_length == "error":
            raise DataError(
                [
                    f"{path}: {row.example.where}: {len(row.input_ids)} tokens, data.max_length is"
                    f" {self.data.max_length}; raise it, or set data.over_length to drop or truncate"
                    for row in long
                ]
            )
        fitting = [kept for row in rows if (kept := self._fit(row)) is not None]
        if long:
            lost = len(rows) - len(fitting)
            # a run that goes on without most of its rows is seldom what was meant
            (warn if lost * 2 > len(rows) else say)(
                f"data: {path}: {len(long)} of {len(rows)} rows are longer than data.max_length {self.data.max_length}:"
                f" {lost} dropped, {len(long) - lost} cut (data.over_length {self.data.over_length})"
            )
        if not fitting:
            cut = self.data.over_length == "truncate"
            found = "the prompt of every row alone fills" if cut else "every row is longer than"
            raise DataError(f"{path}: {found} data.max_length {self.data.max_length}: none is left; raise it")
        return fitting

    def _fit(self, row: Row) -> Row | None:
        """Return the row, shortened or None (dropped) where it is too long; one with no response left is dropped."""
        limit = self.data.max_length
        if len(row.input_ids) <= limit:
            return row
        spans = tuple((start, min(end, limit)) for start, end in row.spans if start < limit)
        if self.data.over_length == "drop" or not spans:
            self.dropped.append(row.example.number)
            return None
        self.truncated.append(row.example.number)
        cut = row.spans[len(spans) - 1][1] > limit
        return Row(row.example, row.input_ids[:limit], spans, row.turns[: len(spans)], cut)


def _same_kind(heldout: Conversion, trained: Conversion, data: DataSection) -> Conversion:
    """Return the held-out rows. Raises DataError where one file has chats and the other plain texts."""
    if (heldout.format == "text") == (trained.format == "text"):
        return heldout
    kinds = {True: "plain texts", False: "chats"}
    raise DataError(
        f"data.eval_path {data.eval_path}: its rows are {kinds[heldout.format == 'text']} ({heldout.format}), those of"
        f" data.path {data.path} {kinds[trained.format == 'text']} ({trained.format}): the exam asks what was trained;"
        " give rows of the same kind"
    )


def _read(setting: str, name_of_file: str, data: DataSection) -> Conversion:
    path = Path(name_of_file)
    if not path.exists():
        raise DataError(f"{setting} {path}: no such file")
    raw = read_rows(path)
    name = recognise(raw, path) if data.format == "auto" else data.format
    converted = convert(raw, name, path)
    say(
        f"data: {path}: {len(converted.examples)} rows, format {name}"
        + (" (recognised)" if data.format == "auto" else "")
    )
    for note in converted.notes:
        warn(f"{path}: {note}")
    if converted.unused_columns:
        used = ", ".join(f"{column} ({count} rows)" for column, count in converted.unused_columns.items())
        say(f"data: columns that are not used: {used}")
    return converted
