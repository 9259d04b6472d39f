"""The inputs for converting rows to ids: the base's tokenizer, its codec, and the chat template."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from burnish.bases import architecture
from burnish.bases.base import Base, resolve
from burnish.bases.embeddings import read_config
from burnish.chat import ChatTemplate
from burnish.config import ConfigError
from burnish.dialects.find import Found

from ..settings import TrainSettings
from . import template as templates
from .mask import Codec
from .rendered import turn_ends
from .special_text import reading
from .tools import fit
from .vocabulary import embedded


@dataclass(frozen=True, kw_only=True)
class Text:
    """The base's tokenizer, its codec, and the chat template, if any.

    `dropped_tokens` were removed from the tokenizer because the base has no embeddings for them.
    """

    base: Base
    tokenizer: Any
    codec: Codec
    template: ChatTemplate | None
    dropped_tokens: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def load_text(settings: TrainSettings, chats: bool) -> Text:
    """Find the base and load its tokenizer. Raises ConfigError or ChatError if `chats` can't be rendered."""
    base = resolve(settings.base.id, settings.base.revision)
    check_architecture(base.id, base.path)
    tokenizer = templates.load_tokenizer(base.path, settings.base)
    tokenizer, dropped, lacking = embedded(tokenizer, base)
    codec = templates.codec(tokenizer, reading(settings.data.special_tokens))
    template = templates.choose(settings.chat, tokenizer)
    codec = replace(codec, ends=_end_ids(template, base, tokenizer, codec))
    if chats:
        template, found = fit(templates.require(template, settings.base), settings.chat.tool_dialect)
        codec = replace(codec, dialects=found, ends=codec.ends | _call_ends(found, codec))
    return Text(
        base=base, tokenizer=tokenizer, codec=codec, template=template, dropped_tokens=dropped, warnings=lacking
    )


def check_architecture(base_id: str, directory: Path) -> None:
    """Raise ConfigError if transformers doesn't know the base's architecture."""
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
