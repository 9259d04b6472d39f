"""Find a base model: a Hub id, a directory, a GGUF file, or a file inside an installed Python package."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import children, hub
from ..children.watch import watched
from ..config.yaml_file import YamlError, parse_yaml
from ..console import say
from ..errors import UserError
from ..fields import LICENCE_KEYS, LONGEST_LINE
from ..files import cache_root, file_sha256, irregular, irregular_in, last_line, read_regular
from ..process import crashed, exit_reason
from . import embeddings, packages
from .weights import FETCH, examine, gguf_fault, is_pointer

PACKAGE_PREFIX = "package:"
SMALL_FILES = ("*.json", "*.model", "*.jinja", "*.txt", "*.py")
MODEL_FILES = ("*.safetensors", "*.safetensors.index.json", *SMALL_FILES)
CHECKPOINT_VERSION = 2  # increment when dequantize.py's output changes, to invalidate cached checkpoints
MAX_CARD_BYTES = 4 << 20
MAX_LICENCES = 20
WEIGHT_SUFFIXES = (".safetensors", ".bin")
COMPLETE = "remove the file from the cache if it is there, and run again with a network to complete it"
CUT = "cannot reshape array of size"  # numpy's error for a truncated GGUF file
OBJECTS = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json")


class BaseError(UserError):
    """Raised when a base model is missing, can't be downloaded, or is not the one used for training."""


@dataclass(frozen=True)
class Base:
    """A local base model. `path` is a directory that transformers can load; `sha256` covers its files.

    For a GGUF file, `gguf` is the file, `sha256` its hash, and `path` its dequantized checkpoint in the cache.
    """

    id: str
    revision: str | None
    path: Path
    sha256: str
    gguf: Path | None = None

    @property
    def name(self) -> str:
        """The last part of the id without its extension and GGUF quantization, for run and file names."""
        stem = re.sub(r"\.gguf$", "", self.id.rstrip("/").rsplit("/", 1)[-1], flags=re.IGNORECASE)
        return re.sub(r"[.-](I?Q\d\w*|[bB]?[fF](16|32))$", "", stem)


def look(base_id: str, revision: str | None = None) -> Path | None:
    """Check a base without downloading or reading its weights. Raises BaseError if it is missing or not a model.

    Returns the directory that contains config.json, or None for a GGUF file. `resolve` is slower and checks the rest.
    """
    local = _local_path(base_id)
    if local is not None and local.is_file():
        _check_gguf(base_id, local)
        return None
    if local is not None:
        return _checked(base_id, local, FETCH)
    directory = _fetched(base_id, revision, SMALL_FILES)
    if not (directory / "config.json").is_file():
        raise BaseError(f"base.id {base_id} is not a model: config.json is missing")
    if faults := _object_faults(directory):
        raise BaseError([f"base.id {base_id}: {fault}" for fault in faults])
    return directory


def is_local(base_id: str) -> bool:
    """Return whether a base is on this machine, rather than on the Hub. Raises BaseError like `look`."""
    return _local_path(base_id) is not None


def resolve(base_id: str, revision: str | None = None) -> Base:
    """Return the base model, downloaded or dequantized if necessary. Raises BaseError with the remedy."""
    local = _local_path(base_id)
    if local is not None and local.is_file():
        _check_gguf(base_id, local)
        digest = file_sha256(local)
        return Base(base_id, None, _dequantized(local, digest), digest, local)
    directory = local if local is not None else _from_hub(base_id, revision)
    _checked(base_id, directory, FETCH if local is not None else COMPLETE)
    # the Hub cache names snapshot directories after their commits
    return Base(base_id, directory.name if local is None else None, directory, directory_sha256(directory))


def _check_gguf(base_id: str, path: Path) -> None:
    if fault := gguf_fault(path):
        raise BaseError(f"base.id {base_id}: {fault}")


