"""One bad task, plugin directory or change costs only itself. On both stores, with real nodes and programs."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.clock import SystemClock
from disbatch_host.decide.placement import Load
from disbatch_host.documents.changes import RunChange, RunKey, TaskChange, Want
from disbatch_host.documents.records import Task, new_task
from disbatch_host.errors import StoreRefusedError
from disbatch_host.node.claim_ledger import ClaimLedger, ClaimRequest
from disbatch_host.node.compartment import Troubles
from disbatch_host.node.duties import due, lost_runs, retention
from disbatch_host.node.pace import Pace
from disbatch_host.node.suspects import ClaimFailedError
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status
from helpers.nodes import Cluster, Living
from helpers.processes import wait_until
from helpers.stores import on_sqlite

WORKER = r"""#!/usr/bin/env python3
import os, sys
sys.stdin.buffer.readline()
os.write(3, b'{"type":"ready","protocol":1}\n')
for line in sys.stdin.buffer:
    os.write(3, b'{"type":"done","exit":0}\n')
"""
QUICK = ("--heartbeat", "0.3")


def failed_by_host(task: Task) -> str:
    """What the task says of why it was failed."""
    run, error = task.run, task.document["error"]
    assert (task.status, run["reason"], run["outcome"]) == (Status.FAILED, "host_error", "permanent")
    assert error["code"] == "host_error" and error["message"].startswith("disbatch-host: ")
    return str(error["message"])


@pytest.mark.parametrize("mode", ["oneshot", "worker"])
def test_a_task_that_cannot_be_handed_to_a_program_fails_and_its_class_goes_on(living: Living, mode: str) -> None:
    """Such tasks used to go back to their queue, five times in a moment, until their class was set aside."""
    name = living.own_name("Handed")
    program = WORKER if mode == "worker" else "exit 0"
    living.plugin(name, program, mode=mode, cwd="work")
    queue = living.queue(name, maxthreads=2)
    odd = [f"{'z' * 2000}{mode}", f"{'y' * 200_000}{mode}", f"a\0b{mode}"]
    fine = [f"mail/2026/{mode}", f"{'z' * 300}{mode}", f".{mode}", f"é {mode}"]
    for task_id in (*odd, *fine):
        living.push(queue, {}, _id=task_id)
    good = living.push(queue, *[{}] * 5)
    living.finish(*odd, *fine, *good)
    assert {living.task(task_id).status for task_id in (*fine, *good)} == {Status.CONCLUDED}
    for task_id in odd:
        assert "expected a task whose id is text of at most 1024 bytes" in failed_by_host(living.task(task_id))
        assert not living.task(task_id).attempts
    assert "set aside" not in living.log()


@pytest.mark.parametrize("mode", ["oneshot", "worker"])
@on_sqlite
def test_parameters_that_are_nested_too_deeply_fail_their_task(cluster: Cluster, mode: str) -> None:
    """With 1,000 levels the task used to stay Running for ever."""
    cluster.plugin("Deep", WORKER if mode == "worker" else "exit 0", mode=mode)
    queue = cluster.queue("Deep", maxthreads=1)
    ids = cluster.push(queue, *[{}] * 6)
    with sqlite3.connect(cluster.url.removeprefix("sqlite://")) as connection:
        for task_id, levels in zip(ids, (300, 400, 990), strict=False):
            deep = '{"a":' * levels + "1" + "}" * levels
            connection.execute("UPDATE tasks SET parameters = ? WHERE id = ?", (deep, task_id))
    log = cluster.run()
    for task_id in ids[:3]:
        failed_by_host(cluster.task(task_id))
    assert {cluster.task(task_id).status for task_id in ids[3:]} == {Status.CONCLUDED}
    assert "set aside" not in log and "Traceback" not in log
    cluster.store.delete_tasks(ids[:3])  # the check of the documents would nest as deeply


def test_an_attempt_whose_number_no_store_can_hold_counts_as_none(living: Living) -> None:
    name = living.own_name("Counts")
    living.plugin(name, "exit 0")
    queue = living.queue(name)
    ids = [*living.push(queue, {}, run={"attempt": 2**63 - 1}), *living.push(queue, {}, run={"attempt": -5})]
    ids += living.push(queue, {}, run={"attempt": 2}, retried={"attempts": -(2**62)})
    living.finish(*ids)
    assert [living.task(task_id).run["attempt"] for task_id in ids] == [1, 1, 3]
    living.store.delete_tasks(ids)  # they do not fit the schemas


def test_a_task_that_was_deleted_while_it_ran_is_not_said_to_be_taken_over(cluster: Cluster) -> None:
    cluster.plugin("Talks", "while :; do echo more; sleep 0.1; done")
    (task_id,) = cluster.push(cluster.queue("Talks"), {})
    node = cluster.start(*QUICK)
    wait_until(lambda: cluster.task(task_id).document["stdout"], 30, "it does not run")
    assert cluster.store.delete_tasks([task_id]) == 1
    wait_until(lambda: f"task {task_id} was deleted; its process is stopped" in cluster.log(), 20, "nothing is said")
    node.terminate()
    assert node.wait(30) == 0 and "taken over" not in cluster.log()


def odd_directory(cluster: Cluster, name: bytes) -> bytes:
    """A directory of plugins whose name is not UTF-8."""
    directory = os.fsencode(cluster.plugins) + b"/" + name
    os.mkdir(directory)  # noqa: PTH102  (a Path cannot be made of bytes)
    return directory


def write_odd_plugin(directory: bytes, manifest: dict[str, Any], program: str) -> None:
    for file, text in ((b"plugin.json", json.dumps(manifest)), (b"run", f"#!/bin/sh\n{program}\n")):
        path = Path(os.fsdecode(directory + b"/" + file))
        path.write_text(text)
        path.chmod(0o755)


def test_a_directory_whose_name_is_not_utf8_costs_no_heartbeat(cluster: Cluster) -> None:
    """The name went into the node's document, which no store took: the node was taken for dead, and its task killed."""
    cluster.plugin("Good", "exit 0")
    queue = cluster.queue("Good")
    node = cluster.start(*QUICK)
    wait_until(lambda: cluster.store.get_node("n1"), 30, "no node")
    write_odd_plugin(odd_directory(cluster, b"pl\xe9"), {"protocol": 1, "command": ["./run"]}, "exit 0")

    def broken() -> Any:
        record = cluster.store.get_node("n1")
        assert record is not None and record.age_seconds is not None and record.age_seconds < 3
        return record.document["broken"]

    wait_until(broken, 20, "the node does not say what it has left out")
    assert broken()[0]["manifest"].endswith(r"/pl\xe9/plugin.json")
    (task_id,) = cluster.push(queue, {})
    cluster.wait_for_status(task_id, Status.CONCLUDED)
    record = cluster.store.get_node("n1")
    assert record is not None and record.age_seconds is not None and record.age_seconds < 3
    node.terminate()
    assert node.wait(30) == 0


