"""The part of a claim in the store's thread: one round, and what a node remembers from one round to the next.

Responsible for: promoting what is due, seeing what waits, having `placement` decide, claiming, and passing on the
places that a queue could not use. Must not know: when there is reason for a round, how a store claims, how a run works.

Rules:
1. Request and result are values.
2. A round is: allot, claim, give to others what came back short, at most `_PASSES` times. Where every queue got what it
   was given, as nearly always, that is one claim.
3. The turns of queues are remembered across rounds; a queue that was asked has had its turn, whatever came of it.
4. After a failure the store's thread may carry out a round a second time: it starts from the request again. Turns and
   rests that the first one counted do no harm.
5. A queue whose claim fails costs no other queue its own (`suspects`).
6. A claim whose answer was lost may have been carried out all the same: its token is remembered, and tasks that carry
   it are returned to their queues (orphaned claims).
"""

from __future__ import annotations

import itertools
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from disbatch_host.clock import Clock, SystemClock
from disbatch_host.decide import placement
from disbatch_host.decide.placement import Load
from disbatch_host.documents import transitions
from disbatch_host.documents.changes import Place, RunChange, RunKey, TaskFilter, Want
from disbatch_host.documents.records import Queue, QueueId, Sort, Task, TaskId
from disbatch_host.errors import StoreUnreachableError
from disbatch_host.node.compartment import Troubles, write_each
from disbatch_host.node.limited_queues import LimitedQueues
from disbatch_host.node.pace import Pace
from disbatch_host.node.pieces import Pieces
from disbatch_host.node.starter import Started, Starts
from disbatch_host.node.suspects import ClaimFailedError, Suspects
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status

_CLAIMED_UNSEEN = 2  # up to this many queues, claiming at once is faster than first looking whether anything waits
_PROMOTED = 1000  # tasks promoted in one write, at most
_PASSES = 8  # claims in one round; the next one, right after it, asks further queues


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRequest:
    """The input of a round, as it was at one moment."""

    classes: frozenset[str]  # whose tasks may be claimed
    load: Load
    refresh: bool = False  # read the queues again and promote what is due; else only claim
    new_starts: Callable[[], Starts] | None = None  # for each try; None: no task becomes Running with its claim


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimResult:
    """The result of a round."""

    queues: Sequence[Queue]  # all existing ones
    tasks: Sequence[Task] = ()  # claimed for this node
    started: Mapping[TaskId, Started] = field(default_factory=dict)  # those of them that are Running already
    may_have_more: bool = False  # tasks may be waiting for which there was no room; a run that ends makes room
    look_again_seconds: float | None = None  # when a queue whose limit is used up may start another
    tokens: Sequence[str] = ()  # of the claims, one each; see `ClaimLedger.confirm`
    refresh_again: bool = False  # there was no time to promote everything that is due


