"""Claiming in the event loop: when a node asks for tasks, and which of those that it gets are started.

Responsible for: when there is reason for a round, and starting a run for each task. Must not know: how places are
shared among queues, how a store claims, how a run works.

A round takes place in two threads:

    event loop           `Claiming.turn`             is a round needed? what may run here: a `ClaimRequest`
    thread of the store  `ClaimLedger.round`         one commit with the ends gathered so far: a `ClaimResult`
       of each task      `Starts.start_with_claim`   Running in the same commit, if nothing has to be prepared
    event loop           `Claiming.turn`             a run for each task; when to look again

Rules:
1. The event loop alone reserves worker processes. They go to the store's thread through a queue, since some become idle
   while the claim is on its way; those that got a task come back in the result.
2. The ledger belongs to the store's thread while a call is on its way, and to the event loop at other times.
3. What people are told is true of claims that are on their way, too: the queues have been read again, or the node is
   drained, only once no claim is left that was begun before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from disbatch_host import logs
from disbatch_host.clock import Clock
from disbatch_host.decide.placement import Load
from disbatch_host.documents import transitions
from disbatch_host.documents.changes import RunKey
from disbatch_host.documents.records import Queue, QueueId, Task
from disbatch_host.errors import StoreError
from disbatch_host.node.claim_ledger import ClaimLedger, ClaimRequest, ClaimResult
from disbatch_host.node.compartment import Troubles
from disbatch_host.node.pace import Pace
from disbatch_host.node.runs import Runs
from disbatch_host.node.starter import Started, Starter
from disbatch_host.node.store_health import StoreHealth
from disbatch_host.node.store_thread import StoreThread
from disbatch_host.node.suspects import ClaimFailedError
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.plugin.classes import Classes
from disbatch_host.run.worker.pool import WorkerPool

log = logging.getLogger(__name__)


class Claiming:
    """Decides when the node asks for tasks, and starts those that it gets. Used in the event loop."""

    def __init__(
        self,
        runs: Runs,
        store_thread: StoreThread,
        classes: Classes,
        workers: WorkerPool,
        clock: Clock,
        health: StoreHealth,
        troubles: Troubles,
        pace: Pace,
    ) -> None:
        """`clock`: this machine's; only its monotonic time, and that since boot, is used."""
        self._runs = runs
        self._store_thread = store_thread
        self._classes = classes
        self._workers = workers
        self._clock = clock
        self._health = health
        self._pace = pace
        self._troubles = troubles
        self._node_id = runs.context.site.node_id
        self._ledger = ClaimLedger(self._node_id, pace, clock, troubles)
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._needs_look = True  # something may have changed since the last round
        self._may_have_more = False  # the last round left tasks waiting because there was no room
        self._starter: Starter | None = None  # of the claim that is on its way
        self._gather_timer: asyncio.TimerHandle | None = None  # when the places that became free are to be filled
        self._limit_timer: asyncio.TimerHandle | None = None  # when a limit of a queue lets the next one start
        self._short_until = 0.0  # the machine is short of something; see `on_shortage`
        self._most_while_short = 0
        self._last_refresh = float("-inf")
        self._last_read = float("-inf")  # of the queues; not every refresh needs one
        self._changes = self._changes_read = 0  # that were told of; of these, before the last read of the queues
        self.is_told: Callable[[], bool] = lambda: False  # whether the store announces every change
        self._on_read: list[Callable[[], None]] = []  # see `read_queues_again`
        self._is_asking = False  # a claim that may get tasks is on its way
        self._queue_faults: dict[QueueId, str] = {}
        self.queues: Sequence[Queue] = ()  # as last read
        self.is_drained = False  # somebody asked that nothing more be claimed here
        self.is_stopped = False
        runs.listen(self)

    @property
    def classes(self) -> frozenset[str]:
        """The classes whose tasks may be claimed now."""
        return frozenset() if self.is_drained or self._why_not_now() is not None else self._classes.usable

    def _why_not_now(self) -> str | None:
        return self._runs.context.processes.why_not_now()

    @property
    def needs_look(self) -> bool:
        """Whether something may have changed since the last round."""
        return self._needs_look

    @property
    def claims_nothing(self) -> bool:
        """Whether nothing more is claimed here, not even by a claim that is on its way (rule 3)."""
        return (self.is_drained or self.is_stopped) and not self._is_asking

    def read_queues_again(self, on_read: Callable[[], None]) -> None:
        """Read the queues now; `on_read` is called once that is done and every claim follows what they say now (rule
        3)."""
        self._on_read.append(on_read)
        self._last_refresh = float("-inf")
        self._wake.set()

    def on_change(self) -> None:
        """Something changed that may give this node something to do."""
        self._changes += 1
        self._needs_look = True
        self._wake.set()

    def stop(self) -> None:
        """Claim nothing more; a claim that is on its way is completed. Stopping twice is fine."""
        self.is_stopped = True
        self._wake.set()

    async def wait(self) -> None:
        """Wait until there may be reason for a round."""
        timer = self._loop.call_later(self._pace.refresh_seconds, self._wake.set)
        await self._wake.wait()
        timer.cancel()

    async def turn(self) -> None:
        """Do a round, if there is reason for one."""
        self._wake.clear()  # a reason that arrives during the round is one for the next
        refresh = self._loop.time() - self._last_refresh >= self._pace.refresh_seconds
        if not refresh and (not self._needs_look or self._store_thread.is_away):
            return  # nothing is claimed while the ends of runs cannot be written
        is_unchanged = refresh and self._is_unchanged()
        self._needs_look = False
        why_not = self._why_not_now()
        if why_not is not None:
            self._troubles.report("starts", "of programs", why_not, shown_seconds=2 * self._pace.refresh_seconds)
        try:
            if is_unchanged:
                self._needs_look |= await self._store_thread.call(self._ledger.promote)
                self._last_refresh = self._loop.time()
                return
            if refresh and self._ledger.has_unanswered_claims:
                await self._return_orphaned_claims()
            # From here to the call nothing else runs: plugins, classes and load are those of one moment.
            classes, load = self.classes, self._load()
            if not refresh and not self._ledger.has_room(classes, load):
                self._may_have_more = True  # nobody has looked; the next run that ends makes room
                return
            await self._claim_and_start(classes, load, refresh)
        except ClaimFailedError:
            self.on_change()
        except StoreError as error:
            self._health.report_trouble(error)
            self._last_refresh = self._loop.time()

    def _is_unchanged(self) -> bool:
        """Whether a round would find what the last one has found, unless something is due by now."""
        return (
            self.is_told()
            and self._changes == self._changes_read
            and not (self._needs_look or self._may_have_more or self._on_read or len(self._runs))
            and self._ledger.holds_nothing
            and self._loop.time() - self._last_read < self._pace.unchanged_seconds
        )

    async def _claim_and_start(self, classes: frozenset[str], load: Load, refresh: bool) -> None:
        """Raises StoreError if nothing was claimed, or if that is unknown."""
        asked_at = self._clock.since_boot()
        starter = Starter(self._classes.plugins, self._workers, self._runs.context)
        waiting, changes = len(self._on_read), self._changes  # for a read that begins after this
        self._is_asking = bool(classes)
        try:
            result = await self._ask(starter, classes, load, refresh)
            self._take(result, asked_at, refresh)
        finally:
            self._is_asking = False
            starter.release()  # after the runs took their processes: those must not be retired
        if refresh:
            self._last_read, self._changes_read = self._loop.time(), changes
            done, self._on_read = self._on_read[:waiting], self._on_read[waiting:]
            self._last_refresh = float("-inf") if self._on_read or result.refresh_again else self._loop.time()
            if result.refresh_again:
                self._wake.set()
            for on_read in done:
                on_read()

    def _take(self, result: ClaimResult, asked_at: float, refresh: bool) -> None:
        if refresh:
            self.queues = result.queues
            self._log_queue_faults()
        self._may_have_more = result.may_have_more
        for task in result.tasks:
            self._start(task, result.started.get(task.id), asked_at)
        self._look_again_after(result.look_again_seconds)

    async def _ask(self, starter: Starter, classes: frozenset[str], load: Load, refresh: bool) -> ClaimResult:
        self._starter = starter
        request = ClaimRequest(classes=classes, load=load, refresh=refresh, new_starts=starter.new_starts)
        try:
            result = await self._store_thread.call_after_records(partial(self._ledger.round, request))
        finally:
            self._starter = None
        self._ledger.confirm(result)
        return result

    async def _return_orphaned_claims(self) -> None:
        known = self._runs.task_ids
        count = await self._store_thread.call(lambda store: self._ledger.return_orphaned_claims(store, known=known))
        if count:
            log.warning("%d tasks were claimed but the store's answer was lost; they go back to their queues", count)

    def _start(self, task: Task, started: Started | None, asked_at: float) -> None:
        if started is not None:
            self._runs.start(
                started.task, started.plugin, asked_at=asked_at, running=started.run, worker=started.worker
            )
            return
        # Its plugin as it was when the task was claimed, or as it is now; it may even be gone.
        queue = next((queue for queue in self.queues if queue.id == task.queue), None)
        plugin = None if queue is None else self._classes.plugins.get(queue.class_name)
        if queue is not None and plugin is not None:
            self._runs.start(task, plugin, asked_at=asked_at, keep_attempts=queue.keep_attempts)
            return
        key = RunKey(task.id, self._node_id, task.token)
        self._store_thread.record(transitions.unclaim_change(key, now=self._runs.context.clock.now()))

    def _look_again_after(self, seconds: float | None) -> None:
        """Look again when a limit of a queue lets its next task start, if that is sooner than the next look anyway."""
        if seconds is None or seconds >= self._pace.refresh_seconds:
            return
        at = self._loop.time() + max(seconds, self._pace.gather_seconds)
        if self._limit_timer is not None and self._limit_timer.when() >= self._loop.time():
            if self._limit_timer.when() <= at:
                return
            self._limit_timer.cancel()
        self._limit_timer = self._loop.call_at(at, self.on_change)

    def on_place_free(self, plugin: Plugin) -> None:
        """A run left its place. A claim that is on its way may give the place to a task."""
        if self._starter is not None:
            self._starter.reserve_idle(plugin)
        self._look_soon()

    def on_end(self) -> None:
        """The place that the run had left before it ended is nearly always taken by now."""
        is_asking = self._starter is not None  # the ledger is not ours (rule 2)
        if is_asking or not self._may_have_more or self._ledger.has_room(self.classes, self._runs.load):
            self._look_soon()

    def _look_soon(self) -> None:
        """There may be a free place. One claim for several costs little more than for one, and nothing at all if it is
        committed with their ends, so the other runs are waited for, for a moment."""
        self._needs_look |= self._may_have_more
        gather_seconds = self._pace.gather_seconds
        if not self._may_have_more:
            self._wake.set()
        elif not self._runs.places_taken:
            self._store_thread.expect_call(gather_seconds)
            self._wake.set()
        elif self._gather_timer is None:
            self._store_thread.expect_call(2 * gather_seconds)
            self._gather_timer = self._loop.call_later(gather_seconds, self._on_gathered)

    def _on_gathered(self) -> None:
        self._gather_timer = None
        self._wake.set()

    def on_shortage(self, why: str) -> None:
        """This machine is short of something that a start needs: for a moment no more tasks run here than it can run
        now; none, if it runs none."""
        now, running = self._loop.time(), self._runs.programs
        if now >= self._short_until:  # logged once, however many runs met it
            log.error("this machine is short of something: %s; for a moment it runs %d tasks at most", why, running)
            self._most_while_short = running
        self._most_while_short = min(self._most_while_short, running)
        self._short_until = now + self._pace.shortage_seconds

    def _load(self) -> Load:
        load = self._runs.load
        if self._loop.time() >= self._short_until:
            return load
        most = self._most_while_short
        return replace(load, max_total=most if load.max_total is None else min(most, load.max_total))

    async def release_places(self) -> None:
        """Let other nodes have the places that this one holds beyond its runs. Raises StoreError."""
        load = self._runs.load
        await self._store_thread.call_after_records(
            lambda store, freed: self._ledger.release_places(store, load.without(freed))
        )

    async def release_all_places(self) -> None:
        """The same for a node that no longer has anything in hand."""
        await self._store_thread.call(self._ledger.release_all_places)

    def _log_queue_faults(self) -> None:
        faults = {queue.id: queue.fault for queue in self.queues if queue.fault is not None}
        for queue_id, fault in faults.items():
            if self._queue_faults.get(queue_id) != fault:
                log.error("queue %s cannot be run: %s", queue_id, fault, extra=logs.ids(queue=queue_id))
        self._queue_faults = faults
