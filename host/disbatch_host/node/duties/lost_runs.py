"""The duty that looks for dead nodes and settles what they left: claimed and running tasks, and processes on this
machine. An earlier life of this node is settled in the same way.

Responsible for: watching the heartbeats of other nodes (`decide.membership` decides which are dead), killing processes
that still work on their tasks here, and writing the fate of each task (`transitions.lost_change` decides it). Must not
know: this node's own runs.

Rules:
1. First a fence: the token of the claim is changed, so that the node, should it be alive after all, can no longer
   record what the next step does to its processes.
2. Then the processes, then the tasks: a task is returned only once no process of this machine works on it any more.
   One of which something cannot be ended (another user's, or in uninterruptible sleep) is orphaned, with what that is.
3. Each write is guarded. Two nodes that settle the same dead node do not harm each other.
4. Of a node that has a home, a Running task whose supervisor is there and does not have its run was certainly not
   started (`OwnTasks`). An older process of this node may still make one Running later: so each turn looks again.
5. Where the supervisor of a dead node lives on this machine, its runs go on: once all tasks of the node are fenced, it
   is ended with them. What is left of the runs of one that is dead as well is found by its id, which `run` has.
6. Each dead node is settled by itself, and each of its tasks where they cannot be settled together: a task that cannot
   be written is left as it is for a while.
"""

from __future__ import annotations

import dataclasses
import logging
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from disbatch_host import logs
from disbatch_host.clock import Clock, SystemClock
from disbatch_host.decide import membership
from disbatch_host.decide.membership import HeartbeatWatch
from disbatch_host.documents import transitions
from disbatch_host.documents.changes import RunChange, RunKey, TaskFilter
from disbatch_host.documents.records import NodeRecord, Task, TaskId
from disbatch_host.node import node_document
from disbatch_host.node.compartment import Troubles, write_each
from disbatch_host.node.pace import Pace
from disbatch_host.node.pieces import Pieces
from disbatch_host.node.store_thread import StoreThread
from disbatch_host.process import leftovers
from disbatch_host.process.machine import Machine
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status

log = logging.getLogger(__name__)

_LOST = "task of a lost run"
_BATCH = 500  # tasks settled in one commit, at most


@dataclass(frozen=True, slots=True)
class OwnTasks:
    """What a node knows of the tasks with its own id that are Claimed or Running."""

    is_left: Callable[[Task], bool]  # whether it is of an earlier life, and does not go on
    is_unstarted: Callable[[Task], bool] = lambda _: False  # whether such a Running one was certainly not started
    supervisor_ids: frozenset[str] = frozenset()  # of those that have the runs which go on


_ALL_ARE_LEFT = OwnTasks(lambda _: True)


@dataclass(slots=True)
class Settled:
    """How many tasks had which fate."""

    given_back: int = 0  # certainly not started: back to Created
    started_again: int = 0  # idempotent: back to Created
    orphaned: int = 0
    is_all: bool = True  # nothing is left for another call
    done: set[TaskId] = field(default_factory=set)
    refused: set[TaskId] = field(default_factory=set)  # by the store; they rest

    def add(self, other: Settled) -> None:
        self.given_back += other.given_back
        self.started_again += other.started_again
        self.orphaned += other.orphaned
        self.done |= other.done
        self.refused |= other.refused

    def __bool__(self) -> bool:
        return bool(self.given_back or self.started_again or self.orphaned)

    def __str__(self) -> str:
        return (
            f"{self.given_back} never started and are back in their queues, {self.started_again} will run again "
            f"(idempotent), {self.orphaned} are orphaned"
        )


