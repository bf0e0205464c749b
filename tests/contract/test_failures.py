"""Failures by cause, on SQLite and on the real MongoDB: found by the key of their group, and counted by it, at a cost
that depends on the failures alone."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from conftest import opened
from disbatch_host.clock import SystemClock
from disbatch_host.documents.causes import with_group
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.failure_counts import FailureCount
from disbatch_host.documents.records import TaskId, new_task
from disbatch_host.store.contract import Store
from disbatch_host.store.sqlite import SqliteStore
from disbatch_protocol.status import Status
from helpers.stores import NOW, push

SECONDS = 30.0


def failed(store: Store, message: str, queue: str = "q", *, after_seconds: float = 0, **fields: Any) -> TaskId:
    """A task as a node leaves it."""
    ran = {"token": "t", "attempt": 1, "plugin": {"class": "C", "version": fields.pop("version", "1")}}
    error = with_group({"code": "exit_1", "message": message})
    task = {
        **new_task(queue, {}, now=NOW),
        "status": int(Status.FAILED), "node": "n1", "run": ran, "error": error,
        "mtime": NOW + timedelta(seconds=after_seconds),
    }  # fmt: skip
    return store.insert_tasks([{**task, **fields}])[0]


def key_of(message: str) -> str:
    return str(with_group({"code": "exit_1", "message": message})["group"]["key"])


def counted(store: Store, which: TaskFilter | None = None) -> dict[Any, int]:
    found = store.count_failures(which or TaskFilter(), seconds=SECONDS)
    assert found.is_complete
    total: Counter[Any] = Counter()
    for row in found.rows:
        total[row.key or row.code or row.status] += row.count
    return dict(total)


def test_a_store_without_failures_counts_none(store: Store) -> None:
    push(store, {})
    failed(store, "x", status=int(Status.CONCLUDED))  # not a failure, whatever is left in it
    assert counted(store) == {}


def test_failures_are_counted_by_cause_queue_status_node_and_version(store: Store) -> None:
    failed(store, "user 1 not found")
    failed(store, "user 22 not found", after_seconds=5)
    failed(store, "user 3 not found", "other", node="n2", version="2", status=7)
    failed(store, "no room")
    rows = store.count_failures(TaskFilter(), seconds=SECONDS).rows
    (first,) = [row for row in rows if row.count == 2]
    assert first == FailureCount(
        key=key_of("user 5 not found"), code=None, queue="q", status=2, node="n1", version="1", count=2, first=NOW,
        last=NOW + timedelta(seconds=5),
    )  # fmt: skip
    other = next(row for row in rows if row.queue == "other")
    assert (other.key, other.status, other.node, other.version, other.count) == (first.key, 7, "n2", "2", 1)
    assert len(rows) == 3


def test_orphaned_and_expired_tasks_are_told_by_their_status_and_cancelled_ones_are_not_there(store: Store) -> None:
    failed(store, "lost", status=int(Status.ORPHANED))
    failed(store, "expired", status=int(Status.CANCELLED))
    push(store, {}, status=int(Status.CANCELLED), error={"code": "cancelled", "message": "by me"})
    failed(store, "waits for another attempt", status=int(Status.BLOCKED))
    rows = store.count_failures(TaskFilter(), seconds=SECONDS).rows
    assert {(row.key, row.status) for row in rows} == {(key_of("lost"), -6), (key_of("expired"), -5)}


def test_failures_without_a_cause_are_counted_by_their_code_beside_the_others(store: Store) -> None:
    failed(store, "no room")
    for code in ("exit_2", "exit_2", None, 5):
        push(store, {}, status=2, error={"code": code, "message": "m"})
    push(store, {}, queue="deleted", status=9, error="a text")
    push(store, {}, queue="deleted", status=int(Status.ORPHANED))
    push(store, {}, status=2, error={"code": "odd", "message": "m", "group": {"key": 5}})
    assert counted(store) == {key_of("no room"): 1, "exit_2": 2, 2: 2, 9: 1, -6: 1, "odd": 1}
    assert counted(store, TaskFilter(queue="deleted")) == {9: 1, -6: 1}
    assert counted(store, TaskFilter(failure=key_of("no room"))) == {key_of("no room"): 1}


def test_each_filter_narrows_what_is_counted_and_what_is_found(store: Store) -> None:
    plain = [failed(store, "no room", batch="b"), failed(store, "no room", version="2", after_seconds=60)]
    other = failed(store, "no room", "other", node="n2", run={"plugin": {"class": "D", "version": "1"}})
    failed(store, "another cause")
    key = key_of("no room")
    for which, wanted in (
        (TaskFilter(failure=key), [*plain, other]),
        (TaskFilter(failure=key, queue="q"), plain),
        (TaskFilter(failure=key, batch="b"), plain[:1]),
        (TaskFilter(failure=key, version="2"), plain[1:]),
        (TaskFilter(failure=key, class_name="D"), [other]),
        (TaskFilter(failure=key, node="n2"), [other]),
        (TaskFilter(failure=key, changed_since=NOW + timedelta(seconds=1)), plain[1:]),
        (TaskFilter(failure=key, statuses=frozenset({1})), []),
        (TaskFilter(failure="00000000"), []),
    ):
        assert [one.id for one in store.find_tasks(which)] == wanted, which
        assert [one.id for one in store.find_tasks(which, newest_first=True, limit=1)] == wanted[-1:]
        assert {one.id for one in store.find_tasks(which, in_any_order=True)} == set(wanted)
        assert store.count_tasks(which) == len(wanted)
        assert counted(store, which) == ({key: len(wanted)} if wanted else {})
        by_cause = counted(store, dataclasses.replace(which, failure=None)).get(key, 0)
        assert by_cause == (len(wanted) if which.failure == key else 3)


def test_a_task_that_waits_for_another_attempt_is_found_by_its_cause(
    store: Store,
) -> None:
    waiting = failed(store, "no room", status=int(Status.BLOCKED))
    assert [one.id for one in store.find_tasks(TaskFilter(failure=key_of("no room")))] == [waiting]
    push(store, {})
    assert store.count_tasks(TaskFilter(failure=key_of("no room"))) == 1


def test_where_there_is_no_time_some_are_counted_and_that_is_said(store: Store) -> None:
    store.insert_tasks(
        [
            {**new_task("q", {}, now=NOW), "status": 2, "error": with_group({"code": "exit_1", "message": "no room"})}
            for _ in range(3000)
        ]
    )
    assert counted(store) == {key_of("no room"): 3000}
    found = store.count_failures(TaskFilter(), seconds=-1.0)
    total = sum(row.count for row in found.rows)
    assert 0 < total <= 3000
    if isinstance(store, SqliteStore):
        assert not found.is_complete
    else:  # a server may be too quick to notice that there is no time
        assert total == 3000 or not found.is_complete


def test_counting_in_a_file_reads_the_index_of_failures_alone(tmp_path: Path) -> None:
    """SQLite chooses another index as soon as a condition is written in another way."""
    store = SqliteStore(tmp_path / "x.db", SystemClock())
    store.open()
    key = key_of("no room")
    failed(store, "no room")
    statements: list[str] = []
    connection: sqlite3.Connection = store._opened()
    connection.set_trace_callback(statements.append)
    store.count_failures(TaskFilter(), seconds=SECONDS)
    store.count_failures(TaskFilter(queue="q", node="n1", version="1", batch="b"), seconds=SECONDS)
    list(store.find_tasks(TaskFilter(failure=key, queue="q", statuses=frozenset({2}), or_failed=True)))
    store.count_tasks(TaskFilter(failure=key, node="n1", batch="b"))
    connection.set_trace_callback(None)
    assert len(statements) >= 4
    for statement in statements:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
        used = [step for step in plan if "tasks" in step and "known" not in step]
        assert used, plan
        assert all("tasks_failure" in step or "COVERING INDEX tasks_status" in step for step in used), (statement, plan)
    store.close()


@pytest.mark.mongodb
def test_counting_on_a_server_reads_the_index_of_failures_alone(mongo_url: str) -> None:
    """A choice between two conditions on the status had it read each document."""
    with opened(mongo_url) as store:
        for number in range(20):
            failed(store, "no room", status=2 + number % 3)
        database = store._database
        database.command("profile", 2)
        try:
            assert counted(store) == {key_of("no room"): 20}
            assert counted(store, TaskFilter(queue="q", node="n1", version="1", class_name="C"))
            seen = list(database["system.profile"].find({"ns": f"{database.name}.tasks", "op": "command"}))
        finally:
            database.command("profile", 0)
            database["system.profile"].drop()
        assert len(seen) >= 4
        for one in seen:
            assert one.get("docsExamined", 0) == 0 and one.get("keysExamined", 0) <= 50, one


def test_a_file_of_before_gets_the_index_and_an_older_program_goes_on_with_it(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "x.db", SystemClock())
    store.open()
    failed(store, "no room")
    beside = sqlite3.connect(tmp_path / "x.db")
    beside.execute("DROP INDEX tasks_failure")  # as a version before left it
    version = beside.execute("PRAGMA user_version").fetchone()
    beside.commit()
    assert counted(store) == {key_of("no room"): 1}  # a program that has it open
    again = SqliteStore(tmp_path / "x.db", SystemClock())
    again.open()
    assert beside.execute("SELECT count(*) FROM sqlite_master WHERE name = 'tasks_failure'").fetchone() == (1,)
    assert beside.execute("PRAGMA user_version").fetchone() == version
    # An older program writes rows as it always did.
    beside.execute("UPDATE tasks SET status = -2, rest = '{}' WHERE status = 2")
    beside.execute("INSERT INTO tasks (queue, rest) VALUES ('q', 'not JSON with \"group\" in it')")
    beside.commit()
    assert counted(again) == {}
    beside.close()
    again.close()
    store.close()


def test_by_the_hour_of_their_end_failures_are_told_apart_as_well(store: Store) -> None:
    """With a cause and without; a task that says nothing of its end counts all the same."""
    hour = 3600
    begin = NOW.replace(minute=0, second=0, microsecond=0) - NOW
    for seconds in (0, hour - 1, hour, 5 * hour):
        failed(store, "no room", after_seconds=begin.total_seconds() + seconds)
    for seconds in (2, hour + 2):
        at = NOW + begin + timedelta(seconds=seconds)
        push(store, {}, status=2, error={"code": "old", "message": "m"}, mtime=at)
    found = store.count_failures(TaskFilter(), seconds=SECONDS, by_hour=True)
    assert found.is_complete
    counts: Counter[Any] = Counter()
    for row in found.rows:
        assert row.first is not None and row.last is not None and row.last - row.first < timedelta(hours=1)
        counts[row.key is None, (row.first - NOW - begin) // timedelta(hours=1)] += row.count
    assert counts == {(False, 0): 2, (False, 1): 1, (False, 5): 1, (True, 0): 1, (True, 1): 1}
    assert len(store.count_failures(TaskFilter(), seconds=SECONDS).rows) == 2
