"""Conditions as people write them, and what a store makes of them."""

from __future__ import annotations

import pytest

from disbatch_host.client.conditions import condition_of, path_of
from disbatch_host.documents.conditions import Condition, Order
from disbatch_host.errors import FieldError
from disbatch_host.store.sqlite import field_conditions, fields

TEXTS = {
    "user=matt": Condition(("parameters", "user"), ("matt",)),
    "parameters.user=matt": Condition(("parameters", "user"), ("matt",)),
    "parameters=1": Condition(("parameters", "parameters"), ("1", 1)),
    ".parameters.parameters.x=1": Condition(("parameters", "parameters", "x"), ("1", 1)),
    "result.size!=0": Condition(("result", "size"), ("0", 0), negated=True),
    "result=1.50": Condition(("parameters", "result"), ("1.50", 1.5)),
    ".result=true": Condition(("result",), ("true", True)),
    ".error.code=null": Condition(("error", "code"), ("null", None)),
    "a.b.0=01067": Condition(("parameters", "a", "b", "0"), ("01067",)),
    r"a\.b.c\=d\!=e=f=g": Condition(("parameters", "a.b", r"c=d!"), ("e=f=g",)),
    r"x\\.y=": Condition(("parameters", "x\\", "y"), ("",)),
    "x=[1]": Condition(("parameters", "x"), ("[1]",)),
    "x=18446744073709551615": Condition(("parameters", "x"), ("18446744073709551615",)),
    "x=1e999": Condition(("parameters", "x"), ("1e999",)),
    "x=NaN": Condition(("parameters", "x"), ("NaN",)),
    "größe= a ": Condition(("parameters", "größe"), (" a ",)),
    "x!==y": Condition(("parameters", "x"), ("=y",), negated=True),
    "size_mb>50000": Condition(("parameters", "size_mb"), (50000,), order=Order.MORE),
    "result.size>=-1.5": Condition(("result", "size"), (-1.5,), order=Order.AT_LEAST),
    ".rate<7": Condition(("rate",), (7,), order=Order.LESS),
    "day<=2026-11-30T10:00": Condition(("parameters", "day"), ("2026-11-30T10:00",), order=Order.AT_MOST),
    r"a\>b\<c=1": Condition(("parameters", "a>b<c"), ("1", 1)),
    "a=<b>": Condition(("parameters", "a"), ("<b>",)),
    "a!b=c": Condition(("parameters", "a!b"), ("c",)),
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_stands_for_a_condition(text: str) -> None:
    found = condition_of(text)
    assert found == TEXTS[text]
    assert [type(one) for one in found.values] == [type(one) for one in TEXTS[text].values]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "user",
        "=x",
        "!=x",
        ".=x",
        "..x=1",
        "a>b",
        "a<",
        ">1",
        "a>true",
        "a>>1",
        "a<1e999",
        ".".join("a" * 60) + "=1",
    ],
)
def test_a_text_that_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(FieldError, match="expected "):
        condition_of(text)


def test_a_path_is_no_condition() -> None:
    assert path_of(r"result.a\.b") == ("result", "a.b")
    with pytest.raises(FieldError):
        path_of("user=matt")


def test_nothing_of_a_condition_is_shown_where_it_is_logged() -> None:
    assert "s3cret" not in repr(condition_of("password=s3cret"))


def test_each_column_of_a_row_can_be_asked_for() -> None:
    """A field that gets a column of its own would not be found in `rest` any more."""
    assert {*field_conditions.JSON_COLUMNS, *field_conditions.AS_JSON} == fields.IN_COLUMNS
