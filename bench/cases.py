"""What two revisions are compared by: oneshot, worker mode and the latency of an idle node, on both stores.

Responsible for: one measurement of one installed revision. Must not know: the other revision, or what a difference
means.

Rules:
1. Queues and tasks are created by the revision's own commands, before the node starts. From then on the store is only
   touched from outside, so no command of the revision takes CPU beside the node.
2. The node starts with the queue closed (`maxthreads` 0). The CPU clocks are read when it is there and idle, and again
   when all tasks have ended: its start and its end are not counted.
3. The CPU of a node is that of its own process, without the programs that it starts.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator, Mapping

import comparison
import outside
from comparison import Figure
from contenders import AT_ONCE, percentile
from disbatch_protocol.status import Status
from node_process import NodeProcess
from outside import OutsideStore, Run
from place import Place, cpu_seconds
from revisions import Revision

# Some seconds of work each on two cores.
_TASKS = {"oneshot-sqlite": 2000, "oneshot-mongodb": 1600, "worker-sqlite": 8000, "worker-mongodb": 4000}
_QUICK_PART = 10
_LATENCY_TASKS = 40
_GAP_SECONDS = (0.05, 0.15)
_LOOK_SECONDS = 0.1  # so rare that it costs nothing beside the tasks
_LATENCY_LOOK_SECONDS = 0.001
_SETTLE_SECONDS = 0.3  # what a node does once at its start is over then
_NODE = "bench"
_KINDS = {"sqlite": "SQLite", "mongodb": "MongoDB"}


def kind_of(case: str) -> str:
    """The store of a case, as Place names it."""
    return _KINDS[case.partition("-")[2]]


def measure(place: Place, case: str, revision: Revision) -> Mapping[Figure, float]:
    """One measurement. The figures are the same ones each time."""
    if case.startswith("latency"):
        return _latency(place, kind_of(case), revision)
    class_name = "line" if case.startswith("oneshot") else "worker"
    tasks = _TASKS[case] // _QUICK_PART if place.quick else _TASKS[case]
    return _throughput(place, kind_of(case), revision, class_name, tasks)


def _throughput(place: Place, kind: str, revision: Revision, class_name: str, tasks: int) -> Mapping[Figure, float]:
    server = place.mongod.pid if kind == "MongoDB" and place.mongod is not None else None
    with _waiting_node(place, kind, revision, class_name, tasks) as (store, node):
        pids = [node.pid] if server is None else [node.pid, server]
        before = [cpu_seconds(pid) for pid in pids]
        store.set_maxthreads(class_name, AT_ONCE)
        _wait_for_all(store, class_name, within_seconds=60 + tasks / 5)
        used = [1e6 * (cpu_seconds(pid) - start) / tasks for pid, start in zip(pids, before, strict=True)]
        runs = store.runs(class_name)
    rate = _rate_of(runs, tasks)
    if server is None:
        return {comparison.CPU: used[0], comparison.RATE: rate}
    return {
        comparison.CPU_WITH_MONGOD: sum(used),
        comparison.CPU_OF_NODE: used[0],
        comparison.CPU_OF_MONGOD: used[1],
        comparison.RATE: rate,
    }


def _latency(place: Place, kind: str, revision: Revision) -> Mapping[Figure, float]:
    """As bench/latency.py: from just before the insert. The start is the node's mark; the reader looks each
    millisecond, and what it sees is durable."""
    count = _LATENCY_TASKS // _QUICK_PART if place.quick else _LATENCY_TASKS
    started, seen = [], []
    gaps = random.Random(count)  # the same for both revisions
    with _waiting_node(place, kind, revision, "line", 0) as (store, _):
        store.set_maxthreads("line", AT_ONCE)
        # The first one tells that the node has heard of the change, and is not counted.
        for number in range(count + 1):
            time.sleep(gaps.uniform(*_GAP_SECONDS))
            pushed, began = time.time(), time.perf_counter()
            run = _wait_for_end(store, store.insert("line", number))
            if number:
                seen.append(1000 * (time.perf_counter() - began))
                assert run.started is not None
                started.append(1000 * (run.started.timestamp() - pushed))
    return {
        comparison.STARTED_P50: percentile(started, 50),
        comparison.STARTED_P99: percentile(started, 99),
        comparison.SEEN_P50: percentile(seen, 50),
        comparison.SEEN_P99: percentile(seen, 99),
    }


@contextlib.contextmanager
def _waiting_node(
    place: Place, kind: str, revision: Revision, class_name: str, tasks: int
) -> Iterator[tuple[OutsideStore, NodeProcess]]:
    """A fresh store with a closed queue of so many tasks, and a node that has seen it and is idle."""
    with place.fresh_store(kind) as url:
        where = ("--store", url, "--plugins", str(place.plugins))
        revision.run("queue", "create", class_name, "--class", class_name, "--maxthreads", "0", *where)
        if tasks:
            lines = "".join(f'{{"n":{number}}}\n' for number in range(tasks))
            revision.run("task", "push", class_name, "-", *where, stdin=lines)
        node = NodeProcess(
            [str(revision.program)],
            url=url, plugins=place.plugins, log=place.directory / f"{_NODE}.log", node_id=_NODE, env=revision.env,
        )  # fmt: skip
        with outside.opened(url) as store, node:
            node.wait_for_heartbeat(store.heartbeat)
            time.sleep(_SETTLE_SECONDS)
            yield store, node


def _wait_for_all(store: OutsideStore, queue: str, *, within_seconds: float) -> None:
    deadline = time.monotonic() + within_seconds
    while store.has_unfinished(queue):
        assert time.monotonic() < deadline, f"not all tasks have ended within {within_seconds:.0f} s"
        time.sleep(_LOOK_SECONDS)


def _wait_for_end(store: OutsideStore, task_id: object) -> Run:
    deadline = time.monotonic() + 30
    while True:
        run = store.run_of(task_id)
        if run.ended is not None and run.status == Status.CONCLUDED:
            return run
        assert time.monotonic() < deadline, f"expected task {task_id} to conclude within 30 s, found {run}"
        time.sleep(_LATENCY_LOOK_SECONDS)


def _rate_of(runs: list[Run], tasks: int) -> float:
    """Tasks a second, from the first start to the last end."""
    started = [run.started for run in runs if run.started is not None]
    ended = [run.ended for run in runs if run.ended is not None and run.status == Status.CONCLUDED]
    assert len(started) == len(ended) == tasks, f"expected {tasks} concluded tasks, found {len(ended)}"
    return tasks / (max(ended) - min(started)).total_seconds()
