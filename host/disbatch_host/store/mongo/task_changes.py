"""Changes of tasks that are not made by runs: by people, and by nodes that settle tasks that are due.

Responsible for: carrying out guarded changes in batches, and reporting which were refused. Must not know: what a change
means, except for two that concern other documents: it may give a task its `unique_key` back, and may remove its mark
`awaited`.

Rules:
1. Every write has the guard in it. The server only says how many were carried out, so if some were not, the documents
   are read; in a document that has changed again since, the change can no longer be seen, unless it was written alone.
2. A change that the server refuses does not stop the others: it is reported at the end, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from bson.objectid import ObjectId
from pymongo import UpdateOne
from pymongo import errors as driver
from pymongo.collection import Collection

from disbatch_host.documents.changes import TaskChange
from disbatch_host.documents.records import Document, TaskId
from disbatch_host.errors import ChangesRefusedError, StoreRefusedError
from disbatch_host.store.mongo import driver_errors, forms, unique_keys
from disbatch_host.store.mongo.passed_over import PassedOverTasks
from disbatch_host.store.mongo.unique_keys import Keys
from disbatch_protocol.status import Status

_AT_ONCE = 500  # changes in one write
_FOLLOWERS_AT_ONCE = 500  # searched at once for one that was not told

_Reasons = dict[TaskId, StoreRefusedError]  # of the changes that the server refuses


class TaskChanges:
    def __init__(self, tasks: Collection[Document], keys: Keys, passed_over: PassedOverTasks) -> None:
        self._tasks = tasks
        self._keys = keys
        self._passed_over = passed_over

    def carry_out(self, changes: Sequence[TaskChange], *, one_by_one: bool = False) -> set[TaskId]:
        """Returns the ids of those that were refused, as `Store.change_tasks` promises."""
        at_once = 1 if one_by_one else _AT_ONCE
        refused: set[TaskId] = set()
        reasons: _Reasons = {}
        for start in range(0, len(changes), at_once):
            part = changes[start : start + at_once]
            told = [change for change in part if change.set.get("awaited") is False]
            refused |= self._change([change for change in part if change.set.get("awaited") is not False], reasons)
            refused |= self._tell(told, reasons) if told else set()
        if reasons:
            stuck = {change.task_id for change in changes if change.set.get("status") in forms.WAITING}
            self._passed_over.add({task_id: str(why) for task_id, why in reasons.items() if task_id in stuck})
            raise ChangesRefusedError(reasons, refused)
        return refused

    def _change(self, changes: Sequence[TaskChange], reasons: _Reasons) -> set[TaskId]:
        if not changes:
            return set()
        keys, refused = self._keys_of_retried([change.task_id for change in changes if forms.may_revive(change)])
        locks = self._keys.take({key: task_id for task_id, key in keys.items()}, to_retry=True)
        refused |= {task_id for task_id, key in keys.items() if locks[key].task != task_id}
        written = [change for change in changes if change.task_id not in refused]
        writes = []
        for change in written:
            guard = forms.guard_of_task(change)
            lock = locks[keys[change.task_id]] if change.task_id in keys else None
            if lock is not None and lock.until is not None:
                # Not a moment later than others wait for it: by the server's clock, when it carries out the change.
                last = lock.until - timedelta(seconds=unique_keys.RETRY_MARGIN_SECONDS)
                guard["$expr"] = {"$lt": ["$$NOW", {"$literal": last}]}
            writes.append(UpdateOne(guard, forms.update_of_task(change)))
        refused |= self._write(writes, written, reasons)
        self._keys.end_retry([(key, locks[key]) for key in keys.values()])
        return refused

    def _write(self, writes: Sequence[UpdateOne], changes: Sequence[TaskChange], reasons: _Reasons) -> set[TaskId]:
        """Write the changes; returns those that were not carried out, without those that the server refuses."""
        if not writes:
            return set()
        try:
            if self._tasks.bulk_write(writes, ordered=False).matched_count == len(writes):
                return set()
        except driver.BulkWriteError as error:
            found = driver_errors.refusals(error)
            if not found:
                raise
            reasons |= {changes[place].task_id: why for place, why in found.items()}
        return self._unseen([change for change in changes if change.task_id not in reasons])

    def _keys_of_retried(self, tasks: Sequence[TaskId]) -> tuple[dict[TaskId, forms.Key], set[TaskId]]:
        """The keys of those of them that have one, one task per key; and the other tasks with the same keys."""
        keys: dict[TaskId, forms.Key] = {}
        others: set[TaskId] = set()
        if tasks:
            which = {"_id": {"$in": list(tasks)}, "unique_key": {"$type": "string"}}
            for document in self._tasks.find(which, {"queue": 1, "unique_key": 1}):
                key = forms.key_of(document)
                if key in keys.values():
                    others.add(document["_id"])
                elif key is not None:
                    keys[document["_id"]] = key
        return keys, others

    def _tell(self, changes: Sequence[TaskChange], reasons: _Reasons) -> set[TaskId]:
        """Remove the mark `awaited` from tasks whose followers have been told, without overlooking a follower that was
        created meanwhile: the change is announced in the task (`telling`), then followers that have not been told are
        searched for, then the change is made if the announcement still stands. The search finds a follower that was
        created before it; the mark that is set after the insert of any other removes the announcement. A process that
        dies in between leaves the task `awaited`."""
        token = ObjectId()
        announced = [
            UpdateOne(
                forms.guard_of_task(change),
                forms.update(
                    {**{name: change.set[name] for name in change.set if name != "awaited"}, "telling": token}, ()
                ),
            )
            for change in changes
        ]
        self._write(announced, changes, reasons)
        changes = [change for change in changes if change.task_id not in reasons]
        untold: set[TaskId] = set()
        is_told: Document = {"error.code": "after_failed"}
        # A follower that knows that it concluded no longer waits for it, nor does one for which any end will do.
        ignorant_of: dict[int | None, Document] = {
            int(Status.CONCLUDED): {},
            int(Status.ORPHANED): {"$nor": [is_told]},
            None: {"$nor": [{**is_told, "after_any": {"$ne": True}}]},
        }
        ended: dict[int | None, list[TaskId]] = {}
        for change in changes:
            (status, *others) = change.statuses
            ended.setdefault(status if status in ignorant_of and not others else None, []).append(change.task_id)
        for kind, ids in ended.items():
            which = {"after": {"$in": ids}, "status": int(Status.BLOCKED), **ignorant_of[kind]}
            for follower in self._tasks.find(which, {"after": 1}).limit(_FOLLOWERS_AT_ONCE):
                untold |= {one for one in forms.after(follower) if one in ids}
        told = [change for change in changes if change.task_id not in untold]
        writes = [
            UpdateOne(
                {**forms.guard_of_task(change), "telling": token},
                {"$set": {"awaited": False}, "$unset": {"telling": "", **dict.fromkeys(change.unset, "")}},
            )
            for change in told
        ]
        return untold | self._write(writes, told, reasons)

    def _unseen(self, changes: Sequence[TaskChange]) -> set[TaskId]:
        """Which of a batch were not carried out, as far as can be seen: the server only says how many."""
        names = {name for change in changes for name in (*change.set, *change.unset)}
        ids = [change.task_id for change in changes]
        found = self._tasks.find({"_id": {"$in": ids}}, dict.fromkeys(names, 1))
        documents = {document["_id"]: document for document in found}
        return {change.task_id for change in changes if not forms.shows_change(documents.get(change.task_id), change)}
