"""The tasks that become Running with their claim, each in a worker process if it needs one.

Responsible for: making a claimed task Running in the same commit if nothing has to be prepared first, and handing
idle worker processes from the event loop to the store's thread for that. Must not know: which tasks are claimed, how
they are run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

from disbatch_host import errors
from disbatch_host.documents import earlier_outputs, transitions
from disbatch_host.documents.changes import RunChange, RunKey
from disbatch_host.documents.records import Document, Queue, QueueId, Task, TaskId
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.run import starting
from disbatch_host.run.context import RunContext
from disbatch_host.run.worker.pool import WorkerPool
from disbatch_host.run.worker.process import Worker

log = logging.getLogger(__name__)

# Bytes of the output of an attempt before that are written with a claim: more of them would hold up the other tasks.
_KEPT_WITH_CLAIM_MAX = 2**16


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A task that became Running with its claim."""

    task: Task  # as it is then
    plugin: Plugin
    run: Document  # `run` as it is in the task
    worker: Worker | None  # the process that was given to it


class Starter:
    """Makes tasks Running with one claim: holds the plugins as they were, and idle worker processes. The event loop
    adds processes, even while the claim is on its way; the store's thread takes them out."""

    def __init__(self, plugins: Mapping[str, Plugin], workers: WorkerPool, context: RunContext) -> None:
        self.plugins = plugins
        self.context = context
        self._workers = workers
        self._reserved: list[Worker] = []  # the event loop's
        self._sent: SimpleQueue[Worker] = SimpleQueue()
        self._arrived: list[Worker] = []  # the store thread's
        for plugin in plugins.values():
            self.reserve_idle(plugin)

    def reserve_idle(self, plugin: Plugin) -> None:
        """Keep the idle processes of this plugin for the claim. In the event loop."""
        if not self._workers.size or not plugin.schema.is_ever_quick or self.plugins.get(plugin.name) is not plugin:
            return  # its tasks cannot become Running with their claim
        idle = self._workers.reserve(plugin)
        self._reserved += idle
        for worker in idle:
            self._sent.put(worker)

    def release(self) -> None:
        """The claim was answered: no process is kept for it any longer. In the event loop."""
        self._workers.unreserve(self._reserved)

    def new_starts(self) -> Starts:
        """For one try of the claim: every reserved process is free for it. In the store's thread."""
        return Starts(self)

    def arrived(self) -> Sequence[Worker]:
        """All processes reserved so far. In the store's thread."""
        while not self._sent.empty():
            self._arrived.append(self._sent.get())
        return self._arrived


class Starts:
    """The tasks that one claim makes Running. Used in the store's thread."""

    def __init__(self, starter: Starter) -> None:
        self._starter = starter
        self._plugins = starter.plugins
        self._context = starter.context
        self._seen = 0  # of the processes that have arrived
        self._idle: dict[str, list[Worker]] = {}  # by class; the one that was busy last at the end
        self.started: dict[TaskId, Started] = {}

    def on_claim(self, task: Task, queues: Mapping[QueueId, Queue]) -> RunChange | None:
        """See `Store.claim`; `queues`: those that it claims from. Never raises: a task at which this fails is claimed
        plainly, and its run, which meets the same, says so in the task."""
        try:
            return self.start_with_claim(task, queues[task.queue])
        except Exception as error:
            log.debug("a task cannot become Running with its claim: %s", errors.in_words(error))
            return None

    def start_with_claim(self, task: Task, queue: Queue) -> RunChange | None:
        """The change that makes a task Running with its claim; None if something has to be prepared first. A store may
        ask twice for a task."""
        class_name = queue.class_name
        plugin = self._plugins.get(class_name)
        if plugin is None:
            return None
        idle = self._idle_of(class_name)
        earlier = self.started.pop(task.id, None)
        if earlier is not None and earlier.worker is not None:
            idle.append(earlier.worker)
        start = starting.start_with_claim(task, plugin, self._context, idle[-1] if idle else None)
        if start is None:
            return None
        run, worker = start
        key = RunKey(task.id, self._context.site.node_id, task.token)
        change = transitions.start_change(task, key, run, now=run["started"], keep_attempts=queue.keep_attempts)
        if change.keeps and sum(len(one.data) for one in change.keeps) > _KEPT_WITH_CLAIM_MAX:
            return None
        if worker is not None:
            idle.pop()
        if "attempts" in change.set:
            task = earlier_outputs.with_attempts(task, change.set)
        self.started[task.id] = Started(task=task, plugin=plugin, run=run, worker=worker)
        return change

    def _idle_of(self, class_name: str) -> list[Worker]:
        arrived = self._starter.arrived()
        for worker in arrived[self._seen :]:
            self._idle.setdefault(worker.plugin.name, []).append(worker)
        self._seen = len(arrived)
        return self._idle.setdefault(class_name, [])
