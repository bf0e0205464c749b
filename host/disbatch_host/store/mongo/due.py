"""The tasks that a node has to look at now: cancelled, awaited and ended, expired.

Responsible for: finding them by the indexes that hold only such tasks, within a short time. Must not know: what is done
with them.

Rules:
1. Parameters and output are not read: five hundred tasks with 8 MiB each may be due at once.
2. Nearly always none is due, so one query asks for all kinds. To plan it the server tries each of its indexes on a
   hundred tasks, which for large ones takes seconds, and does not remember what it found. So at first, and after a
   look that took long, each kind has a query of its own that names its index, until nothing is due.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pymongo import errors as driver
from pymongo.collection import Collection

from disbatch_host.clock import Clock
from disbatch_host.documents.records import Document, Task
from disbatch_host.store.contract import DUE_SECONDS
from disbatch_host.store.mongo import driver_errors, forms, layout, reading
from disbatch_protocol.status import UNFINISHED, Status

_PAGE = 5  # tasks that a cursor gets in one trip: each may be large, and some ten of 8 MiB take DUE_SECONDS


class Due:
    def __init__(self, tasks: Collection[Document], clock: Clock) -> None:
        """`clock`: this machine's; only its monotonic time is used."""
        self._tasks = tasks
        self._clock = clock
        self._is_slow = True  # as far as it is known (rule 2): very much may be due when a node starts

    def find(self, node_id: str, limit: int, now: datetime) -> list[Task]:
        """See `Store.due`."""
        kinds = _kinds(node_id, now)
        together: list[tuple[Document, layout.Keys | None]] = [({"$or": [kind for kind, _ in kinds]}, None)]
        until = self._clock.monotonic() + DUE_SECONDS
        found: list[Document] = []
        for which, index in kinds if self._is_slow else together:
            found += self._find(which, index, limit * len(kinds), until)
        self._is_slow = bool(found) and (self._is_slow or self._clock.monotonic() > until)
        tasks: dict[str, list[Task]] = {"cancel": [], "awaited": [], "expires": []}
        seen = set()
        for document in found:
            kind = "cancel" if "cancel" in document else "awaited" if document.get("awaited") is True else "expires"
            if document["_id"] not in seen:  # it may be of two kinds
                tasks[kind].append(Task.from_document(document))
            seen.add(document["_id"])
        return [task for of_kind in tasks.values() for task in of_kind[:limit]]

    def _find(self, which: Document, index: layout.Keys | None, limit: int, until: float) -> list[Document]:
        """The first of them at least."""

        def find(fields: Any, more: Document | None = None) -> Any:
            found = self._tasks.find({**which, **(more or {})}, fields, limit=limit, batch_size=_PAGE)
            return found if index is None else found.hint(list(index))

        try:
            documents, _ = reading.all_of(
                find, self._tasks, {**forms.NO_OUTPUT, **forms.NO_PARAMETERS},
                is_enough=lambda _: self._clock.monotonic() > until,
            )  # fmt: skip
        except driver.OperationFailure as error:
            if index is None or error.code not in driver_errors.NO_SUCH_INDEX:
                raise
            return self._find(which, None, limit, until)  # somebody has dropped it
        return documents


def _kinds(node_id: str, now: datetime) -> Sequence[tuple[Document, layout.Keys]]:
    """What is looked for, each with the index that holds only such tasks."""
    is_asked = {"$exists": True}
    running = {"status": int(Status.RUNNING), "node": node_id, "cancel.at": is_asked}
    waiting = {"status": {"$in": [int(Status.ORPHANED), *forms.WAITING]}, "cancel.at": is_asked}
    # A status that is not a number leads nowhere.
    ended = {"$nin": sorted(int(one) for one in UNFINISHED), "$type": "number"}
    expired = {"status": {"$in": forms.WAITING}, "expires": {"$lte": now}}
    return [
        ({**running, **forms.NOT_ODD_ID}, layout.BY_CANCEL),
        ({**waiting, **forms.NOT_ODD_ID}, layout.BY_CANCEL),
        ({"awaited": True, "status": ended, **forms.NOT_ODD_ID}, layout.BY_AWAITED),
        ({**expired, **forms.NOT_ODD_ID}, layout.BY_EXPIRY),
    ]
