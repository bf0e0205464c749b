"""Claiming, end to end: when a node asks for tasks, the part of the store's thread in it, and which tasks are started.

Responsible for: a round (promote what is due, see what waits, decide, claim, start), and when there is reason for one.
Must not know: how a store claims, how a run works.

A round takes place in two threads:

    event loop           `Claiming.turn`             is a round needed? what may run here: a `ClaimRequest`
    thread of the store  `ClaimLedger.round`         one commit with the ends gathered so far: a `ClaimResult`
       of each task      `Starts.start_with_claim`   Running in the same commit, if nothing has to be prepared
    event loop           `Claiming.turn`             a run for each task; when to look again

Rules:
1. Request and result are values. The event loop alone reserves worker processes. They go to the store's thread through
   a queue, since some become idle while the claim is on its way; those that got a task come back in the result.
2. The ledger belongs to the store's thread while a call is on its way, and to the event loop at other times.
3. After a failure the store's thread may carry out a round a second time: it starts from the request again.
4. A claim whose answer was lost may have been carried out all the same: its token is remembered, and tasks that carry
   it are returned to their queues (orphaned claims).
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from disbatch_host import logs
from disbatch_host.clock import Clock, SystemClock
from disbatch_host.decide import placement
from disbatch_host.decide.placement import Load
from disbatch_host.documents import transitions
from disbatch_host.documents.changes import Place, RunChange, RunKey, TaskFilter, Want
from disbatch_host.documents.records import Queue, QueueId, Sort, Task, TaskId
from disbatch_host.errors import StoreError, StoreUnreachableError
from disbatch_host.node.compartment import Troubles, write_each
from disbatch_host.node.pace import Pace
from disbatch_host.node.runs import Runs
from disbatch_host.node.starter import Started, Starter, Starts
from disbatch_host.node.store_health import StoreHealth
from disbatch_host.node.store_thread import StoreThread
from disbatch_host.node.suspects import Suspects
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.plugin.classes import Classes
from disbatch_host.run.worker.pool import WorkerPool
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status

log = logging.getLogger(__name__)

_CLAIMED_UNSEEN = 2  # up to this many queues, claiming at once is faster than first looking whether anything waits
_PROMOTED = 1000  # tasks promoted in one go
_PROMOTIONS = 10  # in one round: ten thousand that are due at the same second must not keep the others from their turn


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRequest:
    """The input of a round, as it was at one moment."""

    classes: frozenset[str]  # whose tasks may be claimed
    load: Load
    refresh: bool = False  # read the queues again and promote what is due; else only claim
    new_starts: Callable[[], Starts] | None = None  # for each try; None: no task becomes Running with its claim


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimResult:
    """The result of a round."""

    queues: Sequence[Queue]  # all existing ones
    tasks: Sequence[Task] = ()  # claimed for this node
    started: Mapping[TaskId, Started] = field(default_factory=dict)  # those of them that are Running already
    may_have_more: bool = False  # tasks may be waiting for which there was no room; a run that ends makes room
    look_again_seconds: float | None = None  # when the rate of a queue lets the next one start
    token: str | None = None  # of the claim, if there was one; see `ClaimLedger.confirm`


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
        """`clock`: this machine's; only its monotonic time is used."""
        self._runs = runs
        self._store_thread = store_thread
        self._classes = classes
        self._workers = workers
        self._clock = clock
        self._health = health
        self._pace = pace
        self._node_id = runs.context.site.node_id
        self._ledger = ClaimLedger(self._node_id, pace, troubles)
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._needs_look = True  # something may have changed since the last round
        self._may_have_more = False  # the last round left tasks waiting because there was no room
        self._starter: Starter | None = None  # of the claim that is on its way
        self._gather_timer: asyncio.TimerHandle | None = None  # when the places that became free are to be filled
        self._rate_timer: asyncio.TimerHandle | None = None  # when the rate of a queue lets the next one start
        self._held_until = 0.0  # the machine is short of something; see `on_shortage`
        self._last_refresh = float("-inf")
        self._queue_faults: dict[QueueId, str] = {}
        self.queues: Sequence[Queue] = ()  # as last read
        self.is_drained = False  # somebody asked that nothing more be claimed here
        self.is_stopped = False
        runs.listen(self)

    @property
    def classes(self) -> frozenset[str]:
        """The classes whose tasks may be claimed now."""
        return frozenset() if self.is_drained else self._classes.usable

    @property
    def needs_look(self) -> bool:
        """Whether something may have changed since the last round."""
        return self._needs_look

    def on_change(self) -> None:
        """Something changed that may give this node something to do."""
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
        if self._loop.time() < self._held_until:
            return
        self._needs_look = False
        try:
            if refresh and self._ledger.has_unanswered_claims:
                await self._return_orphaned_claims()
            # From here to the call nothing else runs: plugins, classes and load are those of one moment.
            classes, load = self.classes, self._runs.load
            if not refresh and not self._ledger.has_room(classes, load):
                self._may_have_more = True  # nobody has looked; the next run that ends makes room
                return
            await self._claim_and_start(classes, load, refresh)
        except StoreError as error:
            self._health.report_trouble(error)
            self._last_refresh = self._loop.time()

    async def _claim_and_start(self, classes: frozenset[str], load: Load, refresh: bool) -> None:
        """Raises StoreError if nothing was claimed, or if that is unknown."""
        asked_at = self._clock.monotonic()
        starter = Starter(self._classes.plugins, self._workers, self._runs.context)
        try:
            result = await self._ask(starter, classes, load, refresh)
            self._take(result, asked_at, refresh)
        finally:
            starter.release()  # after the runs took their processes: those must not be retired

    def _take(self, result: ClaimResult, asked_at: float, refresh: bool) -> None:
        if refresh:
            self._last_refresh = self._loop.time()
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
            self._runs.start(task, started.plugin, asked_at=asked_at, running=started.run, worker=started.worker)
            return
        # Its plugin as it was when the task was claimed, or as it is now; it may even be gone.
        queue = next((queue for queue in self.queues if queue.id == task.queue), None)
        plugin = None if queue is None else self._classes.plugins.get(queue.class_name)
        if plugin is not None:
            self._runs.start(task, plugin, asked_at=asked_at)
            return
        key = RunKey(task.id, self._node_id, task.token)
        self._store_thread.record(transitions.unclaim_change(key, now=self._runs.context.clock.now()))

    def _look_again_after(self, seconds: float | None) -> None:
        """Look again when the rate of a queue lets its next task start, if that is sooner than the next look anyway."""
        is_set = self._rate_timer is not None and self._rate_timer.when() >= self._loop.time()
        if seconds is not None and seconds < self._pace.refresh_seconds and not is_set:
            self._rate_timer = self._loop.call_later(max(seconds, self._pace.gather_seconds), self.on_change)

    def on_place_free(self, plugin: Plugin) -> None:
        """A run left its place. A claim that is on its way may give the place to a task."""
        if self._starter is not None:
            self._starter.reserve_idle(plugin)
        self.on_end()

    def on_end(self) -> None:
        """There may be a free place. One claim for several costs little more than for one, and nothing at all if it is
        committed with their ends, so the other runs are waited for, for a moment."""
        self._needs_look |= self._may_have_more
        gather_seconds = self._pace.gather_seconds
        if not self._may_have_more:
            self._wake.set()
        elif not self._runs.places_taken:
            self._store_thread.expect_call(gather_seconds)
            self._wake.set()
        elif self._gather_timer is None or self._gather_timer.when() < self._loop.time():
            self._store_thread.expect_call(2 * gather_seconds)
            self._gather_timer = self._loop.call_later(gather_seconds, self._wake.set)

    def on_shortage(self, why: str) -> None:
        """This machine is short of something that a start needs: nothing is claimed for a moment."""
        if self._loop.time() >= self._held_until:  # logged once, however many runs met it
            log.error("this machine is short of something: %s; nothing is claimed for a moment", why)
        self._held_until = self._loop.time() + self._pace.shortage_seconds

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


