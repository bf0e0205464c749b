"""An import: a task for each row of a file or a collection, from the preview to the last batch.

Responsible for: reporting on the rows, the identity of the import (so that a killed one can resume), and the order
of check, record and creation. Must not know: terminals, files that are not open.

Rules:
1. With `Rules.stops`, nothing is created until all rows have been checked, and nothing at all if one does not fit.
2. The same rows with the same rules are the same import: a killed one resumes where it was. The documents of a
   collection have no such identity, since nothing shows whether they are still the same.
3. `Import.result` is correct at every moment, even after an exception.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from disbatch_host import suggested
from disbatch_host.client import batch_members
from disbatch_host.client.batch_finding import earlier_import
from disbatch_host.client.batch_members import Member, NewBatch
from disbatch_host.client.importing import advice, mapping
from disbatch_host.client.importing.files import OpenFile
from disbatch_host.client.importing.passes import Counts, check_rows, create_rows
from disbatch_host.client.importing.record import Record, begin
from disbatch_host.client.importing.rows import Rows
from disbatch_host.client.importing.task_maker import RowFault, TaskMaker
from disbatch_host.client.parameters import misspelt_note, parse_json
from disbatch_host.documents.batch import Batch
from disbatch_host.documents.records import Queue, QueueId
from disbatch_host.errors import FieldError, RowsRefusedError
from disbatch_host.store.contract import Store
from disbatch_protocol.masks import masked_at

if TYPE_CHECKING:
    from disbatch_host.client.published import AnyPlugin
    from disbatch_host.plugin.catalog import Catalog

FIRST_SHOWN = 3  # tasks of a preview


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How rows become tasks."""

    maps: Sequence[str] = ()  # `column=parameter`, `column:=parameter` for JSON; none: all columns by name
    constants: Mapping[str, Any] = field(default_factory=dict)  # parameters that all tasks get
    key_column: str | None = None  # its value is the unique key of the task
    fields: Mapping[str, Any] = field(default_factory=dict)  # of each document, besides its parameters
    stops: bool = True  # if rows do not fit, create nothing; False: create all the others
    is_checking: bool = True  # whether parameters are checked against the schema of the plugin


