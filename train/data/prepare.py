"""From data files to proven training rows: every step before weights are loaded."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from burnish.bases import architecture
from burnish.bases.base import Base, look, resolve
from burnish.bases.embeddings import read_config
from burnish.chat import ChatTemplate
from burnish.config import ConfigError
from burnish.console import warn
from burnish.data.files import DataError
from burnish.dialects.find import Found
from burnish.errors import UserError
from burnish.tokenizers.special_text import Reading

from ..settings import DataSection, TrainSettings
from . import template as templates
from .lint import lint
from .mask import Codec, Row
from .rendered import rendering, turn_ends
from .rows import RowMaker
from .sources import Sources, check_files, read_sources
from .special_text import reading, refuse, special_strings, written_warning
from .split import bounded, near, split
from .tools import fit
from .vocabulary import check_ids, check_vocabulary, embedded


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Rows ready for training, and how they were made.

    `heldout` is never trained: the eval loss and the exam use it. `truncated` lists the lines of truncated rows.
    `duplicates` counts the rows that repeat an earlier row. `near_duplicates` counts the held-out rows with a near
    duplicate among the training rows, `eval_overlap` the eval file's rows that are also in the data, and
    `eval_overlap_dropped` the training rows dropped because of this overlap.
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
    duplicates: int = 0
    near_duplicates: int = 0
    eval_overlap: int = 0
    eval_overlap_dropped: int = 0
    eval_sha256: str | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def special_tokens(self) -> Reading:
        """The resolved data.special_tokens."""
        return self.codec.reading

    @property
    def terminators(self) -> list[int]:
        """The distinct ids that end trained spans, ignoring truncated spans."""
        return list(
            dict.fromkeys(row.input_ids[end - 1] for row in (*self.train, *self.heldout) for _, end in row.whole)
        )


@dataclass(frozen=True, kw_only=True)
class _Text:
    """The inputs for converting rows to ids: the base's tokenizer, its codec, and the chat template, if any.

    `dropped_tokens` were removed from the tokenizer because the base has no embeddings for them.
    """

    base: Base
    tokenizer: Any
    codec: Codec
    template: ChatTemplate | None
    dropped_tokens: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def prepare(settings: TrainSettings) -> Prepared:
    """Read, check, render, tokenize, mask and split the data. Raises UserError listing all errors in a step.

    No weights are loaded. Prints what was detected, and the warnings.
    """
    data = settings.data
    check_files(data)
    if (directory := look(settings.base.id, settings.base.revision)) is not None:  # reading the rows may take minutes
        _check_architecture(settings.base.id, directory)
    sources = read_sources(data)
    text = _load_text(settings, sources)
    if data.special_tokens == "error":
        refuse(sources.read, text.template, text.codec, data.path)
        refuse(sources.heldout or (), text.template, text.codec, str(data.eval_path))
    maker = RowMaker(text.template, text.codec, data)
    train, heldout = _make_rows(maker, sources, text, settings)
    content, duplicates = _content_warnings(sources, text, data)
    near_count, near_warning = near(train, heldout, data)
    prepared = Prepared(
        base=text.base,
        tokenizer=text.tokenizer,
        codec=text.codec,
        template=text.template,
        format=sources.format,
        data_sha256=sources.data_sha256,
        eval_sha256=sources.eval_sha256,
        train=train,
        heldout=heldout,
        lengths=maker.lengths,
        dropped=maker.dropped,
        truncated=maker.truncated,
        duplicates=duplicates,
        near_duplicates=near_count,
        eval_overlap=sources.shared,
        eval_overlap_dropped=len(sources.read) - len(sources.train),
    )
    warnings = [
        *text.warnings,
        *content,
        *filter(None, [near_warning]),
        *_tokenizer_warnings(sources, text, prepared, data),
    ]
    for warning in warnings:
        warn(warning)
    return replace(prepared, warnings=warnings)


def _load_text(settings: TrainSettings, sources: Sources) -> _Text:
    """Find the base and load its tokenizer. Raises ConfigError or ChatError if the rows can't be rendered."""
    base = resolve(settings.base.id, settings.base.revision)
    _check_architecture(base.id, base.path)
    tokenizer = templates.load_tokenizer(base.path, settings.base)
    tokenizer, dropped, lacking = embedded(tokenizer, base)
    codec = templates.codec(tokenizer, reading(settings.data.special_tokens))
    template = templates.choose(settings.chat, tokenizer)
    codec = replace(codec, ends=_end_ids(template, base, tokenizer, codec))
    if sources.chats:
        template = templates.require(template, settings.base)
        template, found = fit(template, settings.chat.tool_dialect, [*sources.read, *(sources.heldout or ())])
        codec = replace(codec, dialects=found, ends=codec.ends | _call_ends(found, codec))
    return _Text(
        base=base, tokenizer=tokenizer, codec=codec, template=template, dropped_tokens=dropped, warnings=lacking
    )


