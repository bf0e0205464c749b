"""Follow-up tasks on MongoDB, where they are created in steps: whoever stops between two steps, each comes once."""

from __future__ import annotations

from typing import Any

import pytest
from bson import ObjectId
from pymongo.collection import Collection

from contract.test_mongo_races import failing
from disbatch_host.documents.changes import RunChange, RunKey, TaskFilter
from disbatch_host.documents.records import new_task
from disbatch_host.errors import StoreUnreachableError
from disbatch_host.store.mongo import MongoStore
from disbatch_protocol.status import Status
from helpers.mongod import Mongod
from helpers.stores import NOW, change, claim_one

pytestmark = pytest.mark.mongodb

_LOST = {"code": 64, "errmsg": "waiting for replication timed out"}


def conclusion(key: RunKey, *children: Any) -> RunChange:
    return RunChange(
        key=key,
        statuses=(Status.RUNNING,),
        set={"status": int(Status.CONCLUDED), "mtime": NOW},
        creates=tuple(new_task("next", {"n": one}, now=NOW) for one in children),
    )


def running(store: MongoStore, token: str = "t1") -> RunKey:
    _, key = claim_one(store, token)
    store.commit([change(key, Status.CLAIMED, Status.RUNNING)])
    return key


def children(store: MongoStore) -> list[int]:
    return sorted(task.parameters["n"] for task in store.find_tasks(TaskFilter(queue="next")))


def owes(store: MongoStore, key: RunKey) -> bool:
    task = store.get_task(key.task_id)
    assert task is not None
    return "follow_ups" in task.document


def test_what_a_majority_has_not_confirmed_is_owed_still(mongo: MongoStore, mongod_server: Mongod) -> None:
    """A primary that has lost its majority inserts, says so, and is overruled: what it has inserted is gone. Had the
    debt been crossed out, nobody would ever create them."""
    key = running(mongo)
    with (
        failing(mongod_server, {"times": 1}, failCommands=["insert"], writeConcernError=_LOST),
        pytest.raises(StoreUnreachableError),
    ):
        mongo.commit([conclusion(key, 1, 2)])
    assert owes(mongo, key)
    assert mongo.commit([conclusion(key, 1, 2)]) == set()
    assert children(mongo) == [1, 2] and not owes(mongo, key)


def test_a_node_that_was_stopped_in_the_middle_does_not_cross_out_a_later_debt(
    mongo: MongoStore, second_mongo: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has read what a task owed; when it goes on, others have created that, and the task has been run again and
    owes something else."""
    key = running(mongo)
    insert = Collection.insert_many
    is_first = True

    def stop_before(collection: Any, documents: Any, **options: Any) -> Any:
        nonlocal is_first
        if is_first:
            is_first = False
            second_mongo.promote_due()  # the others create 1, then the task is run again
            second_mongo._tasks.update_one(
                {"_id": key.task_id},
                {"$set": {"follow_ups": [{"_id": ObjectId(), **new_task("next", {"n": 2}, now=NOW)}]}},
            )
        return insert(collection, documents, **options)

    monkeypatch.setattr(Collection, "insert_many", stop_before)
    mongo.commit([conclusion(key, 1)])
    assert owes(mongo, key)
    mongo.promote_due()
    assert children(mongo) == [1, 2] and not owes(mongo, key)