class LostRuns:
    """See `rounds.Duty`."""

    def __init__(
        self,
        node_id: str,
        this_machine: Machine,
        store_thread: StoreThread,
        clock: Clock,
        troubles: Troubles,
        *,
        on_settled: Callable[[], None],
        pace: Pace,
    ) -> None:
        """`clock`: this machine's; only its monotonic time is used. `on_settled` is called when tasks may have gone
        back to their queues."""
        self.name = "lost runs"
        self.dead_after_seconds = float("inf")  # a setting, which may change
        self.interval_seconds = pace.sweep_seconds
        self._node_id = node_id
        self._machine = this_machine
        self._store_thread = store_thread
        self._clock = clock
        self._troubles = troubles
        self._on_settled = on_settled
        self._pace = pace
        self._others = HeartbeatWatch()
        self.unsettled: set[TaskId] = set()  # lost, and the store refuses to record what becomes of them
        self._unended: dict[str, dict[str, str]] = {}  # by node, until its tasks are settled: see `_end_supervisors`
        self._ended: set[str] = set()  # supervisors of which nothing is left, though they may take a while to end
        self.late: Callable[[], OwnTasks] | None = None  # rule 4: once this node knows the runs of its earlier lives

    async def turn(self) -> None:
        """Look for dead nodes, and settle what they left."""
        if self.late is not None:
            with self._troubles.contained("lost runs", "of an earlier life"):
                await self._settle_late(self.late())
        nodes = await self._store_thread.call(lambda store: store.nodes())
        watched = self._others.look(nodes, at=self._clock.monotonic())
        for node in nodes:
            with self._troubles.contained("another node", node.id):
                if self._is_dead(node, watched):
                    await self._settle_dead(node)

    def _is_dead(self, node: NodeRecord, watched_seconds: Mapping[str, float]) -> bool:
        return bool(
            membership.dead_nodes(
                [node],
                own_id=self._node_id,
                dead_after_seconds=self.dead_after_seconds,
                watched_seconds=watched_seconds,
                confirm_seconds=self._pace.confirm_seconds,
                confirm_heartbeats=self._pace.confirm_heartbeats,
            )
        )

    async def _settle_dead(self, node: NodeRecord) -> None:
        is_on_this_machine = self._machine.is_same(node.document.get("host"))
        unended = self._unended.setdefault(node.id, {})
        if is_on_this_machine:
            unended |= await self._end_supervisors(node)
        settled = await self._settle(node.id, is_on_this_machine, unended=unended)
        del self._unended[node.id]
        if settled:
            log.warning("node %s is dead: of its tasks, %s", node.id, settled, extra=logs.ids(about_node=node.id))
            self._on_settled()

    async def _settle_late(self, own: OwnTasks) -> None:
        which = TaskFilter(node=self._node_id, statuses=frozenset({int(Status.RUNNING)}))

        def is_any_left(store: Store) -> bool:
            found = store.find_tasks(which, with_output=False, with_parameters=False, in_any_order=True)
            return any(task.token is not None and own.is_left(task) for task in found)

        if await self._store_thread.call(is_any_left):
            settled = await self._settle(self._node_id, True, own)
            log.warning("of the tasks that an older process of node %s made running, %s", self._node_id, settled)
            self._on_settled()

    async def settle_earlier_life(self, record: NodeRecord | None, own: OwnTasks = _ALL_ARE_LEFT) -> None:
        """Clean up before the first claim (den-1.0, rule 2). `record`: the document that the earlier life left, if any.
        Tasks with this id may be left even without a document; their processes can only be on this machine."""
        is_on_this_machine = record is None or self._machine.is_same(record.document.get("host"))
        unended: Mapping[str, str] = {}
        if record is not None and is_on_this_machine:
            unended = await self._end_supervisors(record, own)
        settled = await self._settle(self._node_id, is_on_this_machine, own, unended)
        if settled:
            log.warning("of the tasks of an earlier life of node %s, %s", self._node_id, settled)

    async def _end_supervisors(self, node: NodeRecord, own: OwnTasks = _ALL_ARE_LEFT) -> dict[str, str]:
        """Rule 5. Returns the ids of those whose runs could not all be ended, each with words for rule 2."""
        unended: dict[str, str] = {}
        for supervisor in node_document.supervisors(node):
            if supervisor.id in self._ended | own.supervisor_ids or not supervisor.is_alive:
                continue
            log.warning(
                "process %d has runs of node %s, which nobody goes on with; it is ended with them",
                supervisor.pid, node.id, extra=logs.ids(pid=supervisor.pid, about_node=node.id),
            )  # fmt: skip
            await self._store_thread.call(lambda store: fence_all(store, node.id, self._troubles, own.is_left))
            is_gone = await leftovers.end_supervisor(
                supervisor, stop_seconds=self._pace.stop_supervisor_seconds, kill_seconds=self._pace.kill_wait_seconds
            )
            if is_gone:
                self._ended.add(supervisor.id)
            else:
                log.error("not all runs of node %s on this machine can be ended", node.id)
                unended[supervisor.id] = f"process {supervisor.pid}, which has its run,"
        return unended

    def forget_others(self) -> None:
        """The store was away: earlier observations of other nodes' heartbeats count for nothing."""
        self._others.forget()

    async def _settle(
        self,
        node_id: str,
        is_on_this_machine: bool,
        own: OwnTasks = _ALL_ARE_LEFT,
        unended: Mapping[str, str] = MappingProxyType({}),
    ) -> Settled:
        settled, pieces = Settled(), Pieces(_BATCH)
        while True:
            some = await self._store_thread.call(
                lambda store: settle(
                    store, node_id, is_on_this_machine=is_on_this_machine, pace=self._pace, troubles=self._troubles,
                    pieces=pieces, own=own, unended=unended,
                )
            )  # fmt: skip
            settled.add(some)
            self.unsettled = (self.unsettled | some.refused) - some.done
            if some.is_all:
                return settled


