"""What a node does at intervals: the rhythm, and one turn of each duty."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.clock import SystemClock
from disbatch_host.documents.changes import TaskChange, Want
from disbatch_host.documents.records import Task
from disbatch_host.errors import StoreUnreachableError, StoreUnwritableError
from disbatch_host.node.compartment import Troubles
from disbatch_host.node.duties.due import Due, settle_due
from disbatch_host.node.duties.retention import Retention
from disbatch_host.node.duties.rounds import Rounds
from disbatch_host.node.pace import Pace
from disbatch_host.node.store_health import StoreHealth
from disbatch_host.store.contract import DUE_SECONDS, Store
from disbatch_protocol.status import Status
from helpers.parts import Bench, on_bench


class Counted:
    """A duty that counts its turns, and fails in the ways that it is given, one at a turn."""

    def __init__(self, *failures: Exception, interval_seconds: float = 0.01) -> None:
        self.name = "counted"
        self.interval_seconds = interval_seconds
        self.turns = 0
        self._failures = list(failures)
        self._happened = asyncio.Event()

    async def turn(self) -> None:
        self.turns += 1
        self._happened.set()
        if self._failures:
            raise self._failures.pop(0)

    async def reach(self, turns: int) -> None:
        async with asyncio.timeout(20):
            while self.turns < turns:
                self._happened.clear()
                await self._happened.wait()


def with_duties(test: Any, *duties: Counted, pace: Pace | None = None) -> list[str]:
    """Run a test while the duties are repeated; how often trouble with the store was noted."""
    troubles: list[str] = []

    async def run() -> None:
        contained = Troubles(SystemClock(), Pace())
        rounds = Rounds(duties, StoreHealth(lambda: troubles.append("trouble"), contained), contained, pace or Pace())
        rounds.start()
        try:
            await test()
        finally:
            await rounds.stop()
            await rounds.stop()  # stopping twice is fine
        turns = [duty.turns for duty in duties]
        await asyncio.sleep(0.05)
        assert [duty.turns for duty in duties] == turns

    asyncio.run(run())
    return troubles


def test_a_duty_that_fails_goes_on_at_its_next_turn(caplog: pytest.LogCaptureFixture) -> None:
    defects = [RuntimeError("secret"), RuntimeError("secret"), KeyError("another")]
    failing, other = Counted(StoreUnreachableError("away"), *defects), Counted()

    async def test() -> None:
        await failing.reach(6)
        await other.reach(1)

    assert with_duties(test, failing, other) == ["trouble"]
    assert "the store does not answer" in caplog.text and "secret" not in caplog.text
    said = [one.message.split(" (")[0] for one in caplog.records if one.levelname == "ERROR"]
    assert said == ["duty, counted: RuntimeError", "duty, counted: KeyError"]  # each once


def test_an_interval_that_becomes_shorter_counts_at_once() -> None:
    duty = Counted(interval_seconds=1000.0)

    async def test() -> None:
        await asyncio.sleep(0)
        assert duty.turns == 0
        duty.interval_seconds = 0.01
        await duty.reach(2)

    with_duties(test, duty, pace=Pace(interval_check_seconds=0.01))


def test_a_duty_that_is_woken_has_its_turn_at_once_and_keeps_its_rhythm() -> None:
    duty, other = Counted(interval_seconds=1000.0), Counted(interval_seconds=1000.0)

    async def test() -> None:
        wake = asyncio.Event()
        troubles = Troubles(SystemClock(), Pace())
        rounds = Rounds([duty, other], StoreHealth(lambda: None, troubles), troubles, Pace(), wakes={duty: wake})
        rounds.start()
        for turns in (1, 2):
            wake.set()
            await duty.reach(turns)
            assert not wake.is_set()
        duty.interval_seconds = 0.01
        wake.set()
        await duty.reach(5)
        await rounds.stop()
        assert other.turns == 0

    asyncio.run(test())


def test_trouble_with_the_store_is_said_once_and_its_end_as_well(caplog: pytest.LogCaptureFixture) -> None:
    health = StoreHealth(lambda: None, Troubles(SystemClock(), Pace()))
    health.report_write()
    assert caplog.text == ""
    for _ in range(3):
        health.report_trouble(StoreUnwritableError("the disk is full"))
    health.report_write()
    health.report_write()
    health.report_trouble(StoreUnreachableError("away"))
    said = [record.message for record in caplog.records]
    assert said == [
        "the store cannot be written, nothing is claimed until it works again: the disk is full",
        "the store takes writes again",
        "the store does not answer, nothing is claimed until it works again: away",
    ]


def test_a_heartbeat_is_followed_by_another_where_it_has_brought_a_request(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        parts = bench.parts
        await parts.membership.take_id(parts.heartbeat.document(), None)
        await parts.heartbeat.turn()
        assert node(bench)["state"] == "running"
        assert bench.store.request_of_node("n1", "drain", {"by": "kim"})
        await parts.heartbeat.turn()
        assert node(bench)["state"] == "drained" and parts.claiming.is_drained
        assert bench.store.request_of_node("n1", "drain", None)
        await parts.heartbeat.turn()
        assert node(bench)["state"] == "running" and not parts.claiming.is_drained
        assert bench.store.request_of_node("n1", "stop", {"by": "kim"})
        await parts.heartbeat.turn()
        assert node(bench)["state"] == "stopping" and parts.claiming.is_stopped

    on_bench(tmp_path, test)


def node(bench: Bench) -> dict[str, Any]:
    record = bench.store.get_node("n1")
    assert record is not None
    return dict(record.document)


def test_a_document_that_somebody_has_deleted_is_written_again(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        parts = bench.parts
        await parts.membership.take_id(parts.heartbeat.document(), None)
        assert bench.store.remove_node("n1", node(bench)["session"])
        await parts.heartbeat.turn()
        assert node(bench)["state"] == "running" and not parts.claiming.is_stopped

    on_bench(tmp_path, test)


def test_an_id_that_another_node_has_taken_ends_this_one(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        parts = bench.parts
        await parts.membership.take_id(parts.heartbeat.document(), None)
        taken = bench.store.get_node("n1")
        assert bench.store.put_node({**node(bench), "session": "another"}, replacing=taken)
        await parts.heartbeat.turn()
        assert parts.claiming.is_stopped and parts.stopping.exit_code == 5

    on_bench(tmp_path, test)


def test_a_dead_node_is_settled_when_its_heartbeat_was_watched_for_long_enough(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        (task_id,) = bench.push(bench.queue("Echo", "echo"))
        document = {"_id": "n2", "version": "disbatch-host 1", "session": "x", "heartbeat": {}, "settings": {}}
        assert bench.store.put_node(document, replacing=None)
        bench.store.claim("n2", [Want("Echo", 1)], "t")
        lost_runs = bench.parts.lost_runs
        lost_runs.dead_after_seconds = 0.1
        await lost_runs.turn()
        assert bench.task(task_id).node == "n2"

        async def watch() -> None:
            while bench.task(task_id).node == "n2":
                await lost_runs.turn()

        await asyncio.wait_for(watch(), 20)
        assert bench.statuses([task_id]) == [Status.CREATED] and bench.parts.claiming.needs_look

    on_bench(tmp_path, test, Pace(confirm_seconds=0.2, confirm_heartbeats=0))


def test_an_earlier_life_is_settled_although_it_has_left_no_document(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(bench: Bench) -> None:
        ids = bench.push(bench.queue("Echo", "echo"), 2)
        bench.store.claim("n1", [Want("Echo", 2)], "of an earlier life")
        await bench.parts.lost_runs.settle_earlier_life(None)
        assert bench.statuses(ids) == [Status.CREATED] * 2
        assert "2 never started and are back in their queues" in caplog.text

    on_bench(tmp_path, test)


class SlowToFind:
    """A store that finds one due task in a call, and takes all the time for it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def due(self, node_id: str, limit: int) -> list[Task]:
        ends = time.monotonic() + DUE_SECONDS
        found = self._store.due(node_id, 1)
        while time.monotonic() < ends:
            pass
        return found


