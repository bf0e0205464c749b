"""An import in one call: from a file that is opened here, a stream, or a collection.

Responsible for: opening the rows, and the identity of an import. Must not know: how an import proceeds (that is
`importer`).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import IO, TYPE_CHECKING, Any, TypedDict

from disbatch_host.client.batch_members import NewBatch
from disbatch_host.client.importing.collection import DocumentRows
from disbatch_host.client.importing.files import kept, opened, rows_of
from disbatch_host.client.importing.importer import Import, Imported, Progress, Resumed, Rules
from disbatch_host.client.importing.task_maker import RowFault
from disbatch_host.client.published import known_plugin
from disbatch_host.client.pushing import Plan, Timing
from disbatch_host.documents.records import Queue
from disbatch_host.errors import UsageError
from disbatch_host.store.contract import Store

if TYPE_CHECKING:
    from disbatch_host.plugin.catalog import Catalog


class Listeners(TypedDict, total=False):
    """Callbacks during an import."""

    on_fault: Callable[[RowFault], object]  # each row that does not fit
    on_progress: Callable[[Progress], object]
    on_resumed: Callable[[Resumed], object]  # it resumes an earlier one
    on_notice: Callable[[str], object]  # what was taken for granted about the file, such as its delimiter


def import_file(
    store: Store,
    catalog: Catalog | None,
    queue: Queue,
    source: str | os.PathLike[str] | IO[bytes],
    rules: Rules,
    timing: Timing,
    listeners: Listeners,
    *,
    form: str | None = None,
    delimiter: str | None = None,
    begins_again: bool = False,
    batch: NewBatch | None = None,
    by: str,
) -> Imported:
    """A task for each row of a file, or of a stream, which is spooled first."""
    rules, identity = settled(store, rules, timing, batch, by)
    opening = opened(source) if isinstance(source, (str, os.PathLike)) else kept(source, "stream")
    with opening as file:
        rows = rows_of(file, form=form, delimiter=delimiter)
        plugin = known_plugin(store, catalog, queue.class_name)
        one = Import(
            store, queue, rows, rules, plugin=plugin, file=file, identity=identity, batch=batch, by=by,
            catalog=catalog, **listeners,
        )  # fmt: skip
        return one.perform(begins_again=begins_again)


def import_collection(
    store: Store,
    catalog: Catalog | None,
    queue: Queue,
    collection: str,
    condition: Mapping[str, Any],
    rules: Rules,
    timing: Timing,
    listeners: Listeners,
    *,
    batch: NewBatch | None = None,
    by: str,
) -> Imported:
    """A task for each document of a collection that matches a MongoDB condition."""
    rules, _ = settled(store, rules, timing, batch, by)
    rows = DocumentRows(store, collection, dict(condition))
    plugin = known_plugin(store, catalog, queue.class_name)
    return Import(
        store, queue, rows, rules, plugin=plugin, batch=batch, by=by, catalog=catalog,
        **listeners,
    ).perform()  # fmt: skip


def settled(
    store: Store, rules: Rules, timing: Timing, batch: NewBatch | None, by: str
) -> tuple[Rules, dict[str, Any]]:
    """The rules with the fields of the plan, and the identity of the import. The identity is the request, not its
    present result: the same call with a delay of an hour is the same import a minute later."""
    if timing.get("unique_key") is not None:
        raise UsageError("unique_key: one key for all rows would create only one task; use key_column instead")
    if "after" in timing:
        timing = {**timing, "after": [str(one) for one in timing["after"]]}
    identity = {"rules": dataclasses.asdict(rules), "timing": timing}
    if batch is not None:
        identity["batch"] = dataclasses.asdict(batch)
    return dataclasses.replace(rules, fields={**rules.fields, **Plan.of(store, by=by, **timing).fields}), identity
