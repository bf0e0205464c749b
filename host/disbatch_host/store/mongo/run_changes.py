"""The changes that runs make to tasks in a node's hands, and the output that they have printed.

Responsible for: carrying out batches of guarded changes with everything that belongs to them, and reporting which were
refused; leaving a batch to a claim that comes right after it, so that both are one trip to the server. Must not know:
what a change means.

Rules:
1. Changes are carried out in the order in which they came.
2. Every batch can be sent again: a change that was carried out is not reported as refused, as long as nobody has gone
   on from there.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence

from pymongo import errors as driver
from pymongo.collection import Collection

from disbatch_host.documents.changes import OutputChunk, RunChange, RunKey
from disbatch_host.documents.records import Document, TaskId
from disbatch_host.store.mongo import driver_errors, forms
from disbatch_host.store.mongo.follow_ups import FollowUps
from disbatch_host.store.mongo.output_files import OutputFiles
from disbatch_host.store.mongo.updates import Updates

log = logging.getLogger(__name__)


class RunChanges:
    def __init__(self, tasks: Collection[Document], output: OutputFiles, follow_ups: FollowUps) -> None:
        self._tasks = tasks
        self._updates = Updates(tasks)
        self._output = output
        self._follow_ups = follow_ups
        self._too_large: set[TaskId] = set()  # tasks that have been logged
        self._staged: _Staged | None = None  # the changes that `commit` leaves to the next write of a `together`

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """The first `commit` in the block may be left to the next write. The caller calls `write_staged` at the end of
        the block, or the rest is lost. Not a transaction: those exist for replica sets only, and cost more than they
        save here."""
        self._staged = _Staged()
        try:
            yield
        finally:
            self._staged = None

    def commit(self, changes: Sequence[RunChange], chunks: Sequence[OutputChunk]) -> set[RunKey]:
        """Returns the keys of those that were refused, as `Store.commit` promises."""
        self._output.write(chunks)
        parts = list(forms.in_parts(changes))
        if self._staged is not None and self._staged.is_fresh and len(parts) == 1 and not _has_sequel(changes):
            return self._staged.put(parts[0])
        self.write_staged()
        refused: set[RunKey] = set()
        for part in parts:
            refused |= self._carry_out(part)
        carried_out = [change for change in changes if change.key not in refused]
        self._follow_ups.create_of(carried_out)
        self._output.forget(carried_out)
        return refused

    def write_staged(self) -> None:
        """Write the changes that a `commit` left, by themselves."""
        changes, refused = self._take_staged()
        if changes:
            refused |= self._carry_out(changes)

    def write_with(self, updates: Sequence[forms.Update]) -> bool:
        """Write the changes that a `commit` left, and these updates after them; returns whether all of these were
        carried out, as far as the server's count shows."""
        staged, refused = self._take_staged()
        try:
            if self._updates.send([*self._updates_of(staged), *updates], ordered=bool(staged)):
                return True
        except driver.BulkWriteError as error:
            too_large = driver_errors.too_large(error)
            if not too_large or too_large[0] < len(staged):
                raise
            for place in too_large:  # it does not stop the others
                self._say_too_large(updates[place - len(staged)][0]["_id"])
        if staged:
            refused |= self._refused(staged)
        return False

    def _say_too_large(self, task: TaskId) -> None:
        if task not in self._too_large:
            self._too_large.add(task)
            log.error("task %s is not claimed: its document has no room left; make it smaller or delete it", task)

    def _take_staged(self) -> tuple[Sequence[RunChange], set[RunKey]]:
        return self._staged.take() if self._staged is not None else ((), set())

    def _carry_out(self, changes: Sequence[RunChange]) -> set[RunKey]:
        """Write changes that fit into one message; returns those that were refused."""
        return set() if self._updates.send(self._updates_of(changes), ordered=True) else self._refused(changes)

    def _updates_of(self, changes: Sequence[RunChange]) -> list[forms.Update]:
        return [
            (forms.guard(change), forms.update(self._follow_ups.with_owed(change), change.unset)) for change in changes
        ]

    def _refused(self, changes: Sequence[RunChange]) -> set[RunKey]:
        """Which of a batch were not carried out: the server only says how many."""
        ids = list({change.key.task_id for change in changes})
        documents = {one["_id"]: one for one in self._tasks.find({"_id": {"$in": ids}}, forms.NOT_LARGE)}
        # Of several changes of one run the last one decides: only its effect can be seen.
        last = {change.key: change for change in changes}
        return {key for key, change in last.items() if not forms.shows(documents.get(key.task_id), change)}


def _has_sequel(changes: Sequence[RunChange]) -> bool:
    """Whether more has to be done once they are written."""
    return any(change.creates or change.forget_output_of is not None for change in changes)


class _Staged:
    """The changes of a `commit` that the next write takes along."""

    def __init__(self) -> None:
        self.is_fresh = True  # only the first commit may be left: the caller of another one reads its answer
        self._changes: Sequence[RunChange] = ()
        self._refused: set[RunKey] = set()

    def put(self, changes: Sequence[RunChange]) -> set[RunKey]:
        """Returns the set that will hold the refused ones once they are written."""
        self.is_fresh, self._changes, self._refused = False, changes, set()
        return self._refused

    def take(self) -> tuple[Sequence[RunChange], set[RunKey]]:
        changes, self._changes = self._changes, ()
        return changes, self._refused
