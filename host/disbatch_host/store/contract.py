"""What the host asks of a store, and what it may rely on.

Responsible for: naming each promise of a store once; both stores keep it and `tests/contract` holds them to it.
Must not know: any driver.

Rules:
1. Synchronous and in batches: one thread of the node owns a store and hands it what has gathered (group commit). A
   store object is used by one thread at a time; `watch()` makes what another thread may use beside it.
2. When a call returns, what it wrote is durable: MongoDB majority and journaled, SQLite WAL with synchronous FULL.
3. A lost race is a return value. Exceptions are `errors.StoreError` (or `DuplicateIdError`) and nothing of a driver;
   after `StoreUnreachableError` the same call may be made again: no call does harm when it is made twice.
4. Documents keep fields that nobody here knows. Dates are aware UTC with milliseconds. Strings may hold U+0000.
5. "Unclaimed" is `node` -1, null or missing, alike (den-1.0, claim rule).
6. No hot call (claim, commit, waiting_queues, promote_due, due, heartbeat) gets slower as tasks wait or have finished.
7. Of the tasks of one queue that have the same `unique_key`, at most one is unfinished at any moment, whoever creates
   and runs again; tasks of other programs, which do not know the field, are not held to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from disbatch_host.documents.changes import OutputChunk, RunChange, RunKey, TaskChange, TaskFilter, Want
from disbatch_host.documents.records import Document, NodeRecord, Queue, QueueId, Task, TaskId

SCHEMA_VERSION = 3  # of this program's layout in a database; a higher one found there is refused (StoreTooNewError)


Begin = Callable[[Task], RunChange | None]  # what is to be written of a task as soon as it is claimed, if anything


class Access(StrEnum):
    """What a caller wants of a store that is a file. A server is the same to all of them."""

    CREATE = "create"  # make it where it is not there
    EXISTING = "existing"  # it must be there; one that may only be read can be read
    OR_EMPTY = "or_empty"  # likewise, but one that is not there looks empty, and is not made


class Watcher(Protocol):
    """Wakes somebody when tasks or queues may have changed. Used by a thread of its own."""

    def wait(self, timeout_seconds: float) -> bool:
        """True as soon as something may have changed, False after the timeout. May wake for nothing; never raises:
        a watcher that cannot watch sleeps for the timeout."""

    def close(self) -> None:
        """Ends a `wait` in another thread soon. Closing twice is fine."""


class Store(Protocol):
    """A place for the documents of den-1.0."""

    @property
    def description(self) -> str:
        """The URL for people: no password in it."""

    @property
    def is_clock_local(self) -> bool:
        """Whether `now` is this machine's own clock: then nobody need ask the store for it."""

    @property
    def may_act_late(self) -> bool:
        """Whether a write that has failed as unreachable may still be carried out, for about as long as an answer is
        waited for."""

    def open(self) -> None:
        """Connect, check the layout's version, create what is missing (tables, indexes).

        Raises StoreUnreachableError (within 5 s), StoreRefusedError, StoreTooNewError. Opening twice is fine.
        """

    def close(self) -> None:
        """Let go of everything. Closing twice is fine."""

    def together(self) -> AbstractContextManager[object]:
        """What is written in the block is one commit where the store can do that (SQLite): durable when the block has
        ended, and not written at all where an exception ends it. Elsewhere (MongoDB) `commit` and `claim` share one
        trip to the server, in their order, and where an exception ends the block any part of it may be written. What
        `commit` returns is complete when the block has ended."""

    def hurry(self) -> None:
        """For any thread: from now on nothing waits long for its turn or an answer; what would have to fails as
        unreachable. For a node that was told to leave at once."""

    def now(self) -> datetime:
        """The time by the store's clock: one clock for all nodes, whatever their own say."""

    def parse_id(self, text: str) -> TaskId | None:
        """The task id that a person has typed, None where it can be none."""

    # --- queues

    def queues(self) -> list[Queue]:
        """All queues, in the order of their ids as text."""

    def find_queue(self, text: str) -> Queue | None:
        """The queue of this id as a person types it: a string id, else the 24 digits of an ObjectId."""

    def insert_queue(self, document: Document) -> QueueId:
        """Create a queue; without `_id` one is generated. Raises DuplicateIdError."""

    def update_queue(self, queue: QueueId, set: Mapping[str, Any], unset: Sequence[str] = ()) -> bool:
        """Change fields of a queue; False where it is gone."""

    def delete_queue(self, queue: QueueId) -> bool:
        """Delete the queue document; its tasks stay. False where it was gone."""

    # --- tasks, as people and command nodes use them

    def new_ids(self, count: int) -> list[TaskId]:
        """Ids for tasks that are about to be created, each sorting after all made before it (first in, first out): by
        this process exactly, by others as exactly as processes know the store's clock, some milliseconds."""

    def insert_tasks(self, documents: Sequence[Document], *, again: bool = False) -> list[TaskId]:
        """Create tasks, all or, after an exception, perhaps some; their ids in the same order. A document without
        `_id` gets one as `new_ids` makes them. The documents themselves are not changed.

        Where a document has a `unique_key` that an unfinished task of its queue has already (one of the same call as
        well), nothing is created, and the id is that of the other task: whoever has to know gives the `_id`.
        The tasks that are named in `after` are marked `awaited: true`, so that `due` finds them when they have ended.
        `again`: a task whose `_id` is there already is the one that is meant, created by an earlier call.

        Raises DuplicateIdError, StoreRefusedError (e.g. a document above the store's size limit, named)."""

    def change_tasks(self, changes: Sequence[TaskChange]) -> set[TaskId]:
        """Carry out each change by itself, in any order, where its guard holds; the ids of those that were refused: the
        task is gone, or is not any more as the guard wants it. Refused is as well what would make a task unfinished
        whose `unique_key` another unfinished task of its queue has. A change that was carried out and is made again
        may be refused: whoever made it can see in the task whether it was.

        A task whose `status` a change sets to Created or Blocked, or an Orphaned one whose status it sets, is marked
        `awaited: true` where it was `awaited` before: its followers wait for it anew. A change that takes that mark
        away is refused while a Blocked task waits for this one that has not been told how it has ended
        (`run_document.follow_change` would change it)."""

    def get_task(self, task: TaskId) -> Task | None: ...

    def find_tasks(
        self,
        which: TaskFilter,
        *,
        limit: int | None = None,
        newest_first: bool = False,
        with_output: bool = True,
        in_any_order: bool = False,
    ) -> Iterator[Task]:
        """Tasks in the order of creation. `with_output=False` leaves `stdout` and `stderr` out of the documents.
        `in_any_order`: as it costs least, for who goes through very many; a task that is changed meanwhile may come
        twice or not at all."""

    def count_tasks(self, which: TaskFilter) -> int: ...

    def count_by_status(self) -> dict[QueueId, dict[int, int]]:
        """For each queue id found in tasks, how many tasks have each status."""

    def delete_tasks(
        self, tasks: Sequence[TaskId], *, statuses: frozenset[int] | None = None, failed_too: bool = False
    ) -> int:
        """Delete tasks and their output files; how many there were. `statuses` (and `failed_too`, see `TaskFilter`):
        only those that still have one of these. Nothing is deleted that others wait for (`awaited: true`)."""

    def ended_before(self, queue: QueueId, moment: datetime, limit: int) -> list[TaskId]:
        """Some of the queue's tasks that have ended (Orphaned has not), were last changed before this moment, and that
        nobody waits for (`awaited: true`). Cost: by the number of ended tasks that were created before the moment.
        Tasks whose ids other programs have made in a way of their own may be left out."""

    def oldest_waiting(self) -> dict[QueueId, datetime]:
        """For each queue that has Created tasks, the `ctime` of the one that was created first. Cost: by the number of
        queues and of different priorities."""

    def documents_of(self, collection: str, condition: Document, limit: int | None = None) -> Iterator[Document]:
        """The documents of any collection of the database that fit a condition in MongoDB's query language, in its
        Extended JSON form. Raises StoreRefusedError where the store has no collections."""

    # --- notes: small documents of this program that no task, queue or node holds

    def read_note(self, name: str) -> Document | None: ...

    def write_note(self, name: str, document: Document | None, *, is_new: bool = False) -> bool:
        """Write it, whole; None removes it. `is_new`: only where there is none of this name, and of several that write
        it so at the same moment one does. Whether it was written, or removed."""

    def read_output(self, task: TaskId, token: str, stream: str) -> Iterator[bytes]:
        """The pieces of a stream that `commit` has been given as OutputChunk for this attempt, in order, as far as
        they are there; nothing where there are none."""

    def delete_output(self, task: TaskId, token: str) -> None:
        """Delete both streams' pieces of an attempt."""

    # --- nodes

    def nodes(self) -> list[NodeRecord]: ...

    def get_node(self, node_id: str) -> NodeRecord | None: ...

    def put_node(self, document: Document, *, replacing: NodeRecord | None) -> bool:
        """Write a node's document, whole, with `heartbeat.datetime` set to the store's time. False, and nothing
        written, where the id is there and `replacing` is None, or where the document is not `replacing` any more
        (another `session`)."""

    def heartbeat(self, node_id: str, session: str, set: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Replace the given top-level fields of the node's document, and `heartbeat.datetime` by the store's time.
        `set["heartbeat"]` has no `datetime`. Returns `requests` of the document, what people ask of the node; None
        where the document is gone or belongs to another session."""

    def request_of_node(self, node_id: str, name: str, value: Document | None) -> bool:
        """Set `requests.<name>` of a node's document; None removes it. False where there is no such node."""

    def remove_node(self, node_id: str, session: str | None) -> bool:
        """Release the id; False where the document is gone or belongs to another session."""

    # --- the hot path of a node

    def waiting_queues(self) -> set[QueueId]:
        """The queues that have at least one Created task (claimed or not). Cost: by the number of queues."""

    def claim(self, node_id: str, wanted: Sequence[Want], token: str, begin: Begin | None = None) -> list[Task]:
        """Claim up to `count` Created, unclaimed tasks of each queue, in their order (the higher priority first, then
        by creation, as `newest_first` says): status CLAIMED, `node`, `mtime`, and `claim` = {token, at}. No other node
        can get the same ones. Returns what was got, as it is after the claim, in that order. `token` is fresh for each
        call.

        `maxtotal` holds exactly, whatever nodes of this program claim at the same moment and whichever of them dies:
        never are more tasks of the queue Claimed or Running by them. `rate` likewise: never are more claimed in any
        such period; what was granted and not used is lost. A node that has fewer in hand than before gives its places
        free for others by its next claim of the queue, or by `hold`.

        `begin` is asked for each task that was got; the change that it gives, which leaves CLAIMED, is carried out
        before this returns, with the claim or right after it. A task for which that was refused is not returned."""

    def commit(self, changes: Sequence[RunChange], chunks: Sequence[OutputChunk] = ()) -> set[RunKey]:
        """Carry out the chunks, then the changes in their order, as one batch. Returns the keys whose change was
        refused: the task is gone, or key or status do not hold any more. A chunk written twice is the same chunk.
        With a change that is carried out go the pieces of the attempt that it names in `forget_output_of`, and come
        the tasks of its `creates`: each exactly once, however often the change is sent and whoever dies in between
        (they may come a moment later, then by any node's `promote_due`). Their `queue` is as a person types it."""

    def hold(self, node_id: str, in_hand: Mapping[QueueId, int]) -> None:
        """Tell how many tasks a node has in hand of queues with `maxtotal`: what it has claimed beyond that is free for
        others. Of queues that are not named it has none. Called when nothing is on its way that would claim, and for a
        dead node after all of its tasks are settled."""

    def promote_due(self, limit: int = 1000) -> int:
        """Blocked tasks whose `not_before` has come, by the store's clock, and that wait for no other task (`after` is
        missing or empty): back to Created, `not_before` removed. And follow-up tasks that a conclusion still owes,
        because its node has died just then, are created. How many tasks there were of both."""

    def due(self, node_id: str, limit: int = 500) -> list[Task]:
        """Tasks that this node has to look at now, without their output, at most about `limit` of each kind:

        - Running with `cancel`, in the hands of this node; waiting (Created, Blocked) or Orphaned with `cancel`;
        - ended, or Orphaned, with `awaited: true`: others wait for their end;
        - waiting with an `expires` that has come, by the store's clock.

        Cost: by the number of tasks that it finds."""

    def has_unfinished(self, queues: Sequence[QueueId]) -> bool:
        """Whether any task of these queues is Created, Claimed, Running, or Blocked with a `not_before` and not waiting
        for another one (`after`)."""

    def written_by_others(self) -> bool | None:
        """Whether anybody else has written since the last call: cheap enough to be asked a hundred times a second.
        None where the store cannot tell; then `watch` does. Never raises."""

    def watch(self, *, ends: bool = True) -> Watcher:
        """Made here, used by a thread of its own. `ends`: wakes at the ends of tasks as well, for who waits for them;
        else only for what may give a node something to do."""

    def extended_json(self, value: object) -> object:
        """The relaxed Extended JSON of a value of a type that only this store knows; TypeError for any other."""
