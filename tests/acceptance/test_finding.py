"""Finding tasks at the terminal, on both stores: conditions, pages, columns, short ids; tables for a spreadsheet."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shlex
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from acceptance.conftest import Terminal
from disbatch_host.clock import SystemClock
from disbatch_host.documents.records import new_task
from disbatch_host.store.contract import Store

Plugin = Callable[..., Path]

USERS = ["matt", "ann", "bob", '=cmd|"/c calc"!A1', "-5", "01067", "+49 170", "line\nbreak\t", "größe", "nul\0"]
SCHEMA = {
    "type": "object",
    "required": ["user", "pin"],
    "properties": {"user": {"type": "string"}, "pin": {"type": "string", "writeOnly": True}, "n": {"type": "integer"}},
}


@pytest.fixture
def filled(on_store: Terminal, store: Store, plugin: Plugin) -> Terminal:
    """Ten ended tasks, of which two failed, one that runs and one of another queue, each second one."""
    plugin("mail", "cat >/dev/null", parameters=SCHEMA)
    on_store.fine("queue", "create", "mail", "--class", "mail")
    on_store.fine("queue", "create", "other", "--class", "nobody")
    now = SystemClock().now() - timedelta(seconds=100)

    def put(number: int, queue: str = "mail", **fields: Any) -> None:
        at = now + timedelta(seconds=number)
        store.insert_tasks([new_task(queue, fields.pop("parameters"), now=at, **fields)])

    for number, user in enumerate(USERS):
        run: dict[str, Any] = {"started": now, "seconds": 10.0 - number, "attempt": 1, "exit_code": 0}
        ended: dict[str, Any] = {"status": 1, "result": {"size": -number, "tags": ["a", user]}}
        if number in (1, 2):
            error = {"code": f"exit_{number}", "message": f"Disk FULL on host{number} {'x' * 300} because of {user}"}
            ended, run = {"status": 2, "error": error}, {**run, "exit_code": number}
        put(number, parameters={"user": user, "pin": "s3cret", "n": number}, node="n1", run=run, **ended)
    running = {"attempt": 1, "started": now, "token": "t", "node": "n1"}
    put(50, parameters={"user": "ann"}, status=0, node="n1", claim={"token": "t", "at": now}, run=running)
    put(51, "other", parameters={"path": "/x", "deep": {"a.b": [1, {"c": None}]}, "=1+1": True})
    return on_store


def users(terminal: Terminal, *arguments: str) -> list[Any]:
    found = terminal.fine("task", "list", *arguments, "--json").json
    return [one["parameters"].get("user", "other") for one in found]


def test_conditions_and_texts_of_errors_find_tasks(filled: Terminal) -> None:
    assert users(filled, "--where", "user=matt") == ["matt"]
    assert users(filled, "--where", "user=ann") == ["ann", "ann"]
    assert users(filled, "--where", "user=ann", "--where", ".status=2") == users(filled, "--grep", "disk full on host1")
    assert users(filled, "--where", "parameters.n=3") == users(filled, "--where", "result.size=-3") == [USERS[3]]
    assert users(filled, "--where", "result.tags=größe") == users(filled, "--where", "result.tags.1=größe") == ["größe"]
    assert users(filled, "--where", "n>=3") == users(filled, "--where", "result.size<=-3")
    assert USERS[3] in users(filled, "--where", "n>2") and USERS[3] not in users(filled, "--where", "n>3")
    both = ("--where", "user!=ann", "--where", "result.size!=0")
    assert users(filled, "--queue", "mail", *both) == [*USERS[:2:-1], "bob"]
    assert users(filled, "--where", r"deep.a\.b.0=1") == users(filled, "--where", r"\=1+1=true") == ["other"]
    assert users(filled, "--where", "n=3' OR 1=1", "--where", "user=x") == []
    assert users(filled, "--failed") == ["bob", "ann"] and users(filled, "--failed", "--grep", "EXIT_2") == ["bob"]
    assert users(filled, "--where", ".run.exit_code=2") == ["bob"]
    for wrong in ("user", "=x", ".=x", "..a=x", "!=x", ""):
        assert "--where: expected " in filled.refused(2, "task", "list", "--where", wrong)
    assert "--grep: expected a text" in filled.refused(2, "task", "list", "--grep", "")


def test_commands_that_take_a_selection_take_conditions(filled: Terminal) -> None:
    assert len(filled.fine("task", "export", "--where", "user=ann").json) == 2
    retried = filled.fine("task", "retry", "--failed", "--queue", "mail", "--grep", "host2", "--yes")
    assert retried.out == "1 task will be run again\n"
    assert users(filled, "--status", "created", "--queue", "mail") == ["bob"]
    cancelled = filled.fine("task", "cancel", "--queue", "mail", "--status", "created", "--where", "user!=matt")
    assert cancelled.out == "1 task cancelled\n"
    deleted = filled.fine("task", "delete", "--queue", "mail", "--status", "finished", "--where", "n=2", "--yes")
    assert deleted.out == "1 task deleted\n" and users(filled, "--where", "n=2") == []
    assert "--where" in filled.refused(2, "task", "cancel", "0" * 24, "--where", "n=2")


def test_the_last_line_is_the_command_for_the_next_page(filled: Terminal) -> None:
    everything = [one["_id"] for one in filled.fine("task", "list", "--json").json]
    found: list[str] = []
    command = ["disbatch-host", "task", "list", "--where", "user!=nobody's", "--limit", "5", "--columns", "task,user"]
    for count in (5, 5, 2):
        shown = filled.fine(*command[1:])
        lines = shown.out.splitlines()
        assert lines[0].split() == ["task", "user"]
        found += [line.split()[0] for line in lines[1:]]
        assert len(lines) == count + 1
        if shown.err:
            command = shlex.split(shown.err.strip().partition(", or: ")[2])
            assert command[-2] == "--cursor"
    assert shown.err == "" and found == everything
    page = filled.fine("task", "list", "--limit", "5", "--json")
    (end,) = [json.loads(line) for line in page.err.splitlines()]
    assert end == {"next": end["next"], "looked_at": 6, "is_cut": False, "looked_to": None}
    rest = filled.fine("task", "list", "--cursor", end["next"], "--json")
    assert [one["_id"] for one in rest.json] == everything[5:] and rest.err == ""
    assert "--cursor: expected one that a page" in filled.refused(2, "task", "list", "--cursor", "5")


def test_columns_tell_tasks_apart_and_nothing_is_cut_in_a_pipe(filled: Terminal) -> None:
    header, *rows = filled.fine("task", "list", "--queue", "mail").out.splitlines()
    assert header.split() == ["task", "queue", "status", "node", "created", "ran", "user", "exit", "error", "message"]
    assert "so far" in rows[0] and "s3cret" not in "".join(rows)
    failed = next(row for row in rows if "bob" in row)
    assert f" 2     exit_2  Disk FULL on host2 {'x' * 300} because of bob" in failed
    mixed = filled.fine("task", "list", "--limit", "2").out
    assert "parameters" in mixed.splitlines()[0] and "path=/x" in mixed and "user=ann" in mixed
    wide = filled.fine("task", "list", "--wide", "--failed").out.splitlines()
    assert "attempt" in wide[0] and "created_by" not in wide[0]
    shown = filled.fine("task", "list", "--columns", "status,user", "--columns", "result.tags,pin,run", "--limit", "3")
    assert [line.split() for line in shown.out.splitlines()] == [
        ["status", "user", "result.tags", "pin", "run"],
        ["created", "-", "-", "-", "-"],
        ["running", "ann", "-", "-", "-"],
        ["concluded", "nul�", r'["a","nul\u0000"]', "********", "-"],
    ]
    as_json = filled.fine("task", "list", "--columns", "user,n,pin,result.size,.node", "--where", "n=4", "--json").json
    assert as_json == [{"user": "-5", "n": 4, "pin": "********", "result.size": -4, ".node": "n1"}]
    typo = filled.fine("task", "list", "--columns", "stauts")
    assert typo.err.endswith("none of these has a parameter 'stauts'; did you mean 'status'?\n")
    for wrong_name, right in (("usr", "user"), ("USER", "user"), ("result.sizes", "result.size")):
        kind = wrong_name if "." in wrong_name else f"a parameter '{wrong_name}'"
        said = f"has {kind}; did you mean '{right}'?\n"
        of_mail = ("--queue", "mail", "--columns", f"task,{wrong_name}")
        assert filled.fine("task", "export", *of_mail, "--format", "csv").err == f"none of these {said}"
        assert filled.fine("task", "list", "--queue", "mail", "--where", f"{wrong_name}=x").err.endswith(said)
        assert filled.fine("task", "export", "--where", f"{wrong_name}=x").err.endswith(said)
    retried = filled.fine("task", "retry", "--failed", "--queue", "mail", "--where", "usr=x")
    assert retried.err.endswith("has a parameter 'usr'; did you mean 'user'?\n")
    assert filled.fine("task", "export", "--queue", "mail", "--columns", "zzz").err.startswith(
        "none of these has a parameter 'zzz'; there are "
    )
    assert filled.fine("task", "list", "--queue", "mail", "--where", "user=nobody", "--where", "usr!=x").err == ""
    for wrong in (("--columns", ","), ("--columns", "a,a"), ("--columns", ".."), ("--columns", "task", "--wide")):
        assert "columns" in filled.refused(2, "task", "list", *wrong)


def test_a_list_is_sorted_by_a_column_among_what_was_read(filled: Terminal) -> None:
    assert users(filled, "--sort", "ran", "--queue", "mail", "--limit", "3") == USERS[:-4:-1]
    assert users(filled, "--sort", "-result.size", "--limit", "2") == ["matt", USERS[3]]
    assert users(filled, "--sort", "n")[:3] == USERS[:3] and users(filled, "--sort", "-n")[:2] == USERS[:-3:-1]
    said = filled.fine("task", "list", "--sort", "user", "--limit", "2").err
    assert said == "the first 2 of 12; --limit shows more\n"
    assert "--sort: expected" in filled.refused(2, "task", "list", "--sort", "..")


def beginning_of(task_id: str, *, but: Sequence[str]) -> str:
    """The shortest beginning that none of the others has."""
    return next(task_id[:size] for size in range(6, 25) if not any(one.startswith(task_id[:size]) for one in but))


def test_an_id_may_be_short_and_the_last_task_is_named_by_a_word(filled: Terminal) -> None:
    ids = [one["_id"] for one in filled.fine("task", "list", "--json").json]
    assert "has created none there" in filled.refused(4, "task", "show", "@last")
    mine = filled.fine("task", "push", "other", "-p", "x=1").out.strip()
    (shown,) = filled.fine("task", "show", "@last", "--json").json
    assert shown["_id"] == mine and "@" in shown["created_by"]
    assert f"by {shown['created_by']}" in filled.fine("task", "show", "@last").out
    short = beginning_of(mine, but=ids)
    for words in (("show", short, "--json"), ("set", short, "priority=3", "--json"), ("why", short.upper(), "--json")):
        (document,) = filled.fine("task", *words).json
        assert document["_id"] == mine
    assert filled.fine("task", "output", short).out == ""
    after = filled.fine("task", "push", "other", "--after", short, "{}").out.strip()
    short = beginning_of(mine, but=[*ids, after])
    assert filled.fine("task", "cancel", short, "@last").out.splitlines() == [f"{mine} cancelled", f"{after} cancelled"]
    waited = filled("task", "wait", short, mine, "@last")
    assert (waited.code, waited.err.splitlines()[-1].partition(" in ")[0]) == (1, "2 ended")
    assert filled.fine("task", "delete", after[:-1], "--yes").out == f"{after} deleted\n"
    two = filled.refused(2, "task", "show", ids[-1][:6])
    assert ids[-1] in two and "write more of it" in two
    assert "no task 'ffffff'" in filled.refused(4, "task", "show", "ffffff")
    assert "no task 'abc'" in filled.refused(4, "task", "show", "abc")


def table(data: bytes, delimiter: str = ",") -> tuple[list[str], list[dict[str, str]]]:
    text = data.decode("utf-8-sig")
    header, *rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    assert all(len(row) == len(header) for row in rows)
    return header, [dict(zip(header, row, strict=True)) for row in rows]


def test_a_table_opens_in_a_spreadsheet_and_holds_everything_once(filled: Terminal) -> None:
    assert filled.fine("task", "export", "a.csv").out == "12 tasks written to a.csv\n"
    data = (filled.directory / "a.csv").read_bytes()
    assert data.startswith(b'\xef\xbb\xbf"task","queue",') and data.endswith(b"\r\n") and b"s3cret" not in data
    header, rows = table(data)
    assert header[-9:] == [
        "created_by",
        "parameters.user", "parameters.pin", "parameters.n", "parameters.path", r"parameters.deep.a\.b",
        r"parameters.\=1+1", "result.size", "result.tags",
    ]  # fmt: skip
    assert [row["parameters.user"] for row in rows] == [
        "matt", "ann", "bob", "'=cmd|\"/c calc\"!A1", "-5", "01067", "'+49 170", "line\nbreak\t", "größe", "nul�",
        "ann", "",
    ]  # fmt: skip
    assert b'"01067"' in data and b',-3,"[""a""' in data  # a text is in quotes, a number is not
    assert rows[2]["error"] == "exit_2" and rows[2]["exit"] == "2" and rows[2]["message"].endswith("because of bob")
    assert rows[-1][r"parameters.deep.a\.b"] == '[1,{"c":null}]' and rows[-1][r"parameters.\=1+1"] == "true"
    assert {row["parameters.pin"] for row in rows} == {"********", ""}
    assert not any(cell[:1] in "=+@\t\r" for row in rows for cell in row.values() if cell)
    assert [one.name for one in filled.directory.iterdir() if "part" in one.name] == []


def test_the_shape_of_an_export_is_that_of_its_name_or_what_is_asked_for(filled: Terminal) -> None:
    chosen = ("--columns", "user,result.size", "--queue", "mail")
    filled.fine("task", "export", "a.tsv", *chosen)
    filled.fine("task", "export", "a.csv.gz", *chosen, "--delimiter", ";")
    packed = gzip.decompress((filled.directory / "a.csv.gz").read_bytes())
    plain = (filled.directory / "a.tsv").read_bytes()
    assert table(plain, "\t") == table(packed, ";") and not plain.startswith(b"\xef")
    assert table(plain, "\t")[1][0] == {"user": "matt", "result.size": "0"}
    lines = filled.fine("task", "export", *chosen, "--where", "n=1").json
    assert lines == [{"user": "ann", "result.size": None}]
    piped = filled.fine("task", "export", "-", "--format", "csv", *chosen).out
    assert table(piped.encode())[1] == table(plain, "\t")[1]
    (summary,) = filled.fine("task", "export", "--json", "b.csv", "--failed").json
    assert summary == {"exported": 2, "file": "b.csv"}
    for words in (("x.xlsx",), ("x.ods.gz",), ("x.csv", "--with-output"), ("x.ndjson", "--delimiter", ";"),
                  ("x.csv", "--delimiter", "ab"), ("x.csv", "--delimiter", '"')):  # fmt: skip
        filled.refused(2, "task", "export", *words)
        assert not (filled.directory / words[0]).exists()


def test_a_table_can_be_imported_again(filled: Terminal) -> None:
    filled.fine("task", "export", "a.csv", "--columns", "user,n", "--where", "n=5")
    filled.fine("task", "import", "other", "a.csv")
    (task,) = filled.fine("task", "list", "--queue", "other", "--limit", "1", "--json").json
    assert task["parameters"]["user"] == "01067"


def test_the_line_at_the_end_of_what_the_api_sends_is_not_a_row(filled: Terminal) -> None:
    (filled.directory / "a.ndjson").write_text('{"x": 1}\n{"end": 1}\n{"end": 2}\n\n{"end": 3}\n')
    (filled.directory / "b.ndjson").write_text('{"x": 1}\n{"end": 2}\n')
    for name, count in (("a.ndjson", 3), ("b.ndjson", 2)):
        filled.fine("task", "import", "other", name)
        found = filled.fine("task", "list", "--queue", "other", "--limit", str(count), "--json").json
        rows = [json.loads(line) for line in (filled.directory / name).read_text().split("\n") if line][:count]
        assert [one["parameters"] for one in reversed(found)] == rows
