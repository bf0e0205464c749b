"""One look at the queues: promote what is due, see what waits, decide, claim.

Responsible for: the order of these steps, so that a round costs little where nothing waits. Must not know: processes,
the event loop; it runs in the thread of the store.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from disbatch_host import policy, run_document
from disbatch_host.model import Queue, RunChange, RunKey, Task, TaskFilter
from disbatch_host.policy import Load
from disbatch_host.store.base import Store
from disbatch_protocol.status import Status

BeginOfClass = Callable[[Task, str], RunChange | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What came of one look."""

    queues: Sequence[Queue]  # all that there are
    tasks: Sequence[Task]  # claimed for this node
    may_have_more: bool  # tasks may wait for which there was no room; a run that ends makes room


class Scheduler:
    """Keeps the list of queues between two rounds."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._queues: Sequence[Queue] = ()

    def give_back_strays(self, store: Store, *, known: frozenset[str]) -> int:
        """Give back the tasks that carry this node's claim and of which it knows nothing: the answer to the claim
        was lost. `known` are the ids of its runs. Returns how many there were."""
        which = TaskFilter(node=self._node_id, statuses=frozenset({int(Status.CLAIMED)}))
        strays = [task for task in store.find_tasks(which, with_output=False) if str(task.id) not in known]
        changes = [
            run_document.give_back_change(RunKey(task.id, self._node_id, task.token), now=store.now())
            for task in strays
        ]
        return len(strays) - len(store.commit(changes))

    def round(
        self, store: Store, *, classes: frozenset[str], load: Load, refresh: bool, begin: BeginOfClass | None = None
    ) -> Round:
        """Claim what there is room for. `refresh`: read the queues again and promote what is due; else only claim.
        `begin`: see `Store.claim`; it is told the class as well."""
        if refresh:
            store.promote_due()
            self._queues = store.queues()
        candidates = policy.served(self._queues, node_id=self._node_id, classes=classes)
        if not candidates:
            return Round(queues=self._queues, tasks=(), may_have_more=False)
        if not policy.allot(candidates, load):  # no room at all: not worth a look at what waits
            return Round(queues=self._queues, tasks=(), may_have_more=True)
        waiting = store.waiting_queues()
        candidates = [queue for queue in candidates if queue.id in waiting]
        wanted = policy.allot(candidates, load)
        class_of = {queue.id: queue.class_name for queue in candidates}

        def begin_of_queue(task: Task) -> RunChange | None:
            return begin(task, class_of[task.queue]) if begin is not None else None

        tasks = store.claim(self._node_id, wanted, uuid.uuid4().hex, begin_of_queue) if wanted else []
        got = Counter(task.queue for task in tasks)
        is_dry = {queue_id for queue_id, count in wanted if got[queue_id] < count}
        may_have_more = any(queue.id not in is_dry for queue in candidates)
        return Round(queues=self._queues, tasks=tasks, may_have_more=may_have_more)
