"""The stop of a node: what each request means for its runs, and waiting for their ends.

Responsible for: the three steps of a stop, the grace, and the exit code. Must not know: who asks for the stop, what is
closed once no run is left (`node` knows the order).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from disbatch_host.errors import ExitCode, StoreError
from disbatch_host.node.claiming import Claiming
from disbatch_host.node.pace import Pace
from disbatch_host.node.runs import Runs
from disbatch_host.node.store_health import StoreHealth
from disbatch_host.node.store_thread import StoreThread
from disbatch_host.process.interface import StopReason
from disbatch_host.run.worker.pool import WorkerPool

log = logging.getLogger(__name__)

_KILL = 3  # from the third request on

_STEPS = (
    "%d tasks run on to their end; another request stops them",
    "%d tasks are asked to stop now, and killed after the kill_grace of their plugin; another request kills them now",
    "%d tasks are killed",
)


class Stopping:
    """The requests to stop that a node has received. Used in the event loop."""

    def __init__(
        self,
        runs: Runs,
        claiming: Claiming,
        workers: WorkerPool,
        store_thread: StoreThread,
        health: StoreHealth,
        pace: Pace,
    ) -> None:
        self.grace_seconds: float | None = (
            None  # a setting, which may change; None: running tasks may go on to their end
        )
        self.exit_code = ExitCode.DONE
        self._runs = runs
        self._claiming = claiming
        self._workers = workers
        self._store_thread = store_thread
        self._health = health
        self._pace = pace
        self._requests = 0
        self._release: asyncio.Task[None] | None = None  # of places that are not needed any more, on its way

    def request(self) -> None:
        """The first: claim nothing more and let the running tasks finish. The second: stop them now, with their grace.
        The third: kill them, and give up on a store that is away."""
        self._requests += 1
        self._claiming.stop()
        self._runs.hold_back()
        if self._requests == _KILL - 1:
            self._runs.stop(StopReason.SHUTDOWN)
        elif self._requests >= _KILL:
            self._runs.kill(StopReason.SHUTDOWN)
            self._workers.kill()
            self._store_thread.hurry()
        if self._runs:
            log.info("stopping: %s", _STEPS[min(self._requests, _KILL) - 1] % len(self._runs))

    def lose_id(self) -> None:
        """The node id now belongs to another node: so do the tasks."""
        self.exit_code = ExitCode.NODE_ID_IN_USE
        self._runs.stop(StopReason.LOST)
        self.request()

    def leave_lost_store(self) -> bool:
        """Whether the node has to end because the file of its store is gone, has not come back in time, and no program
        is left whose end could still be recorded if it did. Then nothing more is claimed."""
        lost_seconds = self._health.lost_seconds
        if lost_seconds is None or lost_seconds < self._pace.lost_store_seconds or self._runs.programs:
            return False
        log.error("this node ends, since its store is lost: %s", self._health.loss)
        self._claiming.stop()
        return True

    async def finish_runs(self) -> None:
        """Wait until no run is left; or, after the third request, until the remaining ends cannot be recorded."""
        self._claiming.stop()
        self._runs.hold_back()
        if self._runs and self.grace_seconds is not None:
            await self._runs.wait(self.grace_seconds)
            self._runs.stop(StopReason.SHUTDOWN)
        while self._runs:
            await self._runs.wait(self._pace.refresh_seconds)
            if self._release is None or self._release.done():
                # Not waited for: while the store is away that takes long, and the third request would wait with it.
                self._release = asyncio.get_running_loop().create_task(self._release_places())
            is_lost = self._health.loss is not None and not self._runs.programs
            if is_lost or (self._requests >= _KILL and self._store_thread.is_away):
                what = "lost" if is_lost else "away"
                log.error(
                    "the store is %s: %d tasks are left as they are, until this node starts again",
                    what, len(self._runs),
                )  # fmt: skip
                self._store_thread.give_up()
                self.exit_code = ExitCode.STORE
                return

    async def _release_places(self) -> None:
        with contextlib.suppress(StoreError):  # only other nodes wait for it, and the next turn tries again
            await self._claiming.release_places()

    def lose_store(self) -> None:
        """The last writes of the node found that the file of its store is gone."""
        self.exit_code = ExitCode.STORE