def settle(
    store: Store,
    node_id: str,
    *,
    is_on_this_machine: bool,
    pace: Pace = Pace(),
    troubles: Troubles | None = None,
    pieces: Pieces | None = None,
    own: OwnTasks = _ALL_ARE_LEFT,
    unended: Mapping[str, str] = MappingProxyType({}),
) -> Settled:
    """Settle the tasks that carry this node's id and a claim of this program, and are Claimed or Running: a node of
    another program may go by the same name. `is_all` says whether there was time for each of them. Called in the
    store's thread. `troubles`: of the node that does it; by default those of this call alone. `pieces`: of all calls
    for this node. `own`: if it is this node's own. `unended`: see `LostRuns._end_supervisors`."""
    troubles = troubles or Troubles(SystemClock(), pace)
    settled = Settled()
    which = TaskFilter(node=node_id, statuses=frozenset({int(Status.CLAIMED), int(Status.RUNNING)}))
    for size in (pieces or Pieces(_BATCH)).sizes(pace.piece_seconds):
        tasks = _next_of(store, which, troubles, size, own.is_left)
        if not tasks:
            if not any(store.find_tasks(which, limit=1, with_output=False, with_parameters=False)):
                store.hold(node_id, {})  # it no longer has anything in hand: its places are free for others
            return settled
        fenced = _fence(store, node_id, tasks, settled, troubles)
        if not fenced and not settled.refused.issuperset(task.id for task in tasks):
            return settled  # somebody else is doing it; the rest comes with the next look
        alive = kill_leftovers(node_id, fenced, pace, own.supervisor_ids) if fenced and is_on_this_machine else {}
        still = {task.id: words for task in fenced if (words := _unended(task, unended, alive)) is not None}
        _write_fates(store, node_id, fenced, settled, troubles, own.is_unstarted, still)
    settled.is_all = False
    return settled


def fence_all(store: Store, node_id: str, troubles: Troubles, is_left: Callable[[Task], bool]) -> None:
    """Rule 1 for all tasks of a node at once: what follows is not about some of them."""
    which = TaskFilter(node=node_id, statuses=frozenset({int(Status.CLAIMED), int(Status.RUNNING)}))
    found = store.find_tasks(which, with_output=False, with_parameters=False, in_any_order=True)
    tasks = [task for task in found if task.token is not None and is_left(task)]
    for start in range(0, len(tasks), _BATCH):
        _fence(store, node_id, tasks[start : start + _BATCH], Settled(), troubles)


def _next_of(
    store: Store, which: TaskFilter, troubles: Troubles, count: int, is_left: Callable[[Task], bool]
) -> list[Task]:
    """About so many of them, without reading all."""
    limit = count + troubles.resting(_LOST)
    while True:
        found = list(store.find_tasks(which, limit=limit, with_output=False, with_parameters=False, in_any_order=True))
        ours = [
            task
            for task in found
            if task.token is not None and is_left(task) and not troubles.is_resting(_LOST, task.id)
        ]
        if ours or len(found) < limit:
            return ours[:count]
        limit *= 2  # of those so far, each is another program's


