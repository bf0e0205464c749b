"""The duty that reads the plugins again, and tells the parts of the node that need to know of changes.

Responsible for: reading in a thread, so that nothing in the directories holds up the event loop, and seldom enough to
cost little. Must not know: what makes a plugin usable.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from disbatch_host.node.claiming import Claiming
from disbatch_host.node.pace import Pace
from disbatch_host.node.runs import Runs
from disbatch_host.plugin.catalog import Catalog
from disbatch_host.plugin.classes import Classes
from disbatch_host.run.worker.pool import WorkerPool

_REST = 50  # times as long as a scan took is the least until the next: 2 % of a processor at most


class PluginScan:
    """See `rounds.Duty`."""

    def __init__(
        self,
        classes: Classes,
        workers: WorkerPool,
        runs: Runs,
        claiming: Claiming,
        pace: Pace,
        *,
        on_change: Callable[[], object] = lambda: None,
    ) -> None:
        """`on_change` is called when the classes have changed."""
        self._on_change = on_change
        self.name = "plugin scan"
        self._classes = classes
        self._workers = workers
        self._runs = runs
        self._claiming = claiming
        self._pace = pace
        self._cpu_seconds = 0.0  # of the last scan
        self._begun: set[asyncio.Task[None]] = set()  # referred to, or they may vanish
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="plugins")  # one scan at a time

    @property
    def interval_seconds(self) -> float:
        return max(self._pace.plugin_scan_seconds, self._cpu_seconds * _REST)

    async def turn(self) -> None:
        """One look at the directories."""
        await self._look(lambda: None)

    def scan(self) -> None:
        """The same at once, without a turn of the event loop in between."""
        self._take(self._thread.submit(self._read).result())

    def begin(self, change: Callable[[], None]) -> None:
        """Begin a look now, beside those that come at intervals; `change` is called in the moment in which the node
        goes over to what was read."""
        begun = asyncio.get_running_loop().create_task(self._look(change))
        self._begun.add(begun)
        begun.add_done_callback(self._begun.discard)

    def close(self) -> None:
        """Look no more. A scan that is under way ends soon."""
        self._classes.close()
        for begun in self._begun:
            begun.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _look(self, change: Callable[[], None]) -> None:
        catalog = await asyncio.get_running_loop().run_in_executor(self._thread, self._read)
        change()
        self._take(catalog)

    def _take(self, catalog: Catalog) -> None:
        if self._classes.take(catalog):
            self._workers.keep_only(set(self._classes.plugins.values()))
            self._runs.on_plugins_read()
            self._claiming.on_change()
            self._on_change()

    def _read(self) -> Catalog:
        began = time.thread_time()
        try:
            return self._classes.read()
        finally:
            self._cpu_seconds = time.thread_time() - began
