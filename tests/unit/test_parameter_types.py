"""Which types a schema allows for a parameter, through everything that combines, lists and refers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disbatch_protocol.parameter_types import ALL_TYPES, Expected, Places
from disbatch_protocol.parameters import ParameterSchema


def expected(part: Any, *path: str, **more: Any) -> Expected:
    return Places({"properties": {"x": part}, **more}).expected_at(("x", *path))


@pytest.mark.parametrize(
    ("part", "types"),
    [
        ({"type": "integer"}, {"integer"}),
        ({"type": "number"}, {"number", "integer"}),
        ({"type": ["integer", "null"]}, {"integer", "null"}),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, {"integer", "null"}),
        ({"oneOf": [{"type": "array"}, {"const": True}]}, {"array", "boolean"}),
        ({"allOf": [{"type": ["string", "integer"]}, {"type": ["integer", "null"]}]}, {"integer"}),
        ({"type": "number", "enum": [1, 2]}, {"integer"}),
        ({"enum": [1, "a", None]}, {"integer", "string", "null"}),
        ({"const": 5.0}, {"number", "integer"}),
        ({"$ref": "#/$defs/n"}, {"integer"}),
        ({"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}, {"integer", "null"}),
        ({"anyOf": [{"type": "integer"}, {}]}, ALL_TYPES),
        ({"minimum": 1}, ALL_TYPES),
        (True, ALL_TYPES),
        (False, set()),
        ({"type": "integer", "const": "a"}, set()),
        ({"$ref": "#/nowhere"}, ALL_TYPES),
        ({"$ref": "http://elsewhere/x"}, ALL_TYPES),
        ({"type": 5, "enum": "x", "anyOf": {}, "allOf": 3}, ALL_TYPES),
    ],
)
def test_types_are_found_through_what_combines_lists_and_refers(part: Any, types: set[str]) -> None:
    found = expected(part, **{"$defs": {"n": {"type": "integer"}}})
    assert found.types == types
    assert found.is_known is (0 < len(types) < len(ALL_TYPES))


def test_only_the_listed_strings_are_texts() -> None:
    mode = expected({"anyOf": [{"type": "integer"}, {"const": "auto"}]})
    assert mode.takes("auto") and not mode.takes("3") and not mode.takes_any_text
    either = expected({"anyOf": [{"enum": ["a"]}, {"type": "string"}]})
    assert either.takes("b") and either.takes_any_text
    assert expected({"type": "string", "enum": ["a", "b"], "const": "b"}).texts == {"b"}
    assert expected({"type": ["number", "null"]}).in_words() == "null or number"


def test_nested_parameters_are_found_behind_optional_objects_and_maps() -> None:
    to = {"anyOf": [{"$ref": "#/$defs/to"}, {"type": "null"}]}
    more: Any = {
        "$defs": {"to": {"type": "object", "properties": {"floor": {"type": "integer"}}, "required": ["floor"]}}
    }
    assert expected(to, "floor", **more).types == {"integer"}
    assert expected({"additionalProperties": {"type": "boolean"}}, "any").types == {"boolean"}
    assert (
        expected({"patternProperties": {"^a": {}}, "additionalProperties": {"type": "boolean"}}, "a").types == ALL_TYPES
    )
    places = Places({"allOf": [{"$ref": "#/$defs/to"}], "additionalProperties": False, **more})
    assert places.requires(("floor",)) and places.names() == ["floor"] and places.is_closed


def test_a_schema_that_refers_to_itself_or_fans_out_costs_no_more_than_its_size() -> None:
    """With a look at every path through these references, the first would take 2 to the power of 60 of them."""
    fan: dict[str, Any] = {f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(60)}
    fan["a60"] = {"type": "integer"}
    assert expected({"$ref": "#/$defs/a0"}, **{"$defs": fan}).types == {"integer"}
    both = {name: {"allOf": one["anyOf"]} if "anyOf" in one else one for name, one in fan.items()}
    places = Places({"$ref": "#/$defs/a0", "$defs": both})
    assert places.names() == [] and not places.requires(("x",))
    own: Any = {"$ref": "#", "properties": {"x": {"anyOf": [{"$ref": "#/properties/x"}, {"type": "integer"}]}}}
    assert Places(own).expected_at(("x", "x", "x")).types == ALL_TYPES
    assert Places(own).expected_at(("x",)).types == ALL_TYPES and Places(own).names() == ["x"]
    chain: dict[str, Any] = {f"a{n}": {"$ref": f"#/$defs/a{n + 1}"} for n in range(3000)}
    assert expected({"$ref": "#/$defs/a0"}, **{"$defs": chain}).types == ALL_TYPES


_VALUES = st.sampled_from([None, True, 1, 1.5, 2.0, "a", "1", [], {}])
_PARTS = st.recursive(
    st.one_of(
        st.just({}),
        st.builds(lambda one: {"type": one}, st.sampled_from(sorted(ALL_TYPES))),
        st.builds(lambda one: {"enum": one}, st.lists(_VALUES, min_size=1, max_size=3)),
        st.builds(lambda one: {"const": one}, _VALUES),
    ),
    lambda parts: st.builds(
        lambda word, some, kind: {"type": kind, word: some}, st.sampled_from(["anyOf", "allOf", "oneOf"]),
        st.lists(parts, min_size=1, max_size=3), st.sampled_from(["integer", "string"]),
    ),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=300)
@given(part=_PARTS, value=_VALUES)
def test_what_fits_the_schema_is_never_ruled_out(part: Any, value: Any) -> None:
    schema = ParameterSchema({"properties": {"x": part}})
    if not schema.check({"x": value}):
        found = schema.places.expected_at(("x",))
        assert found.has_type_of(value)
        assert not isinstance(value, str) or found.texts is None or value in found.texts
