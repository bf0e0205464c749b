"""Text that somebody else has written, in every field of every document, and what each command then writes to a
terminal: no byte that does something to it, but this program's own styles."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from acceptance.conftest import PROGRAM, Terminal
from acceptance.test_help import LEAVES
from client.documents import put_node
from disbatch_host.documents.records import new_task
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status
from helpers import in_process
from helpers.nodes import write_plugin

# A title, the clipboard, C1's own CSI, DEL, directions, a return, a backspace, a blink, a line separator.
TYPED = "x\x1b]0;owned\x07\x1b]52;c;AA==\x07\x9b2J\x7f\u202e\u2066\ry\x08\x1b[5;7mz\u2028\x1b[2J"
HOSTILE = f"{TYPED}\x00"
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u206f]")
# This program's own styles, and what rich draws a bar with: it hides the cursor, and clears the lines of the bar.
OWN = re.compile(r"\x1b\[([012]|([012];)?[39][0-7]|38;5;[0-9]+)m|\x1b\[\?25[hl]|\r?(\x1b\[1A)?\x1b\[2K")
# What rich draws with: it shows and hides the cursor, moves it in its own display, and clears lines of it.
DRAWN = re.compile(r"\x1b\[\?(25|1049)[hl]|\x1b\[[0-9;]*[ABHKJm]")


def on_terminal(terminal: Terminal, *arguments: str, keys: bytes = b"", after: bytes = b"") -> str:
    """What a command writes to a terminal, as it is; `keys` are pressed as soon as it has written `after`."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
    environment = {name: value for name, value in terminal.environment.items() if name != "COLUMNS"} | {"TERM": "xterm"}
    with ThreadPoolExecutor(1) as threads:
        if keys or terminal.needs_process(arguments):
            process = subprocess.Popen(
                [str(PROGRAM), *arguments], cwd=terminal.directory, stdin=slave, stdout=slave, stderr=slave,
                env=environment,
            )  # fmt: skip
            os.close(slave)
            shown = threads.submit(shown_on, master, keys, after)
            process.wait(60)
        else:
            shown = threads.submit(shown_on, master, keys, after)
            in_process.run_on_terminal(arguments, slave, directory=terminal.directory, environment=environment)
            os.close(slave)
        text = shown.result().decode()
    os.close(master)
    assert "Traceback" not in text and "this is a bug" not in text, (arguments, text)
    return text.replace("\r\n", "\n")


def shown_on(master: int, keys: bytes, after: bytes) -> bytes:
    shown = b""
    with contextlib.suppress(OSError):  # as Linux says that the other end is closed
        while block := os.read(master, 65536):
            shown += block
            if keys and after in shown:
                os.write(master, keys)
            elif not keys and block.rstrip().endswith(b"]:"):  # a question is answered with no
                os.write(master, b"n\n")
    return shown


def forbidden_in(text: str, allowed: re.Pattern[str] = OWN) -> list[str]:
    left = allowed.sub("", text)
    return [repr(left[max(0, one.start() - 30) : one.end() + 20]) for one in FORBIDDEN.finditer(left)] + (
        ["a carriage return"] if "\r" in left else []
    )


