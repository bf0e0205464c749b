"""The stop of a node: what each request means for its runs, and waiting for their ends, or leaving them.

Responsible for: the three steps of a stop, the grace, the leave, and the exit code. Must not know: who asks for the
stop, what is closed once no run is left, or all that are left go on (`node` knows the order).

Rule: a leave is possible only where the runs have a supervisor that outlives the node; else their ends are waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from disbatch_host.errors import ExitCode, StoreError
from disbatch_host.node import leaving
from disbatch_host.node.claiming import Claiming
from disbatch_host.node.leaving import Leave
from disbatch_host.node.pace import Pace
from disbatch_host.node.runs import Runs
from disbatch_host.node.store_health import StoreHealth
from disbatch_host.node.store_thread import StoreThread
from disbatch_host.process.interface import StopReason
from disbatch_host.run.worker.pool import WorkerPool
from disbatch_host.settings.values import OnStop

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
        self.on_stop = OnStop.DRAIN  # a setting, too
        self.exit_code = ExitCode.DONE
        # Why the runs would end with the node; None: they go on. Before that is known a leave may be asked for.
        self.why_not_leave: Callable[[], str | None] = lambda: None
        self.leave_asked: Leave | None = None
        self.is_handing_over = False  # to another process of this node, which has its id and goes on with its runs
        self._runs = runs
        self._claiming = claiming
        self._workers = workers
        self._store_thread = store_thread
        self._health = health
        self._pace = pace
        self._requests = 0
        self._release: asyncio.Task[None] | None = None  # of places that are not needed any more, on its way
        self._deciding: asyncio.Task[None] | None = None  # whether SIGTERM means to leave
        self._left = asyncio.Event()

    def request(self) -> None:
        """The first: claim nothing more and let the running tasks finish. The second: stop them now, with their grace.
        The third: kill them, and give up on a store that is away. A node that leaves its runs only hurries."""
        if self.leave_asked is not None:
            self._store_thread.hurry()
            return
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

    def terminate(self) -> None:
        """SIGTERM: leave the runs if that is the setting, else like `request`. The system that goes down takes the runs
        along: then they are asked to stop in time."""
        if self.on_stop is not OnStop.KEEP or self._requests or self.leave_asked is not None:
            self.request()
        elif self._deciding is None:
            self._claiming.stop()
            self._deciding = asyncio.get_running_loop().create_task(self._decide())

    async def _decide(self) -> None:
        why_not = self.why_not_leave()
        if why_not is None and await asyncio.to_thread(leaving.is_system_going_down):
            why_not = "the system goes down"
        if why_not is None:
            self.leave(Leave(by="SIGTERM"))
        else:
            log.warning("this node cannot leave its runs: %s", why_not)
            self.request()

    def leave(self, asked: Leave) -> None:
        """Leave as soon as everything that has not begun has gone back; the runs go on. Changes nothing where they
        would end with the node."""
        why_not = self.why_not_leave()
        if why_not is not None:
            log.error("%s wants this node to leave its runs, which is not possible: %s", asked.by, why_not)
            return
        self.leave_asked = self.leave_asked or asked
        self._claiming.stop()
        self._left.set()

    def hand_over(self) -> None:
        """Another process of this node has its id, and takes over its supervisor."""
        if self.is_handing_over:
            return
        log.error("another process of this node was started by force, and goes on with its runs; this one ends")
        self.exit_code = ExitCode.NODE_ID_IN_USE
        self.is_handing_over = True
        self.leave(Leave(by="another process of this node"))

    @property
    def leaves_runs(self) -> bool:
        """Whether there are runs that go on without this node."""
        return self.leave_asked is not None and bool(self._runs)

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
        """Wait until no run is left; or, after the third request, until the remaining ends cannot be recorded; or until
        the node may leave those that are left."""
        self._claiming.stop()
        if self._deciding is not None:
            await self._deciding
        self._runs.hold_back()
        if self._runs and self.grace_seconds is not None:
            await self._wait(self.grace_seconds)
            if not self._can_leave():
                self._runs.stop(StopReason.SHUTDOWN)
        while self._runs:
            await self._wait(self._pace.refresh_seconds)
            if self._can_leave():
                await self._leave_runs()
                return
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

    async def _wait(self, seconds: float) -> None:
        """For the ends of all runs, or for somebody who asks the node to leave."""
        waiting = [asyncio.ensure_future(one) for one in (self._runs.wait(seconds), self._left.wait())]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for one in waiting:
            one.cancel()

    def _can_leave(self) -> bool:
        """Whether that is asked for, and (still) possible."""
        if self.leave_asked is None:
            return False
        why_not = self.why_not_leave()
        if why_not is not None:
            log.error("this node cannot leave its runs: %s; they run on to their end", why_not)
            self.leave_asked = None
            self._left.clear()
        return why_not is None

    async def _leave_runs(self) -> None:
        """Until only runs are left whose programs run."""
        self._runs.hold_back(at_once=True)
        self._workers.retire_idle()
        loop = asyncio.get_running_loop()
        until = loop.time() + self._pace.leave_seconds
        while self._runs.programs < len(self._runs) and not self.is_handing_over and loop.time() < until:
            await self._runs.wait(self._pace.leave_look_seconds)

    async def _release_places(self) -> None:
        with contextlib.suppress(StoreError):  # only other nodes wait for it, and the next turn tries again
            await self._claiming.release_places()

    def lose_store(self) -> None:
        """The last writes of the node found that the file of its store is gone."""
        self.exit_code = ExitCode.STORE
