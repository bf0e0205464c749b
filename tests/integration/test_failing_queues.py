"""Queues that pause themselves, on both stores: real nodes, real failures."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

from disbatch_host.client.handshake import nodes_without_news
from disbatch_host.client.queues import Queues
from disbatch_host.client.why import why
from disbatch_host.clock import SystemClock
from disbatch_host.decide.why import Code
from disbatch_host.documents import records
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Queue
from disbatch_host.node.compartment import Troubles
from disbatch_host.node.duties.failing_queues import pause_failing
from disbatch_host.node.pace import Pace
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status
from helpers.nodes import QUICK_TO_SEE, Cluster
from helpers.processes import wait_until
from helpers.stores import at_once

QUICK = {**QUICK_TO_SEE, "failing_queues_seconds": 0.1}
FAILS = "read -r line; case $line in *'\"n\":0'*) exit 0;; esac; exit 3"


def queue_of(cluster: Cluster, name: str) -> Queue:
    found = cluster.store.find_queue(name)
    assert found is not None
    return found


def wait_for_pause(cluster: Cluster, name: str) -> dict[str, Any]:
    wait_until(lambda: queue_of(cluster, name).paused is not None, 30, f"queue {name} was never paused")
    return dict(queue_of(cluster, name).paused or {})


def test_a_queue_of_which_too_many_tasks_fail_pauses_itself_until_somebody_resumes_it(cluster: Cluster) -> None:
    cluster.plugin("Fails", FAILS)
    cluster.queue("Fails", "bad", pause_on_failures="3/10m", maxthreads=1)
    cluster.queue("Fails", "free", maxthreads=1)
    free = cluster.push("free", *({} for _ in range(4)))
    cluster.start(pace=QUICK)
    first = cluster.push("bad", {}, {"n": 0}, {}, {})
    paused = wait_for_pause(cluster, "bad")
    assert paused["by"] == "node n1" and paused["failures"] == 3
    assert paused["why"] == "3 tasks failed within 10m (pause_on_failures 3/10m)"
    assert nodes_without_news(cluster.store, "me@here", 20.0) == []
    (waits,) = cluster.push("bad", {})
    for task_id in (*first, *free):
        cluster.wait_for_status(task_id, Status.FAILED, Status.CONCLUDED)
    assert queue_of(cluster, "free").paused is None
    found = why(cluster.store, waits)
    assert found.code is Code.PAUSED_ON_FAILURES and "3 tasks failed within 10m" in found.sentence
    wait_until(lambda: "queue bad is paused: 3 tasks failed" in cluster.log(), 20, "the log does not say it")

    queues = Queues(cluster.store, "ann@here")
    resumed = queues.resume("bad")
    assert resumed.paused is None and resumed.document["resumed_at"] > paused["at"]
    cluster.wait_for_status(waits, Status.FAILED)
    (fine,) = cluster.push("bad", {"n": 0})
    cluster.wait_for_status(fine, Status.CONCLUDED)  # one failure is not three: the count began anew
    assert queue_of(cluster, "bad").paused is None
    cluster.push("bad", {}, {})
    assert wait_for_pause(cluster, "bad")["at"] > resumed.document["resumed_at"]


def test_a_node_looks_at_once_when_a_task_of_such_a_queue_fails_there(cluster: Cluster) -> None:
    """500 quick tasks used to be through before the first look."""
    cluster.plugin("Fails", FAILS)
    cluster.queue("Fails", "bad", pause_on_failures="3/10m", maxthreads=1)
    cluster.queue("Fails", "free", maxthreads=1)
    cluster.start(pace={**QUICK, "failing_queues_seconds": 3600.0})
    for task_id in cluster.push("free", *({} for _ in range(4))):
        cluster.wait_for_status(task_id, Status.FAILED)
    first = cluster.push("bad", {}, {"n": 0}, {})
    for task_id in first:
        cluster.wait_for_status(task_id, Status.FAILED, Status.CONCLUDED)
    assert queue_of(cluster, "bad").paused is None
    cluster.push("bad", *({} for _ in range(200)))
    assert wait_for_pause(cluster, "bad")["failures"] >= 3
    failed = cluster.store.count_tasks(TaskFilter(queue="bad", statuses=frozenset({int(Status.FAILED)})))
    assert failed < 200, "it was paused while tasks waited"


def failing(cluster: Cluster, limit: str, ends: str, **fields: Any) -> Queue:
    """A queue whose tasks have ended like that, the last one now."""
    queue = queue_of(cluster, cluster.queue("Fails", "bad", pause_on_failures=limit, **fields))
    for age, one in enumerate(reversed(ends)):
        end(cluster, Status.FAILED if one == "F" else Status.CONCLUDED, age + 1.0)
    return queue


def end(cluster: Cluster, status: Status, age_seconds: float) -> None:
    now = cluster.store.now()
    task = records.new_task("bad", {}, now=now)
    cluster.store.insert_tasks([{**task, "status": int(status), "mtime": now - timedelta(seconds=age_seconds)}])


def troubles() -> Troubles:
    return Troubles(SystemClock(), Pace())


def test_a_share_of_the_last_tasks_pauses_it(cluster: Cluster) -> None:
    queue = failing(cluster, "50%/4", "FCCFC")
    assert pause_failing(cluster.store, [queue], "n1", troubles()) == 0
    end(cluster, Status.TERMINATED, 0.0)
    assert pause_failing(cluster.store, [queue], "n1", troubles()) == 1
    paused = queue_of(cluster, "bad").paused or {}
    assert paused["why"] == "2 of the last 3 tasks failed (pause_on_failures 50%/4)" and paused["failures"] == 2


def test_of_several_nodes_one_pauses_it(cluster: Cluster) -> None:
    queue = failing(cluster, "2/1h", "FF")

    def pause(node_id: str) -> Any:
        return lambda store: pause_failing(store, [queue], node_id, troubles())

    assert sorted(at_once(cluster.url, pause("n1"), pause("n2"), pause("n3"))) == [0, 0, 1]


def test_a_pause_that_somebody_has_ended_does_not_come_back_by_an_older_look(cluster: Cluster) -> None:
    read_before = failing(cluster, "2/1h", "FF")
    queues = Queues(cluster.store, "ann@here", within_seconds=0.0)
    queues.resume("bad")
    assert pause_failing(cluster.store, [read_before], "n1", troubles()) == 0
    cluster.store.update_queue("bad", {"pause_on_failures": "1/1h"})
    assert pause_failing(cluster.store, [read_before], "n1", troubles()) == 0
    assert pause_failing(cluster.store, [queue_of(cluster, "bad")], "n1", troubles()) == 0  # none has failed since
    assert queue_of(cluster, "bad").paused is None


def test_what_cannot_be_found_out_of_one_queue_costs_no_other(cluster: Cluster) -> None:
    bad = failing(cluster, "2/1h", "FF")
    known, store = troubles(), _Refusing(cluster.store)
    odd = Queue(id="odd", class_name="x", pause_on_failures=bad.pause_on_failures)
    assert pause_failing(cast("Store", store), [odd, bad], "n1", known) == 1
    assert known.is_resting("pause_on_failures of queue", "odd")


class _Refusing:
    """The store, but for the failures of one queue."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def last_ends(self, queue: Any, **more: Any) -> Any:
        if queue == "odd":
            raise ValueError("odd")
        return self._store.last_ends(queue, **more)