def _checked(base_id: str, directory: Path, remedy: str) -> Path:
    """Return the directory. Raises BaseError if files are missing, or small files or weight headers are damaged."""
    if not (directory / "config.json").is_file() or not any(p.suffix in WEIGHT_SUFFIXES for p in directory.iterdir()):
        raise BaseError(
            f"base.id {base_id}: {directory} is not a model: expected config.json and *.safetensors (or .bin)"
        )
    if faults := [*irregular_in(directory), *_links_out(directory)]:
        raise BaseError([f"base.id {base_id}: {fault}" for fault in faults])
    weights = examine(directory, remedy)
    faults = [*weights.faults, *_object_faults(directory)]
    if not faults and (fault := embeddings.fault(directory, embeddings.read_config(directory), weights.shapes)):
        faults = [fault]
    if faults:
        raise BaseError([f"base.id {base_id}: {fault}" for fault in faults])
    return directory


def _links_out(directory: Path) -> list[str]:
    """Return errors for small files that link out of the directory: an export would copy their targets.

    Links from the Hub cache to its blobs are fine. Weights may be on another disk and are checked separately.
    """
    faults = []
    for path in sorted(directory.iterdir()):
        if not path.is_symlink() or path.suffix in WEIGHT_SUFFIXES:
            continue
        target = path.resolve()
        blob = target.parent.name == "blobs" and target.parent.parent.name.startswith("models--")
        if not blob and not target.is_relative_to(directory.resolve()):
            faults.append(
                f"{path} is a symbolic link to {target}, outside the directory: replace it with the file itself"
            )
    return faults


