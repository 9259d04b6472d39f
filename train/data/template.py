"""Choose a run's chat template, build the tokenizer's codec, and find mismatches between the two."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from burnish.chat import ChatError, ChatTemplate, from_tokenizer, load_template, named_templates
from burnish.config import ConfigError
from burnish.console import counted
from burnish.files import first_line
from burnish.tokenizers import comparison
from burnish.tokenizers import loader as tokenizers
from burnish.tokenizers.encoder import Decoder, Encoder
from burnish.tokenizers.loader import TokenizerError
from burnish.tokenizers.special_text import MARKERS, Reading
from burnish.tokenizers.vocabulary import from_tokenizer as vocabulary_of
from burnish.tokenizers.vocabulary import start_ids

from ..settings import BaseSection, ChatSection
from .mask import Codec
from .mask.changes import Changes

MARKER = re.compile(r"<\|[^|<>\s]{1,40}\|>|<｜[^｜<>]{1,40}｜>|</?s>|<(?:start|end)_of_turn>|\[/?INST\]")

NO_TEMPLATE = (
    "the base has no chat template: the trained model will serve /v1/completions but not /v1/chat/completions; for"
    " chats, set chat.template"
)


def load_tokenizer(directory: Path, base: BaseSection) -> Any:
    """Load the base's tokenizer without weights. Raises ConfigError if that fails or needs remote code."""
    try:
        return tokenizers.load(directory, base.trust_remote_code)
    except TokenizerError as error:
        raise ConfigError([f"base.id {base.id}: {fault}" for fault in error.faults]) from None
    except (ValueError, OSError) as error:
        raise ConfigError(loading_fault(base, error)) from None


def loading_fault(base: BaseSection, error: Exception) -> str:
    """Return the reason why transformers can't load a base, in one line."""
    if "trust_remote_code" in str(error):
        return (
            f"base.id {base.id} needs its own Python code: read that code, then set base.trust_remote_code: true"
            " if you trust it"
        )
    return f"base.id {base.id}: transformers can't load it: {first_line(error)}"


def choose(chat: ChatSection, tokenizer: Any) -> ChatTemplate | None:
    """Return the run's template: by name, from a file, else the base's own; None if the base has none."""
    date = chat.date or datetime.now(UTC).strftime("%Y-%m-%d")
    source = load_template(chat.template) if chat.template else None
    found = from_tokenizer(tokenizer, date, source, chat.template_kwargs)
    found = found and replace(found, timeout_s=chat.template_timeout_s)
    unknown = [name for name in chat.template_kwargs if found is not None and not found.names(name)]
    if unknown:
        which = f"the template of {chat.template}" if chat.template else "the base's own template"
        raise ConfigError([f"chat.template_kwargs: {which} has no variable '{name}'" for name in unknown])
    return found


def require(template: ChatTemplate | None, base: BaseSection) -> ChatTemplate:
    """Return the template, or raise ChatError listing the available names."""
    if template is None:
        raise ChatError(
            f"base.id {base.id}: the rows are chats but the base has no chat template: set chat.template to one of"
            f" {', '.join(named_templates())}, or to a .jinja file"
        )
    template.check()  # once, rather than for every row
    return template


def lost_thoughts(changes: Changes, template: ChatTemplate) -> list[str]:
    """Return a warning if rows contain reasoning that is not trained."""
    if not changes.lost:
        return []
    why = "does not read reasoning" if template.thought_field is None else "leaves it out"
    return [
        f"the reasoning of {counted(changes.lost, 'row')} (first {changes.first_lost}) is not trained: the chat"
        f" template {why}; include it in the content as the base writes reasoning, or set chat.template to one that"
        " supports it"
    ]


def codec(tokenizer: Any, reading: Reading = "text") -> Codec:
    """Return the tokenizer interface for masking; `reading` defines how special strings in messages are tokenized."""
    if tokenizer.eos_token_id is None:
        raise ConfigError("the base's tokenizer has no end-of-text token (eos_token), so responses could not end")
    encode = Encoder(tokenizer)
    return Codec(
        encode=encode,
        decode=Decoder(tokenizer),
        terminators=frozenset({tokenizer.eos_token_id, *tokenizer.all_special_ids, *_added_special(tokenizer)}),
        bos=start_ids(comparison.encoder(tokenizer, special=True), encode),
        eos=tokenizer.eos_token_id,
        vocabulary=vocabulary_of(tokenizer, encode),
        reading=reading,
        normalise=comparison.normalizer(tokenizer),
        same=comparison.same_text(tokenizer),
        canonical=comparison.canonical_text(tokenizer, beside=MARKERS),
    )


def warnings(
    template: ChatTemplate, tokenizer: Any, terminator_ids: Sequence[int], base_end_ids: set[int]
) -> list[str]:
    """Return warnings about markers that are not single tokens and terminators that don't end the base's generation."""
    markers = sorted(set(MARKER.findall(template.written)))
    split = [m for m in markers if len(tokenizer(m, add_special_tokens=False).input_ids) != 1]
    found = []
    if split:
        found.append(
            f"the chat template's markers {', '.join(split)} are not single tokens of this tokenizer: the model reads"
            " them as ordinary text and learns them slowly; the base's own template would be better"
        )
    foreign = [tokenizer.convert_ids_to_tokens(i) for i in dict.fromkeys(terminator_ids) if i not in base_end_ids]
    if foreign:
        found.append(
            f"the chat template ends a turn with {', '.join(foreign)}, where this base does not stop by default:"
            " it is recorded as a stop token; other servers must be configured with it"
        )
    return found


def base_end_ids(directory: Path, tokenizer: Any) -> set[int]:
    """Return the base's end-of-generation ids, from its generation config and tokenizer."""
    from transformers import GenerationConfig

    ids = {tokenizer.eos_token_id}
    if (directory / "generation_config.json").is_file():
        eos = GenerationConfig.from_pretrained(directory).eos_token_id
        ids |= set(eos) if isinstance(eos, list) else {eos}
    return {i for i in ids if i is not None}


def _added_special(tokenizer: Any) -> set[int]:
    return {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
