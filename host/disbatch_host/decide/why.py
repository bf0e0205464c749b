"""Why a task has not started, and why a queue's tasks do not run: one sentence each, with a code. Pure.

Responsible for: finding the cause in what the store shows, by asking `placement` what a node in that situation would
do. Must not know: stores, terminals, the clock.

Rules:
1. Whether a node may run a queue, and whether it has room, is decided by `placement.served` and `placement.allot`
   alone, fed with what the node publishes; this module only puts the answer into words. So its sentences describe
   what a node does.
2. `Code` is a closed list: people's rules depend on it, so nothing is ever renamed.
3. Other programs' node documents have fewer fields, and hand-written ones may have any: a missing field is never an
   obstacle.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from disbatch_host import suggested
from disbatch_host.decide import placement
from disbatch_host.decide.absence import absence_of
from disbatch_host.decide.readings import (
    away_in_words,
    broken_of,
    classes_of,
    classes_to_claim,
    is_alive,
    is_away,
    is_silent,
    load_of,
    set_aside_of,
)
from disbatch_host.decide.words import ago, asked_by, by_whom, error_line, have, it_has, one_line, since, some
from disbatch_host.documents import local_time, run_processes
from disbatch_host.documents.records import NodeRecord, Queue, Task, TaskId
from disbatch_protocol import status as statuses
from disbatch_protocol.faults import near_name
from disbatch_protocol.quantities import Rate, format_duration
from disbatch_protocol.status import Status


class Code(StrEnum):
    """Why a task has not started; a closed list."""

    # It has started, or never will by itself.
    ENDED = "ended"
    RUNNING = "running"
    CLAIMED = "claimed"  # a node has it; it starts in a moment
    LOST_NODE = "lost_node"  # the node that has it is silent, or dead
    DAMAGED = "damaged"  # its document cannot be read
    HELD = "held"  # the document says that somebody has it, or has a status that no node touches
    EXPIRED = "expired"
    # The task itself waits for something.
    AFTER = "after"
    AFTER_FAILED = "after_failed"
    NOT_DUE = "not_due"
    # Its queue.
    NO_QUEUE = "no_queue"
    QUEUE_FAULT = "queue_fault"
    PAUSED = "paused"
    PAUSED_ON_FAILURES = "paused_on_failures"  # by a node, since too many of its tasks failed
    # The nodes.
    NO_NODE = "no_node"
    PINNED = "pinned"
    IGNORED = "ignored"
    DRAINING = "draining"
    SET_ASIDE = "set_aside"
    BROKEN = "broken"
    NO_PLUGIN = "no_plugin"
    # Limits.
    MAXTHREADS = "maxthreads"
    CONCURRENCY = "concurrency"
    MAX_TOTAL = "max_total"
    MAXTOTAL = "maxtotal"
    RATE = "rate"
    # Nothing is in the way.
    TURN = "turn"


@dataclass(frozen=True, slots=True)
class Why:
    """A cause. `brief` is its short form, for places where the full sentence is told elsewhere."""

    code: Code
    sentence: str
    brief: str | None = None

    @property
    def short(self) -> str:
        return self.brief or self.sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The part of the store that bears on one task."""

    task: Task
    queue: Queue | None
    nodes: Sequence[NodeRecord]
    now: datetime
    predecessors: Mapping[str, Task] = field(default_factory=dict)  # the tasks that it waits for, by id as text
    in_hand: Mapping[str, int] = field(default_factory=dict)  # Claimed or Running tasks of its queue, by node
    ahead: int | None = None  # Created tasks of its queue that come before it; None: unknown
    is_ahead_exact: bool = True


def cause_of(snapshot: Snapshot) -> Why:
    """Why the task has not started; or that it has."""
    state = _state(snapshot)
    if state is not None:
        return state
    waits = _waits_for(snapshot)
    queue_id = str(snapshot.task.queue)
    obstacles = queue_obstacles(snapshot.queue, snapshot.nodes, now=snapshot.now, queue_id=queue_id)
    if waits is not None:
        if obstacles:
            return dataclasses.replace(waits, sentence=f"{waits.sentence}; besides, {_joined(obstacles)}")
        return waits
    if obstacles:
        return Why(obstacles[0].code, f"it waits: {_joined(obstacles)}")
    assert snapshot.queue is not None
    return _limit(snapshot, snapshot.queue)


