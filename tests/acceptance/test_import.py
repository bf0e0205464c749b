"""`task import`, as somebody types it, on both stores."""

from __future__ import annotations

import gzip
import json
import re
import signal
import subprocess
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pymongo
import pytest

from acceptance.conftest import PROGRAM, Terminal
from disbatch_host.client.importing.passes import BATCH_ROWS
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.store.contract import Store
from helpers import held_command
from helpers.processes import peak_memory, wait_until
from helpers.stores import on_sqlite

Plugin = Callable[..., Path]

SCHEMA = {
    "type": "object",
    "properties": {
        "user": {"type": "string", "minLength": 1},
        "tries": {"type": "integer", "minimum": 0},
        "password": {"type": "string", "writeOnly": True},
    },
    "required": ["user"],
    "additionalProperties": False,
}


@pytest.fixture
def at(on_store: Terminal) -> Terminal:
    """With a queue q of a plugin that is not known here, and a queue mail of one that is checked."""
    on_store.fine("queue", "create", "q", "--class", "nobody")
    return on_store


def without_batch(text: str) -> str:
    """What an import says, without the id of its batch."""
    shown, count = re.subn(", batch [0-9a-f]{24}", "", text)
    assert count == 1, text
    return shown


def write(terminal: Terminal, name: str, content: str | bytes) -> str:
    path = terminal.directory / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return name


def parameters(terminal: Terminal, queue: str = "q") -> list[Any]:
    """Of all tasks, in the order of their creation."""
    return [one["parameters"] for one in exported(terminal, queue)]


def exported(terminal: Terminal, queue: str = "q") -> list[Any]:
    return terminal.fine("task", "export", "--queue", queue).json


def shell(terminal: Terminal, name: str, command: str) -> subprocess.CompletedProcess[str]:
    """A command that must succeed."""
    return subprocess.run(
        [name, "-c", command],
        cwd=terminal.directory,
        env=terminal.environment,
        capture_output=True,
        text=True,
        check=True,
    )


def test_each_row_of_csv_becomes_a_task_in_the_order_of_the_file(at: Terminal) -> None:
    content = '\ufeffuser,note\r\nmatt,"two\r\nlines, ""quoted"""\r\n\r\nänn,\r\n'
    result = at.fine("task", "import", "q", write(at, "users.csv", content))
    assert without_batch(result.out) == "2 tasks created in queue q\n" and result.err == ""
    assert parameters(at) == [{"user": "matt", "note": 'two\r\nlines, "quoted"'}, {"user": "änn", "note": ""}]
    assert {one["status"] for one in exported(at)} == {-2}


@on_sqlite
def test_the_same_rows_come_in_every_form(at: Terminal) -> None:
    lines = '{"a": "1", "b": "2"}\n{"a": "3", "b": "4"}\n'
    semicolons, tabs = "a;b\n1;2\n3;4\n", "a\tb\n1\t2\n3\t4\n"
    at.fine("task", "import", "q", write(at, "a.csv", semicolons), "--delimiter", ";")
    at.fine("task", "import", "q", write(at, "a.tsv", tabs))
    at.fine("task", "import", "q", write(at, "a.csv.gz", gzip.compress(semicolons.encode())), "--delimiter", ";")
    at.fine("task", "import", "q", write(at, "a.ndjson", lines))
    at.fine("task", "import", "q", write(at, "a.txt", lines), "--format", "ndjson")
    at.fine("task", "import", "q", "-", stdin=lines)
    at.fine("task", "import", "q", "-", "--format", "csv", "--delimiter", "\\t", stdin=tabs)
    command = f"'{PROGRAM}' task import q <(cat a.ndjson)"
    done = subprocess.run(
        ["bash", "-c", command], cwd=at.directory, env=at.environment, capture_output=True, check=True
    )
    assert without_batch(done.stdout.decode()) == "2 tasks created in queue q\n"
    assert parameters(at) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}] * 8


@on_sqlite
def test_a_map_names_parameters_and_p_gives_all_of_them_the_same(at: Terminal) -> None:
    name = write(at, "a.csv", 'E-Mail,Tries,Other\nm@example.com,3,x\na@example.com,"",y\n')
    maps = ("--map", "E-Mail=to.address", "--map", "Tries:=tries")
    at.fine("task", "import", "q", name, *maps, "-p", "folder=INBOX", "-p", "n:=[1]")
    same = {"folder": "INBOX", "n": [1]}
    assert parameters(at) == [
        {"to": {"address": "m@example.com"}, "tries": 3, **same},
        {"to": {"address": "a@example.com"}, **same},
    ]


