"""The contract of a store: everything that the host asks of it, and may rely on.

Responsible for: naming each promise of a store once; both stores keep it and `tests/contract` holds them to it. Each
protocol is the part that one kind of caller needs; `Store` is all of them. Must not know: any driver.

Rules:
1. Synchronous and in batches: one thread of the node owns a store and hands it everything that has gathered (group
   commit). A store object is used by one thread at a time; `watch()` makes an object for another thread.
2. When a call returns, its writes are durable: MongoDB majority and journaled, SQLite WAL with synchronous FULL.
3. A lost race is a return value. Exceptions are `errors.StoreError` (or `DuplicateIdError`) and nothing of a driver;
   after `StoreUnreachableError` the same call may be made again: no call does harm when it is made twice.
4. Documents keep fields that are unknown here. Dates are aware UTC with milliseconds. Strings may hold U+0000.
5. "Unclaimed" is `node` -1, null or missing, alike (den-1.0, claim rule).
6. No hot call (claim, commit, waiting_queues, promote_due, due, heartbeat) gets slower as tasks wait or finish.
7. Of the tasks of one queue that have the same `unique_key`, at most one is unfinished at any moment, no matter who
   creates tasks or runs them again; tasks of other programs, which do not know the field, are not held to it.
8. A task gets the status that a change names, or the one of a step in `documents.steps`; a store chooses none itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Protocol

from disbatch_host.documents.changes import OutputChunk, PassedOver, RunChange, RunKey, TaskChange, TaskFilter, Want
from disbatch_host.documents.records import Document, NodeRecord, Queue, QueueId, Task, TaskId
from disbatch_host.store.contract.answers import BatchCounts, Look
from disbatch_host.store.contract.failures import Failures
from disbatch_host.store.contract.looking import Examined, Watcher
from disbatch_host.store.contract.lookups import Lookups

SCHEMA_VERSION = 3  # of this program's layout in a database; a higher one found there is refused (StoreTooNewError)
# What a store may spend on finding what is due, in one call: each task may be large, and heartbeats wait until those
# that were found have been changed too.
DUE_SECONDS = 0.03

OnClaim = Callable[[Task], RunChange | None]  # returns the change to write with the claim of a task, if any


class Connection(Protocol):
    """The store as a whole."""

    @property
    def description(self) -> str:
        """The URL for people: without a password."""

    @property
    def is_clock_local(self) -> bool:
        """Whether `now` is this machine's own clock, so that there is no need to ask the store for it."""

    @property
    def may_act_late(self) -> bool:
        """Whether a write that failed as unreachable may still be carried out, for about as long as an answer is waited
        for."""

    @property
    def claims_read_queues(self) -> bool:
        """Whether a claim itself looks whether its queue is paused, or has a limit of 0, when it is carried out; else a
        node claims by the queues as it last read them."""

    @property
    def finds_by_parent(self) -> bool:
        """Whether there is an index for the tasks that a run created (`TaskFilter.parent`); else all are read."""

    def open(self) -> None:
        """Connect, check the layout's version, create what is missing (tables, indexes).

        Raises StoreUnreachableError (within 5 s), StoreRefusedError, StoreTooNewError. Opening twice is fine."""

    def close(self) -> None:
        """Release everything. Closing twice is fine."""

    @property
    def answers_at_once(self) -> bool:
        """Whether a call normally takes no longer than a commit to a local disk."""

    def be_patient(self, is_patient: bool) -> None:
        """Whether calls wait for their turn while others write. If not, a call that would have to wait fails as
        unreachable. Called by the thread that makes the calls, or while none is made."""

    def hurry(self) -> None:
        """For any thread: from now on no call waits long for its turn or an answer; a call that would have to wait
        fails as unreachable. For a node that was told to exit at once."""

    def now(self) -> datetime:
        """The time by the store's clock: one clock for all nodes, whatever their own clocks say."""

    def extended_json(self, value: object) -> object:
        """The relaxed Extended JSON of a value of a type that only this store knows; TypeError for any other."""


class Queues(Protocol):
    """Queue documents."""

    def queues(self) -> list[Queue]:
        """All queues, in the order of their ids as text."""

    def find_queue(self, text: str) -> Queue | None:
        """The queue with this id as a person types it: a string id, else the 24 digits of an ObjectId."""

    def insert_queue(self, document: Document) -> QueueId:
        """Create a queue; without `_id` one is generated. Raises DuplicateIdError."""

    def update_queue(
        self,
        queue: QueueId,
        set: Mapping[str, Any],
        unset: Sequence[str] = (),
        *,
        only_if: Mapping[str, Any] | None = None,
    ) -> bool:
        """Change fields of a queue. `only_if`: only while these top-level fields have these values, as they were read;
        None stands for a field that is missing or null. False, and nothing is changed, if the queue is gone or has
        other values; so a guarded change that was carried out and is made again may be refused: its caller can see in
        the queue whether it was carried out."""

    def delete_queue(self, queue: QueueId) -> bool:
        """Delete the queue document; its tasks stay. False if it was gone."""


