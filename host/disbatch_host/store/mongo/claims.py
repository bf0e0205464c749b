"""The claims of waiting tasks by nodes.

Responsible for: taking the first waiting tasks, as many as `maxtotal` and `rate` of their queue allow, and making them
the node's. Must not know: the order in which they come (`claim_order`), the purpose of `on_claim`.

Rules:
1. It is the spec's second way, in batches: find free tasks, write the claim, and the change that `on_claim` returns,
   into each that is still free, and if not all were, ask which carry the mark.
2. If another node was faster, the missing ones are picked at random from the next ones, so that two nodes do not keep
   competing for the same tasks: the order is then kept only roughly.
3. Ends are written before claims: a node never appears to have more in hand than it may have.
4. A task that cannot be claimed as it is does not stop the others, and is passed over from then on.
5. After a claim whose answer was lost, the node may have more in hand of a queue with a limit than it knows. For
   `_DOUBT_SECONDS` everything granted is added to the store's count; after that the store's count is enough.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable, Mapping, Sequence, Set
from datetime import datetime
from functools import partial

from pymongo.collection import Collection

from disbatch_host.clock import Clock
from disbatch_host.documents import steps
from disbatch_host.documents.changes import RunChange, Want
from disbatch_host.documents.records import Document, QueueId, Task, TaskId
from disbatch_host.documents.steps import CLAIM
from disbatch_host.store.contract import OnClaim
from disbatch_host.store.mongo import claim_order, forms, reading
from disbatch_host.store.mongo.ahead import Ahead
from disbatch_host.store.mongo.claim_order import ReadAhead
from disbatch_host.store.mongo.limits import Limits
from disbatch_host.store.mongo.output_files import OutputFiles
from disbatch_host.store.mongo.passed_over import PassedOverTasks
from disbatch_host.store.mongo.run_changes import RunChanges

log = logging.getLogger(__name__)

_TRIES = 3  # in one claim, if another node was faster
_SPREAD = 4  # a further try picks from this many times as many tasks as are wanted
# A claim whose answer was lost has been carried out by then, or most likely never will: `store.SOCKET_SECONDS`, and
# more.
_DOUBT_SECONDS = 30.0
_REFUSALS = 20  # times in one claim that others are taken in place of tasks that cannot be claimed


class Claims:
    """The claims that one store makes."""

    def __init__(
        self,
        tasks: Collection[Document],
        limits: Limits,
        run_changes: RunChanges,
        output: OutputFiles,
        passed_over: PassedOverTasks,
        now: Callable[[], datetime],
        clock: Clock,
    ) -> None:
        self._tasks = tasks
        self._limits = limits
        self._run_changes = run_changes
        self._output = output
        self._passed_over = passed_over
        self._now = now
        self._clock = clock
        self._ahead = Ahead(clock)
        self._said_to_wait: Set[QueueId] = frozenset()  # by the last `claimable`
        self._stuck: set[QueueId] = set()  # queues that were said to have waiting tasks, and had none to claim
        self._in_doubt: dict[tuple[str, QueueId], tuple[int, float]] = {}  # how many more, until when (rule 5)

    def carry_out(self, node_id: str, wanted: Sequence[Want], token: str, on_claim: OnClaim | None) -> list[Task]:
        """One claim, as `Store.claim` promises it."""
        got: list[list[Task]] = [[] for _ in wanted]
        most = [want.count for want in wanted]
        granted: dict[int, int] = {}  # for queues that have a limit across all nodes
        dates: dict[QueueId, datetime] = {}  # of the claims of queues with a rate: when the server granted them
        open_places = list(range(len(wanted)))
        if any(want.maxtotal is not None for want in wanted):
            self._run_changes.write_staged()  # a place is released once the run that had it has ended
        try:
            attempt = refusals = 0
            while open_places and attempt < _TRIES:
                found: dict[int, list[Document]] = {}
                for place in open_places:
                    want = wanted[place]
                    left = most[place] - len(got[place])
                    if attempt > 0:
                        found[place] = self._spread_out(want, left)
                        continue
                    found[place] = self._first_of(want, left)
                    if refusals == 0 and (want.maxtotal is not None or want.rate is not None):
                        in_hand = self._in_hand(node_id, want.queue, want.in_hand)
                        granted[place] = left = len(found[place])  # perhaps, should the answer be lost
                        granted[place] = left = self._limits.grant(node_id, want, left, in_hand, dates)
                        most[place], found[place] = left, found[place][:left]
                chosen = list(itertools.chain.from_iterable(found.values()))
                won, refused = self._take(chosen, node_id, token, on_claim, dates)
                for place, documents in found.items():
                    got[place] += [won[one["_id"]] for one in documents if one["_id"] in won]
                # Everything that was found was won: either that is enough, or nothing more waits.
                open_places = [place for place in found if any(one["_id"] not in won for one in found[place])]
                for place in open_places:
                    self._ahead.throw_away(wanted[place].queue)
                if refused and refusals < _REFUSALS:
                    refusals += 1
                else:
                    attempt += 1
            for place, count in granted.items():
                if len(got[place]) < count:  # others were faster: the places are theirs
                    self._return_places(node_id, wanted[place], len(got[place]))
        except BaseException:
            until = self._clock.monotonic() + _DOUBT_SECONDS
            self._in_doubt |= {(node_id, wanted[place].queue): (count, until) for place, count in granted.items()}
            raise
        return list(itertools.chain.from_iterable(got))

    def hold(self, node_id: str, in_hand: Mapping[QueueId, int]) -> None:
        """See `Store.hold`."""
        self._run_changes.write_staged()
        self._limits.hold(node_id, {queue: self._in_hand(node_id, queue, count) for queue, count in in_hand.items()})

    def forget_ahead(self) -> None:
        """This store has written something that may change which tasks are the next."""
        self._ahead.throw_all_away()

    def claimable(self, waiting: Set[QueueId]) -> set[QueueId]:
        """Those of the queues with waiting tasks that have one which can be claimed, as far as that is known."""
        self._said_to_wait = waiting
        self._stuck = {
            queue
            for queue in self._stuck & waiting
            if self._passed_over.must_rest(queue) or not self._next_of(Want(queue, 1), 1, {"priority": 1})
        }
        return set(waiting - self._stuck)

    def _first_of(self, want: Want, count: int) -> list[Document]:
        """The next ones of a queue."""
        if self._passed_over.must_rest(want.queue):
            self._stuck.add(want.queue)
            return []
        if want.newest_first or want.maxtotal is not None or want.rate is not None:  # fewer may be granted
            found = self._next_of(want, count)
        else:
            found = self._ahead.take(
                want.queue, count, lambda most, is_enough: self._next_of(want, count, ahead=ReadAhead(most, is_enough))
            )
        if not found and count > 0 and want.queue in self._said_to_wait:
            self._stuck.add(want.queue)
        return found

    def _next_of(
        self, want: Want, count: int, projection: Document | None = None, *, ahead: ReadAhead | None = None
    ) -> list[Document]:
        passed_over = self._passed_over.ids_of(want.queue)
        while True:
            unreadable: list[TaskId] = []
            found = claim_order.first_of(
                self._tasks, want, count, projection, passed_over=passed_over, unreadable=unreadable, ahead=ahead
            )
            damaged = [one for one in unreadable if forms.is_damaged(one)]
            self._passed_over.see_damaged(want.queue, len(damaged))
            unreadable = [one for one in unreadable if not forms.is_damaged(one)]
            if unreadable:
                self._passed_over.add(dict.fromkeys(unreadable, reading.FAULT))
            if len(found) >= count or not unreadable:
                return found
            passed_over = [*passed_over, *unreadable]

    def _spread_out(self, want: Want, count: int) -> list[Document]:
        """Some of the next ones (rule 2)."""
        ids = [one["_id"] for one in self._next_of(want, count * _SPREAD, {"priority": 1})]
        picked = sorted(random.sample(range(len(ids)), min(count, len(ids))))
        return self._documents([ids[number] for number in picked])

    def _documents(self, ids: Sequence[TaskId]) -> list[Document]:
        """These tasks, in this order, as far as they still exist and can be read."""
        documents, _ = reading.all_of(partial(self._tasks.find, {"_id": {"$in": list(ids)}}), self._tasks, None)
        found = {document["_id"]: document for document in documents}
        return [found[task_id] for task_id in ids if task_id in found]

    def _take(
        self,
        documents: Sequence[Document],
        node_id: str,
        token: str,
        on_claim: OnClaim | None,
        dates: Mapping[QueueId, datetime],
    ) -> tuple[dict[TaskId, Task], bool]:
        """Claim those of these tasks that are still free and as they were read. Returns them, and whether any of the
        others cannot be claimed; those are passed over from now on."""
        if not documents:
            return {}, False
        now = self._now()
        tasks: dict[TaskId, Task] = {}
        changes: dict[TaskId, RunChange] = {}
        updates: list[forms.Update] = []
        for document in documents:
            mark = steps.claimed_fields(node_id, token, at=dates.get(document["queue"], now), now=now)
            tasks[document["_id"]] = task = Task.from_document({**document, **mark})
            change = _change_with(task, on_claim) if on_claim is not None else None
            free = {
                "_id": document["_id"],
                "status": int(CLAIM.left),
                "node": forms.UNCLAIMED,
                **forms.unchanged_mtime(document),  # every change of state sets it
            }
            if change is None:
                updates.append((free, {"$set": mark}))
            else:
                changes[task.id] = change
                updates.append((free, forms.update({**mark, **change.set}, change.unset)))
        self._output.keep(changes.values())
        sent = self._run_changes.write_with(updates)
        refused = {documents[place]["_id"]: str(why) for place, why in sent.refused.items()}
        if refused:
            self._passed_over.add(refused)
            tasks = {task_id: task for task_id, task in tasks.items() if task_id not in refused}
        if not sent.all_found:
            marked = {"_id": {"$in": list(tasks)}, "claim.token": token}
            won = {document["_id"] for document in self._tasks.find(marked, {"_id": 1})}
            tasks = {task_id: task for task_id, task in tasks.items() if task_id in won}
            self._run_changes.drop_output_of_gone([one for task_id, one in changes.items() if task_id not in won])
        self._output.forget(change for task_id, change in changes.items() if task_id in tasks)
        return tasks, bool(refused)

    def _return_places(self, node_id: str, want: Want, got: int) -> None:
        """Return the places of a queue that were granted and not needed."""
        if want.maxtotal is not None:
            self._limits.tell(node_id, want.queue, self._in_hand(node_id, want.queue, want.in_hand) + got)

    def _in_hand(self, node_id: str, queue: QueueId, known: int) -> int:
        """How many tasks of a queue a node has in hand at most. It only knows of claims whose answer it received: after
        an answer was lost, the store says how many there are, and for a while there may be more to come."""
        if (node_id, queue) not in self._in_doubt:
            return known
        more, until = self._in_doubt[node_id, queue]
        found = self._tasks.count_documents({"node": node_id, "status": {"$in": forms.IN_HAND}, "queue": queue})
        if self._clock.monotonic() < until:
            return max(known, found) + more
        if found <= known:  # those that it did not know of were returned
            del self._in_doubt[node_id, queue]
        return max(known, found)


def _change_with(task: Task, on_claim: OnClaim) -> RunChange | None:
    """The change to be written with a claim. If that cannot be said, the task is only claimed: its run finds out what
    is wrong with it."""
    try:
        return on_claim(task)
    except Exception as error:
        log.error("task %s is only claimed: %s: %s", task.id, type(error).__name__, error)
        return None
