"""Documents that may not be readable: one of them must not hide the others.

Responsible for: reading documents one by one after the driver failed on an answer that holds several. Must not know:
what is read, or for what.

The driver decodes an answer as a whole, and there are values that a server stores and the driver refuses, such as a
Binary whose length is not that of its content. That is rare, so the usual way costs nothing more.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from bson.errors import BSONError
from pymongo.collection import Collection

from disbatch_host.documents.records import Document
from disbatch_host.errors import StoreRefusedError
from disbatch_host.store.mongo import forms

Find = Callable[..., Any]  # a projection, and perhaps a further condition → a cursor that has not been read

# Raised by the driver for a value that it cannot decode. Its other errors are about the call itself.
NOT_DECODED = (BSONError, TypeError, ValueError, OverflowError, RecursionError)
FAULT = "it holds a value that cannot be read"

_AT_ONCE = 100  # read together, until one of them cannot be read


class UnreadableError(StoreRefusedError):
    """A document cannot be read."""


def all_of(
    find: Find,
    collection: Collection[Document],
    projection: Mapping[str, Any] | None,
    *,
    is_enough: Callable[[Document], bool] | None = None,
) -> tuple[list[Document], list[Any]]:
    """The documents that a query finds, in its order, and the ids of those that cannot be read. `is_enough` is asked
    after each document whether the rest can be left to another time."""
    try:
        documents = []
        with find(projection) as cursor:
            for document in cursor:
                documents.append(document)
                if is_enough is not None and is_enough(document):
                    break
        return documents, []
    except NOT_DECODED:
        found = list(each(find, collection, projection))
    return [one for _, one in found if one is not None], [task_id for task_id, one in found if one is None]


def each(
    find: Find, collection: Collection[Document], projection: Mapping[str, Any] | None
) -> Iterator[tuple[Any, Document | None]]:
    """The id and the document of each that a query finds, in its order, as far as they still exist; None for a document
    that cannot be read. Those whose ids cannot be read are left out."""
    left = _ids(find)
    while some := list(islice(left, _AT_ONCE)):
        try:
            together = {one["_id"]: one for one in collection.find({"_id": {"$in": some}}, projection)}
        except NOT_DECODED:
            yield from _one_by_one(some, collection, projection)
        else:
            yield from ((one, together[one]) for one in some if one in together)


def _ids(find: Find) -> Iterator[Any]:
    """The ids that a query finds. If some of them cannot be read, all are read at once, to be left out as a whole."""
    only_id = {"_id": 1}
    cursor = find(only_id)
    try:
        first = list(islice(cursor, _AT_ONCE))
    except NOT_DECODED:
        yield from (one["_id"] for one in find(only_id, forms.HAS_READABLE_ID))
    else:
        yield from (one["_id"] for one in itertools.chain(first, cursor))


def _one_by_one(
    ids: Iterable[Any], collection: Collection[Document], projection: Mapping[str, Any] | None
) -> Iterator[tuple[Any, Document | None]]:
    for one in ids:
        try:
            document = collection.find_one({"_id": one}, projection)
        except NOT_DECODED:
            yield one, None
        else:
            if document is not None:
                yield one, document
