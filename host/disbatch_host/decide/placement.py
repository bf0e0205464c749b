"""How many tasks a node claims from each queue. Pure.

Responsible for: which queues a node serves, its load, and sharing its places among queues. Must not know: stores,
processes, the event loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from disbatch_host.documents.changes import Place
from disbatch_host.documents.records import Queue, QueueId


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a node runs and may run at one moment. Running tasks include those that it has only claimed."""

    max_per_queue: int  # for queues without `maxthreads`
    max_total: int | None  # over all queues
    running: Mapping[QueueId, int] = field(default_factory=dict)
    running_of_class: Mapping[str, int] = field(default_factory=dict)
    concurrency_of_class: Mapping[str, int | None] = field(default_factory=dict)  # the plugin's own limit on a node

    def without(self, ended: Sequence[Place]) -> Load:
        """The load once these runs have ended."""
        if not ended:
            return self
        running, of_class = dict(self.running), dict(self.running_of_class)
        for place in ended:
            running[place.queue] = running.get(place.queue, 0) - 1
            of_class[place.class_name] = of_class.get(place.class_name, 0) - 1
        return replace(self, running=running, running_of_class=of_class)


def served(queues: Sequence[Queue], *, node_id: str, classes: frozenset[str], even_paused: bool = False) -> list[Queue]:
    """The queues whose tasks this node may run: pinned here or nowhere, not ignored, usable, plugin at hand, and not
    paused (unless `even_paused`)."""
    return [
        queue
        for queue in queues
        if queue.fault is None
        and queue.class_name in classes
        and queue.is_for(node_id)
        and (even_paused or queue.paused is None)
    ]


def limit_of(queue: Queue, load: Load) -> int:
    """How many of the queue's tasks may run here at once (den-1.0, `maxthreads`)."""
    return load.max_per_queue if queue.maxthreads is None else queue.maxthreads


def is_contended(queues: Sequence[Queue], load: Load) -> bool:
    """Whether these queues may take places from each other, because of a limit of the node or of a plugin."""
    concurrency = (load.concurrency_of_class.get(queue.class_name) for queue in queues)
    return load.max_total is not None or any(limit is not None for limit in concurrency)


def has_room(queues: Sequence[Queue], load: Load) -> bool:
    """Whether `allot` would give any of these queues a place, for callers that need not know how many."""
    if load.max_total is not None and sum(load.running.values()) >= load.max_total:
        return False
    for queue in queues:
        concurrency = load.concurrency_of_class.get(queue.class_name)
        if concurrency is not None and load.running_of_class.get(queue.class_name, 0) >= concurrency:
            continue
        if limit_of(queue, load) > load.running.get(queue.id, 0):
            return True
    return False


def allot(queues: Sequence[Queue], load: Load) -> list[tuple[QueueId, int]]:
    """How many more tasks to claim from each of these queues, leaving out zeros.

    If the limits of the node or of a plugin do not let every queue have its own, the places go one by one to the queue
    that has the fewest: no queue waits for another one to be empty.
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
