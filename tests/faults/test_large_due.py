"""Many tasks with large parameters that become due at one moment, belong to a dead node, or are deleted: a node stays
small and its heartbeats go on."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.clock import SystemClock
from disbatch_host.decide.placement import Load
from disbatch_host.documents.changes import TaskFilter, Want
from disbatch_host.documents.records import new_task
from disbatch_host.node.claim_ledger import ClaimLedger, ClaimRequest
from disbatch_host.node.compartment import Troubles
from disbatch_host.node.duties.due import settle_due
from disbatch_host.node.duties.lost_runs import settle
from disbatch_host.node.pace import Pace
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status
from helpers.nodes import Cluster
from helpers.processes import peak_memory, wait_until
from helpers.stores import PAST, REQUEST, push

SIZE = 8 * 2**20
MEMORY_MAX = 150 * 2**20
HEARTBEAT_SECONDS_MAX = 3.0
LONG = [pytest.mark.soak, pytest.mark.timeout(1200)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Why tasks are looked at all at once, and what becomes of them."""

    fields: dict[str, Any]
    becomes: Status | None  # None: they are gone
    queue: dict[str, Any] = field(default_factory=lambda: {"maxthreads": 0})


def blocked(**fields: Any) -> dict[str, Any]:
    return {"status": int(Status.BLOCKED), **fields}


def of_dead_node(status: Status, **fields: Any) -> dict[str, Any]:
    return {"status": int(status), "node": "dead", "claim": {"token": "t", "at": PAST}, **fields}


RUN = {"attempt": 1, "token": "t", "started": PAST}
KINDS = {
    "expired": Kind(fields={"expires": PAST}, becomes=Status.CANCELLED),
    "cancelled": Kind(fields={"cancel": REQUEST}, becomes=Status.CANCELLED),
    "their time has come": Kind(fields=blocked(not_before=PAST), becomes=Status.CREATED),
    "waiting for one": Kind(fields=blocked(after=["first"]), becomes=Status.CREATED),
    "awaited": Kind(fields={"status": int(Status.CONCLUDED), "awaited": True}, becomes=Status.CONCLUDED),
    "claimed by a dead node": Kind(fields=of_dead_node(Status.CLAIMED), becomes=Status.CREATED),
    "run by a dead node": Kind(fields=of_dead_node(Status.RUNNING, run=RUN), becomes=Status.ORPHANED),
    "kept too long": Kind(
        fields={"status": int(Status.CONCLUDED)}, becomes=None, queue={"maxthreads": 0, "keep": "1s"}
    ),
    "run": Kind(fields={}, becomes=Status.CONCLUDED, queue={"maxthreads": 1}),
}
CASES = [("expired", 16), *(pytest.param(name, 500, marks=LONG) for name in KINDS)]


@pytest.fixture(autouse=True)
def no_gigabytes_are_left(tmp_path: Path) -> Iterator[None]:
    yield
    shutil.rmtree(tmp_path / "store", ignore_errors=True)


def push_large(cluster: Cluster, count: int, **fields: Any) -> None:
    data = "x" * SIZE
    for _ in range(count):
        now = SystemClock().now()
        cluster.store.insert_tasks([{**new_task("Large", {"data": data}, now=now), **fields}])


@pytest.mark.parametrize(("name", "count"), CASES)
def test_many_large_tasks_that_are_due_at_once_cost_neither_memory_nor_heartbeats(
    cluster: Cluster, name: str, count: int
) -> None:
    """They were read whole, 500 at once: gigabytes, and heartbeats 11 s old. Then they were written 500 at once, which
    takes SQLite half a minute."""
    kind = KINDS[name]
    for one in ("Large", "Small"):
        cluster.plugin(one, "cat >/dev/null")
    cluster.queue("Large", **kind.queue)
    cluster.queue("Small")
    cluster.store.insert_tasks([{**new_task("Small", {}, now=PAST), "_id": "first", "awaited": True}])
    mtime = {"mtime": PAST} if kind.becomes is None else {}
    push_large(cluster, count, **kind.fields, **mtime)
    dead = {"_id": "dead", "session": "s", "host": "elsewhere", "version": "disbatch-host 0", "heartbeat": {}}
    assert cluster.store.put_node(dead, replacing=None)
    process = cluster.start("--heartbeat", "0.5", "--dead-after", "2")
    wait_until(lambda: cluster.store.get_node("n1"), 30, "node n1 never came")
    is_over = all_became(cluster, kind.becomes, count)
    oldest = 0.0

    def look() -> bool:
        nonlocal oldest
        oldest = max(oldest, age_of(cluster))
        return is_over()

    wait_until(look, 1000, f"not all of them are what they should be; oldest heartbeat {oldest:.1f} s")
    (small,) = cluster.push("Small", {})
    wait_until(lambda: look() and cluster.task(small).status == Status.CONCLUDED, 30, "other work does not go on")
    print(f"oldest heartbeat {oldest:.2f} s, peak memory {peak_memory(process.pid) / 2**20:.0f} MiB", flush=True)
    assert oldest < HEARTBEAT_SECONDS_MAX
    assert peak_memory(process.pid) < MEMORY_MAX
    process.terminate()
    assert process.wait(30) == 0
    which = TaskFilter(queue="Large")  # the check of all documents at the end would have them all in memory
    cluster.store.delete_tasks(
        [task.id for task in cluster.store.find_tasks(which, with_output=False, with_parameters=False)]
    )


