"""A claim that is on its way: which of its tasks become Running with it, and in which worker process.

Responsible for: making a claimed task Running in the store's thread where it needs nothing more, and the worker
processes that are kept free for that. Must not know: which tasks are claimed, how they are run.

A store that fails in the middle may be asked a second time, so a task may be begun twice: only the beginning that has
the token of its claim stands in the store.
"""

from __future__ import annotations

from collections.abc import Mapping

from disbatch_host.documents import transitions
from disbatch_host.documents.changes import RunChange, RunKey
from disbatch_host.documents.records import Document, Task, TaskId
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.run import starting
from disbatch_host.run.context import RunContext
from disbatch_host.run.worker.pool import WorkerPool
from disbatch_host.run.worker.process import Worker


class Claim:
    """Made in the event loop before the store is asked, and settled there afterwards."""

    def __init__(self, plugins: Mapping[str, Plugin], workers: WorkerPool, context: RunContext) -> None:
        self._plugins = dict(plugins)
        self._workers = workers
        self._context = context
        self._free: dict[str, list[Worker]] = {name: [] for name in plugins}  # reserved, and not given a task yet
        self._reserved: list[Worker] = []
        self._begun: dict[TaskId, tuple[Plugin, Document, Worker | None]] = {}
        for plugin in self._plugins.values():
            self.reserve_idle(plugin)

    def reserve_idle(self, plugin: Plugin) -> None:
        """Keep the idle processes of this plugin for the claim. Also while the store's thread is at it."""
        if not plugin.schema.may_be_slow and self._plugins.get(plugin.name) is plugin:
            idle = self._workers.reserve(plugin)
            self._reserved += idle
            self._free[plugin.name] += idle

    def begin(self, task: Task, class_name: str) -> RunChange | None:
        """See `Store.claim`. Called in the thread of the store."""
        plugin = self._plugins.get(class_name)
        if plugin is None:
            return None
        _, _, worker = self._begun.pop(task.id, (None, None, None))
        if worker is not None:
            self._free[class_name].append(worker)
        beginning = starting.start_with_claim(task, plugin, self._context, self._free[class_name])
        if beginning is None:
            return None
        run, worker = beginning
        self._begun[task.id] = (plugin, run, worker)
        key = RunKey(task.id, self._context.site.node_id, task.token)
        return transitions.start_change(task, key, run, now=run["started"])

    def begun(self, task: Task) -> tuple[Plugin, Document, Worker | None] | None:
        """Of a claimed task that is Running already: its plugin, `run`, and its worker process where there is one."""
        found = self._begun.get(task.id)
        return found if found is not None and found[1]["token"] == task.token else None

    def settle(self) -> None:
        """It has been carried out, or was not possible: processes are kept for it no longer."""
        self._workers.unreserve(self._reserved)
