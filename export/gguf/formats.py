"""An export's GGUF files: one in 16 bits, converted from the merged model, and the requested quantizations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from burnish.exam.scores import TopLogprobs
from burnish.files import read_json
from burnish.records import Fidelity, Kind

from ..artifacts import Job, Made
from ..exam.examine import examine_gguf
from ..merge.bases import MERGED
from ..merged import merged_answers
from . import convert


@dataclass(frozen=True)
class Gguf:
    """Format: a GGUF file of one type. `write` creates the file and returns the fallback counts by type."""

    job: Job
    reference: TopLogprobs
    type_name: str
    write: Callable[[Path], dict[str, int]]
    kind: Kind = "gguf"

    @property
    def path(self) -> str:
        return f"gguf/{self.job.run.id}-{self.type_name}.gguf"

    def make(self, target: Path) -> Made:
        """Convert or quantize in a child process."""
        return Made(self.type_name, self.write(target))

    def examine(self, path: Path) -> Fidelity:
        """Score the file with llama.cpp against the trained model and the merged model."""
        timeout_s = self.job.settings.template_timeout_s
        return examine_gguf(path, self.job.exam, self.job.record, self.reference, self.type_name, timeout_s)


def gguf_formats(job: Job, types: Sequence[str]) -> Iterator[Gguf]:
    """Yield the 16-bit format, then the formats quantized from it. Requires merged/."""
    merged, reference = job.run.path / MERGED, merged_answers(job.run)
    dtype = str(read_json(merged / "config.json")["dtype"])
    sixteen = Gguf(job, reference, convert.SIXTEEN_BIT[dtype], partial(convert.convert, merged, dtype=dtype))
    yield sixteen
    source = job.run.path / sixteen.path
    for name in types:
        if name != sixteen.type_name:
            yield Gguf(job, reference, name, partial(convert.quantize, source, type_name=name))
