"""The queues of the cluster, and what people do with them.

Responsible for: the fields of a queue that people may set and their values, pausing, and the task counts. Must not
know: how queues are shown.

Rules:
1. Anything that a node could not use is refused before anything is written.
2. Deleting a queue leaves its tasks; they wait until a queue with that id exists again.
3. Where a change lets fewer tasks start (a pause, a lower limit, another pin), nothing is claimed against it once the
   call has returned: it waits until all living nodes follow it, a few seconds at most (`handshake`).
4. A field is set only where it still says what it said when it was read. A pause, which has to work whatever else
   happens, overwrites another one.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypedDict, Unpack

from disbatch_host import suggested
from disbatch_host.client import handshake, times
from disbatch_host.client.finding import find_queue
from disbatch_host.client.obstacles import why_waiting
from disbatch_host.client.requests import check_text, request
from disbatch_host.clock import SystemClock
from disbatch_host.decide import counts
from disbatch_host.decide.why import Why
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import KEEP_ATTEMPTS_MAX, Document, NodeRecord, Queue
from disbatch_host.errors import (
    ChangedMeanwhileError,
    DuplicateIdError,
    FieldError,
    NotFoundError,
    StoreRefusedError,
    UsageError,
)
from disbatch_host.settings.forms import NODE_ID_PATTERN
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.faults import near_name
from disbatch_protocol.quantities import parse_failure_limit

log = logging.getLogger(__name__)

LIMIT_MAX = 2**31 - 1  # the most that every program that reads the database can hold
LISTS = ("nodes_pin", "nodes_ignore")
LIMITS: Mapping[str, range] = {
    "maxthreads": range(LIMIT_MAX + 1),
    "maxtotal": range(LIMIT_MAX + 1),
    "keep_attempts": range(1, KEEP_ATTEMPTS_MAX + 1),
}
# Fields that decide which tasks may be claimed, and where.
_OF_CLAIMS = frozenset({"class", "maxthreads", "maxtotal", "rate", "nodes_pin", "nodes_ignore"})
_SEEN_BY_CLAIMS = frozenset({"maxthreads", "nodes_pin", "nodes_ignore"})  # `Connection.claims_read_queues`
SETTABLE = (
    "class", "maxthreads", "maxtotal", "rate", "sort", "keep", "keep_attempts", "pause_on_failures", "description",
    "nodes_pin", "nodes_ignore",
)  # fmt: skip
_UNFINISHED = frozenset(map(int, statuses.UNFINISHED))


class QueueFields(TypedDict, total=False):
    """The fields of a queue besides its id and its class."""

    description: str | None
    maxthreads: int | None  # at most this many of its tasks at once on each node
    maxtotal: int | None  # at most this many of its tasks at once across all nodes
    rate: str | None  # at most this many starts across all nodes: "100/m", "10/30s"
    sort: str | None  # "fifo", "lifo"
    keep: str | float | None  # how long its ended tasks are kept: "30d"; a number is seconds
    keep_attempts: int | None  # of how many attempts of a task the output is kept, with the current one
    pause_on_failures: str | None  # so many failures pause it: "50/10m", or "20%/100" of the last tasks that ended
    nodes_pin: Sequence[str]  # the nodes that run its tasks
    nodes_ignore: Sequence[str]  # the nodes that do not


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueState:
    """A queue and how many tasks it has."""

    queue: Queue
    by_status: Mapping[int, int] = field(default_factory=dict)  # tasks, by their exact status
    causes: tuple[Why, ...] = ()  # why no node runs its tasks; empty if one does

    @property
    def waiting(self) -> int:
        return counts.totals(self.by_status)["waiting"]

    @property
    def running(self) -> int:
        return counts.totals(self.by_status)["running"]


OnUnread = Callable[[Sequence[str]], object]  # is told the nodes of which it is not known whether they follow a change


class Queues:
    """The queues of one store. `by` names the person who asks: `user@machine`."""

    def __init__(
        self,
        store: Store,
        by: str,
        *,
        on_unread: OnUnread | None = None,
        within_seconds: float = handshake.WITHIN_SECONDS,
    ) -> None:
        """`on_unread` is told the nodes that do not follow a change `within_seconds` (rule 3); without it, they are
        logged."""
        self._store = store
        self._within_seconds = within_seconds
        self._by = by
        self._on_unread = on_unread or _log_unread

    def list(
        self, *, class_name: str | None = None, node: str | None = None, is_paused: bool | None = None
    ) -> tuple[QueueState, ...]:
        """The queues, ordered by id. Filters: those of this plugin, those that this node may run by pin and ignore,
        those paused or not."""
        by_status, nodes = self._store.count_by_status(), self._store.nodes()
        return tuple(
            self._state(one, by_status.get(one.id, {}), nodes)
            for one in self._store.queues()
            if class_name in (None, one.class_name)
            and (node is None or one.is_for(node))
            and is_paused in (None, one.paused is not None)
        )

    def get(self, queue_id: str) -> Queue:
        """One queue. Raises NotFoundError, which names a similar id if there is one."""
        return find_queue(self._store, queue_id)

    def state(self, queue_id: str) -> QueueState:
        """One queue with its tasks counted. Raises NotFoundError."""
        found = self.get(queue_id)
        return self._state(found, self._store.count_by_status().get(found.id, {}), self._store.nodes())

    def unfinished(self, queue_id: str) -> int:
        """The number of its unfinished tasks. Raises NotFoundError."""
        return self._store.count_tasks(TaskFilter(queue=self.get(queue_id).id, statuses=_UNFINISHED))

    def create(self, queue_id: str, class_name: str, **fields: Unpack[QueueFields]) -> Queue:
        """Create a queue whose tasks the plugin `class_name` runs.

        Raises UsageError, FieldError among them, and DuplicateIdError."""
        document = new_queue(queue_id, class_name, now=SystemClock().now(), **fields)
        try:
            self._store.insert_queue(document)
        except DuplicateIdError as error:
            raise DuplicateIdError(self._why_not_created(queue_id, class_name) or str(error)) from error
        created = self._as_stored(Queue.from_document(document))
        self._prepare_for_limit(created)
        return created

    def set(self, queue_id: str, *, only_if: Mapping[str, Any] | None = None, **values: Any) -> Queue:
        """Change fields of a queue, those of `QueueFields` and `class` (a Python keyword: `**{"class": "Mail"}`);
        None removes one. Nodes follow before this returns (rule 3).

        Nothing is overwritten that somebody else has written meanwhile (rule 4): `only_if` has fields as the caller has
        read them, None for one that was not there; by default those that are changed, as they are now.

        Raises ChangedMeanwhileError; UsageError, FieldError among them; and NotFoundError."""
        fields, removed = changes_of(values)
        found = self.get(queue_id)
        guard = {name: found.document.get(name) for name in values} if only_if is None else only_if
        changed = self._update(found, fields, removed, guard)
        if "pause_on_failures" in values:
            self._prepare_for_limit(changed)
        if not _OF_CLAIMS.isdisjoint(values):
            self._wait_until_read(is_seen_by_claims=_SEEN_BY_CLAIMS.issuperset(_OF_CLAIMS.intersection(values)))
        return changed

    def pause(self, queue_id: str, *, why: str | None = None) -> Queue:
        """Start no more of its tasks, on any node, once this has returned (rule 3); running ones finish. Raises
        NotFoundError, and UsageError for a reason that tables cannot show."""
        paused = request(self._by, why, now=self._store.now())
        changed = self._update(self.get(queue_id), {"paused": paused}, ())
        self._wait_until_read(is_seen_by_claims=True)
        return changed

    def resume(self, queue_id: str) -> Queue:
        """Start its tasks again, and count its failures (`pause_on_failures`) from now. Raises NotFoundError."""
        return self._update(self.get(queue_id), {"resumed_at": self._store.now()}, ("paused",))

    def delete(self, queue_id: str, *, leaves_unfinished: bool = False) -> Queue:
        """Delete a queue but not its tasks; it is returned as it was. Raises NotFoundError, and UsageError if it has
        unfinished tasks, which nothing would run then, unless `leaves_unfinished` is set."""
        found = self.get(queue_id)
        left = 0 if leaves_unfinished else self.unfinished(queue_id)
        if left:
            tasks = f"{left} of its tasks {'has' if left == 1 else 'have'}"
            raise UsageError(f"queue {queue_id} is not deleted: {tasks} not ended and would never run")
        self._store.delete_queue(found.id)
        if left or leaves_unfinished:
            self._wait_until_read()
        return found

    def _prepare_for_limit(self, queue: Queue) -> None:
        """Nodes find what they need to watch the failures of a queue: in a store with millions of tasks, an index takes
        seconds, and they have others to serve."""
        limit = queue.pause_on_failures
        if limit is None:
            return
        with contextlib.suppress(StoreRefusedError):  # who may change queues need not be allowed to create an index
            for failed in (True, False) if limit.of_last is not None else (True,):
                self._store.last_ends(queue.id, failed=failed, since=None, limit=1)

    def _why_not_created(self, queue_id: str, class_name: str) -> str | None:
        """None if the queue that had the id has just been deleted."""
        other = self._store.find_queue(queue_id)
        if other is None:
            return None
        if other.class_name == class_name:
            change = suggested.hint("queue set", queue_id, "KEY=VALUE")
            hint = f"for class {class_name} as well; {change} changes its settings"
        else:
            change = suggested.hint("queue set", queue_id, f"class={class_name}")
            its = other.class_name or "?"
            hint = f"for class {its}, not {class_name}; choose another id, or change that one: {change}"
        return f"queue {queue_id!r} exists already, {hint}"

    def _state(self, queue: Queue, by_status: Mapping[int, int], nodes: Sequence[NodeRecord]) -> QueueState:
        causes = why_waiting(queue, counts.totals(by_status), nodes, self._store.now())
        return QueueState(queue=queue, by_status=by_status, causes=causes)

    def _wait_until_read(self, *, is_seen_by_claims: bool = False) -> None:
        unread = handshake.nodes_without_news(
            self._store, self._by, self._within_seconds, is_seen_by_claims=is_seen_by_claims
        )
        if unread:
            self._on_unread(unread)

    def _update(
        self,
        queue: Queue,
        fields: Mapping[str, Any],
        removed: Sequence[str],
        only_if: Mapping[str, Any] | None = None,
    ) -> Queue:
        if not self._store.update_queue(queue.id, fields, removed, only_if=only_if):
            now = self._store.find_queue(str(queue.id))
            if now is None:
                raise NotFoundError(f"no queue {str(queue.id)!r} any more; somebody has just deleted it")
            if not _is_as_wanted(now, fields, removed):
                raise ChangedMeanwhileError(_changed_meanwhile(now, only_if or {}))
            return now
        left = {name: value for name, value in queue.document.items() if name not in removed}
        return self._as_stored(Queue.from_document({**left, **fields}))

    def _as_stored(self, queue: Queue) -> Queue:
        """With the fields that the store adds, which are for other programs; as it is if it was deleted meanwhile."""
        return self._store.find_queue(str(queue.id)) or queue


def _is_as_wanted(queue: Queue, fields: Mapping[str, Any], removed: Sequence[str]) -> bool:
    """Whether it says already what was to be written: by somebody else, or by a write whose answer was lost."""
    document = queue.document
    return all(document.get(name) == value for name, value in fields.items()) and document.keys().isdisjoint(removed)


def _changed_meanwhile(now: Queue, only_if: Mapping[str, Any]) -> str:
    others = [f"{name} is {_shown(now.document.get(name))}, was {_shown(was)}" for name, was in only_if.items()
              if now.document.get(name) != was]  # fmt: skip
    what = "; ".join(others) or "it was changed, and changed back"
    return (
        f"queue {now.id} was changed by somebody else meanwhile, so nothing was written: {what}; "
        f"look at it with {suggested.hint('queue show', now.id)}, then set it again"
    )


def _shown(value: Any) -> str:
    return "not set" if value is None else f"{value!r:.80}"


def _log_unread(nodes: Sequence[str]) -> None:
    log.warning("nodes that have not confirmed the change of a queue: %s", ", ".join(nodes))


def new_queue(queue_id: str, class_name: str, *, now: datetime, **fields: Unpack[QueueFields]) -> Document:
    """The document of a new queue. Raises UsageError, FieldError among them."""
    check_text("an id for the queue", queue_id)
    _check_class(class_name)
    given, _ = changes_of({name: value for name, value in fields.items() if value not in (None, (), [])})
    return {"_id": queue_id, "class": class_name, "ctime": now, **given}


def changes_of(values: Mapping[str, Any]) -> tuple[Document, tuple[str, ...]]:
    """The fields to set and those to remove. Raises UsageError, FieldError among them, if a field cannot be
    set, or a node could not use its value."""
    for name in values:
        check_settable(name)
    if "class" in values and values["class"] is None:
        raise UsageError("expected a class, found nothing; a queue without a class cannot run")
    given = {name: _checked(name, value) for name, value in values.items() if value is not None}
    if fault := Queue.from_document({"_id": "", "class": "any", **given}).fault:
        raise UsageError(fault)
    return given, tuple(name for name, value in values.items() if value is None)


def check_settable(name: str) -> None:
    """Raises UsageError for a queue field that cannot be set."""
    if name not in SETTABLE:
        near = near_name(name, SETTABLE)
        hint = f"did you mean {near!r}?" if near else f"the fields are {', '.join(SETTABLE)}"
        raise UsageError(f"a queue has no field {name!r} that can be set; {hint}")


def _checked(name: str, value: Any) -> Any:
    if name in LISTS:
        return _nodes(name, value)
    if name in LIMITS and (not _is_whole(value) or value not in LIMITS[name]):
        first, last = LIMITS[name][0], LIMITS[name][-1]
        raise FieldError(name, f"expected a whole number from {first} to {last}, found {value!r:.40}")
    if name == "pause_on_failures":
        _check_failure_limit(value)
    if name == "class":
        _check_class(value)
    if name == "keep":
        times.duration("keep", value)
    if name == "description" and not isinstance(value, str):
        raise FieldError(name, f"expected a text, found {type(value).__name__}")
    return str(value) if name == "sort" else value


def _check_failure_limit(value: Any) -> None:
    try:
        parse_failure_limit(value)
    except ValueError as error:
        raise FieldError("pause_on_failures", str(error)) from error


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_class(name: Any) -> None:
    from disbatch_protocol.manifest import NAME_PATTERN  # noqa: PLC0415  (a list of queues needs no manifests)

    if not isinstance(name, str) or NAME_PATTERN.fullmatch(name) is None:
        raise UsageError(
            "expected a class, the name of a plugin such as Greet or Mail::Move (letters, digits, _ . : -), "
            f"found {name!r:.80}"
        )


def _nodes(field_name: str, nodes: Sequence[str]) -> list[str]:
    for one in nodes:
        if not isinstance(one, str) or NODE_ID_PATTERN.fullmatch(one) is None:
            raise FieldError(
                field_name,
                f"expected node ids of 1 to 8 characters ([a-zA-Z][a-zA-Z_0-9]*), found {one!r:.40}; "
                f"{suggested.hint('node list')} shows the nodes",
            )
    return list(nodes)
