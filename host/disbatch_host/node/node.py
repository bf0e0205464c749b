"""The execution node: everything that lives between its registration and the release of its id.

Responsible for: the order of things (start, rounds, stop), and which runs there are. Must not know: how anything is
stored, started or decided; those are `store`, `runner`, `policy`. What can be run here is known to `classes`, the other
nodes to `membership`.

The order of the start:  who has the id, plugins, id, lost runs of an earlier life, then services, then the first claim
                         (den-1.0, 1-4).
The order of the stop:   no more claims; give back what is claimed; see running tasks through, or stop them after the
                         grace; the last writes; release the id; close the store. The heartbeat goes on until the
                         release, so that no other node takes this one for dead while its last task runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import gc
import logging
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from disbatch_host import __version__, logs
from disbatch_host.clock import Clock, StoreClock, SystemClock
from disbatch_host.decide import placement
from disbatch_host.decide.why import left_waiting
from disbatch_host.documents import changes, transitions
from disbatch_host.documents.changes import RunKey, TaskFilter
from disbatch_host.documents.records import Document, NodeRecord, Queue, QueueId, Task
from disbatch_host.errors import DisbatchError, ExitCode, StoreError, StoreUnwritableError
from disbatch_host.node import node_document
from disbatch_host.node.claim import Claim
from disbatch_host.node.duties import due
from disbatch_host.node.membership import Membership
from disbatch_host.node.scheduler import Scheduler
from disbatch_host.node.store_thread import StoreThread
from disbatch_host.node.watch_thread import WatchThread
from disbatch_host.plugin import environment
from disbatch_host.plugin.catalog import Plugin, require_directory
from disbatch_host.plugin.classes import Classes
from disbatch_host.plugin.program import ProgramSite
from disbatch_host.process.inline import process_host
from disbatch_host.process.interface import StopReason
from disbatch_host.process.this_process import close_others_on_exec, hide_from_same_user
from disbatch_host.run.attempt import Run, RunReport, RunResult
from disbatch_host.run.context import RunContext
from disbatch_host.run.worker.pool import WorkerPool
from disbatch_host.run.worker.process import Worker
from disbatch_host.store.contract import Store
from disbatch_protocol import SPEC_VERSION
from disbatch_protocol import status as statuses
from disbatch_protocol.outcome import Outcome
from disbatch_protocol.quantities import format_duration

if TYPE_CHECKING:  # who serves no metrics need not import what they take
    from disbatch_host.metrics.counters import Metrics

log = logging.getLogger(__name__)

REFRESH_SECONDS = 1.0  # den-1.0: a node follows queues within one refresh interval
CLAIM_SECONDS = 0.001  # how long a free place may wait for others to be filled with it
PLUGIN_SCAN_SECONDS = 2.0  # plugin contract: a change takes effect within a few seconds
RETENTION_SECONDS = 60.0  # between two looks for ended tasks that their queue does not keep any longer
SWEEP_SECONDS = 5.0  # between two looks for dead nodes; small against dead_after
SHORTAGE_SECONDS = 5.0  # without claims after the machine had no descriptor, process, memory or room left for a start
QUEUES_NAMED_MAX = 5  # whose tasks a node leaves, with the reason of each


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """How a node is to run. Seconds are floats."""

    node_id: str
    plugin_directories: Sequence[Path]
    max: int = 10  # of a queue without maxthreads
    max_total: int | None = None
    force: bool = False
    stop_grace_seconds: float | None = None  # None: running tasks may go on to their end
    heartbeat_seconds: float = 1.0
    dead_after_seconds: float = 30.0
    until_idle: bool = False


def run_node(
    settings: NodeSettings,
    store: Store,
    *,
    clock: Clock | None = None,
    reread: Callable[[], NodeSettings] | None = None,
    on_report: Callable[[Run, RunReport], None] | None = None,
    metrics: Metrics | None = None,
) -> int:
    """Run a node until it is told to stop; the exit code. `clock` is this machine's; `reread` gives the settings as
    they are when SIGHUP comes, or raises UsageError; `on_report` hears of each run that has ended;
    `metrics` counts what happens.

    Raises UsageError, StoreError and NodeIdInUseError for what keeps it from starting.
    """
    for directory in settings.plugin_directories:
        require_directory(directory)
    close_others_on_exec()
    _ease_garbage_collection()
    hide_from_same_user()
    store.open()
    try:
        node = Node(settings, store, clock=clock, reread=reread, on_report=on_report, metrics=metrics)
        return asyncio.run(node.run())
    finally:
        store.close()


def _ease_garbage_collection() -> None:
    """What there is now stays to the end: the collector need not look at it again and again, a tenth of what a short
    run costs. What a run leaves behind goes without it, but for a few cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 100)


