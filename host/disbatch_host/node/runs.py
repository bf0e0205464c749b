"""The runs of a node: which there are, how many places they take up, and how they are stopped.

Responsible for: starting a run for a claimed task and counting how it went; the load, kept up to date as runs come and
go; holding back, cancelling, stopping and verifying them. Must not know: which task is claimed next, how a run works.

A task whose run cannot even be made, or not be recorded, is failed (`host_error`) by the smallest change there is.

A run may leave its place before it has ended: as soon as its end is on the way to the store, the next task may be
claimed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from disbatch_host import errors, logs
from disbatch_host.decide.placement import Load
from disbatch_host.documents import transitions
from disbatch_host.documents.changes import RunChange, RunKey, TaskFilter
from disbatch_host.documents.records import KEEP_ATTEMPTS, Document, QueueId, Task, TaskId
from disbatch_host.documents.storable import storable
from disbatch_host.errors import StoreRefusedError, StoreUnreachableError
from disbatch_host.node import end_log
from disbatch_host.node.compartment import Troubles
from disbatch_host.node.pace import Pace
from disbatch_host.node.store_thread import StoreThread
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.plugin.classes import Classes
from disbatch_host.process.interface import StopReason
from disbatch_host.run.adopted import Adopted
from disbatch_host.run.attempt import Run
from disbatch_host.run.context import RunContext
from disbatch_host.run.report import RunReport, RunResult
from disbatch_host.run.worker.process import Worker
from disbatch_protocol.outcome import Reason
from disbatch_protocol.status import is_failed

if TYPE_CHECKING:  # a node that serves no metrics need not import what they take
    from disbatch_host.metrics.counters import Metrics

log = logging.getLogger(__name__)

Key = TypeVar("Key")


class PlaceListener(Protocol):
    """Is told of the places that runs leave, and fills them."""

    def on_place_free(self, plugin: Plugin) -> None:
        """A run of this plugin left its place; its end is on the way to the store."""

    def on_end(self) -> None:
        """A run ended, whether it had left its place before or not."""

    def on_shortage(self, why: str) -> None:
        """A run could not start because this machine lacks descriptors, processes, memory or disk space."""


class Runs:
    """The registry of runs. Used in the event loop. `context` is for the runs that start from now on."""

    def __init__(
        self,
        context: RunContext,
        store_thread: StoreThread,
        classes: Classes,
        troubles: Troubles,
        pace: Pace,
        *,
        on_report: Callable[[Run, RunReport], None] | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.context = context
        self._node_id = context.site.node_id
        self._store_thread = store_thread
        self._classes = classes
        self._troubles = troubles
        self._pace = pace
        self._on_report = on_report
        self._metrics = metrics
        self._listener: PlaceListener | None = None
        self._runs: dict[Run, None] = {}  # in the order of their claims
        self._all_over: asyncio.Future[None] | None = None  # where somebody waits for that
        self._places_taken = 0
        self._running: dict[QueueId, int] = {}  # places, by queue; none of them zero
        self._running_of_class: dict[str, int] = {}
        self._max_per_queue = 0
        self._max_total: int | None = 0
        self._concurrency_of_class: dict[str, int | None] = {}
        self._is_held_back = False
        self._failures: set[asyncio.Task[None]] = set()  # of tasks without a run, on their way into the store
        self.unrecorded: set[TaskId] = set()  # tasks without a run whose failure the store refuses

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def programs(self) -> int:
        """How many of them have a program that may still be running."""
        return sum(run.has_program for run in self._runs)

    @property
    def places_taken(self) -> int:
        """How many runs hold a place: those whose end is not yet on the way to the store."""
        return self._places_taken

    @property
    def task_ids(self) -> frozenset[TaskId]:
        return frozenset(run.task.id for run in self._runs)

    @property
    def load(self) -> Load:
        """A snapshot, for any thread."""
        return Load(
            max_per_queue=self._max_per_queue,
            max_total=self._max_total,
            running=self._running.copy(),
            running_of_class=self._running_of_class.copy(),
            concurrency_of_class=self._concurrency_of_class,
        )

    def listen(self, listener: PlaceListener) -> None:
        """Report free places to this listener from now on."""
        self._listener = listener

    def limit(self, *, max_per_queue: int, max_total: int | None) -> None:
        """Set the limits of the load: for a queue without `maxthreads`, and for all queues together."""
        self._max_per_queue, self._max_total = max_per_queue, max_total

    def on_plugins_read(self) -> None:
        """The classes were read again."""
        # A new table each time: an earlier snapshot may be in use.
        self._concurrency_of_class = {
            name: plugin.manifest.concurrency for name, plugin in self._classes.plugins.items()
        }

    def start(
        self,
        task: Task,
        plugin: Plugin,
        *,
        asked_at: float,
        running: Document | None = None,
        worker: Worker | None = None,
        keep_attempts: int = KEEP_ATTEMPTS,
    ) -> None:
        """Start a run for a claimed task. `running`, `worker`, `asked_at`, `keep_attempts`: see `Run`."""
        try:
            if self._metrics is not None:
                self._metrics.observe_claim(task)
            run = Run(
                task,
                plugin,
                self.context,
                running=running,
                worker=worker,
                asked_at=asked_at,
                on_place_free=self._on_place_free,
                keep_attempts=keep_attempts,
            )
        except Exception as error:
            if worker is not None:
                self.context.workers.release(worker)
            self._report_trouble(task, error)
            self.fail(task, error)
            return
        if self._is_held_back or plugin.name in self._classes.set_aside:
            run.hold_back()
        self._begin(run)

    def adopt(self, task: Task, plugin: Plugin, running: Document, adopted: Adopted) -> None:
        """Go on with a run that an earlier life of the node has started. `running`, `adopted`: see `Run`."""
        if self._metrics is not None:
            self._metrics.count_adopted()
        self._begin(
            Run(task, plugin, self.context, running=running, on_place_free=self._on_place_free, adopted=adopted)
        )

    def _begin(self, run: Run) -> None:
        task, plugin = run.task, run.plugin
        self._places_taken += 1
        self._running[task.queue] = self._running.get(task.queue, 0) + 1
        self._running_of_class[plugin.name] = self._running_of_class.get(plugin.name, 0) + 1
        self._runs[run] = None
        run.begin(self._on_done)

    def cancel(self, tasks: Sequence[Task]) -> None:
        """Cancel the runs of these tasks, each as its own request says."""
        runs = {run.task.id: run for run in self._runs} if tasks else {}
        for task in tasks:
            run = runs.get(task.id)
            if run is not None and run.task.token == task.token and task.cancel is not None:
                run.cancel(task.cancel)

    def hold_back(self, *, at_once: bool = False) -> None:
        """Start no program from now on; runs whose program has started go on. `at_once`: nothing is waited for that
        only a start needs."""
        self._is_held_back = True
        for run in self._runs:
            run.hold_back(at_once=at_once)

    def stop(self, reason: StopReason) -> None:
        """Stop all runs, each with the grace of its plugin."""
        for run in list(self._runs):
            run.stop(reason)

    def kill(self, reason: StopReason) -> None:
        """Kill all runs."""
        for run in list(self._runs):
            run.kill(reason)

    async def wait(self, timeout_seconds: float) -> None:
        """Wait until all have ended, or for this long."""
        if self._runs:
            self._all_over = self._all_over or asyncio.get_running_loop().create_future()
            await asyncio.wait([self._all_over], timeout=timeout_seconds)

    async def verify(self) -> None:
        """Stop the runs whose tasks were given to other nodes while this one was silent; otherwise they would find out
        only when they write. Raises StoreError."""
        runs = {run.task.id: run for run in self._runs}
        if not runs:
            return
        which = TaskFilter(ids=[run.task.id for run in runs.values()])
        tasks = await self._store_thread.call(
            lambda store: list(store.find_tasks(which, with_output=False, with_parameters=False))
        )
        found = {task.id: task for task in tasks}
        for task_id, run in runs.items():
            task = found.get(task_id)
            if task is None or task.node != self._node_id or task.token != run.task.token:
                fate = "was deleted" if task is None else "was taken over"
                log.warning("task %s %s; its process is stopped", task_id, fate, extra=run.log_ids)
                run.stop(StopReason.LOST)

    def fail(self, task: Task, error: Exception) -> None:
        """Fail a claimed task that has no run. While the store refuses even that, it is tried again now
        and then."""
        message = f"this node failed in handling it: {errors.in_words(error)}"
        if isinstance(error, StoreRefusedError):
            message = f"the store refused what was to be recorded of it: {error}"
        key = RunKey(task.id, self._node_id, task.token)
        change = transitions.host_error_change(task, key, storable(message), now=self.context.clock.now())
        answer = asyncio.get_running_loop().create_task(self._record_failure(task, change))
        self._failures.add(answer)
        answer.add_done_callback(self._failures.discard)

    async def _record_failure(self, task: Task, change: RunChange) -> None:
        while True:
            try:
                await self._store_thread.record(change)
                self.unrecorded.discard(task.id)
                return
            except StoreUnreachableError as error:  # the node is leaving; the task is settled as a lost one
                log.error("task %s: its run could not be recorded: %s", task.id, error, extra=_ids_of(task))
                return
            except Exception as error:
                self.unrecorded.add(task.id)
                self._report_trouble(task, error)
            await asyncio.sleep(self._pace.rest_seconds)

    def _on_done(self, run: Run, result: RunReport | Exception) -> None:
        if isinstance(result, RunReport):
            self._count_safely(run, result)
        elif isinstance(result, StoreUnreachableError):
            log.error("task %s: its run could not be recorded: %s", run.task.id, result, extra=run.log_ids)
        else:
            self._report_trouble(run.task, result)
            self.fail(run.task, result)
        del self._runs[run]
        if run.holds_place:
            self._leave_place(run)
        if not self._runs and self._all_over is not None:
            self._all_over.set_result(None)
            self._all_over = None
        if self._listener is not None:
            self._listener.on_end()

    def _count_safely(self, run: Run, report: RunReport) -> None:
        """Its end is recorded: nothing that fails in counting it may change that."""
        try:
            self._count_report(run, report)
        except Exception as error:
            self._troubles.report("the count of runs", run.plugin.name, error)

    def _report_trouble(self, task: Task, error: Exception) -> None:
        self._troubles.report(
            "task", task.id, error, extra=_ids_of(task), shown_seconds=self._pace.task_trouble_seconds
        )

    def _on_place_free(self, run: Run) -> None:
        self._leave_place(run)
        if self._listener is not None:
            self._listener.on_place_free(run.plugin)

    def _leave_place(self, run: Run) -> None:
        self._places_taken -= 1
        _count_down(self._running, run.task.queue)
        _count_down(self._running_of_class, run.plugin.name)

    def _count_report(self, run: Run, report: RunReport) -> None:
        if report.host_error is not None:
            self._report_trouble(run.task, report.host_error)
        self._track_start(run, report)
        end_log.log_end(run, report, self.context.site.host_environment)
        if self._metrics is not None:
            self._metrics.count_end(run.task.queue, run.plugin.name, report.conclusion, report.reason, report.seconds)
            if report.conclusion is not None and report.error_group and is_failed(report.conclusion.status):
                self._metrics.count_failure(run.plugin.name, report.error_code or "", report.error_group)
        if self._on_report is not None:
            self._on_report(run, report)

    def _track_start(self, run: Run, report: RunReport) -> None:
        """Record whether its class can be started."""
        if report.reason is Reason.HOST_ERROR:
            return  # it says nothing of its class
        if report.result is RunResult.ENDED and report.why_process_lost is None:
            self._classes.forget_failures(run.plugin.name)
        reason = report.why_not_started or report.why_process_lost
        if reason is None:
            return
        if not report.is_machines_fault:
            self._classes.count_failure(run.plugin, reason, now=self.context.clock.now())
        elif self._listener is not None:
            self._listener.on_shortage(reason)


def _ids_of(task: Task) -> dict[str, dict[str, object]]:
    return logs.ids(task=task.id, queue=task.queue)


def _count_down(counts: dict[Key, int], key: Key) -> None:
    left = counts[key] - 1
    if left:
        counts[key] = left
    else:
        del counts[key]
