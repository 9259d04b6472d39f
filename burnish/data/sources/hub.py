"""Find a dataset on the Hugging Face Hub: hf://datasets/owner/name[@revision][:config][/split or file]."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from ...console import listed, say, warn
from ...errors import did_you_mean
from ...files import cache_root, read_json, read_text, text_sha256, write_atomic
from ...hub import client, reason, retrying
from ..faults import DataError
from ..reading.part import Part
from .directory import MAX_NAMES_SHOWN, check_parts, is_data

PREFIX = "hf://"
SPARE_BYTES = 1 << 30
UNREACHED = ("can't be reached", "HF_HUB_OFFLINE")  # of `reason`
MOST_CARD_BYTES = 4 << 20
SPLITS = {
    "train": "train", "training": "train", "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
}  # fmt: skip
_REFERENCE = re.compile(
    r"hf://datasets/(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>refs/\w+/\w+|[\w.-]+))?"
    r"(?::(?P<config>[\w.-]+))?(?:/(?P<rest>.+))?"
)


@dataclass(frozen=True)
class Reference:
    """A dataset on the Hub; `split` is one of its splits, `file` a path or pattern in it."""

    repo: str
    revision: str | None = None
    config: str | None = None
    split: str | None = None
    file: str | None = None

    @staticmethod
    def parse(text: str) -> Reference:
        """Parse a reference. Raises DataError if it is malformed."""
        found = _REFERENCE.fullmatch(text)
        if not found:
            raise DataError(
                f"'{text}' is not a dataset on the Hub: expected hf://datasets/owner/name, and optionally @revision,"
                " :config and /split or /file, in this order"
            )
        rest = found["rest"]
        is_file = rest is not None and any(mark in rest for mark in "/.*?")
        parts = (None, rest) if is_file else (rest, None)
        return Reference(found["repo"], found["revision"], found["config"], *parts)

    @property
    def title(self) -> str:
        """The dataset's name in messages."""
        return f"hf://datasets/{self.repo}"


@dataclass(frozen=True)
class Found:
    """A dataset's files in the Hub's cache, and the commit they are from."""

    parts: tuple[Part, ...]
    commit: str
    notes: tuple[str, ...] = ()


def find_on_hub(text: str) -> Found:
    """Download the files of a split into the Hub's cache, and return them. Raises DataError."""
    reference = Reference.parse(text)
    commit, sizes = _listing(reference)
    names = sorted(filter(_inside, sizes))
    wanted = _wanted(reference, names, commit)
    directory = _download(reference, commit, wanted, sum(sizes[name] for name in wanted))
    others = len([name for name in names if is_data(PurePosixPath(name).name)]) - len(wanted)
    notes = (f"commit {commit[:12]}", *([f"not read: {others} other data files of the repository"] if others else []))
    parts = tuple(Part(directory / name, place=name, label=f"{reference.title}/{name}") for name in wanted)
    return Found(parts, commit, notes)


def _listing(reference: Reference) -> tuple[str, dict[str, int]]:
    """Return the commit and the repository's files with sizes; without a network, from the cached listing."""
    named = f"{reference.repo}@{reference.revision or 'main'}"
    kept = cache_root() / "data" / "hub" / f"{text_sha256(named)[:32]}.json"
    try:
        api = client()
        info = retrying(lambda: api.dataset_info(reference.repo, revision=reference.revision, files_metadata=True))
    except Exception as error:
        why = reason(error, reference.repo, reference.revision)
        if not kept.is_file() or not any(word in why for word in UNREACHED):
            raise DataError(f"{reference.title}: {why}") from None
        warn(f"{reference.title}: {why}; using the copy in the cache")
        found = read_json(kept, MOST_CARD_BYTES)
        return str(found["commit"]), {str(name): int(size) for name, size in found["sizes"].items()}
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    with suppress(OSError):  # the cache may be read-only
        write_atomic(kept, json.dumps({"dataset": named, "commit": info.sha, "sizes": sizes}))
    return str(info.sha), sizes


def _inside(name: str) -> bool:
    """Return whether a name in a repository stays inside it."""
    return not name.startswith("/") and ".." not in PurePosixPath(name).parts


def _download(reference: Reference, commit: str, names: Sequence[str], size: int) -> Path:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    place = next(path for path in (cache, *cache.parents) if path.exists())
    if size > (free := shutil.disk_usage(place).free - SPARE_BYTES):
        raise DataError(f"{reference.title} is {size / 1e9:,.1f} GB, but {cache} has {max(free, 0) / 1e9:,.1f} GB free")
    say(f"data: {reference.title}: {len(names)} files, {size / 1e6:,.1f} MB, commit {commit[:12]}")
    path = cache
    for name in names:
        path = Path(_file(reference, name, commit))
        for _ in PurePosixPath(name).parts:
            path = path.parent
    return path


