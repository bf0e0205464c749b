"""What nodes do with batches, on both stores: they mark them as done, create the task of `on_done`, and stop one that
has failed too often."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from disbatch_host.documents import batch as batches
from disbatch_host.documents.batch import Batch, BatchState
from disbatch_protocol.status import Status
from helpers.nodes import Cluster

TELL = 'cat > "$DISBATCH_TASK_ID.told"; exit 0'


def begin(cluster: Cluster, name: str, **more: Any) -> None:
    document = batches.new_batch(name, "me@here", now=datetime.now(UTC), source={"kind": "tasks"}, **more)
    assert cluster.store.insert_batch(document)


def close(cluster: Cluster, name: str) -> None:
    wanted = batches.close_change("me@here", now=datetime.now(UTC))
    assert cluster.store.change_batch(name, wanted.set, only_if=wanted.only_if)


def batch(cluster: Cluster, name: str) -> Batch:
    document = cluster.store.get_batch(name)
    assert document is not None
    return Batch.from_document(document)


def of_queue(cluster: Cluster, queue: Any) -> list[Any]:
    return [task for task in cluster.tasks() if task.queue == queue]


def test_the_task_of_on_done_is_created_once_and_knows_what_came_of_the_batch(cluster: Cluster) -> None:
    cluster.plugin("Odd", 'read -r line; case $line in *\'"n":3\'*) echo "no three" >&2; exit 4;; esac')
    cluster.plugin("Tell", TELL)
    queue, tell = cluster.queue("Odd"), cluster.queue("Tell")
    begin(cluster, "march", on_done={"queue": str(tell), "parameters": {"to": "ann"}})
    ids = cluster.push(queue, *({"n": number} for number in range(5)), batch="march")
    cluster.push(queue, {"n": 3})  # of no batch
    cluster.run()
    assert batch(cluster, "march").state is BatchState.OPEN and of_queue(cluster, tell) == []
    close(cluster, "march")
    cluster.run()
    (told,) = of_queue(cluster, tell)
    parameters = told.document["parameters"]
    assert told.status == Status.CONCLUDED and told.document["created_by"] == "me@here"
    (cause,) = parameters.pop("causes")
    assert cause["count"] == 1 and parameters.pop("seconds") > 0
    assert parameters == {
        "to": "ann", "batch": "march", "total": 5, "concluded": 4, "failed": 1, "cancelled": 0, "orphaned": 0,
    }  # fmt: skip
    done = batch(cluster, "march")
    assert done.state is BatchState.DONE and done.on_done is not None and done.on_done["task"] == told.id
    assert not done.owes_task and cluster.store.watched_batches(10) == []
    assert done.summary is not None and done.summary["failed"] == 1
    cluster.run()
    assert len(of_queue(cluster, tell)) == 1
    assert [cluster.task(one).status for one in ids] == [1, 1, 1, 2, 1]


def test_what_its_tasks_create_belongs_to_it_and_is_waited_for(cluster: Cluster) -> None:
    cluster.plugin("First", """echo '{"type":"tasks","tasks":[{"queue":"Second","parameters":{}}]}' >&3""")
    cluster.plugin("Second", "true")
    cluster.plugin("Tell", TELL)
    first, _, tell = cluster.queue("First"), cluster.queue("Second"), cluster.queue("Tell")
    begin(cluster, "b", on_done={"queue": str(tell), "parameters": {}})
    cluster.push(first, {}, {}, batch="b")
    close(cluster, "b")
    cluster.run()
    (told,) = of_queue(cluster, tell)
    assert told.document["parameters"]["total"] == 4


def test_a_debt_is_paid_by_the_next_node(cluster: Cluster) -> None:
    """A node that is killed between the mark and the task leaves the task to the next one."""
    cluster.plugin("Tell", TELL)
    tell = cluster.queue("Tell")
    begin(cluster, "b", on_done={"queue": str(tell), "parameters": {}})
    close(cluster, "b")
    (task_id,) = cluster.store.new_ids(1)
    summary = {"total": 0, "concluded": 0, "failed": 0, "cancelled": 0, "orphaned": 0, "seconds": 1.0, "causes": []}
    wanted = batches.done_change(batch(cluster, "b"), summary, now=datetime.now(UTC), task_id=task_id)
    assert cluster.store.change_batch("b", wanted.set, only_if=wanted.only_if)
    cluster.run()
    assert [task.id for task in of_queue(cluster, tell)] == [task_id]
    assert not batch(cluster, "b").owes_task


def test_a_batch_stops_after_so_many_failures(cluster: Cluster) -> None:
    cluster.plugin("Fail", "exit 3")
    queue = cluster.queue("Fail", maxthreads=1)
    begin(cluster, "b", stop_after=3)
    cluster.push(queue, *[{}] * 200, batch="b")
    others = cluster.push(queue, {}, {}, priority=-1)
    close(cluster, "b")
    cluster.run()
    stopped = batch(cluster, "b")
    assert stopped.state is BatchState.DONE and stopped.stopped is not None and stopped.stopped["failed"] >= 3
    assert stopped.summary is not None
    assert stopped.summary["cancelled"] > 0 and stopped.summary["failed"] + stopped.summary["cancelled"] == 200
    (one, *_) = [task for task in cluster.tasks() if task.status == Status.CANCELLED]
    assert "tasks of batch b failed, after which it stops" in one.document["error"]["message"]
    assert [cluster.task(one).status for one in others] == [2, 2]  # not of the batch


def test_a_node_that_is_to_leave_goes_on_until_a_large_batch_is_done(cluster: Cluster) -> None:
    """Each look takes a piece of the survey, and there are more pieces than looks in vain."""
    cluster.plugin("Fine", "exit 0")
    queue = cluster.queue("Fine")
    begin(cluster, "b")
    now = datetime.now(UTC)
    run = {"attempt": 1, "started": now, "ended": now, "seconds": 1.0}
    cluster.push(queue, *[{}] * 700, batch="b", status=1, run=run)
    close(cluster, "b")
    cluster.run(pace={"piece_seconds": 0.0})
    done = batch(cluster, "b")
    assert done.state is BatchState.DONE and done.summed("looked_at") == 700