class ClaimLedger:
    """The memory of a node's claims from one round to the next, and the round itself."""

    def __init__(self, node_id: str, pace: Pace, troubles: Troubles | None = None) -> None:
        """`troubles`: of the node; by default those of this ledger alone."""
        self._node_id = node_id
        self._pace = pace
        self._troubles = troubles or Troubles(SystemClock(), pace)
        self._suspects = Suspects(self._troubles)
        self._queues: Sequence[Queue] = ()
        self._held: dict[QueueId, int] = {}  # of queues with `maxtotal`: the most that this node may have in hand
        self._unanswered: dict[str, int] = {}  # tokens of claims without an answer: looks for their tasks so far

    @property
    def has_unanswered_claims(self) -> bool:
        """Whether there may be a claim that was carried out without the node knowing."""
        return bool(self._unanswered)

    def has_room(self, classes: frozenset[str], load: Load) -> bool:
        """Whether a round could claim anything, by the queues as last read."""
        return placement.has_room(placement.served(self._queues, node_id=self._node_id, classes=classes), load)

    def confirm(self, result: ClaimResult) -> None:
        """The node received this answer."""
        if result.token is not None:
            self._unanswered.pop(result.token, None)

    def round(self, request: ClaimRequest, store: Store, freed: Sequence[Place] = ()) -> ClaimResult:
        """Claim as much as there is room for. `freed`: places whose runs have ended since the request was made."""
        load = request.load.without(freed)
        if request.refresh:
            self._refresh(store, load)
        candidates = placement.served(self._queues, node_id=self._node_id, classes=request.classes)
        if self._unanswered:
            # It is uncertain how many tasks this node has in hand, so nothing is claimed where that must be exact.
            candidates = [queue for queue in candidates if queue.maxtotal is None]
        candidates = self._suspects.awake(candidates)
        if _needs_look_at_waiting(candidates, load):
            if not placement.has_room(candidates, load):
                return ClaimResult(queues=self._queues, may_have_more=True)
            waiting = store.waiting_queues()
            candidates = [queue for queue in candidates if queue.id in waiting]
        by_id = {queue.id: queue for queue in candidates}
        wants = self._suspects.allowed(
            [_want(by_id[queue_id], count, load) for queue_id, count in placement.allot(candidates, load)]
        )
        if not wants:
            return ClaimResult(queues=self._queues, may_have_more=bool(candidates))
        starts = None if request.new_starts is None else request.new_starts()

        def start_with_claim(task: Task) -> RunChange | None:
            return starts.on_claim(task, by_id) if starts is not None else None

        token = uuid.uuid4().hex
        self._unanswered[token] = 0
        self._held |= {want.queue: want.in_hand + want.count for want in wants if want.maxtotal is not None}
        try:
            tasks = store.claim(self._node_id, wants, token, start_with_claim)
        except StoreUnreachableError:
            raise
        except Exception as error:
            self._suspects.failed(wants, error)
            raise
        self._suspects.succeeded(wants)
        got = Counter([task.queue for task in tasks])
        short = [want for want in wants if got[want.queue] < want.count]
        # A queue whose limit across all nodes is reached may have more waiting all the same.
        is_dry = {want.queue for want in short if want.maxtotal is None and want.rate is None}
        return ClaimResult(
            queues=self._queues,
            tasks=tasks,
            started={} if starts is None else starts.started,
            may_have_more=any(queue.id not in is_dry for queue in candidates),
            look_again_seconds=0.0 if self._suspects.are_left else _until_next_start(short),
            token=token,
        )

    def _refresh(self, store: Store, load: Load) -> None:
        with self._troubles.contained("promotion", "what is due"):
            for _ in range(_PROMOTIONS):
                if store.promote_due(_PROMOTED) < _PROMOTED:
                    break
        self._queues = store.queues()
        self.release_places(store, load)

    def return_orphaned_claims(self, store: Store, *, known: frozenset[str]) -> int:
        """Return the tasks that carry this node's claim but are unknown to it, because the answer to the claim was
        lost. `known`: the ids of its runs' tasks. Returns how many there were.

        Claimed: never started. Running: only if the token is that of an unanswered claim, since then nobody can have
        started it; any other unknown one has run, and its end could not be recorded.
        """
        which = TaskFilter(node=self._node_id, statuses=frozenset({int(Status.CLAIMED), int(Status.RUNNING)}))
        changes = []
        for task in store.find_tasks(which, with_output=False):
            if str(task.id) in known or task.token is None:  # without a token it is another program's
                continue
            key = RunKey(task.id, self._node_id, task.token)
            if task.status == Status.CLAIMED:
                changes.append(transitions.unclaim_change(key, now=store.now()))
            elif task.token in self._unanswered:
                changes.append(transitions.lost_claim_change(task, key, now=store.now()))
        refused = write_each(store.commit, changes, self._report_unreturned)
        # A server that was slow may carry out a claim only now, so one look is not enough.
        most = self._pace.lost_claim_looks if store.may_act_late else 0
        self._unanswered = {token: looks + 1 for token, looks in self._unanswered.items() if looks < most}
        return len(changes) - len(refused)

    def _report_unreturned(self, change: RunChange, error: Exception) -> None:
        self._troubles.report("return of a claim", change.key.task_id, error)

    def release_places(self, store: Store, load: Load) -> None:
        """Let other nodes have the places of queues with `maxtotal` that this one holds and does not use; and hold
        those of the tasks that it already had in hand when the queue got that limit."""
        limited = {queue.id for queue in self._queues if queue.maxtotal is not None}
        in_hand = {queue_id: load.running.get(queue_id, 0) for queue_id in limited | self._held.keys()}
        in_hand = {queue_id: count for queue_id, count in in_hand.items() if count}
        if not self._unanswered and in_hand != self._held:
            store.hold(self._node_id, in_hand)
            self._held = in_hand

    def release_all_places(self, store: Store) -> None:
        """The node no longer has anything in hand."""
        if self._held:
            store.hold(self._node_id, {})
            self._held = {}


def _needs_look_at_waiting(candidates: Sequence[Queue], load: Load) -> bool:
    """Whether it must be known which queues have waiting tasks before any is claimed. A claim of a few queues finds
    that out by itself; but a limit across all nodes must not be used up by a queue that has nothing to do, and places
    that queues share must not go to one with nothing waiting: the others would starve."""
    return (
        len(candidates) > _CLAIMED_UNSEEN
        or any(queue.maxtotal is not None or queue.rate for queue in candidates)
        or (len(candidates) > 1 and placement.is_contended(candidates, load))
    )


def _until_next_start(short: Sequence[Want]) -> float | None:
    """When the rate of one of these queues lets the next task start."""
    return min([want.rate.interval_seconds for want in short if want.rate], default=None)


def _want(queue: Queue, count: int, load: Load) -> Want:
    return Want(
        queue=queue.id,
        count=count,
        newest_first=queue.sort is Sort.LIFO,
        maxtotal=queue.maxtotal,
        rate=queue.rate,
        in_hand=load.running.get(queue.id, 0),
    )
