"""The worker processes of a node: each takes many tasks, one at a time; here they are chosen for tasks.

Responsible for: starting a process when a task needs one and none is idle, retiring and replacing. Must not know: the
conversation with a process (`process`), documents, stores, outcomes.

Rules:
1. A process has one task or none.
2. A process belongs to one `Plugin` object. When the plugin changes, its processes end after the task in hand.
3. All processes are ended by end of file on their stdin, and stopped if that is not enough.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from disbatch_host.plugin.catalog import Plugin
from disbatch_host.plugin.program import ProgramSite
from disbatch_host.process.interface import ProcessHost, StopReason
from disbatch_host.run.worker.adopted import AdoptedWorker
from disbatch_host.run.worker.process import Worker


class WorkerPool:
    """The worker processes of a node."""

    def __init__(
        self, site: ProgramSite, processes: ProcessHost, *, on_fault: Callable[[str], object] | None = None
    ) -> None:
        """`on_fault` is told why a process that has no task in hand must be replaced."""
        self._site = site
        self._processes = processes
        self._on_fault = on_fault
        self._workers: dict[Worker, None] = {}  # in the order in which they were started
        self._current: Collection[Plugin] | None = None
        self._is_stopping = False

    async def acquire(self, plugin: Plugin) -> Worker:
        """An idle process of this plugin, else a new one that has reported ready. Raises StartError."""
        # The one that was busy last, so that the others may stay idle for long enough to be retired.
        for worker in sorted(self._of(plugin), key=lambda one: one.idle_since, reverse=True):
            if worker.is_idle and not worker.should_retire:
                worker.take()
                return worker
        taken = {worker.number for worker in self._of(plugin)}
        number = next(number for number in range(1, len(taken) + 2) if number not in taken)
        worker = Worker(
            plugin, self._site, self._processes, number=number, on_end=self._forget, on_fault=self._on_fault
        )
        self._workers[worker] = None
        try:
            await worker.start()
        except BaseException:
            worker.kill(StopReason.REPLACED)
            if not worker.is_alive:
                self._forget(worker)
            raise
        return worker

    def adopt(self, plugin: Plugin, *, number: int, work_directory: Path | None) -> AdoptedWorker:
        """A process that an earlier node has started, for the tasks that it has in hand."""
        worker = AdoptedWorker(
            plugin, self._site, self._processes, number=number, work_directory=work_directory, on_end=self._forget
        )
        self._workers[worker] = None
        return worker

    async def acquire_unless(self, stopped: asyncio.Future[Any], plugin: Plugin) -> Worker | None:
        """The same; None if `stopped` is done before it is ready."""
        acquiring = asyncio.get_running_loop().create_task(self.acquire(plugin))
        # If the caller is stopped or cancelled, nobody asks how that ended; asyncio would complain.
        acquiring.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait({acquiring, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not acquiring.done():
            acquiring.cancel()
            await asyncio.wait({acquiring})
            if acquiring.cancelled() or acquiring.exception() is not None:
                return None
        return acquiring.result()

    def reserve(self, plugin: Plugin) -> list[Worker]:
        """All idle processes of this plugin, the one that was busy last at the end. Nobody else gets them until they
        are given a task or released."""
        idle = [one for one in self._of(plugin) if one.is_idle and not one.should_retire]
        for worker in idle:
            worker.is_reserved = True
        return sorted(idle, key=lambda one: one.idle_since)

    def unreserve(self, workers: Iterable[Worker]) -> None:
        """Free for others those that no run has taken."""
        for worker in workers:
            worker.is_reserved = False
        if self._current is not None:
            self.keep_only(self._current)  # a plugin may have changed meanwhile

    def release(self, worker: Worker) -> None:
        """Its task is done, or it was not given one."""
        is_current = self._current is None or worker.plugin in self._current
        if self._is_stopping or not is_current or worker.should_retire:
            worker.retire()
        else:
            worker.rest()

    def keep_only(self, plugins: Collection[Plugin]) -> None:
        """Make these plugins the only current ones: processes of others end once they have no task."""
        self._current = plugins
        for worker in list(self._workers):
            if worker.is_idle and worker.plugin not in plugins:
                worker.retire()

    @property
    def size(self) -> int:
        """The number of processes."""
        return len(self._workers)

    def retire_idle(self) -> None:
        """End those that have no task; the others go on."""
        self._is_stopping = True
        for worker in list(self._workers):
            if worker.is_idle:
                worker.retire()

    async def stop(self) -> None:
        """End all processes: end of file on their stdin, then the stop signal, then SIGKILL, each after the grace."""
        self._is_stopping = True
        for worker in list(self._workers):
            worker.retire()
        while self._workers:
            await asyncio.wait([worker.gone for worker in self._workers])

    async def wait_until_gone(self, timeout_seconds: float) -> None:
        """Wait until all processes have ended, or for this long."""
        if self._workers:
            await asyncio.wait([worker.gone for worker in self._workers], timeout=timeout_seconds)

    def kill(self) -> None:
        """End all processes now."""
        for worker in list(self._workers):
            worker.kill(StopReason.SHUTDOWN)

    def _of(self, plugin: Plugin) -> list[Worker]:
        return [worker for worker in self._workers if worker.plugin is plugin]

    def _forget(self, worker: Worker) -> None:
        self._workers.pop(worker, None)
