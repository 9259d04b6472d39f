"""The Hugging Face Hub: downloads, retries, and a clear one-line message for each error.

All access is through huggingface_hub, so its variables apply: HF_TOKEN, HF_TOKEN_PATH, HF_ENDPOINT, HF_HOME etc.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from .console import as_json, say
from .errors import DISK_FAULTS, UserError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SCHEME = "hf://"
RECORDS = ("export.json", "train.json")
RETRIED = frozenset({408, 429, 500, 502, 503, 504})
TRIES = 5
# built-in exceptions that huggingface_hub and hf_xet raise in addition to their own
TRANSFER_FAULTS = (RuntimeError, ValueError, ConnectionError, TimeoutError)
LONGEST_WAIT_S = 300.0
PAGE = "https://huggingface.co"
Result = TypeVar("Result")


class HubError(UserError):
    """Raised when the Hub, the token or the network caused a failure; the message states the remedy."""


@dataclass(frozen=True)
class Reference:
    """A model repository on the Hub, as in hf://owner/name[@revision]."""

    repo: str
    revision: str | None

    @staticmethod
    def parse(text: str) -> Reference:
        """Parse a reference. Raises HubError if it is malformed."""
        found = re.fullmatch(r"hf://([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?", text)
        if not found:
            raise HubError(f"'{text}' is not a Hub reference: expected hf://owner/name or hf://owner/name@revision")
        return Reference(found[1], found[2])


def published_name(path: str) -> str:
    """Return a GGUF's path in its repository: at the top level, where llama.cpp and Ollama look for it."""
    return path.rsplit("/", 1)[-1]


