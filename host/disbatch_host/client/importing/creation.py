"""Tasks from rows: all of them checked before the first is created, and created so that a killed import goes on where
it was.

Responsible for: what becomes of a row that does not fit; the record of an import; the ids of its tasks. Must not know:
what a row is made of, terminals.

Rules:
1. Ids follow from the record and the number of the row: the first is the store's, the others are counted on from it.
   Whoever creates a row a second time, after a kill or at the same time as another process, means the same task.
2. A row is done for the record when its task is durable, never before.
3. The record is gone when everything is done: the same file then makes new tasks.
4. Only one process makes the record (`write_note` with `is_new`); all others that import the same take it over.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from disbatch_host.client.importing.mapping import Mapper, RowError
from disbatch_host.client.importing.rows import ROW_MAX, BadRow, Rows
from disbatch_host.documents.records import Document, QueueId, new_task
from disbatch_host.errors import UsageError
from disbatch_host.store.contract import Store
from disbatch_protocol.document import plain_document
from disbatch_protocol.parameters import ParameterSchema

BATCH_ROWS = 2000  # in one commit: enough that its fsync costs little, and a kill repeats no more than these
BATCH_BYTES = 4 * 2**20  # of rows in one commit: what is in memory at once, a few times over
_DIGITS = 24  # hexadecimal, of a task id


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFault:
    """A row that does not fit."""

    line: int
    reason: str
    row: Any  # as it can be shown: what is secret is masked, or nothing


@dataclass(slots=True, kw_only=True)
class Counts:
    """What has become of the rows so far."""

    rows: int = 0
    created: int = 0
    existing: int = 0  # another unfinished task has their unique key
    faults: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """How far an import has come; a note in the store while it is not done."""

    first_id: str  # of the task of row 0, were it created
    begun: datetime
    fields: Mapping[str, Any]  # that all its tasks have, as they were meant when it was begun
    rows: int = 0  # that are done, from the first
    created: int = 0
    existing: int = 0

    def id_of(self, number: int) -> str:
        """The task id of a row, by its number from 0. Where the last three bytes overflow, it counts on in those
        before: the order stays, and nobody else's id has the same beginning."""
        return f"{int(self.first_id, 16) + number:0{_DIGITS}x}"

    def to_document(self) -> Document:
        return {**{one.name: getattr(self, one.name) for one in dataclasses.fields(self)}, "fields": dict(self.fields)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Record:
        return cls(**{one.name: document[one.name] for one in dataclasses.fields(cls)})


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskMaker:
    """Makes a task of a row. `schema` also where nothing is checked: it says what is secret."""

    queue: QueueId
    mapper: Mapper
    schema: ParameterSchema | None
    is_checking: bool
    check_size: Callable[[Mapping[str, Any]], object]  # raises UsageError
    key: Callable[[Any], str] | None  # the unique key of a row
    columns: tuple[str, ...] | None
    secret_columns: frozenset[str]

    def made(self, row: Any, size: int, *, is_checked: bool) -> tuple[dict[str, Any], str | None]:
        """Parameters and unique key. Raises RowError; with `is_checked` it was asked before and gave none."""
        if type(row) is BadRow:
            raise RowError(row.reason)
        values = self.mapper(row)
        key = None if self.key is None else self.key(row)
        if is_checked:
            return values, key
        if size > ROW_MAX // 8:  # never longer as it is stored than as it was written, but for a line of escapes
            try:
                self.check_size(values)
            except UsageError as error:
                raise RowError(str(error)) from error
        if self.is_checking and self.schema is not None and (faults := self.schema.check(values)):
            raise RowError("; ".join(str(fault) for fault in faults))
        return values, key

    def document(self, values: dict[str, Any], key: str | None, fields: Mapping[str, Any], now: datetime) -> Document:
        document = new_task(self.queue, values, now=now, **fields)
        if key is not None:
            document["unique_key"] = key
        if self.schema is not None and (places := self.schema.secrets(values)):
            document["secrets"] = list(places)
        return document

    def shown(self, row: Any) -> Any:
        """A row for a report. Of one that cannot be read nobody knows which of its texts are secret."""
        if type(row) is BadRow:
            has_secrets = self.secret_columns or (self.schema is not None and self.schema.has_secrets)
            return None if has_secrets else row.row
        if self.columns is not None:
            row = dict(zip(self.columns, row, strict=True))
        shown = {name: "********" if name in self.secret_columns else value for name, value in row.items()}
        return shown if self.columns is not None or self.schema is None else self.schema.masked(shown)


OnFault = Callable[[RowFault], None]
Advance = Callable[[int], None]


def check_rows(
    rows: Rows, maker: TaskMaker, on_fault: OnFault, advance: Advance, on_fit: Callable[..., None]
) -> Counts:
    """Go through all rows without creating anything. `on_fit` gets parameters and unique key of each that fits."""
    counts = Counts()
    made, told = maker.made, 0
    for line, size, row in rows:
        counts.rows += 1
        try:
            on_fit(*made(row, size, is_checked=False))
        except RowError as error:
            counts.faults += 1
            on_fault(RowFault(line=line, reason=str(error), row=maker.shown(row)))
        if counts.rows - told == BATCH_ROWS:
            advance(BATCH_ROWS)
            told = counts.rows
    advance(counts.rows - told)
    return counts


def begin(store: Store, name: str, fields: Mapping[str, Any], *, anew: bool) -> tuple[Record, bool]:
    """The record of an import, and whether it was there: then somebody has begun it and has not finished. `anew`: what
    is there is forgotten."""
    while True:
        found = store.read_note(name)
        if found is not None and not anew:
            return Record.from_document(found), True
        if found is not None:
            store.write_note(name, None)
        record = Record(first_id=str(store.new_ids(1)[0]), begun=store.now(), fields=fields)
        if store.write_note(name, record.to_document(), is_new=True):
            return record, False
        anew = False  # another process was faster, and what it has made is new


def create_rows(
    store: Store,
    rows: Rows,
    maker: TaskMaker,
    record: Record,
    note: str | None,
    counts: Counts,
    *,
    is_checked: bool,
    stops: bool,
    on_fault: OnFault,
    advance: Advance,
    is_unchanged: Callable[[], bool],
) -> bool:
    """Create a task for each row that fits, but for those that are done by the record; at the end the record is gone.

    `note` is its name, None where there is none: then a kill forgets how far it was. `is_checked`: all of them fit.
    `stops`: at a row that does not fit, after creating those before it. False where it did so, or where another process
    has finished the same import meanwhile. `counts` is true after each batch, also where an exception ends it. Raises
    UsageError where `is_unchanged` says no.
    """
    counts.created, counts.existing = record.created, record.existing
    for batch in _batches(rows, maker, record, is_checked=is_checked, stops=stops):
        if not is_unchanged():
            raise UsageError(f"{rows.name} has changed while it was imported")
        for fault in batch.faults:
            counts.faults += 1
            on_fault(fault)
        counts.rows = batch.end
        if batch.end > record.rows:
            with store.together():
                if note is not None and not _is_ours(store.read_note(note), record):
                    return False
                _create(store, batch, maker, record, counts)
                record = dataclasses.replace(record, rows=batch.end, created=counts.created, existing=counts.existing)
                if note is not None:
                    # Where that is no single commit, another process may have finished while these were created.
                    if not _is_ours(store.read_note(note), record):
                        return False
                    store.write_note(note, record.to_document())
        advance(batch.size)
        if batch.is_last:
            return False
    if note is not None and _is_ours(store.read_note(note), record):
        store.write_note(note, None)
    return True


@dataclass(slots=True, kw_only=True)
class _Batch:
    """Rows in a row. `made` are number, parameters and key of those that are to be created."""

    made: list[tuple[int, dict[str, Any], str | None]] = dataclasses.field(default_factory=list)
    faults: list[RowFault] = dataclasses.field(default_factory=list)
    size: int = 0
    end: int = 0  # the number of rows to its end, from the first of all
    is_last: bool = False  # the row after it does not fit, and that was to be the end


def _batches(rows: Rows, maker: TaskMaker, record: Record, *, is_checked: bool, stops: bool) -> Iterator[_Batch]:
    batch, held, number = _Batch(), 0, 0
    done, made = record.rows, maker.made
    for line, size, row in rows:
        try:
            if number >= done:
                batch.made.append((number, *made(row, size, is_checked=is_checked)))
            elif not is_checked:  # so that a report tells of all rows, also those that an earlier process has done
                made(row, size, is_checked=False)
        except RowError as error:
            batch.faults.append(RowFault(line=line, reason=str(error), row=maker.shown(row)))
            if stops:
                batch.is_last = True
                break
        number += 1
        batch.size += 1
        held += size
        if batch.size == BATCH_ROWS or held >= BATCH_BYTES or number == done:
            batch.end = number
            yield batch
            batch, held = _Batch(), 0
    batch.end = number
    if batch.size or batch.faults:
        yield batch


def _create(store: Store, batch: _Batch, maker: TaskMaker, record: Record, counts: Counts) -> None:
    if not batch.made:
        return
    now = store.now()
    documents = []
    for number, values, key in batch.made:
        document = maker.document(values, key, record.fields, now)
        document["_id"] = store.parse_id(record.id_of(number))
        documents.append(document)
    ids = store.insert_tasks(documents, again=True)
    if maker.key is None:
        counts.created += len(ids)
        return
    created = sum(found == document["_id"] for found, document in zip(ids, documents, strict=True))
    counts.created += created
    counts.existing += len(ids) - created


def _is_ours(found: Mapping[str, Any] | None, record: Record) -> bool:
    return found is not None and found.get("first_id") == record.first_id


class DocumentRows:
    """The documents of a collection as rows, in plain JSON: dates in RFC 3339, ids as their 24 digits."""

    form = "documents"
    columns: tuple[str, ...] | None = None

    def __init__(self, store: Store, collection: str, condition: Document) -> None:
        self.name = collection
        self._store = store
        self._condition = condition

    def __iter__(self) -> Iterator[tuple[int, int, Any]]:
        documents = self._store.documents_of(self.name, self._condition)
        for number, document in enumerate(documents, start=1):
            row: Any
            try:
                row = plain_document(document, other=self._plain)
            except TypeError as error:
                row = BadRow(reason=f"document {document.get('_id')}: {error}")
            yield number, len(orjson.dumps(row)) if type(row) is dict else 0, row

    def _plain(self, value: object) -> object:
        written = self._store.extended_json(value)
        return written["$oid"] if isinstance(written, dict) and written.keys() == {"$oid"} else written
