"""Failures told apart by version, node and queue besides their cause, or instead of it; and by the hour."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from client.documents import put_task
from disbatch_host.client import Client, Selection
from disbatch_host.client.failures import BY, narrowed
from disbatch_host.documents.causes import with_group
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status


def failed(store: Store, message: str, queue: str, node: str | None, version: str | None, **more: Any) -> None:
    error = with_group({"code": "exit_1", "message": message})
    run = {} if version is None else {"plugin": {"class": "C", "version": version}}
    placed = {} if node is None else {"node": node}
    put_task(store, queue, **{"status": Status.FAILED, "error": error, "run": run, **placed, **more})


@pytest.fixture
def planted(client: Client) -> Client:
    store = client.store
    for _ in range(3):
        failed(store, "no room", "mail", "n1", "1.0")
    failed(store, "no room", "mail", "n2", "1.0")
    failed(store, "no room", "move", "n2", "1.1")
    failed(store, "user 5 is gone", "move", "n2", "1.1")
    failed(store, "user 6 is gone", "move", "n2", "1.1", status=Status.ORPHANED)
    failed(store, "of another program", "move", None, None, error={"code": "old", "message": "m"})
    failed(store, "late", "mail", None, None, status=Status.CANCELLED)
    return client


@pytest.mark.parametrize("by", [(one,) for one in BY] + [("error", "version"), ("error", "node", "queue"), BY, BY[1:]])
def test_a_group_has_exactly_the_tasks_that_its_filter_selects(planted: Client, by: tuple[str, ...]) -> None:
    found = planted.failures(by=by)
    groups = found.reasons
    assert sum(one.total for one in groups) == (9 if "error" in by else 8)  # what expired ran nowhere
    seen = set()
    for one in groups:
        assert set(one.only) == {*by} - {"error"}
        seen.add((one.key, one.code, *one.only.values()))
        which = narrowed(TaskFilter(), one.only, one.versions_of_others)
        tasks = [task for task in planted.store.find_tasks(which, limit=100) if _is_of(task, one, by)]
        assert len(tasks) == one.total, (by, one)
        assert {*one.tasks} <= {task.id for task in tasks} and one.tasks
        assert one.message
    assert len(seen) == len(groups)


def _is_of(task: Any, group: Any, by: tuple[str, ...]) -> bool:
    if task.status == Status.CANCELLED and "error" not in by:
        return False
    error = task.document["error"]
    if "error" not in by:
        return True
    return error.get("group", {}).get("key") == group.key and error["code"] == group.code


def test_counts_are_those_that_were_planted(planted: Client) -> None:
    found = {(one.text, one.only["version"]): one.total for one in planted.failures(by=("error", "version")).reasons}
    assert found == {
        ("exit_1: no room", "1.0"): 4, ("exit_1: no room", "1.1"): 1, ("exit_1: user <n> is gone", "1.1"): 2,
        ("old", None): 1, ("exit_1: late", None): 1,
    }  # fmt: skip
    assert {one.only["node"]: one.total for one in planted.failures(by=("node",)).reasons} == {
        "n1": 3,
        "n2": 4,
        None: 1,
    }


def test_failures_are_counted_by_the_hour(client: Client) -> None:
    for hours in (0, 0, 1, 30):
        failed(client.store, "no room", "mail", "n1", "1.0", age_seconds=3600 * hours)
    now = client.store.now()
    found = client.failures_by_hour(Selection(queue="mail", ended_since=timedelta(hours=25)))
    this = now.replace(minute=0, second=0, microsecond=0)
    assert found.is_complete and sum(found.counts.values()) == 3
    assert {(this - at) // timedelta(hours=1) for at in found.counts} <= {-1, 0, 1, 2}
