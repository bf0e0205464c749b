"""The process host inside this process: its runs are children of this process, and end with it.

Responsible for: the existing runs, by their numbers. Must not know: how a child is started, read and ended (`child`),
what the notes mean.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from disbatch_host.process.child import Child
from disbatch_host.process.interface import Process, ProcessHost, ProcessListener, Start
from disbatch_host.process.poller import Poller
from disbatch_host.process.spawner import Spawner

DRAIN_SECONDS = 2.0  # plugin contract: how long a background child may hold the output


def process_host(*, drain_seconds: float = DRAIN_SECONDS) -> ProcessHost:
    """The process host that starts programs on this machine; the only place that chooses one. Made anywhere, used in
    the thread of one event loop. `drain_seconds`: how long a background child may hold the output."""
    return InlineHost(drain_seconds)


class InlineHost:
    """See `interface.ProcessHost`."""

    def __init__(self, drain_seconds: float) -> None:
        self._drain_seconds = drain_seconds
        self._poller = Poller()
        self._spawner = Spawner()
        self._numbers = itertools.count(1)
        self._children: dict[int, Child] = {}

    async def start(self, start: Start, listener: ProcessListener) -> Process:
        run = next(self._numbers)
        child = Child(
            run,
            start,
            listener,
            self._poller,
            self._spawner,
            drain_seconds=self._drain_seconds,
            on_forgotten=self._forget,
        )
        self._children[run] = child
        try:
            await child.start()
        except BaseException:
            self._forget(run)
            raise
        return child

    def runs(self) -> Sequence[Process]:
        return list(self._children.values())

    def close(self) -> None:
        self._spawner.close()
        self._poller.close()

    def _forget(self, run: int) -> None:
        self._children.pop(run, None)