class Step(StrEnum):
    """The current step of an import."""

    CHECKING = "checking"
    CREATING = "creating"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The progress of an import."""

    step: Step
    rows: int = 0  # processed by this step
    total: int | None = None  # all rows, if known


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """An unfinished earlier import of the same rows, which this one resumes."""

    begun: datetime
    rows: int  # already done


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """A preview of an import."""

    rows: int  # without the empty ones
    faults: int  # rows that do not fit
    empty: int  # rows of nothing, which become no task
    tasks: Sequence[Mapping[str, Any]]  # the first ones, secrets masked

    @property
    def fit(self) -> int:
        return self.rows - self.faults


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """The result of an import so far, including anything done before it was resumed."""

    queue: QueueId
    rows: int  # without the empty ones
    created: int
    existing: int  # not created: an unfinished task has the unique key
    faults: int  # rows that do not fit
    skipped: int  # of these, those left out while the others were created
    empty: int  # rows of nothing, which become no task
    import_id: str | None  # None: creation has not begun
    batch: str | None  # the batch of its tasks; None: likewise, or it was begun by a program without batches
    is_resumed: bool
    is_whole: bool  # False: not finished, or another process importing the same rows finished them

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "created": self.created,
            "existing": self.existing,
            "skipped": self.skipped,
            "faults": self.faults,
            "empty": self.empty,
            "import_id": self.import_id,
            "batch": self.batch,
            "resumed": self.is_resumed,
        }


def _said_before(batch_id: str) -> str:
    then, now = suggested.hint("batch cancel", batch_id), suggested.hint("batch cancel @last")
    return (
        f"the same file was imported into this queue before, as batch {batch_id}: its tasks are created once more "
        f"({then} cancels the unfinished ones of then, {now} these; "
        "--unique-key-from keeps rows from becoming tasks twice)"
    )


class Import:
    """One import. `plugin`: the queue's, if known. `file` holds the rows, None for a collection. `batch`: of its tasks,
    by default one of its own; `by`: the person who makes it; `catalog` checks the parameters of its `on_done`.
    `identity` tells this import from others of the same file: everything that changes the tasks made from it, as
    requested (a relative delay as such, not the resulting moment). `report`: the file into which the caller writes the
    rows that do not fit, for people who look at the batch.

    `on_fault` gets each row that does not fit, `on_progress` the progress, `on_resumed` the earlier import that it
    resumes, `on_notice` a sentence about the file that people should know. Raises UsageError for anything wrong that
    shows before the first row.
    """

    def __init__(
        self,
        store: Store,
        queue: Queue,
        rows: Rows,
        rules: Rules,
        *,
        plugin: AnyPlugin | None = None,
        file: OpenFile | None = None,
        batch: NewBatch | None = None,
        by: str,
        catalog: Catalog | None = None,
        identity: Mapping[str, Any] | None = None,
        report: str | None = None,
        on_fault: Callable[[RowFault], object] = lambda _: None,
        on_progress: Callable[[Progress], object] = lambda _: None,
        on_resumed: Callable[[Resumed], object] = lambda _: None,
        on_notice: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._store = store
        self._queue = queue
        self._rows = rows
        self._rules = rules
        self._file = file
        self._batch = batch or NewBatch()
        self._by = by
        self._catalog = catalog
        self._member: Member | None = None
        self._identity = identity or {}
        self._report = report
        self._on_fault = on_fault
        self._on_progress = on_progress
        self._on_resumed = on_resumed
        self._on_notice = on_notice
        self._plugin = plugin
        self._columns: Sequence[mapping.Field] = ()
        self._maker = self._maker_of(plugin)
        self._counts = Counts()
        self._record: Record | None = None
        self._is_resumed = False
        self._is_whole = False

    @property
    def result(self) -> Imported:
        """The result so far."""
        counts = self._counts
        return Imported(
            queue=self._queue.id,
            rows=counts.rows - counts.empty,
            created=counts.created,
            existing=counts.existing,
            faults=counts.faults,
            skipped=0 if self._rules.stops else counts.faults,
            empty=counts.empty,
            import_id=None if self._record is None else self._record.first_id,
            batch=None if self._member is None else self._member.id,
            is_resumed=self._is_resumed,
            is_whole=self._is_whole,
        )

    @property
    def columns(self) -> Sequence[str] | None:
        """The names in the header, if the rows have one."""
        return self._rows.columns

    @property
    def secret_columns(self) -> frozenset[str]:
        """Those whose values are masked in reports."""
        return self._maker.secret_columns

    def look(self, shown: int = FIRST_SHOWN) -> Looked:
        """Preview only: nothing is created, and no store is needed. `shown`: so many tasks. Raises UsageError if no row
        has one of the columns of `maps`."""
        self._check_batch()
        first: list[dict[str, Any]] = []

        def keep(values: dict[str, Any], key: str | None) -> None:
            if len(first) < shown:
                first.append(self._shown(values, key))

        self._notify()
        self._check(keep)
        counts = self._counts
        return Looked(rows=counts.rows - counts.empty, faults=counts.faults, empty=counts.empty, tasks=first)

    def perform(self, *, begins_again: bool = False) -> Imported:
        """Create the tasks, or the remaining ones if the same import was killed; with `begins_again` that one is
        forgotten.

        Raises RowsRefusedError if rows do not fit and `stops` is set, UsageError if the file changes meanwhile,
        StoreError."""
        self._check_batch()
        self._notify()
        total = None
        if self._rules.stops:
            self._check(lambda values, key: None)
            total = self._counts.rows
            if faults := self._counts.faults:
                count = total - self._counts.empty
                rows = "1 row" if count == 1 else f"{count} rows"
                fit = "does not fit" if faults == 1 else "do not fit"
                raise RowsRefusedError(f"nothing is created: {faults} of {rows} {fit}")
        name = self._name()
        self._begin(name, begins_again=begins_again)
        self._is_whole = self._create(name, total)
        if not self._is_whole and self._counts.faults:  # documents changed since they were checked
            raise RowsRefusedError("stopped at a document that does not fit; tasks for those before it were created")
        return self.result

    def map_advice(self, fault: RowFault) -> str | None:
        """A sentence with the `maps` to try, where the columns have other names than the parameters of the plugin;
        None: that is not what is wrong. `fault`: of a row, which shows the names where there is no header."""
        columns = self._rows.columns or (tuple(fault.row) if isinstance(fault.row, dict) else ())
        if self._plugin is None or not columns:
            return None
        fields = self._columns or [mapping.Field(column=one, path=(one,)) for one in columns]
        return advice.on_maps(columns, fields, self._plugin.schema, self._plugin.name, set(self._rules.constants))

    def _check_batch(self) -> None:
        """Before anything is written. Raises as `batch_members.begin` does for a batch that cannot be."""
        batch_members.check(self._store, self._batch, self._catalog, checks=self._rules.is_checking)

    def _notify(self) -> None:
        for notice in self._rows.notices:
            self._on_notice(notice)
        schema = self._plugin.schema if self._plugin is not None and self._rules.is_checking else None
        names = [*dict.fromkeys(field.path[0] for field in self._columns), *self._rules.constants]
        if (note := misspelt_note(names, schema)) is not None:
            self._on_notice(note)

    def _maker_of(self, plugin: AnyPlugin | None) -> TaskMaker:
        rules, columns = self._rules, self._rows.columns
        schema = None if plugin is None else plugin.schema
        has_map = bool(rules.maps)
        if has_map:
            self._columns = mapping.parse_fields(rules.maps, columns)
        elif columns is not None:
            self._columns = mapping.of_all_columns(columns)
        if columns is not None:
            mapper = mapping.csv_mapper(columns, self._columns, schema, rules.constants, parse_json)
        else:
            fields = self._columns if has_map else None
            mapper = mapping.object_mapper(fields, rules.constants, parse_json, has_references=self._file is None)
        return TaskMaker(
            queue=self._queue.id,
            mapper=mapper,
            schema=schema,
            is_checking=rules.is_checking,
            key=None if rules.key_column is None else mapping.key_of_column(columns, rules.key_column),
            columns=columns,
            secret_columns=mapping.secret_columns(self._columns, schema),
            column_of={field.path[0]: field.column for field in self._columns},
        )

    def _check(self, on_fit: Callable[[dict[str, Any], str | None], None]) -> None:
        """Go through all rows."""
        unseen = [] if self._rows.columns is not None else list(self._columns)

        def see(values: dict[str, Any], key: str | None) -> None:
            nonlocal unseen
            if unseen:
                unseen = [one for one in unseen if not mapping.is_there(values, one)]
            on_fit(values, key)

        self._counts = check_rows(self._rows, self._maker, self._on_fault, self._advance_of(Step.CHECKING, None), see)
        if unseen and self._counts.rows > self._counts.faults:
            raise FieldError("maps", f"no row has {unseen[0].column!r}; does it have another name?")

    def _name(self) -> str | None:
        """The note's name in the store. None: this import cannot be resumed."""
        if self._file is None:
            return None
        content = self._file.content_digest().hex()
        text = json.dumps([str(self._queue.id), content, self._rows.form, self._identity], sort_keys=True, default=str)
        return f"import {hashlib.sha256(text.encode()).hexdigest()[:40]}"

    def _begin(self, name: str | None, *, begins_again: bool) -> None:
        fields, in_batch = self._rules.fields, self._batch.name
        earlier = self._earlier()
        if name is None:
            self._record = Record.new(self._store, fields, in_batch)
        else:
            if self._batch.name is not None and (begins_again or self._store.read_note(name) is None):
                self._join(is_resumed=False)  # a batch that is closed is said before anything is written
            self._record, self._is_resumed = begin(self._store, name, fields, in_batch, begins_again=begins_again)
        if self._is_resumed:
            self._on_resumed(Resumed(begun=self._record.begun, rows=self._record.rows))
        elif earlier is not None:
            self._on_notice(_said_before(earlier.id))
        if self._member is None and "batch" in self._record.fields:  # not if it was begun by a program without batches
            self._join(is_resumed=self._is_resumed)

    def _earlier(self) -> Batch | None:
        """The batch that the same file was imported into before, where that makes its tasks once more."""
        if self._file is None or self._rules.key_column is not None:
            return None
        return earlier_import(self._store, self._file.content_digest().hex(), str(self._queue.id))

    def _join(self, *, is_resumed: bool) -> None:
        if self._file is not None:
            source = {"kind": "import", "name": self._rows.name, "sha256": self._file.content_digest().hex()}
        else:
            source = {"kind": "collection", "name": self._rows.name}
        self._member = batch_members.begin(
            self._store,
            self._batch,
            self._by,
            source={**source, "queue": str(self._queue.id)},
            catalog=self._catalog,
            default_id=None if self._record is None else str(self._record.fields["batch"]),
            is_resumed=is_resumed,
            checks=self._rules.is_checking,
        )
        self._member.report = self._report

    def _create(self, name: str | None, total: int | None) -> bool:
        assert self._record is not None
        self._counts = Counts(created=self._record.created, existing=self._record.existing)
        return create_rows(
            self._store,
            self._rows,
            self._maker,
            self._record,
            name,
            self._counts,
            is_checked=self._rules.stops and self._file is not None,
            stops=self._rules.stops,
            on_fault=self._on_fault,
            advance=self._advance_of(Step.CREATING, total),
            is_unchanged=lambda: self._file is None or not self._file.source.has_changed(),
            member=self._member,
        )

    def _advance_of(self, step: Step, total: int | None) -> Callable[[int], None]:
        rows = 0
        self._on_progress(Progress(step=step, total=total))

        def advance(count: int) -> None:
            nonlocal rows
            rows += count
            self._on_progress(Progress(step=step, rows=rows, total=total))

        return advance

    def _shown(self, values: Mapping[str, Any], key: str | None) -> dict[str, Any]:
        """A task as a preview shows it."""
        places = () if self._maker.schema is None else self._maker.schema.secrets(values)
        fields = {name: value for name, value in self._rules.fields.items() if name != "created_by"}  # the reader
        shown = {"queue": self._queue.id, "parameters": masked_at(values, places), **fields}
        return shown if key is None else {**shown, "unique_key": key}
