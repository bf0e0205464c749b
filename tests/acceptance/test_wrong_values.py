"""Values that nobody can use are refused where they are typed, alike on both stores; and what cannot be written."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from acceptance.conftest import PROGRAM, Terminal
from helpers.stores import on_sqlite

Plugin = Callable[..., Path]


@pytest.mark.parametrize("number", ["9223372036854775808", "-9223372036854775809", "12345678901234567890123"])
def test_whole_numbers_beyond_64_bits_are_refused_everywhere(on_store: Terminal, number: str) -> None:
    on_store.fine("queue", "create", "q", "--class", "A")
    (on_store.directory / "file").write_text(f'{{"a": [{number}]}}')
    for pair in (f"n={number}", f"n:={number}", "n=@file", f'n={{"deep": [1, {number}]}}'):
        assert "expected whole numbers of at most 64 bits" in on_store.refused(2, "task", "push", "q", "-p", pair)
    assert "at most 64 bits" in on_store.refused(2, "task", "push", "q", f'{{"n": {number}}}')
    line = on_store.refused(2, "task", "push", "q", "-", stdin=f'\n{{"n": {number}}}\n')
    assert line.startswith("disbatch-host: line 2: expected whole numbers") and number not in line
    assert on_store.fine("task", "list", "--json").out == ""


def test_the_largest_whole_numbers_and_long_texts_of_digits_are_kept(on_store: Terminal) -> None:
    on_store.fine("queue", "create", "q", "--class", "A")
    line = '{"a": 9223372036854775807, "b": -9223372036854775808, "c": "12345678901234567890123", "d": 1e30}'
    (document,) = on_store.fine("task", "push", "q", line, "--json").json
    assert document["parameters"] == json.loads(line)
    assert on_store.fine("task", "list", "--json").json[0]["parameters"] == json.loads(line)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["queue", "create", "a\nb", "--class", "A"], "expected an id for the queue without control characters"),
        (["queue", "create", "a\x1b[2J", "--class", "A"], "without control characters"),
        (["queue", "create", "", "--class", "A"], "found an empty text"),
        (["queue", "create", "x", "--class", "not a class!"], "expected a class, the name of a plugin"),
        (["queue", "create", "x", "--class", "A", "--pin", "bad-node"], "--pin: expected node ids of 1 to 8 char"),
        (["queue", "create", "x", "--class", "A", "--ignore", "toolong99"], "--ignore: expected node ids"),
        (["queue", "create", "x", "--class", "A", "--maxthreads", "99999999999999999999"], "is not in the range"),
        (["queue", "set", "q", 'nodes_pin=["a"]'], "nodes_pin: expected node ids"),
        (["queue", "set", "q", "class=no class"], "expected a class"),
        (["queue", "set", "q", "maxthreads=99999999999999999999"], "expected a whole number from 0 to 2147483647"),
        (["queue", "set", "q", "maxthreads=²"], "expected a whole number from 0"),
        (["task", "push", "q", "-p", "=5"], "no name before it"),
        (["task", "push", "q", "-p", "k=@"], "expected the name of a file after '@'"),
        (["--store", "", "status"], "--store: expected URL, found an empty text"),
        (["demo", "--store", "sqlite:///x.db"], "leave out --store"),
    ],
)
def test_what_cannot_be_is_refused(terminal: Terminal, arguments: list[str], said: str) -> None:
    terminal.fine("queue", "create", "q", "--class", "A")
    assert said in terminal.refused(2, *arguments)
    assert len(terminal.fine("queue", "list", "--json").json) == 1


@pytest.mark.parametrize("queue_id", ["0123456789abcdef01234567", "Füße & mehr", "a/b:c", "'x'"])
def test_any_printable_id_is_an_id(on_store: Terminal, queue_id: str) -> None:
    on_store.fine("queue", "create", queue_id, "--class", "Mail::Move")
    task_id = on_store.fine("task", "push", queue_id).out.strip()
    assert on_store.fine("task", "show", task_id, "--json").json[0]["queue"] == queue_id


@pytest.mark.parametrize(
    "command", [["task", "push", "q", "-p", "a=\udcff"], ["task", "show", "\udcff"], ["exec", "x", "-p", "a=\udcff"]]
)
@on_sqlite
def test_bytes_that_are_no_utf_8_are_wrong_use(on_store: Terminal, command: list[str]) -> None:
    assert "expected arguments in UTF-8, found byte 0xff" in on_store.refused(2, *command)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"node-id": "a", "node_id": "b"}', ["/node_id: expected once, found 2 times"]),
        ('{"store": "x", "store": "y"}', ["/store: expected once, found 2 times"]),
        ("[]", [": expected a JSON object, found an empty list"]),
        ('{"max-total": 0, "heartbeat": "often", "dead-after": 0}', ["/max_total: ", "/heartbeat: ", "/dead_after: "]),
        ('{"force": true}', ['unknown key "force", give --force on the command line']),
        ('{"log-levle": "info"}', ['did you mean "log_level"?']),
    ],
)
def test_every_fault_of_a_configuration_file_is_said_at_once(
    terminal: Terminal, tmp_path: Path, content: str, said: list[str]
) -> None:
    config = tmp_path / "host.json"
    config.write_text(content)
    line = terminal.refused(2, "status", "--config", str(config))
    assert all(one in line for one in said), line


def test_the_options_of_a_node_are_taken_from_a_file_in_both_spellings(terminal: Terminal, tmp_path: Path) -> None:
    config = tmp_path / "host.json"
    config.write_text(
        '{"node-id": "fromfile", "max-total": 3, "max": 2, "until_idle": true, "stop-grace": "1s", "log_level": "info"}'
    )
    assert "node fromfile runs on" in terminal.fine("--config", str(config)).err


def shell(terminal: Terminal, text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", text.replace("disbatch-host", str(PROGRAM))],
        capture_output=True, text=True, cwd=terminal.directory, env=terminal.environment, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("where", [">/dev/full", ">&-"])
def test_output_that_cannot_be_written_is_said_in_one_line(terminal: Terminal, plugin: Plugin, where: str) -> None:
    plugin("hello", "echo Hello; sleep 60")
    terminal.fine("queue", "create", "q", "--class", "hello")
    for command in ("status", "task push q", "task list --json", "queue list", "check", "--version", "exec hello"):
        done = shell(terminal, f"disbatch-host {command} {where}")
        assert done.returncode == 1, (command, done)
        assert done.stderr.count("\n") == 1 and "the output cannot be written: " in done.stderr, (command, done)
    assert "the task was created nevertheless" in shell(terminal, f"disbatch-host task push q {where}").stderr


@pytest.mark.parametrize("where", [">&-", "2>&-", "2>/dev/full", ">&- 2>&- <&-"])
def test_a_node_does_its_work_without_its_streams(terminal: Terminal, plugin: Plugin, where: str) -> None:
    plugin("hello", "echo Hello")
    terminal.fine("queue", "create", "q", "--class", "hello")
    task_id = terminal.fine("task", "push", "q").out.strip()
    done = shell(terminal, f"disbatch-host --until-idle {where}")
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (0, "", False), done
    assert terminal.fine("task", "output", task_id).out == "Hello\n"


def test_a_plugin_whose_output_nobody_reads_is_stopped(terminal: Terminal, plugin: Plugin) -> None:
    plugin("endless", "exec yes")
    done = shell(terminal, "disbatch-host exec endless | head -n 1")
    assert (done.stdout, done.stderr) == ("y\n", "")


@on_sqlite
def test_lines_become_tasks_as_they_come(on_store: Terminal) -> None:
    on_store.fine("queue", "create", "q", "--class", "A")
    push = subprocess.Popen(
        [str(PROGRAM), "task", "push", "q", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=on_store.directory, env={**on_store.environment, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert push.stdin is not None and push.stdout is not None
    push.stdin.write('{"n": 1}\n{"n": ')
    push.stdin.flush()
    assert len(push.stdout.readline().strip()) == 24  # while the source is still open
    push.stdin.write("2}")
    push.stdin.close()
    assert len(push.stdout.readline().strip()) == 24
    assert push.wait(30) == 0
    assert len(on_store.fine("task", "list", "--json").json) == 2
