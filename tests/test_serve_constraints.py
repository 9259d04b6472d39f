"""Constraints without a server: vocabularies, masks in threads, the cache, and rewritten schemas."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import gguf
import jsonschema
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from burnish.dialects.find import Found
from burnish.dialects.thoughts import FORMATS
from burnish.llama import Model
from serve.decoding.constraints.answer import Style, answer
from serve.decoding.constraints.cache import CompiledCache, key_of
from serve.decoding.constraints.grammar import json_grammar, text_of
from serve.decoding.constraints.library import Compiled, Matchers, Matching, ThreadedMasks
from serve.decoding.constraints.schema.disjoint import disjoint
from serve.decoding.constraints.schema.exclusive import exclusive
from serve.decoding.constraints.schema.places import SchemaError
from serve.decoding.constraints.schema.prepare import prepared
from serve.decoding.constraints.thought import ThoughtBudget
from serve.llama.constraints import LlamaConstraints
from serve.llama.token_table import matchers, token_table
from serve.llama.tokenizer import LlamaTokenizer
from tests.support.schemas import PERSON, TEXT, Schema, closed
from tests.support.server import small_model
from tools import tiny_gguf

NORMAL, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6  # gguf.TokenType


def sentencepiece(path: Path) -> Path:
    """Write a SentencePiece vocabulary with byte fallback, which adds a space before a text."""
    words = ["▁", *"abcdefghijklmnopqrstuvwxyz", *'{}[]":,0123456789', "▁na", "name", '":', "▁1"]
    bytes_of = [f"<0x{byte:02X}>" for byte in range(256)]
    writer = gguf.GGUFWriter(path, "llama")
    for key in ("context_length", "embedding_length", "block_count", "feed_forward_length", "head_count"):
        getattr(writer, f"add_{key}")(1)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *bytes_of, *words, "<|user|>"])
    writer.add_token_scores([0.0] * 259 + [-float(i) for i, _ in enumerate(words)] + [0.0])
    writer.add_token_types([UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(words), USER])
    writer.add_eos_token_id(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module", params=["smollm2", "tiny", "sentencepiece"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = tmp_path_factory.mktemp("vocabulary") / "m.gguf"
    if request.param == "tiny":
        tiny_gguf.write(path)
    elif request.param == "sentencepiece":
        sentencepiece(path)
    with Model.open(small_model() if request.param == "smollm2" else path, vocab_only=True) as opened:
        yield opened


@pytest.fixture
def compiling(model: Model) -> Matchers:
    found = matchers(model, model.eog_ids(), Found())
    assert found is not None
    return found


def compiled(compiling: Matchers, schema: Any) -> Compiled:
    return compiling.compile(text_of(json_grammar(prepared(schema))))


def written(model: Model, constraint: Matching, choose: Any) -> str:
    """Return the text of an answer; `choose` picks each token from the allowed ids."""
    tokens: list[int] = []
    while not constraint.finished and len(tokens) < 300:
        tokens += constraint.forced(300)
        if constraint.finished:
            break
        token = int(choose(np.flatnonzero(constraint.allowed())))
        if token in model.eog_ids():
            break
        constraint.accept(token)
        tokens.append(token)
    return model.detokenize(tokens).decode()


def test_constrained_answers_are_valid_with_every_vocabulary_type(model: Model, compiling: Matchers) -> None:
    random = np.random.default_rng(0)
    for _ in range(5):
        text = written(model, compiled(compiling, PERSON).start(), random.choice)
        jsonschema.validate(json.loads(text), PERSON)
        assert text == json.dumps(json.loads(text), ensure_ascii=False)  # no whitespace but after commas and colons


@pytest.mark.parametrize("tokens", range(1, 5))
def test_thought_budget_never_ends_inside_a_character(model: Model, compiling: Matchers, tokens: int) -> None:
    think = FORMATS["think"]
    grammars = answer(Style(Found(thoughts=think)), json_grammar({"const": 1}), None, opened=True)
    closing = model.tokenize(think.end, add_special=False, parse_special=False)
    budget = ThoughtBudget(tokens, think.begin.encode(), think.end.encode(), closing, model.piece, compiling.n_vocab)
    limited = budget.start(compiling.compile(text_of(*grammars)).start(), opened=True)
    for token in model.tokenize("\U0001f9d1" * 4, add_special=False, parse_special=False):
        allowed = limited.allowed()
        if allowed is not None and not allowed[token]:
            break  # the end is forced
        limited.accept(token)
    assert limited.forced(len(closing)) == closing


def test_forced_text_is_tokenized_once_for_all_its_steps(model: Model, compiling: Matchers) -> None:
    value = "lorem ipsum dolor " * 50
    whole = compiled(compiling, {"const": value}).start().forced(10**6)
    constraint = compiled(compiling, {"const": value}).start()
    written = constraint.forced(7)
    matcher, constraint.matcher = constraint.matcher, cast(Any, NoForcing(constraint.matcher))
    while len(written) < len(whole) - 8:
        token = int(np.flatnonzero(constraint.allowed())[0])  # the engine samples one token a step
        constraint.accept(token)
        written += [token, *constraint.forced(7)]
    constraint.matcher = matcher
    assert written + constraint.forced(100) == whole
    assert model.detokenize(whole).decode().strip() in json.dumps(value)


class NoForcing:
    """A matcher that must not compute forced tokens again."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def compute_ff_tokens(self) -> list[int]:
        raise AssertionError("computed again")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._matcher, name)