@on_sqlite
def test_a_schema_says_what_is_json_and_what_may_be_left_out(at: Terminal, plugin: Plugin) -> None:
    plugin("mail", "cat", parameters=SCHEMA)
    at.fine("queue", "create", "mail", "--class", "mail")
    at.fine("task", "import", "mail", write(at, "a.csv", "user,tries\n007,3\nann,\n"))
    assert parameters(at, "mail") == [{"user": "007", "tries": 3}, {"user": "ann"}]


def test_options_of_push_hold_for_all_rows(at: Terminal) -> None:
    name = write(at, "a.csv", "n\n1\n2\n")
    at.fine("task", "import", "q", name, "--priority", "7", "--delay", "1h", "--expires", "2d")
    for one in exported(at):
        assert (one["priority"], one["status"]) == (7, -4)
        assert one["not_before"] < one["expires"]
    at.fine("task", "import", "q", name, "--at", "2001-01-01T00:00:00Z")
    assert [one["status"] for one in exported(at)] == [-4, -4, -2, -2]


def test_a_unique_key_makes_no_task_while_another_one_has_not_ended(at: Terminal) -> None:
    name = write(at, "a.csv", "user,n\nmatt,1\nann,2\nmatt,3\n")
    command = ("task", "import", "q", name, "--unique-key-from", "user", "--map", "n=n")
    assert (
        without_batch(at.fine(*command).out)
        == "2 tasks created in queue q, 1 not created: an unfinished task has the unique key\n"
    )
    assert without_batch(at.fine(*command).out).startswith("0 tasks created in queue q, 3 not")
    assert [(one["unique_key"], one["parameters"]) for one in exported(at)] == [
        ("matt", {"n": "1"}),
        ("ann", {"n": "2"}),
    ]


def test_a_finished_import_may_be_made_again_and_makes_new_tasks(at: Terminal) -> None:
    name = write(at, "a.csv", "n\n1\n")
    ids = {at.fine("task", "import", "q", name, "--json").json[0]["import_id"] for _ in range(3)}
    assert len(ids) == 3 and {one["_id"] for one in exported(at)} == ids


BAD = 'user,tries\nmatt,1\nann\nbob,many\n,2\neve,-1\n"x"y,1\n\xff,3\nzoe,4\n'.encode("latin-1")
BAD_LINES = [3, 4, 5, 6, 7, 8]


@on_sqlite
def test_where_a_row_does_not_fit_nothing_is_created(at: Terminal, plugin: Plugin) -> None:
    plugin("mail", "cat", parameters=SCHEMA)
    at.fine("queue", "create", "mail", "--class", "mail")
    name = write(at, "bad.csv", BAD)
    result = at("task", "import", "mail", name, "--report", "faults.ndjson")
    assert result.code == 1 and result.out == ""
    lines = result.err.splitlines()
    assert [int(line.split(":")[1]) for line in lines[:-1]] == BAD_LINES
    assert lines[0] == "bad.csv:3: expected 2 fields, as the header has, found 1"
    assert lines[1].startswith("bad.csv:4: column 'tries': expected integer, found")
    assert lines[2].startswith("bad.csv:5: /user: must not be empty")
    assert lines[-1].startswith("disbatch-host: nothing is created: 6 of 8 rows do not fit")
    assert exported(at, "mail") == []
    report = [json.loads(line) for line in (at.directory / "faults.ndjson").read_text().splitlines()]
    assert [(one["file"], one["line"]) for one in report] == [("bad.csv", line) for line in BAD_LINES]
    assert all(one.keys() == {"file", "line", "reason", "row"} for one in report)
    (summary,) = at("task", "import", "mail", name, "--json").json
    assert (summary["created"], summary["faults"], summary["import_id"]) == (0, 6, None)


@on_sqlite
def test_with_skip_all_others_are_created(at: Terminal, plugin: Plugin) -> None:
    plugin("mail", "cat", parameters={**SCHEMA, "properties": {**SCHEMA["properties"], "password": {}}})
    at.fine("queue", "create", "mail", "--class", "mail")
    name = write(at, "bad.csv", BAD)
    result = at.fine("task", "import", "mail", name, "--on-error", "skip", "--report", "faults.ndjson")
    assert without_batch(result.out) == "2 tasks created in queue mail, 6 rows skipped\n"
    assert [one["user"] for one in parameters(at, "mail")] == ["matt", "zoe"]
    report = [json.loads(line) for line in (at.directory / "faults.ndjson").read_text().splitlines()]
    assert [one["line"] for one in report] == BAD_LINES
    assert report[0]["row"] == ["ann"] and report[1]["row"] == {"user": "bob", "tries": "many"}
    assert at.fine("task", "import", "mail", name, "--on-error", "skip", "--no-check", "--json").json[0]["created"] == 4


