"""`task export`, as somebody types it, on both stores."""

from __future__ import annotations

import csv
import gzip
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from acceptance.conftest import PROGRAM, Terminal
from disbatch_host.clock import SystemClock
from disbatch_host.documents.records import new_task
from disbatch_host.store.contract import Store
from helpers.held_command import start_held
from helpers.processes import wait_until

Plugin = Callable[..., Path]


def numbers(documents: list[Any]) -> list[int]:
    return [one["parameters"]["n"] for one in documents]


def lines_of(terminal: Terminal, name: str) -> list[Any]:
    data = (terminal.directory / name).read_bytes()
    return [json.loads(line) for line in (gzip.decompress(data) if name.endswith(".gz") else data).splitlines()]


@pytest.fixture
def filled(on_store: Terminal, plugin: Plugin) -> Terminal:
    """Ten tasks of queue good, concluded, with output; ten of queue bad, failed; one that waits."""
    plugin("good", 'read -r line; echo "out ä $line"; echo err >&2')
    plugin("bad", "exit 4")
    for name in ("good", "bad"):
        on_store.fine("queue", "create", name, "--class", name)
        lines = "".join(f'{{"n": {number}}}\n' for number in range(10))
        on_store.fine("task", "push", name, "-", stdin=lines)
    on_store.fine("--until-idle")
    on_store.fine("queue", "create", "idle", "--class", "nobody")
    on_store.fine("task", "push", "idle", "-p", "n=99")
    return on_store


def test_whole_documents_come_out_in_the_order_of_their_creation(filled: Terminal) -> None:
    found = filled.fine("task", "export").json
    assert numbers(found) == [*range(10), *range(10), 99]
    assert found == filled.fine("task", "export", "-").json
    first = found[0]
    assert (first["queue"], first["status"], first["run"]["exit_code"], first["stderr"]) == ("good", 1, 0, "err\n")
    assert first["stdout"].startswith("out ä {")
    (shown,) = filled.fine("task", "show", first["_id"], "--json").json
    assert shown == first


def test_filters_narrow_what_is_exported(filled: Terminal) -> None:
    assert numbers(filled.fine("task", "export", "--queue", "good").json) == list(range(10))
    assert {one["queue"] for one in filled.fine("task", "export", "--status", "failed").json} == {"bad"}
    assert len(filled.fine("task", "export", "--since", "1h").json) == 21
    assert filled.fine("task", "export", "--before", "1h").out == ""
    assert filled.fine("task", "export", "--since", "2001-01-01", "--before", "2001-01-02").out == ""
    assert len(filled.fine("task", "export", "--queue", "bad", "--status", "-2", "--status", "2").json) == 10


def test_with_output_changes_nothing_where_all_of_it_is_in_the_document(filled: Terminal) -> None:
    plain, whole = filled.fine("task", "export").json, filled.fine("task", "export", "--with-output").json
    assert plain == whole


def test_a_file_is_said_and_complete_and_may_be_packed(filled: Terminal) -> None:
    expected = filled.fine("task", "export", "--queue", "good").json
    assert filled.fine("task", "export", "--queue", "good", "a.ndjson").out == "10 tasks written to a.ndjson\n"
    (summary,) = filled.fine("task", "export", "--queue", "good", "a.ndjson.gz", "--json").json
    assert summary == {"exported": 10, "file": "a.ndjson.gz"}
    assert lines_of(filled, "a.ndjson") == lines_of(filled, "a.ndjson.gz") == expected
    assert [one.name for one in filled.directory.iterdir() if "part" in one.name] == []


def test_what_was_exported_can_be_imported_again(filled: Terminal) -> None:
    filled.fine("task", "export", "--queue", "good", "a.ndjson")
    filled.fine("task", "import", "idle", "a.ndjson", "--map", "parameters.n=n")
    assert numbers(filled.fine("task", "export", "--queue", "idle").json) == [99, *range(10)]


def test_secrets_are_masked(on_store: Terminal, plugin: Plugin) -> None:
    properties = {"user": {"type": "string"}, "password": {"type": "string", "writeOnly": True}}
    plugin("login", "cat >/dev/null", parameters={"type": "object", "properties": properties})
    on_store.fine("queue", "create", "q", "--class", "login")
    on_store.fine("task", "push", "q", "-p", "user=matt", "-p", "password=s3cret")
    for more in ((), ("--with-output",)):
        (document,) = on_store.fine("task", "export", *more).json
        assert document["parameters"] == {"user": "matt", "password": "********"}


def test_output_beyond_the_document_comes_out_whole(on_store: Terminal, plugin: Plugin) -> None:
    plugin(
        "big",
        "head -c 3000001 /dev/zero | tr '\\0' x; printf 'ä\"\\\\\\001'; head -c 2000000 /dev/zero | tr '\\0' e >&2",
    )
    on_store.fine("queue", "create", "q", "--class", "big")
    on_store.fine("task", "push", "q", "-", stdin="{}\n{}\n")
    on_store.fine("--until-idle")
    for document in on_store.fine("task", "export", "--with-output").json:
        assert document["stdout"] == "x" * 3_000_001 + 'ä"\\\x01'
        assert document["stderr"] == "e" * 2_000_000
        assert list(document).count("stdout") == 1
    (first, _) = on_store.fine("task", "export").json
    assert first["stdout"] == "x" * 2**20 and first["run"]["output"]["stdout"]["in_file"]


