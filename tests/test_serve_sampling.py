"""Sampled tokens have the distribution of llama.cpp's samplers, for each parameter alone and for all together."""

from __future__ import annotations

import ctypes
import math
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.errors import UserError
from burnish.llama.runtime import api
from serve.decoding import draw, row
from serve.decoding.penalties import Counts
from serve.decoding.row import MIN_FOLDED, Row
from serve.decoding.sampler import Sampler, SamplingError
from serve.decoding.stop_conditions import StopConditions
from serve.engine.backend import Output, Sampled
from serve.engine.sequence import SamplingParams, Sequence
from serve.llama import sampling
from serve.llama.sampling import StepSampler

Floats = npt.NDArray[np.float32]
Probabilities = npt.NDArray[np.float64]
DRAWS = 1500
WIDE = MIN_FOLDED + 1013  # folded into columns, with a remainder
PROMPT, ANSWER = (3, 3, 7, 1, 90), (0, 2, 2, 5)
BANNED = dict.fromkeys((6, 4, WIDE - 1), -math.inf)

ALONE: list[dict[str, Any]] = [
    {},
    {"temperature": 0.3},
    {"temperature": 0.8},
    {"temperature": 2.0},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": WIDE - 900},
    {"top_p": 0.0},
    {"top_p": 0.5},
    {"top_p": 0.95},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"repeat_penalty": 1.5},
    {"repeat_penalty": 1.5, "repeat_last_n": 6},
    {"repeat_penalty": 0.7, "repeat_last_n": -1},
    {"presence_penalty": 1.5},
    {"frequency_penalty": -1.5},
    {"logit_bias": {0: -2.0, 9: 6.0, WIDE - 1: 5.0}},
    {"logit_bias": BANNED},
]
TOGETHER: list[dict[str, Any]] = [
    {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
    {"temperature": 1.5, "top_k": 200, "top_p": 0.7},
    {"temperature": 2.0, "top_p": 0.9, "min_p": 0.02},
    {"temperature": 0.7, "top_k": 30, "min_p": 0.2, "presence_penalty": 0.5, "frequency_penalty": 0.5},
    {
        "temperature": 1.2,
        "top_k": 60,
        "top_p": 0.97,
        "min_p": 0.01,
        "presence_penalty": 1.0,
        "frequency_penalty": 0.8,
        "repeat_penalty": 1.2,
        "logit_bias": {**BANNED, 9: 6.0, 2: 1.0},
    },
]


def logits_of(size: int, kind: str) -> Floats:
    """Return logits with a few tokens far above the others, as in trained models, or with all close together."""
    numbers = np.random.default_rng(size)
    values = numbers.normal(0.0, 2.0 if kind == "peaked" else 0.5, size)
    if kind == "peaked":
        values[:12] += numbers.uniform(4.0, 10.0, 12)
    return values.astype(np.float32)


def exact(logits: Floats, how: dict[str, Any]) -> Probabilities:
    """Return the probabilities after PROMPT and ANSWER, float64 [n], step by step over all tokens."""
    x = logits.astype(np.float64)
    for token, bias in how.get("logit_bias", {}).items():
        if token < len(x):
            x[token] += bias
    repeat, last = how.get("repeat_penalty", 1.0), how.get("repeat_last_n", 64)
    for token in set([*PROMPT, *ANSWER][-last if last > 0 else 0 :]):
        x[token] = x[token] * repeat if x[token] <= 0 else x[token] / repeat
    for token, count in Counter(ANSWER).items():
        x[token] -= count * how.get("frequency_penalty", 0.0) + how.get("presence_penalty", 0.0)
    order = [int(i) for i in np.argsort(-x, kind="stable") if x[i] > -math.inf]
    order = order[: how.get("top_k") or None]
    p = np.exp(x[order] - x[order[0]])
    if "top_p" in how:
        order = order[: int(np.argmax(p.cumsum() >= how["top_p"] * p.sum())) + 1]
    if "min_p" in how:
        least = np.float32(x[order[0]]) + np.float32(math.log(how["min_p"]))
        order = [i for i in order if x[i] >= least]
    weights = np.exp((x[order] - x[order[0]]) / how.get("temperature", 1.0))
    result = np.zeros(len(x))
    result[order] = weights / weights.sum()
    return result


def drawn(logits: Floats, how: dict[str, Any]) -> npt.NDArray[np.int64]:
    """Return how often each token was sampled after ANSWER, once per seed."""
    counts = np.zeros(len(logits), np.int64)
    known = {token: bias for token, bias in how.get("logit_bias", {}).items() if token < len(logits)}
    answer = ANSWER if {"presence_penalty", "frequency_penalty", "repeat_penalty"} & set(how) else ()
    none, masks = np.zeros_like(logits), [np.arange(len(logits)) == token for token in answer]
    for seed in range(DRAWS):
        sampler = Sampler(**{**how, "logit_bias": known}, seed=seed, prompt=PROMPT)
        assert [sampler.sample(none, mask) for mask in masks] == [*answer]
        counts[sampler.sample(logits)] += 1
    return counts


def surprise(counts: npt.NDArray[np.int64], expected: Probabilities) -> float:
    """Return the chi-square of the counts in standard deviations of a normal (Wilson and Hilferty, 1931).

    Tokens with fewer than 8 expected draws are merged, in the order of their ids.
    """
    wanted = expected * counts.sum()
    groups = np.where(wanted >= 8, np.arange(len(wanted)) + len(wanted), (wanted * (wanted < 8)).cumsum() // 8)
    names, group = np.unique(groups[expected > 0], return_inverse=True)
    e, o = np.bincount(group, wanted[expected > 0]), np.bincount(group, counts[expected > 0])
    free = len(names) - 1
    if free == 0:
        return 0.0
    chi = float(((o - e) ** 2 / e).sum())
    return float(((chi / free) ** (1 / 3) - (1 - 2 / (9 * free))) / math.sqrt(2 / (9 * free)))


ROWS = [(how, WIDE, "peaked") for how in (*ALONE, *TOGETHER)]
ROWS += [(how, size, kind) for how in (*ALONE[:12], *TOGETHER[:3]) for size, kind in ((300, "peaked"), (WIDE, "flat"))]


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(("how", "size", "kind"), ROWS, ids=str)
def test_samples_follow_the_exact_distribution(
    how: dict[str, Any], size: int, kind: str, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:  # rows are read as those of a large vocabulary
        monkeypatch.setattr(row, "LARGE", MIN_FOLDED)
        monkeypatch.setattr(draw, "FEW_COLUMNS", 8)
    logits = logits_of(size, kind)
    before, expected = logits.copy(), exact(logits, how)
    counts = drawn(logits, how)
    assert not counts[expected == 0].any()
    assert surprise(counts, expected) < 3.5
    assert np.array_equal(logits, before)


def test_distribution_test_detects_a_different_distribution() -> None:
    logits = logits_of(WIDE, "peaked")
    counts = drawn(logits, {"temperature": 0.8})
    assert surprise(counts, exact(logits, {"temperature": 0.8})) < 3.5
    assert surprise(counts, exact(logits, {"temperature": 0.9})) > 5
    assert surprise(counts, exact(logits, {"temperature": 0.8, "logit_bias": {1: 0.6}})) > 5


def of_llama_cpp(logits: Floats, how: dict[str, Any]) -> Probabilities:
    """Return the probabilities that llama.cpp's samplers leave, with PROMPT and ANSWER accepted."""
    bias = {token: value for token, value in how.get("logit_bias", {}).items() if token < len(logits)}
    pairs = (api.llama_logit_bias * len(bias))(*bias.items())
    last = how.get("repeat_last_n", 64)
    parts = [api.llama_sampler_init_logit_bias(len(logits), len(bias), pairs)]
    for window, penalties, history in (
        (last if last > 0 else 1000, (how.get("repeat_penalty", 1.0), 0.0, 0.0), (*PROMPT, *ANSWER)),
        (1000, (1.0, how.get("frequency_penalty", 0.0), how.get("presence_penalty", 0.0)), ANSWER),
    ):
        parts.append(api.llama_sampler_init_penalties(len(logits), window, *penalties))
        for token in history:
            api.llama_sampler_accept(parts[-1], token)
    parts += [api.llama_sampler_init_top_k(how["top_k"])] if "top_k" in how else []
    parts += [api.llama_sampler_init_top_p(how["top_p"], 1)] if "top_p" in how else []
    parts += [api.llama_sampler_init_min_p(how["min_p"], 1)] if "min_p" in how else []
    parts += [api.llama_sampler_init_temp(how.get("temperature", 1.0)), api.llama_sampler_init_dist(0)]
    data = (api.llama_token_data * len(logits))(*((i, float(x), 0.0) for i, x in enumerate(logits)))
    left = api.llama_token_data_array(data=data, size=len(logits), selected=-1, sorted=False)
    for part in parts:
        api.llama_sampler_apply(part, ctypes.byref(left))
        api.llama_sampler_free(part)
    result = np.zeros(len(logits))
    for entry in data[: left.size]:
        result[entry.id] = entry.p
    return result


@pytest.mark.parametrize("how", [*ALONE, *TOGETHER], ids=str)
@pytest.mark.parametrize("kind", ["peaked", "flat"])
def test_exact_distribution_equals_llama_cpp(how: dict[str, Any], kind: str) -> None:
    logits = logits_of(WIDE, kind)
    assert np.abs(of_llama_cpp(logits, how) - exact(logits, how)).max() < 2e-6


@given(st.integers(0, 2**32), st.sampled_from([1, 2, 31, 33, 300, MIN_FOLDED, WIDE]), st.data())
def test_row_selection_equals_full_sorting(seed: int, size: int, data: st.DataObject) -> None:
    numbers = np.random.default_rng(seed)
    values = numbers.choice([-np.inf, -2.5, 0.0, 1.0], size).astype(np.float32)
    if data.draw(st.booleans()):
        values = np.where(numbers.random(size) < 0.5, values, numbers.normal(size=size).astype(np.float32))
    values[numbers.integers(size)] = 0.5
    values *= data.draw(st.sampled_from([1.0, 30.0]))  # all near the most likely, or few
    row, count = Row(values), data.draw(st.integers(0, size + 1))
    finite = [i for i in np.argsort(-values, kind="stable") if values[i] > -np.inf]
    assert row.top(count).tolist() == finite[:count]
    least = float(data.draw(st.sampled_from([-np.inf, *values[numbers.integers(size, size=3)].tolist(), 9.0])))
    assert row.reaching(least).tolist() == np.flatnonzero((values >= least) & (values > -np.inf)).tolist()
    assert row.highest == values.max() and row.likeliest == values.argmax() and row.usable


@given(st.lists(st.integers(0, 120), max_size=400), st.sampled_from([None, 1, 5, 64, 300]))
def test_penalty_counts_cover_the_last_n_tokens(tokens: list[int], window: int | None) -> None:
    counts = Counts(window)
    for token in tokens:
        counts.add(token)
    ids, times = counts.present()
    assert dict(zip(ids.tolist(), times.tolist(), strict=True)) == Counter(tokens[-window if window else 0 :])


EXTREMES = {
    "temperature": st.sampled_from([0.0, 5e-324, 1e-7, 0.5, 1.0, 2.0]),
    "top_k": st.sampled_from([0, 1, 2, 100, WIDE, 1 << 30]),
    "top_p": st.sampled_from([0.0, 5e-324, 0.5, 1 - 1e-16, 1.0]),
    "min_p": st.sampled_from([0.0, 5e-324, 0.5, 1.0]),
    "presence_penalty": st.sampled_from([-2.0, 0.0, 2.0]),
    "repeat_penalty": st.sampled_from([5e-324, 1e-3, 1.0, 10.0]),
    "logit_bias": st.sampled_from([{}, {0: 100.0}, {0: -math.inf, 299: -100.0}]),
}


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@given(st.fixed_dictionaries({}, optional=EXTREMES), st.sampled_from([300, WIDE]), st.data())
def test_extreme_logits_give_a_valid_token_or_a_sequence_error(
    how: dict[str, Any], size: int, data: st.DataObject
) -> None:
    values = data.draw(st.lists(st.sampled_from([-math.inf, -3e38, -1.0, 0.0, 1e-45, 88.0, 3e38]), min_size=1))
    numbers = np.random.default_rng(data.draw(st.integers(0, 9)))
    logits = numbers.choice(values, size).astype(np.float32)
    allowed = data.draw(st.sampled_from([None, np.ones(size, np.bool_), numbers.random(size) < 0.01]))
    before, sampler = logits.copy(), Sampler(**how, seed=1, prompt=(0, 1, 2))
    for _ in range(3):
        try:
            token = sampler.sample(logits, allowed)
        except SamplingError:
            continue
        assert logits[token] > -math.inf and (allowed is None or allowed[token])
        assert how.get("logit_bias", {}).get(token) != -math.inf
    assert np.array_equal(logits, before)


@pytest.mark.parametrize("how", [{"temperature": 0.0}, {}, {"top_k": 5}, {"logit_bias": {1: -1.0}}])
@pytest.mark.parametrize("size", [300, WIDE])
def test_non_finite_logits_are_rejected(how: dict[str, Any], size: int) -> None:
    for place in (0, size - 1):
        for value in (math.nan, math.inf):
            logits = logits_of(size, "flat")
            logits[place] = value
            with pytest.raises(SamplingError, match="not finite"):
                Sampler(**how).sample(logits)
    with pytest.raises(SamplingError, match="no token is possible"):
        Sampler(**how).sample(np.full(size, -np.inf, np.float32))


def test_greedy_sampling_applies_bias_and_penalties() -> None:
    numbers = np.random.default_rng(0)
    for _ in range(50):
        logits = numbers.normal(size=WIDE).astype(np.float32)
        tokens = [int(logits.argmax()), *map(int, numbers.integers(0, WIDE, 5))]
        bias = {token: float(numbers.uniform(-9, 9)) for token in tokens}
        changed = logits.copy()
        changed[list(bias)] += np.array(list(bias.values()), np.float32)
        assert Sampler(temperature=0).sample(logits) == int(logits.argmax())
        assert Sampler(temperature=0, logit_bias=bias).sample(logits) == int(changed.argmax())
        for token in tokens[:3]:
            changed[token] = changed[token] * 1.5 if changed[token] <= 0 else changed[token] / 1.5
        sampler = Sampler(temperature=0, logit_bias=bias, repeat_penalty=1.5, prompt=tokens[:3])
        assert sampler.sample(logits) == int(changed.argmax())


@pytest.mark.parametrize("how", [{"temperature": 0.0}, {"temperature": 5.0, "logit_bias": {0: 50.0}}, {"top_p": 0.9}])
def test_constrained_sampling_draws_only_allowed_tokens(how: dict[str, Any]) -> None:
    logits, allowed = logits_of(WIDE, "peaked"), np.zeros(WIDE, np.bool_)
    allowed[[5, 6, 4000]] = True
    tokens = {Sampler(**how, seed=seed).sample(logits, allowed) for seed in range(40)}
    assert tokens <= {5, 6, 4000}
    if how == {"temperature": 0.0}:
        assert tokens == {max((5, 6, 4000), key=lambda token: logits[token])}
    with pytest.raises(SamplingError, match="allows no token"):
        Sampler(**how).sample(logits, np.zeros(WIDE, np.bool_))


def outputs(rows: list[int], **params: Any) -> list[Output]:
    stop = StopConditions(10, 100)
    made = [
        Output(Sequence(f"s{i}", PROMPT, SamplingParams(seed=i, **params), stop, lambda event: None), i) for i in rows
    ]
    for output in made:
        output.sequence.number = output.index
    return made


def step_sampler(logits: dict[int, Floats]) -> StepSampler:
    model: Any = SimpleNamespace(n_vocab=WIDE, piece=lambda token, special: b"%d" % token)
    context: Any = SimpleNamespace(logits=lambda index: logits[index])
    return StepSampler(model, context, threads=4)


@pytest.mark.parametrize("shared", [1, 1 << 30])
@pytest.mark.parametrize("params", [{}, {"temperature": 0.0}, {"top_p": 0.9}, {"top_k": 40, "presence_penalty": 1.0}])
def test_seeded_tokens_do_not_depend_on_batching(
    params: dict[str, Any], shared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "MIN_THREADED_LOGITS", shared)
    numbers = np.random.default_rng(1)
    steps = [{i: numbers.normal(0, 2, WIDE).astype(np.float32) for i in range(12)} for _ in range(20)]

    def tokens(rows: list[int]) -> dict[int, list[Any]]:
        requested, logits = outputs(rows, **params, logprobs=2), dict[int, Floats]()
        sampler, found = step_sampler(logits), dict[int, list[Any]]()
        for step in steps:
            logits.update(step)
            for output, result in zip(requested, sampler.sample(requested), strict=True):
                assert isinstance(result, Sampled)
                found.setdefault(output.index, []).append(result)
        sampler.close()
        return found

    together, backwards = tokens([*range(12)]), tokens([*reversed(range(12))])
    assert together == backwards
    for one in (0, 7):
        assert tokens([one])[one] == together[one]


def test_logprobs_ignore_penalties_and_an_error_affects_one_row() -> None:
    logits = {0: logits_of(WIDE, "peaked"), 1: np.full(WIDE, np.nan, np.float32), 2: logits_of(WIDE, "peaked")}
    requested = outputs([0, 1, 2], logprobs=5, presence_penalty=2.0, logit_bias={0: -90.0}, top_k=3)
    requested[2].allowed = np.arange(WIDE) == 777
    first, second, third = step_sampler(logits).sample(requested)
    assert isinstance(second, UserError) and "not finite" in str(second)
    assert isinstance(first, Sampled) and isinstance(third, Sampled) and third.token == 777
    x = logits[0].astype(np.float64)
    expected = x - math.log(np.exp(x).sum())
    for sampled in (first, third):
        assert sampled.logprob is not None
        assert sampled.logprob.logprob == pytest.approx(expected[sampled.token], abs=1e-5)
        likeliest = np.argsort(-x)[:5]
        assert [token for token, _ in sampled.logprob.top] == likeliest.tolist()
        assert [value for _, value in sampled.logprob.top] == pytest.approx(expected[likeliest].tolist(), abs=1e-5)


@pytest.mark.parametrize("kind", ["peaked", "flat"])
@pytest.mark.parametrize("size", [300, WIDE])
def test_reading_logits_before_sampling_does_not_change_tokens(
    kind: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row, "LARGE", MIN_FOLDED)
    logits = logits_of(size, kind)
    logits[-3] = logits.max() - 0.5  # in no column
    for how in ({}, {"temperature": 0.5}, {"top_k": 9}, {"top_p": 0.9}, {"min_p": 0.1}, {"temperature": 0.0}):
        one, other = Sampler(**how, seed=1), Sampler(**how, seed=1)
        assert [one.sample(logits) for _ in range(50)] == [
            other.sample(logits, None, other.row(logits, sums=True)) for _ in range(50)
        ]


@pytest.mark.parametrize("place", [0, WIDE - 1])
def test_non_finite_logits_are_detected_in_large_rows(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row, "LARGE", MIN_FOLDED)
    logits = logits_of(WIDE, "peaked")
    logits[place] = np.nan
    assert not Row(logits).usable
    assert Row(np.full(WIDE, -np.inf, np.float32)).highest == -math.inf
