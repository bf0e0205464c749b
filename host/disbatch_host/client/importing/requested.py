"""An import as a program asks for it, in JSON: tried first, then carried out by a server, which may be killed.

    {"queue": "mail", "map": {"Address": "to"}, "set": {"from": "us"}, "on_error": "skip", "priority": 1}

Responsible for: what such a request means, its trial, and the steps of carrying it out that must not happen twice. Must
not know: where files come from, servers.

Rules:
1. The batch of the tasks has the id of the import. Once it is closed everything is created, so a server that goes on
   after a kill creates nothing more.
2. A mask is no value: where a row or a constant has one in the place of a secret, it does not fit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from disbatch_host.client import finding
from disbatch_host.client.batch_members import NewBatch
from disbatch_host.client.importing import mapping
from disbatch_host.client.importing.files import OpenFile, rows_of
from disbatch_host.client.importing.from_source import Listeners, settled
from disbatch_host.client.importing.guessing import ADDED, has_added
from disbatch_host.client.importing.importer import Import, Imported, Progress, Rules
from disbatch_host.client.importing.task_maker import RowFault
from disbatch_host.client.importing.watched import Watched
from disbatch_host.client.masks import MASKED, masks_in
from disbatch_host.client.parameters import parse_json
from disbatch_host.client.published import known_plugin
from disbatch_host.client.pushing import Timing
from disbatch_host.documents.batch import Batch, BatchState
from disbatch_host.documents.records import Queue
from disbatch_host.errors import FieldError
from disbatch_host.store.contract import Store

if TYPE_CHECKING:
    from disbatch_host.client.published import AnyPlugin
    from disbatch_host.plugin.catalog import Catalog

FAULTS_MAX = 100  # that are told one by one


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested:
    """What somebody wants of a file."""

    queue: str
    maps: Mapping[str, str] | None = None  # column: parameter; None: all columns by name
    constants: Mapping[str, Any] = field(default_factory=dict)
    delimiter: str | None = None
    unique_key_from: str | None = None
    skips: bool = False  # rows that do not fit; else nothing is created if there is one
    timing: Timing = field(default_factory=Timing)

    def rules(self, columns: tuple[str, ...] | None) -> Rules:
        """For a file with these columns."""
        maps = self.maps
        if maps is None and columns is not None and has_added(columns):
            maps = {one: one for one in columns[: -len(ADDED)]}  # a table of faults that were mended
        return Rules(
            maps=[f"{column}={parameter}" for column, parameter in (maps or {}).items()],
            constants=self.constants,
            key_column=self.unique_key_from,
            stops=not self.skips,
        )


@dataclass(slots=True, kw_only=True)
class Trial:
    """What would come of it."""

    rows: int = 0
    faulty: int = 0
    faults: list[RowFault] = field(default_factory=list)  # the first ones
    sample: list[Mapping[str, Any]] = field(default_factory=list)  # tasks, masked
    secret_columns: tuple[str, ...] = ()
    notices: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)  # of the sample


class Prepared:
    """An import whose queue and plugin are known, so that its trial needs no store."""

    def __init__(self, store: Store, catalog: Catalog | None, requested: Requested, by: str) -> None:
        """Raises NotFoundError for an unknown queue, FieldError for a constant that is a mask."""
        self._store = store
        self._catalog = catalog
        self._requested = requested
        self._by = by
        self.queue: Queue = finding.find_queue(store, requested.queue)
        self._plugin: AnyPlugin | None = known_plugin(store, catalog, self.queue.class_name)
        if self._plugin is not None:
            for pointer in masks_in(self._plugin.schema, requested.constants):
                raise FieldError(f"set{pointer}", MASKED)
        self._settled = settled(store, Rules(), requested.timing, None, by)[0]  # what is wrong with times shows now

    def tried(
        self,
        file: OpenFile,
        most_samples: int = 5,
        *,
        on_fault: Callable[[RowFault], object] = lambda _: None,
        on_progress: Callable[[Progress], object] = lambda _: None,
    ) -> Trial:
        """Go through all rows; nothing is created. Raises UsageError for anything wrong that shows before the first
        row."""
        found = Trial()

        def add(fault: RowFault) -> None:
            rows.forget()
            if len(found.faults) < FAULTS_MAX:
                found.faults.append(fault)
            on_fault(fault)

        rows = Watched(rows_of(file, delimiter=self._requested.delimiter, counts_rows=True))
        fields = self._settled.fields
        rules = self._requested.rules(rows.columns)
        one = Import(
            self._store, self.queue, rows, Rules(**{**_members(rules), "fields": fields}), plugin=self._plugin,
            file=file, by=self._by, on_fault=add, on_notice=found.notices.append, on_progress=on_progress,
        )  # fmt: skip
        rows.required = self._filled_if_empty(rules, rows.columns)
        looked = one.look(most_samples)
        found.notices += rows.notices_at_end(has_keys=rules.key_column is not None)
        found.lines = rows.lines[: len(looked.tasks)]
        found.rows, found.faulty, found.sample = looked.rows, looked.faults, list(looked.tasks)
        found.secret_columns = tuple(sorted(one.secret_columns))
        return found

    def _filled_if_empty(self, rules: Rules, columns: tuple[str, ...] | None) -> Mapping[int, str]:
        if columns is None or self._plugin is None:
            return {}
        fields = mapping.parse_fields(rules.maps, columns) if rules.maps else mapping.of_all_columns(columns)
        return mapping.filled_if_empty(columns, fields, self._plugin.schema, parse_json)


def _members(rules: Rules) -> dict[str, Any]:
    return {name: getattr(rules, name) for name in ("maps", "constants", "key_column", "stops", "is_checking")}


def perform(
    store: Store,
    catalog: Catalog | None,
    requested: Requested,
    opened: Callable[[], contextlib.AbstractContextManager[OpenFile]],
    import_id: str,
    by: str,
    listeners: Listeners,
) -> Imported | None:
    """Create the tasks, or the rest of them; None: all were created before. Raises as `Import.perform` does."""
    document = store.get_batch(import_id)
    if document is not None and Batch.from_document(document).state is not BatchState.OPEN:
        return None  # rule 1
    queue = finding.find_queue(store, requested.queue)
    plugin = known_plugin(store, catalog, queue.class_name)
    batch = NewBatch(name=import_id, closes=True)
    with opened() as file:
        rows = rows_of(file, delimiter=requested.delimiter, counts_rows=True)
        rules, identity = settled(store, requested.rules(rows.columns), requested.timing, batch, by)
        one = Import(
            store, queue, rows, rules, plugin=plugin, file=file, identity=identity, batch=batch, by=by,
            catalog=catalog, **listeners,
        )  # fmt: skip
        return one.perform()


def created(store: Store, import_id: str) -> int:
    """How many tasks there are of an import."""
    return sum(store.count_batch(import_id).by_status.values())
