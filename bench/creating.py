"""Creating tasks from a stream: `disbatch-host task push Q -`, without a plugin and with one whose schema has 3 fields.

Beside it a bare loop that does the least which keeps a task: read JSON lines, `executemany` into one SQLite table.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import time
from pathlib import Path

import own
from disbatch_host.documents.changes import TaskFilter
from figures import Table, Target
from place import LINE_PROGRAM, Place

TARGETS = {"plain": 50_000.0, "checked": 25_000.0}  # tasks a second
SCHEMA = {
    "type": "object",
    "properties": {
        "user": {"type": "string", "minLength": 1},
        "folder": {"type": "string"},
        "tries": {"type": "integer", "minimum": 0},
    },
    "required": ["user", "folder", "tries"],
    "additionalProperties": False,
}
_WORDS = {"plain": "without a plugin", "checked": "with a schema of three fields"}
_BATCH = 1000


def run(place: Place, table: Table, rounds: int) -> None:
    count = 20_000 if place.quick else 200_000
    place.plugin("checked", LINE_PROGRAM, parameters=SCHEMA)
    lines = place.directory / "tasks.ndjson"
    with lines.open("w") as file:
        for number in range(count):
            one = {"user": f"user{number}@example.com", "folder": "INBOX", "tries": number % 10}
            file.write(json.dumps(one) + "\n")
    for _ in range(rounds):
        bare = _bare_loop(place, lines, count)
        table.add("creating", "bare loop: json.loads, executemany", bare, "tasks/s")
        for kind in place.kinds:
            for class_name, words in _WORDS.items():
                found = _push(place, kind, class_name, lines, count)
                target = Target("value", ">=", TARGETS[class_name])
                table.add(
                    "creating", f"task push -, {kind}, {words}", found, "tasks/s",
                    beside=("bare loop", bare), targets=[target],
                )  # fmt: skip


def _push(place: Place, kind: str, class_name: str, lines: Path, count: int) -> float:
    """The whole command, from its start to its end."""
    with place.fresh_store(kind) as url, own.opened(url) as store:
        store.insert_queue({"_id": "Q", "class": class_name})
        command = [*own.COMMAND, "--store", url, "--plugins", str(place.plugins), "task", "push", "Q", "-"]
        with lines.open("rb") as stdin:
            began = time.perf_counter()
            subprocess.run(command, stdin=stdin, stdout=subprocess.DEVNULL, check=True)
            seconds = time.perf_counter() - began
        created = store.count_tasks(TaskFilter(queue="Q"))
        assert created == count, f"expected {count} tasks, found {created}"
    return count / seconds


def _bare_loop(place: Place, lines: Path, count: int) -> float:
    """As durable as our own store: WAL, synchronous FULL, a thousand a transaction."""
    path = place.directory / f"{place.new_name()}.db"
    began = time.perf_counter()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE tasks (id INTEGER PRIMARY KEY, queue TEXT, status INTEGER, parameters TEXT)")
    batch: list[tuple[str, int, str]] = []

    def flush() -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO tasks (queue, status, parameters) VALUES (?, ?, ?)", batch)
        connection.execute("COMMIT")
        batch.clear()

    with lines.open("rb") as file:
        for line in file:
            json.loads(line)  # that it is JSON is the least that has to be known
            batch.append(("Q", -2, line.decode()))
            if len(batch) == _BATCH:
                flush()
    flush()
    connection.close()
    seconds = time.perf_counter() - began
    for file_of_it in place.directory.glob(f"{path.name}*"):
        file_of_it.unlink()
    return count / seconds