def test_special_tokens_are_never_allowed_in_text(model: Model, compiling: Matchers) -> None:
    special = token_table(model, model.eog_ids(), []).special
    assert model.eog_ids() <= special and len(special) > 1
    constraint = compiled(compiling, {"type": "string"}).start()
    constraint.accept(model.tokenize('x"', add_special=False)[-1])
    allowed = constraint.allowed()
    assert allowed.sum() > 50 and not allowed[list(special)].any()


def test_constrained_text_may_use_any_tokenization(model: Model, compiling: Matchers) -> None:
    text = '{"name": "ab", "age": 1, "tags": ["red"]}'
    start = model.tokenize(text, add_special=False, parse_special=False)
    start = start[1:] if model.piece(start[0]) == b" " else start  # SentencePiece's space before a text
    matcher = compiled(compiling, PERSON).start().matcher
    assert matcher.validate_tokens(start) == len(start)


def test_masks_computed_in_threads_equal_masks_computed_on_demand(model: Model, compiling: Matchers) -> None:
    threads, grammar = ThreadedMasks(2), compiled(compiling, PERSON)
    early, late = [grammar.start() for _ in range(5)], [grammar.start() for _ in range(5)]
    for number, (one, other) in enumerate(zip(early, late, strict=True)):
        assert one.forced(number) == other.forced(number)  # so that their masks differ
    threads.begin([*early])
    for one, other in zip(early, late, strict=True):
        assert (one.allowed() == other.allowed()).all()
    threads.begin([early[0]])
    early[0].forced(3)  # the mask that was begun is for an earlier state
    late[0].forced(3)
    assert (early[0].allowed() == late[0].allowed()).all()
    threads.close()


def test_grammar_cache_evicts_the_least_recently_used_entry(compiling: Matchers) -> None:
    kept = CompiledCache(entries=2, text_bytes=100)
    made = {name: compiled(compiling, {"const": name}) for name in "abc"}
    kept.put("a", made["a"], 40)
    kept.put("b", made["b"], 40)
    assert kept.get("a") is made["a"]
    kept.put("c", made["c"], 40)
    assert kept.get("b") is None and kept.get("a") is made["a"] and kept.get("c") is made["c"]
    kept.put("d", made["a"], 101)
    assert kept.get("d") is None and kept.get("c") is made["c"]


class Checked:
    """Stands for the text workers: counts the requests that it is asked to check."""

    def __init__(self) -> None:
        self.asked = 0

    async def grammar(self, wanted: Any, cpu_s: float) -> str:
        self.asked += 1
        await asyncio.sleep(0)
        return text_of(json_grammar(prepared(wanted["content"]["schema"])))


