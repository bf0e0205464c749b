"""The most memory that a node has in hand: idle, with a thousand tasks running, and with one that prints 10 GiB; and
its supervisor with the thousand.

Beside the node an interpreter that has imported the same libraries and does nothing.
"""

from __future__ import annotations

import subprocess
import sys
import time

import own
from disbatch_host.documents.changes import TaskFilter
from disbatch_protocol.status import Status
from figures import Table, Target
from helpers.processes import wait_until
from place import Place, peak_memory_megabytes

TARGETS = {"idle": 60.0, "many": 120.0, "output": 150.0}  # 10⁶ bytes
SUPERVISOR_TARGET = Target("value", "<=", 20.0)
_IDLE_SECONDS = 3.0
_PRINTS_PER_SECOND = 20e6  # bytes; slower than this is not slow but stuck


def run(place: Place, table: Table, rounds: int) -> None:
    tasks = 100 if place.quick else 1000
    size = 2**30 if place.quick else 10 * 2**30
    place.plugin("sleeper", "exec sleep 600", kill_grace=1)
    place.plugin("printer", f"head -c {size} /dev/zero | tr '\\0' x")
    for _ in range(rounds):
        for kind in place.kinds:
            bare = ("bare interpreter", bare_interpreter(kind))

            def add(what: str, found: float, limit: str, *, kind: str = kind, bare: tuple[str, float] = bare) -> None:
                target = Target("value", "<=", TARGETS[limit])
                table.add("memory", f"{kind}, {what}", found, "MB", beside=bare, targets=[target])

            add("idle node", _idle(place, kind), "idle")
            of_node, of_supervisor = _many(place, kind, tasks)
            add(f"{tasks:,} tasks running", of_node, "many")
            if of_supervisor is not None:
                what = f"{kind}, {tasks:,} tasks running: supervisor"
                table.add("memory", what, of_supervisor, "MB", targets=[SUPERVISOR_TARGET])
            add(f"a task that prints {size // 2**30} GiB", _printing(place, kind, size), "output")


def bare_interpreter(kind: str) -> float:
    modules = "asyncio, click, jsonschema, orjson, sqlite3" + (", pymongo" if kind == "MongoDB" else "")
    program = f"import {modules}; print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        peak = peak_memory_megabytes(process.pid)
        process.stdin.write(b"\n")
    return peak


def _idle(place: Place, kind: str) -> float:
    with place.fresh_store(kind) as url, own.opened(url) as store:
        store.insert_queue({"_id": "line", "class": "line"})
        with own.Node(place, url) as node:
            node.wait_until_there(store)
            time.sleep(_IDLE_SECONDS)
            return peak_memory_megabytes(node.pid)


def _many(place: Place, kind: str, tasks: int) -> tuple[float, float | None]:
    """Of the node, and of its supervisor if it has one."""
    with place.fresh_store(kind) as url, own.opened(url) as store:
        queue = store.insert_queue({"_id": "sleeper", "class": "sleeper", "maxthreads": tasks})
        own.push(store, queue, tasks)
        running = TaskFilter(queue=queue, statuses=frozenset({int(Status.RUNNING)}))
        with own.Node(place, url, "--stop-grace", "0") as node:  # on its stop, the tasks are asked to end at once
            node.wait_until_there(store)
            wait_until(lambda: store.count_tasks(running) == tasks, 60 + tasks / 10, f"{tasks} tasks do not run")
            time.sleep(_IDLE_SECONDS)
            supervisor = node.supervisor_pid
            return peak_memory_megabytes(node.pid), supervisor and peak_memory_megabytes(supervisor)


def _printing(place: Place, kind: str, size: int) -> float:
    with place.fresh_store(kind) as url, own.opened(url) as store:
        queue = store.insert_queue({"_id": "printer", "class": "printer"})
        (task_id,) = own.push(store, queue, 1)
        with own.Node(place, url) as node:
            task = own.wait_for_end(store, task_id, within_seconds=60 + size / _PRINTS_PER_SECOND, every_seconds=0.2)
            assert task.status == Status.CONCLUDED, task.run
            return peak_memory_megabytes(node.pid)
