"""The batches of a cluster, and what people do with them.

Responsible for: listing, closing, waiting for and deleting them. Must not know: how they are shown, how their tasks are
created.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from disbatch_host import suggested
from disbatch_host.client import deleting
from disbatch_host.client.batch_finding import find_batch
from disbatch_host.client.batch_members import NewBatch, begin
from disbatch_host.client.batch_progress import BatchNow, BatchProgress, now_of, progress_of
from disbatch_host.client.batch_waiting import OnOpen, wait_for_batch
from disbatch_host.client.control import Changes
from disbatch_host.client.standstill import OnStill
from disbatch_host.client.waiting import OnProgress, Waited
from disbatch_host.documents import batch as batches
from disbatch_host.documents.batch import Batch, BatchChange, BatchState
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Document
from disbatch_host.errors import FieldError, UsageError
from disbatch_host.store import batch_ends
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.masks import masked_at
from disbatch_protocol.status import Status

if TYPE_CHECKING:
    from disbatch_host.plugin.catalog import Catalog

_TRIES = 5  # of a change of a batch that others are changing too


def _check_states(states: Collection[str] | None) -> None:
    for state in states or ():
        if state not in tuple(BatchState):
            raise FieldError("state", f"expected one of {', '.join(BatchState)}, found {state!r:.40}")


class Batches:
    """The batches of one store. `by` names the person who asks: `user@machine`."""

    def __init__(self, store: Store, by: str, catalog: Catalog | None = None) -> None:
        """`catalog`: the plugins known here, which check the parameters of `on_done`."""
        self._store = store
        self._by = by
        self._catalog = catalog

    def list(self, *, states: Collection[str] | None = None, limit: int | None = None) -> tuple[Batch, ...]:
        """The newest batches first. Raises FieldError for an unknown state."""
        _check_states(states)
        found = self._store.find_batches(states=states, limit=limit, newest_first=True)
        return tuple(map(Batch.from_document, found))

    def ids(self, *, states: Collection[str] | None = None) -> tuple[tuple[datetime | None, str], ...]:
        """When each was created, as far as that is known, and its id; the oldest first. Raises FieldError for an
        unknown state."""
        _check_states(states)
        return tuple(self._store.batch_ids(states))

    def now(self, batches: Sequence[Batch]) -> tuple[BatchNow | None, ...]:
        """For each of these that goes on, how many tasks it has now, how many of them have ended and failed, in about
        two seconds for all. None: it is done, and its summary has them, or there was no time for it."""
        return tuple(now_of(self._store, batches))

    def get(self, batch_id: str) -> Batch:
        """One batch; see `find_batch`."""
        return find_batch(self._store, batch_id, self._by)

    def create(
        self,
        name: str,
        *,
        on_done: str | None = None,
        on_done_parameters: Mapping[str, Any] | None = None,
        stop_after: int | None = None,
    ) -> Batch:
        """An empty, open batch, to which tasks are added by its name. Raises as `begin` does."""
        new = NewBatch(name=name, on_done=on_done, on_done_parameters=on_done_parameters or {}, stop_after=stop_after)
        member = begin(self._store, new, self._by, source={"kind": "tasks"}, catalog=self._catalog)
        return self.get(member.id)

    def close(self, batch_id: str) -> tuple[Batch, bool]:
        """Nobody adds tasks from now on. Returns it, and whether it was open until now. Raises NotFoundError."""
        batch = self.get(batch_id)
        is_new = _apply(self._store, batch.id, batches.close_change(self._by, now=self._store.now()))
        batch_ends.finish(self._store, self.get(batch.id))
        return self.get(batch.id), is_new

    def progress(self, batch_id: str) -> BatchProgress:
        """How far it has come, in about a second. Raises NotFoundError."""
        return progress_of(self._store, self.get(batch_id))

    def wait(
        self,
        batch_id: str,
        *,
        timeout_seconds: float | None = None,
        on_progress: OnProgress | None = None,
        on_still: OnStill | None = None,
        on_open: OnOpen | None = None,
    ) -> Waited:
        """Wait until it is closed and all of its tasks have ended, whenever they did; at most `timeout_seconds`.
        `on_open` is told once that it is open and nothing of it is unfinished. Raises NotFoundError."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        return wait_for_batch(
            self._store, self.get(batch_id), deadline=deadline, on_progress=on_progress, on_still=on_still,
            on_open=on_open,
        )  # fmt: skip

    def arm(self, batch_id: str) -> bool:
        """Have `on_done` create its task once more when the batch is done the next time. False if it has none."""
        for _ in range(_TRIES):
            batch = self.get(batch_id)
            if batch.on_done is None:
                return False
            if batch.is_armed:
                return True
            if batch.owes_task:  # of the end before: it must not be lost
                batch_ends.pay(self._store, batch)
                continue
            wanted = (
                batches.reopened_change(batch, arms=True)
                if batch.state is BatchState.DONE
                else batches.armed_change(batch)
            )
            if _apply(self._store, batch.id, wanted):
                return True
        raise UsageError(f"batch {batch_id} is being changed by others; try again")

    def done(self, batch_id: str) -> Batch:
        """A batch that is done. Raises UsageError if it is not, NotFoundError."""
        batch = self.get(batch_id)
        if batch_ends.finish(self._store, batch) is not None:  # no node has noticed its end yet
            batch = self.get(batch.id)
        if batch.state is not BatchState.DONE:
            raise UsageError(f"batch {batch.id} is {batch.state}; {_how_to_end(batch)}")
        return batch

    def delete(self, batch_id: str, *, on_progress: Callable[[int], object] | None = None) -> Changes:
        """Delete a batch that is done, with its tasks and their output. Where tasks are left, because others wait for
        them, its document stays too. Raises UsageError if it is not done, NotFoundError."""
        batch = self.done(batch_id)
        which = TaskFilter(batch=batch.id, statuses=_ENDED, or_failed=True)
        changes = Changes.of(deleting.delete(self._store, which), on_progress)
        if not changes.left:
            only_if = {"state": str(batch.state), "round": batch.document.get("round")}
            self._store.delete_batch(batch.id, only_if=only_if)
        return changes


_ENDED = frozenset({*map(int, statuses.ENDED), int(Status.ORPHANED)})


def _how_to_end(batch: Batch) -> str:
    if batch.state is BatchState.OPEN:
        return f"{suggested.hint('batch close', batch.id)} closes it, and it is done once its tasks have ended"
    return f"it can be deleted once its tasks have ended; {suggested.hint('batch cancel', batch.id)} cancels them"


def shown(batch: Batch) -> Document:
    """Its document, safe to show: secret parameters of `on_done` are masked."""
    document = {name: value for name, value in batch.document.items() if name not in ("watched", "round")}
    if batch.on_done is not None:
        places: Sequence[Any] = batch.on_done.get("secrets") or ()
        masked = masked_at(batch.on_done.get("parameters"), [one for one in places if isinstance(one, str)])
        document["on_done"] = {
            **{name: value for name, value in batch.on_done.items() if name not in ("secrets", "owed")},
            "parameters": masked,
        }
    return document


def _apply(store: Store, batch_id: str, change: BatchChange) -> bool:
    return store.change_batch(batch_id, change.set, change.unset, only_if=change.only_if)
