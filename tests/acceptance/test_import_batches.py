"""What `task import` says besides its tasks: a report as a table, the batch of the same file, how far an end was."""

from __future__ import annotations

import csv
import io
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from acceptance.conftest import Terminal
from acceptance.test_import import MANY, SCHEMA, start_held, without_batch, write
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.store.contract import Store
from helpers.stores import on_sqlite

Plugin = Callable[..., Path]


@pytest.fixture
def at(on_store: Terminal) -> Terminal:
    on_store.fine("queue", "create", "q", "--class", "nobody")
    return on_store


def table(at: Terminal, name: str, **how: str) -> list[dict[str, str]]:
    text = (at.directory / name).read_bytes().decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text, newline=""), **how))  # type: ignore[call-overload]


@on_sqlite
def test_a_report_is_a_table_if_its_name_says_so(at: Terminal, plugin: Plugin) -> None:
    plugin("mail", "cat", parameters=SCHEMA)
    at.fine("queue", "create", "mail", "--class", "mail")
    rows = "E-Mail,tries,password\nann,many,s3cret\n,1,s3cret\nbob\n=1+1,-3,s3cret\nzoe,1,x\n"
    name = write(at, "bad.csv", rows)
    maps = ("--map", "E-Mail=user", "--map", "tries=tries", "--map", "password=password")
    at("task", "import", "mail", name, *maps, "--report", "faults.csv")
    first, second, third, fourth = table(at, "faults.csv")
    assert list(first) == ["line", "column", "reason", "E-Mail", "tries", "password"]
    assert (first["line"], first["column"], first["E-Mail"], first["tries"]) == ("2", "tries", "ann", "many")
    assert first["reason"].startswith("column 'tries': expected integer")
    assert second["column"] == "E-Mail" and second["reason"] == "/user: must not be empty"
    assert third["reason"] == "expected 3 fields, as the header has, found 1" and third["column"] == ""
    assert fourth["E-Mail"] == "'=1+1" and fourth["column"] == "tries"
    assert "s3cret" not in (at.directory / "faults.csv").read_text()
    write(at, "bad.ndjson", 'oops\n{"user": "x", "tries": [1]}\n{"tries": 1}\n')
    at("task", "import", "mail", "bad.ndjson", "--report", "faults.tsv")
    lines = table(at, "faults.tsv", delimiter="\t")
    assert [one["line"] for one in lines] == ["1", "2", "3"]
    assert (lines[1]["column"], lines[1]["user"], lines[1]["tries"], lines[2]["tries"]) == ("tries", "x", "[1]", "1")
    assert "faults.csv" in at.refused(2, "task", "import", "mail", name, "--report", "faults.xlsx")


def test_a_file_that_was_imported_before_is_said_with_its_batch(at: Terminal) -> None:
    name = write(at, "a.csv", "n\n1\n2\n")
    first = at.fine("task", "import", "q", name)
    assert first.err == ""
    batch = first.out.strip().rpartition("batch ")[2]
    again = at.fine("task", "import", "q", name)
    assert again.err.startswith(f"the same file was imported into this queue before, as batch {batch}: ")
    assert f"`disbatch-host batch cancel {batch}`" in again.err and again.err.count("\n") == 1
    assert without_batch(again.out) == "2 tasks created in queue q\n"
    assert at.fine("task", "import", "q", name, "--unique-key-from", "n").err == ""
    at.fine("queue", "create", "other", "--class", "nobody")
    assert at.fine("task", "import", "other", name).err == ""


def test_an_import_that_is_refused_has_begun_nothing(at: Terminal, store: Store, plugin: Plugin) -> None:
    plugin("mail", "cat", parameters=SCHEMA)
    at.fine("queue", "create", "mail", "--class", "mail")
    name = write(at, "a.csv", "n\n1\n")
    refused = at.refused(2, "task", "import", "q", name, "--on-done", "mail", "--on-done-p", "usr=ann")
    assert "on_done: the parameters do not fit" in refused and "resume" not in refused and "created" not in refused
    assert store.find_batches() == [] and store.count_tasks(TaskFilter(queue="q")) == 0
    assert "resuming" not in at.fine("task", "import", "q", name).err


@on_sqlite
def test_what_is_said_of_a_report_after_ctrl_c_is_true(at: Terminal) -> None:
    lines = "oops\n" * 2 + "".join(f'{{"n": {number}}}\n' for number in range(MANY))
    name = write(at, "many.ndjson", lines)
    process = start_held(at, "q", name, "--on-error", "skip", "--report", "faults.csv")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=60)
    assert b"those found so far are in faults.csv" in err and b"all are in" not in err
    assert [one["line"] for one in table(at, "faults.csv")] == ["1", "2"]
    assert "\nall are in faults.csv\n" in at.fine(
        "task", "import", "q", name, "--on-error", "skip", "--report", "faults.csv"
    ).err  # fmt: skip