def test_a_plugin_in_such_a_directory_is_left_out_and_its_tasks_wait_for_another_name(cluster: Cluster) -> None:
    """Documents are text: a task could not say which program it had run."""
    odd = odd_directory(cluster, b"pl\xe9")
    write_odd_plugin(odd, {"protocol": 1, "name": "Odd", "command": ["./run"]}, "exit 3")
    cluster.plugin("Good", "exit 0")
    (task_id,), (good,) = (cluster.push(cluster.queue(name), {}) for name in ("Odd", "Good"))
    log = cluster.run()
    assert cluster.task(good).status == Status.CONCLUDED and cluster.task(task_id).status == Status.CREATED
    assert r"plugins/pl\xe9; rename it" in log and "Traceback" not in log
    os.rename(odd, os.fsencode(cluster.plugins) + b"/plain")  # noqa: PTH104
    cluster.run()
    run = cluster.task(task_id).run
    assert (run["exit_code"], run["plugin"]["directory"]) == (3, str(cluster.plugins / "plain"))


def test_a_failure_in_a_temporary_directory_whose_name_is_not_utf8_is_recorded(
    cluster: Cluster, tmp_path: Path
) -> None:
    temporary = os.fsencode(tmp_path) + b"/t\xe9"
    os.mkdir(temporary)  # noqa: PTH102
    cluster.plugin("Fails", "exit 3", cwd="work")
    (task_id,) = cluster.push(cluster.queue("Fails"), {})
    cluster.run(env={"TMPDIR": os.fsdecode(temporary)})
    run = cluster.task(task_id).run
    assert (run["exit_code"], cluster.task(task_id).status) == (3, Status.FAILED)
    assert r"/t\xe9/" in run["work_directory"]


