"""Settling what a dead node has left: its claimed and running tasks, and on this machine its processes.

Responsible for: finding these tasks, killing what still runs for them here, and writing what becomes of each
(`run_document.lost_change` decides). Must not know: how it was found out that the node is dead.

Rules:
1. First a fence: the token of the claim is changed, so that the node, should it live after all, can no longer record
   what the next step does to its processes.
2. Then the processes, then the tasks: a task is given back only when no process of this machine works on it any more.
3. Each write is guarded. Two nodes that settle the same dead node do not harm each other.
"""

from __future__ import annotations

import dataclasses
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from disbatch_host import logs
from disbatch_host.documents import transitions
from disbatch_host.documents.changes import RunChange, RunKey, TaskFilter
from disbatch_host.documents.records import Task
from disbatch_host.process import leftovers
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status

log = logging.getLogger(__name__)

_BATCH = 500  # tasks settled in one commit
_KILL_WAIT_SECONDS = 5.0  # for killed processes to be gone; only one in uninterruptible sleep takes longer
_KILL_POLL_SECONDS = 0.01


@dataclass(slots=True)
class Settled:
    """How many tasks went which way."""

    given_back: int = 0  # certainly not started: back to Created
    started_again: int = 0  # idempotent: back to Created
    orphaned: int = 0

    def __bool__(self) -> bool:
        return bool(self.given_back or self.started_again or self.orphaned)

    def __str__(self) -> str:
        return (
            f"{self.given_back} never started and are back in their queues, {self.started_again} are run again "
            f"(idempotent), {self.orphaned} are orphaned"
        )


def settle(store: Store, node_id: str, *, is_on_this_machine: bool) -> Settled:
    """Settle every task that carries this node's id and is Claimed or Running. Called with the store's thread."""
    settled = Settled()
    which = TaskFilter(node=node_id, statuses=frozenset({int(Status.CLAIMED), int(Status.RUNNING)}))
    while tasks := list(store.find_tasks(which, limit=_BATCH, with_output=False)):
        fenced = _fence(store, node_id, tasks)
        if not fenced:
            break  # somebody else is at it; what is left comes with the next look
        if is_on_this_machine:
            kill_leftovers(node_id, fenced)
        changes = [transitions.lost_change(task, node=node_id, now=store.now()) for task in fenced]
        refused = store.commit(changes)
        for task, change in zip(fenced, changes, strict=True):
            if change.key in refused:
                continue  # another node has settled it, or its own node lives and has written
            if task.status == Status.CLAIMED:
                settled.given_back += 1
            elif change.set["status"] == Status.CREATED:
                settled.started_again += 1
            else:
                settled.orphaned += 1
    else:
        store.hold(node_id, {})  # it has nothing in hand any more: its places are free for others
    return settled


def _fence(store: Store, node_id: str, tasks: list[Task]) -> list[Task]:
    """The tasks that are this call's to settle now, with their new token."""
    token = f"settling-{uuid.uuid4().hex}"
    claim = {"token": token, "at": store.now()}
    changes = [
        RunChange(key=RunKey(task.id, node_id, task.token), statuses=(Status(task.status),), set={"claim": claim})
        for task in tasks
    ]
    refused = store.commit(changes)
    return [
        dataclasses.replace(task, token=token)
        for task, change in zip(tasks, changes, strict=True)
        if change.key not in refused
    ]


def kill_leftovers(node_id: str, tasks: list[Task]) -> None:
    """Kill the process groups that an earlier life of the node has started for these tasks, and wait until they are
    gone."""
    running = [task for task in tasks if task.status == Status.RUNNING]
    if not running:
        return
    groups = {
        (pid, started)
        for task in running
        if isinstance(pid := task.run.get("pid"), int) and isinstance(started := task.run.get("pid_started"), int)
    }
    processes = {(pid, started) for pid, started, _ in leftovers.find_runs(node_id, {str(t.id) for t in running})}
    alive = {(pid, started) for pid, started in groups | processes if leftovers.is_alive(pid, started)}
    for pid, started in alive:
        log.warning(
            "process %d is left from an earlier life of node %s; it is killed", pid, node_id,
            extra=logs.ids(pid=pid, about_node=node_id),
        )  # fmt: skip
        leftovers.kill(pid, started)
    _wait(lambda: not any(leftovers.is_alive(pid, started) for pid, started in alive))


def _wait(is_done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _KILL_WAIT_SECONDS
    while not is_done() and time.monotonic() < deadline:
        time.sleep(_KILL_POLL_SECONDS)