def _check_architecture(base_id: str, directory: Path) -> None:
    if fault := architecture.fault(read_config(directory)):
        raise ConfigError(f"base.id {base_id}: {fault}")


def _end_ids(template: ChatTemplate | None, base: Base, tokenizer: Any, codec: Codec) -> frozenset[int]:
    """Return the control tokens that end generation according to the base's configuration or the template."""
    return codec.terminators & (templates.base_end_ids(base.path, tokenizer) | turn_ends(template, codec))


def _call_ends(found: Found, codec: Codec) -> frozenset[int]:
    """Return the control tokens with which the template ends a tool-call turn."""
    marks = (found.end.strip(), *(found.dialect.ends if found.dialect else ()))
    ids = (codec.encode(mark) for mark in marks if mark)
    return codec.terminators & {one[0] for one in ids if len(one) == 1}


def _make_rows(maker: RowMaker, sources: Sources, text: _Text, settings: TrainSettings) -> tuple[list[Row], list[Row]]:
    """Return the training rows and the held-out rows, which come from the eval file or are split from the data."""
    data, faults, made = settings.data, [], []
    for examples, path in ((sources.train, data.path), (sources.heldout, str(data.eval_path))):
        try:
            rows = maker.rows(examples, path) if examples is not None else []
            check_ids(rows, text.tokenizer, text.base, path, text.dropped_tokens)
            made.append(rows)
        except UserError as error:
            faults.append(error)
    if faults:  # report both files together
        raise type(faults[0])([fault for error in faults for fault in error.faults])
    if sources.heldout is None:
        return split(made[0], data.eval_split, settings.train.seed, data.eval_rows)
    return made[0], bounded(made[1], data.eval_rows, settings.train.seed, str(data.eval_path))


def _content_warnings(sources: Sources, text: _Text, data: DataSection) -> tuple[list[str], int]:
    """Return warnings about the rows' content, most serious first, and the number of duplicate rows."""
    special = special_strings(sources.read, text.template, text.codec)
    rendered = None if sources.chats else rendering(sources.read, text.template, text.codec)
    parsed = not sources.chats or text.codec.reading == "parse"
    known = {*special, *(rendered.markers if rendered else ())}
    ends = {text.codec.decode([token]) for token in text.codec.end_ids}
    found = lint(sources.read, sources.unit, parsed, known, ends=ends)
    warnings = [warning.text for warning in found]
    heldout = lint(sources.heldout or (), "", parsed, known, heldout=True, ends=ends)
    warnings += [f"data.eval_path {data.eval_path}: {warning.text}" for warning in heldout]
    if rendered:
        warnings.insert(0, rendered.text)
    if special and data.special_tokens in ("auto", "parse"):
        warnings.insert(0, written_warning(special, sources.unit, text.codec.reading))
    return warnings, sum(len(warning.lines) for warning in found if warning.kind == "duplicate")


def _tokenizer_warnings(sources: Sources, text: _Text, prepared: Prepared, data: DataSection) -> list[str]:
    """Return warnings about tokenizer and template. Raises ConfigError or DataError if no run can succeed."""
    template = text.template if sources.chats else None
    warnings = check_vocabulary(text.tokenizer, text.base, sources.read, template, text.codec)
    if text.template is None:
        warnings.append(templates.NO_TEMPLATE)
    if template is not None:
        warnings += _end_warnings(prepared, data)
        warnings += templates.lost_thoughts([*prepared.train, *prepared.heldout], template, text.codec)
        ends = templates.base_end_ids(text.base.path, text.tokenizer)
        warnings += templates.warnings(template, text.tokenizer, prepared.terminators, ends)
    return warnings


def _end_warnings(prepared: Prepared, data: DataSection) -> list[str]:
    """Raise DataError if every training row is truncated; return a warning if every held-out row is."""
    advice = f"raise data.max_length ({data.max_length}), or set data.over_length to drop"
    if not any(row.whole for row in prepared.train):
        raise DataError(f"every row is cut before its end token, so the model would never learn to stop: {advice}")
    if not any(row.whole for row in prepared.heldout):
        return [f"every held-out row is truncated, so the exam can't test the answers: {advice}"]
    return []
