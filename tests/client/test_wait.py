"""Waiting: for tasks or for a queue, with progress on the way and a summary at the end."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest

from client.documents import NEVER_ALIVE, put_node, put_task
from disbatch_host.client import Client, Selection
from disbatch_host.client.standstill import Still
from disbatch_host.client.waiting import NAMED_MAX, FailedTask, Progress, wait_for_ends
from disbatch_host.decide.why import Code
from disbatch_host.documents.records import TaskId
from disbatch_host.errors import NotFoundError, UsageError
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status
from helpers.steps import walk


@pytest.fixture(autouse=True)
def queue(store: Store) -> None:
    store.insert_queue({"_id": "q", "class": "mail"})


def end(store: Store, task_id: TaskId, status: int, message: str = "") -> None:
    error = {"error": {"code": "exit_3", "message": message}} if message else {}
    walk(store, task_id, status, mtime=store.now() + timedelta(milliseconds=5), **error)


def meanwhile(store: Store, steps: Sequence[Callable[[], object]]) -> Callable[[Progress], None]:
    """A callback that does one step at each of its calls: what others do while somebody waits."""
    left = list(steps)

    def on_progress(_: Progress) -> None:
        if left:
            left.pop(0)()

    return on_progress


def test_tasks_that_have_ended_already_are_told_at_once(client: Client, store: Store) -> None:
    good, bad = (
        put_task(store, status=Status.CONCLUDED),
        put_task(store, status=7, error={"message": "one\ndisbatch-host: no space left"}),
    )
    waited = client.wait([good, str(bad), good])
    assert (waited.done, waited.failed, waited.unfinished, waited.all_concluded) == (2, 1, 0, False)
    assert waited.first_failed == (FailedTask(id=bad, status=7, reason="one; no space left"),)
    assert waited.statuses == {good: 1, bad: 7}
    assert client.wait([good]).all_concluded and client.wait([]).all_concluded


def test_the_end_of_tasks_is_waited_for_with_progress(client: Client, store: Store) -> None:
    first, second = put_task(store), put_task(store)
    seen: list[Progress] = []
    others = meanwhile(
        store,
        [lambda: end(store, first, Status.CONCLUDED), lambda: None, lambda: end(store, second, 2, "it broke")],
    )

    def on_progress(progress: Progress) -> None:
        seen.append(progress)
        others(progress)

    waited = client.wait([first, second], on_progress=on_progress, timeout_seconds=60)
    assert (waited.done, waited.failed, waited.unfinished) == (2, 1, 0)
    assert seen[0] == Progress(done=0, failed=0, total=2) and seen[-1] == Progress(done=2, failed=1, total=2)
    assert Progress(done=1, failed=0, total=2) in seen
    assert [one.reason for one in waited.first_failed] == ["it broke"]


def test_what_has_not_ended_in_time_is_named(client: Client, store: Store) -> None:
    ended, left = put_task(store, status=Status.CONCLUDED), [put_task(store) for _ in range(3)]
    waited = client.wait([*left, ended], timeout_seconds=0.2)
    assert (waited.done, waited.unfinished, waited.all_concluded) == (1, 3, False)
    assert sorted(waited.first_unfinished, key=str) == sorted(left, key=str)
    assert next(iter(waited.statuses)) == ended and set(waited.statuses) == {ended, *left}


def test_only_the_first_failures_are_held(client: Client, store: Store) -> None:
    ids = [put_task(store, status=Status.FAILED) for _ in range(NAMED_MAX + 5)]
    waited = client.wait(ids)
    assert (waited.failed, len(waited.first_failed), len(waited.statuses)) == (NAMED_MAX + 5, NAMED_MAX, NAMED_MAX + 5)
    assert waited.first_failed[0].reason == ""


def test_a_task_that_is_not_there_or_goes_is_an_error(client: Client, store: Store) -> None:
    task_id = put_task(store)
    for unknown in ("nope", "0" * 24):
        with pytest.raises(NotFoundError, match=f"no task '{unknown}'"):
            client.wait([task_id, unknown])
    delete = meanwhile(store, [lambda: store.delete_tasks([task_id])])
    with pytest.raises(NotFoundError, match="a task that was waited for no longer exists"):
        client.wait([task_id], on_progress=delete, timeout_seconds=60)


def test_a_queue_is_waited_for_with_what_is_created_meanwhile(client: Client, store: Store) -> None:
    put_task(store, status=Status.FAILED, age_seconds=60)  # has ended before, and does not count
    first, more = put_task(store), []
    others = meanwhile(
        store,
        [
            lambda: more.append(put_task(store)),
            lambda: end(store, first, Status.CONCLUDED),
            lambda: end(store, more[0], Status.TERMINATED, "too long"),
        ],
    )
    seen: list[Progress] = []

    def on_progress(progress: Progress) -> None:
        seen.append(progress)
        others(progress)

    waited = client.wait(queue="q", on_progress=on_progress, timeout_seconds=60)
    assert (waited.done, waited.failed, waited.unfinished, waited.statuses) == (2, 1, 0, {})
    assert [(one.status, one.reason) for one in waited.first_failed] == [(Status.TERMINATED, "too long")]
    assert seen[0] == Progress(done=0, failed=0, total=1) and seen[-1] == Progress(done=2, failed=1, total=2)
    assert (waited.concluded, waited.codes, waited.before) == (1, {"exit_3": 1}, None)


def test_a_queue_whose_tasks_had_all_ended_is_no_success_and_says_how_they_ended(client: Client, store: Store) -> None:
    """Incident: five tasks failed before the command began to wait; it exited with 0, and a mail said "all well"."""
    for status in (Status.FAILED, 7, Status.TERMINATED, Status.CONCLUDED, Status.CANCELLED, Status.ORPHANED):
        put_task(store, status=status, age_seconds=60)
    waited = client.wait(queue="q")
    assert (waited.done, waited.failed, waited.unfinished, waited.all_concluded) == (0, 0, 0, False)
    assert waited.before is not None and {name: count for name, count in waited.before.items() if count} == {
        "concluded": 1, "failed": 3, "terminated": 1, "cancelled": 1, "orphaned": 1,
    }  # fmt: skip
    store.insert_queue({"_id": "empty", "class": "mail"})
    empty = client.wait(queue="empty")
    assert not empty.all_concluded and empty.before is not None and not any(empty.before.values())


def test_each_end_is_counted_under_its_own_word(client: Client, store: Store) -> None:
    ends = {Status.CONCLUDED: 2, Status.FAILED: 1, 9: 1, Status.TERMINATED: 1, Status.CANCELLED: 3, Status.ORPHANED: 1}
    named = [put_task(store, status=status) for status, count in ends.items() for _ in range(count)]
    by_id = client.wait(named)
    assert (by_id.done, by_id.concluded, by_id.failed, by_id.cancelled, by_id.orphaned) == (9, 2, 3, 3, 1)
    assert (by_id.not_concluded, by_id.codes) == (7, {"failed": 1, "failed (9)": 1, "terminated": 1})
    store.insert_queue({"_id": "r", "class": "mail"})
    waiting = [put_task(store, "r") for _ in range(9)]

    def all_end() -> None:
        left = iter(waiting)
        for status, count in ends.items():
            for _ in range(count):
                end(store, next(left), status)

    of_queue = client.wait(queue="r", on_progress=meanwhile(store, [all_end]), timeout_seconds=60)
    ended = (of_queue.done, of_queue.concluded, of_queue.failed, of_queue.cancelled, of_queue.orphaned)
    assert ended == (9, 2, 3, 3, 1) and of_queue.codes == by_id.codes


def test_why_nothing_moves_is_told_once(client: Client, store: Store) -> None:
    """Incident: no node was alive, and somebody watched a bar that said 0 of 4,201 for ever."""
    task_id = put_task(store)
    told: list[Still] = []
    client.wait(queue="q", timeout_seconds=0, on_still=told.append)
    client.wait([task_id], timeout_seconds=0, on_still=told.append)
    assert [(one.task_id, one.why.code) for one in told] == [(task_id, Code.NO_NODE)] * 2
    # While one of them is in the hands of a node, something moves.
    put_task(store, status=Status.RUNNING, node="n1")
    del told[:]
    client.wait(queue="q", timeout_seconds=0, on_still=told.append)
    assert told == []


def test_tasks_on_a_node_that_is_dead_are_told_as_a_standstill(client: Client, store: Store) -> None:
    """Incident: a node was killed, and `task wait` was silent for 80 seconds."""
    put_node(store, "n1", settings=NEVER_ALIVE)
    task_id = put_task(store, status=Status.RUNNING, node="n1", claim={"token": "t"})
    put_task(store)
    told: list[Still] = []
    client.wait(queue="q", timeout_seconds=0, on_still=told.append)
    client.wait([task_id], timeout_seconds=0, on_still=told.append)
    assert [(one.task_id, one.why.code) for one in told] == [(task_id, Code.LOST_NODE)] * 2
    said = r"it was running on node n1, which was last heard from \d s ago and is taken for dead"
    assert re.search(said, told[0].why.sentence)
    # Nothing is said while one of them runs on a node that is there.
    put_node(store, "n2")
    moving = put_task(store, status=Status.RUNNING, node="n2", claim={"token": "u"})
    del told[:]
    client.wait(queue="q", timeout_seconds=0, on_still=told.append)
    client.wait([task_id, moving], timeout_seconds=0, on_still=told.append)
    assert told == []


def test_a_wait_for_tasks_that_were_asked_to_stop_says_that_their_node_is_dead(store: Store) -> None:
    put_node(store, "n1", settings=NEVER_ALIVE)
    task_id = put_task(store, status=Status.RUNNING, node="n1", claim={"token": "t"})
    told: list[Still] = []

    def end_it(still: Still) -> None:
        told.append(still)
        end(store, task_id, Status.CANCELLED)

    assert wait_for_ends(store, [task_id], on_still=end_it) == []
    assert [one.why.code for one in told] == [Code.LOST_NODE]


def test_a_queue_that_does_not_become_empty_in_time_says_what_is_left(client: Client, store: Store) -> None:
    left = put_task(store)
    waited = client.wait(queue="q", timeout_seconds=0)
    assert (waited.done, waited.unfinished, waited.first_unfinished) == (0, 1, (left,))


def test_either_ids_or_a_queue_is_waited_for(client: Client) -> None:
    for given in ({}, {"ids": [], "queue": "q"}):
        with pytest.raises(UsageError, match="expected either task ids or a queue"):
            client.wait(**given)  # type: ignore[arg-type]
    with pytest.raises(NotFoundError, match="no queue 'p'"):
        client.wait(queue="p")


def test_ends_are_waited_for_whatever_they_are(store: Store, second_store: Store) -> None:
    cancelled, concluded, deleted = put_task(store), put_task(store), put_task(store)

    def others() -> None:
        end(second_store, cancelled, Status.CANCELLED)
        end(second_store, concluded, Status.CONCLUDED)
        second_store.delete_tasks([deleted])

    thread = threading.Thread(target=others)
    thread.start()
    ended: list[int] = []
    found = wait_for_ends(store, [cancelled, concluded, deleted], ended.append)
    thread.join()
    assert [one.id for one in found] == [concluded] and sum(ended) == 3


def test_what_is_selected_is_waited_for_and_nothing_else(client: Client, store: Store) -> None:
    put_task(store)
    (mine, other) = (put_task(store, parameters={"user": name}) for name in ("ann", "bob"))
    others = meanwhile(store, [lambda: end(store, other, 2, "no"), lambda: end(store, mine, Status.CONCLUDED)])
    waited = client.wait(which=Selection(queue="q", where="user=ann"), on_progress=others, timeout_seconds=60)
    assert (waited.done, waited.concluded, waited.all_concluded) == (1, 1, True)
    again = client.wait(which=Selection(where="user=bob"))
    assert again.before is not None and again.before["failed"] == 1 and not again.all_concluded
    with pytest.raises(UsageError, match="without a status"):
        client.wait(which=Selection(queue="q", status="running"))
    with pytest.raises(UsageError, match="or a selection to wait for"):
        client.wait(queue="q", which=Selection(queue="q"))
