"""Finding a batch as a person names it: by its id, the beginning of its id, or as the newest of that person.

Must not know: what is done with it.
"""

from __future__ import annotations

from disbatch_host import suggested
from disbatch_host.documents.batch import Batch
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.errors import NotFoundError, UsageError
from disbatch_host.store.contract import Store
from disbatch_protocol.faults import near_name

PREFIX_MIN = 6  # characters of a shortened id
NEWEST = "@last"
_NEAR_OF = 200  # the newest batches, among which a similar name is looked for


def find_batch(store: Store, text: str, by: str | None = None) -> Batch:
    """The batch with this id, or the only one whose id begins with it (6 characters or more); `@last` is the newest of
    `by`. Raises NotFoundError, which suggests a similar id, and UsageError if several ids begin so."""
    if text == NEWEST:
        for document in store.find_batches(newest_first=True, limit=_NEAR_OF):
            if document.get("by") == by:
                return Batch.from_document(document)
        shows = suggested.hint("batch list")
        raise NotFoundError(f"no batch in {store.description} was made by {by}; {shows} shows all")
    found = store.get_batch(text)
    if found is not None:
        return Batch.from_document(found)
    if len(text) >= PREFIX_MIN:
        some = store.find_batches(prefix=text, limit=3)
        if len(some) == 1:
            return Batch.from_document(some[0])
        if some:
            ids = ", ".join(str(one["_id"]) for one in some[:2])
            raise UsageError(f"expected the id of one batch, found {text!r}, with which several begin: {ids}")
    known = [str(one["_id"]) for one in store.find_batches(newest_first=True, limit=_NEAR_OF)]
    near = near_name(text, known)
    hint = f"did you mean {near!r}?" if near else f"{suggested.hint('batch list')} shows the newest"
    if len(text) < PREFIX_MIN and any(one.startswith(text) for one in known):
        hint = f"the beginning of an id needs {PREFIX_MIN} characters or more; {hint}"
    raise NotFoundError(f"no batch {text!r} in {store.description}; {hint}")


def earlier_import(store: Store, sha256: str, queue: str) -> Batch | None:
    """The newest batch that a file with this content was imported into, for the same queue; None if there is none among
    the newest batches, or all of its tasks were cancelled."""
    for document in store.find_batches(newest_first=True, limit=_NEAR_OF):
        batch = Batch.from_document(document)
        if batch.source.get("sha256") == sha256 and batch.source.get("queue") == queue:
            is_undone = bool(batch.summed("total")) and batch.summed("cancelled") == batch.summed("total")
            return None if is_undone else batch
    return None


def batch_id_of(store: Store, text: str, by: str | None = None) -> str:
    """The id for a filter: that of a batch, or one that only tasks still have. Raises as `find_batch` does."""
    try:
        return find_batch(store, text, by).id
    except NotFoundError:
        if next(iter(store.find_tasks(TaskFilter(batch=text), limit=1, with_output=False)), None) is None:
            raise
        return text
