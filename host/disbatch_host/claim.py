"""A claim that is on its way: which of its tasks become Running with it, and in which worker process.

Responsible for: making a claimed task Running in the store's thread where it needs nothing more, and the worker
processes that are kept free for that. Must not know: which tasks are claimed, how they are run.
"""

from __future__ import annotations

from collections.abc import Mapping

from disbatch_host import run_document, runner
from disbatch_host.model import Document, RunChange, RunKey, Task, TaskId
from disbatch_host.plugins import Plugin
from disbatch_host.runner import Surroundings
from disbatch_host.workers import Worker, WorkerPool
from disbatch_protocol.manifest import Mode


class Claim:
    """Made in the event loop before the store is asked, and settled there afterwards."""

    def __init__(self, plugins: Mapping[str, Plugin], workers: WorkerPool, around: Surroundings) -> None:
        self._plugins = dict(plugins)
        self._workers = workers
        self._around = around
        self._free: dict[str, list[Worker]] = {name: [] for name in plugins}  # reserved, and not given a task yet
        self._reserved: list[Worker] = []
        # Of the tasks that are Running already: their plugin, `run`, and their worker process where there is one.
        self.begun: dict[TaskId, tuple[Plugin, Document, Worker | None]] = {}
        for plugin in self._plugins.values():
            self.reserve_idle(plugin)

    def reserve_idle(self, plugin: Plugin) -> None:
        """Keep the idle processes of this plugin for the claim. Also while the store's thread is at it."""
        if plugin.manifest.mode is Mode.WORKER and self._plugins.get(plugin.name) is plugin:
            idle = self._workers.reserve(plugin)
            self._reserved += idle
            self._free[plugin.name] += idle

    def begin(self, task: Task, class_name: str) -> RunChange | None:
        """See `Store.claim`. Called in the thread of the store."""
        plugin = self._plugins[class_name]
        beginning = runner.beginning_at_once(task, plugin, self._around, self._free[class_name])
        if beginning is None:
            return None
        run, worker = beginning
        self.begun[task.id] = (plugin, run, worker)
        key = RunKey(task.id, self._around.site.node_id, task.token)
        return run_document.start_change(task, key, run, now=run["started"])

    def settle(self) -> None:
        """It has been carried out, or was not possible: processes are kept for it no longer."""
        for worker in self._reserved:
            worker.is_reserved = False