@on_sqlite
def test_stderr_shows_twenty_kinds_of_faults_and_the_report_all_rows(at: Terminal, plugin: Plugin) -> None:
    plugin("mail", "cat", parameters=SCHEMA)
    at.fine("queue", "create", "mail", "--class", "mail")
    rows = [{"user": "x", f"name_{chr(97 + kind // 5)}{chr(97 + kind % 5)}": 1} for kind in range(25)]
    name = write(at, "a.ndjson", "".join(json.dumps(row) + "\n" for row in rows * 2))
    result = at("task", "import", "mail", name)
    lines = result.err.splitlines()
    assert result.code == 1 and [line.split(":")[1] for line in lines[:20]] == [str(line) for line in range(1, 21)]
    assert all("(2 rows, the first is line" in line for line in lines[:20])
    assert lines[20] == "... and 10 more (--report FILE writes all)"
    result = at("task", "import", "mail", name, "--report", "all.ndjson")
    assert result.err.splitlines()[20] == "... and 10 more (all are in all.ndjson)"
    assert len((at.directory / "all.ndjson").read_text().splitlines()) == 50


@on_sqlite
def test_one_fault_of_many_rows_is_one_line_with_the_map_to_try(at: Terminal, plugin: Plugin) -> None:
    """An import whose columns have other names used to say the same sentence twenty times, and not what to do."""
    plugin("photo", "cat", parameters={
        "type": "object", "required": ["file"],
        "properties": {"file": {"type": "string"}, "pages": {"type": "integer"}, "owner": {"type": "string"}},
    })  # fmt: skip
    at.fine("queue", "create", "photos", "--class", "photo")
    name = write(at, "photos.csv", "Owner,Photo file,Pages\n" + "matt,a.jpg,3\n" * 500)
    result = at("task", "import", "photos", name)
    assert result.code == 1 and result.err.splitlines() == [
        'photos.csv:2: expected "file", found nothing (500 rows, the first is line 2)',
        "--report FILE writes all",
        "the columns are 'Owner', 'Photo file', 'Pages'; plugin photo takes file, pages, owner: "
        "try --map 'Photo file=file' --map Pages=pages --map Owner=owner",
        "disbatch-host: nothing is created: 500 of 500 rows do not fit (--on-error skip creates the others)",
    ]
    maps = ("--map", "Photo file=file", "--map", "Pages=pages", "--map", "Owner=owner")
    at.fine("task", "import", "photos", name, *maps)
    assert parameters(at, "photos")[0] == {"file": "a.jpg", "pages": 3, "owner": "matt"}
    lines = "".join(f'{{"Photo": "a", "pages": {number}}}\n' for number in range(30))
    said = at("task", "import", "photos", write(at, "p.ndjson", lines)).err
    assert "(30 rows, the first is line 1)" in said and "the columns are 'Photo', 'pages'" in said
    values = "".join(f"x,{number}a\n" for number in range(40))
    said = at("task", "import", "photos", write(at, "v.csv", "file,pages\n" + values)).err
    assert said.startswith("v.csv:2: column 'pages': expected integer, found '0a' (40 rows, the first is line 2)\n")
    assert "--map" not in said


def test_a_delimiter_that_is_not_a_comma_is_recognized_and_said(at: Terminal) -> None:
    """A file as a German or French spreadsheet writes it used to become tasks with one parameter "name;zip"."""
    for number, (content, words) in enumerate(
        [
            ("name;zip\r\nAnn;01067\r\nBob, jr.;99084\r\n", "';'"),
            ("name\tzip\nAnn\t01067\nBob, jr.\t99084\n", "a tab"),
            ("name|zip\nAnn|01067\nBob, jr.|99084\n", "'|'"),
            ("sep=;\r\nname;zip\r\nAnn;01067\r\nBob, jr.;99084\r\n", "';'"),
            ('\ufeff"name";"zip"\r\n"Ann";"01067"\r\n"Bob, jr.";"99084"\r\n', "';'"),
        ]
    ):
        queue = f"q{number}"
        at.fine("queue", "create", queue, "--class", "nobody")
        result = at.fine("task", "import", queue, write(at, "a.csv", content))
        assert result.err == f"a.csv: {words} is taken as the delimiter of the fields (--delimiter names another one)\n"
        assert parameters(at, queue) == [{"name": "Ann", "zip": "01067"}, {"name": "Bob, jr.", "zip": "99084"}]


