"""Tables of tasks: cells, and columns that come late or are too many. How they look in a spreadsheet's file is in
`acceptance/test_finding.py`."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from typing import Any

import pytest

from disbatch_host.client import tables
from disbatch_host.client.columns import column_of, columns_of, path_text, telling_names
from disbatch_host.client.conditions import path_of
from disbatch_host.client.tables import COLUMNS_MAX, Format, Table, cell_of
from disbatch_host.documents.records import Task
from disbatch_host.errors import FieldError, UsageError

NOW = datetime(2026, 4, 26, 17, 59, 33, 123000, tzinfo=UTC)

CELLS: list[tuple[Any, Any]] = [
    (None, None),
    ("", ""),
    ("plain", "plain"),
    ("=1+1", "'=1+1"),
    ("+49 170", "'+49 170"),
    ("@SUM(A1)", "'@SUM(A1)"),
    ("-2+3", "'-2+3"),
    ("-5", "-5"),
    ("-5.25e3", "-5.25e3"),
    ("-.5", "-.5"),
    ("-", "'-"),
    ("\t=1", "'\t=1"),
    ("\r=1", "'\r=1"),
    ("\n=1", "'\n=1"),
    ("'=1", "''=1"),
    ("'tis", "'tis"),
    (" =1", " =1"),
    (-5, -5),
    (-5.5, -5.5),
    (True, "true"),
    (["=1"], '["=1"]'),
    ({"a": None}, '{"a":null}'),
    ("nul\0", "nul�"),
]


@pytest.mark.parametrize(("value", "cell"), CELLS, ids=repr)
def test_a_cell_is_a_number_or_a_text_that_is_no_formula(value: Any, cell: Any) -> None:
    assert cell_of(value) == cell and type(cell_of(value)) is type(cell)


def written(*documents: dict[str, Any]) -> tuple[list[str], list[list[str]], Table]:
    out = io.BytesIO()
    table = Table(out=out, delimiter=",", has_mark=True, now=NOW, other=str)
    tasks = [Task.from_document({"_id": str(number), "status": 1, **one}) for number, one in enumerate(documents)]
    assert len(list(table.write(((one, one.document) for one in tasks), None))) == len(tasks)
    header, *rows = csv.reader(io.StringIO(out.getvalue().decode("utf-8-sig"), newline=""), strict=True)
    assert all(len(row) == len(header) for row in rows)
    return header, rows, table


def test_a_column_that_comes_late_is_there_and_parameters_come_before_results() -> None:
    header, rows, _ = written(
        {"parameters": {"b": 1}, "result": {"size": 2}},
        {"parameters": {"b": {"c": 3}, "=x": "late"}, "result": 4},
        {"parameters": [5], "result": {"size": {}}},
        {"parameters": {}, "result": None},
    )
    names = ["parameters.b", "parameters.b.c", r"parameters.\=x", "parameters", "result.size", "result"]
    assert header[-6:] == names
    assert [row[-6:] for row in rows] == [
        ["1", "", "", "", "2", ""],
        ["", "3", "late", "", "", "4"],
        ["", "", "", "[5]", "{}", ""],
        ["", "", "", "", "", ""],
    ]


def test_what_has_no_column_of_its_own_any_more_is_in_one_together() -> None:
    header, rows, table = written(
        {"parameters": {f"n{number}": number for number in range(COLUMNS_MAX)}},
        {"parameters": {"n5": "five", "late": 7}, "result": "too"},
    )
    assert header[-1] == "more" and len(header) == len(rows[0]) and table.left_over == 2
    assert rows[0][-1] == "" and rows[1][-1] == '{"parameters.late":7,"result":"too"}'
    assert rows[1][header.index("parameters.n5")] == "five"


@pytest.mark.parametrize("names", [("a",), ("a.b", "c"), ("=x,y", "!", "\\"), ("größe", "0")])
def test_the_name_of_a_column_leads_to_what_is_in_it(names: tuple[str, ...]) -> None:
    text = path_text(("parameters", *names))
    assert path_of(text) == ("parameters", *names)
    (column,) = columns_of(text.replace(",", "\\,") if "\\," not in text else text)
    value: Any = "found"
    for name in reversed(names):
        value = {name: value}
    task = Task.from_document({"_id": "1", "parameters": value})
    assert column.value(task, task.document, NOW) == "found"


def test_a_name_decides_the_form_unless_another_one_is_given() -> None:
    for name, form in (
        ("a.csv", "csv"),
        ("A.CSV.GZ", "csv"),
        ("a.tsv", "tsv"),
        ("a.ndjson.gz", "ndjson"),
        ("a", "ndjson"),
    ):
        assert tables.format_of(name) is Format(form)
    assert tables.format_of("a.xlsx", "csv") is Format.CSV and tables.format_of(None) is Format.NDJSON
    for wrong in ("a.xlsx", "b.ods.gz", "c.parquet"):
        with pytest.raises(UsageError, match=r"CSV, TSV or NDJSON"):
            tables.format_of(wrong)
    assert tables.delimiter_of("tab", Format.CSV) == "\t" and tables.delimiter_of(None, Format.TSV) == "\t"
    for text, form in ((";", Format.TSV), (";", Format.NDJSON), ("", Format.CSV), ('"', Format.CSV), ("1", Format.CSV)):
        with pytest.raises(FieldError):
            tables.delimiter_of(text, form)


def test_parameters_that_most_tasks_have_and_that_differ_tell_them_apart() -> None:
    some = ({"a": {}, "same": 7, "b": 1, "c": "x", "d": 2}, {"b": 2, "same": 7, "e": 1}, {"b": 3, "same": 7, "c": "y"})
    documents = [{"parameters": one} for one in some]
    assert telling_names(documents, None) == ("b", "c")
    assert telling_names(documents[:1], None) == ("same", "b")
    assert telling_names([{"parameters": {"pin": "********", "user": 1}}], None) == ("user",)
    assert telling_names([{"parameters": None}, {}], None) == telling_names([], None) == ()
    assert column_of("status").is_own and not column_of("state").is_own
