"""What tests do with a store: tasks put there and looked at without a program between.

Must not know: which store it is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from disbatch_host.clock import SystemClock
from disbatch_host.documents import requests, transitions
from disbatch_host.documents.changes import RunChange, RunKey, TaskChange, TaskFilter, Want
from disbatch_host.documents.records import Task, new_task
from disbatch_host.store.contract import Store
from disbatch_host.store.open import open_store
from disbatch_protocol.status import Status
from helpers.steps import walk

NOW = datetime(2026, 4, 26, 17, 59, 33, 123000, tzinfo=UTC)
PAST, FUTURE = datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
DEADLINE_SECONDS = 60.0
REQUEST = requests.request_of("me@here", "because", now=NOW)
# Marks of tests to which it does not matter what the store is.
on_sqlite = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
living_on_sqlite = pytest.mark.parametrize("living", ["sqlite"], indirect=True, scope="module")

UNFINISHED = [-4, -2, -1, 0]
ENDED = [-5, -3, 1, 2, 7]


def one_store_each(fixture: str, name: str, values: Iterable[str]) -> pytest.MarkDecorator:
    """Every value on SQLite, and the first one on MongoDB as well: that the store keeps what is said has nothing to do
    with which of them says it."""
    values = list(values)
    cases = [("sqlite", value) for value in values]
    on_mongodb = pytest.param("mongodb", values[0], marks=pytest.mark.mongodb)
    return pytest.mark.parametrize((fixture, name), [*cases, on_mongodb], indirect=[fixture])


def push(store: Store, *parameters: Any, queue: str = "q", **more: Any) -> list[Any]:
    return store.insert_tasks([new_task(queue, one, now=NOW, **more) for one in parameters])


def claim_one(store: Store, token: str = "t1", node: str = "n1") -> tuple[Task, RunKey]:
    """Push a task and claim it."""
    push(store, {})
    (task,) = store.claim(node, [Want("q", 1)], token)
    return task, RunKey(task.id, node, token)


def change(key: RunKey, left: Status, new: Status | None = None, **fields: Any) -> RunChange:
    status = {} if new is None else {"status": int(new)}
    return RunChange(key=key, statuses=(left,), set={**status, **fields})


def stored(store: Store, task_id: Any) -> dict[str, Any]:
    task = store.get_task(task_id)
    assert task is not None
    return dict(task.document)


def task_of(store: Store, task_id: Any) -> Task:
    task = store.get_task(task_id)
    assert task is not None
    return task


def status_change(task_id: Any, left: int, new: int, **fields: Any) -> TaskChange:
    return TaskChange(task_id=task_id, statuses=frozenset({left}), set={"status": new, **fields})


def end(store: Store, task_id: Any, status: int = int(Status.CONCLUDED)) -> None:
    walk(store, task_id, status)


def retry(store: Store, task_id: Any) -> TaskChange:
    wanted = transitions.retry_change(task_of(store, task_id), REQUEST, now=NOW)
    assert wanted is not None
    return wanted


def due_ids(store: Store, node: str = "n1") -> set[Any]:
    return {task.id for task in store.due(node)}


def find(store: Store, **which: Any) -> list[Any]:
    return [task.id for task in store.find_tasks(TaskFilter(**which))]


def at_once(store_url: str, *actions: Callable[[Store], Any]) -> list[Any]:
    """Each action in a thread with a store of its own, all begun together; what they gave."""
    results: dict[int, Any] = {}

    def act(number: int) -> None:
        mine = open_store(store_url, SystemClock())
        try:
            mine.open()
            barrier.wait()
            results[number] = actions[number](mine)
        except BaseException as error:
            barrier.abort()
            results[number] = error
        finally:
            mine.close()

    barrier = threading.Barrier(len(actions))
    threads = [threading.Thread(target=act, args=(number,)) for number in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results.values():
        if isinstance(result, BaseException):
            raise result
    return [results[number] for number in range(len(actions))]


def rounds_until(is_done: Callable[[], bool]) -> Iterator[int]:
    """Counts rounds, with no pause, until it is done."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    number = 0
    while not is_done():
        assert time.monotonic() < deadline, "not done in time"
        yield number
        number += 1


def tell(store: Store, ended: Any) -> None:
    """What a node does when a task that others wait for has ended."""
    which = TaskFilter(after=ended, statuses=frozenset({int(Status.BLOCKED)}))
    task = task_of(store, ended)
    changes = [transitions.follow_change(follower, task, now=NOW) for follower in store.find_tasks(which)]
    assert store.change_tasks([one for one in changes if one is not None]) == set()
    assert store.change_tasks([transitions.followers_told_change(task)]) == set()
