"""Worker processes on their way from the event loop to a claim in another thread; with real processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from disbatch_host.documents.changes import RunChange, Want
from disbatch_host.documents.records import Queue, Task
from disbatch_host.node.starter import Starter, Starts
from disbatch_host.plugin.catalog import Plugin
from helpers.parts import Bench, on_bench

QUEUE = Queue(id="W", class_name="W")
WORKER = r"""#!/usr/bin/env python3
import os, sys
sys.stdin.buffer.readline()
os.write(3, b'{"type":"ready","protocol":1}\n')
for line in sys.stdin.buffer:
    os.write(3, b'{"type":"done","exit":0}\n')
"""


async def workers_of(bench: Bench, count: int) -> tuple[Plugin, list[Any]]:
    """A plugin in worker mode, and processes of it that are not idle yet."""
    bench.queue("W", WORKER, manifest={"mode": "worker"})
    plugin = bench.parts.classes.plugins["W"]
    return plugin, [await bench.parts.workers.acquire(plugin) for _ in range(count)]


def claimed(bench: Bench, count: int) -> list[Task]:
    bench.push("W", count)
    return bench.store.claim("n1", [Want("W", count)], "t")


def in_thread(bench: Bench, starts: Starts, tasks: list[Task]) -> Any:
    """What the store's thread does for these tasks."""
    return bench.parts.store_thread.call(lambda _: [starts.start_with_claim(task, QUEUE) for task in tasks])


def pids(changes: list[RunChange | None]) -> list[int | None]:
    return [None if change is None else change.set["run"]["pid"] for change in changes]


def test_a_process_that_becomes_idle_while_the_claim_is_on_its_way_gets_a_task(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        workers = bench.parts.workers
        plugin, (early, late, busy) = await workers_of(bench, 3)
        workers.release(early)
        starter = Starter({"W": plugin}, workers, bench.parts.runs.context)
        starts = starter.new_starts()
        first, second, third = claimed(bench, 3)
        assert pids(await in_thread(bench, starts, [first])) == [early.pid]
        assert pids(await in_thread(bench, starts, [second])) == [None]
        workers.release(late)
        starter.reserve_idle(plugin)
        assert pids(await in_thread(bench, starts, [second, third])) == [late.pid, None]
        assert {task_id: one.worker for task_id, one in starts.started.items()} == {first.id: early, second.id: late}
        assert busy.is_reserved is False
        await end(bench, starter)

    on_bench(tmp_path, test)


def test_each_try_of_a_claim_has_all_reserved_processes(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        workers = bench.parts.workers
        plugin, (one,) = await workers_of(bench, 1)
        workers.release(one)
        starter = Starter({"W": plugin}, workers, bench.parts.runs.context)
        first, second = claimed(bench, 2)
        failed, again = starter.new_starts(), starter.new_starts()
        assert pids(await in_thread(bench, failed, [first])) == [one.pid]
        assert pids(await in_thread(bench, again, [second])) == [one.pid]
        assert list(again.started) == [second.id]
        # A store may also ask twice in one try: the task keeps its process.
        assert pids(await in_thread(bench, again, [second])) == [one.pid]
        await end(bench, starter)

    on_bench(tmp_path, test)


def test_processes_are_reserved_until_the_claim_is_answered(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        workers = bench.parts.workers
        plugin, (one,) = await workers_of(bench, 1)
        workers.release(one)
        starter = Starter({"W": plugin}, workers, bench.parts.runs.context)
        other = await workers.acquire(plugin)
        assert other is not one
        starter.release()
        assert await workers.acquire(plugin) is one
        await end(bench, starter)

    on_bench(tmp_path, test)


async def end(bench: Bench, starter: Starter) -> None:
    starter.release()
    bench.parts.workers.kill()
    await bench.parts.workers.stop()
    assert bench.parts.workers.size == 0
