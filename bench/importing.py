"""Importing files: `disbatch-host task import Q FILE`, CSV and NDJSON, without a plugin; and the memory that it takes.

Beside it a bare loop that does the least which keeps a task: read the rows once, `executemany` into one SQLite table.
"""

from __future__ import annotations

import csv
import json
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import own
from disbatch_host.documents.changes import TaskFilter
from figures import Table, Target
from memory import bare_interpreter
from place import Place, peak_memory_megabytes

ROWS = {"SQLite": 1_000_000, "MongoDB": 200_000}
QUICK_ROWS = 20_000
TARGETS = {"SQLite": 50_000.0, "MongoDB": 15_000.0}  # rows a second
MEMORY_TARGETS = {"SQLite": 60.0, "MongoDB": 100.0}  # 10⁶ bytes, whatever the number of rows
_BATCH = 2000
_LOOK_SECONDS = 0.02


def run(place: Place, table: Table, rounds: int) -> None:
    for kind in place.kinds:
        count = QUICK_ROWS if place.quick else ROWS[kind]
        for path in _files(place.directory, count):
            form = path.suffix.removeprefix(".")
            for _ in range(rounds):
                bare = _bare_loop(place, path, count)
                rate, peak = _import(place, kind, path, count)
                table.add(
                    "importing", f"task import of {count:,} rows, {form}, {kind}", rate, "rows/s",
                    beside=(f"bare loop, {form}", bare), targets=[Target("value", ">=", TARGETS[kind])],
                )  # fmt: skip
                table.add(
                    "importing", f"its most memory, {form}, {kind}", peak, "MB",
                    beside=("bare interpreter", bare_interpreter(kind)),
                    targets=[Target("value", "<=", MEMORY_TARGETS[kind])],
                )  # fmt: skip
            path.unlink()


def _files(directory: Path, count: int) -> Iterator[Path]:
    """Each made when it is wanted."""
    names = ("user", "folder", "tries")
    rows = ((f"user{number}@example.com", "INBOX", number % 10) for number in range(count))
    table, lines = directory / "rows.csv", directory / "rows.ndjson"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    yield table
    with lines.open("w") as file:
        for number in range(count):
            row = (f"user{number}@example.com", "INBOX", number % 10)
            file.write(json.dumps(dict(zip(names, row, strict=True))) + "\n")
    yield lines


def _import(place: Place, kind: str, path: Path, count: int) -> tuple[float, float]:
    """Rows a second of the whole command, and its most memory."""
    with place.fresh_store(kind) as url, own.opened(url) as store:
        store.insert_queue({"_id": "Q", "class": "nobody"})
        command = [*own.COMMAND, "--store", url, "--plugins", str(place.plugins), "task", "import", "Q", str(path)]
        began = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            peak = 0.0
            while process.poll() is None:
                try:
                    peak = max(peak, peak_memory_megabytes(process.pid))
                except AssertionError:  # it has just ended
                    break
                time.sleep(_LOOK_SECONDS)
            process.wait()
        seconds = time.perf_counter() - began
        assert process.returncode == 0, f"the import has failed with {process.returncode}"
        created = store.count_tasks(TaskFilter(queue="Q"))
        assert created == count, f"expected {count} tasks, found {created}"
    return count / seconds, peak


def _bare_loop(place: Place, path: Path, count: int) -> float:
    """As durable as our own store: WAL, synchronous FULL, as many a transaction as an import has."""
    file_name = place.directory / f"{place.new_name()}.db"
    began = time.perf_counter()
    connection = sqlite3.connect(file_name, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE tasks (id INTEGER PRIMARY KEY, queue TEXT, status INTEGER, parameters TEXT)")
    batch: list[tuple[str, int, str]] = []

    def flush() -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO tasks (queue, status, parameters) VALUES (?, ?, ?)", batch)
        connection.execute("COMMIT")
        batch.clear()

    with path.open(newline="") as file:
        for parameters in _bare_rows(file, path.suffix):
            batch.append(("Q", -2, parameters))
            if len(batch) == _BATCH:
                flush()
    flush()
    connection.close()
    seconds = time.perf_counter() - began
    for file_of_it in place.directory.glob(f"{file_name.name}*"):
        file_of_it.unlink()
    return count / seconds


def _bare_rows(file: Iterator[str], suffix: str) -> Iterator[str]:
    if suffix == ".csv":
        reader = csv.reader(file)
        names = next(reader)
        for row in reader:
            yield json.dumps(dict(zip(names, row, strict=True)))
    else:
        for line in file:
            json.loads(line)  # that it is JSON is the least that has to be known
            yield line
