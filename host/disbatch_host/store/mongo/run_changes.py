"""The changes that runs make to tasks in a node's hands, and the output that they have printed.

Responsible for: carrying out batches of guarded changes with everything that belongs to them, and reporting which were
refused; leaving a batch to a claim that comes right after it, so that both are one trip to the server. Must not know:
what a change means.

Rules:
1. Changes are carried out in the order in which they came.
2. Every batch can be sent again: a change that was carried out is not reported as refused, as long as nobody has gone
   on from there.
3. A change that the server refuses does not stop the others. In a batch that a claim takes along it does, before
   anything is claimed: then the batch is written again by itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from pymongo.collection import Collection

from disbatch_host.documents.changes import OutputChunk, RunChange, RunKey
from disbatch_host.documents.records import Document
from disbatch_host.errors import ChangesRefusedError, StoreRefusedError
from disbatch_host.store.mongo import forms
from disbatch_host.store.mongo.follow_ups import FollowUps
from disbatch_host.store.mongo.output_files import OutputFiles
from disbatch_host.store.mongo.updates import Sent, Updates


class RunChanges:
    def __init__(self, tasks: Collection[Document], output: OutputFiles, follow_ups: FollowUps) -> None:
        self._tasks = tasks
        self._updates = Updates(tasks)
        self._output = output
        self._follow_ups = follow_ups
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
        self._output.keep(changes)
        parts = list(forms.in_parts(changes))
        if self._staged is not None and self._staged.is_fresh and len(parts) == 1 and not _has_sequel(changes):
            return self._staged.put(parts[0])
        self.write_staged()
        refused: set[RunKey] = set()
        reasons: dict[RunKey, StoreRefusedError] = {}
        for part in parts:
            refused |= self._carry_out(part, reasons)
        carried_out = [change for change in changes if change.key not in refused and change.key not in reasons]
        self._follow_ups.create_of(carried_out)
        self._output.forget(carried_out)
        self.drop_output_of_gone([change for change in changes if change.key in refused])
        if reasons:
            raise ChangesRefusedError(reasons, refused)
        return refused

    def write_staged(self) -> None:
        """Write the changes that a `commit` left, by themselves."""
        changes, refused = self._take_staged()
        reasons: dict[RunKey, StoreRefusedError] = {}
        refused |= self._carry_out(changes, reasons)
        if reasons:
            raise ChangesRefusedError(reasons, refused)

    def write_with(self, updates: Sequence[forms.Update]) -> Sent:
        """Write the changes that a `commit` left, and these updates after them; returns what became of these."""
        staged, refused = self._take_staged()
        first = len(staged)
        sent = self._updates.send_each([*self._updates_of(staged), *updates], ordered=first, required=first)
        if staged and not sent.all_found:
            refused |= self._refused(staged)
        if not first:
            return sent
        return Sent(all_found=sent.all_found, refused={place - first: why for place, why in sent.refused.items()})

    def drop_output_of_gone(self, refused: Sequence[RunChange]) -> None:
        """A task that was deleted before these changes left nothing; what was written with them goes too."""
        ids = {change.key.task_id for change in refused if change.keeps}
        if ids:
            left = {one["_id"] for one in self._tasks.find({"_id": {"$in": list(ids)}}, {"_id": 1})}
            self._output.delete_of_tasks([task_id for task_id in ids if task_id not in left])

    def _take_staged(self) -> tuple[Sequence[RunChange], set[RunKey]]:
        return self._staged.take() if self._staged is not None else ((), set())

    def _carry_out(self, changes: Sequence[RunChange], reasons: dict[RunKey, StoreRefusedError]) -> set[RunKey]:
        """Write changes that fit into one message; returns those that were refused. Those that the server refuses are
        not among them but in `reasons`."""
        sent = self._updates.send_each(self._updates_of(changes), ordered=len(changes))
        reasons |= {changes[place].key: why for place, why in sent.refused.items()}
        if sent.all_found:
            return set()
        return self._refused([change for change in changes if change.key not in reasons])

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
    return any(change.creates or change.keeps or change.forgets for change in changes)


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
