"""Forms from schemas: whatever a schema says and a value is, a form gives the value back, or asks for it as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disbatch_host.web import filling, forms
from disbatch_host.web.forms import Field


def texts_of(fields: Sequence[Field]) -> Iterator[tuple[str, str]]:
    """What a browser would send of a form that nobody has touched."""
    for one in fields:
        if one.kind == "group":
            yield from texts_of(one.fields)
        elif one.kind == "variants":
            yield one.name, one.text
            yield from texts_of(one.variants)
        else:
            is_area = one.kind in ("textarea", "lines", "json")
            yield one.name, one.text.replace("\n", "\r\n") if is_area else one.text.replace("\n", "")
            if one.kind == "json":
                yield f"as{one.name}", "json"


def sent_back(schema: Any, value: Any) -> tuple[dict[str, Any], dict[str, str]]:
    fields = forms.fields_of(schema)
    assert fields is not None
    filled, others = filling.filled(fields, value)
    found, faults = filling.read(filled, dict(texts_of(filled)))
    return {**found, **others}, faults


SCALARS = st.one_of(
    st.text(max_size=8), st.integers(-(2**53), 2**53), st.booleans(), st.none(),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
NAMES = st.text(min_size=1, max_size=6)
LEAVES: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(["string", "integer", "number", "boolean", "array", "object", ["string", "null"]]).map(
        lambda kind: {"type": kind}
    ),
    st.lists(SCALARS, min_size=1, max_size=9).map(lambda values: {"enum": values}),
    SCALARS.map(lambda value: {"const": value}),
    st.sampled_from(["date", "date-time", "email", "uri", "x-text"]).map(lambda one: {"type": "string", "format": one}),
    st.sampled_from(["string", "integer", "number", "boolean"]).map(
        lambda kind: {"type": "array", "items": {"type": kind}}
    ),
    st.sampled_from([{}, True, {"$ref": "#"}, {"patternProperties": {"^x": {}}}, {"anyOf": [{"type": "string"}, {}]}]),
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: (
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(NAMES, inner, min_size=1, max_size=3)},
            optional={"required": st.lists(NAMES, max_size=2)},
        )
        | st.lists(st.dictionaries(NAMES, inner, min_size=1, max_size=2), min_size=2, max_size=3).map(
            lambda some: {
                "oneOf": [
                    {"type": "object", "properties": {**one, "kind": {"const": f"k{number}"}}, "required": ["kind"]}
                    for number, one in enumerate(some)
                ]
            }
        )
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(
    properties=st.dictionaries(NAMES, SCHEMAS, min_size=1, max_size=4), required=st.lists(NAMES, max_size=3),
    value=st.dictionaries(NAMES, VALUES, max_size=4), data=st.data(),
)  # fmt: skip
def test_what_is_filled_in_is_sent_back(
    properties: dict[str, Any], required: list[str], value: dict[str, Any], data: st.DataObject
) -> None:
    for name in properties:  # half of them get a value of their own
        if data.draw(st.booleans()):
            value[name] = data.draw(VALUES)
    schema = {"type": "object", "properties": properties, "required": required}
    found, faults = sent_back(schema, value)
    assert faults == {}
    # What is required and missing may come as an empty list or object: the check says whether it fits.
    extra = {name: found.pop(name) for name in [*found] if name not in value and found[name] in ([], {})}
    assert set(extra) <= set(required)
    assert orjson.dumps(found, option=orjson.OPT_SORT_KEYS) == orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "string"}, "text"), ({"type": "string", "maxLength": 201}, "textarea"),
        ({"type": "string", "format": "date"}, "date"), ({"type": "string", "format": "email"}, "email"),
        ({"type": "string", "writeOnly": True}, "password"), ({"enum": ["a", "b"]}, "radio"),
        ({"enum": [*"abcdefgh"]}, "select"), ({"type": "integer", "minimum": 1}, "number"),
        ({"type": "boolean"}, "boolean"), ({"type": "array", "items": {"type": "string"}}, "lines"),
        ({"type": "object", "properties": {"a": {"type": "string"}}}, "group"),
        ({"type": "object"}, "json"), ({"type": ["string", "integer"]}, "json"), ({"$ref": "#"}, "json"),
        ({"type": "string", "if": {}, "then": {}}, "json"), ({"patternProperties": {"^x": {}}}, "json"),
        ({"enum": [{"a": 1}]}, "json"), (True, "json"), ({"type": "array", "items": {"type": "object"}}, "json"),
        ({"oneOf": [{"properties": {"k": {"const": "a"}}}, {"properties": {"k": {"const": "b"}}}]}, "variants"),
    ],
)  # fmt: skip
def test_which_field_a_part_becomes(schema: Any, kind: str) -> None:
    (one,) = forms.fields_of({"type": "object", "properties": {"x": schema}}) or ()
    assert one.kind == kind


def test_required_ones_come_first_and_names_are_escaped() -> None:
    properties = {"a/b": {"type": "string"}, "c?d": {"type": "string"}, "e~f": {"type": "string"}}
    fields = forms.fields_of({"properties": properties, "required": ["e~f"]}) or ()
    assert [one.name for one in fields] == ["/e~0f", "/a~1b", "/c~2d"]


@pytest.mark.parametrize("schema", [True, {}, {"type": "object"}, {"oneOf": []}, {"properties": {}}, {"$ref": "#"}, 7])
def test_a_schema_without_names_has_no_form(schema: Any) -> None:
    assert forms.fields_of(schema) is None


def test_a_secret_is_never_filled_in() -> None:
    inner = {"type": "object", "properties": {"key": {"type": "string", "writeOnly": True}}}
    fields = forms.fields_of({"properties": {"password": {"type": "string", "writeOnly": True}, "of": inner}}) or ()
    filled, _ = filling.filled(fields, {"password": "planted", "of": {"key": "planted"}})
    assert "planted" not in repr(filled)


@pytest.mark.parametrize(("kind", "text"), [("integer", "x"), ("integer", "1e"), ("number", "1,5"), ("number", "true")])
def test_what_is_no_number_is_said_at_its_field(kind: str, text: str) -> None:
    fields = forms.fields_of({"properties": {"n": {"type": kind}}}) or ()
    found, faults = filling.read(fields, {"/n": text})
    assert found == {} and text in faults["/n"]


def test_what_is_required_and_not_given_is_known_wherever_it_is() -> None:
    text = {"type": "string"}
    inner = {"type": "object", "properties": {"a": text, "b": {**text, "minLength": 1}}, "required": ["a", "b"]}
    kinds = [{"properties": {"k": {"const": one}, one: text}, "required": ["k", one]} for one in "xy"]
    properties = {"needed": inner, "left": inner, "one": {"oneOf": kinds}}
    fields = forms.fields_of({"properties": properties, "required": ["needed", "one"]}) or ()
    missing = [*filling.not_given(fields, {"needed": {"a": "x"}, "one": {"k": "y"}})]
    assert [(one.name, one.takes_empty) for one in missing] == [("/needed/b", False), ("/one?1/y", True)]
    assert [one.name for one in filling.not_given(fields, {})] == ["/needed", "/one"]