def all_became(cluster: Cluster, status: Status | None, count: int) -> Callable[[], bool]:
    wanted = {} if status is None else {int(status): count}
    return lambda: cluster.store.count_by_status().get("Large", {}) == wanted


def age_of(cluster: Cluster) -> float:
    node = cluster.store.get_node("n1")
    assert node is not None and node.age_seconds is not None
    return node.age_seconds


def test_what_a_node_reads_to_settle_and_to_look_for_what_is_due_has_no_parameters(store: Store) -> None:
    (expired,) = push(store, {"secret": "large"}, expires=PAST, stdout="much")
    (lost,) = push(store, {"secret": "large"}, queue="w", stdout="much")
    (found,) = store.due("n1")
    assert found.id == expired and not {"parameters", "stdout", "stderr"} & found.document.keys()
    store.claim("dead", [Want("w", 1)], "t1")
    assert settle(store, "dead", is_on_this_machine=False).given_back == 1
    task = store.get_task(lost)
    assert task is not None and task.parameters == {"secret": "large"} and task.document["stdout"] == "much"


SECONDS = 0.02
SLOW = {"change_tasks", "commit", "delete_tasks", "promote_due"}
MANY = 21


class Slow:
    """A store that takes longer for each task that it writes than a call may go on, an hour later."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def now(self) -> datetime:
        return self._store.now() + timedelta(hours=1)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)

        def write(*arguments: Any, **more: Any) -> Any:
            tasks = arguments[0] if isinstance(arguments[0], int) else len(arguments[0])
            ends = time.monotonic() + SECONDS * tasks
            result = found(*arguments, **more)
            while time.monotonic() < ends:
                pass
            return result

        return write if name in SLOW else found


def promote(store: Store) -> bool:
    ledger = ClaimLedger("n1", Pace(piece_seconds=SECONDS))
    load = Load(max_per_queue=5, max_total=None)
    return not ledger.round(ClaimRequest(classes=frozenset(), load=load, refresh=True), store).refresh_again


def do_what_is_due(store: Store) -> bool:
    return settle_due(store, "n1", Troubles(SystemClock(), Pace()), seconds=SECONDS).is_all


def settle_lost(store: Store) -> bool:
    return settle(store, "dead", is_on_this_machine=False, pace=Pace(piece_seconds=SECONDS)).is_all


CALLS = {
    "expired": do_what_is_due,
    "cancelled": do_what_is_due,
    "their time has come": promote,
    "waiting for one": do_what_is_due,
    "claimed by a dead node": settle_lost,
    "run by a dead node": settle_lost,
}


def test_neither_changes_nor_followers_keep_the_others_from_their_turn(store: Store) -> None:
    (ended,) = store.insert_tasks([{**new_task("other", {}, now=PAST), **KINDS["awaited"].fields}])
    waiting = {**new_task("q", {}, now=PAST), **blocked(after=[ended])}
    followers = store.insert_tasks([waiting for _ in range(MANY)])
    expired = store.insert_tasks([{**new_task("q", {}, now=PAST), **KINDS["expired"].fields} for _ in range(MANY)])
    settle_due(Slow(store), "n1", Troubles(SystemClock(), Pace()), seconds=SECONDS)  # type: ignore[arg-type]
    changed = [[one.status for one in store.find_tasks(TaskFilter(ids=ids))] for ids in (followers, expired)]
    assert Status.CREATED in changed[0] and Status.BLOCKED in changed[0]
    assert Status.CANCELLED in changed[1] and Status.CREATED in changed[1]


@pytest.mark.parametrize("name", CALLS)
def test_one_call_does_no_more_than_there_is_time_for_and_the_next_ones_do_the_rest(store: Store, name: str) -> None:
    """Five hundred in one write kept the heartbeat waiting."""
    kind, slow = KINDS[name], Slow(store)
    store.insert_queue({"_id": "q", "class": "A", **kind.queue})
    first = {"_id": "first", "status": int(Status.CONCLUDED), "awaited": True}
    store.insert_tasks([{**new_task("other", {}, now=PAST), **first}])
    store.insert_tasks([{**new_task("q", {}, now=PAST), **kind.fields} for _ in range(MANY)])
    before = {task.id: task.status for task in store.find_tasks(TaskFilter(queue="q"))}
    left, is_all, calls = MANY, False, 0
    while not is_all:
        is_all = CALLS[name](slow)  # type: ignore[arg-type]
        now = {task.id: task.status for task in store.find_tasks(TaskFilter(queue="q"))}
        unchanged = sum(now.get(task_id) == status for task_id, status in before.items())
        assert left - unchanged <= 2, "a call went on after its time"
        left, calls = unchanged, calls + 1
    assert left == 0 and calls > MANY // 2
