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
        (["queue", "create", "x", "--class", "A", "--maxthreads", "99999999999999999999"], "expected a whole number"),
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


def test_a_text_stays_a_text_where_a_number_would_not_come_back_as_typed(on_store: Terminal) -> None:
    """`-p sha=1234e56` used to become 1.234e+59, and `-p version=1.10` the number 1.1, without a word."""
    on_store.fine("queue", "create", "q", "--class", "nobody")
    texts = [
        "1234e56",
        "0e12345",
        "1.10",
        "20161115.10",
        "01067",
        "+5",
        "1_000",
        "-0",
        "1e400",
        "1e3",
        "123456789012345678.5",
    ]
    same = {"5": 5, "-7": -7, "1.5": 1.5, "true": True, "null": None, "[1.10]": [1.1], '"5"': "5", "x": "x", "": ""}
    for text in texts:
        assert on_store.fine("task", "push", "q", "-p", f"v={text}", "--json").json[0]["parameters"] == {"v": text}
    for text, value in same.items():
        assert on_store.fine("task", "push", "q", "-p", f"v={text}", "--json").json[0]["parameters"] == {"v": value}
    assert on_store.fine("task", "push", "q", "-p", "v:=1.10", "--json").json[0]["parameters"] == {"v": 1.1}


def test_p_and_the_column_of_a_file_are_read_by_the_schema_alike(on_store: Terminal, plugin: Plugin) -> None:
    """`-p name=5` was refused where an import took the same text, since -p did not look at the schema."""
    maybe = {"anyOf": [{"type": "integer"}, {"type": "null"}]}
    types = {
        "text": {"type": "string"}, "number": {"type": "number"}, "maybe": maybe,
        "flag": {"type": "boolean"}, "either": {"type": ["integer", "string"]}, "list": {"type": "array"},
        "mode": {"enum": ["auto", "off", 1]}, "word": {"enum": ["1.10", "x"]}, "opt": {"type": ["string", "null"]},
    }  # fmt: skip
    plugin("p", "cat", parameters={"type": "object", "properties": types})
    on_store.fine("queue", "create", "q", "--class", "p")
    typed = {
        "text": ("90210", "90210"), "number": ("1.10", 1.1), "maybe": ("3", 3), "flag": ("TRUE", True),
        "either": ("5", "5"), "list": ("[1]", [1]), "mode": ("1", 1), "word": ("1.10", "1.10"), "opt": ("null", "null"),
    }  # fmt: skip
    for name, (text, value) in typed.items():
        (pushed,) = on_store.fine("task", "push", "q", "-p", f"{name}={text}", "--json").json
        assert pushed["parameters"] == {name: value}
        (on_store.directory / "a.csv").write_text(f"{name}\n{text}\n")
        imported = on_store.fine("task", "import", "q", "a.csv", "--dry-run").out.splitlines()[-1]
        assert json.loads(imported)["parameters"] == {name: value}
    assert json.loads(on_store.fine("exec", "p", "-p", "text=007").out)["parameters"] == {"text": "007"}
    assert "expected true or false" in on_store.refused(2, "task", "push", "q", "-p", "flag=yes")


def test_a_pair_without_p_is_told_what_was_meant(terminal: Terminal, plugin: Plugin) -> None:
    plugin("p", "cat", parameters={"properties": {"pin": {"type": "string", "writeOnly": True}}})
    terminal.fine("queue", "create", "q", "--class", "p")
    for command in (["task", "push", "q"], ["exec", "p"]):
        assert "did you mean -p name=Matt?" in terminal.refused(2, *command, "name=Matt")
        assert "did you mean -p 'name=Matt B' -p n:=5?" in terminal.refused(2, *command, "name=Matt B", "n:=5")
        assert "0815" not in terminal.refused(2, *command, "pin=0815")
        assert "found 2 arguments; put it in single quotes" in terminal.refused(2, *command, "{a:", "1}")
        assert terminal.fine(*command, '{"a": "b=c"}').code == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "a": 2}', "the name 'a' occurs twice in one object"),
        ('{"b": [{"a": 1, "a": "x:"}]}', "the name 'a' occurs twice in one object"),
        (r'{"a\\": 1, "a\\": 2}', "occurs twice in one object"),
        (r'{"a\u0000b": 1}', "expected names without a NUL character"),
        ('{"a":' * 300 + "1" + "}" * 300, "expected at most 90 nested levels, found more"),
        ('{"a":' * 1000 + "1" + "}" * 1000, "expected at most 90 nested levels, found more"),
        ("[" * 2000, "not valid JSON"),
    ],
)
def test_json_that_a_store_would_not_keep_as_it_is_is_refused(on_store: Terminal, text: str, said: str) -> None:
    """A name twice used to lose the first value, one with NUL was refused by MongoDB only, and of 1,000 levels it was
    said that they are a defect."""
    on_store.fine("queue", "create", "q", "--class", "nobody")
    for arguments in ([text], ["-p", f"v:={text}"]):
        assert said in on_store.refused(2, "task", "push", "q", *arguments)
    fits = r'{"a": "x\u0000 \" : y", "b": {"a": "1:2"}, "a:": {"a": [{}, {"c": "d"}]}, "\\": ":"}'
    (pushed,) = on_store.fine("task", "push", "q", fits, "--json").json
    assert pushed["parameters"] == json.loads(fits)


def test_a_date_in_the_year_9999_is_shown_by_every_command(on_store: Terminal) -> None:
    on_store.fine("queue", "create", "q", "--class", "nobody")
    for zone in ("Europe/Berlin", "America/New_York", "Pacific/Kiritimati"):
        on_store.environment["TZ"] = zone
        for option in ("--at", "--expires"):
            task_id = on_store.fine("task", "push", "q", option, "9999-12-31T23:59:59Z").out.strip()
            assert "9999-12-31" in on_store.fine("task", "show", task_id).out
            assert "9999-12-31T23:59:59.000Z" in on_store.fine("task", "show", task_id, "--json").out
            assert ("9999-12-31" in on_store.fine("task", "why", task_id).out) is (option == "--at")
        old = on_store.fine("task", "push", "q", "--at", "0001-01-02T00:00:00Z").out.strip()
        since, before = ("--since", "0001-01-02"), ("--before", "9999-12-31T23:59:59Z")
        for command in (["show", old], ["list", *since], ["list", *before], ["export"]):
            on_store.fine("task", *command)
        for command in (["status"], ["queue", "show", "q"], ["queue", "list"]):
            on_store.fine(*command)


def test_a_time_that_the_clocks_skip_starts_no_task_before_it(on_store: Terminal) -> None:
    on_store.fine("queue", "create", "q", "--class", "nobody")
    for zone, typed, meant in (
        ("Europe/Berlin", "2027-03-28 02:30", "2027-03-28T01:30:00.000Z"),
        ("America/New_York", "2027-03-14 02:00", "2027-03-14T07:00:00.000Z"),
    ):
        on_store.environment["TZ"] = zone
        for option, field in (("--at", "not_before"), ("--expires", "expires")):
            (pushed,) = on_store.fine("task", "push", "q", option, typed, "--json").json
            assert pushed[field] == meant
