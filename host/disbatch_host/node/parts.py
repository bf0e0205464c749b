"""The parts of a node, put together.

Responsible for: giving each part the others that it needs, and passing on settings that change while the node runs.
Must not know: the order in which anything starts or stops.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from disbatch_host.clock import Clock, StoreClock
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import TaskId
from disbatch_host.errors import NodeIdInUseError
from disbatch_host.node.adoption import Adoption
from disbatch_host.node.claiming import Claiming
from disbatch_host.node.compartment import Troubles
from disbatch_host.node.duties.batches import Batches
from disbatch_host.node.duties.due import Due
from disbatch_host.node.duties.failing_queues import FailingQueues
from disbatch_host.node.duties.heartbeat import Heartbeat
from disbatch_host.node.duties.left_over import LeftOver
from disbatch_host.node.duties.lost_runs import LostRuns
from disbatch_host.node.duties.plugins import PluginScan
from disbatch_host.node.duties.publishing import Publishing
from disbatch_host.node.duties.retention import Retention
from disbatch_host.node.duties.rounds import Rounds
from disbatch_host.node.home import next_session
from disbatch_host.node.membership import Membership
from disbatch_host.node.node_document import ShownSettings
from disbatch_host.node.pace import Pace
from disbatch_host.node.runs import Runs
from disbatch_host.node.stopping import Stopping
from disbatch_host.node.store_health import StoreHealth
from disbatch_host.node.store_thread import StoreThread
from disbatch_host.node.tally import Tally
from disbatch_host.plugin import environment
from disbatch_host.plugin.classes import Classes
from disbatch_host.plugin.program import ProgramSite
from disbatch_host.process.home import SupervisorHome, SupervisorRefusedError
from disbatch_host.process.supervised import SupervisedHost
from disbatch_host.run.attempt import Run
from disbatch_host.run.context import RunContext
from disbatch_host.run.report import RunReport
from disbatch_host.run.worker.pool import WorkerPool
from disbatch_host.settings.values import OnStop
from disbatch_host.store.contract import Store

if TYPE_CHECKING:  # a node that needs one of these imports what it takes
    from disbatch_host.metrics.counters import Metrics
    from disbatch_host.node.idle import Idle

log = logging.getLogger(__name__)


class Parts:
    """All parts of a node. Made in the event loop; parts that work by themselves do so once they are started."""

    def __init__(
        self,
        node_id: str,
        directories: Sequence[Path],
        settings: ShownSettings,
        store: Store,
        clock: Clock,
        pace: Pace,
        *,
        on_report: Callable[[Run, RunReport], None] | None = None,
        metrics: Metrics | None = None,
        may_use_program: bool = True,
    ) -> None:
        """`directories`: of plugins. `clock` is this machine's. `may_use_program`: see `SupervisedHost`."""
        self._node_id = node_id
        self._store = store
        self._pace = pace
        self._settings = settings
        # Other nodes compare the dates in documents with this clock.
        self.clock: Clock = clock if store.is_clock_local else StoreClock(clock)
        self.processes = SupervisedHost(drain_seconds=pace.drain_seconds, may_use_program=may_use_program)
        self.site = ProgramSite(
            node_id=node_id,
            local_clock=clock,
            host_environment=environment.host_environment(),
            temporary_directory=Path(tempfile.gettempdir()),
        )
        self.classes = classes = Classes(directories, check_seconds=pace.check_seconds)
        self.workers = workers = WorkerPool(self.site, self.processes)
        on_written = metrics.observe_write if metrics is not None else None
        self.store_thread = thread = StoreThread(store, on_change=self.on_change, on_written=on_written, pace=pace)
        if metrics is not None:
            metrics.watch_store_thread(thread)
        self.membership = Membership(node_id, thread, clock)
        self.troubles = troubles = Troubles(self.clock, pace)
        self.lost_runs = LostRuns(
            node_id, self.membership.machine, thread, clock, troubles, on_settled=self.on_change, pace=pace
        )
        self._health = health = StoreHealth(self.lost_runs.forget_others, troubles)
        if metrics is not None:
            metrics.watch_store_health(health)
            metrics.watch_supervisor(self.processes)
        self._on_report = on_report
        self.tally = Tally()
        self.runs = runs = Runs(
            self._run_context(settings), thread, classes, troubles, pace, on_report=self._report, metrics=metrics
        )
        self.adoption = Adoption(self.processes, runs, thread, classes, troubles)
        self.claiming = claiming = Claiming(runs, thread, classes, workers, clock, health, troubles, pace)
        self.stopping = Stopping(runs, claiming, workers, thread, health, pace)
        self.heartbeat = Heartbeat(
            settings, self.membership, runs, claiming, classes, self.stopping, health, troubles, self.clock, metrics
        )
        self.heartbeat.own_supervisors = lambda: self.processes.outliving
        self.publishing = Publishing(thread, classes, troubles, pace, on_published=self.heartbeat.wake.set)
        self.heartbeat.digests = lambda: self.publishing.digests
        self.plugin_scan = PluginScan(classes, workers, runs, claiming, pace, on_change=self.publishing.wake.set)
        self.left_over = LeftOver(thread, self.clock, troubles, pace)
        self.due = Due(thread, runs, claiming, troubles, pace)
        self.batches = Batches(thread, node_id, troubles, pace, on_created=claiming.on_change)
        self.failing_queues = FailingQueues(thread, claiming, node_id, troubles, pace)
        self.retention = Retention(thread, claiming, troubles, pace)
        self.duties = Rounds(
            [
                self.heartbeat, self.due, self.lost_runs, self.left_over, self.plugin_scan, self.publishing,
                self.batches, self.failing_queues, self.retention,
            ],
            health, troubles, pace,
            wakes={
                one: one.wake
                for one in (self.heartbeat, self.due, self.batches, self.failing_queues, self.publishing)
            },
        )  # fmt: skip
        self.change(settings, directories, stop_grace_seconds=None)

    def change(
        self,
        settings: ShownSettings,
        directories: Sequence[Path],
        *,
        stop_grace_seconds: float | None,
        on_stop: OnStop = OnStop.DRAIN,
        keep_batches_seconds: float | None = None,
    ) -> None:
        """Use these settings from now on."""
        self._settings = settings
        self.classes.look_in(directories)
        self.heartbeat.settings = settings
        self.lost_runs.dead_after_seconds = settings.dead_after_seconds
        if keep_batches_seconds is not None:
            self.retention.keep_batches_seconds = keep_batches_seconds
        self.stopping.grace_seconds, self.stopping.on_stop = stop_grace_seconds, on_stop
        self.runs.limit(max_per_queue=settings.max, max_total=settings.max_total)
        self.runs.context = self._run_context(settings)
        self.on_change()

    async def open_processes(self, home: SupervisorHome | None) -> None:
        """Have the supervisor of this home, or one that ends with the node; `run` names it from now on. Raises
        NodeIdInUseError if the one that lives there has runs and is not for this process, and StoreError."""

        def take() -> None:
            self.runs.context = self._run_context(self._settings)

        def on_change() -> None:
            take()
            self.heartbeat.wake.set()  # others have to know it

        self.processes.on_change = on_change
        self.processes.on_taken_over = self.stopping.hand_over
        try:
            try:
                await self.processes.open(home)
            except SupervisorRefusedError as error:
                if home is None or error.session is None:
                    raise
                await self.processes.open(await self._above_session(home, error))
        except SupervisorRefusedError as error:
            raise NodeIdInUseError(str(error)) from error
        take()
        if self.processes.keeps_runs:
            await self.heartbeat.turn()  # before anything is started there

    async def _above_session(self, home: SupervisorHome, refused: SupervisorRefusedError) -> SupervisorHome:
        """The home with a session above the one that the supervisor has known. Raises `refused` if the id is another
        process's by now: then that one is the later of both."""
        known = refused.session or 0
        session = await self.store_thread.call(lambda store: next_session(store, self._node_id, above=known))
        if not await self.membership.is_held():
            raise refused
        log.warning(
            "the supervisor of the runs has known session %d of this node, and the store had %d; now it is %d",
            known, home.session, session,
        )  # fmt: skip
        return replace(home, session=session)

    def idle(self) -> Idle:
        """What finds the end of a node with --until-idle. Others need not import what that takes."""
        from disbatch_host.node.idle import Idle  # noqa: PLC0415

        return Idle(
            self.runs, self.claiming, self.lost_runs, self.store_thread, self._health, self.troubles, self._pace
        )  # fmt: skip

    def on_change(self) -> None:
        """Something may have changed in the store."""
        self.claiming.on_change()
        self.due.on_change()
        self.batches.on_change()

    def _report(self, run: Run, report: RunReport) -> None:
        """A run has ended, and that is recorded."""
        self.tally.count(report)
        if report.left_over:
            self.left_over.hold(run.task, report)
        self.due.on_end(run.task, report.seconds)
        self.batches.on_end(run.task)
        self.failing_queues.on_end(run.task, report)
        if self._on_report is not None:
            self._on_report(run, report)

    async def _is_deleted(self, task_id: TaskId) -> bool:
        return not await self.store_thread.call(lambda store: store.count_tasks(TaskFilter(ids=[task_id])))

    def _run_context(self, settings: ShownSettings) -> RunContext:
        return RunContext(
            machine_name=self.membership.machine.name,
            recorder=self.store_thread,
            clock=self.clock,
            site=self.site,
            processes=self.processes,
            workers=self.workers,
            trust_seconds=settings.dead_after_seconds / 2,
            news=self._pace.news,
            is_deleted=self._is_deleted,
            extended_json=self._store.extended_json,
            supervisor=self.processes.facts,
        )
