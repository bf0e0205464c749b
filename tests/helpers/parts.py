"""The parts of a node in this process, on a SQLite file, for tests that take one turn of one part."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from disbatch_host.clock import SystemClock
from disbatch_host.documents.records import Task, new_task
from disbatch_host.node.node_document import ShownSettings
from disbatch_host.node.pace import Pace
from disbatch_host.node.parts import Parts
from disbatch_host.process.interface import StopReason
from disbatch_host.store.contract import Store
from disbatch_host.store.open import open_store
from helpers.nodes import write_plugin


class Bench:
    """A store, a directory of plugins, and the parts of node n1, of which only the thread of the store is started."""

    def __init__(self, directory: Path, pace: Pace, **settings: Any) -> None:
        self.directory = directory
        self.plugins = directory / "plugins"
        self.plugins.mkdir()
        self.url = f"sqlite://{directory}/test.db"
        self.store: Store = open_store(self.url, SystemClock())  # the test's own look
        self.store.open()
        shown = ShownSettings(
            **{"heartbeat_seconds": 1.0, "dead_after_seconds": 30.0, "max": 10, "max_total": None, **settings}
        )
        self._store_of_node = open_store(self.url, SystemClock())
        self._store_of_node.open()
        self.parts = Parts("n1", [self.plugins], shown, self._store_of_node, SystemClock(), pace)

    def queue(self, name: str, program: str, *, manifest: Mapping[str, Any] | None = None, **fields: Any) -> str:
        """A queue and its plugin, both of this name."""
        write_plugin(self.plugins, name, program, **(manifest or {}))
        self.store.insert_queue({"_id": name, "class": name, **fields})
        self.parts.plugin_scan.scan()
        return name

    def push(self, queue: str, count: int = 1, **fields: Any) -> list[Any]:
        now = self.store.now()
        return self.store.insert_tasks([new_task(queue, {}, now=now, **fields) for _ in range(count)])

    def task(self, task_id: Any) -> Task:
        task = self.store.get_task(task_id)
        assert task is not None
        return task

    def statuses(self, ids: list[Any]) -> list[int]:
        return [self.task(task_id).status for task_id in ids]

    async def until(self, is_true: Callable[[], bool], what: str) -> None:
        """Let the event loop work until it is true."""
        async with asyncio.timeout(20):
            while not is_true():
                await asyncio.sleep(0.005)
        assert is_true(), what

    async def end_runs(self) -> None:
        self.parts.runs.kill(StopReason.SHUTDOWN)
        await self.parts.runs.wait(20)
        assert not self.parts.runs

    async def close(self) -> None:
        await self.end_runs()
        await self.parts.store_thread.stop()
        self.parts.processes.close()
        self._store_of_node.close()
        self.store.close()


@contextlib.asynccontextmanager
async def _bench(directory: Path, pace: Pace, **settings: Any) -> AsyncIterator[Bench]:
    bench = Bench(directory, pace, **settings)
    bench.parts.store_thread.start()
    await bench.parts.open_processes(None)
    try:
        yield bench
    finally:
        await bench.close()


def on_bench(
    directory: Path, test: Callable[[Bench], Awaitable[None]], pace: Pace | None = None, **settings: Any
) -> None:
    """Run a test in an event loop with the parts of a node."""

    async def run() -> None:
        async with _bench(directory, pace or Pace(), **settings) as bench:
            await test(bench)

    asyncio.run(run())