@on_sqlite
def test_a_shortage_of_descriptors_is_said_once_a_moment(cluster: Cluster) -> None:
    """1,200 refused starts used to be 4,566 lines of the log."""
    cluster.plugin("Sleeps", "sleep 0.2")
    ids = cluster.push(cluster.queue("Sleeps", maxthreads=200), *[{}] * 200)
    log = cluster.run("--max", "200", through=("sh", "-c", 'ulimit -n 120; exec "$@"', "sh"), timeout_seconds=100)
    assert {cluster.task(task_id).status for task_id in ids} == {Status.CONCLUDED}
    errors = [line for line in log.splitlines() if " ERROR " in line]
    assert 1 <= len(errors) <= 20 and all("short of something" in line for line in errors), errors[:5]


class Refusing:
    """A store that refuses every write of some tasks, with all that is written together with it."""

    def __init__(self, store: Store, *culprits: Any) -> None:
        self._store = store
        self.culprits = culprits
        self.tries = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def _check(self, ids: Sequence[Any]) -> None:
        if any(task_id in self.culprits for task_id in ids):
            self.tries += 1
            raise StoreRefusedError("a validator refuses it")

    def change_tasks(self, changes: Sequence[TaskChange], **how: Any) -> Any:
        self._check([change.task_id for change in changes])
        return self._store.change_tasks(changes, **how)

    def commit(self, changes: Sequence[RunChange], chunks: Any = ()) -> Any:
        self._check([change.key.task_id for change in changes])
        return self._store.commit(changes, chunks)

    def delete_tasks(self, tasks: Sequence[Any], **how: Any) -> int:
        self._check(tasks)
        return self._store.delete_tasks(tasks, **how)

    def claim(self, node_id: str, wanted: Sequence[Want], *more: Any) -> list[Task]:
        if any(want.queue in self.culprits for want in wanted):
            self.tries += 1
            raise TypeError("unhashable type")
        return self._store.claim(node_id, wanted, *more)


def some_tasks(store: Store, count: int, queue: str = "Q", **fields: Any) -> list[Any]:
    now = SystemClock().now()
    return store.insert_tasks([new_task(queue, {}, now=now, **fields) for _ in range(count)])


def statuses(store: Store, ids: list[Any]) -> list[int | None]:
    return [None if (task := store.get_task(task_id)) is None else task.status for task_id in ids]


UNHURRIED = Pace(piece_seconds=30.0)  # what a machine with other things to do cannot use up


def settled(store: Store, troubles: Troubles) -> int:
    """How many changes were made for what is due, in several looks: each has only so much time."""
    return sum(due.settle_due(store, "n1", troubles, seconds=30).changed for _ in range(10))


@pytest.fixture
def troubles() -> Troubles:
    return Troubles(SystemClock(), Pace())