def _file(reference: Reference, name: str, commit: str | None) -> str:
    from huggingface_hub import hf_hub_download

    try:
        return str(retrying(lambda: hf_hub_download(reference.repo, name, repo_type="dataset", revision=commit)))
    except Exception as error:
        raise DataError(f"{reference.title}: {name}: {reason(error, reference.repo, commit)}") from None


def _wanted(reference: Reference, names: Sequence[str], commit: str) -> list[str]:
    """Return the data files for a reference."""
    data = [name for name in names if is_data(PurePosixPath(name).name) and not _hidden(name)]
    if not data:
        scripts = [name for name in names if name.endswith(".py")]
        why = (
            f"loading scripts such as {scripts[0]} are not run: try @refs/convert/parquet"
            if scripts
            else (f"found: {listed(names, MAX_NAMES_SHOWN)}" if names else "the repository is empty")
        )
        raise DataError(f"{reference.title}: no data files found ({why})")
    if reference.file:
        found = [name for name in names if fnmatch.fnmatchcase(name, reference.file)]
        if not found:
            raise DataError(f"{reference.title} has no file {reference.file}{did_you_mean(reference.file, data)}")
        return found
    splits = _declared(reference, names, data, commit) or _by_name(reference, data)
    split = reference.split or "train"
    if split not in splits:
        raise DataError(f"{reference.title} has no split '{split}'{did_you_mean(split, splits)}")
    check_parts(f"{reference.title}/{split}", [PurePosixPath(name).name for name in splits[split]])
    return splits[split]


def _declared(
    reference: Reference, names: Sequence[str], data: Sequence[str], commit: str
) -> dict[str, list[str]] | None:
    """Return the files by split declared in the card (README.md) for the configuration, or None."""
    if "README.md" not in names:
        return None
    configs = _configs(Path(_file(reference, "README.md", commit)))
    if not configs:
        return None
    config = _chosen(reference, {str(config.get("config_name", "default")): config for config in configs})
    inside = str(config.get("data_dir") or "").strip("/")
    splits = defaultdict[str, list[str]](list)
    for split, pattern in _patterns(config["data_files"]):
        full = f"{inside}/{pattern}" if inside else pattern
        splits[split] += [name for name in data if _matches(name, full) and name not in splits[split]]
    return {split: found for split, found in splits.items() if found} or None


def _chosen(reference: Reference, configs: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the configuration named in the reference, or the default one."""
    if reference.config:
        if reference.config not in configs:
            hint = did_you_mean(reference.config, configs)
            raise DataError(f"{reference.title} has no configuration '{reference.config}'{hint}")
        return configs[reference.config]
    default = [one for name, one in configs.items() if one.get("default") or name == "default" or len(configs) == 1]
    if not default:
        raise DataError(
            f"{reference.title} has several configurations: choose one with {reference.title}:NAME;"
            f" known: {', '.join(configs)}"
        )
    return default[0]


def _patterns(files: Any) -> Iterator[tuple[str, str]]:
    """Yield (split, pattern) for a card's data_files: a pattern, a list of them, or of objects with split and path."""
    for entry in files if isinstance(files, list) else [files]:
        split, found = (entry.get("split"), entry.get("path")) if isinstance(entry, dict) else (None, entry)
        for pattern in found if isinstance(found, list) else [found]:
            yield str(split or "train"), str(pattern).removeprefix("./")


def _configs(path: Path) -> list[Mapping[str, Any]]:
    """Return the configurations with data files in a card's YAML header; none if it is malformed."""
    try:
        text = read_text(path, MOST_CARD_BYTES)
        header = re.match(r"---\s*\n(.*?)\n---\s*(?:\n|\Z)", text, re.DOTALL)
        found = yaml.safe_load(header[1]) if header else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
        return []
    configs = found.get("configs") if isinstance(found, dict) else None
    return [one for one in configs or () if isinstance(one, dict) and one.get("data_files")]


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, pattern.replace("**/", ""))


def _by_name(reference: Reference, data: Sequence[str]) -> dict[str, list[str]]:
    """Return the files by split, guessed from words in their paths; a configuration is a directory."""
    if reference.config:
        inside = [name for name in data if reference.config in PurePosixPath(name).parts[:-1]]
        if not inside:
            known = {part for name in data for part in PurePosixPath(name).parts[:-1]}
            raise DataError(
                f"{reference.title} has no configuration '{reference.config}'{did_you_mean(reference.config, known)}"
            )
        data = inside
    splits = defaultdict[str, list[str]](list)
    for name in data:
        words = re.split(r"[^a-z]+", name.lower())
        splits[next((SPLITS[word] for word in reversed(words) if word in SPLITS), "")].append(name)
    unnamed = splits.pop("", [])
    return splits if "train" in splits or not unnamed else {**splits, "train": unnamed}


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in PurePosixPath(name).parts)
