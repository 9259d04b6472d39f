"""Publish settings, and checks that the target is usable: before a long training and before every push."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from .config import Strict
from .console import say
from .hub import HubError, client, reason, retrying
from .private.huggingface_hub import refused_upload

if TYPE_CHECKING:
    from huggingface_hub import HfApi

WRITE = "write to"
OTHER_NAMES = {"lora": "adapter", "merged_16bit": "merged"}  # unsloth's names
FOUR_BIT = frozenset({"merged_4bit", "merged_4bit_forced"})  # also unsloth's
UPLOAD_BYTES = 4_000_000_000  # below the Hub's threshold for multipart uploads
# files that a manually created repository without a model may contain
PLAIN_FILES = frozenset({".gitattributes", "README.md", "LICENSE", "LICENSE.md", "LICENSE.txt"})


class PushSection(Strict):
    """The publish target; if set for training, it is checked before training starts."""

    repo: str | None = Field(
        None,
        pattern=r"^[\w-][\w.-]*/[\w-][\w.-]*$",
        description="owner/name on the Hub; if unset, nothing is published",
    )
    what: list[str] = Field(
        ["gguf", "merged", "adapter"], description="what to publish: gguf, merged, adapter, or a GGUF type such as Q8_0"
    )

    @field_validator("what")
    @classmethod
    def _by_other_names(cls, value: list[str]) -> list[str]:
        if FOUR_BIT & set(value):
            raise ValueError(
                "4-bit merges are not supported: rounding to 4 bits can erase a light fine-tune; use"
                " merged (16 bits), adapter, or a small GGUF type, which is examined"
            )
        return [OTHER_NAMES.get(name, name) for name in value]

    public: bool = Field(False, description="make the repository public instead of private")
    allow_failed: bool = Field(
        False, description="also publish artifacts that failed their exam; the model card says so"
    )


def check_target(api: HfApi, push: PushSection, needed_bytes: int = 0) -> str:
    """Check the token and the target's name, write access, visibility and space; return the user's name.

    A missing repository is created empty. Raises HubError with a one-line message.
    """
    repo = str(push.repo)
    try:
        user = str(retrying(api.whoami)["name"])
        retrying(lambda: api.create_repo(repo, private=not push.public, exist_ok=True))
        _check_repository(api, push, repo)
        retrying(lambda: api.auth_check(repo, write=True))
        if needed_bytes:
            retrying(lambda: _check_space(api, repo, needed_bytes))
    except HubError:
        raise
    except Exception as error:
        raise HubError(f"push.repo {repo}: {reason(error, repo, right=WRITE)}") from None
    return user


def preflight(push: PushSection, weights: Path) -> None:
    """Check before a long training that its push will succeed; `weights` is the base's directory, used for the size.

    The two 16-bit formats and the quantizations need about three times the base's size.
    """
    if push.repo is None:
        return
    size = sum(p.stat().st_size for p in weights.iterdir() if p.suffix in (".safetensors", ".bin"))
    user = check_target(client(), push, 3 * size)
    say(f"push: '{user}' can publish to {push.repo} (about {3 * size / 1e9:.1f} GB); run `make push` after the export")


def _check_repository(api: HfApi, push: PushSection, repo: str) -> None:
    """Raise HubError if the repository is not ours, has other content, or is public contrary to the settings."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = retrying(lambda: api.model_info(repo))
    except RepositoryNotFoundError:
        raise HubError(
            f"push.repo {repo}: the name is taken by something that your token can't see: choose another"
        ) from None
    names = {s.rfilename for s in info.siblings or []}
    if names - PLAIN_FILES and not _is_ours(names):
        raise HubError(f"push.repo {repo}: the name is taken by a model that Burnish did not publish: choose another")
    if not push.public and info.private is False:
        raise HubError(f"push.repo {repo} is public: set PUBLIC=1 (push.public) to publish there, or make it private")
    if push.public and info.private:
        say(f"push: {repo} is private and stays so: change its visibility on its settings page")


def _is_ours(names: set[str]) -> bool:
    """Return whether an earlier push filled the repository: it contains train.json, and SHA256SUMS or export.json."""
    return "train.json" in names and not names.isdisjoint({"SHA256SUMS", "export.json"})


def _check_space(api: HfApi, repo: str, needed_bytes: int) -> None:
    """Raise HubError if the account's quota is too small for files with this size."""
    sizes = [UPLOAD_BYTES] * (needed_bytes // UPLOAD_BYTES) + [needed_bytes % UPLOAD_BYTES or 1]
    if refusal := refused_upload(api, repo, sizes):
        raise HubError(f"push.repo {repo}: the Hub does not accept about {needed_bytes / 1e9:.1f} GB: {refusal}")