def queue_obstacles(
    queue: Queue | None,
    nodes: Sequence[NodeRecord],
    *,
    now: datetime,
    queue_id: str = "",
) -> list[Why]:
    """What keeps every node from starting tasks of a queue, apart from limits that are reached; empty if one can start
    them. Several if several things have to be fixed."""
    if queue is None:
        return [Why(Code.NO_QUEUE, f"there is no queue {queue_id} (deleted, or never made)", _NO_QUEUE)]
    if queue.fault is not None:
        return [Why(Code.QUEUE_FAULT, f"queue {queue.id} cannot be used: {queue.fault}", queue.fault)]
    found = []
    if queue.paused is not None:
        code = Code.PAUSED_ON_FAILURES if queue.is_paused_on_failures else Code.PAUSED
        found.append(Why(code, f"queue {queue.id} is paused{by_whom(queue.paused, now)}"))
    if queue.maxthreads == 0:
        found.append(Why(Code.MAXTHREADS, "maxthreads is 0, so none of its tasks is started"))
    if queue.maxtotal == 0:
        found.append(Why(Code.MAXTOTAL, "maxtotal is 0, so none of its tasks is started"))
    alive = [one for one in nodes if is_alive(one)]
    if not alive:
        last = min(nodes, key=lambda one: one.age_seconds or 0.0, default=None)
        age = None if last is None else last.age_seconds
        more = f" (the last heartbeat was that of {last.id}, {ago(age)})" if last is not None and age else ""
        away = [f"{one.id} {away_in_words(one)}" for one in nodes if is_away(one)]
        more = f" ({some(away, '; ')})" if away else more
        return [*found, Why(Code.NO_NODE, f"no node is alive{more}", "no node is alive")]
    able = able_nodes(queue, alive)
    if not able:
        found += _why_no_node(queue, alive)
    elif all(map(is_silent, able)):
        names = [f"{one.id} (last heard from {ago(one.age_seconds)})" for one in able]
        which = "the only node that runs its tasks is" if len(able) == 1 else "all nodes that run its tasks are"
        found.append(Why(Code.NO_NODE, f"{which} silent: {some(names)}", f"{some(names)} silent"))
    return found


def able_nodes(queue: Queue, alive: Sequence[NodeRecord]) -> list[NodeRecord]:
    """The nodes that run tasks of the queue when it is not paused and they have room."""
    return [
        one
        for one in alive
        if placement.served([queue], node_id=one.id, classes=classes_to_claim(one), even_paused=True)
    ]


_NO_QUEUE = "no such queue (deleted, or never made)"


def _joined(causes: Sequence[Why]) -> str:
    return "; ".join(cause.sentence for cause in causes)


def _state(snapshot: Snapshot) -> Why | None:
    task, now = snapshot.task, snapshot.now
    absence = absence_of(task, snapshot.nodes)
    if task.fault is not None:
        return Why(Code.DAMAGED, f"its document is damaged, and no node will run it as it is: {task.fault}")
    if task.status == Status.RUNNING:
        cancel = task.cancel
        more = "" if cancel is None else f"; its cancellation was requested{by_whom(cancel, now)}"
        if absence is not None:
            verb = "runs" if absence.is_away else "was running"
            sentence = f"it {verb} on node {task.node}, which {absence.heard}; {absence.then}{more}"
            return Why(Code.RUNNING if absence.is_away else Code.LOST_NODE, sentence)
        seconds = since(task.run.get("started"), now)
        return Why(Code.RUNNING, f"it has been running on node {task.node} for {seconds}{more}")
    if task.status == Status.CLAIMED and absence is not None:
        sentence = f"it was claimed by node {task.node}, which {absence.heard}; {absence.then}"
        return Why(Code.LOST_NODE, sentence)
    if task.status == Status.CLAIMED:
        claim = task.document.get("claim")
        at = claim.get("at") if isinstance(claim, Mapping) else task.document.get("mtime")
        return Why(Code.CLAIMED, f"node {task.node} claimed it {since(at, now)} ago and is about to start it")
    if task.status == Status.ORPHANED:
        return Why(
            Code.ENDED,
            f"it is orphaned: node {task.node or task.run.get('node')} was lost while it ran; "
            f"{suggested.hint('task retry', task.id)} runs it again, {suggested.hint('task cancel', task.id)} does not",
        )
    if statuses.is_finished(task.status):
        if task.status not in frozenset(Status) and task.status < Status.FAILED:
            return Why(Code.HELD, f"it has status {task.status}, which no node touches")
        mtime = task.document.get("mtime")
        when = f" {since(mtime, now)} ago" if isinstance(mtime, datetime) else ""
        return Why(Code.ENDED, f"it ended{when}: {statuses.name(task.status)}{error_line(task.document)}")
    expires = task.document.get("expires")
    if isinstance(expires, datetime) and expires <= now:
        return Why(Code.EXPIRED, f"it expired {since(expires, now)} ago; the next node that looks cancels it")
    if task.status == Status.CREATED and task.node is not None:
        return Why(Code.HELD, f"its document names node {task.node} although it waits, so no other node may claim it")
    return None


