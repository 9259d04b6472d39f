"""Fetch a data file from an http(s) URL into the cache: once, resumed, with its sha256 recorded, up to a size."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from ...console import bar, say
from ...files import cache_root, file_sha256, private_directory, read_json, text_sha256, write_atomic
from ...run import now
from ..faults import DataError

if TYPE_CHECKING:
    import httpx

URL = re.compile(r"https?://", re.IGNORECASE)
MOST_BYTES = 100 << 30
SPARE_BYTES = 1 << 30  # disk space that is left free
CHUNK_BYTES = 1 << 20
SPACE_EVERY_BYTES = 64 << 20  # free space is checked again after as many bytes
LEAST_BYTES, WINDOW_S = 64 << 10, 60.0  # a transfer with fewer bytes in a window is too slow
TRIES, REDIRECTS, TIMEOUT_S, LONGEST_WAIT_S = 5, 10, 60.0, 60.0
RETRIED = frozenset({408, 429, 500, 502, 503, 504})
# beside a fetched file's own directory, so that no file's name can be one of these
META, PARTIAL, FILES = "fetched.json", "partial", "files"
NUMBER = re.compile(r"[0-9]{1,18}")
WEB_PAGE = re.compile(rb"\s*<(!doctype\s+html|html)\b", re.IGNORECASE)
PAGE_FAULT = "is a web page, not a data file: use the address of the file itself"
# pages that show a file, and the addresses of the file itself
PAGES = (
    (re.compile(r"(https://github\.com/[^/]+/[^/]+)/blob/(.+)"), r"\1/raw/\2"),
    (re.compile(r"(https://huggingface\.co/(?:datasets/)?[^/]+/[^/]+)/blob/(.+)"), r"\1/resolve/\2"),
)


@dataclass(frozen=True)
class Fetched:
    """A file from the web in the cache. `url` has no credentials or query."""

    url: str
    path: Path
    sha256: str
    bytes: int
    fetched: str


class _Again(Exception):
    """The transfer stopped and can be resumed; `wait_s` is the delay requested by the server, if any."""

    def __init__(self, why: str, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.wait_s = wait_s


def fetch(url: str, most_bytes: int = MOST_BYTES) -> Fetched:
    """Return the file at a URL, from the cache if it was fetched before. Raises DataError."""
    for page, file in PAGES:
        url = page.sub(file, url)
    if "@" in _netloc(url):
        raise DataError(
            f"{public(url)}: the URL contains credentials, which would be recorded: download the file first"
        )
    shown, directory = public(url), cache_root() / "data" / text_sha256(url)[:32]
    name = re.sub(r"[^\w.-]+", "_", unquote(urlsplit(url).path).rsplit("/", 1)[-1]).lstrip(".")[-100:] or "data"
    try:
        private_directory(directory)
        with _alone(directory):
            if (found := _cached(directory, name, shown)) is not None:
                say(f"data: {shown}: from the cache, fetched {found.fetched} (remove {directory} to fetch it again)")
                return found
            partial, path = directory / PARTIAL, private_directory(directory / FILES) / name
            _transfer(url, shown, partial, most_bytes)
            _check(partial, shown)
            partial.replace(path)
            made = Fetched(shown, path, file_sha256(path), path.stat().st_size, now())
            write_atomic(directory / META, json.dumps({**asdict(made), "path": name}, indent=2) + "\n")
    except OSError as error:
        raise DataError(f"{shown} can't be stored in {directory}: {error.strerror or error}") from None
    say(f"data: {shown}: fetched {made.bytes / 1e6:,.1f} MB, sha256 {made.sha256[:16]}…, kept in {directory}")
    return made


def public(url: str) -> str:
    """Return a URL without credentials, query and fragment, for messages and records."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return re.sub(r"//[^/]*@", "//", re.split(r"[?#]", url)[0])
    return urlunsplit((parts.scheme.lower(), parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _netloc(url: str) -> str:
    """Return a URL's host, port and credentials. Raises DataError if it is not a URL."""
    try:
        url.encode()
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError
        return parts.netloc
    except ValueError as error:
        raise DataError(f"{ascii(public(url))[1:-1]} is not a URL that can be fetched: {error}") from None


def _check(partial: Path, shown: str) -> None:
    """Remove the file and raise DataError if it is empty or a web page."""
    with partial.open("rb") as file:
        head = file.read(1024)
    if not head or WEB_PAGE.match(head):
        partial.unlink()
        raise DataError(f"{shown}{f' {PAGE_FAULT}' if head else ': the server sent an empty file'}")


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Let one process at a time fetch a URL; the others wait and find its file."""
    with (directory / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _cached(directory: Path, name: str, shown: str) -> Fetched | None:
    meta, path = directory / META, directory / FILES / name
    if not meta.is_file() or not path.is_file():
        return None
    found: dict[str, Any] = read_json(meta, CHUNK_BYTES)
    if path.stat().st_size != found.get("bytes") or found.get("sha256") != file_sha256(path):
        say(f"data: {shown}: the copy in the cache has changed: fetching it again")
        return None
    return Fetched(shown, path, found["sha256"], found["bytes"], str(found.get("fetched", "")))


def _transfer(url: str, shown: str, partial: Path, most_bytes: int) -> None:
    """Download to `partial`, resuming an earlier download; retry lost connections."""
    for number in range(1, TRIES + 1):
        try:
            _once(url, shown, partial, most_bytes)
        except _Again as error:
            if number == TRIES:
                raise DataError(
                    f"{shown} can't be fetched: {error}; run the same command again to resume the download"
                ) from None
            wait = min(error.wait_s if error.wait_s is not None else 2.0 ** (number - 1), LONGEST_WAIT_S)
            say(f"data: {shown}: {error}; trying again in {wait:.0f} s ({number} of {TRIES - 1})")
            time.sleep(wait)
        else:
            return


def _once(url: str, shown: str, partial: Path, most_bytes: int) -> None:
    import httpx

    mark = partial.with_name(f"{partial.name}.json")  # the version of the file that was begun
    have, version = _begun(partial, mark)
    # without compression in transit, so that positions are those of the file
    headers = {"Accept-Encoding": "identity", "User-Agent": "burnish"}
    headers |= {"Range": f"bytes={have}-", "If-Range": version} if have else {}
    try:
        with (
            httpx.Client(follow_redirects=True, max_redirects=REDIRECTS, timeout=TIMEOUT_S) as client,
            client.stream("GET", url, headers=headers) as response,
        ):
            have = _resumed(response, have, shown, partial)
            total = _size(response, have, shown, partial, most_bytes)
            write_atomic(mark, json.dumps({"version": _version(response)}))
            _write(response, partial, have, total, most_bytes, shown)
    except httpx.TooManyRedirects:
        raise DataError(f"{shown}: redirects more than {REDIRECTS} times") from None
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError) as error:
        raise DataError(f"{shown} is not a URL that can be fetched: {error}") from None
    except (httpx.TransportError, httpx.StreamError) as error:
        raise _Again(f"the connection failed ({type(error).__name__}: {error})") from None
    mark.unlink(missing_ok=True)


def _begun(partial: Path, mark: Path) -> tuple[int, str]:
    """Return the bytes of an unfinished transfer and the file's version; 0 if it can't be resumed."""
    if not partial.is_file() or not mark.is_file():
        return 0, ""
    version = str(read_json(mark, CHUNK_BYTES).get("version") or "")
    return (partial.stat().st_size, version) if version else (0, "")


def _version(response: httpx.Response) -> str:
    """Return the server's identifier of the file version, "" if there is none and transfers can't be resumed."""
    tag = response.headers.get("ETag", "")
    return str(tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", ""))


def _resumed(response: httpx.Response, have: int, shown: str, partial: Path) -> int:
    """Return the position at which the response's bytes begin."""
    if response.status_code != 206:
        return 0
    if have and response.headers.get("Content-Range", "").replace("=", " ").lower().startswith(f"bytes {have}-"):
        return have
    partial.unlink(missing_ok=True)
    if have:  # other bytes than those asked for: rows would be repeated or missing
        raise _Again("the server does not resume where it was asked to: starting again", 0.0)
    raise DataError(f"{shown}: expected the whole file, but the server responded with a part of it")


def _size(response: httpx.Response, have: int, shown: str, partial: Path, most_bytes: int) -> int:
    """Return the file's size, 0 if unknown. Raises DataError if the server refuses, or it is too large."""
    status = response.status_code
    if status in RETRIED:
        asked = response.headers.get("Retry-After", "")
        raise _Again(f"the server responded with {status}", float(asked) if NUMBER.fullmatch(asked) else None)
    if status == 416:  # the part that is there is not of this file
        partial.unlink(missing_ok=True)
        raise _Again("the server has another version of the file", 0.0)
    if status >= 400:
        why = {401: "a login is required", 403: "a login is required", 404: "the file does not exist"}.get(
            status, "refused"
        )
        raise DataError(f"{shown}: the server responded with {status}: {why}")
    if status not in (200, 206):
        raise DataError(f"{shown}: expected status 200 and a file, got {status}")
    if response.headers.get("Content-Type", "").lower().startswith(("text/html", "application/xhtml")):
        raise DataError(f"{shown} {PAGE_FAULT}")
    length = response.headers.get("Content-Length", "")
    total = have + int(length) if NUMBER.fullmatch(length) else 0
    free = _free(partial)
    if total > most_bytes:
        raise DataError(f"{shown}: expected at most {most_bytes / 1e9:,.1f} GB, got {total / 1e9:,.1f} GB")
    if total - have > free:
        raise DataError(f"{shown} is {total / 1e9:,.1f} GB, but {partial.parent} has {free / 1e9:,.1f} GB free")
    return total


def _free(partial: Path) -> int:
    """Return the bytes that may be written."""
    return max(0, shutil.disk_usage(partial.parent).free - SPARE_BYTES)


def _write(response: httpx.Response, partial: Path, have: int, total: int, most_bytes: int, shown: str) -> None:
    checked = have
    with partial.open("r+b" if have else "wb") as file, bar("fetch", total or 1) as tick:
        file.seek(have)
        for piece in _paced(response.iter_raw()):
            file.write(piece)
            have += len(piece)
            if have > most_bytes:
                raise DataError(f"{shown} is larger than {most_bytes / 1e9:,.1f} GB, the limit")
            if have - checked >= SPACE_EVERY_BYTES:
                checked = have
                if not _free(partial):
                    raise DataError(f"{shown}: {partial.parent} is full after {have / 1e9:,.1f} GB: free disk space")
            tick(min(have, total) if total else 0)
    if total and have != total:
        raise _Again(f"the connection closed after {have:,} of {total:,} bytes")


def _paced(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the pieces. Raises _Again if they come so slowly that the transfer would not end."""
    began, got = time.monotonic(), 0
    for piece in pieces:
        if (passed := time.monotonic() - began) > WINDOW_S and got:
            if got < LEAST_BYTES:
                raise _Again(f"only {got:,} bytes came in {passed:.0f} s")
            began, got = time.monotonic(), 0
        yield piece
        got += len(piece)