def test_a_due_task_that_cannot_be_written_stops_no_other_and_rests(store: Store, troubles: Troubles) -> None:
    """One such task used to stop everything that was due, on all nodes: cancels, expiries, followers."""
    ids = some_tasks(store, 5, expires=SystemClock().now().replace(year=2020))
    refusing: Any = Refusing(store, ids[2])
    assert settled(refusing, troubles) == 4
    assert statuses(store, ids) == [-5, -5, -2, -5, -5]
    tries = refusing.tries
    assert settled(refusing, troubles) == 0 and refusing.tries == tries
    assert [one["culprit"] for one in troubles.documents()] == [str(ids[2])]


@pytest.mark.parametrize("cancel", [[{"at": 1}], [{"at": 1}, 5]])
def test_a_request_to_cancel_that_cannot_be_read_neither_cancels_nor_expires_its_task(
    store: Store, troubles: Troubles, cancel: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It was taken for a task that had expired."""
    ids = some_tasks(store, 1, cancel=cancel)
    assert settled(store, troubles) == 0
    assert statuses(store, ids) == [Status.CREATED]
    assert str(ids[0]) in caplog.text and '"cancel"' in caplog.text


def test_a_follower_that_cannot_be_written_stops_no_other(store: Store, troubles: Troubles) -> None:
    (ended,) = some_tasks(store, 1)
    followers = some_tasks(store, 4, status=-4, after=[ended])
    (task,) = store.claim("n1", [Want("Q", 1)], "t")
    key = RunKey(task.id, "n1", "t")
    store.commit([RunChange(key=key, statuses=(Status.CLAIMED,), set={"status": 0, "run": {}})])
    store.commit([RunChange(key=key, statuses=(Status.RUNNING,), set={"status": 1})])
    refusing: Any = Refusing(store, followers[1])
    settled(refusing, troubles)
    assert statuses(store, followers) == [-2, -4, -2, -2]
    settled(store, Troubles(SystemClock(), Pace()))  # it was not forgotten
    assert statuses(store, followers) == [-2, -2, -2, -2]


def test_a_lost_run_that_cannot_be_settled_stops_no_other(store: Store, troubles: Troubles) -> None:
    ids = some_tasks(store, 5)
    store.claim("gone", [Want("Q", 5)], "t")
    refusing: Any = Refusing(store, ids[1])
    assert (
        lost_runs.settle(refusing, "gone", is_on_this_machine=False, troubles=troubles, pace=UNHURRIED).given_back == 4
    )
    assert statuses(store, ids) == [-2, -1, -2, -2, -2]
    assert not lost_runs.settle(store, "gone", is_on_this_machine=False, troubles=troubles, pace=UNHURRIED)  # it rests
    assert lost_runs.settle(store, "gone", is_on_this_machine=False, pace=UNHURRIED).given_back == 1


def test_an_ended_task_that_cannot_be_deleted_stops_no_other(store: Store, troubles: Troubles) -> None:
    long_ago = SystemClock().now().replace(year=2020)
    store.insert_queue({"_id": "Q", "class": "A", "keep": "1s"})
    ids = store.insert_tasks([{**new_task("Q", {}, now=long_ago), "status": 1} for _ in range(4)])
    (queue,) = store.queues()
    refusing: Any = Refusing(store, ids[0])
    refusing.ended_before = lambda *which: [task_id for task_id in ids if store.get_task(task_id) is not None]
    assert retention.delete_ended(refusing, queue, troubles, seconds=30) == (3, True)
    assert statuses(store, ids) == [1, None, None, None]
    assert retention.delete_ended(refusing, queue, troubles, seconds=30) == (0, True)


def test_no_number_of_bad_tasks_at_the_front_keeps_the_others_from_their_turn(store: Store, troubles: Troubles) -> None:
    """A first piece of work that was refused as a whole was taken for the end of it."""
    bad = some_tasks(store, 12)
    good = some_tasks(store, 12)
    refusing: Any = Refusing(store, *bad)
    store.claim("gone", [Want("Q", 24)], "t")
    settled = lost_runs.settle(refusing, "gone", is_on_this_machine=False, troubles=troubles, pace=UNHURRIED)
    assert (settled.given_back, settled.is_all, settled.refused, settled.done) == (12, True, set(bad), set(good))
    assert statuses(store, bad + good) == [-1] * 12 + [-2] * 12
    long_ago = SystemClock().now().replace(year=2020)
    store.insert_queue({"_id": "K", "class": "A", "keep": "1s"})
    ended = [{**new_task("K", {}, now=long_ago), "status": 1} for _ in range(24)]
    kept = store.insert_tasks(ended)
    (queue,) = store.queues()
    refusing.culprits = kept[:12]
    left = lambda: [task_id for task_id in kept if store.get_task(task_id) is not None]  # noqa: E731
    refusing.ended_before = lambda queue, before, most: left()[:most]
    count, is_all = 0, False
    while not is_all:
        some, is_all = retention.delete_ended(refusing, queue, troubles, seconds=0)
        count += some
    assert count == 12 and statuses(store, kept) == [1] * 12 + [None] * 12


@on_sqlite
def test_due_tasks_that_the_file_refuses_keep_no_others_from_their_turn(store: Store, store_url: str) -> None:
    past = SystemClock().now().replace(year=2020)
    bad = some_tasks(store, 12, "B", status=-4, not_before=past)
    good = some_tasks(store, 30, "Q", status=-4, not_before=past)
    with contextlib.closing(sqlite3.connect(store_url.removeprefix("sqlite://"))) as connection:
        connection.execute(
            "CREATE TRIGGER no BEFORE UPDATE ON tasks WHEN NEW.queue = 'B' BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        connection.commit()
    ledger = ClaimLedger("n1", Pace(piece_seconds=5))
    request = ClaimRequest(classes=frozenset(), load=Load(max_per_queue=5, max_total=None), refresh=True)
    assert not ledger.round(request, store).refresh_again
    assert statuses(store, bad + good) == [-4] * 12 + [-2] * 30


def test_a_queue_whose_claims_fail_costs_no_other_queue_its_own(store: Store, troubles: Troubles) -> None:
    for name in ("A", "B", "C"):
        store.insert_queue({"_id": name, "class": "P"})
    ids = {name: some_tasks(store, 2, name) for name in ("A", "B", "C")}
    refusing: Any = Refusing(store, "B")
    ledger = ClaimLedger("n1", Pace(), troubles=troubles)
    load = Load(max_per_queue=5, max_total=None)
    for _ in range(6):
        with contextlib.suppress(ClaimFailedError):
            ledger.round(ClaimRequest(classes=frozenset({"P"}), load=load, refresh=True), refusing)
    assert statuses(store, [*ids["A"], *ids["C"]]) == [Status.CLAIMED] * 4
    assert statuses(store, ids["B"]) == [Status.CREATED] * 2 and refusing.tries == 2  # with the others, and alone
    assert [one["culprit"] for one in troubles.documents()] == ["B"]


@on_sqlite
def test_a_queue_whose_id_is_no_text_costs_the_heartbeat_no_other_queue(cluster: Cluster) -> None:
    cluster.plugin("Good", "exit 0")
    cluster.queue("Good")
    with sqlite3.connect(cluster.url.removeprefix("sqlite://")) as connection:
        for queue_id in (b"\xff", float("inf")):
            connection.execute("INSERT INTO queues VALUES (?, ?)", (queue_id, '{"class":"Good"}'))
    node = cluster.start(*QUICK)

    def queues() -> set[str]:
        record = cluster.store.get_node("n1")
        return set() if record is None else {one["queue"] for one in record.document["heartbeat"]["queues"]}

    wait_until(lambda: "Good" in queues(), 30, "its queue is not in its heartbeat")
    node.terminate()
    assert node.wait(30) == 0 and "document of the node" not in cluster.log()
