"""What a node costs that has 20 queues and nothing to do: its own CPU, and what it adds to that of mongod."""

from __future__ import annotations

import time

import own
from figures import Table, Target
from place import Place, cpu_seconds

QUEUES = 20
TARGET = Target("value", "<=", 1.0)  # percent of a core


def run(place: Place, table: Table, rounds: int) -> None:
    seconds = 5.0 if place.quick else 30.0
    for _ in range(rounds):
        for kind in place.kinds:
            server = place.mongod.pid if kind == "MongoDB" and place.mongod is not None else None
            with place.fresh_store(kind) as url, own.opened(url) as store:
                for number in range(QUEUES):
                    store.insert_queue({"_id": f"q{number}", "class": "line" if number % 2 else "worker"})
                alone = _percent(server, seconds) if server is not None else 0.0
                with own.Node(place, url) as node:
                    node.wait_until_there(store)
                    time.sleep(2)  # what it does once at its start is not idleness
                    of_node, of_server = _percents(node.pid, server, seconds)
            table.add("idle", f"{kind}, node with {QUEUES} queues", of_node, "% of a core", targets=[TARGET])
            if server is not None:
                table.add("idle", "mongod without a node", alone, "% of a core")
                table.add("idle", "mongod, what the node adds", of_server - alone, "% of a core", targets=[TARGET])


def _percent(pid: int, seconds: float) -> float:
    return _percents(pid, None, seconds)[0]


def _percents(pid: int, other: int | None, seconds: float) -> tuple[float, float]:
    """Of two processes over the same time."""
    pids = [pid] if other is None else [pid, other]
    began, before = time.monotonic(), [cpu_seconds(one) for one in pids]
    time.sleep(seconds)
    passed, after = time.monotonic() - began, [cpu_seconds(one) for one in pids]
    used = [100 * (end - start) / passed for start, end in zip(before, after, strict=True)]
    return used[0], used[-1] if other is not None else 0.0
