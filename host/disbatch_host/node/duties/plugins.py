"""The duty that reads the plugins again, and tells the parts of the node that need to know of changes."""

from __future__ import annotations

from disbatch_host.node.claiming import Claiming
from disbatch_host.node.pace import Pace
from disbatch_host.node.runs import Runs
from disbatch_host.plugin.classes import Classes
from disbatch_host.run.worker.pool import WorkerPool


class PluginScan:
    """See `rounds.Duty`."""

    def __init__(self, classes: Classes, workers: WorkerPool, runs: Runs, claiming: Claiming, pace: Pace) -> None:
        self.name = "plugin scan"
        self._classes = classes
        self._workers = workers
        self._runs = runs
        self._claiming = claiming
        self.interval_seconds = pace.plugin_scan_seconds

    async def turn(self) -> None:
        """One look at the directories."""
        self.scan()

    def scan(self) -> None:
        """The same at once, without a turn of the event loop in between."""
        if self._classes.scan():
            self._workers.keep_only(set(self._classes.plugins.values()))
            self._runs.on_plugins_read()
            self._claiming.on_change()
