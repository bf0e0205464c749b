"""Batches, on SQLite and on the real MongoDB: their documents, the tasks that name them, and what keeps these."""

from __future__ import annotations

import dataclasses
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from disbatch_host.clock import SystemClock
from disbatch_host.documents import batch as batches
from disbatch_host.documents.batch import Batch, BatchState
from disbatch_host.documents.changes import RunKey, TaskFilter, Want
from disbatch_host.documents.records import new_task
from disbatch_host.store.contract import Store
from disbatch_host.store.contract.answers import BatchCounts
from disbatch_host.store.sqlite import SqliteStore
from disbatch_protocol.status import Status
from helpers.stores import FUTURE, NOW, at_once, change, end, find, push, retry, stored


def new(store: Store, name: str = "b", **more: Any) -> Batch:
    assert store.insert_batch(batches.new_batch(name, "me@here", now=NOW, source={"kind": "tasks"}, **more))
    return batch(store, name)


def batch(store: Store, name: str = "b") -> Batch:
    document = store.get_batch(name)
    assert document is not None
    return Batch.from_document(document)


def apply(store: Store, name: str, wanted: batches.BatchChange) -> bool:
    return store.change_batch(name, wanted.set, wanted.unset, only_if=wanted.only_if)


def done(store: Store, name: str = "b") -> None:
    assert apply(store, name, batches.close_change("me@here", now=NOW))
    assert apply(store, name, batches.done_change(batch(store, name), {"total": 0}, now=NOW))


def test_a_batch_reads_back_as_it_was_written(store: Store) -> None:
    source = {"kind": "import", "name": "usérs.csv", "sha256": "ab" * 32}
    on_done = {"queue": "mail", "parameters": {"$to": "a@b.c", "n.m": [1, None]}}
    document = batches.new_batch("march 2026", "me@here", now=NOW, source=source, on_done=on_done, stop_after=3)
    assert store.insert_batch(document)
    assert store.get_batch("march 2026") == document
    found = batch(store, "march 2026")
    assert (found.state, found.by, found.ctime, found.source) == (BatchState.OPEN, "me@here", NOW, source)
    assert (found.on_done, found.stop_after, found.fault, found.is_armed) == (on_done, 3, None, True)
    assert not store.insert_batch(document) and store.get_batch("March 2026") is None


def test_batches_are_found_by_state_and_prefix_in_the_order_of_their_creation(store: Store) -> None:
    for minutes, name in enumerate(["b2", "a1", "b10", "b*"]):
        document = batches.new_batch(name, "me", now=NOW + timedelta(minutes=minutes), source={})
        assert store.insert_batch(document)
    done(store, "a1")

    def found(**which: Any) -> list[Any]:
        return [one["_id"] for one in store.find_batches(**which)]

    assert [one for _, one in store.batch_ids()] == found() and all(created for created, _ in store.batch_ids())
    assert [one for _, one in store.batch_ids({"closed"})] == found(states={"closed"})
    assert found() == ["b2", "a1", "b10", "b*"] and found(newest_first=True, limit=2) == ["b*", "b10"]
    assert found(states={"open"}) == ["b2", "b10", "b*"] and found(states={"done", "closed"}) == ["a1"]
    assert found(prefix="b") == ["b2", "b10", "b*"] and found(prefix="b*") == ["b*"] and found(prefix="c") == []
    assert found(limit=0) == []


def test_a_change_is_refused_unless_the_batch_is_as_it_was_read(store: Store) -> None:
    first = new(store)
    close = batches.close_change("me@here", now=NOW, total=7)
    assert apply(store, "b", close) and not apply(store, "b", close)
    assert not store.change_batch("gone", {"state": "done"}, only_if={})
    closed = batch(store)
    assert closed.total == 7 and closed.closed == {"at": NOW, "by": "me@here"} and first.state is BatchState.OPEN
    assert apply(store, "b", batches.done_change(closed, {"total": 7}, now=FUTURE))
    assert not apply(store, "b", batches.done_change(closed, {"total": 8}, now=FUTURE))
    ended = batch(store)
    assert (ended.state, ended.done_at, ended.summary) == (BatchState.DONE, FUTURE, {"total": 7})
    assert apply(store, "b", batches.reopened_change(ended, arms=False))
    again = batch(store)
    assert (again.state, again.done_at, again.round) == (BatchState.CLOSED, None, 2)
    # What was seen of the first round decides nothing in the second.
    assert not apply(store, "b", batches.done_change(closed, {"total": 8}, now=FUTURE))


