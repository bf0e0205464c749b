"""The execution node: everything between its registration and the release of its id.

Responsible for: the order in which its parts start, work and stop. Must not know: how anything is stored, decided,
claimed or run; how the parts know each other (`parts`).

The order of the start:  who holds the id, plugins, id, duties, lost runs of an earlier life, then the first claim
                         (den-1.0, 1-4).
The order of the stop:   no more claims; return claimed tasks; let running tasks finish, or stop them after the
                         grace; end the worker processes; end the watch and the duties; release the id; the last writes;
                         close the store. The heartbeat goes on while the last tasks run, so that no other node
                         considers this one dead.
The order of a leave:    no more claims; return claimed tasks; end the watch and the duties; say in the document, which
                         stays, that the node is away; the last writes; close the store. The runs go on.
After an internal error: end the children, then the same without releasing the id: the document stays, so that other
                         nodes settle what this one may have left behind.
"""

from __future__ import annotations

import asyncio
import ctypes
import dataclasses
import gc
import logging
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from disbatch_host.clock import Clock, StoreClock, SystemClock
from disbatch_host.documents import local_time
from disbatch_host.documents.records import NodeRecord
from disbatch_host.errors import DisbatchError, ExitCode, NodeIdInUseError, StoreError, StoreLostError
from disbatch_host.node import node_document
from disbatch_host.node.home import LOCK_SECONDS, find_home, require_the_same
from disbatch_host.node.home_directory import NodeLock, supervisors_in
from disbatch_host.node.leaving import Leave
from disbatch_host.node.node_document import ShownSettings
from disbatch_host.node.pace import Pace
from disbatch_host.node.parts import Parts
from disbatch_host.node.watch_thread import WatchThread
from disbatch_host.plugin.catalog import require_directory
from disbatch_host.process.home import SupervisorRefusedError
from disbatch_host.process.interface import StopReason
from disbatch_host.process.this_process import adopt_orphans, close_others_on_exec, hide_from_same_user
from disbatch_host.run.attempt import Run
from disbatch_host.run.report import RunReport
from disbatch_host.settings.values import NodeSettings
from disbatch_host.store.contract import Store
from disbatch_protocol.quantities import format_duration

if TYPE_CHECKING:  # a node that serves no metrics need not import what they take
    from disbatch_host.metrics.counters import Metrics

log = logging.getLogger(__name__)

_NO_HOME = "they would end with it"


def run_node(
    settings: NodeSettings,
    store: Store,
    *,
    clock: Clock | None = None,
    reread: Callable[[], NodeSettings] | None = None,
    on_report: Callable[[Run, RunReport], None] | None = None,
    metrics: Metrics | None = None,
    pace: Pace = Pace(),
) -> int:
    """Run a node until it is told to stop; returns the exit code. `clock` is this machine's; `reread` returns the
    settings as they are when SIGHUP comes, or raises UsageError; `on_report` is called for each run that has ended;
    `metrics` counts what happens; `pace` has all intervals.

    Raises UsageError, StoreError and NodeIdInUseError if it cannot start.
    """
    for directory in settings.plugins:
        require_directory(directory)
    close_others_on_exec()
    _ease_garbage_collection()
    hide_from_same_user()
    adopt_orphans()
    store.open()

    async def live() -> int:
        local_clock = clock or SystemClock()
        parts = Parts(
            settings.node_id, settings.plugins, _shown(settings), store, local_clock, pace,
            on_report=on_report, metrics=metrics, may_use_program=settings.may_use_program,
        )  # fmt: skip
        return await Node(settings, store, parts, local_clock, pace, reread).run()

    try:
        return asyncio.run(live())
    finally:
        store.close()