class Tasks(Protocol):
    """Task documents, as people and command nodes use them."""

    def parse_id(self, text: str) -> TaskId | None:
        """The task id that a person typed; None if the text cannot be one."""

    def new_ids(self, count: int) -> list[TaskId]:
        """Ids for tasks that are about to be created, each sorting after all made before it (first in, first out):
        exactly within this process; across processes as exactly as they know the store's clock, to some
        milliseconds."""

    def insert_tasks(self, documents: Sequence[Document], *, again: bool = False) -> list[TaskId]:
        """Create tasks: all of them or, after an exception, possibly some. Returns their ids, in the same order. A
        document without `_id` gets one as `new_ids` makes them. The documents themselves are not changed.

        If a document has a `unique_key` that an unfinished task of its queue already has (even one of the same call),
        nothing is created, and the id is that of the other task; callers that need to tell the two apart pass an `_id`.
        The tasks named in `after` are marked `awaited: true`, so that `due` finds them once they have ended. `again`: a
        task whose `_id` exists already is the one that is meant, created by an earlier call.

        Raises DuplicateIdError, StoreRefusedError (e.g. a document above the store's size limit, named),
        ForeignIndexError among them. One that is refused does not keep the others from being created: the exception
        has the ids of those that were."""

    def change_tasks(self, changes: Sequence[TaskChange], *, one_by_one: bool = False) -> set[TaskId]:
        """Carry out each change by itself, in any order, if its guard holds; returns the ids of those that were
        refused, because the task is gone or no longer as the guard requires. A change is also refused if it would make
        a task unfinished whose `unique_key` another unfinished task of its queue has. One that was carried out may be
        called refused if it is made again, or, where another of `changes` is refused, if its task has changed since;
        the latter not with `one_by_one`, which may cost a trip to a server for each.

        A task whose `status` a change sets to Created or Blocked, or an Orphaned one whose status it sets, is marked
        `awaited: true` if it was `awaited` before: its followers wait for its next end. A change that removes that mark
        is refused while a Blocked task waits for this one that has not been told how it ended
        (`transitions.follow_change` would change it).

        Raises ChangesRefusedError, by task id, after all others, for those whose content or document it refuses."""

    def get_task(self, task: TaskId) -> Task | None: ...

    def find_tasks(
        self,
        which: TaskFilter,
        *,
        limit: int | None = None,
        newest_first: bool = False,
        with_output: bool = True,
        with_parameters: bool = True,
        in_any_order: bool = False,
    ) -> Iterator[Task]:
        """Tasks in the order of creation. `with_output=False` leaves `stdout` and `stderr` out of the documents,
        `with_parameters=False` their `parameters`: both may be millions of bytes.
        `in_any_order`: in whatever order is cheapest, for scans of millions; a task that is changed meanwhile may come
        twice or not at all."""

    def count_tasks(self, which: TaskFilter) -> int: ...

    def count_by_status(self) -> dict[QueueId, dict[int, int]]:
        """How many tasks have each status, for each queue id found in tasks."""

    def delete_tasks(
        self, tasks: Sequence[TaskId], *, statuses: frozenset[int] | None = None, or_failed: bool = False
    ) -> int:
        """Delete tasks and their output files; returns how many there were. `statuses` (and `or_failed`, see
        `TaskFilter`): only those that still have one of these. A task that others wait for (`awaited: true`) is not
        deleted, nor one that still owes follow-up tasks, nor one of a batch that is not done."""

    def ended_before(self, queue: QueueId, moment: datetime, limit: int) -> list[TaskId]:
        """Some of the queue's tasks that have ended (Orphaned has not), were last changed before this moment, and that
        no task waits for (`awaited: true`), without those of batches that are not done. Cost: by the number of ended
        tasks that were created before the moment. Tasks whose ids other programs made in their own way may be left
        out."""

    def oldest_waiting(self) -> dict[QueueId, datetime]:
        """The `ctime` of the earliest created task that is Created, for each queue that has any. Cost: by the number of
        queues and of different priorities."""

    def documents_of(self, collection: str, condition: Document, limit: int | None = None) -> Iterator[Document]:
        """The documents of any collection of the database that match a condition in MongoDB's query language, in its
        Extended JSON form. Raises StoreRefusedError if the store has no collections."""


