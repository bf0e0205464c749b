"""Decisions of a node, as pure functions over what it knows at the moment. One place elsewhere carries each out.

Responsible for: how many tasks of which queue to claim, whether a node id may be taken, which nodes are dead. Must not
know: stores, processes, the event loop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from disbatch_host.model import NodeRecord, Queue, QueueId

# For how long an old heartbeat is watched before its node is taken for dead: time enough for the node to renew it.
CONFIRM_SECONDS = 4.0
CONFIRM_HEARTBEATS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a node runs and may run, at one moment. Running counts what it has claimed as well."""

    max_per_queue: int  # for queues without `maxthreads`
    max_total: int | None  # over all queues
    running: Mapping[QueueId, int] = field(default_factory=dict)
    running_of_class: Mapping[str, int] = field(default_factory=dict)
    concurrency_of_class: Mapping[str, int | None] = field(default_factory=dict)  # the plugin's own limit on a node

    def without(self, ended: Sequence[Place]) -> Load:
        """The same when these runs have ended."""
        running, of_class = Counter(self.running), Counter(self.running_of_class)
        running.subtract(place.queue for place in ended)
        of_class.subtract(place.class_name for place in ended)
        return replace(self, running=running, running_of_class=of_class)


@dataclass(frozen=True, slots=True)
class Place:
    """What a run takes up on its node."""

    queue: QueueId
    class_name: str


def served(queues: Sequence[Queue], *, node_id: str, classes: frozenset[str], paused_too: bool = False) -> list[Queue]:
    """The queues that this node may run tasks of: pinned here or nowhere, not ignored, usable, plugin at hand, and not
    paused (unless `paused_too`)."""
    return [
        queue
        for queue in queues
        if queue.fault is None
        and queue.class_name in classes
        and queue.is_for(node_id)
        and (paused_too or queue.paused is None)
    ]


def limit_of(queue: Queue, load: Load) -> int:
    """How many of the queue's tasks may run here at once (den-1.0, `maxthreads`)."""
    return load.max_per_queue if queue.maxthreads is None else queue.maxthreads


def is_contended(queues: Sequence[Queue], load: Load) -> bool:
    """Whether these queues may take places from each other: by a limit of the node or of a plugin."""
    concurrency = (load.concurrency_of_class.get(queue.class_name) for queue in queues)
    return load.max_total is not None or any(limit is not None for limit in concurrency)


def allot(queues: Sequence[Queue], load: Load) -> list[tuple[QueueId, int]]:
    """How many more tasks to claim of each of these queues, none of them zero.

    Where the limits of the node or of a plugin do not let every queue have its own, the slots go one by one to the
    queue that has the fewest: no queue waits for another one to be empty.
    """
    open_slots = {queue.id: max(0, limit_of(queue, load) - load.running.get(queue.id, 0)) for queue in queues}
    of_class = {
        queue.class_name: concurrency - load.running_of_class.get(queue.class_name, 0)
        for queue in queues
        if (concurrency := load.concurrency_of_class.get(queue.class_name)) is not None
    }
    total = None if load.max_total is None else load.max_total - sum(load.running.values())
    given: dict[QueueId, int] = {}
    if not is_contended(queues, load):
        return [(queue.id, open_slots[queue.id]) for queue in queues if open_slots[queue.id]]
    candidates = list(queues)
    while candidates and (total is None or total > 0):
        queue = min(candidates, key=lambda one: load.running.get(one.id, 0) + given.get(one.id, 0))
        if open_slots[queue.id] <= given.get(queue.id, 0) or of_class.get(queue.class_name, 1) <= 0:
            candidates.remove(queue)
            continue
        given[queue.id] = given.get(queue.id, 0) + 1
        if queue.class_name in of_class:
            of_class[queue.class_name] -= 1
        if total is not None:
            total -= 1
    return [(queue.id, given[queue.id]) for queue in queues if queue.id in given]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A node id's record, and what is known of its process."""

    record: NodeRecord
    is_on_this_machine: bool
    is_process_alive: bool  # means something only on this machine


def may_take_id(holder: Holder, *, dead_after_seconds: float) -> bool:
    """Whether a starting node may have the id without force (den-1.0, rule 1).

    On this machine the process itself is asked: a node that was killed a second ago may start again at once, one that
    is only stopped (SIGSTOP) may not. For any other machine the heartbeat is all that there is.
    """
    if holder.is_on_this_machine:
        return not holder.is_process_alive
    return holder.record.is_stale(dead_after_seconds)


def dead_nodes(
    nodes: Sequence[NodeRecord], *, own_id: str, dead_after_seconds: float, watched_seconds: Mapping[str, float]
) -> list[NodeRecord]:
    """The nodes whose tasks another node should settle. Only nodes of this program: what an old heartbeat of another
    program means, only that program knows.

    `watched_seconds`: for how long, by its own monotonic clock and with a store that answered, the caller has seen each
    node's heartbeat not change. An old date alone proves nothing: when a clock has jumped, or the store was away for
    everybody, all heartbeats look old until their nodes' next turn.
    """

    def is_dead(node: NodeRecord) -> bool:
        watched = watched_seconds.get(node.id, 0.0)
        if node.is_stale(dead_after_seconds):
            return watched >= max(CONFIRM_SECONDS, CONFIRM_HEARTBEATS * node.heartbeat_seconds(1.0))
        # A date that lies in the future of a clock which was put back says nothing either.
        return watched > node.dead_after_seconds(dead_after_seconds)

    return [node for node in nodes if node.id != own_id and node.is_ours and is_dead(node)]
