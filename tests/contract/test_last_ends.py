"""When the last tasks of a queue ended, on SQLite and on the real MongoDB: exact, and at a cost that does not grow."""

from __future__ import annotations

import re
import sqlite3
from datetime import datetime, timedelta

import pytest

from disbatch_host.documents.records import new_task
from disbatch_host.store.contract import Store
from disbatch_host.store.mongo import MongoStore
from disbatch_host.store.mongo.last_ends import BY_END, BY_TERMINATION
from disbatch_host.store.sqlite import last_ends
from helpers.stores import NOW, find, on_sqlite, push, status_change


def ended(store: Store, status: int, *seconds: float, queue: str = "q") -> None:
    store.insert_tasks(
        [{**new_task(queue, {}, now=NOW), "status": status, "mtime": NOW + timedelta(seconds=one)} for one in seconds]
    )


def seconds(found: list[datetime]) -> list[float]:
    return [(at - NOW).total_seconds() for at in found]


def last(store: Store, limit: int = 100, *, failed: bool = True, since: float | None = None) -> list[float]:
    at = None if since is None else NOW + timedelta(seconds=since)
    return seconds(store.last_ends("q", failed=failed, since=at, limit=limit))


def test_failures_of_every_kind_come_together_the_newest_first(store: Store) -> None:
    assert last(store) == last(store, failed=False) == []
    ended(store, 2, 1, 5)
    ended(store, -3, 2, 7)
    ended(store, 7, 3)
    ended(store, 70, 4, 6)
    ended(store, 1, 10, 12, 11)
    for status in (-6, -5, -4, -2, -1, 0):
        ended(store, status, 20)
    ended(store, 2, 30, queue="other")
    ended(store, 1, 30, queue="other")
    assert last(store) == [7, 6, 5, 4, 3, 2, 1]
    assert last(store, 3) == [7, 6, 5]
    assert last(store, since=4) == [7, 6, 5, 4]
    assert last(store, failed=False) == [12, 11, 10]
    assert last(store, 2, failed=False) == [12, 11]
    assert last(store, failed=False, since=12) == [12] and last(store, since=8) == []


def test_a_task_that_runs_again_no_longer_counts(store: Store) -> None:
    ended(store, 2, 1, 2)
    assert last(store) == [2, 1]
    first, _ = find(store, queue="q")
    assert store.change_tasks([status_change(first, 2, -2)]) == set()
    assert last(store) == [2]


@on_sqlite
def test_odd_rows_are_not_times_of_failures(store: Store, store_url: str) -> None:
    ended(store, 2, 1)
    assert last(store) == [1]
    with sqlite3.connect(store_url.removeprefix("sqlite://")) as file:
        for status, mtime in (("'odd'", 5), (2, "'yesterday'"), (2, "x'00'"), (2, 2**62)):
            file.execute(f"INSERT INTO tasks (queue, status, mtime) VALUES ('q', {status}, {mtime})")
    assert last(store) == [1]


@on_sqlite
def test_the_file_gets_the_indexes_with_the_first_question_and_uses_them(store: Store, store_url: str) -> None:
    def names() -> set[str]:
        with sqlite3.connect(store_url.removeprefix("sqlite://")) as file:
            return {name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}

    before = names()
    assert not {"tasks_failed_at", "tasks_concluded_at"} & before
    push(store, {})
    last(store)
    assert names() - before == {"tasks_failed_at"}
    last(store, failed=False)
    assert names() - before == {"tasks_failed_at", "tasks_concluded_at"}
    with sqlite3.connect(store_url.removeprefix("sqlite://")) as file:
        for failed, name in ((True, "tasks_failed_at"), (False, "tasks_concluded_at")):
            plan = file.execute(f"EXPLAIN QUERY PLAN {last_ends.statement(failed=failed)}", ("q", 0, 5)).fetchall()
            (step,) = [row[3] for row in plan]  # in the order of the index: nothing is sorted
            assert re.fullmatch(rf"SEARCH tasks USING (COVERING )?INDEX {name} \(queue=\? AND mtime>\? .*\)", step)


@pytest.mark.mongodb
def test_the_server_reads_no_more_than_is_asked_for(mongo: MongoStore) -> None:
    ended(mongo, 2, *range(200))
    ended(mongo, 7, *range(200))
    ended(mongo, -3, *range(200))
    ended(mongo, 1, *range(200))
    assert last(mongo, 5) == [199, 199, 199, 198, 198]
    tasks = mongo._tasks
    known = [tuple(one["key"].items()) for one in tasks.list_indexes()]
    assert BY_END in known and BY_TERMINATION in known
    for status, index in ((2, BY_END), (-3, BY_TERMINATION), (1, BY_END)):
        which = {"queue": {"$eq": "q"}, "status": status, "mtime": {"$gte": NOW}}
        found = tasks.find(which, {"mtime": 1, "_id": 0}).sort("mtime", -1).limit(5).hint([*index]).explain()
        stats = found["executionStats"]
        assert stats["nReturned"] == 5 and stats["totalKeysExamined"] <= 6 and stats["totalDocsExamined"] == 0


@pytest.mark.mongodb
def test_an_index_that_somebody_has_dropped_is_made_again(mongo: MongoStore) -> None:
    ended(mongo, 2, 1)
    assert last(mongo) == [1]
    mongo._tasks.drop_index([*BY_END])
    with pytest.raises(Exception, match="hint"):
        last(mongo)
    assert last(mongo) == [1]