class Outputs(Protocol):
    """Output that is too large for the task document; `HotPath.commit` writes it."""

    def read_output(self, task: TaskId, token: str, stream: str, *, first: int = 0) -> Iterator[bytes]:
        """The pieces of a stream that `commit` was given as OutputChunk for this attempt, in order from number `first`,
        as far as they are there; nothing if there are none. Each begins at its number times OUTPUT_CHUNK_SIZE."""


class Notes(Protocol):
    """Small documents of this program that belong to no task, queue or node."""

    def read_note(self, name: str) -> Document | None: ...

    def note_names(self, prefix: str, limit: int = 1000) -> list[str]:
        """The names of the notes that begin with this text, in order, at most so many. Cost: by their number."""

    def write_note(
        self,
        name: str,
        document: Document | None,
        *,
        is_new: bool = False,
        replacing: Mapping[str, Any] | None = None,
    ) -> bool:
        """Write the whole note; None removes it. `is_new`: only if there is none with this name; of several callers
        that do so at the same moment, one succeeds. `replacing`: only if there is one that has these values at that
        moment. Returns whether it was written, or removed."""


class Batches(Protocol):
    """The documents of batches (`documents.batch`), and counts of their tasks (`batch`)."""

    def insert_batch(self, document: Document) -> bool:
        """Create a batch; False if its `_id`, a text, exists."""

    def get_batch(self, batch_id: str) -> Document | None:
        """A document that cannot be read comes with `fault`, the reason."""

    def find_batches(
        self,
        *,
        states: Collection[str] | None = None,
        prefix: str = "",
        limit: int | None = None,
        newest_first: bool = False,
    ) -> list[Document]:
        """Those with one of these states whose ids begin so, in the order in which they were created."""

    def batch_ids(self, states: Collection[str] | None = None) -> list[tuple[datetime | None, str]]:
        """When each of those with one of these states was created, if that is known, and its id, in that order."""

    def watched_batches(self, limit: int) -> list[Document]:
        """Some of those with `watched: true`. Cost: by their number."""

    def change_batch(
        self,
        batch_id: str,
        set: Mapping[str, Any],
        unset: Sequence[str] = (),
        *,
        only_if: Mapping[str, Any],
    ) -> bool:
        """Change top-level fields if others have these values (None: missing) at that moment; returns whether they
        had."""

    def delete_batch(self, batch_id: str, *, only_if: Mapping[str, Any]) -> bool:
        """Delete the document alone, likewise."""

    def count_batch(self, batch_id: str, *, budget_seconds: float | None = None) -> BatchCounts:
        """How many tasks of a batch have each status. Without a budget, all are counted, as they are at one moment.
        Cost: by the number of its tasks, which the index on batch and status has together."""

    def is_batch_unfinished(self, batch_id: str) -> bool:
        """Whether any of its tasks is Blocked, Created, Claimed or Running, or still owes follow-up tasks. A task that
        changes meanwhile may be missed. Cost: none that grows."""


