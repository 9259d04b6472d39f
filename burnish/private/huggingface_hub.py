"""Private huggingface_hub API for publishing: upload addresses and file hashes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .needs import Need

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

LFS = "huggingface_hub.lfs"
SPACE = "a push can't check the available space before it starts"
NEEDS = (
    Need(f"{LFS}:UploadInfo", SPACE, parameters=("size", "sample", "sha256")),
    Need(f"{LFS}:post_lfs_batch_info", SPACE, parameters=("upload_infos", "token", "repo_type", "repo_id", "endpoint")),
    Need("huggingface_hub.utils.sha:git_hash", "unchanged small files are uploaded again", parameters=("data",)),
    Need(
        "huggingface_hub:CommitOperationAdd.upload_info",
        "every uploaded file is hashed a second time",
        assigned_in="huggingface_hub:CommitOperationAdd.__post_init__",
    ),
)


def refused_upload(api: HfApi, repo: str, sizes: Sequence[int]) -> str | None:
    """Request upload addresses for files with these sizes, without using them; return the reason if refused."""
    from huggingface_hub.lfs import UploadInfo, post_lfs_batch_info

    infos = [UploadInfo(size=size, sample=b"", sha256=os.urandom(32)) for size in sizes]
    _, errors, _ = post_lfs_batch_info(infos, token=None, repo_type="model", repo_id=repo, endpoint=api.endpoint)
    return str(errors[0]["error"]["message"]) if errors else None


def git_id(content: bytes) -> str:
    """Return a file's git id, which the Hub stores for non-LFS files."""
    from huggingface_hub.utils.sha import git_hash

    return git_hash(content)


def set_sha256(operation: CommitOperationAdd, digest: str) -> None:
    """Set the file's sha256 (hex) for an upload, from a previously verified record."""
    operation.upload_info.sha256 = bytes.fromhex(digest)