def _write_fates(
    store: Store,
    node_id: str,
    fenced: list[Task],
    settled: Settled,
    troubles: Troubles,
    is_unstarted: Callable[[Task], bool],
    unended: Mapping[TaskId, str],
) -> None:
    """Write what becomes of each of these tasks, and count it. `unended`: of which something could not be ended."""
    fates = []
    for task in fenced:
        with troubles.contained(_LOST, task.id):
            if task.status == Status.RUNNING and is_unstarted(task):
                fates.append((task, transitions.unread_start_change(task, node=node_id, now=store.now())))
            else:
                change = transitions.lost_change(task, node=node_id, now=store.now(), unended=unended.get(task.id))
                fates.append((task, change))
    unwritten = set()

    def report(change: RunChange, error: Exception) -> None:
        unwritten.add(change.key)
        settled.refused.add(change.key.task_id)
        troubles.report(_LOST, change.key.task_id, error)

    refused = write_each(store.commit, [change for _, change in fates], report) | unwritten
    for task, change in fates:
        if change.key in refused:
            continue  # another node settled it, or its own node is alive and wrote
        settled.done.add(task.id)
        if task.status == Status.CLAIMED or is_unstarted(task):
            settled.given_back += 1
        elif change.set["status"] == Status.CREATED:
            settled.started_again += 1
        else:
            settled.orphaned += 1


def _fence(store: Store, node_id: str, tasks: list[Task], settled: Settled, troubles: Troubles) -> list[Task]:
    """The tasks that are now this call's to settle, with their new token."""
    token = f"settling-{uuid.uuid4().hex}"
    claim = {"token": token, "at": store.now()}
    changes = [
        RunChange(key=RunKey(task.id, node_id, task.token), statuses=(Status(task.status),), set={"claim": claim})
        for task in tasks
    ]
    unwritten = set()

    def report(change: RunChange, error: Exception) -> None:
        unwritten.add(change.key)
        settled.refused.add(change.key.task_id)
        troubles.report(_LOST, change.key.task_id, error)

    refused = write_each(store.commit, changes, report) | unwritten
    return [
        dataclasses.replace(task, token=token)
        for task, change in zip(tasks, changes, strict=True)
        if change.key not in refused
    ]


def kill_leftovers(
    node_id: str, tasks: list[Task], pace: Pace, own_supervisors: Collection[str] = frozenset()
) -> dict[str, int]:
    """Kill what an earlier life of the node started for these tasks, with everything else that is left of the runs of
    their supervisors, and wait until it is gone. Returns those tasks of which a process could not be ended, by their
    ids as text, and its pid. `own_supervisors`: whose runs go on."""
    running = {str(task.id): task for task in tasks if task.status == Status.RUNNING}
    if not running:
        return {}
    known = {
        (pid, started): [name]
        for name, task in running.items()
        if isinstance(pid := task.run.get("pid"), int) and isinstance(started := task.run.get("pid_started"), int)
    }
    known |= {(pid, started): [name] for pid, started, name in leftovers.find_runs(node_id, set(running))}
    of: dict[str, list[str]] = {}
    for name, task in running.items():
        if isinstance(supervisor := task.run.get("supervisor"), str):
            of.setdefault(supervisor, []).append(name)
    found = leftovers.find_of_supervisors(of.keys() - own_supervisors)
    # Whose it is, its supervisor alone could say: it may be any of them.
    known = {(pid, started): of[supervisor] for pid, started, supervisor in found} | known
    alive = {one: names for one, names in known.items() if leftovers.is_alive(*one)}
    for pid, started in alive:
        log.warning(
            "process %d is left from an earlier life of node %s; it is killed", pid, node_id,
            extra=logs.ids(pid=pid, about_node=node_id),
        )  # fmt: skip
        leftovers.kill(pid, started)
    deadline = time.monotonic() + pace.kill_wait_seconds
    while (alive := {one: names for one, names in alive.items() if leftovers.is_alive(*one)}) and (
        time.monotonic() < deadline
    ):
        time.sleep(pace.kill_poll_seconds)
    for (pid, _), names in alive.items():
        log.error(
            "process %d of task %s of node %s could not be ended", pid, " or ".join(names), node_id,
            extra=logs.ids(pid=pid, about_node=node_id),
        )  # fmt: skip
    return {name: pid for (pid, _), names in alive.items() for name in names}


def _unended(task: Task, supervisors: Mapping[str, str], processes: Mapping[str, int]) -> str | None:
    """What of a task that was Running could not be ended, in words."""
    pid = processes.get(str(task.id))
    if pid is not None:
        return f"process {pid} of it"
    return supervisors.get(str(task.run.get("supervisor")))
