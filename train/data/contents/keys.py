"""The keys of a row's content: rows with the same key are duplicates."""

from __future__ import annotations

from hashlib import blake2b
from unicodedata import normalize

from burnish.data.formats import Example
from burnish.data.tools.definitions import shown


def prefix_keys(example: Example) -> list[bytes]:
    """Return one digest per assistant turn, of the conversation up to it; the last covers the row. A text has one.

    Rows with the same digest have the same content: the same tools, roles and texts, ignoring spaces, line breaks,
    composed or decomposed accents, and whether turns are trained.
    """
    digest = blake2b(digest_size=16)
    if example.messages is None:
        _feed(digest, "text", example.text or "")
        return [digest.digest()]
    keys = []
    if example.tools:
        _feed(digest, "tools", shown(example.tools))
    for message in example.messages:
        if message.role != "system" or message.content.strip():
            _feed(digest, message.role, message.whole)
        if message.role == "assistant":
            keys.append(digest.digest())
    return keys or [digest.digest()]


def content_key(example: Example) -> bytes:
    """Return the digest of a row's content."""
    return prefix_keys(example)[-1]


def _feed(digest: blake2b, role: str, text: str) -> None:
    plain = " ".join((text if text.isascii() else normalize("NFC", text)).split()).encode("utf-8", "surrogatepass")
    digest.update(f"{role} {len(plain)} ".encode() + plain)
