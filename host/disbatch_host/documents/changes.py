"""Requests to a store, as values: which tasks are meant, what a node wants to claim, and guarded changes of tasks.

Responsible for: saying what is to be written and under what condition. Must not know: which store there is, how
anything is written, who calls.

Rules:
1. Every change of a running task is conditional on its `RunKey` (task id, node and the token of this attempt) and on
   the status that it leaves (promise 3: a dead run cannot speak).
2. Constructing a change that sets `status` raises ImpossibleStepError unless each status that it may leave may become
   the new one (`disbatch_protocol.status.TRANSITIONS`). `transitions` makes these changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from typing import Any

from disbatch_host.documents.conditions import Condition
from disbatch_host.documents.records import Document, QueueId, TaskId
from disbatch_protocol.quantities import Rate
from disbatch_protocol.status import Status, check_step


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """A selection of tasks. Every field that is given narrows it."""

    queue: QueueId | None = None
    queues: tuple[QueueId, ...] | None = None  # of one of these
    statuses: frozenset[int] | None = None
    or_failed: bool = False  # besides `statuses`, every status above 2
    node: str | None = None
    ids: Sequence[TaskId] | None = None
    created_since: datetime | None = None  # `ctime` at or after
    created_before: datetime | None = None
    changed_since: datetime | None = None  # `mtime` at or after: of an ended task, the time of its end
    changed_before: datetime | None = None
    unique_key: str | None = None
    error_code: str | None = None  # `error.code`
    failure: str | None = None  # `error.group.key`
    class_name: str | None = None  # of the plugin that ran it, or runs it
    version: str | None = None  # of that plugin
    after: TaskId | None = None  # those that wait for this task
    parent: str | None = None  # those that the run of this task created
    batch: str | None = None  # those of this batch
    where: tuple[Condition, ...] = field(default=(), repr=False)  # all of these hold
    grep: str | None = None  # this text is in `error.code` or `error.message`, in upper or lower case

    def covers(self, status: int) -> bool:
        """Whether the filter accepts this status; its other fields are left aside."""
        if self.statuses is None:
            return True
        return status in self.statuses or (self.or_failed and status > Status.FAILED)


@dataclass(frozen=True, slots=True)
class Want:
    """What a node wants to claim from one queue, with the limits of the queue that hold across all nodes."""

    queue: QueueId
    count: int
    _: KW_ONLY
    newest_first: bool = False  # among those of the same priority
    maxtotal: int | None = None  # most that may be Claimed or Running at once, across all nodes
    rate: Rate | None = None  # most that may be claimed in a period, across all nodes
    in_hand: int = 0  # how many of its tasks this node has Claimed and Running before this claim


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskChange:
    """A change of one task made by a person, by time or by the end of another task, never by a run.
    Applied as a whole if the task still has one of `statuses` and, if `mtime` is given, has not changed since it was
    read; otherwise refused as a whole. `set` and `unset` name top-level fields; each value replaces its whole field."""

    task_id: TaskId
    statuses: frozenset[int]
    or_failed: bool = False  # besides `statuses`, every status above 2
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
    """The condition of every write of a run (promise 3)."""

    task_id: TaskId
    node: str
    token: str | None  # None only for tasks claimed by other programs


@dataclass(frozen=True, slots=True, kw_only=True)
class RunChange:
    """A guarded change of one task: applied as a whole if `key` and `statuses` still hold, otherwise refused as a
    whole.

    `set` and `unset` name top-level fields; each value replaces its whole field. A change that was applied and is sent
    again (because the answer was lost) is not refused as long as the store still shows its effect.
    """

    key: RunKey
    statuses: tuple[Status, ...]  # the task must be in one of these
    set: Mapping[str, Any] = field(repr=False)
    unset: tuple[str, ...] = ()
    creates: tuple[Document, ...] = field(default=(), repr=False)  # tasks, exactly once, together with this change
    keeps: tuple[OutputChunk, ...] = field(default=(), repr=False)  # output of earlier attempts, written with it
    forgets: tuple[str, ...] = ()  # the tokens of earlier attempts whose output pieces go with this change

    def __post_init__(self) -> None:
        if "status" in self.set:
            check_step(self.statuses, self.set["status"])


@dataclass(frozen=True, slots=True)
class Place:
    """The place that a run takes up on its node."""

    queue: QueueId
    class_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputChunk:
    """A piece of a stream that is too large for the document. Pieces of one stream come in order, all of
    `OUTPUT_CHUNK_SIZE` bytes but the last; as a whole valid UTF-8 (a character may cross two pieces), unless the plugin
    says that the stream is binary."""

    key: RunKey
    stream: str  # 'stdout' or 'stderr'
    number: int  # from 0
    data: bytes = field(repr=False)


OUTPUT_CHUNK_SIZE = 255 * 1024  # GridFS's own default, so that any GridFS reader can read what we write
INLINE_OUTPUT_MAX = 2**20  # bytes of UTF-8 in the document: two streams and parameters stay far below 16 MB


@dataclass(frozen=True, slots=True)
class PassedOver:
    """Waiting tasks of one queue that cannot even be claimed, for one reason."""

    queue: QueueId
    count: int
    why: str
