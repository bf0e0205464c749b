"""The table of changes of status, held against both stores: what it allows is carried out, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest

from contract.test_store import NOW, push, stored
from disbatch_host.documents import steps, transitions
from disbatch_host.documents.changes import RunChange, RunKey, TaskChange, Want
from disbatch_host.store.contract import Store
from disbatch_protocol.status import TRANSITIONS, ImpossibleStepError, Status, kind, may_become

EVERY = [*(int(status) for status in Status), 7]
Construct = Callable[[Any, int, int], object]


def of_run(task_id: Any, left: int, new: int) -> RunChange:
    key = RunKey(task_id, "n1", "t1")
    return RunChange(key=key, statuses=(left,), set={"status": new, "mtime": NOW})  # type: ignore[arg-type]


def of_task(task_id: Any, left: int, new: int) -> TaskChange:
    return TaskChange(task_id=task_id, statuses=frozenset({left}), set={"status": new, "mtime": NOW})


def in_hand(store: Store, status: int) -> Any:
    """A task that node n1 has, whatever its status."""
    (task_id,) = push(store, {}, status=status, node="n1", claim={"token": "t1", "at": NOW})
    return task_id


def test_a_step_that_the_table_has_is_carried_out(store: Store) -> None:
    steps = [(int(left), int(new)) for left, follows in TRANSITIONS.items() for new in follows] + [(7, -2), (0, 7)]
    of_runs = [(in_hand(store, left), left, new) for left, new in steps]
    assert store.commit([of_run(*one) for one in of_runs]) == set()
    of_tasks = [(in_hand(store, left), left, new) for left, new in steps]
    assert store.change_tasks([of_task(*one) for one in of_tasks]) == set()
    for task_id, _, new in (*of_runs, *of_tasks):
        assert stored(store, task_id)["status"] == new


@pytest.mark.parametrize("construct", [of_run, of_task])
def test_a_step_that_the_table_has_not_reaches_no_store(store: Store, construct: Construct) -> None:
    """A change that makes a concluded task Running used to be carried out."""
    tasks = {left: in_hand(store, left) for left in EVERY}
    for left, new in product(EVERY, repeat=2):
        if not may_become(left, new):
            with pytest.raises(ImpossibleStepError):
                construct(tasks[left], left, new)
    assert {left: stored(store, task_id)["status"] for left, task_id in tasks.items()} == {one: one for one in EVERY}


def test_a_claim_takes_only_what_may_become_claimed(store: Store) -> None:
    tasks = {status: push(store, {}, status=status)[0] for status in EVERY}
    claimed = store.claim("n1", [Want("q", len(EVERY))], "t1")
    assert [task.id for task in claimed] == [tasks[steps.CLAIM.left]]
    found = {status: stored(store, task_id)["status"] for status, task_id in tasks.items()}
    assert found == {**{one: one for one in EVERY}, steps.CLAIM.left: steps.CLAIM.new}


def test_only_what_may_be_created_again_is_promoted(store: Store) -> None:
    tasks = {status: push(store, {}, status=status, not_before=NOW)[0] for status in EVERY}
    assert store.promote_due() == 1
    found = {status: stored(store, task_id)["status"] for status, task_id in tasks.items()}
    assert found == {**{one: one for one in EVERY}, steps.PROMOTE.left: steps.PROMOTE.new}
    promoted = stored(store, tasks[steps.PROMOTE.left])
    assert promoted["node"] == -1 and "not_before" not in promoted and promoted["mtime"] != NOW


@pytest.mark.parametrize("is_started_with_the_claim", [False, True])
def test_every_status_that_a_claim_leaves_is_one_that_may_follow(store: Store, is_started_with_the_claim: bool) -> None:
    push(store, {})

    def begin(task: Any) -> RunChange | None:
        key = RunKey(task.id, "n1", "t1")
        return transitions.start_change(task, key, {"attempt": 1}, now=NOW) if is_started_with_the_claim else None

    (task,) = store.claim("n1", [Want("q", 1)], "t1", begin)
    status = stored(store, task.id)["status"]
    assert status == (Status.RUNNING if is_started_with_the_claim else Status.CLAIMED)
    assert kind(status) in TRANSITIONS[Status.CREATED]
