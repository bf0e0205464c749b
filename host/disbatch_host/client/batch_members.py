"""Making a batch, or joining one, and adding tasks to it.

Responsible for: what a command that creates tasks does with their batch. Must not know: how tasks are created.

Rules:
1. A batch that a command makes without a name is closed when the command has created everything; one that is named
   stays open for others, unless it is told to close.
2. Tasks are added only while the batch is open and has not stopped, as it is when they are created.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from disbatch_host import suggested
from disbatch_host.client import parameters
from disbatch_host.client.batch_finding import find_batch
from disbatch_host.client.finding import find_queue
from disbatch_host.client.published import known_plugin
from disbatch_host.client.pushing import ParametersError
from disbatch_host.client.requests import check_text
from disbatch_host.documents import batch as batches
from disbatch_host.documents.batch import Batch, BatchState
from disbatch_host.documents.records import Document
from disbatch_host.errors import BatchClosedError, FieldError, UsageError
from disbatch_host.store.contract import Store

if TYPE_CHECKING:
    from disbatch_host.plugin.catalog import Catalog

NAME_MAX = 200  # characters
_TRIES = 5  # of a change of a batch that others are changing too


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBatch:
    """A batch to make, or to join if one of this name is open."""

    name: str | None = None  # None: one of its own, with an id that is generated
    on_done: str | None = None  # the queue that gets one task once all tasks of the batch have ended
    on_done_parameters: Mapping[str, Any] = field(default_factory=dict)  # of that task, besides what it is told
    stop_after: int | None = None  # after so many final failures, cancel what waits
    closes: bool = False  # once the caller has created everything; a batch without a name is always closed


class Member:
    """A batch that tasks are being added to."""

    def __init__(self, store: Store, batch_id: str, by: str, *, closes: bool, is_own: bool) -> None:
        """`is_own`: nobody else adds tasks."""
        self.id = batch_id
        self.report: str | None = None  # the file with the rows that are skipped
        self.closes = closes
        self._store = store
        self._by = by
        self._is_own = is_own

    def check(self) -> None:
        """Raises BatchClosedError if it takes no more tasks."""
        document = self._store.get_batch(self.id)
        if document is None:
            raise BatchClosedError(f"batch {self.id} was deleted meanwhile")
        _check_open(Batch.from_document(document))

    def close(self, created: int, *, existing: int = 0, skipped: int = 0) -> None:
        """Everything is created: close it if that was wanted. `created`: tasks, by this caller; others may have added
        theirs to a batch with a name. `existing`, `skipped`: rows of its source that became none, since an unfinished
        task has their unique key, or since they do not fit."""
        if existing or skipped:
            self._note_left_out(existing, skipped)
        if self.closes:
            wanted = batches.close_change(self._by, now=self._store.now(), total=created if self._is_own else None)
            self._store.change_batch(self.id, wanted.set, wanted.unset, only_if=wanted.only_if)

    def _note_left_out(self, existing: int, skipped: int) -> None:
        for _ in range(_TRIES):
            document = self._store.get_batch(self.id)
            if document is None:
                return
            batch = Batch.from_document(document)
            of_others = (0, 0) if self._is_own else (batch.skipped or 0, batch.existing or 0)
            wanted = batches.left_out_change(
                batch, skipped=of_others[0] + skipped, existing=of_others[1] + existing, report=self.report
            )
            if self._store.change_batch(self.id, wanted.set, wanted.unset, only_if=wanted.only_if):
                return


def begin(
    store: Store,
    new: NewBatch,
    by: str,
    *,
    source: Mapping[str, Any],
    catalog: Catalog | None = None,
    default_id: str | None = None,
    is_resumed: bool = False,
    checks: bool = True,
) -> Member:
    """Make the batch, or join the open one with that name. `default_id`: of one without a name. `is_resumed`: it was
    made by the same call, which was interrupted, so it is joined in whatever state it is.

    Raises UsageError for a name or parameters that cannot be, BatchClosedError if it takes no more tasks, and
    NotFoundError for an unknown queue in `on_done`."""
    on_done = check(store, new, catalog, checks=checks)
    name = new.name
    batch_id = name or default_id or str(store.new_ids(1)[0])
    document = batches.new_batch(
        batch_id, by, now=store.now(), source=source, on_done=on_done, stop_after=new.stop_after
    )
    if not store.insert_batch(document) and not is_resumed:
        _join(store, find_batch(store, batch_id), on_done, new.stop_after)
    return Member(store, batch_id, by, closes=new.closes or name is None, is_own=name is None)


def check(store: Store, new: NewBatch, catalog: Catalog | None = None, *, checks: bool = True) -> Document | None:
    """Its `on_done`, if it can be made. Raises UsageError and NotFoundError as `begin` does."""
    if new.name is not None:
        check_name(new.name)
    if new.stop_after is not None and new.stop_after < 1:
        raise FieldError("stop_after", f"expected a number of 1 or more, found {new.stop_after}")
    return _on_done(store, new, catalog, checks=checks)


def check_joinable(store: Store, name: str) -> None:
    """Raises UsageError for what cannot be the name of a batch, BatchClosedError for one that takes no more tasks."""
    check_name(name)
    document = store.get_batch(name)
    if document is not None:
        _check_open(Batch.from_document(document))


def _join(store: Store, batch: Batch, on_done: Document | None, stop_after: int | None) -> None:
    """Raises BatchClosedError, and UsageError if it was made with another `on_done` or `stop_after`."""
    _check_open(batch)
    wanted: Document = {}
    for name, value in (("on_done", on_done), ("stop_after", stop_after)):
        found = batch.document.get(name)
        if value is not None and found is not None and _meant(found) != _meant(value):
            raise UsageError(f"batch {batch.id} has another {name} already; leave it out, or choose another batch")
        if value is not None and found is None:
            wanted[name] = value
    if wanted:
        watched = {"watched": True} if "stop_after" in wanted else {}
        only_if = {"state": str(BatchState.OPEN), **dict.fromkeys(wanted)}
        if not store.change_batch(batch.id, {**wanted, **watched}, only_if=only_if):
            raise UsageError(f"somebody has just changed batch {batch.id}; try again")


def _meant(value: Any) -> Any:
    """What a person has chosen of it. What the plugin takes may have changed since."""
    return {**value, "tells": None} if isinstance(value, Mapping) else value


def _check_open(batch: Batch) -> None:
    if batch.stopped is not None:
        raise BatchClosedError(
            f"batch {batch.id} has stopped: {batch.stopped.get('failed')} of its tasks failed, and it was made with "
            f"stop_after {batch.stop_after}; {suggested.hint('batch show', batch.id)} says more"
        )
    if batch.state is not BatchState.OPEN:
        raise BatchClosedError(f"batch {batch.id} is {batch.state} and takes no more tasks; choose another name")


def _on_done(store: Store, new: NewBatch, catalog: Catalog | None, *, checks: bool) -> Document | None:
    if new.on_done is None:
        if new.on_done_parameters:
            raise UsageError("parameters for on_done need on_done, the queue of its task")
        return None
    queue = find_queue(store, new.on_done)
    given = parameters.checked(new.on_done_parameters)
    plugin = known_plugin(store, catalog, queue.class_name)
    on_done: Document = {"queue": str(queue.id), "parameters": dict(given)}
    if plugin is None:
        return on_done
    if places := plugin.schema.secrets(given):
        on_done["secrets"] = list(places)
    faults = plugin.schema.check({**given, **_EXAMPLE})
    if checks and faults:
        text = "; ".join(str(fault) for fault in faults)
        raise ParametersError(f"on_done: the parameters do not fit plugin {plugin.name}: {text}")
    # A plugin that was written before there were these may refuse them.
    tells = [
        name
        for name in batches.TOLD_OF_SOURCE
        if name not in given and plugin.schema.check({**given, **_EXAMPLE, name: 1}) == faults
    ]
    return {**on_done, "tells": tells} if tells else on_done


_EXAMPLE: Mapping[str, Any] = {
    "batch": "0" * 24, "total": 3, "concluded": 2, "failed": 1, "cancelled": 0, "orphaned": 0, "seconds": 1.5,
    "causes": [{"key": "0" * 8, "text": "exit_1", "count": 1}],
}  # fmt: skip


def check_name(name: str) -> None:
    """Raises UsageError unless it can be the name of a batch."""
    check_text("a name for the batch", name)
    if len(name) > NAME_MAX or name.startswith("@"):
        raise UsageError(
            f"expected a name of at most {NAME_MAX} characters that does not begin with @, found {name!r:.60}"
        )
