"""What is asked of a store, as values: which tasks are meant, what a node wants to claim, and guarded changes of tasks.

Responsible for: saying what is to be written and under which condition. Must not know: which store there is, how
anything is written, who calls.

Rules:
1. Every change of a running task is conditional on its `RunKey` (task id, node and the token of this attempt) and on
   the status that it leaves (promise 3: a dead run cannot speak).
2. A change that sets `status` can only be constructed where each status that it may leave may become that one
   (`disbatch_protocol.status.TRANSITIONS`); any other raises ImpossibleStepError. `transitions` makes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from typing import Any

from disbatch_host.documents.records import Document, QueueId, TaskId
from disbatch_protocol.quantities import Rate
from disbatch_protocol.status import Status, check_step


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """Which tasks are meant. Every field that is given narrows."""

    queue: QueueId | None = None
    statuses: frozenset[int] | None = None
    or_failed: bool = False  # with `statuses`: every status above 2 as well
    node: str | None = None
    ids: Sequence[TaskId] | None = None
    created_since: datetime | None = None  # `ctime` at or after
    created_before: datetime | None = None
    changed_since: datetime | None = None  # `mtime` at or after: of an ended task, when it has ended
    changed_before: datetime | None = None
    unique_key: str | None = None
    error_code: str | None = None  # `error.code`
    after: TaskId | None = None  # those that wait for this task
    parent: str | None = None  # those that the run of this task has created


@dataclass(frozen=True, slots=True)
class Want:
    """What a node wants to claim of one queue, with the queue's limits that hold over all nodes."""

    queue: QueueId
    count: int
    _: KW_ONLY
    newest_first: bool = False  # among those of the same priority
    maxtotal: int | None = None  # most that may be Claimed or Running at once, over all nodes
    rate: Rate | None = None  # most that may be claimed in a period, over all nodes
    in_hand: int = 0  # how many of its tasks this node has Claimed and Running before this claim


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskChange:
    """A change of one task that no run makes, but a person, time, or the end of another task.
    Done whole where the task still has one of `statuses` and, where `mtime` is given, has not changed since it was
    read; else refused whole. `set` and `unset` name top-level fields; each value replaces the field as a whole."""

    task_id: TaskId
    statuses: frozenset[int]
    or_failed: bool = False  # with `statuses`: every status above 2 as well
    mtime: datetime | None = None  # as it was read
    set: Mapping[str, Any] = field(repr=False)
    unset: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if "status" in self.set:
            check_step(self.statuses, self.set["status"])
            if self.or_failed:
                check_step((Status.FAILED,), self.set["status"])


@dataclass(frozen=True, slots=True)
class RunKey:
    """What every write of a run is conditional on (promise 3)."""

    task_id: TaskId
    node: str
    token: str | None  # None only for tasks that other programs have claimed


@dataclass(frozen=True, slots=True, kw_only=True)
class RunChange:
    """A guarded change of one task: done whole where `key` and `statuses` still hold, else refused whole.

    `set` and `unset` name top-level fields; each value replaces the field as a whole. A change that was carried out
    and is sent again (its answer was lost) is not refused as long as its effect is still what the store shows.
    """

    key: RunKey
    statuses: tuple[Status, ...]  # the task must be in one of these
    set: Mapping[str, Any] = field(repr=False)
    unset: tuple[str, ...] = ()
    creates: tuple[Document, ...] = field(default=(), repr=False)  # tasks, exactly once, together with this change
    forget_output_of: str | None = None  # the token of an earlier attempt whose output pieces go with this change

    def __post_init__(self) -> None:
        if "status" in self.set:
            check_step(self.statuses, self.set["status"])


@dataclass(frozen=True, slots=True)
class Place:
    """What a run takes up on its node."""

    queue: QueueId
    class_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputChunk:
    """A piece of a stream that is too large for the document. Pieces of one stream come in order, all of
    `OUTPUT_CHUNK_SIZE` bytes but the last, valid UTF-8 as a whole (a character may cross two pieces)."""

    key: RunKey
    stream: str  # 'stdout' or 'stderr'
    number: int  # from 0
    data: bytes = field(repr=False)


OUTPUT_CHUNK_SIZE = 255 * 1024  # GridFS's own default, so that any GridFS reader can read what we write
INLINE_OUTPUT_MAX = 2**20  # bytes of UTF-8 in the document: two streams and parameters stay far below 16 MB