def test_of_many_nodes_that_see_the_end_one_marks_the_batch(store: Store, store_url: str) -> None:
    new(store)
    assert apply(store, "b", batches.close_change("me", now=NOW))
    seen = batch(store)
    wanted = [batches.done_change(seen, {"by": number}, now=NOW) for number in range(8)]
    done_by = at_once(store_url, *(lambda one, w=w: apply(one, "b", w) for w in wanted))  # type: ignore[misc]
    assert sum(done_by) == 1


def test_on_done_is_armed_until_it_has_created_its_task_and_again_when_somebody_says_so(store: Store) -> None:
    new(store, on_done={"queue": "mail", "parameters": {}})
    assert apply(store, "b", batches.close_change("me", now=NOW))
    assert apply(store, "b", batches.done_change(batch(store), {}, now=NOW, task_id="7"))
    owing = batch(store)
    assert not owing.is_armed and owing.on_done == {"queue": "mail", "parameters": {}, "task": "7", "owed": True}
    assert apply(store, "b", batches.paid_change(owing)) and not apply(store, "b", batches.paid_change(owing))
    assert apply(store, "b", batches.reopened_change(batch(store), arms=False)) and not batch(store).is_armed
    assert apply(store, "b", batches.done_change(batch(store), {}, now=NOW, task_id="8"))
    assert batch(store).on_done == {"queue": "mail", "parameters": {}, "task": "7"}  # not fired again
    assert apply(store, "b", batches.reopened_change(batch(store), arms=True)) and batch(store).is_armed


def test_a_batch_that_goes_on_before_its_task_was_created_is_watched_until_both_are_over(store: Store) -> None:
    """A node died between the mark and the task, somebody retried a failed task, and the next node paid the debt: the
    batch was not looked at again, and never done."""
    new(store, on_done={"queue": "mail", "parameters": {}})
    assert apply(store, "b", batches.close_change("me", now=NOW))
    assert apply(store, "b", batches.done_change(batch(store), {}, now=NOW, task_id="7"))
    assert apply(store, "b", batches.reopened_change(batch(store), arms=False))
    going_on = batch(store)
    assert going_on.owes_task and [one["_id"] for one in store.watched_batches(5)] == ["b"]
    # Done once more first: the debt is not forgotten.
    assert apply(store, "b", batches.done_change(going_on, {}, now=NOW))
    assert batch(store).owes_task and store.watched_batches(5)
    assert not apply(store, "b", batches.paid_change(going_on))  # it is no more as it was read
    assert apply(store, "b", batches.reopened_change(batch(store), arms=False))
    assert apply(store, "b", batches.paid_change(batch(store)))
    assert not batch(store).owes_task and store.watched_batches(5)  # it is still to be done
    assert apply(store, "b", batches.done_change(batch(store), {}, now=NOW))
    assert store.watched_batches(5) == []


def test_tasks_are_counted_and_selected_by_their_batch(store: Store) -> None:
    one, two, three = push(store, {}, {}, {}, batch="b")
    push(store, {}, batch="other")
    push(store, {})
    end(store, one)
    end(store, two, 7)
    assert stored(store, three)["batch"] == "b"
    assert set(find(store, batch="b")) == {one, two, three} and find(store, batch="b", statuses={-2}) == [three]
    assert store.count_batch("b") == BatchCounts(by_status={1: 1, 7: 1, -2: 1}, is_whole=True)
    assert store.count_batch("b", budget_seconds=5.0) == store.count_batch("b")
    assert store.count_batch("none").by_status == {} and not store.is_batch_unfinished("none")
    assert store.is_batch_unfinished("b") and store.is_batch_unfinished("other")
    end(store, three)
    assert not store.is_batch_unfinished("b")
    store.change_tasks([retry(store, two)])
    assert store.is_batch_unfinished("b")


def test_a_count_that_takes_too_long_says_that_it_is_not_whole(store: Store) -> None:
    store.insert_tasks([new_task("q", {}, now=NOW, batch="b") for _ in range(30_000)])
    found = store.count_batch("b", budget_seconds=0.000001)
    # A fast machine may have counted them all before it was looked at the time.
    assert found.is_whole or found.by_status == {-2: BatchCounts.SEEN_MAX}
    assert store.count_batch("b") == BatchCounts(by_status={-2: 30_000}, is_whole=True)


