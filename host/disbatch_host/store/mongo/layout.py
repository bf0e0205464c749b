"""The layout that this program expects of a database: its version, and the indexes.

Every hot query is covered by an index of `_INDEXES` (tests hold their plans), and there are few of them: each costs
every write.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import pymongo
from pymongo import ASCENDING, DESCENDING
from pymongo import errors as driver
from pymongo.collection import Collection
from pymongo.database import Database

from disbatch_host.documents.records import Document, whole_number
from disbatch_host.errors import StoreTooNewError
from disbatch_host.store.contract import SCHEMA_VERSION
from disbatch_host.store.mongo import driver_errors
from disbatch_protocol.status import Status

log = logging.getLogger(__name__)

BUILD_SECONDS = 3600.0  # 5 s for a million tasks, on a machine that is not idle; others go on meanwhile
LAYOUT_COLLECTION = "disbatch_host"

Keys = Sequence[tuple[str, int]]

BY_STATUS = [("status", ASCENDING), ("queue", ASCENDING), ("priority", DESCENDING), ("_id", ASCENDING)]
# The tasks that wait for a task.
BY_AWAITED_TASK = (("after", ASCENDING), ("_id", ASCENDING))
# The kinds of tasks that are due: one index each, holding only tasks that have the field.
BY_CANCEL = (("status", ASCENDING), ("node", ASCENDING))
BY_AWAITED = (("awaited", ASCENDING), ("status", ASCENDING))
BY_EXPIRY = (("status", ASCENDING), ("expires", ASCENDING))

# The tasks of a batch; no others are in it.
BY_BATCH = (("batch", ASCENDING), ("status", ASCENDING))

# Tasks that failed, by their cause and in the order of creation, with all that is counted; no others are in it.
BY_FAILURE = tuple(
    (name, ASCENDING)
    for name in (
        "error.group.key", "_id", "mtime", "queue", "status", "node", "batch", "run.plugin.class", "run.plugin.version",
    )
)  # fmt: skip

# (keys, options) of `tasks`; see rule 2.
_INDEXES: Sequence[tuple[Keys, dict[str, Any]]] = (
    # The claim (equality, equality, then its order), queues with waiting tasks, counts by queue and status.
    (BY_STATUS, {}),
    # The tasks that a node has in hand; only unfinished tasks are in it, so finished ones cost nothing.
    (
        (("node", ASCENDING), ("status", ASCENDING)),
        {"partialFilterExpression": {"status": {"$gte": int(Status.CLAIMED), "$lte": int(Status.RUNNING)}}},
    ),
    # Tasks that are due. Those that also wait for another task come after all others, and are not looked at.
    ((("after", ASCENDING), ("not_before", ASCENDING)), {"partialFilterExpression": {"not_before": {"$exists": True}}}),
    (BY_AWAITED_TASK, {"partialFilterExpression": {"after": {"$exists": True}}}),
    (BY_CANCEL, {"partialFilterExpression": {"cancel.at": {"$exists": True}}}),
    (BY_AWAITED, {"partialFilterExpression": {"awaited": True}}),
    (BY_EXPIRY, {"partialFilterExpression": {"expires": {"$exists": True}}}),
    (BY_FAILURE, {"name": "tasks_failure", "partialFilterExpression": {"error.group.key": {"$exists": True}}}),
    (BY_BATCH, {"partialFilterExpression": {"batch": {"$exists": True}}}),
    # Conclusions whose follow-up tasks are not all there yet: nearly always none.
    ((("follow_ups._id", ASCENDING),), {"partialFilterExpression": {"follow_ups._id": {"$exists": True}}}),
)
_INDEXES_OF_BEFORE = ("not_before_1",)  # of older layouts; another index replaces it


def check(database: Database[Document], where: str) -> None:
    """Write the version of this program's layout if there is none or an older one. Raises StoreTooNewError."""
    found = database[LAYOUT_COLLECTION].find_one({"_id": "layout"})
    if found is None:
        # A race with another first node is harmless: both want the same document.
        with (
            contextlib.suppress(driver.DuplicateKeyError),
            driver_errors.only_looking("the layout's version is not written"),
        ):
            database[LAYOUT_COLLECTION].insert_one({"_id": "layout", "version": SCHEMA_VERSION})
        return
    version = whole_number(found.get("version"))
    if version is not None and version < SCHEMA_VERSION:
        with driver_errors.only_looking("the layout's version is not raised"):
            # An older program would promote tasks that wait for another one, so it must no longer start here.
            database[LAYOUT_COLLECTION].update_one({"_id": "layout"}, {"$max": {"version": SCHEMA_VERSION}})
            for name in _INDEXES_OF_BEFORE:
                with contextlib.suppress(driver.OperationFailure):  # it does not exist
                    database["tasks"].drop_index(name)
    if version is None or version > SCHEMA_VERSION:
        raise StoreTooNewError(
            f"{where} has layout {found.get('version')!r:.40}, this program knows {SCHEMA_VERSION} at most; "
            "install a newer disbatch-host"
        )