def client() -> HfApi:
    """Return the Hub client: progress bars only on a terminal, warnings as log lines, URLs without signatures."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if as_json() or not sys.stderr.isatty():
        disable_progress_bars()
    logging.getLogger("huggingface_hub").handlers = [_Lines()]
    return HfApi(library_name="burnish")


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say("hub: " + re.sub(r"\?\S+", "", " ".join(record.getMessage().split())))


def retrying(call: Callable[[], Result], tries: int = TRIES) -> Result:
    """Call a function, retrying after rate limits (with the Hub's wait time), server errors and lost connections."""
    for number in range(1, tries):
        try:
            return call()
        except Exception as error:
            wait = _wait_s(error, number)
            if wait is None:
                raise
            say(f"hub: {_short(error)}; trying again in {wait:.0f} s ({number} of {tries - 1})")
            time.sleep(wait)
    return call()


def download(repo: str, revision: str | None, patterns: Sequence[str], tries: int = TRIES) -> Path:
    """Download files from a repository into the Hub cache; return the snapshot directory, named after its commit.

    Without a network, cached files are used. Raises huggingface_hub's errors, which `reason` explains.
    """
    from huggingface_hub import snapshot_download

    client()
    return Path(retrying(lambda: snapshot_download(repo, revision=revision, allow_patterns=list(patterns)), tries))


def cache_directory() -> Path:
    """Return huggingface_hub's cache directory."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).resolve()


def cached(repo: str, revision: str | None) -> Path | None:
    """Return the directory of a snapshot whose model card is cached locally, without network access."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repo, "README.md", revision=revision)
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def reason(error: Exception, repo: str, revision: str | None = None, right: str = "read") -> str:
    """Return one line that explains a Hub client error and the remedy; `right` is the required access.

    Errors from other sources are re-raised.
    """
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    chain = list(_chain(error))
    if any(isinstance(e, hub.GatedRepoError) for e in chain):
        known = "your token's account has no access yet" if _token_source() else "then set HF_TOKEN"
        return f"the repository is gated: accept its licence at {PAGE}/{repo} ({known})"
    if any(isinstance(e, hub.RevisionNotFoundError) for e in chain):
        return f"no revision '{revision or 'main'}': see {PAGE}/{repo}/commits/main"
    if any(isinstance(e, hub.IncompleteSnapshotError) for e in chain):
        return (
            f"the local cache has only part of it, and {_unreachable(chain)}: run again with a network to complete it"
        )
    if any(isinstance(e, hub.LocalTokenNotFoundError) for e in chain):
        return f"no token is set: set HF_TOKEN or HF_TOKEN_PATH, or run `hf auth login` ({PAGE}/settings/tokens)"
    if any(isinstance(e, hub.HFValidationError) for e in chain):
        return "neither a local path nor a valid Hub id (owner/name)"
    response = next((e for e in chain if isinstance(e, hub.HfHubHTTPError)), None)
    if response is not None:
        return _refusal(response, repo, right)
    if any(isinstance(e, hub.FileMetadataError) for e in chain):
        return f"{constants.ENDPOINT} does not respond like the Hub: check HF_ENDPOINT and any proxy"
    if any(isinstance(e, hub.LocalEntryNotFoundError) for e in chain):
        return f"not in the local cache, and {_unreachable(chain)}"
    if any(isinstance(e, hub.OfflineModeIsEnabled) or _is_transport(e) for e in chain):
        return _unreachable(chain)
    if isinstance(error, TRANSFER_FAULTS) or type(error).__module__ == "hf_xet":
        message = " ".join(str(error).split())[:300]
        return f"the transfer stopped ({message}): run the same command again; what was transferred is kept"
    if isinstance(error, OSError) and error.errno not in DISK_FAULTS:
        where = error.filename or constants.HF_HUB_CACHE
        return f"the Hub's cache can't be used ({where}: {error.strerror}): fix it, or set HF_HOME"
    raise error


def _refusal(error: Exception, repo: str, right: str) -> str:
    """Return the meaning of an HTTP status code, with the server's message."""
    from huggingface_hub import errors as hub

    status, message = _status(error), " ".join((getattr(error, "server_message", None) or "").split())
    detail = f" ({message})" if message else ""
    if isinstance(error, hub.RepositoryNotFoundError) and "Invalid credentials" not in message:
        return f"not on the Hub, or private (your token: {_token_source() or 'none'})"
    if status == 401:
        where = _token_source() or "none"
        return f"the Hub rejects the token ({where}): it is wrong or expired; create another at {PAGE}/settings/tokens"
    if status in (402, 403, 413) and "storage" in message.lower():
        return f"the Hub has too little storage for it: {message}"
    if status == 403:
        return f"the token ({_token_source() or 'none'}) is not allowed to {right} {repo}{detail}"
    if status in (409, 412):
        return f"someone else changed it in the meantime{detail}: run the same command again"
    if status in RETRIED:
        return (
            f"the Hub responded with {status}{detail}: run the same command again later; what was transferred is kept"
        )
    return f"the Hub rejected the request: {status}{detail}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _status(error: BaseException) -> int | None:
    found = (getattr(getattr(e, "response", None), "status_code", None) for e in _chain(error))
    return next((int(status) for status in found if status is not None), None)


def _is_transport(error: BaseException) -> bool:
    import httpx

    return isinstance(error, httpx.TransportError)


def _wait_s(error: Exception, number: int) -> float | None:
    """Return the seconds to wait before the next attempt, or None if a retry is pointless."""
    import httpx

    chain = list(_chain(error))
    if any(isinstance(e, httpx.TimeoutException | httpx.ReadError | httpx.RemoteProtocolError) for e in chain):
        return float(2 ** (number - 1))
    if _status(error) not in RETRIED:
        return None
    headers = next(e.response.headers for e in chain if getattr(e, "response", None) is not None)  # type: ignore[attr-defined]
    value = str(headers.get("Retry-After", ""))
    return min(float(value) if value.isdigit() else float(2 ** (number - 1)), LONGEST_WAIT_S)


def _short(error: Exception) -> str:
    status = _status(error)
    return f"the Hub responded with {status}" if status else f"the connection was lost ({type(error).__name__})"


def _unreachable(chain: Sequence[BaseException]) -> str:
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    if constants.is_offline_mode() or any(isinstance(e, hub.OfflineModeIsEnabled) for e in chain):
        return "HF_HUB_OFFLINE is set, so the Hub was not contacted"
    return f"the Hub can't be reached ({constants.ENDPOINT}): check the network"


def _token_source() -> str:
    """Return the token's source, never the token itself; "" if there is no token."""
    from huggingface_hub import constants, get_token

    if not get_token():
        return ""
    return "HF_TOKEN" if os.environ.get("HF_TOKEN") else f"the file {constants.HF_TOKEN_PATH}"
