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
from disbatch_host.model import Queue, RunChange, RunKey, Sort, Task, TaskFilter, Want
from disbatch_host.policy import Load
from disbatch_host.store.base import Store
from disbatch_protocol.status import Status

_STRAY_LOOKS = 60  # about once a second: longer than an answer of the store is waited for

BeginOfClass = Callable[[Task, str], RunChange | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What came of one look."""

    queues: Sequence[Queue]  # all that there are
    tasks: Sequence[Task]  # claimed for this node
    may_have_more: bool  # tasks may wait for which there was no room; a run that ends makes room
    token: str | None = None  # of the claim, where there was one; see `Scheduler.confirm`


class Scheduler:
    """Keeps the list of queues between two rounds."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._queues: Sequence[Queue] = ()
        self._unheard: dict[str, int] = {}  # tokens of claims whose answer has not come: how often they were looked for

    @property
    def may_have_strays(self) -> bool:
        """Whether a claim may have been carried out of which the node has not heard."""
        return bool(self._unheard)

    def confirm(self, result: Round) -> None:
        """The node has got this answer."""
        if result.token is not None:
            self._unheard.pop(result.token, None)

    def give_back_strays(self, store: Store, *, known: frozenset[str]) -> int:
        """Give back the tasks that carry this node's claim and of which it knows nothing: the answer to the claim
        was lost. `known` are the ids of its runs. Returns how many there were.

        Claimed: never started. Running: only where the token is that of an unheard claim, since then nobody can have
        started it; any other that is not known has run, and its end could not be recorded.
        """
        which = TaskFilter(node=self._node_id, statuses=frozenset({int(Status.CLAIMED), int(Status.RUNNING)}))
        changes = []
        for task in store.find_tasks(which, with_output=False):
            if str(task.id) in known:
                continue
            key = RunKey(task.id, self._node_id, task.token)
            if task.status == Status.CLAIMED:
                changes.append(run_document.give_back_change(key, now=store.now()))
            elif task.token in self._unheard:
                changes.append(run_document.unheard_change(task, key, now=store.now()))
        refused = store.commit(changes) if changes else ()
        # A server that was slow may carry a claim out only now, so one look is not enough.
        self._unheard = {token: looks + 1 for token, looks in self._unheard.items() if looks < _STRAY_LOOKS}
        return len(changes) - len(refused)

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
        by_id = {queue.id: queue for queue in candidates}

        def begin_of_queue(task: Task) -> RunChange | None:
            return begin(task, by_id[task.queue].class_name) if begin is not None else None

        token = uuid.uuid4().hex if wanted else None
        tasks = []
        if token is not None:
            self._unheard[token] = 0
            wants = [_want(by_id[queue_id], count, load) for queue_id, count in wanted]
            tasks = store.claim(self._node_id, wants, token, begin_of_queue)
        got = Counter(task.queue for task in tasks)
        is_dry = {queue_id for queue_id, count in wanted if got[queue_id] < count}
        may_have_more = any(queue.id not in is_dry for queue in candidates)
        return Round(queues=self._queues, tasks=tasks, may_have_more=may_have_more, token=token)


def _want(queue: Queue, count: int, load: Load) -> Want:
    return Want(
        queue=queue.id,
        count=count,
        newest_first=queue.sort is Sort.LIFO,
        maxtotal=queue.maxtotal,
        rate=queue.rate,
        in_hand=load.running.get(queue.id, 0),
    )
