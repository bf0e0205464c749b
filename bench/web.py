"""The page's server under load: list pages of a large store, followers of what tasks print, a large output, a node
beside open overviews, and the stop with many streams.

Beside a list page stands the one that is furthest in; beside a node that is watched, one that is not.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import own
from disbatch_host.client import Client
from disbatch_host.documents.records import Document, new_task
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status
from figures import Table, Target
from helpers.printing import Printing
from place import Place, cpu_seconds, peak_memory_megabytes
from web_readers import Readers

TASKS = {"SQLite": 300_000, "MongoDB": 1_000_000}
QUICK_TASKS = 3000
PAGE_TARGET = Target("value", "<=", 150.0)  # ms, 95 of 100
LAST_TARGET = Target("ratio", "<=", 2.0)  # of the last page to the first
FOLLOWERS = 200
PRINTED_PER_SECOND = 5_000_000
CPU_TARGET = Target("value", "<=", 100.0)  # percent of a core
MEMORY_TARGET = Target("value", "<=", 200.0)  # 10⁶ bytes
PAINT_TARGET = Target("value", "<=", 1000.0)  # ms
OVERVIEWS = 20
NODE_TARGET = Target("ratio", ">=", 0.95)
STOP_TARGET = Target("value", "<=", 1.0)  # seconds

_API = "/api/v1"
_LOOKS = 100
_PAGE = 50
_TAIL = 65_536
_QUEUE = "mail"
_STATUSES = (1, 1, 1, 1, 1, 1, 1, 2, -3, -2)  # of ten tasks
_SETTLE_SECONDS = 1.0
# Prints so many bytes a second, a line of 100 at a time, a tenth of a second together.
_PRINTER = f"""#!/usr/bin/env python3
import os, time
line = b"x" * 99 + b"\\n"
begin = time.monotonic()
for tenth in range(1, 6000):
    os.write(1, line * ({PRINTED_PER_SECOND} // 1000))
    time.sleep(max(0.0, begin + tenth / 10 - time.monotonic()))
"""
_TELLER = "n=0; while :; do n=$((n+1)); echo line $n; sleep 1; done"


def run(place: Place, table: Table, rounds: int) -> None:
    place.plugin("printer", _PRINTER, max_output="16G", kill_grace=1)
    place.plugin("teller", _TELLER, kill_grace=1)
    for kind in place.kinds:
        _lists(place, kind, table, rounds)
        for _ in range(rounds):
            _one_task(place, kind, table)
            _many_tasks(place, kind, table)
            _large_output(place, kind, table)
            _watched_node(place, kind, table)
            _stop(place, kind, table)


@dataclass(frozen=True)
class Web:
    """A server in a process of its own, where a proxy has signed people in."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def pid(self) -> int:
        return self.process.pid

    @contextlib.contextmanager
    def connection(self) -> Iterator[http.client.HTTPConnection]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as one:
            yield one


def _get(connection: http.client.HTTPConnection, path: str, **headers: str) -> http.client.HTTPResponse:
    connection.request("GET", f"{_API}{path}", headers={"X-User": "bench", **headers})
    response = connection.getresponse()
    assert response.status in (200, 206), (path, response.status, response.read(1000))
    return response


@contextlib.contextmanager
def _serving(place: Place, url: str) -> Iterator[Web]:
    log = place.directory / f"{place.new_name()}.log"
    command = [
        *own.COMMAND, "--store", url, "--plugins", str(place.plugins), "web", "--listen", "127.0.0.1:0",
        "--proxy-user-header", "X-User", "--proxy-from", "127.0.0.1/32", "--log-level", "warning",
    ]  # fmt: skip
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as process:
        try:
            yield Web(process, _port_in(log, process))
        finally:
            process.terminate()


def _port_in(log: Path, process: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + 30
    while (found := re.search(r"serving on http://127\.0\.0\.1:(\d+)/", log.read_text())) is None:
        assert process.poll() is None and time.monotonic() < deadline, f"the server did not start:\n{log.read_text()}"
        time.sleep(0.02)
    return int(found[1])


# Lists


def _lists(place: Place, kind: str, table: Table, rounds: int) -> None:
    count = QUICK_TASKS if place.quick else TASKS[kind]
    with place.fresh_store(kind) as url, own.opened(url) as store:
        _fill(store, count)
        with _serving(place, url) as web, web.connection() as connection:
            for _ in range(rounds):
                for query in ("", "queue=mail", "status=failed", "queue=mail&status=failed", "batch=night",
                              "failure=0badcafe", "unique_key=key77", "node=n1"):  # fmt: skip
                    first = _p95_ms(connection, f"/tasks?limit={_PAGE}&{query}")
                    last = _p95_ms(connection, f"/tasks?limit={_PAGE}&order=oldest&{query}")
                    what = f"{_PAGE} tasks, {query or 'all'}, of {count:,}, {kind}"
                    table.add("web", what, first, "ms (p95)", beside=None, targets=[PAGE_TARGET])
                    table.add("web", f"{what}: the other end", last, "ms (p95)", beside=("first page", first),
                              targets=[PAGE_TARGET])  # fmt: skip
                _far_page(connection, count, kind, table)


def _fill(store: Store, count: int) -> None:
    for name in (_QUEUE, "import"):
        store.insert_queue({"_id": name, "class": "nobody"})
    for numbers in own.batches(count):
        now = store.now()
        documents: list[Document] = []
        for number in numbers:
            status = _STATUSES[number % len(_STATUSES)]
            failed = (
                {"error": {"code": "exit_3", "message": "no", "group": "0badcafe: exit_3: no"}} if status == 2 else {}
            )
            documents.append(
                new_task(
                    _QUEUE if number % 3 else "import", {"user": f"user{number}@example.com"}, now=now, status=status,
                    node=f"n{number % 7}", batch="night", unique_key=f"key{number}", **failed,
                )
            )  # fmt: skip
        store.insert_tasks(documents)


def _far_page(connection: http.client.HTTPConnection, count: int, kind: str, table: Table) -> None:
    link = f"/tasks?limit=500&queue={_QUEUE}"
    first = _p95_ms(connection, link)
    cursor = None
    for _ in range(min(count // 1000, 400)):
        found = json.loads(_get(connection, link if cursor is None else f"{link}&cursor={cursor}").read())
        if found["next"] is None:
            break
        cursor = found["next"]
    far = _p95_ms(connection, f"{link}&cursor={cursor}")
    what = f"500 tasks of a queue, far in, of {count:,}, {kind}"
    table.add("web", what, far, "ms (p95)", beside=("its first page", first), targets=[LAST_TARGET])


def _p95_ms(connection: http.client.HTTPConnection, path: str) -> float:
    seconds = []
    for _ in range(_LOOKS):
        began = time.perf_counter()
        _get(connection, path).read()
        seconds.append(time.perf_counter() - began)
    return sorted(seconds)[_LOOKS * 95 // 100] * 1000


# Followers


def _one_task(place: Place, kind: str, table: Table) -> None:
    """Followers of one task that prints; one of them is slow."""
    followers, seconds = (20, 3.0) if place.quick else (FOLLOWERS, 20.0)
    with _running(place, kind, "printer", 1) as (url, _, (task,)), _serving(place, url) as web:
        path = f"{_API}/tasks/{task}/events?tail=0"
        with Readers(web.port, [path] * followers, slow=path) as readers:
            readers.wait_for_all(60)
            time.sleep(_SETTLE_SECONDS)
            before, cpu, began = dict(readers.bytes), cpu_seconds(web.pid), time.monotonic()
            time.sleep(seconds)
            took = time.monotonic() - began
            percent = 100 * (cpu_seconds(web.pid) - cpu) / took
            rates = [(readers.bytes[one] - before[one]) / took / 1e6 for one in before]
            gaps = readers.gaps
            readers.wait_for_gap(60)
        memory = peak_memory_megabytes(web.pid)
        what = f"{followers} followers of a task that prints 5 MB/s, {kind}"
        table.add("web", f"{what}: CPU", percent, "% of a core", beside=None, targets=[CPU_TARGET])
        table.add("web", f"{what}: most memory", memory, "MB", beside=None, targets=[MEMORY_TARGET])
        table.add("web", f"{what}: what the slowest got", min(rates), "MB/s", beside=("the quickest", max(rates)))
        table.add("web", f"{what}: gaps of all", float(gaps), "gaps", beside=None)


def _many_tasks(place: Place, kind: str, table: Table) -> None:
    followers, seconds = (20, 3.0) if place.quick else (FOLLOWERS, 20.0)
    with _running(place, kind, "teller", followers) as (url, _, tasks), _serving(place, url) as web:
        with Readers(web.port, [f"{_API}/tasks/{task}/events" for task in tasks]) as readers:
            readers.wait_for_all(120)
            cpu, began = cpu_seconds(web.pid), time.monotonic()
            time.sleep(seconds)
            percent = 100 * (cpu_seconds(web.pid) - cpu) / (time.monotonic() - began)
        what = f"{followers} followers of as many tasks that print a line a second, {kind}: CPU"
        table.add("web", what, percent, "% of a core", beside=None, targets=[CPU_TARGET])


@contextlib.contextmanager
def _running(place: Place, kind: str, class_name: str, count: int) -> Iterator[tuple[str, Store, list[Any]]]:
    """Tasks that run until the end of the block."""
    with place.fresh_store(kind) as url, own.opened(url) as store:
        queue = store.insert_queue({"_id": class_name, "class": class_name, "maxthreads": count})
        tasks = own.push(store, queue, count)
        with own.Node(place, url) as node:
            node.wait_until_there(store)
            deadline = time.monotonic() + 120
            while any(one.status != Status.RUNNING for one in own.read(store, tasks)):
                assert time.monotonic() < deadline, "not all tasks run"
                time.sleep(0.1)
            yield url, store, tasks
            with Client.open(url, by="bench") as client:
                client.cancel(tasks)
            own.wait_for_all(store, queue, within_seconds=120)


# A large output


def _large_output(place: Place, kind: str, table: Table) -> None:
    size = (32 if place.quick else 1024) * 2**20
    with place.fresh_store(kind) as url, Client.open(url, by="bench", creates=True) as client:
        client.queues.create(_QUEUE, "nobody")
        printing = Printing(client, client.push(_QUEUE, {}).id).begin()
        for _ in range(size // 2**23):
            printing.prints((b"x" * 99 + b"\n") * (2**23 // 100) + b"x" * (2**23 % 100))
        printing.ends()
        with _serving(place, url) as web, web.connection() as connection:
            path = f"/tasks/{printing.id}/output/stdout"
            began = time.perf_counter()
            tail = _get(connection, path, Range=f"bytes=-{_TAIL}").read()
            paint = (time.perf_counter() - began) * 1000
            assert len(tail) == _TAIL
            idle = peak_memory_megabytes(web.pid)
            began = time.perf_counter()
            response, received = _get(connection, path), 0
            while data := response.read(2**20):
                received += len(data)
            rate = received / (time.perf_counter() - began) / 1e6
            assert received == size
            memory = peak_memory_megabytes(web.pid)
        what = f"an output of {size // 2**20:,} MiB, {kind}"
        table.add("web", f"{what}: its end", paint, "ms", beside=None, targets=[PAINT_TARGET])
        table.add("web", f"{what}: all of it", rate, "MB/s", beside=None)
        table.add("web", f"{what}: most memory", memory, "MB", beside=("before", idle), targets=[MEMORY_TARGET])


# A node that is watched


def _watched_node(place: Place, kind: str, table: Table) -> None:
    tasks = 200 if place.quick else 3000

    @contextlib.contextmanager
    def watched(url: str) -> Iterator[None]:
        streams = [f"{_API}/overview/events"] * OVERVIEWS
        with _serving(place, url) as web, Readers(web.port, streams) as readers:
            readers.wait_for_all(60)
            yield

    alone = own.rate(place, kind, "line", at_once=8, tasks=tasks)
    found = own.rate(place, kind, "line", at_once=8, tasks=tasks, beside=watched)
    what = f"a node with {OVERVIEWS} open overviews, {kind}"
    table.add("web", what, found, "tasks/s", beside=("without", alone), targets=[NODE_TARGET])


# The stop


def _stop(place: Place, kind: str, table: Table) -> None:
    streams = 40 if place.quick else 200
    with (
        place.fresh_store(kind) as url,
        Client.open(url, by="bench", creates=True),
        _serving(place, url) as web,
        Readers(web.port, [f"{_API}/overview/events"] * streams) as readers,
    ):
        readers.wait_for_all(60)
        began = time.perf_counter()
        web.process.send_signal(signal.SIGTERM)
        assert web.process.wait(60) == 0
        seconds = time.perf_counter() - began
    table.add("web", f"SIGTERM with {streams} streams, {kind}", seconds, "s", beside=None, targets=[STOP_TARGET])