class ClaimLedger:
    """The memory of a node's claims from one round to the next, and the round itself."""

    def __init__(self, node_id: str, pace: Pace, clock: Clock | None = None, troubles: Troubles | None = None) -> None:
        """`clock`: this machine's; only its monotonic time is used. `troubles`: of the node; by default those of this
        ledger alone."""
        self._troubles = troubles or Troubles(clock or SystemClock(), pace)
        self._suspects = Suspects(self._troubles)
        self._node_id = node_id
        self._pace = pace
        self._promotion = Pieces(_PROMOTED)  # of what is due at present
        self._queues: Sequence[Queue] = ()
        self._turns: dict[QueueId, int] = {}  # the number of the last turn of each queue that shares places with others
        self._numbers = itertools.count(1)  # of turns
        self._limited = LimitedQueues(clock or SystemClock(), pace)
        self._held: dict[QueueId, int] = {}  # of queues with `maxtotal`: the most that this node may have in hand
        self._unanswered: dict[str, int] = {}  # tokens of claims without an answer: looks for their tasks so far

    @property
    def has_unanswered_claims(self) -> bool:
        """Whether there may be a claim that was carried out without the node knowing."""
        return bool(self._unanswered)

    @property
    def holds_nothing(self) -> bool:
        """Whether no claim is unanswered, and no place of a queue with `maxtotal` is held."""
        return not self._unanswered and not self._held

    def has_room(self, classes: frozenset[str], load: Load) -> bool:
        """Whether a round could claim anything, by the queues as last read."""
        return placement.has_room(placement.served(self._queues, node_id=self._node_id, classes=classes), load)

    def confirm(self, result: ClaimResult) -> None:
        """The node received this answer."""
        for token in result.tokens:
            self._unanswered.pop(token, None)

    def round(self, request: ClaimRequest, store: Store, freed: Sequence[Place] = ()) -> ClaimResult:
        """Claim as much as there is room for. `freed`: places whose runs have ended since the request was made. Raises
        StoreError, and ClaimFailedError."""
        load = request.load.without(freed)
        refresh_again = request.refresh and self._refresh(store, load)
        served = placement.served(self._queues, node_id=self._node_id, classes=request.classes)
        if self._unanswered:
            # It is uncertain how many tasks this node has in hand, so nothing is claimed where that must be exact.
            served = [queue for queue in served if queue.maxtotal is None]
        served = self._suspects.awake(served)
        resting = self._limited.resting(served, load)
        candidates = [queue for queue in served if queue.id not in resting] if resting else served
        looks = [self._limited.seconds_left(queue) for queue in served if queue.id in resting]
        if _needs_look_at_waiting(candidates, load):
            if not placement.has_room(candidates, load):
                return ClaimResult(
                    queues=self._queues,
                    may_have_more=True,
                    look_again_seconds=min(looks, default=None),
                    refresh_again=refresh_again,
                )
            waiting = store.waiting_queues()
            candidates = [queue for queue in candidates if queue.id in waiting]
        claim = _Claim(self._node_id, store, request.new_starts)
        seconds = self._claim_from(candidates, load, claim)
        looks += [] if seconds is None else [seconds]
        return ClaimResult(
            queues=self._queues,
            tasks=claim.tasks,
            started=claim.started,
            may_have_more=bool(resting) or any(queue.id not in claim.dry for queue in candidates),
            look_again_seconds=min(looks, default=None),
            tokens=claim.tokens,
            refresh_again=refresh_again,
        )

    def _claim_from(self, candidates: Sequence[Queue], load: Load, claim: _Claim) -> float | None:
        """Claim from queues with waiting tasks until the places are used or no queue is left that can use them (rule
        2). Returns when to look again, in seconds, if a limit or the number of passes is what ends it."""
        by_id = {queue.id: queue for queue in candidates}
        is_contended = placement.is_contended(candidates, load)
        looks: list[float] = []
        in_vain: list[Want] = []
        for _ in range(_PASSES):
            allotted = placement.allot(candidates, load, self._turns)
            wants = self._suspects.allowed([_want(by_id[queue_id], count, load) for queue_id, count in allotted])
            if not wants:
                return min(looks, default=None)
            if is_contended:
                self._turns |= {want.queue: next(self._numbers) for want in wants}  # rule 3
            self._held |= {want.queue: want.in_hand + want.count for want in wants if want.maxtotal is not None}
            token = uuid.uuid4().hex
            self._unanswered[token] = 0
            got = self._carry_out(claim, wants, token, by_id)
            if self._suspects.are_left:
                return 0.0
            seconds = [self._limited.note(want, got[want.queue]) for want in wants]
            looks += [one for one in seconds if one is not None]
            short = [want for want in wants if got[want.queue] < want.count]
            in_vain += [want for want in short if not got[want.queue]]
            if not short or not is_contended:
                return min(looks, default=None)
            load = load.with_claimed([Place(queue, by_id[queue].class_name) for queue in got.elements()])
            came_short = {want.queue for want in short}
            candidates = [queue for queue in candidates if queue.id not in came_short]
        for want in in_vain:
            self._limited.let_rest(want)  # the next round asks further ones
        return 0.0

    def _carry_out(
        self, claim: _Claim, wants: Sequence[Want], token: str, by_id: Mapping[QueueId, Queue]
    ) -> Counter[QueueId]:
        try:
            got = claim.carry_out(wants, token, by_id)
        except StoreUnreachableError:
            raise
        except Exception as error:
            self._suspects.failed(wants, error)
            raise ClaimFailedError from error
        self._suspects.succeeded(wants)
        return got

    def _refresh(self, store: Store, load: Load) -> bool:
        """Returns whether there was no time to promote everything that is due."""
        is_left = self.promote(store)
        self._queues = store.queues()
        existing = {queue.id for queue in self._queues}
        self._turns = {queue: turn for queue, turn in self._turns.items() if queue in existing}
        self._limited.forget_all_but(existing)
        self.release_places(store, load)
        return is_left

    def promote(self, store: Store) -> bool:
        """Promote what is due. Returns whether some may be left."""
        with self._troubles.contained("promotion", "what is due"):
            sizes = self._promotion.sizes(self._pace.piece_seconds)
            if all(store.promote_due(size) >= size for size in sizes):
                return True
        self._promotion = Pieces(_PROMOTED)
        return False

    def return_orphaned_claims(self, store: Store, *, known: frozenset[TaskId]) -> int:
        """Return the tasks that carry this node's claim but are unknown to it, because the answer to the claim was
        lost. `known`: the ids of its runs' tasks. Returns how many there were.

        Claimed: never started. Running: only if the token is that of an unanswered claim, since then nobody can have
        started it; any other unknown one has run, and its end could not be recorded.
        """
        which = TaskFilter(node=self._node_id, statuses=frozenset({int(Status.CLAIMED), int(Status.RUNNING)}))
        changes = []
        for task in store.find_tasks(which, with_output=False, with_parameters=False):
            if task.id in known or task.token is None:  # without a token it is another program's
                continue
            key = RunKey(task.id, self._node_id, task.token)
            if task.status == Status.CLAIMED:
                changes.append(transitions.unclaim_change(key, now=store.now()))
            elif task.token in self._unanswered:
                changes.append(transitions.lost_claim_change(task, key, now=store.now()))
        refused = write_each(store.commit, changes, self._report_unreturned)
        # A server that was slow may carry out a claim only now, so one look is not enough.
        most = self._pace.lost_claim_looks if store.may_act_late else 0
        self._unanswered = {token: looks + 1 for token, looks in self._unanswered.items() if looks < most}
        return len(changes) - len(refused)

    def _report_unreturned(self, change: RunChange, error: Exception) -> None:
        self._troubles.report("return of a claim", change.key.task_id, error)

    def release_places(self, store: Store, load: Load) -> None:
        """Let other nodes have the places of queues with `maxtotal` that this one holds and does not use; and hold
        those of the tasks that it already had in hand when the queue got that limit."""
        limited = {queue.id for queue in self._queues if queue.maxtotal is not None}
        in_hand = {queue_id: load.running.get(queue_id, 0) for queue_id in limited | self._held.keys()}
        in_hand = {queue_id: count for queue_id, count in in_hand.items() if count}
        if not self._unanswered and in_hand != self._held:
            store.hold(self._node_id, in_hand)
            self._held = in_hand

    def release_all_places(self, store: Store) -> None:
        """The node no longer has anything in hand."""
        if self._held:
            store.hold(self._node_id, {})
            self._held = {}


