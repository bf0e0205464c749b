"""New tasks of a queue: when they may run, whether their parameters fit, and their creation in batches.

Responsible for: the fields of a new task besides its parameters, the check against the plugin's schema, which
parameters are secret, and unique keys. Must not know: where parameters come from, how results are shown.

Rules:
1. A result is returned only once its task is durable.
2. A new task can wait only for existing tasks, so there can be no cycles.
3. The store's clock decides when a task is due.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

from disbatch_host.client import times
from disbatch_host.client.finding import find_task, ids_of
from disbatch_host.client.masks import MASKED, masks_in
from disbatch_host.client.published import origin_of
from disbatch_host.client.requests import check_text
from disbatch_host.client.times import Duration, Moment
from disbatch_host.clock import SystemClock, to_milliseconds
from disbatch_host.documents import local_time
from disbatch_host.documents.records import Document, Queue, TaskId, new_task
from disbatch_host.errors import FieldError, UsageError
from disbatch_host.store.contract import Store
from disbatch_protocol.masks import masked_at
from disbatch_protocol.status import Status

if TYPE_CHECKING:  # reading manifests takes longer than pushing a task of a queue whose plugin is unknown here
    from datetime import datetime

    from disbatch_host.client.published import AnyPlugin
    from disbatch_host.plugin.catalog import Catalog

PRIORITY_MAX = 2**31 - 1  # the most that every program that reads the database can hold
BATCH = 1000  # tasks created at once


class Timing(TypedDict, total=False):
    """When, in which order and whether new tasks run."""

    delay: Duration | None  # from now, before it may run
    at: Moment | None  # the earliest start
    after: Iterable[TaskId]  # tasks that must conclude first
    after_any: bool  # they may end in any way
    expires: Moment | Duration | None  # if not started by then, it is cancelled
    priority: int | None  # higher first, 0 by default
    unique_key: str | None  # nothing is created while an unfinished task of the queue has it


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The document fields that a `Timing` results in."""

    fields: Mapping[str, Any]  # of each document
    unique_key: str | None = None  # as in `fields`

    @classmethod
    def of(
        cls,
        store: Store,
        *,
        delay: Duration | None = None,
        at: Moment | None = None,
        after: Iterable[TaskId] = (),
        after_any: bool = False,
        expires: Moment | Duration | None = None,
        priority: int | None = None,
        unique_key: str | None = None,
        by: str | None = None,
    ) -> Plan:
        """Takes the fields of `Timing`, and the person who creates the tasks. Raises UsageError, FieldError among them,
        and NotFoundError for a missing predecessor in `after`."""
        after = ids_of(after)
        if delay is not None and at is not None:
            raise UsageError("expected either delay or at, found both")
        if after_any and not after:
            raise UsageError("after_any needs after, the tasks to wait for")
        if unique_key is not None:
            check_key(unique_key)
        fields: dict[str, Any] = {}
        is_timed = delay is not None or at is not None or expires is not None
        now = store.now() if is_timed else SystemClock().now()
        due = None
        if delay is not None:
            due = to_milliseconds(now + times.duration("delay", delay))
        elif at is not None:
            due = times.moment("at", at, now)
        if due is not None and due > now:
            fields |= {"status": int(Status.BLOCKED), "not_before": due}
        if after:
            # Each once, in the given order.
            ids = list(dict.fromkeys(find_task(store, one, by).id for one in after))
            fields |= {"status": int(Status.BLOCKED), "after": ids}
            fields |= {"after_any": True} if after_any else {}
        if expires is not None:
            fields["expires"] = _expiry(expires, now, due)
        if priority is not None:
            fields["priority"] = check_priority(priority)
        if unique_key is not None:
            fields["unique_key"] = unique_key
        if by is not None:
            fields["created_by"] = by
        return cls(fields=fields, unique_key=unique_key)


def _expiry(value: Moment | Duration, now: datetime, due: datetime | None) -> datetime:
    found = times.moment_to_come("expires", value, now)
    shown = local_time.shown(found)
    if found <= now:
        raise FieldError("expires", f"expected a time in the future, found {shown}, which has passed")
    if due is not None and found <= due:
        after = local_time.shown(due)
        raise FieldError("expires", f"expected a time after {after}, when the task is due, found {shown}")
    return found


def check_priority(number: int) -> int:
    """The number, if it is valid as a priority. Raises FieldError."""
    if isinstance(number, bool) or not isinstance(number, int) or abs(number) > PRIORITY_MAX:
        raise FieldError("priority", f"expected a whole number of at most {PRIORITY_MAX}, found {number!r:.40}")
    return number


def check_key(key: str) -> str:
    """The text, if it is valid as a unique key. Raises UsageError."""
    if not isinstance(key, str):
        raise FieldError("unique_key", f"expected a text, found {type(key).__name__}")
    check_text("a unique key", key)
    return key