def test_schema_is_compiled_once_however_many_requests_use_it(compiling: Matchers) -> None:
    checked = Checked()

    async def ask_often() -> None:
        constraints = LlamaConstraints(cast(LlamaTokenizer, checked), compiling)
        wanted = {"content": {"kind": "json", "schema": PERSON}}
        starts = await asyncio.gather(*(constraints.compiled(wanted) for _ in range(4)))
        starts.append(await constraints.compiled(json.loads(json.dumps(wanted))))
        made = [start() for start in starts]
        for each in made:  # every sequence has its own state
            assert each.allowed() is not None and each.forced(3)

    asyncio.run(ask_often())
    assert checked.asked == 1


def test_grammar_cache_key_includes_property_order() -> None:
    one, other = closed({"a": TEXT, "b": TEXT}), closed({"b": TEXT, "a": TEXT})
    assert key_of(one) != key_of(other) and key_of(one) == key_of(json.loads(json.dumps(one)))


NAMES = ("a", "b", "c")
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from(["", "x", "yy", 0.5, 1.0])),
    lambda inner: st.one_of(st.dictionaries(st.sampled_from(NAMES), inner, max_size=3), st.lists(inner, max_size=2)),
    max_leaves=4,
)


def keywords(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Schema]:
    """Random schemas with keywords that are compared and rewritten."""
    names = st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True)
    parts = st.lists(inner, min_size=1, max_size=3)
    required = names.map(lambda found: {"required": found})
    return st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(
                ["object", "string", "integer", "number", ["array", "null"], ["object", "boolean"]]
            ),
            "properties": st.dictionaries(st.sampled_from(NAMES), inner, max_size=2),
            "required": names,
            "additionalProperties": inner,
            "minimum": st.integers(-2, 2),
            "maximum": st.integers(-2, 2),
            "minLength": st.integers(0, 2),
            "maxLength": st.integers(0, 2),
            "enum": st.lists(VALUES, min_size=1, max_size=3),
            "const": VALUES,
            "anyOf": parts,
            "oneOf": parts,
            "allOf": parts,
            "not": required | st.lists(required, min_size=1, max_size=2).map(lambda found: {"anyOf": found}),
            "dependentRequired": st.dictionaries(st.sampled_from(NAMES), names, max_size=1),
            "dependentSchemas": st.dictionaries(st.sampled_from(NAMES), inner, max_size=1),
            "propertyNames": st.sampled_from([{"pattern": "^[ab]$"}, {"enum": ["a", "c"]}, {"type": "string"}]),
            "uniqueItems": st.booleans(),
            "maxItems": st.integers(0, 2),
            "if": inner,
        },
    ).map(lambda found: dict(list(found.items())[:4]))


REWRITTEN = st.recursive(st.booleans() | st.sampled_from([{}, {"type": "string"}]), keywords, max_leaves=6)


def valid(schema: Any, value: Any) -> bool:
    return jsonschema.Draft202012Validator(schema).is_valid(value)


@settings(max_examples=80, deadline=None)
@given(schema=REWRITTEN, values=st.lists(VALUES, min_size=1, max_size=20))
def test_rewritten_schema_allows_only_values_of_the_original(schema: Any, values: list[Any]) -> None:
    try:
        rewritten = prepared(schema)
    except SchemaError:
        return
    for value in values:
        assert valid(schema, value) or not valid(rewritten, value), (rewritten, value)
        if "oneOf" not in json.dumps(schema):  # of which some values may be left out
            assert valid(schema, value) == valid(rewritten, value), (rewritten, value)


@settings(max_examples=80, deadline=None)
@given(one=REWRITTEN, other=REWRITTEN, values=st.lists(VALUES, min_size=1, max_size=20))
def test_disjoint_schemas_have_no_common_value(one: Any, other: Any, values: list[Any]) -> None:
    assume(disjoint({}, one, other))
    assert not any(valid(one, value) and valid(other, value) for value in values)


@settings(max_examples=80, deadline=None)
@given(branches=st.lists(REWRITTEN, min_size=2, max_size=3), values=st.lists(VALUES, min_size=1, max_size=20))
def test_value_matches_exactly_one_disjoint_branch(branches: list[Any], values: list[Any]) -> None:
    separated = exclusive({}, branches)
    assume(separated is not None)
    for value in values:
        assert not valid({"anyOf": separated}, value) or valid({"oneOf": branches}, value)
