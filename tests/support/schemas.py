"""JSON schemas: fixed and random ones, unsupported ones, and ones too expensive to compile."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Schema = dict[str, Any]


def nested(levels: int) -> Schema:
    schema: Schema = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def closed(properties: dict[str, Any], required: list[str] | None = None) -> Schema:
    """Return an object's schema without other properties, all of them required by default."""
    return {
        "type": "object", "properties": properties, "additionalProperties": False,
        "required": list(properties) if required is None else required,
    }  # fmt: skip


TEXT = {"type": "string", "maxLength": 12}
PERSON = closed({
    "name": TEXT,
    "age": {"type": "integer", "minimum": 0, "maximum": 150},
    "tags": {"type": "array", "items": {"enum": ["red", "grün", "b\"lue"]}, "maxItems": 3},
})  # fmt: skip
WRITTEN: dict[str, Schema] = {
    "person": PERSON,
    "optional": closed(
        {"a": TEXT, "b": {"type": ["number", "null"], "multipleOf": 0.5}, "c": {"const": [1, {"d": None}]}}, ["b"]
    ),
    "recursive": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": closed({
                "value": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            }),
        },
    },
    "map": {
        "type": "object", "patternProperties": {"^[a-z]{2,4}$": {"type": "boolean"}}, "additionalProperties": False,
        "maxProperties": 3,
    },
    "formats": closed({"day": {"type": "string", "format": "date"}, "id": {"type": "string", "format": "uuid"}}),
    "unknown format": closed({"x": {"type": "string", "format": "a-new-one", "maxLength": 8}}),
    "tuple": {"type": "array", "prefixItems": [TEXT, {"type": "boolean"}], "items": False, "minItems": 2},
    "all of": {"allOf": [closed({"a": {"type": "integer"}, "b": TEXT}), {"properties": {"a": {"minimum": 5}}}]},
    "one of": {
        "oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}],
        "$defs": {
            "cat": closed({"kind": {"const": "cat"}, "lives": {"type": "integer", "maximum": 9, "minimum": 0}}),
            "dog": closed({"kind": {"const": "dog"}, "good": {"type": "boolean"}}),
        },
    },
    "one of by keys": {
        **closed({"radius": {"type": "integer"}, "length": {"type": "integer"}, "width": {"type": "integer"}}, []),
        "oneOf": [{"required": ["radius"]}, {"required": ["length", "width"], "not": {"required": ["radius"]}}],
    },
    "dependent": {
        **closed({"card": {"type": "boolean"}, "address": TEXT}, []), "dependentRequired": {"card": ["address"]},
    },
    "names": {
        "type": "object", "propertyNames": {"pattern": "^[xyz]$"}, "additionalProperties": {"type": "integer"},
        "maxProperties": 2,
    },
    "escapes": closed({"tab\t\"quote\" \\ é": {"enum": ["\n", "\u2028", "</tool_call>", "<|im_end|>"]}}),
}  # fmt: skip
# with the place of the unsupported keyword
REFUSED: dict[str, tuple[Schema, str]] = {
    "uniqueItems": (closed({"a": {"type": "array", "uniqueItems": True}}), "/properties/a/uniqueItems"),
    "not": ({"$defs": {"n": {"not": {"const": 1}}}, "items": {"$ref": "#/$defs/n"}, "type": "array"}, "/$defs/n/not"),
    "if": ({"if": {"type": "string"}, "then": {"minLength": 3}}, "/if"),
    "oneOf": ({"anyOf": [{"oneOf": [{"type": "string"}, {"maxLength": 3}]}]}, "/anyOf/0/oneOf"),
    "lookahead": (closed({"a/b": {"type": "string", "pattern": "^(?=x)y"}}), "/properties/a~1b/pattern"),
    "reference": ({"properties": {"a": {"$ref": "#/$defs/gone"}}}, "/properties/a/$ref"),
    "document": ({"properties": {"a": {"$ref": "https://example.com/s.json"}}}, "/properties/a/$ref"),
    "contains": ({"type": "array", "contains": {"type": "integer"}}, "/contains"),
    "type": (closed({"a": {"type": "strnig"}}), "/properties/a"),
    "false": (closed({"a": False}), ""),
}
HOSTILE: dict[str, Schema] = {
    "deep": nested(150),
    "deeper": nested(400),
    "multiple of a prime": {"type": "integer", "multipleOf": 1000003},
    "wide": {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(4000)}},
    "wide below": closed({"a": {"type": "string"}, "z": {"properties": {f"p{i}": TEXT for i in range(500)}}}),
    "exponential references": {
        "$defs": {
            **{
                f"d{i}": {
                    "type": "object",
                    "properties": {p: {"$ref": f"#/$defs/d{i + 1}", "type": ["object", "string"]} for p in "lr"},
                }
                for i in range(40)
            },
            "d40": {"type": "string"},
        },
        "$ref": "#/$defs/d0",
    },
    "a loop": {"$ref": "#"},
    "masks without end": closed({"q": {"type": "string", "pattern": "^((.{1,50}){1,50}){1,50}$"}}),
    "a pattern": {"allOf": [{"type": "string", "pattern": f"^.*x{i}.{{{i + 10}}}y.*$"} for i in range(12)]},
    "its own options": {"type": "array", "uniqueItems": True, "x-guidance": {"lenient": True}},
}  # fmt: skip


def _leaves() -> st.SearchStrategy[Schema]:
    sizes = st.integers(0, 3).flatmap(lambda least: st.integers(least, 6).map(lambda most: (least, most)))
    ranges = st.integers(-500, 500).flatmap(lambda least: st.integers(least + 1, 1000).map(lambda most: (least, most)))
    values = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=4))
    pattern = {"type": "string", "pattern": "^[a-f]{2}-\\d+$", "maxLength": 6}
    return st.one_of(
        sizes.map(lambda s: {"type": "string", "minLength": s[0], "maxLength": s[1]}),
        ranges.map(lambda r: {"type": "integer", "minimum": r[0], "exclusiveMaximum": r[1]}),
        ranges.map(lambda r: {"type": "number", "exclusiveMinimum": r[0], "maximum": r[1], "multipleOf": 0.25}),
        st.sampled_from([{"type": "boolean"}, {"type": "null"}, pattern]),
        st.lists(values, min_size=1, max_size=4).map(lambda found: {"enum": found}),
    )


def _around(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    def fields(found: dict[str, Schema]) -> st.SearchStrategy[Schema]:
        return st.lists(st.sampled_from(sorted(found)), unique=True).map(lambda required: closed(found, required))

    def items(item: Schema, least: int) -> Schema:
        return {"type": "array", "items": item, "minItems": least, "maxItems": least + 1}

    return st.one_of(
        st.dictionaries(st.text(min_size=1, max_size=4), inner, min_size=1, max_size=3).flatmap(fields),
        st.builds(items, inner, st.integers(0, 2)),
        st.lists(inner, min_size=1, max_size=2).map(lambda choices: {"anyOf": choices}),
    )


def schemas() -> st.SearchStrategy[Schema]:
    """Random schemas whose valid values are all short."""
    return st.recursive(_leaves(), _around, max_leaves=5)
