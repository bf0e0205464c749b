"""Two passes over the rows: all are checked before the first task is created, then tasks are created in batches.

Responsible for: the order of steps, bounded memory, and when a batch counts as done. Must not
know: the content of rows, terminals.

Rules:
1. The record of the import counts a row as done only once its task is durable.
2. Anything created twice, after a kill or by two processes at once, is the same task: its id follows from its row.
3. A row whose task the store refuses, because of another program's index or validator for instance, does not fit: it
   keeps no other row from becoming a task where such rows are skipped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from disbatch_host.client.batch_members import Member
from disbatch_host.client.importing.mapping import RowError
from disbatch_host.client.importing.record import Record, is_ours
from disbatch_host.client.importing.rows import Rows
from disbatch_host.client.importing.task_maker import RowFault, TaskMaker
from disbatch_host.documents.records import Document, TaskId
from disbatch_host.errors import BatchClosedError, StoreRefusedError, UsageError
from disbatch_host.store.contract import Store

BATCH_ROWS = 2000  # per commit: enough to make the fsync cheap; a kill repeats no more than these
BATCH_BYTES = 4 * 2**20  # of rows per commit: memory use is a few times this


@dataclass(slots=True, kw_only=True)
class Counts:
    """Counts of the rows so far."""

    rows: int = 0
    empty: int = 0  # of these, rows of nothing, which become no task
    created: int = 0
    existing: int = 0  # another unfinished task has their unique key
    faults: int = 0


OnFault = Callable[[RowFault], object]
Advance = Callable[[int], None]


def check_rows(
    rows: Rows, maker: TaskMaker, on_fault: OnFault, advance: Advance, on_fit: Callable[..., None]
) -> Counts:
    """Go through all rows without creating anything. `on_fit` gets the parameters and unique key of each that fits."""
    counts = Counts()
    made, told = maker.made, 0
    for line, size, row in rows:
        counts.rows += 1
        try:
            if is_empty(row):
                counts.empty += 1
            else:
                on_fit(*made(row, size, is_checked=False))
        except RowError as error:
            counts.faults += 1
            on_fault(RowFault(line=line, reason=str(error), row=maker.shown(row), column=error.column))
        if counts.rows - told == BATCH_ROWS:
            advance(BATCH_ROWS)
            told = counts.rows
    advance(counts.rows - told)
    return counts


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
    member: Member | None = None,
) -> bool:
    """Create a task for each row that fits and is not done according to the record, then remove the record.

    `note` is its name; None: there is no record, and a kill loses the progress. `is_checked`: all rows fit.
    `stops`: at a row that does not fit, after creating those before it; at one whose task the store refuses, by the
    store's exception. Returns False if it did, or if another process finished the same import meanwhile. `counts` is
    correct after each batch, even if an exception ends it. Raises UsageError if `is_unchanged` returns False, and
    BatchClosedError if `member`, the batch of the tasks, takes no more; at the end it is closed if that was wanted.
    """
    counts.created, counts.existing = record.created, record.existing
    for batch in _batches(rows, maker, record, is_checked=is_checked, stops=stops):
        if not is_unchanged():
            raise UsageError(f"{rows.name} changed while it was being imported")
        for fault in batch.faults:
            counts.faults += 1
            on_fault(fault)
        counts.rows = batch.end
        counts.empty += batch.empty
        if batch.end > record.rows:
            with store.together():
                if note is not None and not is_ours(store.read_note(note), record):
                    return False
                if member is not None and batch.made and not _is_open(store, member, note, batch):
                    return False
                _create(store, batch, maker, record, counts, on_refused=None if stops else on_fault)
                record = dataclasses.replace(record, rows=batch.end, created=counts.created, existing=counts.existing)
                # Without a single commit, another process may have finished while these were created.
                if note is not None and not store.write_note(note, record.to_document(), replacing=record.identity):
                    return False
        advance(batch.size)
        if batch.is_last:
            return False
    with store.together():
        # Closed first: a process that is killed before the record is removed leaves that to the next one.
        if member is not None:
            member.close(counts.created, existing=counts.existing, skipped=0 if stops else counts.faults)
        if note is not None:
            store.write_note(note, None, replacing=record.identity)
    return True


def _is_open(store: Store, member: Member, note: str | None, batch: _Batch) -> bool:
    """False if another process that imports the same rows has finished them, and closed their batch. Raises
    BatchClosedError if it was closed by anybody else."""
    try:
        member.check()
    except BatchClosedError:
        found = None if note is None else store.read_note(note)
        if note is not None and (found is None or found.get("rows", 0) >= batch.end):
            return False
        raise
    return True


class _Made(NamedTuple):
    """A row that fits, with the parameters and the unique key of its task."""

    number: int
    line: int
    row: Any
    values: dict[str, Any]
    key: str | None


@dataclass(slots=True, kw_only=True)
class _Batch:
    """Consecutive rows."""

    made: list[_Made] = dataclasses.field(default_factory=list)  # those to create
    faults: list[RowFault] = dataclasses.field(default_factory=list)
    size: int = 0
    empty: int = 0  # of these, rows of nothing
    end: int = 0  # the number of rows up to its end
    is_last: bool = False  # the next row does not fit, and the rules stop there


def is_empty(row: Any) -> bool:
    """Whether it is a row of a table in which every field is empty, as spreadsheets leave them at the end. It keeps its
    number: the ids of the tasks follow from the numbers of the rows."""
    return type(row) is list and not any(row)


def _batches(rows: Rows, maker: TaskMaker, record: Record, *, is_checked: bool, stops: bool) -> Iterator[_Batch]:
    batch, held, number = _Batch(), 0, 0
    done, made = record.rows, maker.made
    for line, size, row in rows:
        try:
            if is_empty(row):
                batch.empty += 1
            elif number >= done:
                batch.made.append(_Made(number, line, row, *made(row, size, is_checked=is_checked)))
            elif not is_checked:  # so that a report covers all rows, including those that an earlier process did
                made(row, size, is_checked=False)
        except RowError as error:
            batch.faults.append(RowFault(line=line, reason=str(error), row=maker.shown(row), column=error.column))
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


def _create(
    store: Store, batch: _Batch, maker: TaskMaker, record: Record, counts: Counts, *, on_refused: OnFault | None
) -> None:
    """Create the tasks of a batch. `on_refused` is told of each that the store refuses; None: that is raised."""
    if not batch.made:
        return
    now = store.now()
    documents = []
    for one in batch.made:
        document = maker.document(one.values, one.key, record.fields, now)
        document["_id"] = store.parse_id(record.id_of(one.number))
        documents.append(document)
    try:
        _count(store.insert_tasks(documents, again=True), documents, maker, counts)
    except StoreRefusedError as error:
        if on_refused is None:
            counts.created += len(error.created)
            raise
        _create_others(store, [*zip(batch.made, documents, strict=True)], maker, counts, on_refused)


def _create_others(
    store: Store, wanted: list[tuple[_Made, Document]], maker: TaskMaker, counts: Counts, on_refused: OnFault
) -> None:
    """Create all but those that the store refuses. It does not say which these are, but those that it creates exist
    when they are created once more (rule 2)."""
    half = len(wanted) // 2
    for part in (wanted[:half], wanted[half:]) if half else (wanted,):
        documents = [document for _, document in part]
        try:
            _count(store.insert_tasks(documents, again=True), documents, maker, counts)
        except StoreRefusedError as error:
            if len(part) > 1:
                _create_others(store, part, maker, counts, on_refused)
                continue
            ((one, _),) = part
            counts.faults += 1
            on_refused(RowFault(line=one.line, reason=f"the store refuses its task: {error}", row=maker.shown(one.row)))


def _count(ids: list[TaskId], documents: list[Document], maker: TaskMaker, counts: Counts) -> None:
    """Count tasks that were created, or exist; `ids` as the store has returned them."""
    if maker.key is None:
        counts.created += len(ids)
        return
    created = sum(found == document["_id"] for found, document in zip(ids, documents, strict=True))
    counts.created += created
    counts.existing += len(ids) - created