def test_a_batch_is_unfinished_as_long_as_one_of_its_tasks_is_claimed_runs_or_owes_follow_ups(store: Store) -> None:
    push(store, {}, batch="b")
    (task,) = store.claim("n1", [Want("q", 1)], "t1")
    assert store.is_batch_unfinished("b")
    key = RunKey(task.id, "n1", "t1")
    store.commit([change(key, Status.CLAIMED, Status.RUNNING)])
    assert store.is_batch_unfinished("b")
    follow_up = new_task("next", {}, now=NOW, batch="b", parent=str(task.id))
    ending = change(key, Status.RUNNING, Status.CONCLUDED)
    store.commit([dataclasses.replace(ending, creates=(follow_up,))])
    assert store.is_batch_unfinished("b")
    assert store.count_batch("b").by_status == {1: 1, -2: 1}


def test_tasks_of_a_batch_that_is_not_done_are_not_deleted(store: Store) -> None:
    new(store)
    (held,) = push(store, {}, batch="b")
    (free,) = push(store, {}, batch="without a document")
    for task_id in (held, free):
        end(store, task_id)
    later = datetime.now(UTC) + timedelta(days=1)
    assert store.ended_before("q", later, 10) == [free]
    assert store.delete_tasks([held, free]) == 1 and find(store) == [held]
    done(store)
    assert store.ended_before("q", later, 10) == [held] and store.delete_tasks([held]) == 1
    assert store.delete_batch("b", only_if={"state": "open"}) is False
    assert store.delete_batch("b", only_if={"state": "done"}) and store.get_batch("b") is None


def test_a_batch_that_somebody_has_damaged_costs_only_itself(store: Store) -> None:
    new(store)
    odd = {"_id": "odd", "state": "half", "on_done": 5, "ctime": "yesterday", "round": "x", "closed": [], "total": "?"}
    assert store.insert_batch(odd)
    found = batch(store, "odd")
    assert found.state is BatchState.OPEN and found.fault is not None and "half" in found.fault
    assert (found.on_done, found.ctime, found.round, found.closed, found.total) == (None, None, 1, None, None)
    assert {one["_id"] for one in store.find_batches()} == {"b", "odd"}
    assert {one for _, one in store.batch_ids()} == {"b", "odd"}


def test_a_row_that_cannot_be_read_costs_only_itself(sqlite: SqliteStore, sqlite_file: Path) -> None:
    new(sqlite)
    with sqlite3.connect(sqlite_file) as by_hand:
        by_hand.execute("INSERT INTO batches (id, state, document) VALUES ('x', 'closed', '{oops')")
        by_hand.execute("INSERT INTO batches (id, state, document) VALUES (x'ff', NULL, '[]')")
    assert [one["_id"] for one in sqlite.find_batches(states={"open"})] == ["b"]
    assert len(sqlite.find_batches()) == 3
    assert "cannot be read" in str(batch(sqlite, "x").fault)


def test_a_file_of_before_gets_what_batches_need_and_the_program_of_before_goes_on_with_it(sqlite_file: Path) -> None:
    """Nothing that was there has changed, so that nodes of both versions may use the file."""
    store = SqliteStore(sqlite_file, SystemClock())
    store.open()
    (kept,) = push(store, {})
    store.close()
    with sqlite3.connect(sqlite_file) as by_hand:
        by_hand.executescript(
            """DROP INDEX tasks_failure; DROP INDEX tasks_batch; DROP TABLE batches;
            ALTER TABLE tasks DROP COLUMN batch;
            ALTER TABLE tasks DROP COLUMN created_by;
            UPDATE tasks SET rest = '{"batch": "b", "note": 5}'"""
        )
    store = SqliteStore(sqlite_file, SystemClock())
    store.open()
    assert find(store, batch="b") == [kept] and stored(store, kept)["note"] == 5
    new(store)
    with sqlite3.connect(sqlite_file) as of_before:  # as it inserts tasks: by the columns that it knows
        of_before.execute("INSERT INTO tasks (id, queue) VALUES ('x', 'q')")
    assert [task.id for task in store.find_tasks(TaskFilter())] == [kept, "x"]
    store.close()
