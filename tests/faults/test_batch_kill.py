"""kill -9 of nodes while batches end: each batch is done once, tells of it once, and its counts are exact."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime

import pytest

from disbatch_host.documents import batch as batches
from disbatch_host.documents.batch import Batch, BatchState
from disbatch_protocol.status import Status
from helpers.nodes import Cluster
from helpers.processes import wait_until

pytestmark = pytest.mark.timeout(300)  # on a machine that is busy with much else

TASKS = 12  # of each batch


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
def test_each_batch_tells_once_what_came_of_it_however_often_nodes_are_killed(cluster: Cluster, kills: int) -> None:
    cluster.plugin("Work", "read -r line; case $line in *'\"fails\":true'*) exit 3;; esac", idempotent=True)
    cluster.plugin("Tell", "true", idempotent=True)
    work, tell = cluster.queue("Work", maxthreads=4), cluster.queue("Tell")
    names = [f"b{number:02}" for number in range(6 * kills)]
    now = datetime.now(UTC)
    for name in names:
        on_done = {"queue": str(tell), "parameters": {}}
        document = batches.new_batch(name, "me@here", now=now, source={"kind": "tasks"}, on_done=on_done)
        assert cluster.store.insert_batch(document)
        cluster.push(work, *({"fails": number % 4 == 0} for number in range(TASKS)), batch=name)
        wanted = batches.close_change("me@here", now=now)
        assert cluster.store.change_batch(name, wanted.set, only_if=wanted.only_if)
    chance = random.Random(kills)

    def undone() -> int:
        return sum(one["state"] != "done" for one in cluster.store.find_batches())

    for number in range(kills):
        nodes = [cluster.start(node_id=node_id) for node_id in ("n1", "n2")]
        left = undone()
        least = max(0, left - chance.randrange(1, 6))
        wait_until(lambda least=least: undone() <= least, 60, f"round {number} did not get on")
        for node in nodes:
            node.kill()
            node.wait()
    for node_id in ("n1", "n2", "n1"):  # each settles what its earlier life left; the last one runs what is left of all
        cluster.run(node_id=node_id, timeout_seconds=200)
    tasks = cluster.tasks()
    told = [task for task in tasks if task.queue == tell]
    assert Counter(task.document["parameters"]["batch"] for task in told) == Counter(names)
    assert {task.status for task in told} == {Status.CONCLUDED}
    for name in names:
        document = cluster.store.get_batch(name)
        assert document is not None
        batch = Batch.from_document(document)
        assert (batch.state, batch.owes_task) == (BatchState.DONE, False)
        ended = Counter(task.status for task in tasks if task.document.get("batch") == name)
        summary = batch.summary
        assert summary is not None and summary["total"] == TASKS == sum(ended.values())
        assert (summary["concluded"], summary["failed"]) == (ended[1], ended[2])
        (one,) = [task for task in told if task.document["parameters"]["batch"] == name]
        assert {key: one.document["parameters"][key] for key in ("total", "concluded", "failed")} == {
            key: summary[key] for key in ("total", "concluded", "failed")
        }
