"""Finding among very many tasks: a queue's newest page, page 1,000, a condition, and a table of them all.

Beside a page of a large store stands the first page of one with SMALL tasks. What a condition costs is said by how many
tasks are looked at in a second.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator

import own
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.conditions import Condition
from disbatch_host.documents.records import Document, new_task
from disbatch_host.store.contract import Store
from figures import Table, Target
from memory import bare_interpreter
from place import Place, peak_memory_megabytes

TASKS = 5_000_000
QUICK_TASKS = 20_000
SMALL = 1000
PAGE = 50
PAGES = 1000  # how far in the page is that is compared with the first one
PAGE_TARGET = Target("value", "<=", 50.0)  # ms, 95 of 100
MEMORY_TARGET = Target("value", "<=", 150.0)  # 10⁶ bytes, whatever the number of tasks
_LOOKS = 100
_BUDGET_SECONDS = 5.0
_LOOK_SECONDS = 0.05
_QUEUE = "mail"
_STATUSES = (1, 1, 1, 1, 1, 1, 1, 2, -3, -2)  # of ten tasks


def run(place: Place, table: Table, rounds: int) -> None:
    count = QUICK_TASKS if place.quick else TASKS
    for kind in place.kinds:
        with _filled(place, kind, count) as (url, large), _filled(place, kind, SMALL) as (_, small):
            for _ in range(rounds):
                _pages(kind, count, large, small, table)
                _conditions(kind, count, large, table)
            _export(place, kind, url, table)


@contextlib.contextmanager
def _filled(place: Place, kind: str, count: int) -> Iterator[tuple[str, Store]]:
    with place.fresh_store(kind) as url, own.opened(url) as store:
        store.insert_queue({"_id": _QUEUE, "class": "nobody"})
        for numbers in own.batches(count):
            now = store.now()
            documents: list[Document] = [
                new_task(
                    _QUEUE, {"user": f"user{number}@example.com", "tries": number % 10}, now=now,
                    status=_STATUSES[number % len(_STATUSES)], result={"size": number},
                )
                for number in numbers
            ]  # fmt: skip
            store.insert_tasks(documents)
        yield url, store


def _pages(kind: str, count: int, large: Store, small: Store, table: Table) -> None:
    for what, which in (
        ("newest of a queue", TaskFilter(queue=_QUEUE)),
        ("newest failed of a queue", TaskFilter(queue=_QUEUE, statuses=frozenset({2, -3}), or_failed=True)),
        ("newest", TaskFilter()),
    ):
        beside = (f"of {SMALL:,} tasks", _p95_ms(lambda which=which: small.find_page(which, limit=PAGE)))  # type: ignore[misc]
        value = _p95_ms(lambda which=which: large.find_page(which, limit=PAGE))  # type: ignore[misc]
        table.add(
            "finding",
            f"{PAGE} {what}, {count:,} tasks, {kind}",
            value,
            "ms (p95)",
            beside=beside,
            targets=[PAGE_TARGET],
        )
    which, cursor = TaskFilter(queue=_QUEUE), None
    first = _p95_ms(lambda: large.find_page(which, limit=PAGE))
    for _ in range(min(PAGES, count // PAGE) - 1):
        cursor = large.find_page(which, limit=PAGE, cursor=cursor).next
    far = _p95_ms(lambda: large.find_page(which, limit=PAGE, cursor=cursor))
    table.add("finding", f"page {PAGES:,} of a queue, {kind}", far, "ms (p95)", beside=("page 1", first))


def _p95_ms(look: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_LOOKS):
        began = time.perf_counter()
        look()
        seconds.append(time.perf_counter() - began)
    return sorted(seconds)[_LOOKS * 95 // 100] * 1000


def _conditions(kind: str, count: int, store: Store, table: Table) -> None:
    for what, path, values in (
        ("a text", ("parameters", "user"), ("nobody",)),
        ("a number", ("parameters", "tries"), ("77", 77)),
        ("a part of the result", ("result", "size"), ("-1", -1)),
    ):
        which = TaskFilter(queue=_QUEUE, where=(Condition(path, values),))
        began = time.perf_counter()
        page = store.find_page(which, limit=PAGE, budget_seconds=_BUDGET_SECONDS)
        rate = page.looked_at / (time.perf_counter() - began)
        table.add("finding", f"looked at for {what}, {count:,} tasks, {kind}", rate, "tasks/s", beside=None)


def _export(place: Place, kind: str, url: str, table: Table) -> None:
    path = place.directory / "tasks.csv"
    command = [*own.COMMAND, "--store", url, "--plugins", str(place.plugins), "task", "export", str(path)]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        peak = 0.0
        while process.poll() is None:
            with contextlib.suppress(AssertionError):  # it has just ended
                peak = max(peak, peak_memory_megabytes(process.pid))
            time.sleep(_LOOK_SECONDS)
    assert process.returncode == 0
    with path.open("rb") as file:
        rows = sum(1 for _ in file) - 1
    rate = rows / (time.perf_counter() - began)
    path.unlink()
    table.add("finding", f"task export of {rows:,} tasks as CSV, {kind}", rate, "tasks/s", beside=None)
    table.add(
        "finding", f"its most memory, {kind}", peak, "MB", beside=("bare interpreter", bare_interpreter(kind)),
        targets=[MEMORY_TARGET],
    )  # fmt: skip
