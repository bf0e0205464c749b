"""Which column becomes which parameter, and what is said before the first row."""

from __future__ import annotations

from typing import Any

import pytest

from disbatch_host.client.importing import mapping
from disbatch_host.client.importing.mapping import (
    Field,
    RowError,
    csv_mapper,
    key_of_column,
    object_mapper,
    parse_fields,
)
from disbatch_host.client.importing.record import Record
from disbatch_host.client.parameters import parse_json
from disbatch_host.clock import SystemClock
from disbatch_host.errors import UsageError
from disbatch_protocol.parameters import ParameterSchema

SCHEMA = ParameterSchema(
    {
        "type": "object",
        "properties": {
            "user": {"type": "string"},
            "note": {"type": "string", "default": "none"},
            "tries": {"type": "integer"},
            "either": {"type": ["integer", "string"]},
            "to": {"$ref": "#/$defs/address"},
            "more": {"allOf": [{"properties": {"n": {"type": ["number", "null"]}}}]},
            "password": {"type": "string", "writeOnly": True},
        },
        "required": ["user"],
        "$defs": {
            "address": {
                "type": "object",
                "properties": {"zip": {"type": "string"}, "lines": {"type": "array"}},
                "required": ["zip"],
            }
        },
    }
)


def mapped(columns: str, row: list[str], *maps: str, schema: ParameterSchema | None = None, **constants: Any) -> Any:
    names = columns.split(",")
    fields = parse_fields(maps, names) if maps else mapping.of_all_columns(names)
    return csv_mapper(names, fields, schema, constants, parse_json)(row)


def test_without_a_map_all_columns_are_parameters_of_their_own_names_and_stay_texts() -> None:
    assert mapped("a,b.c", ["1", ""]) == {"a": "1", "b.c": ""}
    assert mapped("a,b", ["1", "2"], b=3) == {"a": "1", "b": 3}


def test_a_map_renames_nests_and_leaves_out() -> None:
    assert mapped("a,b,c", ["1", "2", "3"], "a=x.y", "c=x.z") == {"x": {"y": "1", "z": "3"}}
    assert mapped("a,b", ["[1]", "2"], "a:=x", "b=b") == {"x": [1], "b": "2"}
    assert mapped("a=b,c", ["1", "2"], "a=b=x") == {"x": "1"}
    assert mapped("a:,b", ["1", "2"], "a:=x") == {"x": "1"}


def test_the_schema_says_which_columns_hold_json() -> None:
    columns = "user,tries,either,zip,lines,n"
    maps = ["user=user", "tries=tries", "either=either", "zip=to.zip", "lines=to.lines", "n=more.n"]
    made = mapped(columns, ["5", "5", "5", "01234", '["a"]', "1.5"], *maps, schema=SCHEMA)
    assert made == {"user": "5", "tries": 5, "either": "5", "to": {"zip": "01234", "lines": ["a"]}, "more": {"n": 1.5}}
    with pytest.raises(RowError, match="column 'tries': expected integer, found"):
        mapped("tries", ["five"], schema=SCHEMA)


def test_an_empty_field_is_left_out_unless_nothing_is_known_or_a_text_is_required() -> None:
    maps = ["user=user", "note=note", "tries=tries", "zip=to.zip"]
    assert mapped("user,note,tries,zip", ["", "", "", ""], *maps, schema=SCHEMA) == {"user": "", "to": {"zip": ""}}
    assert mapped("user,note", ["", ""]) == {"user": "", "note": ""}
    assert mapped("user,note", ["", ""], schema=ParameterSchema(None)) == {"user": "", "note": ""}
    assert mapped("a,b", ["", "x"], "a:=a", "b=b") == {"b": "x"}


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (["usr=x"], "no column 'usr' in the header; did you mean 'user'?"),
        (["q=x"], "there are 'user', 'zip', 'zip'"),
        (["user"], "maps: expected column=field"),
        (["=x"], "maps: expected column=field"),
        (["user="], "maps: expected column=field"),
        (["user=a..b"], "maps: expected column=field"),
        (["user=x", "user=x"], "both 'user' and 'user' would become 'x'"),
        (["user=x", "user=x.y"], "both"),
        (["user=x.y", "user=x"], "is to hold 'x.y'"),
        (["zip=x"], "more than one column 'zip'"),
    ],
)
def test_a_map_that_cannot_be_is_said_before_the_first_row(maps: list[str], message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_fields(maps, ["user", "zip", "zip"])
    assert message in str(error.value)


def test_a_header_that_names_a_column_twice_or_not_at_all_needs_a_map() -> None:
    with pytest.raises(UsageError, match="more than one column 'a'"):
        mapping.of_all_columns(["a", "b", "a"])
    with pytest.raises(UsageError, match="column 2 of the header has no name"):
        mapping.of_all_columns(["a", ""])


def test_objects_are_mapped_by_names_with_dots_and_keep_their_types() -> None:
    row = {"a": {"b": [{"c": 5}]}, "x.y": True, "text": "[1]", "none": None}
    fields = parse_fields(["a.b.0.c=p.q", "x.y=r", "gone=s", "text:=t", "none=n"], None)
    assert object_mapper(fields, {"k": 1}, parse_json)(row) == {"p": {"q": 5}, "r": True, "t": [1], "n": None, "k": 1}
    assert object_mapper(None, {}, parse_json)(row) is row
    with pytest.raises(RowError, match="expected a text that holds JSON"):
        object_mapper(parse_fields(["a:=x"], None), {}, parse_json)(row)


def test_a_value_that_begins_with_document_is_a_reference_as_in_disbatch_4() -> None:
    constants = {"user": "document.mail.0", "folder": "INBOX", "missing": "document.nope"}
    make = object_mapper(None, constants, parse_json, has_references=True)
    assert make({"mail": ["a@example.com"], "x": 1}) == {"user": "a@example.com", "folder": "INBOX"}
    assert object_mapper(None, constants, parse_json)({}) == constants


def test_unique_keys_are_texts_and_never_empty() -> None:
    assert key_of_column(["a", "b"], "b")(["1", "2"]) == "2"
    assert key_of_column(None, "a.b")({"a": {"b": 17}}) == "17"
    for column, row in (("a", {}), ("a", {"a": None}), ("a", {"a": ""}), ("a", {"a": True}), ("a", {"a": {}})):
        with pytest.raises(RowError):
            key_of_column(None, column)(row)
    with pytest.raises(RowError, match="found nothing"):
        key_of_column(["a"], "a")([""])
    with pytest.raises(UsageError, match="key_column: no column 'c'"):
        key_of_column(["a"], "c")


def test_columns_of_secret_parameters_are_known_before_any_row() -> None:
    fields = [Field(column="p", path=("password",)), Field(column="u", path=("user",))]
    assert mapping.secret_columns(fields, SCHEMA) == {"p"}
    assert mapping.secret_columns(fields, None) == frozenset()


def test_ids_count_on_from_the_first_one_in_order_whatever_overflows() -> None:
    record = Record(first_id="6553f100abcdef0011fffffe", begun=SystemClock().now(), fields={})
    ids = [record.id_of(number) for number in (0, 1, 2, 20_000_000)]
    assert ids == ["6553f100abcdef0011fffffe", "6553f100abcdef0011ffffff", "6553f100abcdef0012000000", ids[3]]
    assert ids == sorted(ids) and {len(one) for one in ids} == {24}
    assert Record.from_document(record.to_document()) == record
