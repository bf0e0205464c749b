"""The holders of each `unique_key`. See `Keys` for the rules that keep them right."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bson.objectid import ObjectId
from pymongo import DeleteOne, UpdateOne
from pymongo import errors as driver

from disbatch_host.documents.records import Document, TaskId, whole_number
from disbatch_host.store.mongo import driver_errors, forms
from disbatch_protocol.status import is_finished

KEY_SECONDS = 60.0  # how long a missing holder of a `unique_key` counts as being created
RETRY_SECONDS = 10.0  # how long a task that holds its `unique_key` to be run again may take to become unfinished
RETRY_MARGIN_SECONDS = 2.0  # the clocks of a cluster's servers may differ by this much
_RETRY_POLL_SECONDS = 0.02  # between two looks at such a task


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """The holder of a key, as `Keys.take` left it."""

    task: TaskId
    mark: ObjectId | None  # of the write for the caller; None: another unfinished task has the key
    until: datetime | None = None  # when a task that is run again must have become unfinished


class Keys:
    """The holder of each `unique_key`: a document for each key of a queue, {task, at, mark, retrying_until}.

    No unique index on tasks could do it: it would have to know which are unfinished, and on a sharded collection it
    would have to begin with the shard key. So the creator of a task with a key takes the key first.

    1. Every write gets a new `mark`, and every change is made only if the mark is still the one that was read: of
       several callers that want to change one lock, one does, and the others read again.
    2. First the lock is read, then the task that it names. The task can have become unfinished only after the lock was
       touched for it (5), so a finished task and a mark that is still the same mean that the key is free.
    3. The named task does not exist, and the lock is younger than `KEY_SECONDS`: a process is about to create it,
       or has died. The next caller creates a task under the same id. If the first one is alive, its insert finds that
       the id exists, and both have the same task; if not, no caller was told of a task that never came.
    4. It does not exist, and the lock is older: it was deleted, or never created. The key is taken over. A process that
       was about to create it and only stood still checks for that after its insert (`creation`).
    5. A finished task is run again: its lock is touched first, and says until when the task becomes unfinished
       (`retrying_until`). A reader of the lock in between waits for the outcome; the change of the task is made
       only before that moment, by the server's clock. A process that dies in between delays others until then.
    6. A task that ends leaves its lock, which costs nothing; a task that is deleted takes it along.
    """

    def __init__(self, locks: Any, tasks: Any, now: Callable[[], datetime]) -> None:
        self._locks = locks
        self._tasks = tasks
        self._now = now
        self.retry_seconds = RETRY_SECONDS

    def take(self, wanted: Mapping[forms.Key, TaskId], *, to_retry: bool = False) -> dict[forms.Key, Lock]:
        """Give each key to its task, if no other unfinished one has it. `to_retry`: the tasks have ended, and are about
        to be run again; else they are about to be created, each under the id that comes back."""
        taken: dict[forms.Key, Lock] = {}
        left = dict(wanted)
        while left:
            until = self._now() + timedelta(seconds=self.retry_seconds) if to_retry else None
            new = {key: Lock(task=task, mark=ObjectId(), until=until) for key, task in left.items()}
            held = self._insert(new)
            taken |= {key: lock for key, lock in new.items() if key not in held}
            changes: dict[forms.Key, tuple[Lock, Document]] = {}
            found = self._find(held)
            which = {"_id": {"$in": [one["task"] for one in found.values()]}}
            holders = {one["_id"]: one for one in self._tasks.find(which, {"status": 1, "queue": 1, "unique_key": 1})}
            now = self._now()
            is_waiting = False
            for key, document in found.items():  # one that is not found was released just now: insert it again
                holder, own = document["task"], new[key]
                retrying_until = document.get("retrying_until")
                if holder in holders:
                    status = whole_number(holders[holder].get("status"))
                    if forms.key_of(holders[holder]) != key:  # a task without it has the id
                        changes[key] = own, document
                    elif status is not None and not is_finished(status):
                        taken[key] = Lock(task=holder, mark=None)
                    elif holder != left[key] and isinstance(retrying_until, datetime) and retrying_until > now:
                        is_waiting = True
                    else:
                        changes[key] = own, document
                elif holder != left[key] and now - document["at"] < timedelta(seconds=KEY_SECONDS):
                    if to_retry:
                        taken[key] = Lock(task=holder, mark=None)
                    else:
                        changes[key] = Lock(task=holder, mark=own.mark), document
                else:
                    changes[key] = own, document
            taken |= self._change(changes)
            left = {key: task for key, task in left.items() if key not in taken}
            if is_waiting:
                time.sleep(_RETRY_POLL_SECONDS)
        return taken

    def _insert(self, locks: Mapping[forms.Key, Lock]) -> list[forms.Key]:
        """Take those that nobody has; returns those that somebody has."""
        keys = list(locks)
        try:
            self._locks.insert_many(
                [{"_id": _lock_id(key), **self._fields(lock)} for key, lock in locks.items()], ordered=False
            )
        except driver.BulkWriteError as error:
            failures = error.details.get("writeErrors", ())
            if error.details.get("writeConcernErrors") or not all(driver_errors.is_same_id(one) for one in failures):
                raise
            return [keys[one["index"]] for one in failures]
        return []

    def _change(self, changes: Mapping[forms.Key, tuple[Lock, Document]]) -> dict[forms.Key, Lock]:
        """Replace each lock's document as it was read; returns those where nobody was faster."""
        if not changes:
            return {}
        writes = []
        for key, (lock, document) in changes.items():
            fields = self._fields(lock)
            update: Document = {"$set": fields}
            if "retrying_until" not in fields:
                update["$unset"] = {"retrying_until": ""}
            writes.append(UpdateOne({"_id": _lock_id(key), "mark": document.get("mark")}, update))
        self._locks.bulk_write(writes, ordered=False)
        now = self._find(list(changes))
        return {key: lock for key, (lock, _) in changes.items() if key in now and now[key].get("mark") == lock.mark}

    def _fields(self, lock: Lock) -> Document:
        until = {} if lock.until is None else {"retrying_until": lock.until}
        return {"task": lock.task, "at": self._now(), "mark": lock.mark, **until}

    def _find(self, keys: Sequence[forms.Key]) -> dict[forms.Key, Document]:
        if not keys:
            return {}
        found = self._locks.find({"_id": {"$in": [_lock_id(key) for key in keys]}})
        return {(one["_id"]["queue"], one["_id"]["key"]): one for one in found}

    def holders(self, keys: Sequence[forms.Key]) -> dict[forms.Key, TaskId]:
        """The task that has each of these keys now."""
        return {key: document["task"] for key, document in self._find(keys).items()}

    def locks_of(self, keys: Mapping[TaskId, forms.Key]) -> dict[TaskId, Lock]:
        """The locks of those of these tasks that have their keys."""
        found = self._find(list(keys.values()))
        return {
            task_id: Lock(task=task_id, mark=found[key].get("mark"))
            for task_id, key in keys.items()
            if key in found and found[key]["task"] == task_id
        }

    def release(self, locks: Iterable[tuple[forms.Key, Lock]]) -> None:
        """Remove locks that nobody has touched since."""
        writes = [DeleteOne({"_id": _lock_id(key), "mark": lock.mark}) for key, lock in locks if lock.mark is not None]
        if writes:
            self._locks.bulk_write(writes, ordered=False)

    def end_retry(self, locks: Iterable[tuple[forms.Key, Lock]]) -> None:
        """The tasks were changed, or not: others no longer have to wait."""
        writes = [
            UpdateOne(
                {"_id": _lock_id(key), "mark": lock.mark},
                {"$set": {"mark": ObjectId()}, "$unset": {"retrying_until": ""}},
            )
            for key, lock in locks
            if lock.mark is not None
        ]
        if writes:
            self._locks.bulk_write(writes, ordered=False)


def _lock_id(key: forms.Key) -> Document:
    return {"queue": key[0], "key": key[1]}