def test_a_look_that_took_long_may_have_left_out_what_is_due(tmp_path: Path) -> None:
    """The rest waited for the next second: of large tasks on MongoDB, two expired in each."""

    async def test(bench: Bench) -> None:
        bench.push(bench.queue("Echo", "echo"), 2, expires=bench.store.now() - timedelta(seconds=1))
        slow: Any = SlowToFind(bench.store)
        first, second = (settle_due(slow, "n1", bench.parts.troubles, seconds=1) for _ in range(2))
        assert (first.changed, first.is_all) == (1, False) and second.changed == 1
        assert settle_due(bench.store, "n1", bench.parts.troubles, seconds=1).is_all

    on_bench(tmp_path, test)


def test_what_is_due_is_done_and_wakes_the_claiming(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        queue = bench.queue("Sleep", "echo on; sleep 60")
        parts = bench.parts
        due = Due(parts.store_thread, parts.runs, parts.claiming, parts.troubles, Pace())
        now = bench.store.now()
        (running,) = bench.push(queue)
        await parts.claiming.turn()
        await bench.until(lambda: bench.task(running).document["stdout"] == "on\n", "it does not run")
        (late,) = bench.push(queue, expires=now - timedelta(seconds=1))
        bench.store.change_tasks([cancelling(running, now)])
        await due.turn()
        assert bench.statuses([late]) == [Status.CANCELLED] and parts.claiming.needs_look
        await bench.until(lambda: not parts.runs, "it was not cancelled")
        assert bench.statuses([running]) == [Status.CANCELLED]

    on_bench(tmp_path, test)


def test_an_end_that_others_wait_for_and_a_change_make_what_is_due_come_at_once(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        queue, due = bench.queue("Quick", "true"), bench.parts.due
        (first,) = bench.push(queue)
        (second,) = bench.push(queue, status=int(Status.BLOCKED), after=[first])
        await due.turn()
        due.wake.clear()
        await bench.parts.claiming.turn()
        await bench.until(due.wake.is_set, "the end has woken nobody")
        assert bench.statuses([first]) == [Status.CONCLUDED]
        await due.turn()
        assert bench.statuses([second]) == [Status.CREATED]
        due.wake.clear()
        due.on_change()
        await bench.until(due.wake.is_set, "the change has woken nobody")

    on_bench(tmp_path, test, Pace(watch_seconds=1000.0))  # nobody hears of the pushes


def test_a_node_says_that_it_has_read_the_queues_when_every_claim_follows_them(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        parts = bench.parts
        queue = bench.queue("Quick", "true")
        await parts.membership.take_id(parts.heartbeat.document(), None)
        await parts.claiming.turn()
        await parts.heartbeat.turn()
        assert node(bench)["queues_read"] is None
        bench.store.update_queue(queue, {"paused": {"by": "kim"}})
        assert bench.store.request_of_node("n1", "queues", {"token": "t1"})
        await parts.heartbeat.turn()
        assert node(bench)["queues_read"] is None and not parts.heartbeat.wake.is_set()
        ids = bench.push(queue)
        await parts.claiming.turn()  # whenever it was read last
        assert parts.heartbeat.wake.is_set() and parts.claiming.queues[0].paused is not None
        await parts.heartbeat.turn()
        assert node(bench)["queues_read"] == "t1" and bench.statuses(ids) == [Status.CREATED]

    on_bench(tmp_path, test, Pace(refresh_seconds=1000.0))


def cancelling(task_id: Any, now: Any) -> TaskChange:
    return TaskChange(
        task_id=task_id, statuses=frozenset({int(Status.RUNNING)}), set={"cancel": {"by": "kim", "at": now}}
    )


def test_ended_tasks_are_deleted_once_their_queue_does_not_keep_them(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        kept, short = bench.queue("Kept", "echo"), bench.queue("Short", "echo", keep="1s")
        ended = bench.store.now() - timedelta(seconds=5)
        ids = {queue: bench.push(queue, status=1, ctime=ended, mtime=ended) for queue in (kept, short)}
        (waiting,) = bench.push(short)
        parts = bench.parts
        retention = Retention(parts.store_thread, parts.claiming, parts.troubles, Pace())
        parts.claiming.queues = bench.store.queues()
        await retention.turn()
        assert bench.store.get_task(ids[short][0]) is None
        assert bench.statuses([*ids[kept], waiting]) == [Status.CONCLUDED, Status.CREATED]

    on_bench(tmp_path, test)


def test_a_plugin_that_comes_is_noticed_and_one_that_stays_is_not(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        parts = bench.parts
        bench.queue("Echo", "echo")
        assert parts.claiming.needs_look and parts.claiming.classes == {"Echo"}
        await parts.claiming.turn()
        await parts.plugin_scan.turn()
        assert set(parts.classes.plugins) == {"Echo"}
        bench.queue("Late", "echo")
        assert parts.claiming.needs_look and parts.claiming.classes == {"Echo", "Late"}

    on_bench(tmp_path, test)