class Nodes(Protocol):
    """Node documents."""

    def nodes(self) -> list[NodeRecord]: ...

    def get_node(self, node_id: str) -> NodeRecord | None: ...

    def put_node(self, document: Document, *, replacing: NodeRecord | None) -> bool:
        """Write a node's document, whole, with `heartbeat.datetime` set to the store's time. False, and nothing
        written, if the id exists and `replacing` is None, or if the document is no longer `replacing` (it has another
        `session`)."""

    def heartbeat(self, node_id: str, session: str, set: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Replace the given top-level fields of the node's document, and set `heartbeat.datetime` to the store's time.
        `set["heartbeat"]` has no `datetime`. Returns the document's `requests`, made by people to the node; None if the
        document is gone or belongs to another session."""

    def request_of_node(self, node_id: str, name: str, value: Document | None) -> bool:
        """Set `requests.<name>` of a node's document; None removes it. False if there is no such node."""

    def remove_node(self, node_id: str, session: str | None) -> bool:
        """Release the id; False if the document is gone or belongs to another session."""


class HotPath(Protocol):
    """The calls that a running node makes all the time."""

    def together(self) -> AbstractContextManager[object]:
        """Everything written in the block is one commit if the store can do that (SQLite): durable once the block has
        ended, and not written at all if an exception ends it. Elsewhere (MongoDB) `commit` and `claim` share one trip
        to the server, in their order, and if an exception ends the block any part of it may have been written. The set
        that `commit` returns is complete once the block has ended."""

    def waiting_queues(self) -> set[QueueId]:
        """The queues that have at least one Created task (claimed or not), without those of which a claim has found
        that all of them are passed over. Cost: by the number of queues."""

    def claim(self, node_id: str, wanted: Sequence[Want], token: str, on_claim: OnClaim | None = None) -> list[Task]:
        """Claim up to `count` Created, unclaimed tasks of each queue, in their order (the higher priority first, then
        by creation, as `newest_first` says): status CLAIMED, `node`, `mtime`, and `claim` = {token, at}. No other node
        can get the same ones. Returns the claimed tasks as they are after the claim, in that order. `token` is fresh
        for each call.

        `maxtotal` holds exactly, no matter which nodes of this program claim at the same moment and which of them die:
        they never have more tasks of the queue Claimed or Running. So does `rate`: they never claim more in any such
        period; an unused grant is lost. A node that has fewer in hand than before releases its places for others by its
        next claim of the queue, or by `hold`.

        `on_claim` is called for each claimed task; the change that it returns, which leaves CLAIMED, is carried out
        before this returns, with the claim or right after it. A task for which that was refused is not returned. One
        that cannot be claimed as it is, whatever is wrong with its document or refuses its change, is passed over: it
        takes no place, does not stop the others, and is left out until it changes (see `passed_over`).

        Where `claims_read_queues`, queue and node are looked at as they are when the claim is carried out: nothing is
        claimed from a queue that is paused, nor beyond its `maxthreads` as it is then, nor for a node that is to be
        drained."""

    def commit(self, changes: Sequence[RunChange], chunks: Sequence[OutputChunk] = ()) -> set[RunKey]:
        """Carry out the chunks, then the changes in their order, as one batch. Returns the keys whose change was
        refused: the task is gone, or key or status no longer hold. A chunk written twice is the same chunk. Together
        with a change that is carried out, the chunks in its `keeps` are written, the pieces of the attempts named in
        its `forgets` are deleted, and the tasks in its `creates` are created: each exactly once, however often the
        change is sent and whichever node dies in between (they may come a moment later, then by any node's
        `promote_due`; chunks come before, so that nothing is lost). Their `queue` is as a person
        types it. One that the store refuses is noted in the task that creates it (`refused_follow_ups`).

        Raises ChangesRefusedError, by key, after all others were carried out, if the store refuses some because of
        their content or their documents."""

    def hold(self, node_id: str, in_hand: Mapping[QueueId, int]) -> None:
        """Tell how many tasks a node has in hand of queues with `maxtotal`: the places that it claimed beyond that are
        released for others. Of queues that are not named it has none. Called when no claim is on its way, and for a
        dead node after all of its tasks have been settled."""

    def promote_due(self, limit: int = 1000) -> int:
        """Move Blocked tasks whose `not_before` has passed, by the store's clock, and that wait for no other task
        (`after` is missing or empty) back to Created, and remove `not_before`. Create follow-up tasks that a conclusion
        still owes because its node died at that moment. Returns how many tasks there were of both kinds, among them
        those that the store refuses, which are passed over, and those that another node has just promoted."""

    def due(self, node_id: str, limit: int = 500) -> list[Task]:
        """The tasks that this node has to look at now, without their parameters and output, at most about `limit` of
        each kind. A call that has taken DUE_SECONDS may have left out others, which the next call finds:

        - Running with `cancel`, in the hands of this node; waiting (Created, Blocked) or Orphaned with `cancel`;
        - ended, or Orphaned, with `awaited: true`: others wait for their end;
        - waiting with an `expires` that has passed, by the store's clock.

        Cost: by the number of tasks found."""

    def passed_over(self) -> list[PassedOver]:
        """The waiting tasks that claims of this store pass over at present, because they cannot even be claimed; from
        memory. Such a task is not looked at again until it has changed, and does not count for `waiting_queues`."""

    def has_unfinished(
        self, queues: Sequence[QueueId], *, due_before: datetime | None = None, besides: Collection[TaskId] = ()
    ) -> bool:
        """Whether any task of these queues is Created, Claimed, Running, or Blocked with a `not_before` and not waiting
        for another one (`after`); with `due_before`, only with a `not_before` that is no later than this. A Created one
        that cannot be claimed as it is does not count, nor do those in `besides`, which are few."""


class Changes(Protocol):
    """Noticing that others have written, without fast polling."""

    def written_by_others(self) -> Look | None:
        """Whether anybody else has written since the last call: cheap enough for hundreds of calls a second. None if
        the store cannot tell; then `watch` does. Never raises."""

    def watch(self, *, ends: bool = True) -> Watcher:
        """Made here, used by a thread of its own. `ends`: also wakes at the ends of tasks, for callers that wait for
        them; else only at changes that may give a node something to do, and a timeout, or `close`, may be noticed two
        seconds late."""


class Store(
    Connection, Queues, Tasks, Lookups, Failures, Outputs, Notes, Batches, Nodes, HotPath, Changes, Examined, Protocol
):
    """A place for the documents of den-1.0: all of the protocols above, and nothing else."""
