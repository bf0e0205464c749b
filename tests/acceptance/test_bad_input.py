"""Everything that people get wrong: one clear line, the documented exit code, nothing lost, no traceback."""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from acceptance.conftest import PROGRAM, Terminal
from disbatch_host.errors import UsageError
from disbatch_host.settings.forms import make_node_id
from disbatch_host.store.open import open_store
from disbatch_host.store.url import redact

Plugin = Callable[..., Path]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://x", "expected sqlite:///path/to/file.db or mongodb://host/database, found the store 'mysql://x'"),
        ("queue.db", "/home/queue.db"),
        ("sqlite://queue.db", "three slashes, then the path"),
        ("sqlite:/x/y.db", "for this file write sqlite:///x/y.db"),
        ("", "expected URL, found an empty text"),
        ("sqlite:///", "three slashes, then the path"),
        ("mongodb://", "expected mongodb://host/database"),
        ("mongodb://user:s3cret@host:port/x", "found mongodb://user:***@host:port/x"),
        ("mongodb://us:er:s3cret@host/x", "***"),
    ],
)
def test_a_wrong_store_url(terminal: Terminal, url: str, said: str) -> None:
    line = terminal.refused(2, "status", "--store", url)
    assert said in line and "s3cret" not in line


@pytest.mark.parametrize(
    "url",
    ["mongodb://u:s3cret@h/db", "mongodb://u:s3/cr@et@h/db", "mongodb+srv://u:s3cret@h", "mongodb://u:s3c?ret@h/?a=b"],
)
def test_no_password_is_shown_whatever_is_in_it(url: str) -> None:
    shown = redact(url)
    assert shown.partition("://")[2].startswith("u:***@h")
    assert not any(part in shown for part in ("s3", "cret", "cr@et"))


