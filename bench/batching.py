"""What a batch costs: CPU and time of a task that is one of millions of a batch, beside one of none.

Two stores with as many tasks, which are of one batch in the first, each with a node. The nodes take turns, several a
second, so that whatever else the machine does is the same for both.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import own
import usage
from disbatch_host.documents import batch as batches
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Document, new_task
from disbatch_host.store.contract import Store
from figures import Table, Target
from place import Place, cpu_seconds

TASKS = 5_000_000
QUICK_TASKS = 20_000
TARGET = Target("ratio", "<=", 1.03)
_BATCH = "wave"
_PARTS = 8  # turns of either node in a round
_PART_TASKS = 250
_QUICK_PART_TASKS = 40
_AT_ONCE = 8
_WAITING_QUEUE = "later"  # nobody runs its tasks
_SETTLE_SECONDS = 0.3  # what a node does once at its start is over then


def run(place: Place, table: Table, rounds: int) -> None:
    count = QUICK_TASKS if place.quick else TASKS
    tasks = _QUICK_PART_TASKS if place.quick else _PART_TASKS
    for kind in place.kinds:
        with (
            _side(place, kind, count, tasks, rounds, batch=_BATCH) as one,
            _side(place, kind, count, tasks, rounds, batch=None) as none,
        ):
            for number in range(rounds):
                _round(place, kind, number, count, tasks, (one, none), table)


@dataclass(slots=True, kw_only=True)
class _Side:
    """A store, its node, and the queues that are not yet opened, one for each turn."""

    store: Store
    node: own.Node
    queues: list[Any]
    cpu: float = 0.0  # seconds, of this round
    seconds: float = 0.0
    opened: list[Any] = field(default_factory=list)


@contextlib.contextmanager
def _side(place: Place, kind: str, count: int, tasks: int, rounds: int, *, batch: str | None) -> Iterator[_Side]:
    more = {} if batch is None else {"batch": batch}
    with place.fresh_store(kind) as url, own.opened(url) as store:
        if batch is not None:
            opened = batches.new_batch(batch, "bench@here", now=store.now(), source={"kind": "tasks"})
            store.insert_batch({**opened, **batches.close_change("bench@here", now=store.now(), total=count).set})

        def fill(queue: Any, number_of_tasks: int) -> None:
            def make(number: int, now: datetime) -> Document:
                return new_task(queue, {"n": number}, now=now, **more)

            own.push(store, queue, number_of_tasks, make)

        print(f"  {kind}: filling up to {count:,} tasks", flush=True)
        fill(store.insert_queue({"_id": _WAITING_QUEUE, "class": "line", "maxthreads": 0}), count)
        names = [f"q{number}" for number in range(rounds * _PARTS)]
        queues = [store.insert_queue({"_id": name, "class": "line", "maxthreads": 0}) for name in names]
        for queue in queues:
            fill(queue, tasks)
        with own.Node(place, url) as node:
            node.wait_until_there(store)
            time.sleep(_SETTLE_SECONDS)
            yield _Side(store=store, node=node, queues=queues)


def _round(
    place: Place, kind: str, number: int, count: int, tasks: int, sides: tuple[_Side, _Side], table: Table
) -> None:
    for part in range(_PARTS):
        for side in sides if (number + part) % 2 else sides[::-1]:
            _turn(place, kind, side, tasks)
    one, none = sides
    total = tasks * _PARTS
    what = f"a task of a batch of {count:,}, {kind}"
    for name, values in (("CPU of", (one.cpu, none.cpu)), ("time of", (one.seconds, none.seconds))):
        mine, beside = (1e6 * value / total for value in values)
        targets: Sequence[Target] = [TARGET] if name == "CPU of" else []
        table.add("batching", f"{name} {what}", mine, "µs", beside=("of none", beside), targets=targets)
    for side in sides:
        side.cpu = side.seconds = 0.0


def _turn(place: Place, kind: str, side: _Side, tasks: int) -> None:
    server = place.mongod.pid if kind == "MongoDB" and place.mongod is not None else None
    queue = side.queues.pop()
    before = _cpu(side, server)
    side.store.update_queue(queue, {"maxthreads": _AT_ONCE})
    own.wait_for_all(side.store, queue, within_seconds=60 + tasks / 5)
    side.cpu += _cpu(side, server) - before
    side.seconds += tasks / own.rate_of(list(side.store.find_tasks(TaskFilter(queue=queue), with_output=False)))


def _cpu(side: _Side, server: int | None) -> float:
    used = usage.used(side.node.pid, side.node.supervisor_pid)
    return used.node + (used.supervisor or 0.0) + (0.0 if server is None else cpu_seconds(server))
