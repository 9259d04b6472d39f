"""python -m serve generate: answer every row of a file, resuming an interrupted run."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from burnish.console import counted, say, warn
from burnish.data.columns.mapping import ColumnMap, parse_columns
from burnish.data.files import data_sha256, locate
from burnish.files import check_writable
from burnish.process import Note, ctrl_c_ends_at_once, ctrl_c_raises, ignore_path
from burnish.records import ExportRecord
from burnish.run import RunError, find_run

from ..assembly import Loaded, loaded
from . import answering, output, tables
from .endpoints import Endpoint
from .journal import Journal, journal_path, journals, key_of, open_journal
from .local import running
from .prompts import Prompt, read_prompts
from .remote import connected
from .settings import GenerateSettings, RowSettings

PURPOSE = "generate"


def generate(settings: GenerateSettings, mapped: Note = ignore_path) -> int:
    """Answer the rows and write the output file; return 1 if a row failed. Raises UserError."""
    data, out = locate(settings.data), Path(settings.out)
    _check_out(settings, out)
    prompts = read_prompts(data, settings.format, settings.system, *columns(settings, settings.url is None))
    output.check_columns(settings.data, prompts, settings.prefix, settings.n > 1)
    if settings.url is not None:
        return asyncio.run(_generate(settings, prompts, None))
    ctrl_c_ends_at_once()  # while the model loads: native code can't be interrupted otherwise
    with loaded(settings, mapped) as parts:
        ctrl_c_raises()
        return asyncio.run(_generate(settings, prompts, parts))


def columns(settings: RowSettings, has_run: bool) -> tuple[ColumnMap | None, ColumnMap | None]:
    """Return the templates from the settings and from the run's training. Raises RunError if there is no run."""
    own = None if settings.columns is None else parse_columns(settings.columns, "columns")
    if own is not None or not has_run or settings.model is not None:
        return own, None
    run = find_run(Path(settings.runs), settings.run, needs=ExportRecord)
    trained = (run.settings().get("data") or {}).get("columns")
    try:
        return None, None if trained is None else parse_columns(trained)
    except ValueError as error:
        raise RunError(f"{run.path}/config.yaml: data.columns: {error}") from None


def _check_out(settings: GenerateSettings, out: Path) -> None:
    """Raise UserError if the output file can't be written, before generating anything."""
    tables.check_type(out)
    if out.resolve() == Path(settings.data).resolve():
        raise output.OutputError(f"out {out} is the input file: choose another path")
    if out.is_dir():
        raise output.OutputError(f"out {out}: expected a file, got a directory")
    check_writable(out.parent, 0, PURPOSE)
    if out.exists() and not settings.overwrite and not journals(out):
        raise _exists(out)


def _exists(out: Path) -> output.OutputError:
    return output.OutputError(f"out {out}: already exists: choose another path, or replace it with --overwrite true")


async def _generate(settings: GenerateSettings, prompts: list[Prompt], parts: Loaded | None) -> int:
    async with AsyncExitStack() as stack:
        endpoint: Endpoint
        if parts is not None:
            endpoint = await stack.enter_async_context(running(parts, settings, settings.request_timeout_s))
        else:
            opened = connected(str(settings.url), settings.url_model, settings.request_timeout_s)
            endpoint = await stack.enter_async_context(opened)
        out, path = Path(settings.out), _journal_path(settings, endpoint)
        if out.exists() and not settings.overwrite and not path.exists():
            raise _exists(out)
        journal = stack.enter_context(open_journal(path, len(prompts)))
        _say_resumed(journal, out, len(prompts))
        parallel = settings.concurrency or max(1, endpoint.parallel // settings.n)
        try:
            await answering.answer(
                endpoint, prompts, journal, answering.completing(settings.request()), PURPOSE, parallel
            )
        except asyncio.CancelledError:
            done = journal.answered
            raise KeyboardInterrupt(
                f"interrupted: {done:,} of {len(prompts):,} rows were answered; run the same command again to continue"
            ) from None
        return _finish(settings, prompts, journal)


def _journal_path(settings: GenerateSettings, endpoint: Endpoint) -> Path:
    """Return the journal for these rows, request fields and model."""
    content = {
        "data": data_sha256(locate(settings.data)),
        "format": settings.format,
        "columns": settings.columns,
        "system": settings.system,
        "request": settings.request(),
        "endpoint": dict(endpoint.identity),
    }
    return journal_path(Path(settings.out), key_of(content))


def _say_resumed(journal: Journal, out: Path, rows: int) -> None:
    if journal.answered or journal.failed:
        again = f", {journal.failed:,} failed rows are retried" if journal.failed else ""
        say(f"generate: {journal.answered:,} of {rows:,} rows are already answered{again}")
    others = [path.name for path in journals(out) if path != journal.path]
    if others:
        say(f"generate: ignored, because rows or settings differ: {', '.join(others)}")


def _finish(settings: GenerateSettings, prompts: list[Prompt], journal: Journal) -> int:
    """Write the output; keep the journal if a row failed, so that the same command retries it."""
    out, failed = Path(settings.out), journal.failed
    output.write_answers(out, prompts, journal, settings.prefix, settings.n > 1)
    say(f"generate: {out}: {counted(len(prompts), 'row')}, {failed:,} failed")
    if failed:
        warn(f"{counted(failed, 'row')} failed, see the column '{settings.prefix}error'; the same command retries them")
        return 1
    journal.remove()
    return 0
