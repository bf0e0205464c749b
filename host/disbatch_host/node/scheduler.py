"""One look at the queues: promote what is due, see what waits, decide, claim.

Responsible for: the order of these steps, so that a round costs little where nothing waits. Must not know: processes,
the event loop; it runs in the thread of the store.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from disbatch_host.decide import placement
from disbatch_host.decide.placement import Load
from disbatch_host.documents import transitions
from disbatch_host.documents.changes import RunChange, RunKey, TaskFilter, Want
from disbatch_host.documents.records import Queue, QueueId, Sort, Task
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status

_CLAIMED_UNSEEN = 2  # queues of which a claim finds out whether anything waits, sooner than a look before it
_PROMOTED = 1000  # tasks promoted in one go
_PROMOTIONS = 10  # in one round: ten thousand that are due at the same second must not keep the others from their turn
_STRAY_LOOKS = 60  # about once a second: longer than an answer of the store is waited for

BeginOfClass = Callable[[Task, str], RunChange | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What came of one look."""

    queues: Sequence[Queue]  # all that there are
    tasks: Sequence[Task]  # claimed for this node
    may_have_more: bool  # tasks may wait for which there was no room; a run that ends makes room
    look_again_seconds: float | None = None  # when the rate of a queue lets the next one start
    token: str | None = None  # of the claim, where there was one; see `Scheduler.confirm`


class Scheduler:
    """Keeps the list of queues between two rounds."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._queues: Sequence[Queue] = ()
        self._held: dict[QueueId, int] = {}  # of queues with `maxtotal`: how many this node may have in hand, at most
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
                changes.append(transitions.give_back_change(key, now=store.now()))
            elif task.token in self._unheard:
                changes.append(transitions.unheard_change(task, key, now=store.now()))
        refused = store.commit(changes) if changes else ()
        # A server that was slow may carry a claim out only now: one look is not enough then.
        most = _STRAY_LOOKS if store.may_act_late else 0
        self._unheard = {token: looks + 1 for token, looks in self._unheard.items() if looks < most}
        return len(changes) - len(refused)

    def has_room(self, *, classes: frozenset[str], load: Load) -> bool:
        """Whether a round could claim anything, by the queues as they were read last."""
        return bool(placement.allot(placement.served(self._queues, node_id=self._node_id, classes=classes), load))

    def round(
        self, store: Store, *, classes: frozenset[str], load: Load, refresh: bool, begin: BeginOfClass | None = None
    ) -> Round:
        """Claim what there is room for. `refresh`: read the queues again and promote what is due; else only claim.
        `begin`: see `Store.claim`; it is told the class as well."""
        if refresh:
            for _ in range(_PROMOTIONS):
                if store.promote_due(_PROMOTED) < _PROMOTED:
                    break
            self._queues = store.queues()
            self.give_places_free(store, load)
        candidates = placement.served(self._queues, node_id=self._node_id, classes=classes)
        if self._unheard:
            # How many tasks this node has in hand is not certain, so nothing is claimed where that must be exact.
            candidates = [queue for queue in candidates if queue.maxtotal is None]
        if not candidates:
            return Round(queues=self._queues, tasks=(), may_have_more=False)
        if not placement.allot(candidates, load):  # no room at all: not worth a look at what waits
            return Round(queues=self._queues, tasks=(), may_have_more=True)
        if (
            len(candidates) > _CLAIMED_UNSEEN
            or any(queue.maxtotal is not None or queue.rate for queue in candidates)
            # Places that queues share must not go to one of which nothing waits: the other would starve.
            or (len(candidates) > 1 and placement.is_contended(candidates, load))
        ):
            waiting = store.waiting_queues()
            candidates = [queue for queue in candidates if queue.id in waiting]
        by_id = {queue.id: queue for queue in candidates}
        wants = [_want(by_id[queue_id], count, load) for queue_id, count in placement.allot(candidates, load)]

        def begin_of_queue(task: Task) -> RunChange | None:
            return begin(task, by_id[task.queue].class_name) if begin is not None else None

        token = uuid.uuid4().hex if wants else None
        tasks = []
        if token is not None:
            self._unheard[token] = 0
            self._held |= {want.queue: want.in_hand + want.count for want in wants if want.maxtotal is not None}
            tasks = store.claim(self._node_id, wants, token, begin_of_queue)
        got = Counter(task.queue for task in tasks)
        short = [want for want in wants if got[want.queue] < want.count]
        # Of a queue whose limit over all nodes is reached, more may wait all the same.
        is_dry = {want.queue for want in short if want.maxtotal is None and want.rate is None}
        return Round(
            queues=self._queues,
            tasks=tasks,
            may_have_more=any(queue.id not in is_dry for queue in candidates),
            look_again_seconds=min([want.rate.interval_seconds for want in short if want.rate], default=None),
            token=token,
        )

    def give_all_places_free(self, store: Store) -> None:
        """The node stops and has nothing in hand any more."""
        if self._held:
            store.hold(self._node_id, {})
            self._held = {}

    def give_places_free(self, store: Store, load: Load) -> None:
        """Let other nodes have what this one may claim of queues with `maxtotal` and has not; and know what it has had
        in hand since before there was that limit."""
        limited = {queue.id for queue in self._queues if queue.maxtotal is not None}
        in_hand = {queue_id: load.running.get(queue_id, 0) for queue_id in limited | self._held.keys()}
        in_hand = {queue_id: count for queue_id, count in in_hand.items() if count}
        if not self._unheard and in_hand != self._held:
            store.hold(self._node_id, in_hand)
            self._held = in_hand


def _want(queue: Queue, count: int, load: Load) -> Want:
    return Want(
        queue=queue.id,
        count=count,
        newest_first=queue.sort is Sort.LIFO,
        maxtotal=queue.maxtotal,
        rate=queue.rate,
        in_hand=load.running.get(queue.id, 0),
    )
