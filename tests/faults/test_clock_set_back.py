"""The store's clock as a node knows it is set back while a program runs."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path

from disbatch_host.clock import SystemClock
from disbatch_host.plugin.catalog import PluginScanner
from disbatch_host.trial.local_host import LocalHost
from helpers.nodes import write_plugin


class ClockSetBack(SystemClock):
    """An hour earlier each time that it is asked."""

    def __init__(self) -> None:
        self._asked = 0

    def now(self) -> datetime:
        self._asked += 1
        return super().now() - timedelta(hours=self._asked)


def test_a_run_never_ends_before_it_has_started(tmp_path: Path) -> None:
    """The incident: MongoDB stood still for seconds while it was asked for its time, the node's estimate was corrected
    in the middle of a run, and the task said that it had taken -0.092 seconds."""
    write_plugin(tmp_path / "plugins", "Short", "echo done")
    plugin = PluginScanner([tmp_path / "plugins"]).scan().plugins["Short"]

    async def perform() -> dict[str, object]:
        host = LocalHost(ClockSetBack())
        try:
            return dict((await host.run(plugin, {})).document)
        finally:
            await host.close()

    document = asyncio.run(perform())
    run = document["run"]
    assert isinstance(run, dict)
    assert run["ended"] >= run["started"] and 0 <= run["seconds"] < 60
    assert document["mtime"] == run["ended"]