@on_sqlite
def test_a_named_delimiter_wins_and_a_comma_is_not_said(at: Terminal) -> None:
    name = write(at, "a.csv", "name;zip\nAnn;01067\n")
    assert at.fine("task", "import", "q", name, "--delimiter", ",").err == ""
    assert at.fine("task", "import", "q", write(at, "b.csv", "sep=;\na;b\n1;2\n"), "--delimiter", ";").err == ""
    assert at.fine("task", "import", "q", write(at, "c.csv", 'a,"b;c;d"\n1,"x;y;z"\n')).err == ""
    assert at.fine("task", "import", "q", write(at, "d.csv", "a|b\nonly one\ncolumn\n")).err == ""
    assert at.fine("task", "import", "q", write(at, "e.tsv", "a\tb\n1\t2\n")).err == ""
    assert "';' is taken" in at.fine("task", "import", "q", write(at, "f.tsv", "a;b\n1;2\n")).err
    assert parameters(at) == [
        {"name;zip": "Ann;01067"}, {"a": "1", "b": "2"}, {"a": "1", "b;c;d": "x;y;z"}, {"a|b": "only one"},
        {"a|b": "column"}, {"a": "1", "b": "2"}, {"a": "1", "b": "2"},
    ]  # fmt: skip


def test_rows_and_columns_of_nothing_are_passed_over_and_counted(at: Terminal) -> None:
    content = "name,zip,,\r\nAnn,01067,,\r\n,,,\r\n,,\r\nBob,99084,,\r\n,,,\r\n"
    result = at.fine("task", "import", "q", write(at, "a.csv", content))
    assert without_batch(result.out) == "2 tasks created in queue q, 3 empty rows passed over\n"
    assert result.err == "a.csv: its last 2 columns have no name and no place in the tasks\n"
    assert parameters(at) == [{"name": "Ann", "zip": "01067"}, {"name": "Bob", "zip": "99084"}]
    summary = at.fine("task", "import", "q", "a.csv", "--json").json[0]
    assert (summary["rows"], summary["created"], summary["empty"]) == (2, 2, 3)
    assert "2 of 2 rows fit, 3 empty rows passed over;" in at.fine("task", "import", "q", "a.csv", "--dry-run").out
    refused = at("task", "import", "q", write(at, "b.csv", "name,\nAnn,x\n"))
    assert refused.code == 1 and "b.csv:2: expected 1 field, as the header has, found a value in a" in refused.err


@on_sqlite
def test_utf_16_without_a_mark_is_refused_with_what_converts_it(at: Terminal) -> None:
    for name, content in (("a.csv", "naïve,b\r\nü,2\r\n"), ("a.ndjson", '{"a": 1}\n')):
        for encoding in ("utf-16-le", "utf-16-be"):
            line = at.refused(2, "task", "import", "q", write(at, name, content.encode(encoding)))
            assert f"found UTF-16; `iconv -f UTF-16{encoding[-2:].upper()} -t UTF-8` converts it" in line
    assert "found a NUL in one" in at.refused(
        2, "task", "import", "q", write(at, "b.csv", b"a\0" + b"x" * 200 + b",b\n")
    )


PYDANTIC = {
    "type": "object",
    "required": ["user", "tries", "kind"],
    "properties": {
        "user": {"type": "string"},
        "tries": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "limit": {"anyOf": [{"type": "number"}, {"type": "null"}], "default": None},
        "kind": {"$ref": "#/$defs/Kind"},
        "five": {"const": 5},
        "all": {"allOf": [{"type": "integer"}, {"minimum": 1}]},
        "mode": {"oneOf": [{"type": "integer"}, {"const": "auto"}]},
        "live": {"type": "boolean"},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "to": {"anyOf": [{"$ref": "#/$defs/To"}, {"type": "null"}]},
    },
    "$defs": {"Kind": {"enum": [1, 2]}, "To": {"type": "object", "properties": {"floor": {"type": "integer"}}}},
}


