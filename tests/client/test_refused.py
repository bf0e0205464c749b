"""What people are told if an index or a validator of another program refuses what they ask for."""

from __future__ import annotations

from typing import Any

import pytest
from bson import ObjectId

from disbatch_host.client import Client, Selection, deleting
from disbatch_host.client.control import Changes, Outcome
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import new_task
from disbatch_host.errors import ForeignIndexError
from disbatch_host.store.mongo import MongoStore
from helpers.stores import NOW, push, stored, task_of

pytestmark = [pytest.mark.mongodb, pytest.mark.own_database]


@pytest.fixture
def client(mongo: MongoStore, raw: Any) -> Client:
    mongo.insert_queue({"_id": "q", "class": "mail"})
    keys = [("queue", 1), ("parameters.user", 1)]
    raw["tasks"].create_index(keys, name="one per user", unique=True, partialFilterExpression={"status": -2})
    return Client(mongo, None, "me@here")


def test_one_task_that_cannot_be_run_again_does_not_keep_the_others_from_it(client: Client, mongo: MongoStore) -> None:
    bad, good = push(mongo, {"user": "a"}, {"user": "b"}, status=2)
    push(mongo, {"user": "a"})
    changes = client.retry(Selection(queue="q"))
    assert changes.counts == {Outcome.RETRIED: 1, Outcome.STORE_REFUSED: 1}
    (left,) = changes.left
    assert left.task.id == bad and "'one per user'" in left.why
    assert (stored(mongo, bad)["status"], stored(mongo, good)["status"]) == (2, -2)


def test_a_task_that_owes_follow_ups_is_said_not_to_be_deleted_yet(client: Client, mongo: MongoStore, raw: Any) -> None:
    owed = [{"_id": ObjectId(), **new_task("q", {"user": "c"}, now=NOW)}]
    owing, free = push(mongo, {}, {}, status=1)
    raw["tasks"].update_one({"_id": owing}, {"$set": {"follow_ups": owed}})
    for which in (TaskFilter(queue="q"), [task_of(mongo, owing)]):
        changes = Changes.of(deleting.delete(mongo, which))
        assert [(one.task.id, one.outcome) for one in changes.left] == [(owing, Outcome.OWES)]
    mongo.promote_due()
    assert Changes.of(deleting.delete(mongo, [task_of(mongo, owing)])).counts == {Outcome.DELETED: 1}
    assert mongo.get_task(free) is None


def test_a_push_names_the_index_and_what_was_created(client: Client, mongo: MongoStore) -> None:
    with pytest.raises(ForeignIndexError, match="'one per user'") as caught:
        list(client.push_many("q", [{"user": "b"}, {"user": "b"}, {"user": "c"}]))
    assert {task.id for task in mongo.find_tasks(TaskFilter())} == set(caught.value.created)