@pytest.fixture
def hostile(on_store: Terminal, store: Store) -> Callable[[str], str]:
    """Documents of a hostile queue, its tasks and a node; the id of the task in each status."""
    now = store.now()
    store.insert_queue({"_id": TYPED, "class": "Odd", "ctime": now, "description": HOSTILE, "paused": {
        "by": HOSTILE, "why": HOSTILE, "at": now}})  # fmt: skip
    store.insert_batch({
        "_id": TYPED, "state": HOSTILE, "by": HOSTILE, "ctime": now, "on_done": {"queue": HOSTILE, "task": HOSTILE},
        "source": {"kind": HOSTILE, "name": HOSTILE, "queue": HOSTILE},
        "summary": {"total": 3, "failed": HOSTILE, "causes": [{"text": HOSTILE, "count": HOSTILE}]},
    })  # fmt: skip
    inside = {"deep": [HOSTILE, {"a": HOSTILE}], "text": HOSTILE, TYPED: 1}
    error = {"code": HOSTILE, "message": f"{HOSTILE}\n{HOSTILE}"}
    run = {
        "attempt": 2, "node": HOSTILE, "host": HOSTILE, "pid": 7, "started": now, "ended": now, "seconds": 1.5,
        "plugin": {"class": HOSTILE, "version": HOSTILE, "directory": HOSTILE}, "exit_code": 2, "reason": HOSTILE,
        "work_directory": HOSTILE, "snooze": {"seconds": 5, "message": HOSTILE}, "own_status": 7, "signal": HOSTILE,
        "event_errors": {"count": 2, "first": [{"message": HOSTILE, "line": HOSTILE}]}, "session": HOSTILE,
    }  # fmt: skip
    common = {
        "stdout": f"out {HOSTILE}\n", "stderr": f"err {HOSTILE}\n", "node": TYPED, "run": run, "error": error,
        "attempts": [{**run, "error": error, "attempt": 1, "token": HOSTILE, "output": {"stdout": {"bytes": 5}},
            "parameters": {TYPED: HOSTILE}}], "progress": {"value": 0.5, "message": HOSTILE},
        "result": inside, "own field": HOSTILE, TYPED: HOSTILE, "created_by": HOSTILE, "batch": TYPED,
        "log": [{"time": now, "level": "info", "message": HOSTILE, "fields": {TYPED: HOSTILE}}, HOSTILE],
        "retried": [{"by": HOSTILE, "why": HOSTILE, "at": now}],
    }  # fmt: skip
    documents = {
        "failed": {**common, "status": int(Status.FAILED)},
        "second": {**common, "status": int(Status.FAILED)},
        "waiting": {"unique_key": HOSTILE, "cancel": {"by": HOSTILE, "why": HOSTILE, "at": now}},
        "blocked": {"status": int(Status.BLOCKED), "not_before": now + timedelta(days=1), "error": error},
    }
    made = [{**new_task(TYPED, inside, now=now), **fields} for fields in documents.values()]
    ids = dict(zip(documents, store.insert_tasks(made), strict=True))
    put_node(
        store,
        heartbeat={"pid": 7, "host": HOSTILE, "queues": [{"queue": TYPED, "class": HOSTILE, "processing": 1}]},
        host=HOSTILE,
        plugins=[{"class": "Odd", "version": HOSTILE}],
        set_aside=[{"class": HOSTILE, "reason": HOSTILE, "since": now}],
        broken=[{"class": HOSTILE, "path": HOSTILE, "reason": HOSTILE}],
        drain={"by": HOSTILE, "why": HOSTILE, "at": now},
    )
    plugins = on_store.directory / "plugins"
    write_plugin(plugins, "Odd", r"printf 'o\033]0;owned\007\r'; printf 'e\233\302\233\033[2J' >&2; exit 2")
    broken = plugins / TYPED
    broken.mkdir()
    (broken / "plugin.json").write_text(json.dumps({"protocol": 1, "name": HOSTILE, "command": [HOSTILE], TYPED: 1}))
    (on_store.directory / f"{TYPED}.csv").write_text(f"a,{TYPED.replace(chr(13), '')}\n1\n")
    (on_store.directory / "lines").write_text(json.dumps({HOSTILE: 1}) + "\n" + json.dumps([HOSTILE]) + "\n")
    return lambda name: str(ids[name])