def test_types_are_seen_through_what_combines_and_lists_them(at: Terminal, plugin: Plugin) -> None:
    """pydantic writes Optional[int] as an anyOf, and no row of a file could fill it."""
    plugin("p", "cat", parameters=PYDANTIC)
    at.fine("queue", "create", "p", "--class", "p")
    rows = "user,tries,kind,five,all,mode,live,limit,note\n007,3,1,5,7,auto,TRUE,1.5,5\nbob,,2,,,3,false,,\n"
    at.fine("task", "import", "p", write(at, "u.csv", rows))
    assert parameters(at, "p") == [
        {"user": "007", "tries": 3, "kind": 1, "five": 5, "all": 7, "mode": "auto", "live": True, "limit": 1.5,
         "note": "5"},
        {"user": "bob", "tries": None, "kind": 2, "mode": 3, "live": False},
    ]  # fmt: skip
    maps = [word for one in ("u=user", "t=tries", "k=kind", "f=to.floor") for word in ("--map", one)]
    at.fine("task", "import", "p", write(at, "v.csv", "u,t,k,f\nann,1,2,4\n"), *maps)
    assert parameters(at, "p")[-1] == {"user": "ann", "tries": 1, "kind": 2, "to": {"floor": 4}}
    said = at("task", "import", "p", write(at, "w.csv", "user,tries,kind,live\nann,x,1,yes\n")).err
    assert "column 'tries': expected integer or null, found 'x'" in said


def test_a_line_that_no_store_can_hold_is_refused_alone(at: Terminal) -> None:
    deep = '{"a":' * 1000 + "1" + "}" * 1000
    lines = [
        '{"n": 1}',
        deep,
        '{"a": 1, "a": 2}',
        '{"b": {"c": 1, "c": "x:y"}}',
        '{"a\\u0000": 1}',
        '{"n": "a:\\u0000"}',
    ]
    result = at.fine("task", "import", "q", write(at, "a.ndjson", "\n".join(lines)), "--on-error", "skip")
    assert result.err.splitlines() == [
        "a.ndjson:2: the line: expected at most 90 nested levels, found more",
        "a.ndjson:3: the line: the name 'a' occurs twice in one object; remove one of them",
        "a.ndjson:4: the line: the name 'c' occurs twice in one object; remove one of them",
        "a.ndjson:5: the line: expected names without a NUL character, found one with it",
    ]
    assert parameters(at) == [{"n": 1}, {"n": "a:\0"}]
    pushed = at("task", "push", "q", "-", stdin=f'{{"n": 3}}\n{deep}\n{{"n": 4}}\n')
    assert pushed.code == 2 and "line 2: expected at most 90 nested levels" in pushed.err
    assert "1 task from the lines before it was created" in pushed.err


@on_sqlite
def test_no_secret_is_in_what_is_said_of_rows(at: Terminal, plugin: Plugin) -> None:
    plugin("mail", "cat", parameters=SCHEMA)
    at.fine("queue", "create", "mail", "--class", "mail")
    rows = "user,tries,pw\nmatt,x,s3cret\nann,1\nbob,-1,s3cret\n"
    maps = ("--map", "user=user", "--map", "tries=tries", "--map", "pw=password")
    result = at("task", "import", "mail", write(at, "a.csv", rows), *maps, "--report", "r")
    assert result.code == 1
    report = (at.directory / "r").read_text()
    assert "s3cret" not in result.err + report and "********" in report
    name = write(at, "a.ndjson", '{"user": "matt", "tries": -1, "password": "s3cret"}\n{"password": "s3cret", }\n')
    result = at("task", "import", "mail", name, "--report", "r")
    assert result.code == 1 and "s3cret" not in result.err + (at.directory / "r").read_text()
    shown = at.fine("task", "import", "mail", write(at, "b.csv", "user,password\nmatt,s3cret\n"), "--dry-run").out
    assert "s3cret" not in shown and "********" in shown
    at.fine("task", "import", "mail", "b.csv")
    assert "s3cret" not in at.fine("task", "export").out


@on_sqlite
def test_a_dry_run_shows_the_first_tasks_and_creates_nothing(at: Terminal) -> None:
    name = write(at, "a.csv", "n\n1\n2\n3\n4\n5,6\n")
    result = at("task", "import", "q", name, "--dry-run", "--map", "n:=n", "--unique-key-from", "n", "--priority", "3")
    assert result.code == 1 and "a.csv:6: expected 1 field, as the header has, found 2" in result.err
    lines = result.out.splitlines()
    assert lines[0].startswith("4 of 5 rows fit; nothing is created")
    tasks = [json.loads(line) for line in lines[1:]]
    assert [one["parameters"] for one in tasks] == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert (tasks[0]["unique_key"], tasks[0]["priority"]) == ("1", 3)
    (document,) = at.fine("task", "import", "q", name, "--dry-run", "--on-error", "skip", "--json").json
    assert (document["rows"], document["fit"], document["faults"], len(document["tasks"])) == (5, 4, 1, 3)
    assert exported(at) == []


