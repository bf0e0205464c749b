"""Many tasks with large parameters that become due at one moment, belong to a dead node, or are deleted: a node stays
small and its heartbeats go on."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from disbatch_host.clock import SystemClock
from disbatch_host.documents.changes import Want
from disbatch_host.documents.records import new_task
from disbatch_host.node.duties.lost_runs import settle
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status
from helpers.nodes import Cluster
from helpers.processes import peak_memory, wait_until
from helpers.stores import PAST, REQUEST, push

SIZE = 8 * 2**20
MEMORY_MAX = 150 * 2**20
HEARTBEAT_SECONDS_MAX = 3.0
LONG = [pytest.mark.soak, pytest.mark.timeout(1200)]
COUNTS = [24, pytest.param(500, marks=LONG)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Why tasks are looked at all at once, and what becomes of them."""

    fields: dict[str, Any]
    becomes: Status | None  # None: they are gone
    queue: dict[str, Any] = field(default_factory=lambda: {"maxthreads": 0})


def blocked(**fields: Any) -> dict[str, Any]:
    return {"status": int(Status.BLOCKED), **fields}


def of_dead_node(status: Status, **fields: Any) -> dict[str, Any]:
    return {"status": int(status), "node": "dead", "claim": {"token": "t", "at": PAST}, **fields}


RUN = {"attempt": 1, "token": "t", "started": PAST}
KINDS = {
    "expired": Kind(fields={"expires": PAST}, becomes=Status.CANCELLED),
    "cancelled": Kind(fields={"cancel": REQUEST}, becomes=Status.CANCELLED),
    "their time has come": Kind(fields=blocked(not_before=PAST), becomes=Status.CREATED),
    "waiting for one": Kind(fields=blocked(after=["first"]), becomes=Status.CREATED),
    "awaited": Kind(fields={"status": int(Status.CONCLUDED), "awaited": True}, becomes=Status.CONCLUDED),
    "claimed by a dead node": Kind(fields=of_dead_node(Status.CLAIMED), becomes=Status.CREATED),
    "run by a dead node": Kind(fields=of_dead_node(Status.RUNNING, run=RUN), becomes=Status.ORPHANED),
    "kept too long": Kind(
        fields={"status": int(Status.CONCLUDED)}, becomes=None, queue={"maxthreads": 0, "keep": "1s"}
    ),
    "run": Kind(fields={}, becomes=Status.CONCLUDED, queue={"maxthreads": 3}),
}


def push_large(cluster: Cluster, count: int, **fields: Any) -> None:
    data = os.urandom(SIZE // 2).hex()
    for _ in range(count):
        now = SystemClock().now()
        cluster.store.insert_tasks([{**new_task("Large", {"data": data}, now=now), **fields}])


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_many_large_tasks_that_are_due_at_once_cost_neither_memory_nor_heartbeats(
    cluster: Cluster, kind: Kind, count: int
) -> None:
    """They were read whole, 500 at once: gigabytes, and heartbeats 11 s old."""
    for name in ("Large", "Small"):
        cluster.plugin(name, "cat >/dev/null")
    cluster.queue("Large", **kind.queue)
    cluster.queue("Small")
    cluster.store.insert_tasks([{**new_task("Small", {}, now=PAST), "_id": "first", "awaited": True}])
    mtime = {"mtime": PAST} if kind.becomes is None else {}
    push_large(cluster, count, **kind.fields, **mtime)
    dead = {"_id": "dead", "session": "s", "host": "elsewhere", "version": "disbatch-host 0", "heartbeat": {}}
    assert cluster.store.put_node(dead, replacing=None)
    process = cluster.start("--heartbeat", "0.5", "--dead-after", "2")
    wait_until(lambda: cluster.store.get_node("n1"), 30, "node n1 never came")
    is_over = all_became(cluster, kind.becomes, count)
    oldest = 0.0

    def look() -> bool:
        nonlocal oldest
        oldest = max(oldest, age_of(cluster))
        return is_over()

    wait_until(look, 1000, f"not all of them are what they should be; oldest heartbeat {oldest:.1f} s")
    (small,) = cluster.push("Small", {})
    wait_until(lambda: look() and cluster.task(small).status == Status.CONCLUDED, 30, "other work does not go on")
    print(f"oldest heartbeat {oldest:.2f} s, peak memory {peak_memory(process.pid) / 2**20:.0f} MiB")
    assert oldest < HEARTBEAT_SECONDS_MAX
    assert peak_memory(process.pid) < MEMORY_MAX
    process.terminate()
    assert process.wait(30) == 0


def all_became(cluster: Cluster, status: Status | None, count: int) -> Callable[[], bool]:
    wanted = {} if status is None else {int(status): count}
    return lambda: cluster.store.count_by_status().get("Large", {}) == wanted


def age_of(cluster: Cluster) -> float:
    node = cluster.store.get_node("n1")
    assert node is not None and node.age_seconds is not None
    return node.age_seconds


def test_what_a_node_reads_to_settle_and_to_look_for_what_is_due_has_no_parameters(store: Store) -> None:
    (expired,) = push(store, {"secret": "large"}, expires=PAST, stdout="much")
    (lost,) = push(store, {"secret": "large"}, queue="w", stdout="much")
    (found,) = store.due("n1")
    assert found.id == expired and not {"parameters", "stdout", "stderr"} & found.document.keys()
    store.claim("dead", [Want("w", 1)], "t1")
    assert settle(store, "dead", is_on_this_machine=False).given_back == 1
    task = store.get_task(lost)
    assert task is not None and task.parameters == {"secret": "large"} and task.document["stdout"] == "much"
