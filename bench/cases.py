"""What two revisions are compared by: oneshot, worker mode and the latency of an idle node, on both stores.

Responsible for: one pair of measurements. Must not know: what a difference means.

Rules:
1. Each pair has new stores and new nodes, one of either revision, which are there at the same time. While one works,
   the other is idle. They take turns, several a second: whatever load other programs put on the machine in the
   meantime is then much the same for both.
2. Queue and tasks are created by the revision's own commands, before the nodes start. From then on the stores are only
   touched from outside, so no command takes CPU beside a node.
3. The tasks are dealt out to several queues, each closed (`maxthreads` 0) until its turn comes. The CPU clocks are read
   just before it is opened and when all its tasks have ended: the start and the end of a node are not counted.
4. The CPU of a node is that of its own process and, if its programs are run by a supervisor, of that, without the
   programs.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import comparison
import outside
from comparison import Figure
from contenders import AT_ONCE, percentile
from disbatch_protocol.status import Status
from node_process import NodeProcess
from outside import OutsideStore, Run
from place import Place, cpu_seconds
from revisions import Revision

PARTS = 8  # turns that each revision takes within a pair
# Tasks of a part: a third of a second of work, or a little more, on two cores.
_TASKS = {"oneshot-sqlite": 250, "oneshot-mongodb": 200, "worker-sqlite": 1000, "worker-mongodb": 500}
_QUICK_PART = 10
_LATENCY_TASKS = 40
_GAP_SECONDS = (0.05, 0.15)
_LOOK_SECONDS = 0.05  # so rare that it costs nothing beside the tasks
_LATENCY_LOOK_SECONDS = 0.001
_PART_SECONDS = 120.0  # for all tasks of a part to end
_SETTLE_SECONDS = 0.3  # what a node does once at its start is over then

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class _Side:
    """A node of one revision on a store of its own, and what it has used so far."""

    store: OutsideStore
    node: NodeProcess
    queues: Sequence[str]
    node_seconds: float = 0.0  # of CPU
    mongod_seconds: float = 0.0
    started: list[float] = field(default_factory=list)  # milliseconds from the push
    seen: list[float] = field(default_factory=list)


def measure(
    place: Place, case: str, revisions: Sequence[Revision], pair: int
) -> tuple[Mapping[Figure, float], Mapping[Figure, float]]:
    """The figures of the old and the new revision, the same ones each time. The number of the pair decides who goes
    first."""
    name, _, store = case.partition("-")
    kind = {"sqlite": "SQLite", "mongodb": "MongoDB"}[store]
    if name == "latency":
        count = _LATENCY_TASKS // _QUICK_PART if place.quick else _LATENCY_TASKS
        with _sides(place, kind, revisions, pair, class_name="line", tasks=0) as (old, new):
            _latency(_in_turn(old, new, pair), count)
            return _latency_figures(old), _latency_figures(new)
    tasks = _TASKS[case] // _QUICK_PART if place.quick else _TASKS[case]
    class_name = "line" if name == "oneshot" else "worker"
    server = place.mongod.pid if kind == "MongoDB" and place.mongod is not None else None
    with _sides(place, kind, revisions, pair, class_name=class_name, tasks=tasks * PARTS) as (old, new):
        for number in range(PARTS):
            for side in _in_turn(old, new, pair + number):
                _run_part(side, side.queues[number], server)
        return _throughput_figures(old, tasks, server), _throughput_figures(new, tasks, server)


def _in_turn(old: T, new: T, number: int) -> tuple[T, T]:
    """In the order in which they come the `number`th time: old new, new old, …"""
    return (new, old) if number % 2 else (old, new)


@contextlib.contextmanager
def _sides(
    place: Place,
    kind: str,
    revisions: Sequence[Revision],
    pair: int,
    *,
    class_name: str,
    tasks: int,
) -> Iterator[tuple[_Side, _Side]]:
    """That of the old revision and that of the new one."""
    old, new = revisions
    with contextlib.ExitStack() as stack:
        first, second = (
            stack.enter_context(_side(place, kind, revision, class_name, tasks))
            for revision in _in_turn(old, new, pair)
        )
        yield _in_turn(first, second, pair)


@contextlib.contextmanager
def _side(place: Place, kind: str, revision: Revision, class_name: str, tasks: int) -> Iterator[_Side]:
    """A fresh store with so many tasks in closed queues, and a node that has seen them and is idle."""
    with place.fresh_store(kind) as url:
        where = ("--store", url, "--plugins", str(place.plugins))
        revision.run("queue", "create", "bench", "--class", class_name, "--maxthreads", "0", *where)
        if tasks:
            lines = "".join(f'{{"n":{number}}}\n' for number in range(tasks))
            revision.run("task", "push", "bench", "-", *where, stdin=lines)
            with outside.opened(url) as store:
                queues = store.split("bench", PARTS)
        else:
            queues = ["bench"]
        node = NodeProcess(
            [str(revision.program)],
            url=url,
            plugins=place.plugins,
            log=revision.directory / "node.log",
            node_id="bench",
            env=revision.env,
            state=revision.state,
        )
        with outside.opened(url) as store, node:
            node.wait_for_heartbeat(store.heartbeat)
            time.sleep(_SETTLE_SECONDS)
            yield _Side(store=store, node=node, queues=queues)


def _run_part(side: _Side, queue: str, server: int | None) -> None:
    """Open the queue and wait until all its tasks have ended."""
    before = _clocks(side, server)
    side.store.set_maxthreads(queue, AT_ONCE)
    deadline = time.monotonic() + _PART_SECONDS
    while side.store.has_unfinished(queue):
        assert time.monotonic() < deadline, f"not all tasks have ended within {_PART_SECONDS:.0f} s"
        time.sleep(_LOOK_SECONDS)
    after = _clocks(side, server)
    side.node_seconds += after[0] - before[0]
    side.mongod_seconds += after[1] - before[1]


def _clocks(side: _Side, server: int | None) -> tuple[float, float]:
    supervisor = side.node.supervisor_pid
    of_node = cpu_seconds(side.node.pid) + (0.0 if supervisor is None else cpu_seconds(supervisor))
    return of_node, 0.0 if server is None else cpu_seconds(server)


def _throughput_figures(side: _Side, tasks: int, server: int | None) -> Mapping[Figure, float]:
    total = tasks * PARTS
    rate = total / sum(_seconds_of(side.store.runs(queue), tasks) for queue in side.queues)
    of_node, of_mongod = (1e6 * seconds / total for seconds in (side.node_seconds, side.mongod_seconds))
    if server is None:
        return {comparison.CPU: of_node, comparison.RATE: rate}
    return {
        comparison.CPU_WITH_MONGOD: of_node + of_mongod,
        comparison.CPU_OF_NODE: of_node,
        comparison.CPU_OF_MONGOD: of_mongod,
        comparison.RATE: rate,
    }


def _seconds_of(runs: Sequence[Run], tasks: int) -> float:
    """From the first start to the last end."""
    started = [run.started for run in runs if run.started is not None]
    ended = [run.ended for run in runs if run.ended is not None and run.status == Status.CONCLUDED]
    assert len(started) == len(ended) == tasks, f"expected {tasks} concluded tasks, found {len(ended)}"
    return (max(ended) - min(started)).total_seconds()


def _latency(sides: Sequence[_Side], count: int) -> None:
    """As bench/latency.py: from just before the insert. The start is the node's mark; the reader looks each
    millisecond, and what it finds is durable."""
    for side in sides:
        side.store.set_maxthreads(side.queues[0], AT_ONCE)
    # The first task shows that the node has heard of the change, and is not counted.
    for number in range(count + 1):
        for side in sides:
            time.sleep(random.uniform(*_GAP_SECONDS))
            pushed, began = time.time(), time.perf_counter()
            run = _wait_for_end(side.store, side.store.insert(side.queues[0], number))
            if number:
                side.seen.append(1000 * (time.perf_counter() - began))
                assert run.started is not None
                side.started.append(1000 * (run.started.timestamp() - pushed))


def _wait_for_end(store: OutsideStore, task_id: object) -> Run:
    deadline = time.monotonic() + 30
    while True:
        run = store.run_of(task_id)
        if run.ended is not None and run.status == Status.CONCLUDED:
            return run
        assert time.monotonic() < deadline, f"expected task {task_id} to conclude within 30 s, found {run}"
        time.sleep(_LATENCY_LOOK_SECONDS)


def _latency_figures(side: _Side) -> Mapping[Figure, float]:
    return {
        comparison.STARTED_P50: percentile(side.started, 50),
        comparison.STARTED_P99: percentile(side.started, 99),
        comparison.SEEN_P50: percentile(side.seen, 50),
        comparison.SEEN_P99: percentile(side.seen, 99),
    }
