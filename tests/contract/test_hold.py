"""A task waits as long as something of its last run could not be ended, and no longer than it would otherwise."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

import pytest

from disbatch_host.clock import SystemClock
from disbatch_host.documents.changes import TaskChange
from disbatch_host.documents.records import Task, new_task
from disbatch_host.node.compartment import Troubles
from disbatch_host.node.duties.left_over import LeftOver
from disbatch_host.node.pace import Pace
from disbatch_host.node.store_thread import StoreThread
from disbatch_host.process.facts import process_started
from disbatch_host.run import notes
from disbatch_host.run.ending import HOLD_SECONDS
from disbatch_host.run.report import RunReport, RunResult
from disbatch_host.store.contract import Store
from disbatch_protocol.outcome import Conclusion, Outcome
from disbatch_protocol.status import Status

HOLD = timedelta(seconds=HOLD_SECONDS)
LONG = timedelta(hours=6)
LIVING = {"pid": os.getpid(), "pid_started": process_started(os.getpid()), "user": "root", "program": "sleep"}
GONE = {**LIVING, "pid_started": 1}


class InThisThread:
    """The store at once, as its thread has it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def call(self, function: Callable[[Store], Any]) -> Any:
        return function(self._store)


def duty_of(store: Store) -> LeftOver:
    clock = SystemClock()
    return LeftOver(cast(StoreThread, InThisThread(store)), clock, Troubles(clock, Pace()), Pace())


def blocked(store: Store, left: dict[str, Any], *, for_time: timedelta) -> Task:
    """A task whose last run has left something, and that may be tried again after this time."""
    fields = {
        "status": int(Status.BLOCKED),
        "not_before": store.now() + for_time,
        "run": {"token": "t", "attempt": 1, "started": store.now(), "left_over": [left]},
        "claim": {"token": "t", "at": store.now()},
    }
    (task_id,) = store.insert_tasks([{**new_task("q", {}, now=store.now()), **fields}])
    return task_of(store, task_id)


def task_of(store: Store, task_id: Any) -> Task:
    task = store.get_task(task_id)
    assert task is not None
    return task


def wait_of(store: Store, task: Task) -> timedelta:
    waits: timedelta = task_of(store, task.id).document["not_before"] - store.now()
    return waits


def report(left: dict[str, Any], *, delay_seconds: float) -> RunReport:
    conclusion = Conclusion(outcome=Outcome.SNOOZE, status=Status.BLOCKED, delay_seconds=delay_seconds)
    return RunReport(result=RunResult.ENDED, conclusion=conclusion, left_over=[left])


@pytest.mark.parametrize("delay", [timedelta(0), LONG])
def test_a_delay_of_its_own_is_kept(store: Store, delay: timedelta) -> None:
    task, duty = blocked(store, LIVING, for_time=timedelta(seconds=1)), duty_of(store)
    duty.hold(task, report(LIVING, delay_seconds=delay.total_seconds()))
    duty._held[0].until = store.now()  # the first hold is over
    asyncio.run(duty.turn())
    assert abs(wait_of(store, task) - max(HOLD, delay)) < timedelta(seconds=20)


def test_it_goes_on_once_nothing_is_left(store: Store) -> None:
    task, duty = blocked(store, GONE, for_time=HOLD), duty_of(store)
    duty.hold(task, report(GONE, delay_seconds=0))
    asyncio.run(duty.turn())
    assert wait_of(store, task) <= timedelta(0) and not duty._held


def test_the_next_life_keeps_a_later_time(store: Store) -> None:
    for time, left in ((LONG, LIVING), (LONG, GONE), (timedelta(0), GONE)):
        task, duty = blocked(store, left, for_time=time), duty_of(store)
        asyncio.run(duty.hold_again([notes.note_of(Task.from_document(task.document), task.run)]))
        asyncio.run(duty.turn())
        assert abs(wait_of(store, task) - time) < timedelta(seconds=20)


def test_a_task_that_went_on_is_left_alone(store: Store) -> None:
    task, duty = blocked(store, LIVING, for_time=HOLD), duty_of(store)
    duty.hold(task, report(LIVING, delay_seconds=0))
    change = TaskChange(
        task_id=task.id, statuses=frozenset({int(Status.BLOCKED)}), set={"status": int(Status.CREATED)},
        unset=("not_before",),
    )  # fmt: skip
    assert not store.change_tasks([change])
    duty._held[0].until = store.now()
    asyncio.run(duty.turn())
    assert task_of(store, task.id).status == Status.CREATED and not duty._held
