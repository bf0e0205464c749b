"""Tasks whose time has come, and follow-up tasks that are still owed.

Responsible for: moving them on, in as few writes as possible, so that one that the server refuses does not stop the
others. Must not know: who waits for what.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pymongo import errors as driver
from pymongo.collection import Collection

from disbatch_host.documents import steps
from disbatch_host.documents.records import Document
from disbatch_host.documents.steps import PROMOTE
from disbatch_host.store.mongo import driver_errors, forms
from disbatch_host.store.mongo.follow_ups import FollowUps
from disbatch_host.store.mongo.passed_over import PassedOverTasks
from disbatch_host.store.mongo.updates import Updates


class Promotion:
    def __init__(self, tasks: Collection[Document], follow_ups: FollowUps, passed_over: PassedOverTasks) -> None:
        self._tasks = tasks
        self._updates = Updates(tasks)
        self._follow_ups = follow_ups
        self._passed_over = passed_over

    def carry_out(self, limit: int, now: datetime) -> int:
        """See `Store.promote_due`."""
        due: Document = {
            "status": int(PROMOTE.left),
            "not_before": {"$lte": now},
            "after": forms.NOT_AFTER,
            **forms.NOT_ODD_ID,
        }
        if passed_over := self._passed_over.ids():
            due["_id"] = {"$nin": passed_over}
        # Nearly always there is nothing of either kind, so one query asks for both.
        either = {"$or": [due, self._follow_ups.owing()]}
        if self._tasks.find_one(either, {"_id": 0, "due": 1}) is None:  # none of its fields: any may be damaged
            return 0
        created = self._follow_ups.create_all()
        ids = [one["_id"] for one in self._tasks.find(due, {"_id": 1}).sort("not_before").limit(limit)]
        if not ids:
            return created
        update: Document = {"$set": steps.promoted_fields(now=now), "$unset": {"not_before": ""}}
        try:
            self._tasks.update_many({**due, "_id": {"$in": ids}}, update)
        except driver.WriteError as error:  # at the first that is refused; the others are left as they were
            if not driver_errors.is_refusal(error):
                raise
            self._one_by_one(ids, due, update)
        return created + len(ids)

    def _one_by_one(self, ids: Sequence[Any], due: Document, update: Document) -> None:
        """Promote each by itself; those that are refused are passed over from now on."""
        sent = self._updates.send_each([({**due, "_id": one}, update) for one in ids], ordered=0)
        self._passed_over.add({ids[place]: str(why) for place, why in sent.refused.items()})
