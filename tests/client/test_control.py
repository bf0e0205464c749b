"""Cancel, retry, release, set and delete: the outcome of each task, also when another process changes it meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from client.documents import NEVER_ALIVE, put_node, put_task
from disbatch_host.client import Client, Selection, control
from disbatch_host.client.control import BATCH, Changes, Outcome, UnreachableNode
from disbatch_host.documents import requests
from disbatch_host.documents.changes import TaskChange, TaskFilter
from disbatch_host.documents.records import Document, Task, TaskId
from disbatch_host.errors import FieldError, NotFoundError, UsageError
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status
from helpers.steps import walk


@pytest.fixture(autouse=True)
def queue(store: Store) -> None:
    store.insert_queue({"_id": "q", "class": "mail"})


def running(store: Store, node: str = "n1") -> TaskId:
    return put_task(
        store, status=Status.RUNNING, node=node, claim={"token": "t", "at": store.now()}, run={"attempt": 1}
    )


def document(store: Store, task_id: TaskId) -> Document:
    task = store.get_task(task_id)
    assert task is not None
    return dict(task.document)


def status(store: Store, task_id: TaskId) -> int:
    return int(document(store, task_id)["status"])


def outcomes(changes: Changes) -> dict[TaskId, Outcome]:
    return {one.task.id: one.outcome for one in changes.left}


def change_behind(store: Store, task_id: TaskId, status: int | None = None, **fields: Any) -> None:
    """What somebody else does meanwhile."""
    fields = {"mtime": store.now() + timedelta(seconds=1), **fields}
    if status is not None:
        walk(store, task_id, status, **fields)
        return
    any_status = frozenset(range(-6, 10))
    assert not store.change_tasks([TaskChange(task_id=task_id, statuses=any_status, set=fields)])


def test_what_waits_is_cancelled_and_what_runs_is_asked_to_stop(client: Client, store: Store) -> None:
    waiting, blocked = put_task(store), put_task(store, status=Status.BLOCKED)
    run, ended, orphaned = running(store), put_task(store, status=Status.CONCLUDED), put_task(store, status=-6)
    changes = client.cancel([waiting, blocked, run, ended, str(orphaned)], why="wrong letter")
    assert changes.counts == {Outcome.CANCELLED: 3, Outcome.ASKED: 1, Outcome.ENDED: 1}
    assert (changes.done, changes.stopping, outcomes(changes)) == (4, {run: "n1"}, {ended: Outcome.ENDED})
    assert [status(store, one) for one in (waiting, blocked, orphaned)] == [Status.CANCELLED] * 3
    asked = document(store, run)["cancel"]
    assert (asked["by"], asked["why"]) == ("me@here", "wrong letter")
    assert status(store, run) == Status.RUNNING


def test_a_selection_without_a_status_cancels_all_that_have_not_ended(client: Client, store: Store) -> None:
    waiting, run = put_task(store), running(store)
    kept = [put_task(store, status=Status.CONCLUDED), put_task(store, "other")]
    told: list[int] = []
    changes = client.cancel(Selection(queue="q"), on_progress=told.append)
    assert changes.counts == {Outcome.CANCELLED: 1, Outcome.ASKED: 1}
    assert told == [2]  # what still fits, since it runs, has had its turn
    assert status(store, waiting) == Status.CANCELLED and "cancel" in document(store, run)
    assert [status(store, one) for one in kept] == [Status.CONCLUDED, Status.CREATED]


def test_very_many_are_cancelled_in_batches(client: Client, store: Store) -> None:
    client.push_many("q", ({} for _ in range(2 * BATCH + 1)))
    told: list[int] = []
    changes = client.cancel(Selection(queue="q"), on_progress=told.append)
    assert changes.counts == {Outcome.CANCELLED: 2 * BATCH + 1} and told[-1] == 2 * BATCH + 1 and len(told) >= 3
    assert client.count(Selection(queue="q", status="cancelled")) == 2 * BATCH + 1


def test_nothing_happens_before_a_batch_is_asked_for(store: Store) -> None:
    task_id = put_task(store)
    which = TaskFilter(queue="q", statuses=frozenset({int(Status.CREATED)}))
    batches = control.cancel(store, which, requests.request_of("me@here", None, now=store.now()))
    assert status(store, task_id) == Status.CREATED
    assert [[one.outcome for one in batch] for batch in batches] == [[Outcome.CANCELLED]]


def test_nodes_that_may_not_stop_what_they_run_are_named(store: Store) -> None:
    put_node(store, "n1")
    put_node(store, "n2", settings=NEVER_ALIVE)
    put_node(store, "n3", version="4.0")
    dead = "another node settles its tasks within seconds: they are cancelled"
    gone = "once a node with this id is started, it settles its tasks: they are cancelled"
    assert control.unreachable_nodes(store, ["n4", "n3", "n2", "n1", "n2"]) == [
        UnreachableNode(id="n2", why=f"was last heard from 0 s ago and is taken for dead; {dead}"),
        UnreachableNode(id="n4", why=f"is not in the store; {gone}"),
        UnreachableNode(id="n3", why="belongs to another program (4.0), which may not stop it"),
    ]
    assert control.unreachable_nodes(store, []) == []


@pytest.mark.parametrize("ended", [Status.FAILED, 7, Status.TERMINATED, Status.CONCLUDED, Status.CANCELLED, -6])
def test_what_has_ended_is_run_again(client: Client, store: Store, ended: int) -> None:
    run = {"attempt": 1, "started": store.now(), "ended": store.now()}
    task_id = put_task(store, status=ended, run=run, error={"code": "exit_3", "message": "it broke"})
    assert client.retry(task_id, why="mended").counts == {Outcome.RETRIED: 1}
    found = document(store, task_id)
    assert found["status"] == Status.CREATED and found["retried"]["why"] == "mended"
    assert [one["error"]["code"] for one in found["attempts"]] == ["exit_3"]


def test_a_selection_without_a_status_runs_failed_and_terminated_ones_again(client: Client, store: Store) -> None:
    again = [
        put_task(store, status=Status.FAILED),
        put_task(store, status=9),
        put_task(store, status=Status.TERMINATED),
    ]
    kept = [put_task(store, status=Status.CONCLUDED), put_task(store, status=Status.CANCELLED), put_task(store)]
    assert client.retry(Selection(queue="q")).counts == {Outcome.RETRIED: 3}
    assert {status(store, one) for one in again} == {Status.CREATED}
    assert [status(store, one) for one in kept] == [Status.CONCLUDED, Status.CANCELLED, Status.CREATED]


def test_what_has_not_ended_or_whose_key_is_taken_is_not_run_again(client: Client, store: Store) -> None:
    first = client.push("q", {}, unique_key="k").id
    client.cancel(first)
    second = client.push("q", {}, unique_key="k").id
    changes = client.retry([first, second])
    assert outcomes(changes) == {first: Outcome.UNIQUE_KEY, second: Outcome.NOT_ENDED} and changes.done == 0
    (refused,) = [one for one in changes.left if one.outcome is Outcome.UNIQUE_KEY]
    assert refused.other is not None and refused.other.id == second


def test_a_task_that_fails_again_at_once_gets_one_turn(client: Client, store: Store) -> None:
    """A node may be so fast that a task fits the selection again before the last batch is looked for."""
    tasks = [put_task(store, status=Status.FAILED) for _ in range(3)]
    request = requests.request_of("me@here", None, now=store.now())
    turns = 0
    for batch in control.retry(store, TaskFilter(queue="q", statuses=frozenset({2})), request):
        turns += len(batch)
        for one in batch:
            change_behind(store, one.task.id, status=int(Status.FAILED))
    assert turns == len(tasks)


class Meddler:
    """A store behind whose back somebody changes the tasks of the first changes that are asked for."""

    def __init__(self, store: Store, meddle: Any, times: int = 1) -> None:
        self._store = store
        self._meddle = meddle
        self._left = times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def change_tasks(self, changes: Sequence[TaskChange], **how: Any) -> set[TaskId]:
        if self._left:
            self._left -= 1
            for one in changes:
                self._meddle(one.task_id)
        return self._store.change_tasks(changes, **how)


def test_a_task_that_starts_meanwhile_is_asked_to_stop(store: Store) -> None:
    task_id = put_task(store)
    meddler: Any = Meddler(store, lambda one: change_behind(store, one, status=0, node="n1"))
    changes = Client(meddler, None, "me@here").cancel(task_id)
    assert changes.stopping == {task_id: "n1"} and "cancel" in document(store, task_id)


def test_a_task_that_starts_while_those_that_wait_are_cancelled_runs_on(store: Store) -> None:
    """The incident: `task cancel --queue q --status waiting` on a busy queue stopped 388 tasks that were running."""
    starts, waits = put_task(store), put_task(store)
    meddler: Any = Meddler(store, lambda one: one == starts and change_behind(store, one, status=0, node="n1"))
    changes = Client(meddler, None, "me@here").cancel(Selection(queue="q", status="created"))
    assert changes.counts == {Outcome.CANCELLED: 1} and not changes.stopping
    assert "cancel" not in document(store, starts) and status(store, starts) == Status.RUNNING
    assert status(store, waits) == Status.CANCELLED


def test_a_task_that_has_concluded_while_failed_ones_are_run_again_is_left_alone(store: Store) -> None:
    task_id = put_task(store, status=Status.FAILED)
    meddler: Any = Meddler(store, lambda one: change_behind(store, one, status=1))
    changes = Client(meddler, None, "me@here").retry(Selection(queue="q", status="failed"))
    assert not changes.counts and status(store, task_id) == Status.CONCLUDED


def test_a_task_that_ends_meanwhile_has_ended(store: Store) -> None:
    task_id = put_task(store)
    meddler: Any = Meddler(store, lambda one: change_behind(store, one, status=1))
    assert outcomes(Client(meddler, None, "me@here").cancel(task_id)) == {task_id: Outcome.ENDED}
    assert status(store, task_id) == Status.CONCLUDED


def test_a_task_that_is_deleted_meanwhile_is_gone(store: Store) -> None:
    task_id = put_task(store, status=Status.FAILED)
    meddler: Any = Meddler(store, lambda one: store.delete_tasks([one]))
    assert outcomes(Client(meddler, None, "me@here").retry(task_id)) == {task_id: Outcome.GONE}


def test_a_task_that_somebody_changes_all_the_time_is_given_up(store: Store) -> None:
    task_id = put_task(store, status=Status.FAILED)
    seconds = iter(range(1, 100))

    def meddle(one: TaskId) -> None:
        change_behind(store, one, mtime=store.now() + timedelta(seconds=next(seconds)))

    meddler: Any = Meddler(store, meddle, times=50)
    assert outcomes(Client(meddler, None, "me@here").retry(task_id)) == {task_id: Outcome.REFUSED}


def test_a_task_that_is_awaited_meanwhile_is_kept(client: Client, store: Store) -> None:
    task_id = put_task(store, status=Status.FAILED)

    class Awaiting(Meddler):
        def delete_tasks(self, tasks: Sequence[TaskId], **more: Any) -> int:
            Client(store, None, "other@there").push("q", {}, after=tasks)
            return store.delete_tasks(tasks, **more)

    meddler: Any = Awaiting(store, None, times=0)
    assert outcomes(Client(meddler, None, "me@here").delete(task_id)) == {task_id: Outcome.AWAITED}


def test_what_is_blocked_is_released(client: Client, store: Store) -> None:
    first = client.push("q", {}).id
    after, later = client.push("q", {}, after=[first]).id, client.push("q", {}, delay="1h").id
    changes = client.release([after, later, first])
    assert changes.counts == {Outcome.RELEASED: 2, Outcome.NOT_BLOCKED: 1}
    assert outcomes(changes) == {first: Outcome.NOT_BLOCKED}
    for one in (after, later):
        found = document(store, one)
        assert found["status"] == Status.CREATED and not {"after", "not_before"} & found.keys()


def test_of_a_selection_the_blocked_ones_are_released_and_each_once(client: Client, store: Store) -> None:
    ann, bob = (client.push("q", {"user": name}, delay="1h").id for name in ("ann", "bob"))
    changes = client.release(Selection(queue="q", where="user=ann"))
    assert (changes.counts, changes.left) == ({Outcome.RELEASED: 1}, ())
    assert client.get(ann).status == Status.CREATED and client.get(bob).status == Status.BLOCKED
    with pytest.raises(UsageError, match="names a queue or a batch"):
        client.release(Selection(where="user=bob"))
    with pytest.raises(FieldError, match="expected blocked, found created"):
        client.release(Selection(queue="q", status="created"))


def test_priority_and_expires_of_what_waits_are_set_and_removed(client: Client, store: Store) -> None:
    task_id, run = client.push("q", {}, expires="1h").id, running(store)
    changes = client.set([task_id, run], priority=7, expires=None)
    assert changes.counts == {Outcome.SET: 1, Outcome.NOT_WAITING: 1} and outcomes(changes) == {
        run: Outcome.NOT_WAITING
    }
    assert document(store, task_id)["priority"] == 7 and "expires" not in document(store, task_id)
    client.set(task_id, priority=None, expires="2h")
    assert "priority" not in document(store, task_id)
    assert document(store, task_id)["expires"] > store.now() + timedelta(minutes=119)


def test_only_what_can_be_set_is_taken(client: Client, store: Store) -> None:
    task_id = put_task(store)
    with pytest.raises(UsageError, match="no field 'priorty' that can be set; did you mean 'priority'"):
        client.set(task_id, priorty=1)
    with pytest.raises(FieldError, match="priority: expected a whole number"):
        client.set(task_id, priority="1")
    with pytest.raises(FieldError, match="expires: expected a duration"):
        client.set(task_id, expires="never")


def test_only_what_has_ended_and_nobody_waits_for_is_deleted(client: Client, store: Store) -> None:
    ended, awaited, waiting = put_task(store, status=Status.CONCLUDED), client.push("q", {}).id, put_task(store)
    client.push("q", {}, after=[awaited])
    change_behind(store, awaited, status=int(Status.FAILED))
    changes = client.delete([ended, awaited, waiting])
    assert changes.counts == {Outcome.DELETED: 1, Outcome.AWAITED: 1, Outcome.NOT_ENDED: 1}
    assert outcomes(changes) == {awaited: Outcome.AWAITED, waiting: Outcome.NOT_ENDED}
    assert store.get_task(ended) is None and store.get_task(awaited) is not None


def test_a_selection_is_deleted_by_status_and_age(client: Client, store: Store) -> None:
    old = put_task(store, status=Status.CONCLUDED, age_seconds=3 * 86400)
    kept = [put_task(store, status=Status.CONCLUDED), put_task(store, status=2, age_seconds=3 * 86400)]
    assert client.delete(Selection(queue="q", status="concluded"), older="2d").counts == {Outcome.DELETED: 1}
    assert store.get_task(old) is None and all(store.get_task(one) for one in kept)


def test_ids_that_are_not_there_are_named_before_anything_is_changed(client: Client, store: Store) -> None:
    task_id = put_task(store)
    for verb in (client.cancel, client.retry, client.release, client.delete):
        with pytest.raises(NotFoundError, match="no task 'nope'"):
            verb([task_id, "nope"])
    assert status(store, task_id) == Status.CREATED


def test_a_verb_that_changes_tasks_wants_a_queue(client: Client) -> None:
    for verb in (client.cancel, client.retry):
        with pytest.raises(UsageError, match="names a queue or a batch, found a selection without one"):
            verb(Selection(error="exit_3"))
    with pytest.raises(UsageError, match="a selection that names a queue"):
        client.delete(Selection(status="failed"))


def test_statuses_that_a_verb_is_not_for_are_refused(client: Client) -> None:
    for verb, status_, reason in (
        (client.cancel, "concluded", "tasks that can be cancelled, found concluded"),
        (client.retry, "waiting", "tasks that have ended, found blocked"),
        (client.retry, -9, "tasks that have ended, found status -9"),
        (client.delete, ("failed", "running"), "tasks that have ended, found running"),
        (client.delete, (), "expected a status, such as 'concluded', found none"),
    ):
        with pytest.raises(FieldError, match=f"status: .*{reason}"):
            verb(Selection(queue="q", status=status_))
    with pytest.raises(UsageError, match="older is for a selection"):
        client.delete([], older=1)


def test_a_reason_that_tables_cannot_show_is_refused(client: Client, store: Store) -> None:
    task_id = put_task(store)
    for why in ("", "\x1b[2J"):
        with pytest.raises(UsageError, match="expected a reason"):
            client.cancel(task_id, why=why)
    assert status(store, task_id) == Status.CREATED


def test_results_hold_no_output(client: Client, store: Store) -> None:
    task_id = put_task(store, status=Status.CONCLUDED, stdout="x" * 1000)
    (result,) = client.cancel(task_id).left
    assert isinstance(result.task, Task) and "stdout" not in result.task.document
