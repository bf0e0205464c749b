"""No message and no list shows what is below a `writeOnly`; one test for each word of JSON Schema that quoted it."""

from __future__ import annotations

from typing import Any

import pytest

from disbatch_protocol.masks import MASK, masked_at
from disbatch_protocol.parameters import ParameterSchema

SECRET = "hunter2-topsecret"


@pytest.mark.parametrize(
    "rule",
    [
        {"minLength": 99}, {"maxLength": 3}, {"pattern": "^x$"}, {"type": "integer"}, {"enum": ["a", "b"]},
        {"const": "c"}, {"not": {"type": "string"}}, {"anyOf": [{"type": "null"}, {"maxLength": 2}]},
        {"oneOf": [{"type": "null"}, {"type": "boolean"}]}, {"allOf": [{"maxLength": 2}]}, {"$ref": "#/$defs/short"},
        {"type": ["integer", "object"]}, {"if": True, "then": {"maxLength": 2}},
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["top", "nested", "list", "pattern", "marked by its reference"])
def test_a_secret_that_breaks_its_schema_is_not_quoted(rule: dict[str, Any], where: str) -> None:
    one = {"writeOnly": True, **rule}
    schema: dict[str, Any] = {"$defs": {"short": {"maxLength": 2}, "marked": {"writeOnly": True}}}
    parameters: Any = {"a": SECRET}
    match where:
        case "top":
            schema["properties"] = {"a": one}
        case "nested":
            schema["properties"] = {"o": {"properties": {"a": one}}}
            parameters = {"o": parameters}
        case "list":
            schema["properties"] = {"a": {"items": one}}
            parameters = {"a": [SECRET]}
        case "pattern":
            schema["patternProperties"] = {"^a": one}
        case _:
            schema["properties"] = {"a": {"allOf": [{"$ref": "#/$defs/marked"}, rule]}}
    faults = ParameterSchema(schema).check(parameters)
    assert faults
    assert not any(SECRET[:7] in str(fault) for fault in faults), faults
    assert "found a string" in str(faults[0])
    assert SECRET not in str(ParameterSchema(schema).masked(parameters))


def test_a_value_in_the_place_of_an_object_with_secrets_counts_as_one() -> None:
    inner = {"type": "object", "properties": {"password": {"type": "string", "writeOnly": True}}}
    schema = ParameterSchema({"properties": {"login": inner}})
    for login in (SECRET, [SECRET], {"password": {SECRET: SECRET}}):
        (fault,) = schema.check({"login": login})
        assert SECRET not in str(fault)
        assert SECRET not in str(schema.masked({"login": login}))


def test_names_inside_a_secret_are_not_quoted() -> None:
    inner = {"writeOnly": True, "properties": {"x": {"type": "string"}}, "additionalProperties": False}
    schema = ParameterSchema({"properties": {"a": inner}, "minProperties": 5})
    faults = schema.check({"a": {SECRET: 1}})
    assert [fault.pointer for fault in faults] == ["", "/a"]
    assert SECRET not in "".join(map(str, faults))


@pytest.mark.parametrize(
    ("rule", "value", "said"),
    [
        ({"minLength": 3}, "ab", "/a: expected at least 3 characters, found 2"),
        ({"minLength": 3}, "", "/a: expected at least 3 characters, found none"),
        ({"minLength": 1}, "", "/a: must not be empty"),
        ({"maxItems": 1}, [1, 2], "/a: expected at most 1 element, found a list of 2"),
        ({"multipleOf": 5}, 7, "/a: expected a multiple of 5, found the number 7"),
        ({"uniqueItems": True}, [1, 1], "/a: expected elements that are all different, found a list of 2"),
        ({"not": {"type": "string"}}, "x", "/a: expected a value that its `not` does not describe, found the string"),
        ({"pattern": "^x"}, "y" * 500, '/a: expected a string that matches "^x", found a string of 500 characters'),
        ({"propertyNames": {"maxLength": 1}}, {"ab": 1}, "/a: expected at most 1 character, found 2"),
        (False, "x", "expected nothing at this place, found a string"),
        ({"additionalProperties": False}, {"x": 1}, '/a: unknown "x"'),
        ({"const": 5}, 6, "/a: expected 5, found the number 6"),
        ({"dependentRequired": {"x": ["y"]}}, {"x": 1}, '/a: expected "y", found nothing'),
    ],
)
def test_a_fault_says_what_was_expected_and_what_kind_was_found(rule: Any, value: Any, said: str) -> None:
    (fault,) = ParameterSchema({"properties": {"a": rule}}).check({"a": value})
    assert str(fault).startswith(said)


def test_what_a_document_names_as_secret_is_masked() -> None:
    parameters = {"a/b": {"c": [1, {"d": SECRET}]}, "e": 1}
    secrets = ["/a~1b/c/1/d", "/nothing/here", "/e/x"]
    assert masked_at(parameters, secrets) == {"a/b": {"c": [1, {"d": MASK}]}, "e": 1}
    assert masked_at(parameters, ()) is parameters
    schema = ParameterSchema({"additionalProperties": {"additionalProperties": {"items": {"writeOnly": True}}}})
    assert schema.secrets(parameters) == ("/a~1b/c/0", "/a~1b/c/1", "/e")