class _Claim:
    """What the claims of one round have got so far."""

    def __init__(self, node_id: str, store: Store, new_starts: Callable[[], Starts] | None) -> None:
        self._node_id = node_id
        self._store = store
        self._starts = None if new_starts is None else new_starts()
        self.tasks: list[Task] = []
        self.tokens: list[str] = []
        self.dry: set[QueueId] = set()  # queues that have nothing more waiting

    @property
    def started(self) -> Mapping[TaskId, Started]:
        """The tasks that became Running with their claim."""
        return {} if self._starts is None else self._starts.started

    def carry_out(self, wants: Sequence[Want], token: str, queues: Mapping[QueueId, Queue]) -> Counter[QueueId]:
        """One claim; how many tasks it got from each queue."""
        starts = self._starts

        def start_with_claim(task: Task) -> RunChange | None:
            return starts.on_claim(task, queues) if starts is not None else None

        tasks = self._store.claim(self._node_id, wants, token, start_with_claim)
        self.tasks += tasks
        self.tokens.append(token)
        got = Counter([task.queue for task in tasks])
        # A queue whose limit across all nodes is reached may have more waiting all the same.
        self.dry |= {
            want.queue for want in wants if got[want.queue] < want.count and want.maxtotal is None and want.rate is None
        }
        return got


def _needs_look_at_waiting(candidates: Sequence[Queue], load: Load) -> bool:
    """Whether it must be known which queues have waiting tasks before any is claimed. A claim of a few queues finds
    that out by itself; but a limit across all nodes must not be used up by a queue that has nothing to do, and places
    that queues share must not go to one with nothing waiting: the others would starve."""
    return (
        len(candidates) > _CLAIMED_UNSEEN
        or any(queue.maxtotal is not None or queue.rate for queue in candidates)
        or (len(candidates) > 1 and placement.is_contended(candidates, load))
    )


def _want(queue: Queue, count: int, load: Load) -> Want:
    return Want(
        queue=queue.id,
        count=count,
        newest_first=queue.sort is Sort.LIFO,
        maxtotal=queue.maxtotal,
        rate=queue.rate,
        in_hand=load.running.get(queue.id, 0),
    )
