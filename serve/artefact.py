"""What is served: the artefact of a run that its record stands for, or a bare GGUF, with template, stops and names."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from burnish.chat import ChatError, ChatTemplate, from_gguf
from burnish.console import say, warn
from burnish.errors import UserError
from burnish.exam.thresholds import looser, qualified
from burnish.hub import SCHEME
from burnish.llama import Model
from burnish.run import Artefact, ExportRecord, TrainRecord, file_sha256, find_run, text_sha256
from burnish.tokenizers import vocabulary
from burnish.tokenizers.special_text import Chat, Reading

from .hub import fetch_artefact, fetch_records
from .settings import ServeSettings


class ServeError(UserError):
    """A run or file that can't be served, or not like this."""


@dataclass(frozen=True)
class Chosen:
    """A model file and what is recorded of it."""

    path: Path
    name: str
    again: str = "run `make export` again"  # what makes a file that is not its record's right again
    stops: tuple[str, ...] = ()
    context_length: int | None = None
    template_sha256: str | None = None
    template_date: str = ""
    special_tokens: Reading = "text"
    recorded: bool = False
    record: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Served:
    """The loaded model with what the API needs: names, template, the ids and strings that end an answer.

    `refuse_specials`: messages that spell special strings are errors.
    """

    model: Model
    name: str
    chat: Chat | None
    ends: frozenset[int]
    stops: tuple[str, ...]
    context_length: int
    created: int
    record: dict[str, Any]
    refuse_specials: bool = False

    @property
    def fingerprint(self) -> str:
        """The system_fingerprint of replies: the model file's hash, or its size where it has no record."""
        known = self.record.get("artefact", {}).get("sha256") or f"{self.model.size_bytes:x}"
        return f"fp_{str(known)[:12]}"


def choose(settings: ServeSettings) -> Chosen:
    """Find the file to serve. Raises ServeError or RunError where there is none that may be served."""
    if settings.model is not None:
        if settings.run is not None:
            raise ServeError("give either a run or a model file (run, model), not both")
        if settings.model.startswith(SCHEME):
            return _from_hub(settings, settings.model)
        path = Path(settings.model)
        if path.is_dir():
            raise ServeError(f"model {path}: {_directory(path)}")
        today = datetime.now(UTC).strftime("%Y-%m-%d")
        return Chosen(path, settings.served_model_name or path.stem, template_date=today, record={"model": path.name})
    run = find_run(Path(settings.runs), settings.run, needs=ExportRecord)
    exported, trained = run.read(ExportRecord), run.read(TrainRecord)
    artefact = _artefact(f"run '{run.id}'", f"{run.path}/report.html", exported, settings)
    return _recorded(run.path / artefact.path, settings.served_model_name or run.id, trained, exported, artefact)


def _directory(path: Path) -> str:
    """Say what a directory that was given as a model is, and how what is in it is served."""
    if (path / "export.json").is_file() or (path / "train.json").is_file():
        return f"is a run, not a .gguf file: make serve RUN={path.name}"
    if files := sorted(file.name for file in path.glob("*.gguf")):
        return f"is a directory, not a .gguf file: give one of the files in it: {', '.join(files)}"
    if (path / "adapter_config.json").is_file():
        return "is an adapter: it is served once it is merged and converted, by make export of the run that it is of"
    if (path / "config.json").is_file():
        return (
            "is a checkpoint for transformers, and .gguf files are served here: of a run give RUN= (make serve RUN=id),"
            " vLLM serves the directory itself (vllm serve), and llama.cpp's converter makes a GGUF of it"
        )
    return "is a directory: give a .gguf file, hf://owner/name, or a run (make serve RUN=id)"


def _from_hub(settings: ServeSettings, reference: str) -> Chosen:
    """Take a published run as its records have it; the file is fetched only once they allow it."""
    remote = fetch_records(reference)
    artefact = _artefact(reference, "its page on the Hub", remote.export, settings)
    path = fetch_artefact(remote, artefact)
    name = settings.served_model_name or remote.export.run_id
    chosen = _recorded(path, name, remote.train, remote.export, artefact)
    again = f"remove {path.resolve()} to fetch it anew; if it is refused again, it was altered on the Hub"
    return replace(chosen, again=again, record={**chosen.record, "hub": f"{remote.reference.repo}@{remote.commit}"})


def _recorded(path: Path, name: str, trained: TrainRecord, exported: ExportRecord, artefact: Artefact) -> Chosen:
    return Chosen(
        path,
        name,
        stops=tuple(exported.stop),
        context_length=exported.context_length,
        template_sha256=trained.chat_template_sha256,
        template_date=trained.template_date,
        special_tokens=exported.special_tokens,
        recorded=True,
        record={
            "run_id": exported.run_id,
            "base": trained.base.id,
            "trained": trained.created,
            "exported": exported.created,
            "artefact": artefact.model_dump(mode="json"),
            "gate": exported.gate,
            "looser_thresholds": looser(exported.gate),
            "versions": exported.versions,
            "chat_template_sha256": trained.chat_template_sha256,
        },
    )