COMMANDS: list[list[str]] = [
    ["queue", "resume", TYPED],
    ["status"], ["queue", "list"], ["queue", "show", TYPED], ["queue", "create", TYPED, "--class", "Odd"],
    ["queue", "create", "q2", "--class", TYPED], ["queue", "set", TYPED, f"description={TYPED}"],
    ["queue", "set", TYPED, f"{TYPED}=1"], ["queue", "set", TYPED, "class=Other"], ["queue", "pause", TYPED],
    ["queue", "pause", TYPED, "--reason", TYPED], ["queue", "show", f"{TYPED}?"], ["queue", "delete", TYPED],
    ["task", "list", "--wide"], ["task", "list", "--columns", f"{TYPED},.run,message,task"],
    ["task", "list", "--sort", TYPED], ["task", "list", "--cursor", TYPED], ["task", "list", "--where", TYPED],
    ["task", "list", "--where", f"{TYPED}={TYPED}"],
    ["task", "list", "--where", f"{TYPED}!=x", "--limit", "1"], ["task", "export", "-", "--format", "csv"],
    ["task", "list"], ["task", "list", "--queue", TYPED], ["task", "list", "--status", TYPED],
    ["task", "list", "--since", TYPED], ["task", "list", "--json"], ["task", "show", "failed"],
    ["task", "show", "failed", "--json"], ["task", "show", "waiting"], ["task", "show", "blocked"],
    ["task", "show", TYPED], ["task", "why", "waiting"], ["task", "why", "blocked"], ["task", "why", "failed"],
    ["task", "output", "failed"], ["task", "output", "failed", "--stderr"], ["task", "output", "failed", "--json"],
    ["task", "output", "failed", "--attempt", "1"], ["task", "output", "failed", "--attempt", "7"],
    ["task", "push", TYPED, "--like", "failed"],
    ["queue", "set", TYPED, f"pause_on_failures={TYPED}"], ["queue", "set", TYPED, f"keep_attempts={TYPED}"],
    ["task", "output", "failed", "--follow"], ["task", "output", "failed", "--stream", "both", "--follow"],
    ["task", "wait", "failed"], ["task", "wait", "failed", "second"],
    ["task", "wait", "waiting", "--timeout", "0"], ["task", "wait", "--queue", TYPED, "--timeout", "0"],
    ["task", "wait", TYPED], ["task", "push", TYPED, f"a={TYPED}"], ["task", "push", TYPED, f"{{{TYPED}"],
    ["task", "push", f"{TYPED}?", "{}"], ["task", "push", TYPED, "-p", f"a=@{TYPED}"],
    ["task", "push", TYPED, "-p", f"{TYPED}=1"], ["task", "push", TYPED, "{}", "--unique-key", TYPED],
    ["task", "push", TYPED, "{}", "--at", TYPED], ["task", "push", TYPED, "{}", "--after", TYPED],
    ["task", "import", TYPED, f"{TYPED}.csv"], ["task", "import", TYPED, "lines", "--format", "ndjson"],
    ["task", "import", TYPED, f"{TYPED}.csv", "--map", f"{TYPED}=a"], ["task", "import", TYPED, TYPED],
    ["task", "import", TYPED, f"{TYPED}.csv", "--dry-run", "--on-error", "skip"],
    ["task", "export"], ["task", "export", f"{TYPED}/no/such"], ["task", "set", "waiting", "--priority", "5"],
    ["task", "cancel", "waiting", "--reason", TYPED], ["task", "cancel", "waiting", "--reason", "why"],
    ["task", "cancel", "failed"], ["task", "retry", "failed"], ["task", "release", "blocked"],
    ["task", "retry", "second", "-p", f"{TYPED}={TYPED}"],
    ["task", "delete", "second"], ["task", TYPED], ["node", "list"], ["node", "show", "n1"], ["node", "show", TYPED],
    ["node", "list", "--json"], ["node", "delete", "n1"], ["node", "resume", "n1"],
    ["node", "drain", "n1", "--reason", TYPED], ["node", "drain", "n1"], ["node", "stop", "n1"], ["check"],
    ["check", TYPED], ["plugins"], ["exec", "Odd"], ["exec", "Odd", "--events"], ["exec", "Odd", "--json"],
    ["exec", TYPED], ["exec", "Odd", "-p", f"a={TYPED}", "--show-input"], ["exec", f"plugins/{TYPED}"],
    ["new", TYPED, "--lang", "sh"], [TYPED], ["--store", TYPED, "status"], ["--config", TYPED, "status"],
    ["status", f"--{TYPED}"], ["completion", TYPED],
    ["--plugins", TYPED, "check"], ["--node-id", TYPED], ["batch", "list"], ["batch", "list", "--json"],
    ["batch", "show", TYPED], ["batch", "show", TYPED, "--json"], ["batch", "show", f"{TYPED}?"],
    ["batch", "wait", TYPED, "--timeout", "0.1"], ["batch", "close", TYPED], ["batch", "cancel", TYPED],
    ["batch", "retry", TYPED], ["batch", "delete", TYPED], ["batch", TYPED], ["task", "list", "--batch", TYPED],
    ["task", "bundle", "failed", f"{TYPED}.tar.gz"], ["task", "bundle", TYPED], ["task", "failures"],
    ["task", "failures", "--json"], ["task", "failures", "--batch", TYPED], ["plugins", "show", "Odd"],
    ["plugins", "show", TYPED], ["doctor"], ["new", "--from", TYPED], ["exec", "--bundle", TYPED],
    ["exec", "--like", "failed"], ["task", "push", TYPED, "{}", "--batch", TYPED],
    ["task", "output", "--queue", TYPED, "--stream", "both"], ["task", "output", "--failed", "--tail", "1", "--json"],
    ["task", "output", "--where", TYPED],
    ["batch", "failures", TYPED], ["batch", "failures", TYPED, "--json"], ["batch", "export", TYPED],
    ["batch", "export", TYPED, "-", "--format", "csv"],
    ["web", "token", "add", TYPED, "--tokens", "web.json"], ["web", "token", "add", "ann", "--tokens", TYPED],
    ["web", "token", "add", "ann", "--queue", TYPED, "--tokens", "web.json"],
    ["web", "token", "list", "--tokens", "web.json"], ["web", "token", "list", "--tokens", TYPED],
    ["web", "token", "remove", TYPED, "--tokens", "web.json"], ["web", "--listen", TYPED], ["web", "--tokens", TYPED],
    ["web", "--base-path", TYPED], ["web", "--public-url", TYPED], ["web", "--proxy-from", TYPED],
]  # fmt: skip


