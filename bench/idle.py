"""What a node costs that has 20 queues and nothing to do: its own CPU, its supervisor's, and what it adds to that of
mongod."""

from __future__ import annotations

import time
from collections.abc import Sequence

import own
from figures import Table, Target
from place import Place, cpu_seconds

QUEUES = 20
TARGETS = {"SQLite": Target("value", "<=", 0.5), "MongoDB": Target("value", "<=", 0.6)}  # percent of a core
SUPERVISOR_TARGET = Target("value", "<=", 0.01)  # nothing, as far as that can be told: 6 ms in 60 s
SERVER_TARGET = Target("value", "<=", 1.0)  # the same, of mongod


def run(place: Place, table: Table, rounds: int) -> None:
    seconds = 5.0 if place.quick else 60.0
    for _ in range(rounds):
        for kind in place.kinds:
            server = place.mongod.pid if kind == "MongoDB" and place.mongod is not None else None
            with place.fresh_store(kind) as url, own.opened(url) as store:
                for number in range(QUEUES):
                    store.insert_queue({"_id": f"q{number}", "class": "line" if number % 2 else "worker"})
                alone = _percents([server], seconds)[0] if server is not None else 0.0
                with own.Node(place, url) as node:
                    node.wait_until_there(store)
                    time.sleep(2)  # what it does once at its start is not idleness
                    supervisor = node.supervisor_pid
                    pids = [one for one in (node.pid, supervisor, server) if one is not None]
                    found = dict(zip(pids, _percents(pids, seconds), strict=True))
            what = f"{kind}, node with {QUEUES} queues"
            table.add("idle", what, found[node.pid], "% of a core", targets=[TARGETS[kind]])
            if supervisor is not None:
                what, target = f"{kind}, its supervisor", SUPERVISOR_TARGET
                table.add("idle", what, found[supervisor], "% of a core", targets=[target])
            if server is not None:
                table.add("idle", "mongod without a node", alone, "% of a core")
                added = found[server] - alone
                table.add("idle", "mongod, what the node adds", added, "% of a core", targets=[SERVER_TARGET])


def _percents(pids: Sequence[int], seconds: float) -> list[float]:
    """Of a core, of these processes over the same time."""
    began, before = time.monotonic(), [cpu_seconds(one) for one in pids]
    time.sleep(seconds)
    passed, after = time.monotonic() - began, [cpu_seconds(one) for one in pids]
    return [100 * (end - start) / passed for start, end in zip(before, after, strict=True)]