@pytest.fixture
def deaf_server() -> Iterator[int]:
    """A port where something listens and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_an_unreachable_mongodb_is_said_within_five_seconds(terminal: Terminal, deaf_server: int) -> None:
    node = subprocess.Popen(  # it waits as long: beside the others
        [str(PROGRAM), "--store", "mongodb://127.0.0.1:1/x"], cwd=terminal.directory, env=terminal.environment,
        text=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    for port in (1, deaf_server):
        began = time.monotonic()
        line = terminal.refused(3, "status", "--store", f"mongodb://me:s3cret@127.0.0.1:{port}/x")
        assert time.monotonic() - began < 5
        assert f"mongodb://me:***@127.0.0.1:{port}/x cannot be reached" in line and "s3cret" not in line
    _, line = node.communicate(timeout=30)
    assert node.returncode == 3 and "cannot be reached" in line and line.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"stor": "x"}', '/stor: unknown key "stor", did you mean "store"?'),
        ('{"max": 0}', "/max: expected a whole number of 1 or more, found the number 0"),
        ('{"max": ', "is not JSON"),
        ("[]", "expected a JSON object, found an empty list"),
        ('{"heartbeat": "often"}', "/heartbeat: expected seconds or a duration"),
        ('{"node_id": "far too long"}', "/node_id: expected a node id"),
    ],
)
def test_a_wrong_configuration_file(terminal: Terminal, tmp_path: Path, content: str, said: str) -> None:
    config = tmp_path / "host.json"
    config.write_text(content)
    assert said in terminal.refused(2, "status", "--config", str(config))


def test_a_configuration_file_that_is_not_there(terminal: Terminal) -> None:
    assert "/no/such.json cannot be read" in terminal.refused(2, "status", "--config", "/no/such.json")


def test_things_that_are_not_there(on_store: Terminal) -> None:
    on_store.fine("queue", "create", "mail", "--class", "Mail")
    assert "did you mean 'mail'" in on_store.refused(4, "task", "push", "mial", "{}")
    assert "no task" in on_store.refused(4, "task", "show", "0123456789abcdef01234567")
    assert "no task" in on_store.refused(4, "task", "output", "x")
    assert "no task" in on_store.refused(4, "task", "wait", "x")
    assert "no node 'n9'" in on_store.refused(4, "node", "show", "n9")
    assert "no queue" in on_store.refused(4, "queue", "set", "x", "maxthreads=1")
    assert "no plugin 'x'" in on_store.refused(4, "exec", "x")


def test_a_queue_id_that_exists(on_store: Terminal) -> None:
    on_store.fine("queue", "create", "q", "--class", "A", "--maxthreads", "3")
    assert "queue 'q' exists already" in on_store.refused(2, "queue", "create", "q", "--class", "B")
    assert on_store.fine("queue", "show", "q", "--json").json[0]["class"] == "A"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["[1]"], "expected a JSON object of parameters, found a list"),
        (["{"], "the parameters: not valid JSON"),
        (['{"n": NaN}'], "not valid JSON"),
        (["-p", "novalue"], "found no '='"),
        (["-p", "x:={"], "-p x: not valid JSON"),
        (["-p", "x=@/no/such/file"], "file /no/such/file cannot be read"),
        (["-", "-p", "x=1"], "expected either '-' or -p"),
        (['{"user": 5}'], "/user: expected a string, found the number 5"),
        (["{}"], 'expected "user", found nothing'),
        (['{"user": "x", "usr": 1}'], 'unknown "usr"; did you mean "user"?'),
    ],
)
def test_parameters_that_do_not_fit(terminal: Terminal, plugin: Plugin, arguments: list[str], said: str) -> None:
    properties = {"user": {"type": "string"}}
    schema = {"type": "object", "required": ["user"], "properties": properties, "additionalProperties": False}
    plugin("mail", "cat", parameters=schema)
    terminal.fine("queue", "create", "q", "--class", "mail")
    assert said in terminal.refused(2, "task", "push", "q", *arguments)
    assert terminal.fine("task", "list", "--json").out == ""


def test_parameters_that_are_too_large(terminal: Terminal, tmp_path: Path) -> None:
    terminal.fine("queue", "create", "q", "--class", "A")
    large = json.dumps({"x": "y" * (9 * 2**20)}) + "\n"
    assert "expected parameters of at most 8388608 bytes" in terminal.refused(2, "task", "push", "q", "-", stdin=large)


def test_a_plugin_directory_that_is_not_there(terminal: Terminal) -> None:
    assert "plugin directory /no/such is not there" in terminal.refused(2, "--plugins", "/no/such")
    assert "found a file" in terminal.refused(2, "--plugins", "/etc/passwd")
    (terminal.directory / "plugins").rmdir()
    assert "make it or name another" in terminal.refused(2, "--until-idle")
    terminal.fine("queue", "create", "q", "--class", "A")
    terminal.fine("task", "push", "q", "{}")  # the default directory is not needed to create tasks


@pytest.mark.parametrize("node_id", ["", "9n", "toolongid", "ümlaut", "a-b"])
def test_a_malformed_node_id(terminal: Terminal, node_id: str) -> None:
    assert "expected a node id of 1 to 8 characters" in terminal.refused(2, f"--node-id={node_id}")


@pytest.mark.parametrize(
    ("host", "node_id"),
    [
        ("db", "db"),
        ("mailserver042.example.com", "mailse042"[:5] + "042"),
        ("10-0-0-7", "n10007"),
        ("", "n"),
        ("ü", "n"),
    ],
)
def test_a_node_id_is_made_from_any_host_name(host: str, node_id: str) -> None:
    assert make_node_id(host) == node_id


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nonsense"], "No such option '--nonsense'"),
        (["quue"], "no command 'quue'; did you mean 'queue'?"),
        (["task", "psh"], "no command 'psh' after 'disbatch-host task'; did you mean 'push'?"),
        (["node", "frobnicate"], "no command 'frobnicate' after 'disbatch-host node'; one of delete, drain, list,"),
        (["queue", "purge"], "no command 'purge' after 'disbatch-host queue'; did you mean 'task delete'?"),
        (["batch", "rm", "x"], "no command 'rm' after 'disbatch-host batch'; did you mean 'delete'?"),
        (["queue", "ls"], "did you mean 'list'?"),
        (["task", "tail"], "did you mean 'output'?"),
        (["queue", "logs"], "did you mean 'task output'?"),
        (["push", "mail", "{}"], "no command 'push'; did you mean 'task push'?"),
        (["run"], "no command 'run'; a node is run without a command: `disbatch-host --plugins DIR`"),
        (["logs", "x"], "no command 'logs'; did you mean 'task output'?"),
        (["task", "list", "mail"], "found mail as well; did you mean '--queue mail'?"),
        (["task", "list", "--statsu", "failed"], "No such option '--statsu'; did you mean '--status'?"),
        (["task", "list", "--status", "fail"], "found 'fail'; did you mean 'failed'?"),
        (["queue", "create", "q"], "--class: expected CLASS, found nothing"),
        (["queue", "create", "--class", "A"], "expected ID after 'disbatch-host queue create', found nothing"),
        (["queue", "create", "q", "r", "--class", "A"], "expected only ID after 'disbatch-host queue create'"),
        (["queue", "create", "q", "--class", "A", "--maxthreads", "many"],
         "--maxthreads: expected a whole number from 0 to 2147483647, found 'many' (see 'disbatch-host queue"),
        (["queue", "create", "q", "--class", "A", "--sort", "lofi"],
         "--sort: expected one of fifo, lifo, found 'lofi'"),
        (["task", "list", "--limit", "0"], "--limit: expected a whole number of 1 or more, found '0'"),
        (["task", "list", "--limit", "2.5"], "--limit: expected a whole number of 1 or more, found '2.5'"),
        (["task", "push", "q", "--priority", "high"], "--priority: expected a whole number from -2147483647 to "),
        (["task", "import", "q", "f", "--priority"],
         "--priority: expected a value after it, found nothing (see 'disbatch-host task import --help')"),
        (["status", "--watch=1"], "--watch: expected no value after it, found one; write --watch alone (see"),
        (["new", "x"], "expected one of --lang (bash, sh, python, perl, node, go), --command"),
        (["completion"], "expected SHELL, one of bash, zsh, fish after 'disbatch-host completion', found nothing"),
        (["check", "--junit", "."], "--junit: expected the path of a file, found the directory '.'"),
        (["--max", "all"], "--max: expected a whole number of 1 or more, found 'all' (see 'disbatch-host --help')"),
        (["--log-level", "wrning"],
         "--log-level: expected one of debug, info, warning, error, found 'wrning'; did you mean"),
        (["task", "list", "--status", "faild"], "expected one of"),
        (["task", "wait", "x", "--timeout", "soon"], "--timeout: expected seconds or a duration"),
        (["--heartbeat", "0"], "--heartbeat: expected more than 0 seconds"),
        (["--max", "3", "status"], "--max is for running a node"),
        (["--json"], "--json is for commands that read"),
    ],
)  # fmt: skip
def test_wrong_use(terminal: Terminal, arguments: list[str], said: str) -> None:
    assert said in terminal.refused(2, *arguments)


def test_sqlite_files_that_are_none(terminal: Terminal, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"no database\n" * 1000)
    assert "is not a database" in terminal.refused(3, "status", "--store", f"sqlite://{garbage}")
    assert garbage.read_bytes() == b"no database\n" * 1000
    assert "Is a directory" in terminal.refused(3, "status", "--store", f"sqlite://{tmp_path}")
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE accounts (id)")
    assert "some other program" in terminal.refused(3, "status", "--store", f"sqlite://{foreign}")
    with sqlite3.connect(foreign) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("accounts",)]


def test_a_place_where_no_file_can_be_made(terminal: Terminal) -> None:
    for path, hint in (("/proc/x/y.db", "name another file"), ("/etc/passwd/x.db", "a part of its path is a file")):
        line = terminal.refused(3, "queue", "create", "q", "--class", "A", "--store", f"sqlite://{path}")
        assert f"sqlite://{path} cannot be opened" in line and hint in line


@pytest.mark.own_database
def test_a_database_that_is_newer_than_the_program(on_store: Terminal, store_url: str) -> None:
    from contract.test_store import plant_layout_version

    on_store.fine("queue", "create", "q", "--class", "A")
    plant_layout_version(store_url, 99)
    assert "install a newer disbatch-host" in on_store.refused(3, "status")
    assert "install a newer disbatch-host" in on_store.refused(3, "--until-idle")


def test_a_sqlite_file_is_private(terminal: Terminal) -> None:
    terminal.fine("queue", "create", "q", "--class", "A")
    file = terminal.directory / ".local/state/disbatch/disbatch.db"
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_a_task_that_is_pushed_is_there_whatever_happens_next(terminal: Terminal) -> None:
    terminal.fine("queue", "create", "q", "--class", "A")
    ids = terminal.fine("task", "push", "q", "-", stdin="{}\n" * 10).out.split()
    assert len(terminal.fine("task", "list", "--json").json) == len(ids) == 10


def test_opening_a_store_needs_no_driver_of_the_other(terminal: Terminal) -> None:
    import subprocess
    import sys

    program = "import sys; from disbatch_host.cli.main import _run; _run(['status']); print('pymongo' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=terminal.environment, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"
    with pytest.raises(UsageError):
        open_store("", None)  # type: ignore[arg-type]


def test_rows_that_cannot_be_read_cost_only_themselves(terminal: Terminal, plugin: Plugin, tmp_path: Path) -> None:
    """One such row ended the node, which orphaned what it ran; `status` and `task show` ended in a traceback."""
    file = tmp_path / "tasks.db"
    terminal.environment["DISBATCH_STORE"] = f"sqlite://{file}"
    plugin("Works", "echo fine")
    terminal.fine("queue", "create", "good", "--class", "Works")
    damaged, behind = (terminal.fine("task", "push", "good", "{}").out.strip() for _ in range(2))
    with sqlite3.connect(file) as by_hand:
        by_hand.execute("""INSERT INTO queues VALUES ('bare', '{"class": "Works"}'), ('bad', 'oops'), ('list', '[]')""")
        by_hand.execute("""INSERT INTO tasks (id, queue, rest) VALUES ('on-bare', 'bare', '{"_id": "zz"}')""")
        by_hand.execute("UPDATE tasks SET parameters = '{s3cret' WHERE id = ?", (damaged,))
    node = terminal.fine("--until-idle")
    assert node.err.count(f"task {damaged} of queue good is not claimed") == 1 and "s3cret" not in node.err
    for task in (behind, "on-bare"):
        assert terminal.fine("task", "show", task, "--json").json[0]["status"] == 1
    assert 'the column "parameters" of its row cannot be read' in terminal.fine("task", "show", damaged).out
    (document,) = terminal.fine("task", "show", damaged, "--json").json
    assert (document["status"], document["node"], document["parameters"]) == (-2, -1, None)
    assert '"parameters"' in document["fault"]
    assert "damaged" in terminal.fine("task", "list").out
    assert "its document cannot be read" in terminal.fine("status").out
    assert "its document cannot be read" in terminal.fine("queue", "show", "bad").out
    assert "cannot be changed" in terminal.refused(3, "queue", "set", "bad", "maxthreads=1")