class Node:
    """One life of a node."""

    def __init__(
        self,
        settings: NodeSettings,
        store: Store,
        *,
        clock: Clock | None = None,
        reread: Callable[[], NodeSettings] | None = None,
        on_report: Callable[[Run, RunReport], None] | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._local_clock = clock or SystemClock()
        # What other nodes compare the dates in documents with.
        self._clock: Clock = self._local_clock if store.is_clock_local else StoreClock(self._local_clock)
        self._reread = reread
        self._on_report = on_report
        self._metrics = metrics
        self._processes = process_host()
        self._site = ProgramSite(
            node_id=settings.node_id,
            local_clock=self._local_clock,
            host_environment=environment.host_environment(),
            temporary_directory=Path(tempfile.gettempdir()),
        )
        self._classes = Classes(settings.plugin_directories)
        self._scheduler = Scheduler(settings.node_id)
        self._queues: Sequence[Queue] = ()
        self._queue_faults: dict[Any, str] = {}
        self._runs: dict[Run, asyncio.Task[None]] = {}
        self._shall_look = True  # something may have changed since the last round
        self._may_have_more = False  # the last round left tasks waiting for which there was no room
        self._claim: Claim | None = None  # the one that is on its way
        self._claim_timer: asyncio.TimerHandle | None = None
        self._rate_timer: asyncio.TimerHandle | None = None  # when the rate of a queue lets the next one start
        self._hold_claims_until = 0.0  # the machine is short of something; see _note_start
        self._last_refresh = float("-inf")
        self._drain: Mapping[str, Any] | None = None  # who wants nothing more claimed here, when and why
        self._obeyed_stop: Any = None  # the last request to stop that came through the store
        self._stop_requests = 0
        self._exit_code = ExitCode.DONE
        self._is_store_trouble_said = False

    # --- the whole life

    async def run(self) -> int:
        """From the registration to the release of the id; the exit code."""
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._is_stopping = asyncio.Event()
        self._workers = WorkerPool(self._site, self._processes)
        metrics = self._metrics
        self._store_thread = StoreThread(
            self._store, on_change=self._on_change, on_written=metrics.note_written if metrics is not None else None
        )
        self._membership = Membership(self._settings.node_id, self._store_thread, self._local_clock)
        if metrics is not None:
            metrics.watch_store_thread(self._store_thread)
        self._store_thread.start()
        services: list[asyncio.Task[None]] = []
        watch: WatchThread | None = None
        try:
            self._listen_to_signals()  # before the id is taken: a signal that comes just then must not leave it behind
            # Before anything is said: a node that cannot start says one line.
            holder = await self._membership.find_holder(
                force=self._settings.force, dead_after_seconds=self._settings.dead_after_seconds
            )
            self._scan_plugins()
            await self._register(holder)
            await self._membership.settle_earlier_life()
            self._context = self._run_context()
            services = [
                self._loop.create_task(self._repeat(lambda: self._settings.heartbeat_seconds, self._heartbeat)),
                self._loop.create_task(self._repeat(lambda: REFRESH_SECONDS, self._settle_due)),
                self._loop.create_task(self._repeat(lambda: SWEEP_SECONDS, self._sweep_lost_runs)),
                self._loop.create_task(self._repeat(lambda: PLUGIN_SCAN_SECONDS, self._follow_plugins)),
                self._loop.create_task(self._repeat(lambda: RETENTION_SECONDS, self._delete_ended)),
            ]
            if await self._store_thread.call(lambda store: store.written_by_others()) is None:
                watch = WatchThread(self._store.watch(ends=False), self._on_change)
                watch.start()
            await self._work()
            await self._finish_runs()
            await self._workers.stop()
        finally:
            if watch is not None:
                await watch.stop()
            for service in services:
                service.cancel()
            await asyncio.gather(*services, return_exceptions=True)
            self._workers.kill()
            await self._release()
            await self._store_thread.stop()
            self._processes.close()
        return int(self._exit_code)

    async def _work(self) -> None:
        while not self._is_stopping.is_set():
            self._wake.clear()
            await self._claim_and_start()
            if self._settings.until_idle and await self._is_idle():
                await self._say_what_is_left()
                return
            timer = self._loop.call_later(REFRESH_SECONDS, self._wake.set)
            await self._wake.wait()
            timer.cancel()

    # --- start

    def _run_context(self) -> RunContext:
        return RunContext(
            machine_name=self._membership.machine.name,
            recorder=self._store_thread,
            clock=self._clock,
            site=self._site,
            processes=self._processes,
            workers=self._workers,
            trust_seconds=self._settings.dead_after_seconds / 2,
            extended_json=self._store.extended_json,
        )

    async def _register(self, holder: NodeRecord | None) -> None:
        if holder is not None:
            self._drain = holder.requests.get("drain")  # a start anew is no reason to take it back
        await self._membership.take_id(self._document(), holder)
        if isinstance(self._clock, StoreClock):
            moment, at = await self._store_thread.call(lambda store: (store.now(), self._local_clock.monotonic()))
            self._clock.adjust(moment, at=at)
        log.info(
            "node %s runs on %s with plugins %s",
            self._settings.node_id,
            self._store.description,
            ", ".join(sorted(self._classes.plugins)) or "none yet",
        )

    def _listen_to_signals(self) -> None:
        self._loop.add_signal_handler(signal.SIGHUP, self._read_again)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self.request_stop)

    # --- settings that change while it runs

    def _read_again(self) -> None:
        """SIGHUP: the settings and the plugins, as they are now. What cannot be used changes nothing."""
        if self._reread is not None:
            try:
                self._change_settings(self._reread())
            except DisbatchError as error:
                log.error("the settings stay as they are: %s", error)
        self._scan_plugins()

    def _change_settings(self, wanted: NodeSettings) -> None:
        before = self._settings
        # The id is in every document; the others only mean something when a node starts.
        self._settings = dataclasses.replace(
            wanted, node_id=before.node_id, force=before.force, until_idle=before.until_idle
        )
        changed = [
            f"{field.name} is {_in_words(getattr(self._settings, field.name))}"
            for field in dataclasses.fields(NodeSettings)
            if getattr(self._settings, field.name) != getattr(before, field.name)
        ]
        log.info("the settings were read again: %s", ", ".join(changed) or "nothing has changed")
        self._classes.look_in(self._settings.plugin_directories)
        self._context = self._run_context()  # for the runs that begin from now on
        self._on_change()

    # --- claiming

    def _on_change(self) -> None:
        self._shall_look = True
        self._wake.set()

    async def _claim_and_start(self) -> None:
        refresh = self._loop.time() - self._last_refresh >= REFRESH_SECONDS
        if not refresh and not self._shall_look:
            return
        if self._store_thread.is_away and not refresh:
            return  # nothing is claimed while what has ended cannot be written
        if self._loop.time() < self._hold_claims_until:
            return
        self._shall_look = False
        if not refresh and not self._scheduler.has_room(classes=self._classes_to_claim(), load=self._load()):
            self._may_have_more = True  # nobody has looked; the next run that ends makes room
            return
        try:
            if self._scheduler.may_have_strays and refresh:
                await self._give_back_strays()
            # From here to the call nothing else has its turn: plugins, classes and load are those of one moment.
            self._claim = claim = Claim(self._classes.plugins, self._workers, self._context)
            classes, load = self._classes_to_claim(), self._load()
            asked_at = self._local_clock.monotonic()
            try:
                result = await self._store_thread.call_after_records(
                    lambda store, ended: self._scheduler.round(
                        store, classes=classes, load=load.without(ended), refresh=refresh, begin=claim.begin
                    )
                )
            finally:
                self._claim = None
                claim.settle()
        except StoreError as error:
            self._say_store_trouble(error)
            self._last_refresh = self._loop.time()
            return
        self._scheduler.confirm(result)
        if refresh:
            self._last_refresh = self._loop.time()
            self._queues = result.queues
            self._say_queue_faults()
        self._may_have_more = result.may_have_more
        for task in result.tasks:
            self._start_run(task, *(claim.begun(task) or ()), asked_at=asked_at)
        self._look_again_after(result.look_again_seconds)

    def _look_again_after(self, seconds: float | None) -> None:
        """When the rate of a queue lets its next task start, where that is sooner than the next look anyway."""
        is_set = self._rate_timer is not None and self._rate_timer.when() >= self._loop.time()
        if seconds is not None and seconds < REFRESH_SECONDS and not is_set:
            self._rate_timer = self._loop.call_later(max(seconds, CLAIM_SECONDS), self._on_change)

    def _classes_to_claim(self) -> frozenset[str]:
        return frozenset() if self._drain is not None else self._classes.usable

    async def _settle_due(self) -> None:
        """What is due for tasks that nobody runs, and what is to be cancelled of those that run here."""
        node_id = self._settings.node_id
        settled = await self._store_thread.call(lambda store: due.settle_due(store, node_id))
        if settled.changed:
            self._on_change()  # others may wait no longer
        runs = {str(run.task.id): run for run in self._runs} if settled.to_stop else {}
        for task in settled.to_stop:
            run = runs.get(str(task.id))
            if run is not None and run.task.token == task.token and task.cancel is not None:
                run.cancel(task.cancel)

    async def _delete_ended(self) -> None:
        for queue in self._queues:
            if queue.keep_seconds is None:
                continue
            deleted = 0
            delete = functools.partial(due.delete_ended, queue=queue)
            while count := await self._store_thread.call(delete):
                deleted += count
            if deleted:
                kept = format_duration(queue.keep_seconds)
                log.info(
                    "queue %s: %d tasks that ended more than %s ago were deleted", queue.id, deleted, kept,
                    extra=logs.ids(queue=queue.id),
                )  # fmt: skip

    async def _give_back_strays(self) -> None:
        known = frozenset(str(run.task.id) for run in self._runs)
        count = await self._store_thread.call(lambda store: self._scheduler.give_back_strays(store, known=known))
        if count:
            log.warning("%d tasks were claimed without this node hearing of it; they are given back", count)

    def _load(self) -> placement.Load:
        return placement.Load(
            max_per_queue=self._settings.max,
            max_total=self._settings.max_total,
            running=Counter(run.task.queue for run in self._runs if run.holds_place),
            running_of_class=Counter(run.plugin.name for run in self._runs if run.holds_place),
            concurrency_of_class={name: one.manifest.concurrency for name, one in self._classes.plugins.items()},
        )

    def _start_run(
        self,
        task: Task,
        plugin: Plugin | None = None,
        begun: Document | None = None,
        worker: Worker | None = None,
        *,
        asked_at: float,
    ) -> None:
        if plugin is None:
            # As it was when the task was claimed, or as it has become since; it may even be gone.
            queue = next((queue for queue in self._queues if queue.id == task.queue), None)
            plugin = None if queue is None else self._classes.plugins.get(queue.class_name)
        if plugin is None:
            key = RunKey(task.id, self._settings.node_id, task.token)
            self._store_thread.record(transitions.give_back_change(key, now=self._clock.now()))
            return
        if self._metrics is not None:
            self._metrics.note_claimed(task)
        run = Run(
            task,
            plugin,
            self._context,
            running=begun,
            worker=worker,
            asked_at=asked_at,
            on_place_free=self._note_free_place,
        )
        if self._is_stopping.is_set() or plugin.name in self._classes.set_aside:
            run.hold_back()
        self._runs[run] = self._loop.create_task(self._perform(run))

    async def _perform(self, run: Run) -> None:
        try:
            report = await run.perform()
        except StoreError as error:
            log.error("task %s: its run could not be recorded: %s", run.task.id, error, extra=run.log_ids)
        except Exception:
            # A defect here must not take the other runs down. The task stays Running and is settled as a lost run
            # when this node starts again; saying anything else of it would be a guess.
            log.exception("task %s: the run failed in the host itself", run.task.id, extra=run.log_ids)
        else:
            self._note_start(run, report)
            _log_end(run, report)
            if self._metrics is not None:
                self._metrics.note_ended(
                    run.task.queue, run.plugin.name, report.conclusion, report.reason, report.seconds
                )
            if self._on_report is not None:
                self._on_report(run, report)
        finally:
            del self._runs[run]
            self._look_for_more()

    def _note_free_place(self, run: Run) -> None:
        if self._claim is not None:  # it may give this place to a task
            self._claim.reserve_idle(run.plugin)
        self._look_for_more()

    def _look_for_more(self) -> None:
        """There is a free place. One claim for several costs little more than for one, and nothing at all where it goes
        with their ends, so the other runs are waited for, for a moment."""
        self._shall_look |= self._may_have_more
        if not self._may_have_more:
            self._wake.set()
        elif not any(run.holds_place for run in self._runs):
            self._store_thread.expect_call(CLAIM_SECONDS)
            self._wake.set()
        elif self._claim_timer is None or self._claim_timer.when() < self._loop.time():
            self._store_thread.expect_call(2 * CLAIM_SECONDS)
            self._claim_timer = self._loop.call_later(CLAIM_SECONDS, self._wake.set)

    # --- plugins

    def _note_start(self, run: Run, report: RunReport) -> None:
        if report.result is RunResult.ENDED and report.why_process_lost is None:
            self._classes.forget_failures(run.plugin.name)
        reason = report.why_not_started or report.why_process_lost
        if reason is None:
            return
        if report.is_machines_fault:
            if self._loop.time() >= self._hold_claims_until:  # once, however many runs have met it
                log.error("this machine is short of something: %s; nothing is claimed for a moment", reason)
            self._hold_claims_until = self._loop.time() + SHORTAGE_SECONDS
            return
        self._classes.count_failure(run.plugin, reason, now=self._clock.now())

    def _scan_plugins(self) -> None:
        if self._classes.scan():
            self._workers.keep_only(set(self._classes.plugins.values()))
            self._on_change()

    async def _follow_plugins(self) -> None:
        self._scan_plugins()

    # --- heartbeat and other nodes

    async def _heartbeat(self) -> None:
        fields = self._living_fields()
        if self._metrics is not None:
            self._metrics.note_living(fields)
        try:
            beat = await self._membership.beat(fields)
        except StoreError as error:
            self._say_store_trouble(error)
            return
        self._say_store_is_well()
        if self._metrics is not None:
            self._metrics.note_store_reached()
        if isinstance(self._clock, StoreClock):
            self._clock.adjust(beat.store_time, at=beat.at)
        if beat.requests is None:
            await self._reclaim_id()
            return
        if beat.silent_seconds > self._settings.dead_after_seconds:
            silent = format_duration(beat.silent_seconds)
            log.warning("this node was silent for %s; other nodes may have taken its tasks", silent)
            await self._verify_runs()
        if self._obey(beat.requests):
            await self._heartbeat()  # whoever asked shall see at once that it was heard

    def _obey(self, requests: Mapping[str, Any]) -> bool:
        """What people ask of this node through its document (`node drain | resume | stop`). Whether it was
        anything new."""
        drain, stop = requests.get("drain"), requests.get("stop")
        drain = drain if isinstance(drain, Mapping) else None
        is_new = (drain is None) is not (self._drain is None)
        if is_new:
            if drain is not None:
                log.warning("%s wants this node drained%s: it claims nothing more", *node_document.who_and_why(drain))
            else:
                log.warning("this node claims tasks again")
                self._on_change()
        self._drain = drain
        if isinstance(stop, Mapping) and stop != self._obeyed_stop:
            self._obeyed_stop = stop
            log.warning("%s wants this node stopped%s", *node_document.who_and_why(stop))
            self.request_stop()
            is_new = True
        return is_new

    async def _reclaim_id(self) -> None:
        """The document is not ours any more: deleted by a person (write it again), or the id was taken by force."""
        if await self._membership.write_again(self._document()):
            return
        log.error(
            "node id %s was taken over by another node; this one stops its tasks and leaves", self._settings.node_id
        )
        self._exit_code = ExitCode.NODE_ID_IN_USE
        for run in list(self._runs):
            run.stop(StopReason.LOST)
        self.request_stop()

    async def _verify_runs(self) -> None:
        """Stop the runs whose tasks were given to others while this node was away; they would find out only when they
        write."""
        runs = {str(run.task.id): run for run in self._runs}
        if not runs:
            return
        which = TaskFilter(ids=[run.task.id for run in runs.values()])
        tasks = await self._store_thread.call(lambda store: list(store.find_tasks(which, with_output=False)))
        still_ours = {
            str(task.id)
            for task in tasks
            if task.node == self._settings.node_id
            and str(task.id) in runs
            and task.token == runs[str(task.id)].task.token
        }
        for task_id, run in runs.items():
            if task_id not in still_ours:
                log.warning("task %s was taken over; its process is stopped", task_id, extra=run.log_ids)
                run.stop(StopReason.LOST)

    async def _sweep_lost_runs(self) -> None:
        try:
            if await self._membership.settle_dead_nodes(dead_after_seconds=self._settings.dead_after_seconds):
                self._on_change()
        except StoreError as error:
            self._say_store_trouble(error)

    def _document(self) -> Document:
        return {
            **self._membership.identity(),
            "version": f"disbatch-host {__version__}",
            "spec_version": SPEC_VERSION,
            "den_version": SPEC_VERSION,
            "started": self._clock.now(),
            "requests": {} if self._drain is None else {"drain": self._drain},
            **self._living_fields(),
        }

    @property
    def _state(self) -> str:
        if self._is_stopping.is_set():
            return "stopping"
        if self._drain is not None:
            return "draining" if self._runs else "drained"
        return "running"

    def _living_fields(self) -> Document:
        """The part of the node's document that each heartbeat renews."""
        settings = self._settings
        return node_document.living_fields(
            state=self._state,
            classes=self._classes,
            queues=placement.served(
                self._queues, node_id=settings.node_id, classes=frozenset(self._classes.plugins), paused_too=True
            ),
            load=self._load(),
            settings={
                "heartbeat_seconds": settings.heartbeat_seconds,
                "dead_after_seconds": settings.dead_after_seconds,
                "max": settings.max,
                "max_total": settings.max_total,
            },
            pid=os.getpid(),
            running=len(self._runs),
        )

    # --- stop

    def request_stop(self) -> None:
        """The first time: claim nothing more and see the running tasks through. The second: stop them now, with their
        grace. The third: kill them, and give up on a store that is away."""
        self._stop_requests += 1
        self._is_stopping.set()
        self._wake.set()
        for run in list(self._runs):
            if self._stop_requests == 2:
                run.stop(StopReason.SHUTDOWN)
            elif self._stop_requests > 2:
                run.kill(StopReason.SHUTDOWN)
        if self._stop_requests > 2:
            self._workers.kill()
            self._store_thread.hurry()
        if self._runs:
            log.info("stopping: %s", _STOP_STEPS[min(self._stop_requests, len(_STOP_STEPS)) - 1] % len(self._runs))

    async def _finish_runs(self) -> None:
        self._is_stopping.set()
        for run in self._runs:
            run.hold_back()
        grace_seconds = self._settings.stop_grace_seconds
        if self._runs and grace_seconds is not None:
            await asyncio.wait(self._runs.values(), timeout=grace_seconds)
            for run in list(self._runs):
                run.stop(StopReason.SHUTDOWN)
        while self._runs:
            await asyncio.wait(self._runs.values(), timeout=REFRESH_SECONDS)
            with contextlib.suppress(StoreError):  # nobody waits for it but other nodes; the next second tries again
                await self._store_thread.call_after_records(functools.partial(self._give_places_free, self._load()))
            if self._stop_requests > 2 and self._store_thread.is_away:
                log.error(
                    "the store is away: %d tasks are left as they are, until this node starts again", len(self._runs)
                )
                self._exit_code = ExitCode.STORE
                self._store_thread.give_up()
                return

    def _give_places_free(self, load: placement.Load, store: Store, ended: Sequence[changes.Place]) -> None:
        self._scheduler.give_places_free(store, load.without(ended))

    async def _release(self) -> None:
        try:
            await self._store_thread.call(self._scheduler.give_all_places_free)
            await self._membership.release()
        except StoreError as error:
            log.warning("node id %s could not be released: %s", self._settings.node_id, error)

    # --- small things

    async def _is_idle(self) -> bool:
        if self._runs or self._shall_look:
            return False
        ids = [queue.id for queue in self._served_queues()]
        try:
            return not ids or not await self._store_thread.call(lambda store: store.has_unfinished(ids))
        except StoreError as error:
            self._say_store_trouble(error)
            return False

    def _served_queues(self) -> list[Queue]:
        """The queues whose tasks this node can start as things are; one with maxthreads 0 starts none."""
        served = placement.served(self._queues, node_id=self._settings.node_id, classes=self._classes_to_claim())
        return [queue for queue in served if placement.limit_of(queue, self._load()) > 0]

    async def _say_what_is_left(self) -> None:
        """Whoever starts a node for what there is to do should not take "nothing is left" for more than it is."""
        served = {queue.id for queue in self._served_queues()}

        def look(store: Store) -> list[tuple[QueueId, int, str]]:
            return left_waiting(store.count_by_status(), self._queues, store.nodes(), served=served, now=store.now())

        try:
            left = await self._store_thread.call(look)
        except StoreError as error:
            self._say_store_trouble(error)
            return
        if not left:
            log.info("nothing is left to do")
            return
        total = sum(count for _, count, _ in left)
        log.warning("nothing is left to do here; waiting tasks that this node does not run: %d", total)
        for queue_id, count, why in left[:QUEUES_NAMED_MAX]:
            log.warning("queue %s, %d waiting: %s", queue_id, count, why, extra=logs.ids(queue=queue_id))
        if len(left) > QUEUES_NAMED_MAX:
            log.warning("and of %d more queues; `disbatch-host status` shows all", len(left) - QUEUES_NAMED_MAX)

    async def _repeat(self, interval_seconds: Callable[[], float], action: Callable[[], Any]) -> None:
        """Call `action` every so often, in a steady rhythm that a slow call does not shift. The interval may change
        at any time."""
        due = self._loop.time()
        while True:
            last = due
            while (left := last + interval_seconds() - self._loop.time()) > 0:
                await asyncio.sleep(min(left, REFRESH_SECONDS))
            due = max(last + interval_seconds(), self._loop.time())
            try:
                await action()
            except StoreError as error:
                self._say_store_trouble(error)
            except Exception:
                log.exception("a service of the node failed; it goes on at its next turn")

    def _say_store_trouble(self, error: StoreError) -> None:
        self._membership.forget_others()
        if not self._is_store_trouble_said:
            self._is_store_trouble_said = True
            what = "cannot be written" if isinstance(error, StoreUnwritableError) else "does not answer"
            log.warning("the store %s, nothing is claimed for so long: %s", what, error)

    def _say_store_is_well(self) -> None:
        """After a heartbeat: a write. A round that finds nothing to claim only reads, which a full disk lets it."""
        if self._is_store_trouble_said:
            self._is_store_trouble_said = False
            log.warning("the store takes writes again")

    def _say_queue_faults(self) -> None:
        faults = {queue.id: queue.fault for queue in self._queues if queue.fault is not None}
        for queue_id, fault in faults.items():
            if self._queue_faults.get(queue_id) != fault:
                log.error("queue %s cannot be run: %s", queue_id, fault, extra=logs.ids(queue=queue_id))
        self._queue_faults = faults


def _log_end(run: Run, report: RunReport) -> None:
    """A line for each run that did not simply succeed; all of them with --log-level debug."""
    conclusion = report.conclusion
    if conclusion is None:
        return
    level = logging.DEBUG if conclusion.outcome is Outcome.SUCCESS else logging.INFO
    if not log.isEnabledFor(level):
        return
    log.log(
        level,
        "task %s of queue %s: %s (%s), now %s",
        run.task.id,
        run.task.queue,
        conclusion.outcome,
        report.how,
        statuses.name(conclusion.status),
        extra=run.log_ids,
    )


_STOP_STEPS = (
    "%d tasks run on to their end; once more stops them",
    "%d tasks are asked to stop now, and killed after the kill_grace of their plugin; once more kills them now",
    "%d tasks are killed",
)


def _in_words(value: object) -> str:
    return ", ".join(str(one) for one in value) if isinstance(value, tuple) else str(value)
