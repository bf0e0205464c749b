"""Several tasks of one queue, each with its own parameters, times, key and batch: all of them, or none.

Responsible for: checking everything that can be checked before the first of them is created, and creating those
together that differ in nothing but parameters and key. Must not know: whether parameters fit their plugin, who asks.

Rules:
1. What is created is what was checked: a time that has come meanwhile is not read again.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from disbatch_host.client import batch_members, parameters
from disbatch_host.client.batch_members import NewBatch
from disbatch_host.client.published import known_plugin
from disbatch_host.client.pushing import Plan, Pushed, Pusher, Timing, check_key
from disbatch_host.documents.records import Queue, TaskId
from disbatch_host.errors import DisbatchError, FieldError, NotFoundError, UsageError
from disbatch_host.store.contract import Store

if TYPE_CHECKING:  # most programs need no import
    from disbatch_host.plugin.catalog import Catalog


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One task that is to be created."""

    parameters: Mapping[str, Any]
    timing: Timing = field(default_factory=Timing)  # without a unique key
    unique_key: str | None = None
    batch: str | None = None  # the name of the one that it joins


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFault:
    """Something that keeps a task from being created."""

    number: int  # of the task, from 0
    field: str  # of it; empty: several
    error: DisbatchError

    @property
    def reason(self) -> str:
        return self.error.reason if isinstance(self.error, FieldError) else str(self.error)


class Several:
    """Tasks that have been checked: `create` them unless there are `faults`."""

    def __init__(self, store: Store, queue: Queue, catalog: Catalog | None, wanted: Sequence[Wanted], by: str) -> None:
        self._store = store
        self._queue = queue
        self._catalog = catalog
        self._wanted = wanted
        self._by = by
        self._plans: dict[str, Plan | DisbatchError] = {}
        self._batches: dict[str, DisbatchError | None] = {}
        self.faults = [fault for number, one in enumerate(wanted) for fault in self._faults_of(number, one)]

    def _faults_of(self, number: int, one: Wanted) -> list[TaskFault]:
        found = []
        plan = self._plan_of(one.timing)
        if isinstance(plan, DisbatchError):
            name = plan.field if isinstance(plan, FieldError) else "after" if isinstance(plan, NotFoundError) else ""
            found.append(TaskFault(number=number, field=name, error=plan))
        if one.batch is not None and (closed := self._why_not_in(one.batch)) is not None:
            found.append(TaskFault(number=number, field="batch", error=closed))
        try:
            parameters.checked(one.parameters)
        except UsageError as error:
            found.append(TaskFault(number=number, field="parameters", error=error))
        try:
            _ = one.unique_key is None or check_key(one.unique_key)
        except UsageError as error:
            found.append(TaskFault(number=number, field="unique_key", error=error))
        return found

    def _plan_of(self, timing: Timing) -> Plan | DisbatchError:
        """Read once for all tasks that have the same."""
        name = repr(sorted(timing.items()))
        if name not in self._plans:
            try:
                self._plans[name] = Plan.of(self._store, by=self._by, **timing)
            except (UsageError, NotFoundError) as error:
                self._plans[name] = error
        return self._plans[name]

    def _why_not_in(self, name: str) -> DisbatchError | None:
        if name not in self._batches:
            try:
                batch_members.check_joinable(self._store, name)
                self._batches[name] = None
            except UsageError as error:
                self._batches[name] = error
        return self._batches[name]

    def create(self, ids: Sequence[TaskId] | None = None) -> list[Pushed]:
        """Create them; the results are in their order. `ids`: the id of each; one that exists was created by an earlier
        call. Raises BatchClosedError if somebody closes a batch just now."""
        plugin = known_plugin(self._store, self._catalog, self._queue.class_name)
        pushed: list[Pushed] = []
        for (_, batch, has_key), some in itertools.groupby(self._wanted, _together):
            rows = list(some)
            plan = self._plan_of(rows[0].timing)
            assert isinstance(plan, Plan)
            member = None
            if batch is not None:
                new = NewBatch(name=batch)
                member = batch_members.begin(
                    self._store, new, self._by, source={"kind": "tasks"}, catalog=self._catalog
                )
            pusher = Pusher(self._store, self._queue, plugin, plan, is_checking=False, batch=member)
            keys = [str(one.unique_key) for one in rows] if has_key else None
            own = None if ids is None else ids[len(pushed) : len(pushed) + len(rows)]
            made = pusher.create([parameters.checked(one.parameters) for one in rows], keys, own)
            if member is not None:
                created = sum(one.is_new for one in made)
                member.close(created, existing=len(made) - created)
            pushed += made
        return pushed


def _together(one: Wanted) -> tuple[str, str | None, bool]:
    """What tasks that are created together have in common."""
    return repr(sorted(one.timing.items())), one.batch, one.unique_key is not None