def _waits_for(snapshot: Snapshot) -> Why | None:
    """The things that a Blocked task waits for."""
    task, now = snapshot.task, snapshot.now
    if task.status != Status.BLOCKED:
        return None
    after = task.document.get("after")
    waits_for = list(after) if isinstance(after, (list, tuple)) else []
    if waits_for:
        return _waits_for_tasks(snapshot, waits_for)
    not_before = task.document.get("not_before")
    if not isinstance(not_before, datetime):
        return Why(Code.HELD, "it is blocked, but its document says neither until when nor for which task")
    left = run_processes.processes_in_words(task.run, "left_over")
    if left is not None and not_before > now:
        node = task.run.get("node")
        sentence = f"its last run has left {left} on node {node}, beside which no other begins"
        return Why(Code.NOT_DUE, sentence)
    reason = task.run.get("outcome")
    which = f" ({_DELAYS[str(reason)]})" if str(reason) in _DELAYS else ""
    if not_before > now:
        moment = local_time.shown(not_before, timespec="seconds")
        in_seconds = format_duration((not_before - now).total_seconds())
        return Why(Code.NOT_DUE, f"it is not due until {moment}, in {in_seconds}{which}")
    return Why(Code.NOT_DUE, f"it has been due for {since(not_before, now)}; the next node that looks releases it")


_DELAYS = {
    "snooze": "its plugin asked for a pause",
    "retry": "its last attempt asked for another",
    "failure": "its last attempt failed, and it will be tried again",
    "terminated": "its last attempt was terminated, and it will be tried again",
}


def _waits_for_tasks(snapshot: Snapshot, waits_for: Sequence[TaskId]) -> Why:
    after_any = bool(snapshot.task.document.get("after_any"))
    gone, failed, retried, open_ = [], [], [], []
    for task_id in waits_for:
        other = snapshot.predecessors.get(str(task_id))
        if other is None:
            gone.append(f"task {task_id}")
            continue
        words = f"task {task_id} ({statuses.name(other.status)})"
        is_bad = statuses.is_finished(other.status) and other.status != Status.CONCLUDED
        if is_bad and (not after_any or other.status == Status.ORPHANED):
            failed.append(words)
            retried.append(task_id)
        else:
            open_.append(words)
    if failed:
        return Why(
            Code.AFTER_FAILED,
            f"it waits for {some(failed)}, which did not end well; {suggested.hint('task retry', *retried)} lets it go "
            f"on once {it_has(failed)} concluded",
        )
    if gone:
        exist = "exists" if len(gone) == 1 else "exist"
        return Why(Code.AFTER_FAILED, f"it waits for {some(gone)}, which no longer {exist}: it would wait forever")
    return Why(Code.AFTER, f"it waits for {some(open_)} to {'end' if after_any else 'conclude'}")


def _why_no_node(queue: Queue, alive: Sequence[NodeRecord]) -> list[Why]:
    name = queue.class_name
    meant = [one for one in alive if queue.is_for(one.id)]
    having = [one for one in alive if name in classes_of(one)]
    found = []
    idle = [one for one in meant if name in classes_of(one) and one.state != "running"]
    if idle:
        words = [f"{one.id} is {one.state}{_drained_by(one)}" for one in idle]
        others = "" if len(alive) == len(idle) else "; no other living node runs its tasks"
        found.append(Why(Code.DRAINING, f"node {some(words, '; node ')}{others}"))
    aside = [one for one in meant if name in set_aside_of(one)]
    if aside:
        words = [f"{one.id}: {one_line(set_aside_of(one)[name])}" for one in aside]
        sentence = f"plugin {name} is set aside on node {some(words, '; on node ')}"
        found.append(Why(Code.SET_ASIDE, sentence, f"set aside on {', '.join(one.id for one in aside)}, see below"))
    broken = [one for one in meant if name in broken_of(one)]
    if broken:
        words = [f"{one.id}: {one_line(broken_of(one)[name])}" for one in broken]
        sentence = f"plugin {name} is broken on node {some(words, '; on node ')}"
        found.append(Why(Code.BROKEN, sentence, f"plugin {name} is broken on {some([one.id for one in broken])}"))
    if found:
        return found
    if queue.nodes_pin and not meant:
        not_alive = "which is not alive" if len(queue.nodes_pin) == 1 else "none of which is alive"
        return [_of_queue(Code.PINNED, f"pinned to {some(queue.nodes_pin)}, {not_alive}")]
    if queue.nodes_pin:
        return [_of_queue(Code.PINNED, f"pinned to {some(queue.nodes_pin)}, where there is no plugin {name}")]
    if having:
        ignored = some([one.id for one in having])
        return [_of_queue(Code.IGNORED, f"ignored by {ignored}; no other living node has plugin {name}")]
    near = near_name(name, sorted({one for node in alive for one in classes_of(node)}))
    return [Why(Code.NO_PLUGIN, f"no living node has plugin {name}{f', did you mean {near}?' if near else ''}")]


