"""Cache sizing: separate cells if they fit, otherwise one pool; explicit settings are respected."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from burnish.errors import UserError
from burnish.llama import Model
from serve.llama import sizing
from serve.llama.warmup import ROUNDS, measure, serial_rows
from serve.settings import ServeSettings
from tests.support.server import small_model

GIB = 1 << 30


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with Model.open(small_model(), vocab_only=True) as opened:
        yield opened


def size(model: Model, monkeypatch: pytest.MonkeyPatch, free: int, context: int, **settings: object) -> sizing.Size:
    monkeypatch.setattr(sizing, "memory_available_bytes", lambda: free)
    monkeypatch.setattr(sizing, "cpu_count", lambda: 2)
    return sizing.measure(model, context, ServeSettings(**settings))  # type: ignore[arg-type]


def test_kv_cell_size_is_computed_from_the_metadata(model: Model) -> None:
    # 30 layers, 3 KV heads of 64 values, keys and values, 2 bytes each
    assert sizing.cell_bytes(model) == 30 * 3 * 64 * 2 * 2


def test_full_length_sequences_get_separate_cells(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    found = size(model, monkeypatch, 64 * GIB, 2048)
    assert not found.shared and found.running == 16 and found.per_slot == 2048 and found.slots == 17


def test_less_memory_reduces_sequences_then_uses_one_pool(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    found = size(model, monkeypatch, 4 * GIB, 4096)
    assert not found.shared and 8 <= found.running < 16 and found.context == 4096
    found = size(model, monkeypatch, GIB, 8192)
    assert found.shared and found.running == 16 and found.context == 8192
    assert found.cache_bytes <= 0.3 * GIB
    tiny = size(model, monkeypatch, 0, 8192)
    assert tiny.shared and tiny.context == 512  # it starts anyway


def test_default_cache_size_is_bounded(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    for context in (1024, 2048, 4096, 8192, 32_768):
        found = size(model, monkeypatch, 64 * GIB, context)
        # and the spare slot of the separate layout
        assert found.cache_bytes <= GIB * 9 // 8 and found.context == context
    assert size(model, monkeypatch, 64 * GIB, 8192, max_sequences=16, cells=131_072).cells >= 131_072


def test_explicit_settings_are_kept_or_rejected(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    found = size(model, monkeypatch, 64 * GIB, 1024, max_sequences=3, cells=3072, context_length=1024)
    assert (found.running, found.per_slot, found.shared) == (3, 1024, False)
    found = size(model, monkeypatch, 64 * GIB, 1024, max_sequences=6, cells=3072)
    assert found.shared and found.cells == 3072
    with pytest.raises(UserError, match="lower max_sequences"):
        size(model, monkeypatch, 64 * GIB, 1024, max_sequences=6, cells=3072, layout="separate", context_length=1024)


def test_serial_decoding_is_chosen_from_measured_step_times() -> None:
    # llamafile's product of few rows (2 threads), then a constant time, then a near tie
    assert serial_rows({1: 6.0, 2: 15.6, 3: 20.0, 4: 23.1}) == {2, 3}
    assert serial_rows({1: 6.6, 2: 6.7, 3: 6.9, 4: 7.0}) == set()
    assert serial_rows({1: 6.0, 2: 12.4}) == serial_rows({1: 6.0}) == serial_rows({}) == set()


def test_measurement_keeps_the_fastest_repeat_within_its_time_limit() -> None:
    now = [0.0]

    def measured(costs: dict[int, float], slow: int) -> tuple[dict[int, float], list[int]]:
        calls: list[int] = []

        def step(rows: int) -> int:
            calls.append(rows)
            now[0] += costs[rows] * (10 if len(calls) <= slow else 1)
            return 0

        return {n: round(s, 6) for n, s in measure(step, len(costs), lambda: now[0]).items()}, calls

    found, calls = measured({1: 0.001, 2: 0.003}, slow=2)
    assert found == {1: 0.001, 2: 0.003} and len(calls) == 2 * ROUNDS
    found, calls = measured({1: 0.9, 2: 0.95}, slow=0)
    assert found == {1: 0.9} and calls == [1]
