"""A chosen file to a loaded model and what http needs of it: tokenizer, template, what ends an answer."""

from __future__ import annotations

from burnish.chat import ChatError, ChatTemplate, from_gguf
from burnish.console import say, warn
from burnish.files import text_sha256
from burnish.llama import Model, check, cpu_variant
from burnish.process import Note, ignore_path
from burnish.tokenizers.special_text import Reading

from ..artefact import Chosen, ServeError, choose, verify
from ..served import Served
from ..settings import ServeSettings
from .tokenizer import LlamaTokenizer


def load(settings: ServeSettings, mapped: Note = ignore_path) -> tuple[Model, Served, LlamaTokenizer]:
    """Choose, verify and load the model, and check that its template is the one that it was trained with.

    `mapped` gets the name of the file, if it is mapped into memory. The caller closes the model and its tokenizer,
    which starts in the background. Raises ServeError, RunError or LlamaError.
    """
    chosen = choose(settings)
    if chosen.recorded and settings.verify:
        verify(chosen)
    else:
        check(chosen.path)
    say(f"loading {chosen.path}")
    if settings.mmap:
        mapped(str(chosen.path))
    model = Model.open(chosen.path, n_gpu_layers=settings.n_gpu_layers, use_mmap=settings.mmap, amx=settings.amx)
    say(f"AMX: {'used' if model.amx else 'not used'}: {model.amx_why}")
    try:
        return model, *_served(model, chosen, settings)
    except BaseException:
        model.close()
        raise


def _served(model: Model, chosen: Chosen, settings: ServeSettings) -> tuple[Served, LlamaTokenizer]:
    template = _template(model, chosen)
    reading = _reading(chosen, settings) if template else "text"
    stop_ids, stop_strings = _stops(model, chosen.stops)
    known = min(chosen.context_length or model.n_ctx_train, model.n_ctx_train) or 2048
    if settings.context_length is not None and settings.context_length > known:
        warn(f"context_length {settings.context_length} is more than the {known} tokens that the model knows")
    runtime = {"cpu_variant": cpu_variant(), "amx": model.amx, "amx_why": model.amx_why}
    tokenizer = LlamaTokenizer(model, template, reading, settings.template_timeout_s)
    served = Served(
        name=chosen.name,
        tokenizer=tokenizer,
        end_tokens=model.eog_ids() | stop_ids,
        stop_strings=stop_strings,
        context_length=settings.context_length or known,
        created=int(chosen.path.stat().st_mtime),
        fingerprint=_fingerprint(model, chosen),
        record={**chosen.record, "special_tokens": reading if template else None, **runtime},
        refuse_specials=settings.special_tokens == "error",
    )
    return served, tokenizer


def _fingerprint(model: Model, chosen: Chosen) -> str:
    """Name the model file by its recorded hash, or by its size where it has no record."""
    known = chosen.record.get("artefact", {}).get("sha256") or f"{model.size_bytes:x}"
    return f"fp_{str(known)[:12]}"


def _reading(chosen: Chosen, settings: ServeSettings) -> Reading:
    """Return what special strings in messages are: with `auto`, what they were in training."""
    reading = chosen.special_tokens
    if settings.special_tokens != "auto":
        reading = "parse" if settings.special_tokens == "parse" else "text"
        if chosen.recorded and reading != chosen.special_tokens:
            warn(f"special_tokens {settings.special_tokens}: the run was trained with {chosen.special_tokens}")
    elif reading == "parse":
        warn(
            "the run was trained with special strings in messages parsed, so whoever writes a message can write control"
            " tokens: train again with data.special_tokens auto, or give --special_tokens text"
        )
    return reading


def _template(model: Model, chosen: Chosen) -> ChatTemplate | None:
    source = model.chat_template
    if chosen.recorded and chosen.template_sha256 is not None:
        if source is None:
            raise ServeError(f"{chosen.path}: it holds no chat template, but the run was trained with one")
        if text_sha256(source) != chosen.template_sha256:
            raise ServeError(
                f"{chosen.path}: its chat template is not the one the run was trained with "
                f"({text_sha256(source)[:12]}, trained with {chosen.template_sha256[:12]}); {chosen.remedy}"
            )
    template = from_gguf(model, chosen.template_date, chosen.template_kwargs)
    if template is None:
        warn("the model has no chat template: /v1/chat/completions is refused, /v1/completions works")
        return None
    try:
        if missing := ", ".join(template.missing_tokens):
            warn(f"the chat template names {missing}, which the file does not hold: nothing is put there")
    except ChatError as error:
        warn(f"{error}: /v1/chat/completions is refused, /v1/completions works")
    return template


def _stops(model: Model, stops: tuple[str, ...]) -> tuple[frozenset[int], tuple[str, ...]]:
    """Split recorded stops into single tokens, which end generation unseen, and strings, which are looked for."""
    ids, strings = set[int](), list[str]()
    for stop in stops:
        tokens = model.tokenize(stop)
        if len(tokens) == 1 and not model.piece(tokens[0]):
            ids.add(tokens[0])
        else:
            strings.append(stop)
    return frozenset(ids), tuple(strings)
