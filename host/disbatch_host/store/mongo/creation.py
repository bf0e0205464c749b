"""The creation of tasks, by people and command nodes; of those with one `unique_key` in a queue, at most one is
unfinished.

Responsible for: inserting them, the keys of those that are inserted, and the mark of those that they wait for. Must not
know: who creates, what a task means.

Rules:
1. A key is taken before its task is inserted, and released if the insert is known to have failed (`unique_keys`).
2. A task that is refused does not stop the others: they are created, and the exception names them.
3. The tasks that a new task waits for are marked before it is inserted and after it. Before: a process that dies after
   the insert leaves a mark. After: a sweep in between may have found no followers, and removed the mark.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import bson
from pymongo import UpdateOne
from pymongo import errors as driver
from pymongo.collection import Collection

from disbatch_host.clock import Clock
from disbatch_host.documents.records import Document, TaskId
from disbatch_host.errors import DuplicateIdError, StoreRefusedError
from disbatch_host.store.mongo import driver_errors, forms, unique_keys
from disbatch_host.store.mongo.unique_keys import Keys, Lock

_MARKS_AT_ONCE = 10_000  # in one write
_DOCUMENT_BYTES_MAX = 16 * 2**20  # the server's limit
_NAMED = 20  # created tasks that an exception names


class Creation:
    def __init__(self, tasks: Collection[Document], keys: Keys, clock: Clock) -> None:
        self._tasks = tasks
        self._keys = keys
        self._clock = clock

    def insert(self, documents: Sequence[Document], *, again: bool) -> list[TaskId]:
        """Insert documents, each of which has its `_id`; returns the ids as `Store.insert_tasks` does."""
        began = self._clock.monotonic()
        ids = [document["_id"] for document in documents]
        keys = self._keys_to_take(documents, again=again)
        locks = self._keys.take({key: ids[places[0]] for key, places in keys.items()})
        elsewhere: set[int] = set()  # positions of those that are not created because another task is meant
        for key, places in keys.items():
            elsewhere |= set(places if locks[key].mark is None else places[1:])
            for place in places:
                ids[place] = locks[key].task
        created = [
            {**document, "_id": ids[place]} for place, document in enumerate(documents) if place not in elsewhere
        ]
        waits_for = list({one for document in created for one in forms.after(document)})
        ours = {lock.task: key for key, lock in locks.items() if lock.mark is not None}
        self._mark_awaited(waits_for)
        try:
            self._create(created, ours, again=again)
        except driver.ConnectionFailure:
            raise  # they may exist or still come, so the keys stay theirs; see `unique_keys.Keys`
        except Exception:
            with contextlib.suppress(driver.PyMongoError):
                self._release_keys_of_missing(locks)
                self._mark_awaited(waits_for)  # of those that were created all the same
            raise
        self._mark_awaited(waits_for)
        if ours and self._clock.monotonic() - began > unique_keys.KEY_SECONDS / 2:
            instead = self._withdraw_overtaken(ours)
            ids = [instead.get(task_id, task_id) for task_id in ids]
        return ids

    def _keys_to_take(self, documents: Sequence[Document], *, again: bool) -> dict[forms.Key, list[int]]:
        """Which of the documents want each key: the first of them will get it."""
        keyed = {place: key for place, one in enumerate(documents) if (key := forms.key_of(one)) is not None}
        there: set[TaskId] = set()
        if again and keyed:  # a task that an earlier call created is the one meant, even if another has the key now
            which = {"_id": {"$in": [documents[place]["_id"] for place in keyed]}}
            there = {one["_id"] for one in self._tasks.find(which, {"_id": 1})}
        keys: dict[forms.Key, list[int]] = {}
        for place, key in keyed.items():
            if documents[place]["_id"] not in there:
                keys.setdefault(key, []).append(place)
        return keys

    def _release_keys_of_missing(self, locks: Mapping[forms.Key, Lock]) -> None:
        """Release the keys of those tasks, of all that were to be created, that do not exist."""
        ours = {lock.task: key for key, lock in locks.items() if lock.mark is not None}
        found = self._tasks.find({"_id": {"$in": list(ours)}}, {"queue": 1, "unique_key": 1})
        created = {one["_id"] for one in found if forms.key_of(one) == ours[one["_id"]]}
        self._keys.release([(key, lock) for key, lock in locks.items() if lock.task not in created])

    def _create(self, documents: Sequence[Document], keys: Mapping[TaskId, forms.Key], *, again: bool) -> None:
        """Insert them. One that exists already is fine if that was done by an earlier call or, for those with a key, by
        another process on behalf of this one (`unique_keys.Keys`, rule 3)."""
        if not documents:
            return
        refused = self._insert(documents)
        doubles = {documents[place]["_id"] for place, why in refused.items() if why is None}
        if doubles and not again:
            found = self._tasks.find({"_id": {"$in": list(doubles)}}, {"queue": 1, "unique_key": 1})
            doubles -= {one["_id"] for one in found if forms.key_of(one) == keys.get(one["_id"], ())}
        else:
            doubles = set()
        whys = [why for why in refused.values() if why is not None]
        if not whys and not doubles:
            return
        exists = [place not in refused or (again and refused[place] is None) for place in range(len(documents))]
        created = [one["_id"] for one, is_there in zip(documents, exists, strict=True) if is_there]
        if not whys:
            raise DuplicateIdError(f"a task with one of these ids exists already{_and_created(created, documents)}")
        first = whys[0]
        text = f"{first}" if len(documents) == 1 else f"{len(whys)} of {len(documents)} tasks are refused: {first}"
        raise type(first)(f"{text}{_and_created(created, documents)}", created=created)

    def _insert(self, documents: Sequence[Document]) -> dict[int, StoreRefusedError | None]:
        """Insert them. Returns those that were refused, by their positions, each with the reason; None: its `_id`
        exists already."""
        try:
            self._tasks.insert_many(documents, ordered=False)
        except driver.BulkWriteError as error:
            found = driver_errors.refusals(error)
            if not found:
                raise
            is_double = {one["index"] for one in error.details["writeErrors"] if driver_errors.is_same_id(one)}
            return {place: None if place in is_double else why for place, why in found.items()}
        except Exception as error:
            if not driver_errors.is_not_sent(error):
                raise
            faulty = {place: why for place, one in enumerate(documents) if (why := _fault(one)) is not None}
            if not faulty:
                raise StoreRefusedError(str(driver_errors.not_encoded(error))) from error
            others = [place for place in range(len(documents)) if place not in faulty]
            ids = [documents[place]["_id"] for place in others]
            there = {one["_id"] for one in self._tasks.find({"_id": {"$in": ids}}, {"_id": 1})}
            left = [place for place in others if documents[place]["_id"] not in there]
            refused = self._insert([documents[place] for place in left]) if left else {}
            return faulty | {left[place]: why for place, why in refused.items()}
        return {}

    def _withdraw_overtaken(self, keys: Mapping[TaskId, forms.Key]) -> dict[TaskId, TaskId]:
        """After this process stood still for so long that others considered the tasks that it was about to create lost,
        and took over their keys: withdraw them if nobody has started them. Returns which other task replaces which."""
        instead: dict[TaskId, TaskId] = {}
        holders = self._keys.holders(list(keys.values()))
        for task_id, key in keys.items():
            holder = holders.get(key, task_id)
            if holder != task_id:
                untouched = {"_id": task_id, "status": {"$in": forms.WAITING}, "node": forms.UNCLAIMED, "claim": None}
                if self._tasks.delete_one(untouched).deleted_count:
                    instead[task_id] = holder
        return instead

    def _mark_awaited(self, tasks: Sequence[TaskId]) -> None:
        for start in range(0, len(tasks), _MARKS_AT_ONCE):
            writes = [
                UpdateOne({"_id": one, **forms.NOT_MARKED}, {"$set": {"awaited": True}, "$unset": {"telling": ""}})
                for one in tasks[start : start + _MARKS_AT_ONCE]
            ]
            self._tasks.bulk_write(writes, ordered=False)


def _fault(document: Document) -> StoreRefusedError | None:
    """Why a document cannot be sent."""
    try:
        size = len(bson.encode(document, codec_options=forms.CODEC))
    except driver_errors.NOT_ENCODED as error:
        return driver_errors.not_encoded(error)
    return StoreRefusedError(driver_errors.TOO_LARGE) if size > _DOCUMENT_BYTES_MAX else None


def _and_created(created: Sequence[TaskId], documents: Sequence[Document]) -> str:
    """What became of the others, in words."""
    if len(documents) == 1:
        return ""
    if not created:
        return "; nothing was created"
    named = ", ".join(map(str, created[:_NAMED]))
    more = f" and {len(created) - _NAMED} more" if len(created) > _NAMED else ""
    return f"; {len(created)} were created: {named}{more}"
