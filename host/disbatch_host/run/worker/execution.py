"""One task in a worker process (see `execution.Execution`).

Responsible for: handing the task to the process that is ready for it, or to another if that one has died, and releasing
the process. Must not know: documents, stores, outcomes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from disbatch_host.plugin.catalog import Plugin
from disbatch_host.process.interface import StartError, StopReason, Stream
from disbatch_host.run.execution import Assignment, Course, ExecutionEnd, Listener
from disbatch_host.run.worker.adopted import Adopt, AdoptedWorker
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
        self._waiting: asyncio.Task[None] | None = None  # for another process
        self._stop_when_begun: Callable[[], None] | None = None
        self._go_on: Callable[[Listener], TaskInHand] | None = None  # if an earlier node has handed it over

    @classmethod
    def going_on(
        cls,
        plugin: Plugin,
        pool: WorkerPool,
        worker: AdoptedWorker,
        adopt: Adopt,
        *,
        task_id: str,
        line_size: int,
        begins_at: Mapping[Stream, int],
        is_last: bool,
    ) -> WorkerExecution:
        """The execution of a task that an earlier node has handed over: `adopt` gives the process."""
        one = cls(plugin, pool, Assignment(task_id=task_id, queue="", attempt=1, note=b""), worker)
        one._go_on = lambda listener: worker.go_on(
            adopt, listener, task_id=task_id, line_size=line_size, begins_at=begins_at, is_last=is_last
        )
        return one

    @property
    def process_facts(self) -> dict[str, Any]:
        return {} if self._worker is None else self._worker.facts

    @property
    def pid_started(self) -> int | None:
        return None if self._worker is None else self._worker.pid_started

    @property
    def event_bytes(self) -> int:
        return 0

    @property
    def work_directory(self) -> str | None:
        return None  # it belongs to the process, which other tasks share

    def begin(self, task_input: bytes | None, listener: Listener, course: Course) -> None:
        if self._go_on is not None:
            self._take(self._go_on(listener), course)
            return
        if task_input is None:  # a manifest cannot say so in worker mode
            self._release()
            raise StartError("cannot be given its task: a worker process gets it on stdin")
        if not self._hand_over(task_input, listener, course):  # it died meanwhile
            self._release()
            self._worker = None
            self._waiting = asyncio.get_running_loop().create_task(self._take_another(task_input, listener, course))

    def _hand_over(self, task_input: bytes, listener: Listener, course: Course) -> bool:
        task = None if self._worker is None else self._worker.hand_over(task_input, self._assignment, listener)
        if task is None:
            return False
        self._take(task, course)
        return True

    def _take(self, task: TaskInHand, course: Course) -> None:
        self._task = task
        if self._stop_when_begun is not None:
            self._stop_when_begun()
        task.ended.add_done_callback(partial(self._end, course))
        course.started()

    async def _take_another(self, task_input: bytes, listener: Listener, course: Course) -> None:
        try:
            self._worker = await self._pool.acquire(self._plugin)
            if not self._hand_over(task_input, listener, course):
                raise StartError("was gone before it could be given its task; a new one will be started")
        except Exception as error:
            self._release()
            course.not_started(error)

    def _end(self, course: Course, ended: asyncio.Future[ExecutionEnd]) -> None:
        self._release()
        course.ended(ended.result())

    def stop(self, reason: StopReason) -> None:
        if self._task is None:
            self._stop_when_begun = self._stop_when_begun or partial(self.stop, reason)
        elif self._worker is not None and not self._has_ended:
            self._worker.stop(reason)

    def kill(self, reason: StopReason) -> None:
        if self._task is None:
            self._stop_when_begun = partial(self.kill, reason)
        elif self._worker is not None and not self._has_ended:
            self._worker.kill(reason)

    @property
    def _has_ended(self) -> bool:
        """Whether its task has ended: the process may already have the task of another run."""
        return self._task is not None and self._task.ended.done()

    def follow(self) -> bool:
        return False  # its process is followed from its start on

    def acknowledge(self, counts: Mapping[Stream, int]) -> None:
        if self._task is not None:
            self._task.acknowledge(counts)

    def settle(self) -> None:
        if self._worker is not None and self._task is not None:
            self._worker.settle(self._task)

    def clean_up(self, on_left: Callable[[str], None] | None = None) -> None:
        """Nothing to do: the work directory goes with the process."""

    def _release(self) -> None:
        if self._worker is not None and not self._worker.has_task:
            self._pool.release(self._worker)
