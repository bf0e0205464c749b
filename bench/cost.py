"""The CPU that a task takes, by process: of the node, of its supervisor, of the programs, of mongod. Beside it that of
a task of `xargs`, which is the script and little else.

From it, by calculation, what more cores would give: the rate at which the first thread is full that all tasks need, or
else the cores are. What a task takes is assumed to be the same there.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import contenders
import own
import starts
import usage
from figures import Table, Target
from place import Place, cpu_seconds

CORES = 16  # of the machine that is calculated for
NODE_TARGET = Target("value", "<=", 220.0)  # µs of the node, oneshot, SQLite
WORDS = {"line": "oneshot", "worker": "worker mode"}
_CASES = (("SQLite", "line", 8), ("MongoDB", "line", 8), ("SQLite", "worker", 8), ("MongoDB", "worker", 8))
_AT_ONCE_ON_MANY_CORES = 16


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a task took, in seconds of CPU but for `time`."""

    time: float  # from the first start to the last end, by the number of tasks
    node: float  # its own process alone
    user: float  # of it, outside the system: no two threads of it use that at once
    system: float
    busiest: float  # of it, the thread that took most
    supervisor: float | None  # None: the node ran its programs itself
    busiest_of_supervisor: float
    starters: int  # threads of the supervisor besides its main one, each of which waits for one exec at a time
    programs: float
    mongod: float


def measure(
    place: Place,
    kind: str,
    class_name: str,
    *,
    at_once: int,
    tasks: int,
    has_supervisor: bool = True,
    profile: Path | None = None,
) -> Cost:
    """`has_supervisor`: see `own.Node`. `profile`: where a profiled node is to write what it took."""
    command = own.COMMAND
    if profile is not None:
        command = [sys.executable, "-P", str(Path(__file__).parent / "profiled_node.py"), str(profile)]
    server = place.mongod.pid if kind == "MongoDB" and place.mongod is not None else None
    with place.fresh_store(kind) as url, own.opened(url) as store:
        queue = store.insert_queue({"_id": class_name, "class": class_name, "maxthreads": 0})
        ids = own.push(store, queue, tasks)
        with own.Node(place, url, command=command, has_supervisor=has_supervisor) as node:
            node.wait_until_there(store)
            if profile is not None:
                os.kill(node.pid, signal.SIGUSR1)  # what it did at its start is not for the tasks
            supervisor = node.supervisor_pid
            before, server_before = usage.used(node.pid, supervisor), cpu_seconds(server) if server else 0.0
            store.update_queue(queue, {"maxthreads": at_once})
            own.wait_for_all(store, queue, within_seconds=60 + tasks / 5)
            after, server_after = usage.used(node.pid, supervisor), cpu_seconds(server) if server else 0.0
        rate = own.rate_of(own.read(store, ids))
    return Cost(
        time=1 / rate,
        node=(after.node - before.node) / tasks,
        user=(after.user - before.user) / tasks,
        system=(after.system - before.system) / tasks,
        busiest=usage.busiest(before.threads, after.threads) / tasks,
        supervisor=None if supervisor is None else (after.supervisor - before.supervisor) / tasks,
        busiest_of_supervisor=usage.busiest(before.threads_of_supervisor, after.threads_of_supervisor) / tasks,
        starters=len(after.threads_of_supervisor) - 1,
        programs=(after.programs - before.programs) / tasks,
        mongod=(server_after - server_before) / tasks,
    )


def ceilings(cost: Cost, start_seconds: float, cores: int = CORES) -> dict[str, float]:
    """Tasks a second of a node with a supervisor, by what is full then. `start_seconds`: from START to exec, for which
    a thread of the supervisor waits."""
    assert cost.supervisor is not None, "expected a node with a supervisor"
    limits = {
        "the node's busiest thread": cost.busiest,
        "the interpreter's lock": cost.user,
        "the supervisor's busiest thread": cost.busiest_of_supervisor,
        f"its {cost.starters} starting threads": start_seconds / cost.starters,
        "all cores": (cost.node + cost.supervisor + cost.programs + cost.mongod) / cores,
    }
    return {name: 1 / seconds for name, seconds in limits.items() if seconds > 0}


def run(place: Place, table: Table, rounds: int) -> None:
    some, many = (200, 1000) if place.quick else (3000, 20_000)
    why = own.why_no_supervisor()
    if why is not None:
        table.notice(f"cost: nodes run their programs themselves: {why}")
    for _ in range(rounds):
        bare = 1e6 * contenders.xargs_cpu(place, some)
        table.add("cost", "xargs -P8, with the script", bare, "µs")
        for kind, class_name, at_once in _CASES:
            if kind in place.kinds:
                cost = measure(place, kind, class_name, at_once=at_once, tasks=some if class_name == "line" else many)
                _add(table, f"{WORDS[class_name]}, {kind}, {at_once} at once", cost, bare)
                if (kind, class_name) == ("SQLite", "line") and why is None:
                    alone = measure(place, kind, class_name, at_once=at_once, tasks=some, has_supervisor=False)
                    _add(table, f"oneshot, {kind}, {at_once} at once, without a supervisor", alone, bare)
        if why is None:
            _add_ceilings(place, table, some, bare)


def _add(table: Table, what: str, cost: Cost, bare: float) -> None:
    beside = ("xargs", bare)
    has_target = cost.supervisor is not None and what.startswith("oneshot, SQLite")
    targets = [NODE_TARGET] if has_target else []
    table.add("cost", f"{what}: node", 1e6 * cost.node, "µs", beside=beside, targets=targets)
    if cost.supervisor is not None:
        table.add("cost", f"{what}: supervisor", 1e6 * cost.supervisor, "µs", beside=beside)
    table.add("cost", f"{what}: programs", 1e6 * cost.programs, "µs", beside=beside)
    if cost.mongod:
        table.add("cost", f"{what}: mongod", 1e6 * cost.mongod, "µs", beside=beside)


def _add_ceilings(place: Place, table: Table, tasks: int, bare: float) -> None:
    cost = measure(place, "SQLite", "line", at_once=_AT_ONCE_ON_MANY_CORES, tasks=tasks)
    _add(table, f"oneshot, SQLite, {_AT_ONCE_ON_MANY_CORES} at once", cost, bare)
    found = ceilings(cost, starts.of_supervisor(place, max(tasks // 6, 50)))
    beside = ("xargs by calculation", CORES * 1e6 / bare)
    for name, rate in found.items():
        table.add("cost", f"{CORES} cores by calculation: {name}", rate, "tasks/s")
    least = min(found.values())
    table.add("cost", f"{CORES} cores by calculation: the least of these", least, "tasks/s", beside=beside)