MANY = 3 * BATCH_ROWS + 500


def many_rows(terminal: Terminal, count: int = MANY) -> str:
    rows = "".join(f"{number},{'x' * 20}\n" for number in range(count))
    return write(terminal, "many.csv", f"n,text\n{rows}")


def start(terminal: Terminal, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [str(PROGRAM), "task", "import", *arguments], cwd=terminal.directory, env=terminal.environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def start_held(terminal: Terminal, *arguments: str, at: tuple[str, int] = ("together", 1)) -> subprocess.Popen[bytes]:
    """A command that has stopped itself, if nothing else is said once it has committed its first batch."""
    return held_command.start_held(
        *at, "task", "import", *arguments, directory=terminal.directory, environment=terminal.environment
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def count_of(store: Store) -> int:
    return store.count_tasks(TaskFilter(queue="q"))


def all_numbers(store: Store) -> list[int]:
    return [int(one.parameters["n"]) for one in store.find_tasks(TaskFilter(queue="q"), with_output=False)]


def test_after_a_kill_the_same_command_goes_on_and_no_task_is_twice_or_missing(
    at: Terminal, store: Store, store_url: str
) -> None:
    """The first kill comes after a batch, the second one in the middle of the next: on MongoDB its tasks are there, and
    the record does not say so yet."""
    name = many_rows(at)
    kill(start_held(at, "q", name))
    assert count_of(store) == BATCH_ROWS
    kill(start_held(at, "q", name, at=("insert_tasks", 1)))
    assert count_of(store) == BATCH_ROWS * (2 if store_url.startswith("mongodb") else 1)
    result = at.fine("task", "import", "q", name)
    assert re.search(rf"resuming the import that was begun at .*: {BATCH_ROWS} rows done so far", result.err)
    assert without_batch(result.out) == f"{MANY} tasks created in queue q\n"
    assert all_numbers(store) == list(range(MANY))
    ids = [one.id for one in store.find_tasks(TaskFilter(queue="q"), with_output=False)]
    assert ids == sorted(ids)


@pytest.mark.soak
def test_after_kills_at_any_moment_no_task_is_twice_or_missing(at: Terminal, store: Store) -> None:
    count = 60_000
    name = many_rows(at, count)
    for _ in range(3):
        before = count_of(store)
        process = start(at, "q", name)
        wait_until(lambda before=before: count_of(store) > before, 60, "nothing more is created")
        kill(process)
        assert process.returncode == -signal.SIGKILL, "it has ended before it was killed"
    at.fine("task", "import", "q", name)
    assert all_numbers(store) == list(range(count))


def test_ctrl_c_says_how_far_it_was_and_the_same_command_goes_on(at: Terminal, store: Store) -> None:
    name = many_rows(at)
    process = start_held(at, "q", name)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"")
    assert f"interrupted; {BATCH_ROWS} tasks created so far; the same command resumes it".encode() in err
    (summary,) = at.fine("task", "import", "q", name, "--json").json
    assert (summary["resumed"], summary["created"]) == (True, MANY)
    assert all_numbers(store) == list(range(MANY))


@on_sqlite
def test_a_file_that_somebody_writes_to_meanwhile_is_not_imported_further(at: Terminal, store: Store) -> None:
    process = start_held(at, "q", many_rows(at))
    with (at.directory / "many.csv").open("a") as file:
        file.write("more,more\n")
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, b"")
    assert b"many.csv changed while it was being imported; " in err
    assert count_of(store) == BATCH_ROWS


def test_going_on_keeps_what_was_meant_when_it_was_begun(at: Terminal, store: Store) -> None:
    command = ("q", many_rows(at), "--delay", "1h", "--on-error", "skip")
    kill(start_held(at, *command))
    at.fine("task", "import", *command)
    found = [one.document["not_before"] for one in store.find_tasks(TaskFilter(queue="q"), with_output=False)]
    assert len(found) == MANY and len(set(found)) == 1


def test_other_options_and_new_begin_another_import(at: Terminal, store: Store) -> None:
    name = many_rows(at)
    kill(start_held(at, "q", name))
    (other,) = at.fine("task", "import", "q", name, "-p", "x=1", "--json").json
    assert (other["created"], other["resumed"]) == (MANY, False)
    (anew,) = at.fine("task", "import", "q", name, "--new", "--json").json
    assert (anew["created"], anew["resumed"]) == (MANY, False)
    assert count_of(store) == BATCH_ROWS + 2 * MANY


