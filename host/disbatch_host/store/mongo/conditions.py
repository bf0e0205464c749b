"""The condition of a database: what the server says about itself, and what this user may do there.

Responsible for: asking without changing anything. Must not know: what follows from the answers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pymongo
from pymongo import errors as driver
from pymongo.database import Database

from disbatch_host.documents.records import Document
from disbatch_host.store.contract import SCHEMA_VERSION
from disbatch_host.store.contract.answers import StoreCondition
from disbatch_host.store.mongo import driver_errors, layout

# What a node does with each collection.
_INDEXED = ("tasks", "tasks.files", "tasks.chunks", "disbatch_keys", "batches")
_WRITTEN = (*_INDEXED, "queues", "nodes", layout.LAYOUT_COLLECTION, "disbatch_limits")
_WRITES = ("find", "insert", "update", "remove")


def condition_of(client: pymongo.MongoClient[Document], database: Database[Document]) -> StoreCondition:
    """Raises the driver's exceptions."""
    began = time.monotonic()
    hello = client.admin.command("hello")
    answer_seconds = time.monotonic() - began
    version = layout.version_of(database)  # the first question that needs rights: without them, that is the answer
    granted = _granted(client, database.name)
    return StoreCondition(
        product=f"MongoDB {_version_of(client)}",
        form=_form(hello),
        layout=version,
        missing_indexes=_missing_indexes(database) if version == SCHEMA_VERSION else (),
        why_not_write=_lacking(granted, _WRITES, _WRITTEN, database.name),
        why_not_index=_lacking(granted, ("createIndex",), _INDEXED, database.name),
        announces=_is_replicated(hello),
        answer_seconds=answer_seconds,
    )


def _missing_indexes(database: Database[Document]) -> tuple[str, ...] | None:
    try:
        return layout.missing_indexes(database)
    except driver.OperationFailure as error:
        if error.code == driver_errors.UNAUTHORIZED:  # to see them is a right of its own, which nodes do not need
            return None
        raise


def _version_of(client: pymongo.MongoClient[Document]) -> str:
    try:
        return str(client.admin.command("buildInfo").get("version", "?"))
    except driver.OperationFailure:  # a server may keep it from users
        return "of an unknown version"


def _is_replicated(hello: Mapping[str, Any]) -> bool:
    return bool(hello.get("setName")) or hello.get("msg") == "isdbgrid"


def _form(hello: Mapping[str, Any]) -> str:
    if hello.get("msg") == "isdbgrid":
        return "sharded cluster"
    if hello.get("setName"):
        members = len(hello.get("hosts") or ())
        return f"replica set {hello['setName']} of {members} member{'' if members == 1 else 's'}"
    return "standalone server"


def _granted(client: pymongo.MongoClient[Document], database: str) -> dict[str, set[str]] | None:
    """The actions that this user is allowed, for each collection; None if the server does not ask who somebody is, or
    does not say what it allows."""
    try:
        status = client.admin.command("connectionStatus", showPrivileges=True)
    except driver.OperationFailure as error:
        if error.code in driver_errors.NO_STREAMS or not driver_errors.is_refusal(error):
            return None
        raise
    info = status.get("authInfo") or {}
    if not info.get("authenticatedUsers"):
        return None
    granted: dict[str, set[str]] = {name: set() for name in _WRITTEN}
    for resource, actions in _privileges(info):
        for name in _WRITTEN:
            is_of_it = resource.get("anyResource") is True or (
                resource.get("db") in ("", database) and resource.get("collection") in ("", name)
            )
            if is_of_it:
                granted[name] |= actions
    return granted


def _privileges(info: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], set[str]]]:
    for one in info.get("authenticatedUserPrivileges") or ():
        yield one.get("resource") or {}, set(one.get("actions") or ())


def _lacking(
    granted: Mapping[str, set[str]] | None, actions: Sequence[str], collections: Sequence[str], database: str
) -> str | None:
    if granted is None:
        return None
    lacking = {name: [one for one in actions if one not in granted[name]] for name in collections}
    words = [f"{', '.join(missing)} on {database}.{name}" for name, missing in lacking.items() if missing]
    more = f" and {len(words) - _NAMED_MAX} more" if len(words) > _NAMED_MAX else ""
    return f"this user lacks {'; '.join(words[:_NAMED_MAX])}{more}" if words else None


_NAMED_MAX = 3