PARTS = 4  # each with documents of its own


@pytest.mark.parametrize("part", range(PARTS))
def test_no_command_writes_a_control_character_to_a_terminal(
    on_store: Terminal, hostile: Callable[[str], str], part: int
) -> None:
    """`task show` and `task wait` used to pass a failed program's escape sequences on: titles, the clipboard."""
    found: dict[str, Any] = {}
    for command in COMMANDS[part::PARTS]:
        words = [hostile(one) if one in ("failed", "second", "waiting", "blocked") else one for one in command]
        if bad := forbidden_in(on_terminal(on_store, *words)):
            found[repr(command)] = bad
    assert not found, json.dumps(found, indent=1)


def test_the_watched_status_draws_and_passes_nothing_on(on_store: Terminal, hostile: Callable[[str], str]) -> None:
    hostile("failed")
    shown = on_terminal(on_store, "status", "--watch", keys=b"q", after=b"]0;owned")
    assert "owned" in shown and "]0;owned" in shown
    assert not forbidden_in(shown.replace("\r", ""), DRAWN)


def test_every_command_is_among_those() -> None:
    """But for the demo, which has only texts of its own, and --watch, which has a test of its own."""
    tried = {tuple(command[:count]) for command in COMMANDS for count in (0, 1, 2, 3)}
    assert {path for path, _ in LEAVES} - tried == {("demo",)}