def test_stdin_goes_on_as_well_and_tells_all_rows_that_were_skipped(at: Terminal, store: Store) -> None:
    rows = "".join(f'{{"n": {number}}}\n' for number in range(MANY))
    name = write(at, "many.ndjson", f'{{"n": 1}}]\n{rows}')
    kill(start_held(at, "q", name, "--on-error", "skip"))
    done = shell(at, "sh", f"cat {name} | '{PROGRAM}' task import q - --on-error skip --json")
    summary = json.loads(done.stdout)
    assert (summary["resumed"], summary["created"], summary["skipped"]) == (True, MANY, 1)
    assert "stdin:1: " in done.stderr
    assert all_numbers(store) == list(range(MANY))


def test_two_that_import_the_same_at_once_make_each_task_once(at: Terminal, store: Store) -> None:
    name = many_rows(at)
    both = [start_held(at, "q", name) for _ in range(2)]
    for process in both:
        process.send_signal(signal.SIGCONT)
    for process in both:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, (out, err)
    assert sorted(all_numbers(store)) == list(range(MANY))


# On MongoDB also between what is one commit on SQLite: a process that is stopped there holds its lock.
HELD = [
    pytest.param("sqlite", "together"),
    pytest.param("mongodb", "together", marks=pytest.mark.mongodb),
    pytest.param("mongodb", "insert_tasks", marks=pytest.mark.mongodb),
]


@pytest.mark.parametrize(("store_url", "held_after"), HELD, indirect=["store_url"])
def test_a_second_one_takes_over_while_the_first_is_at_it(at: Terminal, store: Store, held_after: str) -> None:
    name = many_rows(at)
    first = start_held(at, "q", name, at=(held_after, 2))
    assert count_of(store) == 2 * BATCH_ROWS
    try:
        result = at.fine("task", "import", "q", name)
    finally:
        first.send_signal(signal.SIGCONT)
    out, err = first.communicate(timeout=120)
    assert first.returncode == 0, (out, err)
    assert "resuming the import" in result.err
    assert b"another process imported the same rows" in err
    assert all_numbers(store) == list(range(MANY))
    assert at.fine("task", "import", "q", name, "--json").json[0]["resumed"] is False


# The interpreter with click, orjson and sqlite3 or pymongo takes 25 to 45 MB; a batch (2,000 rows or 4 MiB) 15 more.
# All rows of this test would be 80 MB, or more than 200 MB for ten times as many that are shorter.
MEMORY_MAX = 90 * 2**20
SIZES = [(20_000, 2000), pytest.param(200_000, 90, marks=pytest.mark.soak)]


@pytest.mark.parametrize(("count", "width"), SIZES)
def test_many_rows_take_no_more_memory_than_a_batch(at: Terminal, store: Store, count: int, width: int) -> None:
    with (at.directory / "long.csv").open("w") as file:
        file.write("n,a,b\n")
        file.writelines(f"{number},{'x' * width},{'y' * width}\n" for number in range(count))
    process = start(at, "q", "long.csv", "--json")
    peaks = [0]

    def has_ended() -> bool:
        peaks.append(peak_memory(process.pid))  # 0 for a zombie
        return process.poll() is not None

    wait_until(has_ended, 100, "it does not end")
    assert process.stdout is not None
    assert json.loads(process.stdout.read())["created"] == count
    process.communicate()
    assert 10 * 2**20 < max(peaks) < MEMORY_MAX
    assert count_of(store) == count


