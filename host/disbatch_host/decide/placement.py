"""How many tasks a node claims from each queue. Pure.

Responsible for: which queues a node serves, its load, and sharing its places among queues. Must not know: stores,
processes, the event loop.
"""

from __future__ import annotations

import heapq
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
        return self._changed_by(-1, ended)

    def with_claimed(self, places: Sequence[Place]) -> Load:
        """The load once these places are taken as well."""
        return self._changed_by(1, places)

    def _changed_by(self, step: int, places: Sequence[Place]) -> Load:
        if not places:
            return self
        running, of_class = dict(self.running), dict(self.running_of_class)
        for place in places:
            running[place.queue] = running.get(place.queue, 0) + step
            of_class[place.class_name] = of_class.get(place.class_name, 0) + step
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


def open_places(queue: Queue, load: Load) -> int:
    """How many more of its tasks may run here by the limits of the queue itself. A node never has more of them in hand
    than `maxtotal` allows all nodes together."""
    limit = limit_of(queue, load)
    if queue.maxtotal is not None:
        limit = min(limit, queue.maxtotal)
    return max(0, limit - load.running.get(queue.id, 0))


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
        if open_places(queue, load):
            return True
    return False


def allot(queues: Sequence[Queue], load: Load, turns: Mapping[QueueId, int] | None = None) -> list[tuple[QueueId, int]]:
    """How many more tasks to claim from each of these queues, leaving out zeros.

    If the limits of the node or of a plugin do not let every queue have its own, the places go one by one to the queue
    that has the fewest in hand, and among equals to the one whose last turn is the longest ago: no queue waits for
    another to be empty, nor for more than one turn of each of the others. `turns` has the number of each queue's last
    turn; a queue without one has waited longest. The result is in the order of the last place that each queue was
    given, so `turns` are counted on in that order.
    """
    room = {queue.id: count for queue in queues if (count := open_places(queue, load))}
    if not is_contended(queues, load):
        return list(room.items())
    of_class = {
        queue.class_name: concurrency - load.running_of_class.get(queue.class_name, 0)
        for queue in queues
        if (concurrency := load.concurrency_of_class.get(queue.class_name)) is not None
    }
    total = sum(room.values()) if load.max_total is None else load.max_total - sum(load.running.values())
    turns = turns or {}
    latest = max(turns.values(), default=0)
    line = [
        (load.running.get(queue.id, 0), turns.get(queue.id, 0), number)
        for number, queue in enumerate(queues)
        if queue.id in room
    ]
    heapq.heapify(line)
    given: dict[QueueId, int] = {}
    while line and total > 0:
        in_hand, _, number = heapq.heappop(line)
        queue = queues[number]
        if of_class.get(queue.class_name, 1) <= 0:
            continue
        given[queue.id] = given.pop(queue.id, 0) + 1  # taken out first: it goes to the end
        total -= 1
        if queue.class_name in of_class:
            of_class[queue.class_name] -= 1
        if given[queue.id] < room[queue.id]:
            latest += 1
            heapq.heappush(line, (in_hand + 1, latest, number))
    return list(given.items())