def directory_sha256(directory: Path) -> str:
    """Return one sha256 for a checkpoint's files: the hash of the sorted lines "sha256  name"."""
    names = {p for pattern in (*MODEL_FILES, "*.bin") for p in directory.glob(pattern) if p.is_file()}
    lines = [f"{_blob_sha256(p)}  {p.name}\n" for p in sorted(names)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _blob_sha256(path: Path) -> str:
    """Return a file's sha256. A large file in the Hub cache is not read: its blob is named after its sha256.

    Files that link elsewhere are read.
    """
    target = path.resolve()
    ours = path.is_symlink() and target.parent.name == "blobs" and target.is_relative_to(hub.cache_directory())
    return target.name if ours and re.fullmatch(r"[0-9a-f]{64}", target.name) else file_sha256(path)


def _local_path(base_id: str) -> Path | None:
    """Return the local file or directory that an id refers to; None for a Hub id."""
    if base_id.startswith(PACKAGE_PREFIX):
        try:
            return packages.find(base_id.removeprefix(PACKAGE_PREFIX))
        except packages.PackageError as error:
            raise BaseError(f"base.id {base_id}: {error}") from None
    path = Path(base_id).expanduser()
    if path.exists():
        if why := irregular(path):
            raise BaseError(f"base.id {base_id}: {why}")
        if path.is_file() and path.suffix.lower() != ".gguf":
            raise BaseError(f"base.id {base_id} is a file but not a .gguf: set a directory, a .gguf file or a Hub id")
        return path.resolve()
    if base_id.startswith((".", "/", "~")) or base_id.lower().endswith(".gguf") or base_id.count("/") > 1:
        raise BaseError(f"base.id {base_id}: no such file or directory")
    return None


def _from_hub(base_id: str, revision: str | None) -> Path:
    """Download a snapshot into the Hub cache; HF_HOME and HF_TOKEN apply. Raises BaseError with a one-line message."""
    path = _fetched(base_id, revision, MODEL_FILES)
    if not any(path.glob("*.safetensors")):  # an older model with only .bin weights
        path = _fetched(base_id, revision, [*MODEL_FILES, "*.bin"])
    if not (path / "README.md").is_file():
        with suppress(Exception):  # the model card names the licence, but is optional
            hub.download(base_id, path.name, ["README.md"], tries=1)
    return path


def _fetched(base_id: str, revision: str | None, patterns: Sequence[str]) -> Path:
    try:
        return hub.download(base_id, revision, patterns)
    except Exception as error:
        raise BaseError(f"base.id {base_id}: {hub.reason(error, base_id, revision)}") from None


def _object_faults(directory: Path) -> list[str]:
    """Return errors for small files that aren't JSON objects: libraries reject them without naming the file."""
    faults = []
    for path in (path for name in OBJECTS if not is_pointer(path := directory / name)):
        try:
            value = json.loads(read_regular(path)) if path.exists() else {}
        except (OSError, ValueError, RecursionError) as error:
            faults.append(f"{path} can't be read as JSON: {error}; restore the file")
        else:
            if not isinstance(value, dict):
                faults.append(f"{path}: expected a JSON object, found {json.dumps(value)[:40]}; restore the file")
    return faults


def resolved_here(base_id: str, revision: str | None = None) -> Base | None:
    """Return a base that is already on this machine; None if it needs a download or no longer exists.

    Its sha256 is empty: only the files next to the weights are needed.
    """
    try:
        local = _local_path(base_id)
    except BaseError:
        return None
    if local is None:
        local = hub.cached(base_id, revision)
    if local is None:
        return None
    return Base(base_id, revision, local, "", local if local.is_file() else None)


def licence(base: Base) -> dict[str, str]:
    """Return license, license_name and license_link from the base's model card or a GGUF file's metadata.

    Empty if not given; nothing is guessed.
    """
    if base.gguf is not None:
        return _gguf_licence(base.gguf)
    try:
        text = read_regular(base.path / "README.md", MAX_CARD_BYTES).decode("utf-8", "replace")
        head = re.match(r"---\s*\n(.*?)\n---\s*\n", text, re.DOTALL)
        metadata = parse_yaml(head[1]) if head else None
    except (OSError, YamlError, RecursionError):
        return {}
    return _plain({key: metadata.get(key) for key in LICENCE_KEYS}) if isinstance(metadata, dict) else {}


def _gguf_licence(path: Path) -> dict[str, str]:
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        fields = {key: reader.get_field(f"general.{key.replace('_', '.')}") for key in LICENCE_KEYS}
        return _plain({key: field.contents() for key, field in fields.items() if field is not None})
    except Exception:  # a damaged file can make the reader raise anything
        return {}


def _plain(metadata: dict[str, Any]) -> dict[str, str]:
    """Return only strings and joined lists of strings, truncated: YAML aliases can expand to huge strings."""
    lists = {key: value for key, value in metadata.items() if isinstance(value, list) and len(value) <= MAX_LICENCES}
    joined = {key: ", ".join(value) for key, value in lists.items() if all(isinstance(item, str) for item in value)}
    texts = {key: value for key, value in metadata.items() if value and isinstance(value, str)}
    return {key: value[:LONGEST_LINE] for key, value in {**texts, **joined}.items()}


def _dequantized(gguf_file: Path, digest: str) -> Path:
    """Return a GGUF file's trainable checkpoint, which is created once and cached.

    A child process creates it, so that this process does not import torch and the memory is freed.
    """
    target = cache_root() / "bases" / f"{gguf_file.stem}-{digest[:16]}-v{CHECKPOINT_VERSION}"
    if not target.is_dir():
        say(f"base: dequantizing {gguf_file.name} once into {target}")
        size, names = gguf_file.stat().st_size, (str(gguf_file.resolve()), str(target.resolve()))
        # 4 bits per weight become 16, and temporarily 32 in memory
        command = children.confined(children.Limits.of(8 * size, 8 * size), "burnish.bases.dequantize", *names)
        code, errors = watched(command, children.environment(TRANSFORMERS_VERBOSITY="error"), "base: dequantizing")
        if code:
            last = last_line(errors, "no output")
            if crashed(code):
                last = f"{exit_reason(code)} (its last line: {last})"
            if CUT in last:
                last = f"the file is truncated: it ends inside a tensor; {FETCH}"
            raise BaseError(f"base.id {gguf_file} can't be converted to a trainable checkpoint: {last}")
    return target
