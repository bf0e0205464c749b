"""The runs of a node: the places that they take, and how they are held back, cancelled, verified and stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.documents.changes import RunChange, RunKey, Want
from disbatch_host.documents.records import NOBODY, Task
from disbatch_host.node.starter import Starter
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.process.interface import StopReason
from disbatch_protocol.status import Status
from helpers.parts import Bench, on_bench


class Places:
    """Notes what runs say about their places, in place of what fills them."""

    def __init__(self) -> None:
        self.free: list[str] = []
        self.ends = 0
        self.shortages: list[str] = []

    def on_place_free(self, plugin: Plugin) -> None:
        self.free.append(plugin.name)

    def on_end(self) -> None:
        self.ends += 1

    def on_shortage(self, why: str) -> None:
        self.shortages.append(why)


def start(bench: Bench, queue: str, count: int = 1) -> list[Task]:
    """Runs of tasks that are Claimed."""
    bench.push(queue, count)
    tasks = bench.store.claim("n1", [Want(queue, count)], f"token of {queue}")
    assert len(tasks) == count
    for task in tasks:
        plugin = bench.parts.classes.plugins[queue]
        bench.parts.runs.start(task, plugin, asked_at=bench.parts.clock.since_boot())
    return tasks


async def until_they_run(bench: Bench, tasks: Sequence[Task]) -> None:
    """Until their programs have said "on"."""
    await bench.until(
        lambda: all(bench.task(task.id).document["stdout"] == "on\n" for task in tasks), "they have not begun"
    )


def test_the_load_follows_runs_as_they_come_and_go(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        runs, places = bench.parts.runs, Places()
        runs.listen(places)
        before = runs.load
        short, long = bench.queue("Short", "read -r line"), bench.queue("Long", "sleep 60")
        start(bench, short, 2)
        start(bench, long)
        during = runs.load
        assert during.running == during.running_of_class == {"Short": 2, "Long": 1}
        assert (during.max_per_queue, during.max_total) == (3, 7)
        assert runs.places_taken == len(runs) == 3
        await bench.until(lambda: places.ends == 2, "the short ones have not ended")
        assert places.free == ["Short", "Short"]
        assert runs.load.running == runs.load.running_of_class == {"Long": 1}
        assert runs.places_taken == len(runs) == 1
        assert before.running == {} and during.running["Short"] == 2  # snapshots stay as they were
        await bench.end_runs()
        assert runs.places_taken == 0 and runs.load.running == runs.load.running_of_class == {}

    on_bench(tmp_path, test, max=3, max_total=7)


def test_a_run_that_concludes_nothing_leaves_its_place_as_well(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        runs, places = bench.parts.runs, Places()
        runs.listen(places)
        runs.hold_back()
        (task,) = start(bench, bench.queue("Echo", "echo"))
        await bench.until(lambda: not runs, "the run has not ended")
        assert (places.free, places.ends, runs.places_taken, runs.load.running) == ([], 1, 0, {})
        given_back = bench.task(task.id)
        assert (given_back.status, given_back.document["node"]) == (Status.CREATED, NOBODY)

    on_bench(tmp_path, test)


def test_the_limit_of_a_plugin_is_read_with_the_plugins(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.queue("Echo", "echo")
        before = bench.parts.runs.load
        bench.queue("Few", "echo", manifest={"concurrency": 3})
        assert before.concurrency_of_class == {"Echo": None}
        assert bench.parts.runs.load.concurrency_of_class == {"Echo": None, "Few": 3}

    on_bench(tmp_path, test)


def test_a_run_is_cancelled_for_its_own_attempt_only(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        tasks = start(bench, bench.queue("Sleep", "echo on; sleep 60"), 2)
        await until_they_run(bench, tasks)
        request = {"by": "kim", "at": bench.store.now()}
        first, second = (replace(task, document={**task.document, "cancel": request}) for task in tasks)
        bench.parts.runs.cancel([first, replace(second, token="of another attempt")])
        await bench.until(lambda: len(bench.parts.runs) == 1, "the first one was not cancelled")
        assert bench.task(first.id).status == Status.CANCELLED
        assert bench.parts.runs.task_ids == {str(second.id)}

    on_bench(tmp_path, test)


def test_runs_whose_tasks_were_given_to_others_are_stopped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(bench: Bench) -> None:
        lost, gone, kept = tasks = start(bench, bench.queue("Sleep", "echo on; sleep 60"), 3)
        await until_they_run(bench, tasks)
        # What a node does first that takes this one for dead.
        key = RunKey(lost.id, "n1", lost.token)
        fence = RunChange(key=key, statuses=(Status.RUNNING,), set={"claim": {"token": "settling"}})
        assert bench.store.commit([fence]) == set()
        assert bench.store.delete_tasks([gone.id]) == 1
        await bench.parts.runs.verify()
        await bench.until(lambda: len(bench.parts.runs) == 1, "they were not stopped")
        assert bench.parts.runs.task_ids == {str(kept.id)}
        assert f"task {lost.id} was taken over; its process is stopped" in caplog.text
        assert f"task {gone.id} was deleted; its process is stopped" in caplog.text

    on_bench(tmp_path, test)


def test_stopping_and_killing_reach_every_run(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        runs = bench.parts.runs
        tasks = start(bench, bench.queue("Stubborn", "trap '' TERM; echo on; while :; do sleep 1; done"), 2)
        await until_they_run(bench, tasks)
        runs.stop(StopReason.SHUTDOWN)
        await runs.wait(0.2)
        assert len(runs) == 2  # they ignore it, and have a grace
        runs.kill(StopReason.SHUTDOWN)
        await runs.wait(20)
        assert not runs
        assert {bench.task(task.id).run["signal"] for task in tasks} == {"KILL"}

    on_bench(tmp_path, test)


class Exploding:
    """A schema at which the host fails, as nobody expected."""

    is_ever_quick = True
    has_secrets = True

    def check(self, parameters: object) -> list[object]:
        raise ZeroDivisionError("hunter2")

    secrets = examined = examined_at_once = check


def test_a_run_at_which_the_host_fails_fails_its_task_and_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(bench: Bench) -> None:
        queue, runs, places = bench.queue("Echo", "echo on; sleep 60"), bench.parts.runs, Places()
        runs.listen(places)
        (good,) = start(bench, queue)
        plugin = bench.parts.classes.plugins[queue]
        schema: Any = Exploding()
        bench.push(queue)
        (bad,) = bench.store.claim("n1", [Want(queue, 1)], "of the bad one")
        runs.start(bad, replace(plugin, schema=schema), asked_at=bench.parts.clock.since_boot())
        await bench.until(lambda: len(runs) == 1 and bench.task(bad.id).status == Status.FAILED, "it goes on")
        task = bench.task(bad.id)
        assert (task.run["reason"], task.run["outcome"], task.run["secrets"]) == ("host_error", "permanent", [""])
        assert task.document["error"]["message"].startswith("disbatch-host: this node failed in handling it: ZeroDiv")
        assert [one["culprit"] for one in bench.parts.troubles.documents()] == [str(bad.id)]
        assert (places.free, runs.places_taken) == (["Echo"], 1)
        await until_they_run(bench, [good])
        assert "hunter2" not in caplog.text and not bench.parts.classes.set_aside

    on_bench(tmp_path, test)


def test_a_task_that_becomes_running_with_its_claim_is_not_stopped_by_a_failing_check(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        queue = bench.queue("Echo", "echo")
        schema: Any = Exploding()
        plugin = replace(bench.parts.classes.plugins[queue], schema=schema)
        starts = Starter({queue: plugin}, bench.parts.workers, bench.parts.runs.context).new_starts()
        bench.push(queue)
        queues = {one.id: one for one in bench.store.queues()}
        (task,) = bench.store.claim("n1", [Want(queue, 1)], "t", lambda task: starts.on_claim(task, queues))
        assert task.status == Status.CLAIMED and not starts.started

    on_bench(tmp_path, test)