def _of_queue(code: Code, state: str) -> Why:
    return Why(code, f"its queue is {state}", state)


def _drained_by(node: NodeRecord) -> str:
    request = node.requests.get("drain" if node.state != "stopping" else "stop")
    return f" ({asked_by(request)})" if isinstance(request, Mapping) else ""


def _limit(snapshot: Snapshot, queue: Queue) -> Why:
    """The cause if only limits and earlier tasks are in the way."""
    able = able_nodes(queue, [one for one in snapshot.nodes if is_alive(one)])
    full = {node.id: _fullness(queue, node) for node in able}
    before = _before(snapshot)
    in_hand = sum(snapshot.in_hand.values())
    if queue.maxtotal is not None and in_hand >= queue.maxtotal:
        where = some([f"{count} on {node}" for node, count in sorted(snapshot.in_hand.items())])
        sentence = f"the maxtotal of its queue is reached: {in_hand} of {queue.maxtotal} run ({where}){before}"
        return Why(Code.MAXTOTAL, f"it waits: {sentence}")
    reached = [why for why in full.values() if why is not None]
    if len(reached) == len(full):
        words = [why.sentence for why in reached]
        return Why(reached[0].code, f"it waits: no node has room: {some(words, '; ')}{before}")
    if queue.rate is not None:
        rate = f"{queue.rate.count} in {format_duration(queue.rate.seconds)}"
        return Why(Code.RATE, f"it waits: the rate of its queue is {rate}{_by_rate(snapshot, queue.rate)}")
    with_room = [node_id for node_id, why in full.items() if why is None]
    if snapshot.ahead:
        return Why(Code.TURN, f"it waits its turn{before}; {some(with_room)} {have(with_room)} room")
    return Why(
        Code.TURN, f"nothing is in its way: {some(with_room)} {have(with_room)} room and will claim it in a moment"
    )


def _fullness(queue: Queue, node: NodeRecord) -> Why | None:
    """Which limit of a node is reached for a queue; None if it has room."""
    load = load_of(node, queue)
    if placement.allot([queue], load):
        return None
    running = load.running.get(queue.id, 0)
    if running >= (limit := placement.limit_of(queue, load)):
        which = "--max of the node" if queue.maxthreads is None else "maxthreads of the queue"
        return Why(Code.MAXTHREADS, f"{node.id} runs {running} of {limit} ({which})")
    if queue.maxtotal is not None and running >= queue.maxtotal:
        return Why(Code.MAXTOTAL, f"{node.id} alone runs {running} of {queue.maxtotal} (maxtotal of the queue)")
    if placement.allot([queue], dataclasses.replace(load, max_total=None)):
        total = sum(load.running.values())
        return Why(Code.MAX_TOTAL, f"{node.id} runs {total} of {load.max_total} tasks in all (--max-total of the node)")
    concurrency = load.concurrency_of_class[queue.class_name]
    of_class = load.running_of_class.get(queue.class_name, 0)
    return Why(
        Code.CONCURRENCY, f"{node.id} runs {of_class} of {concurrency} of plugin {queue.class_name} (its concurrency)"
    )


def _before(snapshot: Snapshot) -> str:
    if not snapshot.ahead:
        return ""
    about = "" if snapshot.is_ahead_exact else "about "
    if snapshot.ahead == 1:
        return f"; {about}1 task of its queue comes before it"
    return f"; {about}{snapshot.ahead} tasks of its queue come before it"


def _by_rate(snapshot: Snapshot, rate: Rate) -> str:
    if snapshot.ahead:
        seconds = format_duration((snapshot.ahead + 1) * rate.interval_seconds)
        return f"{_before(snapshot)}, so it starts in about {seconds}"
    return f", and it is the next one, within {format_duration(rate.interval_seconds)}"
