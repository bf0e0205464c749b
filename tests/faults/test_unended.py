"""Runs of a dead node of which something cannot be ended: no other run of their tasks is begun beside it."""

from __future__ import annotations

import json
import os
import subprocess

from conftest import skip_or_fail
from disbatch_host.documents.records import Task, new_task
from disbatch_host.node.duties import lost_runs
from disbatch_host.node.pace import Pace
from disbatch_host.process.facts import process_started
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status

NOBODY = 65534
QUICK = Pace(kill_wait_seconds=0.1, kill_poll_seconds=0.02)


def running(store: Store, **run: object) -> object:
    """The id of an idempotent task that runs on n1."""
    fields = {
        "status": int(Status.RUNNING),
        "node": "n1",
        "claim": {"token": "t", "at": store.now()},
        "run": {"token": "t", "attempt": 1, "idempotent": True, **run},
    }
    (task_id,) = store.insert_tasks([{**new_task("q", {}, now=store.now()), **fields}])
    return task_id


def task_of(store: Store, task_id: object) -> Task:
    task = store.get_task(task_id)
    assert task is not None
    return task


def left_for_nobody(tasks: list[Task]) -> dict[str, int]:
    """What `kill_leftovers` returns to a process of another user."""
    reader, writer = os.pipe()
    if not (child := os.fork()):
        try:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(writer, json.dumps(lost_runs.kill_leftovers("n1", tasks, QUICK)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as told:
        return {str(name): int(pid) for name, pid in json.loads(told.read()).items()}


def test_a_task_whose_supervisor_cannot_be_ended_is_orphaned_and_says_so(store: Store) -> None:
    kept, other = running(store, supervisor="aa"), running(store, supervisor="bb")
    unended = {"aa": "process 7, which has its run,"}
    settled = lost_runs.settle(store, "n1", is_on_this_machine=False, pace=QUICK, unended=unended)
    assert (settled.orphaned, settled.started_again) == (1, 1)
    orphan = task_of(store, kept)
    assert orphan.status == Status.ORPHANED and orphan.run["outcome"] == "orphaned"
    assert orphan.document["error"]["message"] == (
        "disbatch-host: node n1 was lost while this task ran; process 7, which has its run, could not be ended, and "
        "may still work on it"
    )
    assert task_of(store, other).status == Status.CREATED


def test_a_process_that_may_not_be_killed_is_told(store: Store) -> None:
    """A plugin with sudo, for a node that is not root."""
    if os.geteuid() != 0:
        skip_or_fail("only root can start a process that another user may not kill")
    with subprocess.Popen(["sleep", "60"]) as stubborn, subprocess.Popen(["sleep", "60"]) as own:
        ids = [running(store, pid=one.pid, pid_started=process_started(one.pid)) for one in (stubborn, own)]
        tasks = [task_of(store, one) for one in ids]
        try:
            assert left_for_nobody(tasks) == {str(task.id): int(task.run["pid"]) for task in tasks}
            assert lost_runs.kill_leftovers("n1", tasks[1:], QUICK) == {}  # root may
            assert own.wait(10) < 0
        finally:
            stubborn.kill()
            own.kill()
