"""The merge benchmark creates real models, compares both merges, and reports exceeded limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from bench.merge import SHAPES, bench, broken, differences, linears, make_base, table
from export.merge.shards import Stored, write


def test_benchmark_base_is_a_llama_with_the_linear_layers_of_the_adapter(tmp_path: Path) -> None:
    make_base(tmp_path / "base", SHAPES["tiny"])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    named = {n: tuple(m.weight.shape) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert named.pop("lm_head") == (512, 64)
    assert named == linears(SHAPES["tiny"])


@pytest.mark.slow
def test_burnish_and_peft_merges_of_a_tiny_model_are_equal(tmp_path: Path) -> None:
    result = bench("tiny", SHAPES["tiny"], tmp_path, ["original", "dequantized", "peft"], 1)
    assert result["against_peft"]["largest_steps"] <= 1 and result["against_peft"]["tensors"] == 20
    assert all(figures["peak_bytes"] > 10**7 and figures["wall_s"] > 0 for figures in result["kinds"].values())
    assert not [fault for fault in broken({"tiny": result}) if "the peak" in fault]
    assert table({"tiny": result}).row_count == 3


def checkpoint(directory: Path, values: list[float]) -> Path:
    directory.mkdir()
    tensor = torch.tensor(values, dtype=torch.float16)
    write(directory, [Stored("w", "F16", tuple(tensor.shape))], lambda _: iter([tensor]), 10**9)
    return directory


def test_differences_are_measured_in_rounding_steps(tmp_path: Path) -> None:
    ours = checkpoint(tmp_path / "a", [1.0, 2.0, 1000.0, 1e-7])
    same = differences(ours, checkpoint(tmp_path / "b", [1.0, 2.0, 1000.0, 1e-7]))
    assert (same["differ"], same["largest_steps"]) == (0, 0)
    one = differences(ours, checkpoint(tmp_path / "c", [1.0, 2.0, 1000.5, 1e-7]))
    assert (one["differ"], one["largest_steps"]) == (0.25, 1)
    assert differences(ours, checkpoint(tmp_path / "d", [1.0, 2.01, 1000.0, 1e-7]))["largest_steps"] > 4


@pytest.mark.parametrize(
    ("peak", "wall", "steps", "names"),
    [
        (500, 7.0, 0.0, []),
        (900, 7.0, 0.0, ["the peak is above"]),
        (500, 8.1, 0.0, ["more than 0.8 times PEFT's time"]),
        (500, 7.0, 1.5, ["by more than rounding"]),
    ],
)
def test_exceeded_bounds_are_reported(peak: int, wall: float, steps: float, names: list[str]) -> None:
    kinds = {"original": {"wall_s": wall, "peak_bytes": peak}, "peft": {"wall_s": 10.0, "peak_bytes": 3000}}
    result: dict[str, Any] = {"kinds": kinds, "bound_bytes": 800, "against_peft": {"largest_steps": steps}}
    found = list(broken({"1b": result}))
    assert len(found) == len(names) and all(name in fault for name, fault in zip(names, found, strict=True))