def version_of(database: Database[Document]) -> int | None:
    """The version of the layout that a database has; None if nobody has used it yet, 0 if somebody has changed it to
    something else."""
    found = database[LAYOUT_COLLECTION].find_one({"_id": "layout"})
    return None if found is None else whole_number(found.get("version")) or 0


def missing_indexes(database: Database[Document]) -> tuple[str, ...]:
    """The indexes of this layout that are not there, in words."""
    missing = []
    known: dict[str, set[Keys]] = {}
    for collection, keys, _ in _all_indexes(database):
        if collection.name not in known:
            known[collection.name] = _known(collection)
        if _in_tuples(keys) not in known[collection.name]:
            missing.append(f"{collection.name} ({', '.join(field for field, _ in keys)})")
    return tuple(missing)


def _known(collection: Collection[Document]) -> set[Keys]:
    return {_in_tuples(one["key"]) for one in collection.index_information().values()}


def _in_tuples(keys: Any) -> Keys:
    """Shells write directions as doubles."""
    return tuple((field, int(way) if isinstance(way, float) else way) for field, way in keys)


def _all_indexes(database: Database[Document]) -> Iterator[tuple[Collection[Document], Keys, dict[str, Any]]]:
    tasks, files, chunks = database["tasks"], database["tasks.files"], database["tasks.chunks"]
    yield from ((tasks, *index) for index in _INDEXES)
    # As every driver creates it; then, to delete a task's output with it.
    yield chunks, (("files_id", ASCENDING), ("n", ASCENDING)), {"unique": True}
    yield files, (("metadata.task_id", ASCENDING),), {}
    yield database["batches"], (("watched", ASCENDING),), {"partialFilterExpression": {"watched": True}}


def create_indexes(database: Database[Document]) -> None:
    """Create missing indexes."""
    tasks = database["tasks"]
    known: set[Keys] | None = None
    with contextlib.suppress(driver.OperationFailure):  # not everybody who may read may list them
        known = _known(tasks)
    for collection, keys, options in _all_indexes(database):
        try:
            # The server answers when the index is there, and a store of before may hold millions of tasks.
            is_long = collection.name == tasks.name and known is not None and _in_tuples(keys) not in known
            patience = pymongo.timeout(BUILD_SECONDS) if is_long else contextlib.nullcontext()
            with driver_errors.only_looking("indexes are not created"), patience:
                collection.create_index(list(keys), **options)
        except driver.OperationFailure as error:
            if error.code not in driver_errors.INDEX_CONFLICTS:
                raise
            # One of another program on the same fields serves as well, at a higher cost; its owner may drop it.
            log.warning("an index is not created, so looking for tasks costs more: %s", driver_errors.short(error))


def has_index(tasks: Collection[Document], keys: Keys) -> bool:
    """Whether an index is there: where this program may only look, nobody has created it."""
    return any(list(one["key"]) == list(keys) for one in tasks.index_information().values())
