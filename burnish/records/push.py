"""push.json: where a run was published, and which files."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..fields import MAX_ITEMS, InsidePath, Sha256, StageRecord, Versions, Word

REPO = r"^[\w-][\w.-]*/[\w-][\w.-]*$"


class PushRecord(StageRecord):
    """push.json: where a run was published, and the published files, by path in the repository."""

    export_sha256: Sha256 | None  # None: only the adapter was published, without an export
    train_sha256: Sha256 | None = None
    repo: Annotated[str, Field(max_length=200, pattern=REPO)]
    commit: Word
    files: Annotated[list[InsidePath], Field(max_length=MAX_ITEMS)]
    public: bool = False
    versions: Versions = {}
