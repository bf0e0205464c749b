"""The way of a task from one status to another, by the steps that it may take."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from disbatch_host.documents.changes import TaskChange
from disbatch_protocol.status import TRANSITIONS, kind


def steps_between(left: int, new: int) -> list[tuple[int, int]]:
    """The fewest steps, each of which TRANSITIONS has. `new` may be a status above 2."""
    ways: list[list[int]] = [[left]]
    for way in ways:  # grows while it is walked through
        for follows in sorted(TRANSITIONS[kind(way[-1])]):
            if follows == kind(new):
                return list(pairwise([*way, new]))
            if follows not in way:
                ways.append([*way, follows])
    raise AssertionError(f"no way from {left} to {new}")


def walk(store: Any, task_id: Any, new: int, **fields: Any) -> None:
    """Bring a task to a status, whatever it has now; `fields` are set with the last step."""
    task = store.get_task(task_id)
    assert task is not None
    steps = steps_between(task.status, new)
    for left, to in steps:
        more = fields if (left, to) == steps[-1] else {}
        change = TaskChange(task_id=task_id, statuses=frozenset({left}), set={"status": int(to), **more})
        assert store.change_tasks([change]) == set()
