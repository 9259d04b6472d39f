"""python -m export base: the GGUF of a run's untuned base, in the cache, for comparing the two."""

from __future__ import annotations

import tempfile
from pathlib import Path

from burnish import run as runs
from burnish.console import bar, say
from burnish.evaluations.base_gguf import base_gguf
from burnish.files import check_writable
from burnish.records import TrainRecord
from burnish.run import RunError

from .gguf import convert
from .merge.adapter_config import MergeError
from .merge.bases import store_base
from .merge.shards import sources
from .settings import ExportSettings
from .stage import verified_base

PURPOSE = "the base's GGUF"
BYTES_PER_BYTE = 4  # checkpoint, 16-bit GGUF and the result, of a 16-bit base, with room


def make_base(settings: ExportSettings) -> list[Path]:
    """Return the paths of the base's GGUF in the types of gguf.quants, made unless they exist. Raises UserError."""
    run = runs.find_run(Path(settings.run.root), settings.run.name, TrainRecord)
    record = run.read(TrainRecord)
    types = convert.check_types(settings.gguf.quants)
    paths = {name: base_gguf(run, record.adapter.path, record.base.sha256, name) for name in types}
    missing = {name: path for name, path in paths.items() if not path.is_file()}
    if missing:
        convert.check_converter()
        base = verified_base(settings, record)
        where = next(iter(paths.values())).parent
        size = sum(source.nbytes for source in sources(base.path))
        check_writable(where, BYTES_PER_BYTE * size, PURPOSE)
        say(f"export: making the GGUF of the base {record.base.id} in {where}")
        with tempfile.TemporaryDirectory(dir=where, prefix=".") as directory:
            checkpoint, adapter = Path(directory, "base"), run.path / record.adapter.path
            checkpoint.mkdir()
            try:
                with bar("store the base", len(sources(base.path))) as tick:
                    dtype = store_base(base.path, adapter, checkpoint, record, settings.merge, tick)
            except MergeError as error:
                raise RunError(f"{base.id} can't be compared with run '{run.id}': {error}") from None
            _make(checkpoint, dtype, missing, Path(directory, "base-16.gguf"))
    return list(paths.values())


def _make(checkpoint: Path, dtype: str, missing: dict[str, Path], sixteen: Path) -> None:
    """Convert the checkpoint once, and quantize it to every type that is missing."""
    convert.convert(checkpoint, sixteen, dtype)
    for name, path in missing.items():
        if name == convert.SIXTEEN_BIT[dtype]:
            convert.convert(checkpoint, path, dtype)
        else:
            convert.quantize(sixteen, path, name)
