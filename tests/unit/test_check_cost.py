"""The bound on checks by a schema: what is called quick is quick, whatever the values are."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disbatch_protocol.check_cost import cost_of
from disbatch_protocol.parameters import ParameterSchema
from disbatch_protocol.pattern_cost import steps_of

QUICK = {
    "plain": {"type": "object", "properties": {"a": {"type": "string"}, "n": {"type": "integer"}}, "required": ["a"]},
    "a pattern": {"properties": {"a": {"pattern": "^[a-z]+$"}}},
    "an address": {"properties": {"a": {"pattern": r"^[^@\s]+@[^@\s]+\.[a-z]{2,}$"}}},
    "turns with a mark": {"properties": {"a": {"pattern": "^[a-z0-9]+(-[a-z0-9]+)*$"}}},
    "a reference": {"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"type": "string"}}},
    "an anchor": {"properties": {"a": {"$ref": "#a"}}, "$defs": {"x": {"$anchor": "a", "type": "string"}}},
    "lists": {"properties": {"a": {"items": {"type": "string"}, "uniqueItems": True}}},
    "names": {"patternProperties": {"^x-": {"writeOnly": True}}, "additionalProperties": False},
}
UNKNOWN = {
    "repeats in repeats": {"properties": {"a": {"pattern": "^(x+)+$"}}},
    "names with repeats in repeats": {"patternProperties": {"^([a-z]+)*_secret$": {"writeOnly": True}}},
    "choices that overlap": {"properties": {"a": {"pattern": "^(a|a)*$"}}},
    "a group that refers back": {"properties": {"a": {"pattern": r"^(a*)\1$"}}},
    "to itself": {"properties": {"a": {"$ref": "#"}}},
    "dynamically": {"properties": {"a": {"$dynamicRef": "#a"}}, "$defs": {"a": {"$dynamicAnchor": "a"}}},
    "what others leave": {"allOf": [{"properties": {"a": True}}], "unevaluatedProperties": False},
    "doubled again and again": {
        "properties": {"a": {"$ref": "#/$defs/0"}},
        "$defs": {str(n): {"allOf": [{"$ref": f"#/$defs/{n + 1}"}] * 3} for n in range(20)} | {"20": {}},
    },
}


@pytest.mark.parametrize("name", QUICK)
def test_ordinary_schemas_are_quick_for_ordinary_parameters(name: str) -> None:
    assert ParameterSchema(QUICK[name]).is_quick_for({"a": "someone", "n": 5, "c": ["x", "y"]})


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_schema_whose_time_is_not_bounded_is_never_quick(name: str) -> None:
    schema = ParameterSchema(UNKNOWN[name])
    assert not schema.is_quick_for({"a": "x"}) and not schema.is_quick_for({})


def test_size_decides_and_a_long_text_beside_a_pattern_does_not() -> None:
    schema = ParameterSchema({"properties": {"a": {"pattern": "^[a-z]+@[a-z]+$"}, "text": {"type": "string"}}})
    assert schema.is_quick_for({"a": "me@here", "text": "x" * 10**6})
    assert not schema.is_quick_for({"a": "x" * 10**6})
    assert not ParameterSchema(QUICK["lists"]).is_quick_for({"a": ["x"] * 10**6})
    names = ParameterSchema({"patternProperties": {"[a-z]+-$": {}}})
    assert names.is_quick_for({"some-name": 1}) and not names.is_quick_for({"x" * 10**6: 1})
    deep: Any = "x"
    for _ in range(10_000):
        deep = [deep]
    ParameterSchema(QUICK["plain"]).is_quick_for({"a": deep})  # without a RecursionError


PARTS = st.sampled_from(
    ["a", "b", "-", r"\.", "[ab]", "[^-]", ".", r"\w", "a*", "b+", "[ab]*", ".*", r"\w+", "a{2,5}", "a?", "^", "$",
     "(a|b)",
     "(ab)?", "(-a+)*", r"(b*\.)+", "(?:a|b+)", "a{3}", "|", "(a*)*", "(a|ab)+", "(-?a)*"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(PARTS, min_size=1, max_size=6), st.text("ab-.", max_size=12))
def test_no_pattern_takes_longer_than_its_bound(parts: list[str], piece: str) -> None:
    """On strings made to fail at their end, which lets an engine try all ways."""
    pattern = "".join(parts)
    bound = steps_of(pattern)
    if bound is None or not piece:
        return
    text = (piece * 60)[:60] + "!"
    steps = bound.tries * float(len(text) + 1) ** bound.degree
    if steps > 3e6:
        return
    began = time.process_time()
    re.search(pattern, text)
    assert time.process_time() - began < 0.02 + steps * 1e-7, (pattern, text, steps)


def test_finding_the_bound_costs_little() -> None:
    schema = {"properties": {f"p{n}": {"pattern": "^[a-z]+$"} for n in range(30)}}
    cost = cost_of(schema)
    assert cost is not None
    values = {f"p{n}": "someone" for n in range(10)}
    assert cost.is_quick_for(values)
    began = time.process_time()
    for _ in range(10_000):
        cost.is_quick_for(values)
    assert time.process_time() - began < 0.2  # 20 µs each; measured 1
