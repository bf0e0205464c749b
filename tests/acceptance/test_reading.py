"""Commands that only read: they make nothing, they read what may only be read, they say what is missing."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.conftest import Terminal

READING = [
    ["status"], ["queue", "list"], ["task", "list"], ["node", "list"], ["queue", "show", "q"], ["task", "show", "x"],
    ["task", "wait", "x"], ["task", "why", "x"], ["task", "output", "x"], ["node", "show", "n1"], ["task", "push", "q"],
    ["queue", "set", "q", "maxthreads=1"], ["queue", "delete", "q"],
]  # fmt: skip


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_a_slip_in_the_name_of_a_file_makes_no_store(terminal: Terminal, tmp_path: Path, command: list[str]) -> None:
    line = terminal.refused(3, *command, "--store", f"sqlite://{tmp_path}/no/such.db")
    assert f"{tmp_path}/no/such.db is not there" in line and "queue create" in line
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_the_default_store_that_is_not_there_yet_looks_empty(terminal: Terminal, command: list[str]) -> None:
    if command in READING[:4]:
        assert "does not exist yet, so it looks empty; use --store or DISBATCH_STORE" in terminal.fine(*command).err
        assert terminal.fine(*command, "--json").out == ""
    else:
        assert "no " in terminal.refused(4, *command)
    assert not (terminal.directory / ".local").exists()


def test_status_of_a_fresh_machine_says_what_to_do(terminal: Terminal) -> None:
    out = terminal.fine("status").out
    assert "no queues; `disbatch-host queue create ID --class CLASS` makes one" in out
    assert "no nodes; `disbatch-host --plugins ./plugins` runs one" in out
    assert "runs one" in terminal.fine("node", "list").out


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that everybody may look into."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


# The program, as a user without rights: where the tests run as root, permissions would not count, and another user may
# not even reach the interpreter, so all is imported first.
_AS_SOMEBODY = """
import os, jsonschema, referencing
from disbatch_host.cli import main
from disbatch_host.cli.commands import node, push, queue, show, status, task
from disbatch_host.documents import transitions
from disbatch_host.store import sqlite
from disbatch_protocol import manifest
if os.geteuid() == 0:
    os.setgid(65534), os.setuid(65534)
main.main()
"""


@pytest.mark.parametrize("has_journal", [False, True])
def test_a_file_that_may_only_be_read_is_read_and_not_changed(
    terminal: Terminal, shared: Path, has_journal: bool
) -> None:
    url = f"sqlite://{shared}/a.db"
    terminal.fine("queue", "create", "mail", "--class", "A", "--store", url)
    task_id = terminal.fine("task", "push", "mail", "--store", url).out.strip()
    held = sqlite3.connect(shared / "a.db")  # a journal is there as long as somebody has the file open
    if has_journal:
        held.execute("SELECT count(*) FROM tasks").fetchone()
    for file in shared.iterdir():
        file.chmod(0o444)

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", _AS_SOMEBODY, "--store", url, *command],
            capture_output=True, text=True, cwd=shared, check=False,
            env={**terminal.environment, "HOME": str(shared)},
        )  # fmt: skip

    shared.chmod(0o555)
    try:
        assert "mail" in run("status").stdout, run("status")
        assert task_id in run("task", "list").stdout
        assert task_id in run("task", "show", task_id).stdout
        refused = run("task", "push", "mail")
        assert refused.returncode == 3 and "is read-only; check permissions" in refused.stderr
        refused = run("queue", "create", "x", "--class", "A")
        assert refused.returncode == 3 and "check its permissions" in refused.stderr
    finally:
        shared.chmod(0o755)
        held.close()


def test_a_damaged_store_is_said_to_be_damaged(terminal: Terminal, tmp_path: Path) -> None:
    terminal.environment["DISBATCH_STORE"] = f"sqlite://{tmp_path}/a.db"
    terminal.fine("queue", "create", "q", "--class", "A")
    for _ in range(3):
        terminal.fine("task", "push", "q", "-", stdin='{"x": "%s"}\n' % ("y" * 2000) * 50)
    file = tmp_path / "a.db"
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = file.read_bytes()
    file.write_bytes(data[:8192] + b"\xff" * (len(data) - 8192))
    line = terminal.refused(3, "task", "list")
    assert "is damaged" in line and "put back a copy" in line and ".recover" in line


def test_queue_list_has_the_same_numbers_as_a_document(on_store: Terminal) -> None:
    on_store.fine("queue", "create", "q", "--class", "A")
    on_store.fine("task", "push", "q", "-", stdin="{}\n{}\n")
    (document,) = on_store.fine("queue", "list", "--json").json
    assert (document["waiting"], document["running"]) == (2, 0)
    assert re.search(r"^tasks +2 created$", on_store.fine("queue", "show", "q").out, re.MULTILINE)


def test_output_and_wait_give_documents_with_json(on_store: Terminal) -> None:
    on_store.fine("queue", "create", "q", "--class", "A")
    task_id = on_store.fine("task", "push", "q").out.strip()
    result = on_store("task", "wait", task_id, "--timeout", "0", "--json")
    assert (result.code, result.json) == (1, [{"_id": task_id, "status": -2, "status_name": "created"}])
    assert on_store.fine("task", "output", task_id, "--json").json == [{"_id": task_id, "stream": "stdout", "text": ""}]


def test_common_options_are_taken_between_the_words_of_a_command(terminal: Terminal, tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/other.db"
    terminal.fine("queue", "--store", url, "create", "a", "--class", "A")
    assert terminal.fine("queue", "--json", "list", "--store", url).json[0]["_id"] == "a"
    for name in ("one", "two"):
        home = tmp_path / name / name
        home.mkdir(parents=True)
        (home / "plugin.json").write_text('{"protocol": 1, "command": ["true"]}')
        for path in (home, home / "plugin.json"):
            path.chmod(path.stat().st_mode & ~0o022)
    listed = terminal.fine("--plugins", str(tmp_path / "one"), "plugins", "--plugins", str(tmp_path / "two"), "--json")
    assert {one["name"] for one in listed.json} == {"one", "two"}


@pytest.mark.parametrize("group", ["task", "queue", "node"])
def test_a_group_without_a_command_says_in_one_line_what_there_is(terminal: Terminal, group: str) -> None:
    line = terminal.refused(2, group)
    assert f"expected a command after 'disbatch-host {group}': one of" in line and "show" in line and len(line) < 180
