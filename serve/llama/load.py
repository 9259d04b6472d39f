"""Loads the chosen model file and the parts that the HTTP layer needs: tokenizer, chat template, end tokens."""

from __future__ import annotations

from burnish.chat import ChatError, ChatTemplate, from_gguf
from burnish.console import say, warn
from burnish.files import text_sha256
from burnish.llama import Model, check, cpu_variant
from burnish.process import Note, ignore_path
from burnish.tokenizers.special_text import Reading

from ..artifact import Chosen, ServeError, choose, verify
from ..served import Served
from ..settings import ModelSettings
from .tokenizer import LlamaTokenizer


def load(
    settings: ModelSettings, mapped: Note = ignore_path, chosen: Chosen | None = None
) -> tuple[Model, Served, LlamaTokenizer]:
    """Choose, verify and load the model, and check that its chat template is the one it was trained with.

    `chosen` is a file that was chosen already. `mapped` is called with the file's path if the file is memory-mapped.
    The tokenizer starts in the background. The caller closes it and the model. Raises ServeError, RunError or
    LlamaError.
    """
    chosen = chosen or choose(settings)
    if chosen.recorded and settings.verify:
        verify(chosen)
    else:
        check(chosen.path)
    say(f"loading {chosen.path}")
    if settings.mmap:
        mapped(str(chosen.path))
    model = Model.open(chosen.path, n_gpu_layers=settings.n_gpu_layers, use_mmap=settings.mmap, amx=settings.amx)
    say(f"AMX {'enabled' if model.amx else 'disabled'}: {model.amx_why}")
    try:
        return model, *_served(model, chosen, settings)
    except BaseException:
        model.close()
        raise


def _served(model: Model, chosen: Chosen, settings: ModelSettings) -> tuple[Served, LlamaTokenizer]:
    template = _template(model, chosen)
    reading = _reading(chosen, settings) if template else "text"
    stop_ids, stop_strings = _stops(model, chosen.stops)
    known = min(chosen.context_length or model.n_ctx_train, model.n_ctx_train) or 2048
    if settings.context_length is not None and settings.context_length > known:
        warn(f"context_length {settings.context_length} exceeds the model's context length of {known} tokens")
    runtime = {"cpu_variant": cpu_variant(), "amx": model.amx, "amx_why": model.amx_why}
    ends = model.eog_ids() | stop_ids
    tokenizer = LlamaTokenizer(model, template, reading, settings.template_timeout_s, chosen.tool_dialect, ends)
    served = Served(
        name=chosen.name,
        tokenizer=tokenizer,
        end_tokens=ends,
        stop_strings=stop_strings,
        context_length=settings.context_length or known,
        created=int(chosen.path.stat().st_mtime),
        fingerprint=_fingerprint(model, chosen),
        record={**chosen.record, "special_tokens": reading if template else None, **runtime},
        refuse_specials=settings.special_tokens == "error",
    )
    return served, tokenizer


def _fingerprint(model: Model, chosen: Chosen) -> str:
    """Identify the model file by its recorded hash, or by its size if it has no record."""
    known = chosen.record.get("artifact", {}).get("sha256") or f"{model.size_bytes:x}"
    return f"fp_{str(known)[:12]}"


def _reading(chosen: Chosen, settings: ModelSettings) -> Reading:
    """Return how special strings in messages are tokenized; `auto` follows training."""
    reading = chosen.special_tokens
    if settings.special_tokens != "auto":
        reading = "parse" if settings.special_tokens == "parse" else "text"
        if chosen.recorded and reading != chosen.special_tokens:
            warn(
                f"special_tokens is {settings.special_tokens}, but the run was trained with {chosen.special_tokens}: "
                "messages that contain special strings get other tokens than in training"
            )
    elif reading == "parse":
        warn(
            "the run was trained with special_tokens parse: anyone who writes a message can insert control tokens; "
            "train again with data.special_tokens auto, or serve with --special_tokens text"
        )
    return reading


def _template(model: Model, chosen: Chosen) -> ChatTemplate | None:
    source = model.chat_template
    if chosen.recorded and chosen.template_sha256 is not None:
        if source is None:
            raise ServeError(f"{chosen.path}: the file has no chat template, but the run was trained with one")
        if text_sha256(source) != chosen.template_sha256:
            raise ServeError(
                f"{chosen.path}: the file's chat template (sha256 {text_sha256(source)[:12]}) is not the one the run "
                f"was trained with ({chosen.template_sha256[:12]}); {chosen.remedy}"
            )
    template = from_gguf(model, chosen.template_date, chosen.template_kwargs)
    if template is None:
        warn("the model has no chat template: /v1/completions works, /v1/chat/completions returns an error")
        return None
    try:
        if missing := ", ".join(template.missing_tokens):
            warn(f"the chat template uses {missing}, which the file does not define: rendered as empty strings")
    except ChatError as error:
        warn(f"{error}: /v1/completions works, /v1/chat/completions returns an error")
    return template


def _stops(model: Model, stops: tuple[str, ...]) -> tuple[frozenset[int], tuple[str, ...]]:
    """Split recorded stops into control tokens, which end generation, and strings to search for in the output."""
    ids, strings = set[int](), list[str]()
    for stop in stops:
        tokens = model.tokenize(stop)
        if len(tokens) == 1 and not model.piece(tokens[0]):
            ids.add(tokens[0])
        else:
            strings.append(stop)
    return frozenset(ids), tuple(strings)
