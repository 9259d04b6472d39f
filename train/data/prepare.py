"""From data files to proven training rows: every step before weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from burnish.bases.base import Base, is_local, look
from burnish.chat import ChatTemplate
from burnish.console import warn
from burnish.data.files import DataError
from burnish.errors import UserError
from burnish.tokenizers.special_text import Reading

from ..settings import DataSection, TrainSettings
from . import template as templates
from .cache.rows import Rows
from .cache.shelf import Shelf
from .cache.store import Store
from .mask import Codec
from .mask.changes import Changes
from .sources import Sources, check_files, read_sources
from .split.choice import choose
from .stream.file import check_rows, file_rows
from .text import Text, check_architecture, load_text
from .vocabulary import check_vocabulary


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Rows ready for training, and how they were made.

    `heldout` is never trained: the eval loss and the exam use it. `truncated` lists the lines of truncated rows.
    `duplicates` counts the rows that repeat an earlier row, `deduplicated` those not trained because of data.dedupe.
    `near_duplicates` counts the held-out rows with a near duplicate among the training rows, `eval_overlap` the eval
    file's rows that are also in the data, and `eval_overlap_dropped` the training rows dropped because of this overlap.
    """

    base: Base
    tokenizer: Any
    codec: Codec
    template: ChatTemplate | None
    format: str
    data_sha256: str
    train: Rows
    heldout: Rows
    rows_sha256: str
    heldout_sha256: str
    lengths: Sequence[int]
    dropped: list[int]
    truncated: list[int]
    changes: Changes
    duplicates: int = 0
    deduplicated: int = 0
    near_duplicates: int = 0
    eval_overlap: int = 0
    eval_overlap_dropped: int = 0
    eval_sha256: str | None = None
    sources: list[dict[str, Any]] = field(default_factory=list)
    lines_of: Mapping[str, Sequence[int]] = field(default_factory=dict)  # of the warnings about rows
    warnings: list[str] = field(default_factory=list)

    @property
    def special_tokens(self) -> Reading:
        return self.codec.reading

    @property
    def terminators(self) -> list[int]:
        """The distinct ids that end trained spans, ignoring truncated spans."""
        return list(dict.fromkeys((*self.train.terminators, *self.heldout.terminators)))


def prepare(settings: TrainSettings) -> Prepared:
    """Read, check, render, tokenize, mask and split the data. Raises UserError listing all errors in a step.

    Rows that an earlier command prepared are taken from the cache. No weights are loaded. Prints what was detected, and
    the warnings.
    """
    data = settings.data
    check_files(data)
    if (directory := look(settings.base.id, settings.base.revision)) is not None:  # reading the rows may take minutes
        check_architecture(settings.base.id, directory)
    sources = read_sources(data, settings.train.seed)
    if not is_local(settings.base.id):  # its weights are downloaded only if the rows are right
        _each(sources, lambda opened, _: check_rows(opened, data))
        sources = read_sources(data, settings.train.seed)
    text = load_text(settings, sources.train.chats)
    shelf = Shelf(int(data.cache_gib * 2**30))
    train, *others = _each(sources, lambda opened, content: file_rows(opened, content, text, data, shelf))
    choice = choose(train, others[0] if others else None, settings)
    content = _content_warnings(train, others, data)
    prepared = Prepared(
        base=text.base,
        tokenizer=text.tokenizer,
        codec=text.codec,
        template=text.template,
        format=sources.train.format,
        data_sha256=sources.data_sha256,
        eval_sha256=sources.eval_sha256,
        sources=sources.train.dataset.record(train.meta["sources"]),
        lines_of=dict(zip(train.meta["lint"], train.meta["lint_lines"], strict=True)),
        train=choice.train,
        heldout=choice.heldout,
        rows_sha256=choice.rows_sha256,
        heldout_sha256=choice.heldout_sha256,
        lengths=choice.lengths,
        dropped=choice.dropped,
        truncated=choice.truncated,
        changes=_changes([train, *others]),
        duplicates=train.meta["duplicates"],
        deduplicated=choice.deduplicated,
        near_duplicates=choice.near_duplicates,
        eval_overlap=choice.overlap,
        eval_overlap_dropped=choice.overlap_dropped,
    )
    found = [*text.warnings, *content, *choice.warnings, *_tokenizer_warnings(sources, text, train, prepared, data)]
    for warning in found:
        warn(warning)
    return replace(prepared, warnings=found)


def _each(sources: Sources, do: Any) -> list[Any]:
    """Call `do` with each opened file and the sha256 of its rows; raise the errors of both files together."""
    made, errors = [], list[UserError]()
    for opened in (sources.train, sources.heldout):
        try:
            made += [do(opened, opened.dataset.rows_sha256())] if opened is not None else []
        except UserError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        both = type(errors[0])([fault for error in errors for fault in error.faults])
        both.more = sum(error.more for error in errors)
        raise both
    return made


def _changes(stores: Sequence[Store]) -> Changes:
    changes = Changes()
    for store in stores:
        changes.merge(Changes.from_json(store.meta["changes"]))
    return changes


def _content_warnings(train: Store, others: Sequence[Store], data: DataSection) -> list[str]:
    """Return warnings about the rows' content, most serious first."""
    found = [*filter(None, (train.meta["special"], train.meta["rendered"])), *train.meta["lint"]]
    return found + [
        f"data.eval_path {data.eval_path}: {text}" for store in others for text in store.meta["lint_heldout"]
    ]


def _tokenizer_warnings(sources: Sources, text: Text, train: Store, prepared: Prepared, data: DataSection) -> list[str]:
    """Return warnings about tokenizer and template. Raises ConfigError or DataError if no run can succeed."""
    template = text.template if sources.train.chats else None
    warnings = check_vocabulary(text.tokenizer, text.base, train, template, text.codec)
    if text.template is None:
        warnings.append(templates.NO_TEMPLATE)
    if template is not None:
        warnings += _end_warnings(prepared, data)
        warnings += templates.lost_thoughts(prepared.changes, template)
        ends = templates.base_end_ids(text.base.path, text.tokenizer)
        warnings += templates.warnings(template, text.tokenizer, prepared.terminators, ends)
    return warnings


def _end_warnings(prepared: Prepared, data: DataSection) -> list[str]:
    """Raise DataError if every training row is truncated; return a warning if every held-out row is."""
    advice = f"raise data.max_length ({data.max_length}), or set data.over_length to drop"
    if not prepared.train.any_whole:
        raise DataError(f"every row is cut before its end token, so the model would never learn to stop: {advice}")
    if not prepared.heldout.any_whole:
        return [f"every held-out row is truncated, so the exam can't test the answers: {advice}"]
    return []