def _artefact(where: str, report: str, exported: ExportRecord, settings: ServeSettings) -> Artefact:
    """Choose a GGUF of the record. `where` names the run in faults, `report` says where its figures can be read."""
    files = [a for a in exported.artefacts if a.kind == "gguf"]
    there = ", ".join(f"{a.quantization} ({a.verdict})" for a in files) or "none"
    if not files:
        raise ServeError(
            f"{where}: it has no GGUF, and nothing else is served here: {exported.no_gguf or 'none was made'}; its"
            " merged/ is a checkpoint that transformers and vLLM load (vllm serve runs/ID/merged)"
        )
    if settings.artefact is not None:
        found = next((a for a in files if settings.artefact in (a.quantization, a.path)), None)
        if found is None:
            raise ServeError(f"{where} has no GGUF '{settings.artefact}'; there is: {there}")
    elif exported.default is not None:
        found = next((a for a in files if a.path == exported.default), None)
        if found is None:
            raise ServeError(f"{where}: its default '{exported.default}' is no GGUF of it; there is: {there}")
    elif settings.allow_unproven and files:
        found = max(files, key=lambda a: a.bytes)
    else:
        raise ServeError(
            f"{where}: none of its artefacts passed its exam ({there}), see {report}; "
            "give --allow_unproven true to serve the largest all the same, or --artefact"
        )
    if found.verdict != "pass":
        if not settings.allow_unproven:
            raise ServeError(
                f"{where}: {found.quantization} {found.outcome}: {found.why}; "
                "give --allow_unproven true to serve it all the same"
            )
        warn(f"serving {found.quantization} of {where} although it {found.outcome}: {found.why}")
    if told := qualified(exported.gate):
        warn(f"{found.quantization} of {where} was {told}")
    return found


def load(settings: ServeSettings) -> Served:
    """Choose, verify and load the model, and check that its template is the one that it was trained with."""
    chosen = choose(settings)
    if chosen.recorded and settings.verify:
        _verify(chosen)
    say(f"loading {chosen.path}")
    model = Model.open(chosen.path, n_gpu_layers=settings.n_gpu_layers, amx=settings.amx)
    say(f"AMX: {'used' if model.amx else 'not used'}: {model.amx_why}")
    try:
        chat = _chat(model, chosen, settings)
        stop_ids, stops = _stops(model, chosen.stops)
    except BaseException:
        model.close()
        raise
    known = min(chosen.context_length or model.n_ctx_train, model.n_ctx_train) or 2048
    if settings.context_length is not None and settings.context_length > known:
        warn(f"context_length {settings.context_length} is more than the {known} tokens that the model knows")
    return Served(
        model=model,
        name=chosen.name,
        chat=chat,
        ends=model.eog_ids() | stop_ids,
        stops=stops,
        context_length=settings.context_length or known,
        created=int(chosen.path.stat().st_mtime),
        record={**chosen.record, "special_tokens": chat.reading if chat else None},
        refuse_specials=settings.special_tokens == "error",
    )


def _chat(model: Model, chosen: Chosen, settings: ServeSettings) -> Chat | None:
    """Return what makes ids of messages, or None without a template; `auto` reads special strings as training did."""
    template = _template(model, chosen)
    if template is None:
        return None
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
    return Chat(template, vocabulary.from_gguf(model), reading)


def _verify(chosen: Chosen) -> None:
    expected = chosen.record["artefact"]["sha256"]
    if not chosen.path.is_file():
        raise ServeError(f"{chosen.path}: the record's model file is not there; {chosen.again}")
    if file_sha256(chosen.path) != expected:
        raise ServeError(
            f"{chosen.path}: its sha256 is not the recorded one: the file was changed or damaged since export; "
            f"{chosen.again}"
        )


def _template(model: Model, chosen: Chosen) -> ChatTemplate | None:
    source = model.chat_template
    if chosen.recorded and chosen.template_sha256 is not None:
        if source is None:
            raise ServeError(f"{chosen.path}: it holds no chat template, but the run was trained with one")
        if text_sha256(source) != chosen.template_sha256:
            raise ServeError(
                f"{chosen.path}: its chat template is not the one the run was trained with "
                f"({text_sha256(source)[:12]}, trained with {chosen.template_sha256[:12]}); {chosen.again}"
            )
    template = from_gguf(model, chosen.template_date)
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