# An interpreter with our libraries takes 25 to 45 MB. In hand at once are at most 16 MiB of output of documents (and a
# task that goes beyond), as they come from the store, as text, and as JSON: some 80 MB. All of the output would be
# 160 MB as it is stored, and as much again as text.
MEMORY_MAX_KB = 170_000


def test_much_output_is_exported_in_bounded_memory(on_store: Terminal, store: Store) -> None:
    store.insert_queue({"_id": "q", "class": "nobody"})
    now = SystemClock().now()
    text = "x" * 2**20
    facts = {"bytes": 2**20, "in_file": False}
    run = {"token": "t", "output": {"stdout": facts, "stderr": facts}}
    for number in range(80):
        store.insert_tasks(
            [{**new_task("q", {"n": number}, now=now), "status": 1, "run": run, "stdout": text, "stderr": text}]
        )
    command = [str(PROGRAM), "task", "export", "--with-output", "big.ndjson"]
    process = subprocess.Popen(command, cwd=on_store.directory, env=on_store.environment, stdout=subprocess.DEVNULL)
    status, peak = Path(f"/proc/{process.pid}/status"), 0

    def has_ended() -> bool:
        nonlocal peak
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())  # gone for a zombie
        peak = max(peak, int(found[1]) if found else 0)
        return process.poll() is not None

    wait_until(has_ended, 120, "the export does not end")
    assert process.returncode == 0
    assert (on_store.directory / "big.ndjson").stat().st_size > 160 * 2**20
    assert 10_000 < peak < MEMORY_MAX_KB


def test_an_export_that_is_killed_leaves_the_file_as_it_was(on_store: Terminal, store: Store) -> None:
    on_store.fine("queue", "create", "q", "--class", "nobody")
    (on_store.directory / "a.ndjson").write_text("before\n")
    now = SystemClock().now()
    store.insert_tasks([new_task("q", {"text": "x" * 1000}, now=now) for _ in range(2000)])
    process = start_held(
        "find_tasks", 1500, "task", "export", "a.ndjson",
        directory=on_store.directory, environment=on_store.environment,
    )  # fmt: skip
    (part,) = on_store.directory.glob(".a.ndjson.*.part")
    assert part.stat().st_size > 0
    process.kill()
    process.communicate(timeout=30)
    assert (on_store.directory / "a.ndjson").read_text() == "before\n"
    on_store.fine("task", "export", "a.ndjson")
    assert len(lines_of(on_store, "a.ndjson")) == 2000


@pytest.mark.parametrize(
    ("code", "arguments", "expected"),
    [
        (2, ("--status", "done"), "--status"),
        (2, ("--since", "yesterday-ish"), "--since"),
        (2, ("--before", "soon"), "--before"),
        (2, ("plugins",), "found a directory: plugins"),
        (4, ("--queue", "mial"), "did you mean 'mail'?"),
        (1, ("no/where.ndjson",), "file no/where.ndjson cannot be written: No such file or directory"),
    ],
)
def test_wrong_use_is_one_line(terminal: Terminal, code: int, arguments: tuple[str, ...], expected: str) -> None:
    terminal.fine("queue", "create", "mail", "--class", "nobody")
    assert expected in terminal.refused(code, "task", "export", *arguments)


def test_whoever_reads_the_output_may_have_enough(filled: Terminal) -> None:
    command = f"'{PROGRAM}' task export | head -n 1"
    done = subprocess.run(
        ["sh", "-c", command], cwd=filled.directory, env=filled.environment, capture_output=True, check=True
    )
    assert json.loads(done.stdout)["parameters"] == {"n": 0} and done.stderr == b""


def test_ids_that_a_task_waits_for_are_texts_on_both_stores(on_store: Terminal) -> None:
    on_store.fine("queue", "create", "q", "--class", "nowhere")
    first = on_store.fine("task", "push", "q").out.strip()
    second = on_store.fine("task", "push", "q", "--after", first).out.strip()
    for command in (("task", "export"), ("task", "list", "--json"), ("task", "show", second, "--json")):
        documents = [json.loads(line) for line in on_store.fine(*command).out.splitlines()]
        (after,) = [one["after"] for one in documents if one["_id"] == second]
        assert after == [first]


def test_of_a_batch_what_failed_is_a_table_with_the_reasons(filled: Terminal) -> None:
    mixed = '{"n": 1}\n{"n": 2}\n'
    for name in ("good", "bad"):
        filled.fine("task", "push", name, "-", "--batch", "march", stdin=mixed)
    filled.fine("--until-idle")
    said = filled.fine("batch", "export", "march", "failed.csv", "--failed").out
    assert said == "2 tasks written to failed.csv\n"
    found = list(csv.DictReader((filled.directory / "failed.csv").read_text("utf-8-sig").splitlines()))
    assert [(one["queue"], one["status"], one["error"], one["parameters.n"]) for one in found] == [
        ("bad", "failed", "exit_4", "1"), ("bad", "failed", "exit_4", "2"),
    ]  # fmt: skip
    assert all(one["message"] for one in found)
    assert numbers(filled.fine("batch", "export", "march", "--where", "n=2", "--queue", "good").json) == [2]
    assert len(filled.fine("batch", "export", "march").json) == 4
    assert "both" in filled.refused(2, "batch", "export", "march", "--failed", "--status", "failed")
    assert "--batch" in filled.refused(2, "batch", "export", "march", "--batch", "april")