def is_broken_here(queue: Queue, catalog: Catalog | None) -> bool:
    """Whether the plugin of a queue is here but unusable, so that nothing can be checked against it."""
    return catalog is not None and any(one.known_as == queue.class_name for one in catalog.broken)


class ParametersError(UsageError):
    """Parameters that do not fit the plugin of their queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """The result for one task that was to be created."""

    id: TaskId
    is_new: bool = True  # False: nothing was created; `id` is that of the unfinished task that has the unique key
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)  # as created; empty: not kept

    @property
    def masked(self) -> Document:
        """The document, safe to show: secret parameters are masked."""
        parameters = masked_at(self.document["parameters"], self.document.get("secrets", ()))
        return {"_id": self.id, **self.document, "parameters": parameters}


class Joined(Protocol):
    """The batch that new tasks belong to (`batch_members.Member`)."""

    @property
    def id(self) -> str: ...

    def check(self) -> None:
        """Raises BatchClosedError if it takes no more tasks."""


def check_parameters(plugin: AnyPlugin | None, values: Mapping[str, Any]) -> None:
    """Raises ParametersError if the parameters do not fit the plugin, as far as it is known."""
    if plugin is not None and (faults := plugin.schema.check(values)):
        text = "; ".join(str(fault) for fault in faults)
        origin = origin_of(plugin)
        as_published = f", {origin}" if origin else ""
        raise ParametersError(f"the parameters do not fit plugin {plugin.name}{as_published}: {text}")
    if plugin is not None and (masked := masks_in(plugin.schema, values)):
        raise ParametersError(f"{masked[0]}: {MASKED}")


class Pusher:
    """Creates tasks of one queue. `plugin`, if known, decides which parameters fit and which are secret."""

    def __init__(
        self,
        store: Store,
        queue: Queue,
        plugin: AnyPlugin | None,
        plan: Plan,
        *,
        is_checking: bool = True,
        batch: Joined | None = None,
        secrets: Iterable[str] = (),
    ) -> None:
        """`secrets`: JSON pointers to parameters that are secret, whatever the plugin says."""
        self._store = store
        self._queue = queue
        self._plugin = plugin
        self._plan = plan
        self._is_checking = is_checking
        self._secrets = tuple(secrets)
        self.batch = batch  # may be set before the first task is created

    def check(self, values: Mapping[str, Any]) -> None:
        """Raises ParametersError if the parameters do not fit the plugin."""
        if self._is_checking:
            check_parameters(self._plugin, values)

    def create(
        self,
        batch: Sequence[Mapping[str, Any]],
        keys: Sequence[str] | None = None,
        ids: Sequence[TaskId] | None = None,
    ) -> list[Pushed]:
        """Create a task for each of these parameters, all at once, unchecked. `keys`: the unique key of each,
        instead of the plan's. `ids`: the id of each; one that exists was created by an earlier call."""
        now = SystemClock().now()
        documents = [self._document(values, now) for values in batch]
        if keys is not None:
            documents = [{**one, "unique_key": key} for one, key in zip(documents, keys, strict=True)]
        has_key = keys is not None or self._plan.unique_key is not None
        if has_key or ids is not None:
            # Only with an id of its own does the caller notice that the store returned another one.
            named = ids or self._store.new_ids(len(documents))
            documents = [{"_id": one, **document} for one, document in zip(named, documents, strict=True)]
        if self.batch is None:
            found = self._store.insert_tasks(documents, again=ids is not None)
        else:  # together: somebody may close it just now
            with self._store.together():
                self.batch.check()
                found = self._store.insert_tasks(documents, again=ids is not None)
        return [
            Pushed(id=one, is_new=document.get("_id", one) == one, document=document)
            for one, document in zip(found, documents, strict=True)
        ]

    def create_all(
        self,
        rows: Iterable[Mapping[str, Any]],
        key_of: Callable[[Mapping[str, Any]], str] | None = None,
        ids: Iterable[TaskId] | None = None,
    ) -> Iterator[list[Pushed]]:
        """Check and create a task for each row, in batches. A row that does not fit stops it with ParametersError: the
        rows of earlier batches are created, those of its own batch are not."""
        left, named = iter(rows), None if ids is None else iter(ids)
        while batch := list(islice(left, BATCH)):
            for one in batch:
                self.check(one)
            keys = None if key_of is None else [check_key(key_of(one)) for one in batch]
            yield self.create(batch, keys, None if named is None else list(islice(named, len(batch))))

    def _document(self, values: Mapping[str, Any], now: datetime) -> Document:
        known = () if self._plugin is None else self._plugin.schema.secrets(values)
        places = [*known, *(one for one in self._secrets if one not in known)]
        secrets = {"secrets": places} if places else {}
        batch = {} if self.batch is None else {"batch": self.batch.id}
        return new_task(self._queue.id, values, now=now, **secrets, **batch, **self._plan.fields)