def test_documents_of_a_collection_become_tasks(at: Terminal, store_url: str) -> None:
    if store_url.startswith("sqlite"):
        line = at.refused(3, "task", "import", "q", "--from-collection", "users", "--map", "a=b")
        assert "collection" in line
        return
    client: Any = pymongo.MongoClient(store_url)
    users = client.get_default_database()["users"]
    users.insert_many([{"name": f"u{n}", "to": {"mail": f"u{n}@example.com"}, "n": n} for n in range(10)])
    owner = users.find_one({"n": 9})["_id"]
    users.update_one({"n": 9}, {"$set": {"owner": owner, "at": datetime(2026, 1, 2)}})
    chosen = ("task", "import", "q", "--from-collection", "users", "--filter", '{"n": {"$gte": 8}}')
    at.fine(
        *chosen, "--map", "to.mail=user", "--map", "owner=o.id", "--map", "at=at", "-p", "nr=document.n", "-p", "x=y"
    )
    assert parameters(at) == [
        {"user": "u8@example.com", "nr": 8, "x": "y"},
        {"user": "u9@example.com", "o": {"id": str(owner)}, "at": "2026-01-02T00:00:00.000Z", "nr": 9, "x": "y"},
    ]
    command = (*chosen, "-p", "id=document._id", "--unique-key-from", "_id")
    assert without_batch(at.fine(*command).out) == "2 tasks created in queue q\n"
    assert without_batch(at.fine(*command).out).startswith("0 tasks created in queue q, 2 not")
    assert parameters(at)[-1] == {"id": str(owner)}
    by_id = ("--filter", json.dumps({"_id": {"$oid": str(owner)}}))
    assert at.fine("task", "import", "q", "--from-collection", "users", *by_id, "-p", "a=b").out.startswith("1 task ")
    assert "no row has 'mail'" in at.refused(2, *chosen, "--map", "mail=user")
    result = at("task", "import", "q", "--from-collection", "users", "--map", "n=n", "--unique-key-from", "owner")
    assert result.code == 1 and "collection users:1: expected a unique key in 'owner', found nothing" in result.err
    client.close()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "expected either a FILE ('-' for stdin) or --from-collection, found neither"),
        (("a.csv", "--from-collection", "c"), "found both"),
        (("gone.csv",), "file gone.csv cannot be read: No such file or directory"),
        (("plugins",), "file plugins cannot be read: Is a directory"),
        (("a.csv", "--map", "usr=x"), "no column 'usr' in the header; did you mean 'user'?"),
        (("a.csv", "--map", "user"), "--map: expected column=field"),
        (("a.csv", "--map", "user=x", "--map", "n=x"), "would become 'x'"),
        (("a.csv", "--unique-key-from", "m"), "--unique-key-from: no column 'm' in the header"),
        (("twice.csv",), "the header has more than one column 'a'"),
        (("empty.csv",), "expected a header line"),
        (("utf16.csv",), "found UTF-16"),
        (("a.csv", "--delimiter", "ab"), "--delimiter: expected one character"),
        (("a.txt",), "--format: expected csv or ndjson, since the format of a.txt is unclear"),
        (("-",), "--format: expected csv or ndjson, since the format of stdin is unclear"),
        (("a.ndjson", "--delimiter", ";"), "--delimiter: only CSV has one"),
        (("a.ndjson", "--map", "usr=x"), "no row has 'usr'"),
        (("a.csv", "--filter", "{}"), "--filter is for --from-collection"),
        (("a.csv", "-p", "x"), "expected -p key=value"),
        (("a.csv", "--on-error", "ignore"), "--on-error"),
        (("a.csv", "--format", "xml"), "--format"),
        (("a.csv", "--delay", "soon"), "--delay"),
        (("a.csv", "--at", "soon"), "--at"),
        (("a.csv", "--delay", "1s", "--at", "2099-01-01"), "--at"),
        (("a.csv", "--priority", "x"), "--priority"),
        (("a.csv", "--report", "no/where"), "report no/where cannot be written"),
        (("cut.csv.gz",), "cut.csv.gz: it cannot be read"),
        (("--from-collection", "c"), "expected --map or -p"),
        (("--from-collection", "c", "--map", "a=b", "--filter", "[]"), "--filter: expected a JSON object"),
        (("--from-collection", "c", "--map", "a=b", "--format", "csv"), "--format is for a file"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line_and_creates_nothing(
    terminal: Terminal, arguments: tuple[str, ...], expected: str
) -> None:
    terminal.fine("queue", "create", "q", "--class", "nobody")
    write(terminal, "a.csv", "user,n\nmatt,1\n")
    write(terminal, "a.txt", "user,n\nmatt,1\n")
    write(terminal, "a.ndjson", '{"user": "matt"}\n')
    write(terminal, "twice.csv", "a,a\n1,2\n")
    write(terminal, "empty.csv", "")
    write(terminal, "utf16.csv", "a,b\n1,2\n".encode("utf-16"))
    write(terminal, "cut.csv.gz", gzip.compress(b"a\n" + bytes(range(48, 58)) * 1000)[:30])
    assert expected in terminal.refused(2, "task", "import", "q", *arguments)
    assert terminal.fine("task", "list", "--json").out == ""


def test_a_queue_that_is_not_there_is_said_with_a_near_one(terminal: Terminal) -> None:
    terminal.fine("queue", "create", "mail", "--class", "nobody")
    write(terminal, "a.csv", "a\n1\n")
    assert "did you mean 'mail'?" in terminal.refused(4, "task", "import", "mial", "a.csv")