def _ease_garbage_collection() -> None:
    """Exempt the objects that exist now: they stay to the end, and visiting them again and again is a tenth of the cost
    of a short run. Reference counting frees what a run leaves, except for a few cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 100)


def _return_freed_memory() -> None:
    """Return to the kernel what the start has used and freed: half a megabyte of an idle node. Other C libraries than
    glibc do that by themselves, or not at all."""
    gc.collect()  # classes that were made twice, for instance
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Node:
    """One life of a node. Made in the event loop."""

    def __init__(
        self,
        settings: NodeSettings,
        store: Store,
        parts: Parts,
        clock: Clock,
        pace: Pace,
        reread: Callable[[], NodeSettings] | None,
    ) -> None:
        """See `run_node`."""
        self._settings = settings
        self._store = store
        self._parts = parts
        self._local_clock = clock
        self._pace = pace
        self._reread = reread
        self._is_registered = False
        self._lock = NodeLock()
        self._watch: WatchThread | None = None  # for a store whose changes the store's thread cannot see
        parts.stopping.grace_seconds, parts.stopping.on_stop = settings.stop_grace_seconds, settings.on_stop
        parts.retention.keep_batches_seconds = settings.keep_batches_seconds

    async def run(self) -> int:
        """Run from the registration to the release of the id; returns the exit code. Whatever is raised has ended the
        node, with none of its own children left; runs at a supervisor that outlives it go on."""
        parts = self._parts
        asyncio.get_running_loop().set_exception_handler(self._on_callback_error)
        parts.store_thread.start()
        try:
            await self._start()
            await self._work()
            await parts.stopping.finish_runs()
            if not parts.stopping.leaves_runs:
                await parts.workers.stop()
            await parts.site.work_directories.finish(self._pace.removal_seconds)
        except BaseException as error:
            if self._is_registered:
                await self._end_children(error)
            await self._stop(release=not self._is_registered)
            raise
        if parts.stopping.leaves_runs:
            await self._stop(release=False, leave=True)
            return int(parts.stopping.exit_code)
        # With its document others find the tasks whose ends the store has refused, as those of a node that died.
        await self._stop(release=not parts.runs.unrecorded)
        parts.tally.add_unrecorded(len(parts.runs.unrecorded))
        if self._settings.until_idle:
            level = logging.WARNING if parts.tally.has_failures else logging.INFO
            log.log(level, "%s", parts.tally)
        return int(parts.stopping.exit_code)

    async def _start(self) -> None:
        parts, settings = self._parts, self._settings
        self._listen_to_signals()  # before the id is taken: a signal at just that moment must not leave it behind
        # Before anything is logged: a node that cannot start prints one line.
        try:
            holder = await parts.membership.find_holder(
                force=settings.force, dead_after_seconds=settings.dead_after_seconds
            )
        except NodeIdInUseError:
            with parts.troubles.contained("an earlier life", "its runs"):
                await self._stop_runs_of_others()
            raise
        home = await find_home(settings, parts.store_thread, self._lock, why_no_program=parts.processes.why_class)
        if not settings.force:
            require_the_same(holder, home, parts.membership.machine)
        with parts.troubles.contained("duty", parts.plugin_scan.name):
            await parts.plugin_scan.turn()
        _return_freed_memory()
        parts.site.work_directories.remove_leftovers()
        parts.heartbeat.home = None if home is None else home.directory
        if holder is not None and parts.membership.machine.is_same(holder.document.get("host")):
            parts.heartbeat.earlier_supervisors = list(map(dataclasses.asdict, node_document.supervisors(holder)))
        await self._register(holder)
        parts.duties.start()  # the heartbeat among them: what an earlier life has left may take a while
        await parts.open_processes(home)
        parts.stopping.why_not_leave = lambda: None if parts.processes.keeps_runs else _NO_HOME
        if home is not None and not await self._lock.wait(LOCK_SECONDS):
            # Of an older process that was just taken over: whatever it still wants to do is refused.
            log.warning("process %s, which had this id before, still holds %s", self._lock.holder(), self._lock.path)
        log.info("%s", parts.processes.description)
        own = await parts.adoption.decide(None if holder is None else holder.age_seconds)
        with parts.troubles.contained("lost runs", "of an earlier life"):
            await parts.lost_runs.settle_earlier_life(holder, own)
            parts.heartbeat.earlier_supervisors = ()
        with parts.troubles.contained("what is left over", "of an earlier life"):
            await parts.left_over.hold_again(parts.processes.left_over())
        if parts.processes.keeps_runs:
            parts.lost_runs.late = parts.adoption.late
        if await parts.store_thread.call(lambda store: store.written_by_others()) is None:
            self._watch = WatchThread(self._store.watch(ends=False), parts.on_change, pace=self._pace)
            self._watch.start()
            if not self._settings.until_idle:  # such a node wants to know that nothing is left, not that nothing is new
                parts.claiming.is_told = lambda: self._watch is not None and self._watch.is_listening

    async def _stop_runs_of_others(self) -> None:
        """Another process has the id: one on another machine may have been given the tasks of the runs that an earlier
        life has left here, and nobody else would stop those."""
        parts, no_program = self._parts, self._parts.processes.why_class
        try:
            home = await find_home(
                self._settings, parts.store_thread, self._lock, why_no_program=no_program, wait_seconds=0.0
            )
            if home is None or not supervisors_in(home.directory):
                return
            if not await parts.adoption.are_any_of_others(await parts.processes.look(home)):
                return
            await parts.processes.open(home)
        except (NodeIdInUseError, SupervisorRefusedError):
            return  # the process that has the id is here, and so are its runs
        await parts.adoption.stop_those_of_others()
        parts.processes.close(keep=True)

    async def _work(self) -> None:
        parts = self._parts
        claiming = parts.claiming
        idle = parts.idle() if self._settings.until_idle else None
        while not claiming.is_stopped:
            parts.store_thread.check()
            parts.duties.check()
            is_idle = False
            with parts.troubles.contained("claims", "of this node"):
                await claiming.turn()
                is_idle = idle is not None and await idle.is_reached()
            if parts.stopping.leave_lost_store():
                return
            if idle is not None and is_idle:
                with parts.troubles.contained("claims", "what is left"):
                    await idle.log_what_is_left()
                return
            await claiming.wait()

    async def _end_children(self, error: BaseException) -> None:
        """Kill everything that runs here, and record it as far as that is still possible; with a supervisor that
        outlives the node, it goes on instead."""
        parts = self._parts
        if parts.processes.keeps_runs:
            log.error(
                "an internal error ends this node, and its tasks (%d) go on: %s", len(parts.runs), type(error).__name__
            )
            parts.claiming.stop()
            parts.runs.hold_back()
            return
        if parts.runs:
            log.error("an internal error ends this node and its tasks (%d): %s", len(parts.runs), type(error).__name__)
        parts.claiming.stop()
        parts.runs.hold_back()
        parts.runs.kill(StopReason.SHUTDOWN)
        parts.workers.kill()
        await parts.runs.wait(self._pace.kill_wait_seconds)
        await parts.workers.wait_until_gone(self._pace.kill_wait_seconds)

    async def _stop(self, *, release: bool, leave: bool = False) -> None:
        """`release`: the id. Not if anything of this node is left that others have to settle. `leave`: the runs go
        on."""
        parts = self._parts
        if self._watch is not None:
            self._watch.stop()
        await parts.duties.stop()
        parts.plugin_scan.close()
        if leave:
            await self._say_away()
        elif not parts.processes.keeps_runs:
            parts.workers.kill()  # there are none, unless an error ends the node
        if release:
            try:
                await parts.claiming.release_all_places()
                await parts.membership.release()
            except StoreError as error:
                log.warning("node id %s could not be released: %s", self._settings.node_id, error)
                if isinstance(error, StoreLostError):
                    parts.stopping.lose_store()
        await parts.store_thread.stop()
        parts.processes.close(keep=leave)
        self._lock.release()

    async def _say_away(self) -> None:
        """Tell the other nodes that the runs of this one are not lost, and for how long."""
        parts, settings = self._parts, self._settings
        asked = parts.stopping.leave_asked
        if parts.stopping.is_handing_over or asked is None:
            return  # the document is the other process's
        away, why_not = None, "its document is gone"
        try:
            async with asyncio.timeout(self._pace.leave_seconds):
                away = await parts.heartbeat.leave(asked, settings.away_for_seconds)
        except TimeoutError:
            why_not = "the store does not answer"
        except StoreError as error:
            why_not = str(error)
        if away is not None:
            log.info(
                "this node leaves (%s): %d tasks run on without it, and other nodes leave them alone until %s",
                asked.by, parts.runs.programs, local_time.shown(away["until"], "seconds"),
            )  # fmt: skip
            return
        log.error(
            "this node leaves (%s): %d tasks run on without it; that cannot be told to other nodes (%s), which take it "
            "for dead after %s unless it is back by then",
            asked.by, parts.runs.programs, why_not, format_duration(settings.dead_after_seconds),
        )  # fmt: skip
        parts.stopping.exit_code = ExitCode.STORE
        parts.store_thread.hurry()

    def _on_callback_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Something failed of which no task awaits the result."""
        error = context.get("exception")
        what = error if isinstance(error, Exception) else str(context.get("message"))
        self._parts.troubles.report("event loop", "a callback", what)

    async def _register(self, holder: NodeRecord | None) -> None:
        parts = self._parts
        if holder is not None:
            parts.heartbeat.set_drain(holder.requests.get("drain"))  # a restart does not undo it
        await parts.heartbeat.register(holder)
        self._is_registered = True
        if isinstance(parts.clock, StoreClock):
            moment, at = await parts.store_thread.call(lambda store: (store.now(), self._local_clock.monotonic()))
            parts.clock.adjust(moment, at=at)
        log.info(
            "node %s runs on %s with plugins %s",
            self._settings.node_id,
            self._store.description,
            ", ".join(sorted(parts.classes.plugins)) or "none yet",
        )

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._read_again)
        stopping = self._parts.stopping
        loop.add_signal_handler(signal.SIGTERM, stopping.terminate)
        loop.add_signal_handler(signal.SIGINT, stopping.request)
        loop.add_signal_handler(signal.SIGUSR2, stopping.leave, Leave(by="SIGUSR2"))

    def _read_again(self) -> None:
        """On SIGHUP: read settings and plugins again. Settings that cannot be used change nothing."""
        wanted = self._settings
        if self._reread is not None:
            try:
                wanted = self._reread()
            except DisbatchError as error:
                log.error("the settings stay as they are: %s", error)
        # Settings and plugins change together: with more places and the old plugins, tasks would start that should not.
        self._parts.classes.look_in(wanted.plugins)
        is_read = wanted is not self._settings
        self._parts.plugin_scan.begin(lambda: self._change_settings(wanted) if is_read else None)

    def _change_settings(self, wanted: NodeSettings) -> None:
        before = self._settings
        # The id is in every document; the others only matter when a node starts.
        self._settings = settings = dataclasses.replace(
            wanted, node_id=before.node_id, force=before.force, until_idle=before.until_idle,
            state_directory=before.state_directory, keep_for_seconds=before.keep_for_seconds,
        )  # fmt: skip
        changed = [
            f"{field.name} is {_in_words(getattr(settings, field.name))}"
            for field in dataclasses.fields(NodeSettings)
            if getattr(settings, field.name) != getattr(before, field.name)
        ]
        log.info("the settings were read again: %s", ", ".join(changed) or "nothing has changed")
        self._parts.change(
            _shown(settings),
            settings.plugins,
            stop_grace_seconds=settings.stop_grace_seconds,
            on_stop=settings.on_stop,
            keep_batches_seconds=settings.keep_batches_seconds,
        )


def _shown(settings: NodeSettings) -> ShownSettings:
    return ShownSettings(
        heartbeat_seconds=settings.heartbeat_seconds,
        dead_after_seconds=settings.dead_after_seconds,
        max=settings.max,
        max_total=settings.max_total,
    )


def _in_words(value: object) -> str:
    return ", ".join(str(one) for one in value) if isinstance(value, tuple) else str(value)
