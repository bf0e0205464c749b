"""One task in a worker process (see `execution.Execution`).

Responsible for: handing the task to the process that is ready for it, or to another if that one has died, and releasing
the process. Must not know: documents, stores, outcomes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from disbatch_host.plugin.catalog import Plugin
from disbatch_host.process.interface import StartError, StopReason, Stream
from disbatch_host.run.execution import Assignment, ExecutionEnd, Listener
from disbatch_host.run.worker.hand import TaskInHand
from disbatch_host.run.worker.pool import WorkerPool
from disbatch_host.run.worker.process import Worker


class WorkerExecution:
    """Owns the process from its start to the end of the task."""

    def __init__(self, plugin: Plugin, pool: WorkerPool, assignment: Assignment, worker: Worker | None) -> None:
        self._plugin = plugin
        self._pool = pool
        self._assignment = assignment
        self._worker = worker
        self._task: TaskInHand | None = None

    @property
    def process_facts(self) -> dict[str, Any]:
        return {} if self._worker is None else self._worker.facts

    @property
    def pid_started(self) -> int | None:
        return None if self._worker is None else self._worker.pid_started

    @property
    def work_directory(self) -> str | None:
        return None  # it belongs to the process, which other tasks share

    async def start(self, task_input: bytes | None, listener: Listener) -> asyncio.Future[ExecutionEnd]:
        if task_input is None:  # a manifest cannot say so in worker mode
            self._release()
            raise StartError("cannot be given its task: a worker process gets it on stdin")
        worker = self._worker
        try:
            task = None if worker is None else worker.hand_over(task_input, self._assignment, listener)
            if task is None:  # it died meanwhile
                self._release()
                self._worker = None
                self._worker = worker = await self._pool.acquire(self._plugin)
                task = worker.hand_over(task_input, self._assignment, listener)
            if task is None:
                raise StartError("was gone before it could be given its task; a new one will be started")
        except BaseException:
            self._release()
            raise
        self._task = task
        task.ended.add_done_callback(lambda _: self._release())
        return task.ended

    def stop(self, reason: StopReason) -> None:
        if self._worker is not None and not self._has_ended:
            self._worker.stop(reason)

    def kill(self, reason: StopReason) -> None:
        if self._worker is not None and not self._has_ended:
            self._worker.kill(reason)

    @property
    def _has_ended(self) -> bool:
        """Whether its task has ended: the process may already have the task of another run."""
        return self._task is not None and self._task.ended.done()

    def acknowledge(self, counts: Mapping[Stream, int]) -> None:
        if self._task is not None:
            self._task.acknowledge(counts)

    def settle(self) -> None:
        if self._worker is not None and self._task is not None:
            self._worker.settle(self._task)

    def clean_up(self, on_left: Callable[[str], None] | None = None) -> None:
        """Nothing to do: the work directory goes with the process."""

    def _release(self) -> None:
        if self._worker is not None:
            self._pool.release(self._worker)
