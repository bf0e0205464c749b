"""Many tasks with large parameters that become due at one moment, or belong to a dead node: a node stays small and its
heartbeats go on."""

from __future__ import annotations

import os
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
from helpers.stores import PAST, push

SIZE = 8 * 2**20
MEMORY_MAX = 150 * 2**20
LONG = [pytest.mark.soak, pytest.mark.timeout(1200)]
COUNTS = [16, pytest.param(500, marks=LONG)]


def push_large(cluster: Cluster, count: int, **fields: Any) -> None:
    cluster.queue("Large", maxthreads=0)
    data = os.urandom(SIZE // 2).hex()
    for _ in range(count):
        now = SystemClock().now()
        cluster.store.insert_tasks([new_task("Large", {"data": data}, now=now, **fields)])


@pytest.mark.parametrize("count", COUNTS)
def test_large_tasks_that_expire_at_once_cost_neither_memory_nor_heartbeats(cluster: Cluster, count: int) -> None:
    """They were read whole, 500 at once: gigabytes, and heartbeats 11 s old."""
    cluster.plugin("Large", "cat >/dev/null")
    push_large(cluster, count, expires=PAST)
    process = cluster.start("--heartbeat", "0.5")
    wait_until(lambda: cluster.store.get_node("n1"), 30, "node n1 never came")

    def is_over() -> bool:
        assert age_of(cluster) < 3, cluster.log()
        return cluster.store.count_by_status()["Large"] == {int(Status.CANCELLED): count}

    wait_until(is_over, 1000, "not all have expired")
    assert peak_memory(process.pid) < MEMORY_MAX
    process.terminate()
    assert process.wait(30) == 0


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
