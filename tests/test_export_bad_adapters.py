"""Damaged, unusual or hostile adapters: export reports the problem in one line and exits with 2."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from burnish.files import tree_sha256
from burnish.run import Run
from tests.support.commands import Cli
from tests.support.thorough import named
from tests.support.training import command, only_fault

pytestmark = pytest.mark.slow

Break = Callable[[Path], object]
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
A, B = "lora_A.weight", "lora_B.weight"


def config(**changes: Any) -> Break:
    """Change keys of adapter_config.json; None removes one."""

    def apply(directory: Path) -> None:
        content = json.loads((directory / CONFIG).read_text())
        content |= changes
        (directory / CONFIG).write_text(json.dumps({k: v for k, v in content.items() if v is not None}))

    return apply


def text(name: str, content: str) -> Break:
    return lambda directory: (directory / name).write_text(content)


def tensors(change: Callable[[str, Any], Any], part: str = A) -> Break:
    """Change the first tensor whose name ends in `part`."""

    def apply(directory: Path) -> None:
        found = load_file(directory / WEIGHTS)
        name = next(name for name in found if name.endswith(part))
        found[name] = change(name, found[name])
        save_file({k: v for k, v in found.items() if v is not None}, directory / WEIGHTS)

    return apply


def renamed(new: Callable[[str], str]) -> Break:
    """Rename the first two tensors."""

    def apply(directory: Path) -> None:
        found = load_file(directory / WEIGHTS)
        names = sorted(found)[:2]
        save_file({new(k) if k in names else k: v for k, v in found.items()}, directory / WEIGHTS)

    return apply


def header(change: Callable[[dict[str, Any]], Any]) -> Break:
    """Change the header of the weights."""

    def apply(directory: Path) -> None:
        raw = (directory / WEIGHTS).read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        made = json.dumps(change(json.loads(raw[8 : 8 + length]))).encode()
        (directory / WEIGHTS).write_bytes(struct.pack("<Q", len(made)) + made + raw[8 + length :])

    return apply


def first(**changes: Any) -> Break:
    """Change the entry of the first tensor in the header."""

    def change(found: dict[str, Any]) -> dict[str, Any]:
        name = next(name for name in found if name != "__metadata__")
        found[name] |= changes
        return found

    return header(change)


def raw(change: Callable[[bytes], bytes]) -> Break:
    return lambda directory: (directory / WEIGHTS).write_bytes(change((directory / WEIGHTS).read_bytes()))


def instead(name: str, make: Callable[[Path], object]) -> Break:
    """Replace a file with something else."""

    def apply(directory: Path) -> None:
        (directory / name).unlink()
        make(directory / name)

    return apply


def with_value(number: float) -> Break:
    def change(_: str, tensor: Any) -> Any:
        tensor.flat[0] = number
        return tensor

    return tensors(change, B)


BAD: dict[str, Break] = {
    "an empty file": raw(lambda data: b""),
    "four bytes": raw(lambda data: data[:4]),
    "a header cut short": raw(lambda data: data[:100]),
    "weights cut short": raw(lambda data: data[:-100]),
    "no weights at all": instead(WEIGHTS, lambda path: None),
    "a pickle": raw(lambda data: b"\x80\x02cos\nsystem\nq\x00."),
    "a header as long as 2**63": raw(lambda data: struct.pack("<Q", 1 << 63) + data[8:]),
    "a header that is a list": header(lambda found: [1]),
    "a header that is a number": header(lambda found: 7),
    "an entry without a dtype": first(dtype=None),
    "an entry that is not an object": header(lambda found: dict.fromkeys(found, 1)),
    "a shape that is a text": first(shape="8x8"),
    "a shape with a negative size": first(shape=[-4, 64]),
    "a shape of fractions": first(shape=[4.5, 64]),
    "a shape with more than there is": first(shape=[1 << 40, 64]),
    "offsets beyond the end": first(data_offsets=[0, 1 << 50]),
    "negative offsets": first(data_offsets=[-64, 64]),
    "offsets that do not fit the shape": first(data_offsets=[0, 4]),
    "offsets that are texts": first(data_offsets=["0", "4"]),
    "one offset": first(data_offsets=[0]),
    "a dtype of eight bits": first(dtype="F8_E4M3"),
    "an unknown dtype": first(dtype="{}"),
    "a NaN": with_value(float("nan")),
    "an infinity": with_value(float("inf")),
    "values that overflow": tensors(lambda _, t: np.full_like(t, 3e38), B),
    "integers": tensors(lambda _, t: np.ones(t.shape, np.int32)),
    "a matrix of other sizes": tensors(lambda _, t: np.zeros((t.shape[0], 7), np.float32)),
    "ranks that differ": tensors(lambda _, t: np.zeros((t.shape[0] + 1, t.shape[1]), np.float32)),
    "a rank of zero": tensors(lambda _, t: np.zeros((0, t.shape[1]), np.float32)),
    "three dimensions": tensors(lambda _, t: t[None]),
    "one number": tensors(lambda _, t: np.ones((), np.float32)),
    "half of a pair": tensors(lambda _, t: None, B),
    "an unknown layer": renamed(lambda name: name.replace("layers.0", "layers.99")),
    "names with paths and braces": renamed(lambda name: name.replace("model.layers", "../{0}/{x!r}")),
    "an unknown tensor name": renamed(lambda name: name.replace("lora_", "lora_other_")),
    "no configuration": instead(CONFIG, lambda path: None),
    "a configuration that is not JSON": text(CONFIG, "{"),
    "a configuration that is a list": text(CONFIG, "[]"),
    "a configuration of depth 100,000": text(CONFIG, "[" * 100_000),
    "a configuration that is not UTF-8": lambda directory: (directory / CONFIG).write_bytes(b"\xff{}"),
    "no alpha": config(lora_alpha=None),
    "an alpha that is a text": config(lora_alpha="{alpha}"),
    "an alpha that is a list": config(lora_alpha=[16]),
    "an alpha that is not a number": config(lora_alpha=float("nan")),
    "an alpha that is infinite": config(lora_alpha=float("inf")),
    "an alpha of zero or less": config(lora_alpha=-16),
    "a huge alpha": config(lora_alpha=1e38),
    "a rank that the weights do not have": config(r=10**9),
    "a rank that is a text": config(r="../../r"),
    "alpha_pattern that is a list": config(alpha_pattern=[1]),
    "alpha_pattern with a broken expression": config(alpha_pattern={"(": 1}),
    "alpha_pattern with a text": config(alpha_pattern={".*": "x"}),
    "alpha_pattern with an endless expression": config(alpha_pattern={"(([a-z._0-9]+)+)+!": 1}),
    "modules_to_save that is a number": config(modules_to_save=7),
    "modules_to_save with numbers": config(modules_to_save=[7]),
    "modules_to_save of what is not there": config(modules_to_save=["lm_head"]),
    "another method": config(peft_type="IA3"),
    "a method that is a list": config(peft_type=["LORA"]),
    "no method": config(peft_type=None),
    "DoRA without magnitudes": config(use_dora=True),
    "an initialisation that rewrote the base": config(init_lora_weights="pissa"),
    "an initialisation that is an object": config(init_lora_weights={"a": 1}),
    "what is not known to a merge": config(something="/etc/passwd"),
    "a FIFO for weights": instead(WEIGHTS, os.mkfifo),
    "a FIFO for the configuration": instead(CONFIG, os.mkfifo),
    "a device for weights": instead(WEIGHTS, lambda path: path.symlink_to("/dev/zero")),
    "a directory for weights": instead(WEIGHTS, lambda path: path.mkdir()),
    "a link that leads to itself": instead(WEIGHTS, lambda path: path.symlink_to(path)),
    "no tokenizer": instead("tokenizer.json", lambda path: None),
    "a tokenizer that is not JSON": text("tokenizer.json", "{"),
    "a tokenizer that is a list": text("tokenizer.json", "[]"),
    "a tokenizer with broken added tokens": text("tokenizer.json", '{"added_tokens": [1]}'),
    "a tokenizer's configuration that is a list": text("tokenizer_config.json", "[]"),
}

# one of each kind: every case starts an export
USUAL = (
    "an empty file", "a header cut short", "weights cut short", "no weights at all", "a pickle",
    "a header as long as 2**63", "an entry that is not an object", "a shape with a negative size",
    "offsets beyond the end", "a dtype of eight bits", "a NaN", "values that overflow", "ranks that differ",
    "half of a pair", "an unknown layer", "names with paths and braces", "a configuration that is not JSON",
    "an alpha that is not a number", "a huge alpha", "alpha_pattern with an endless expression",
    "modules_to_save of what is not there", "another method", "DoRA without magnitudes",
    "an initialisation that rewrote the base", "a FIFO for weights", "a device for weights",
    "a tokenizer that is not JSON",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tiny_base: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Run:
    root = tmp_path_factory.mktemp("runs")
    done = cli(*command(tiny_base, rows, root, "--run.name", "tuned", "--train.max_steps", "1"))
    assert done.returncode == 0, done.stderr
    return Run(root / "tuned")


@pytest.mark.parametrize("name", named(BAD, *USUAL))
def test_invalid_adapter_is_a_one_line_error(name: str, trained: Run, tmp_path: Path, cli: Cli) -> None:
    run = tmp_path / "tuned"
    shutil.copytree(trained.path, run)
    BAD[name](run / "adapter")
    record = json.loads((run / "train.json").read_text())
    record["adapter"]["sha256"] = tree_sha256(run / "adapter")
    (run / "train.json").write_text(json.dumps(record))
    done = cli("export", "run", "--run.root", str(tmp_path), "--run.name", "tuned", timeout=120)
    fault = only_fault(done)
    assert re.search(r"adapter|can't be quantized", fault.replace(str(run), "")), fault
    assert not (run / "export.json").exists()
