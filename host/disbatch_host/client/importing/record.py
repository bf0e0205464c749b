"""The record of an import: its progress, so that a killed import resumes where it was.

Responsible for: the note in the store, and the ids that follow from it. Must not know: rows, files, parameters.

Rules:
1. Ids follow from the record and the row's number: the store makes the first, the others count up from it.
   A row that is created twice, after a kill or by another process at the same time, yields the same task.
2. Only one process makes the record (`write_note` with `is_new`); all others that import the same rows adopt it.
3. The record is removed when everything is done: the same file then makes new tasks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from disbatch_host.documents.records import Document
from disbatch_host.store.contract import Store

_DIGITS = 24  # hexadecimal, of a task id


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The progress of an import; a note in the store until it is done."""

    first_id: str  # of the task for row 0, whether or not it is created
    begun: datetime
    fields: Mapping[str, Any]  # of all its tasks, as they were meant at the start
    rows: int = 0  # done, from the first
    created: int = 0
    existing: int = 0

    @classmethod
    def new(cls, store: Store, fields: Mapping[str, Any], batch: str | None) -> Record:
        """A record of nothing yet. `batch`: the name of the batch of its tasks; None: one of its own."""
        first_id = str(store.new_ids(1)[0])
        return cls(first_id=first_id, begun=store.now(), fields={**fields, "batch": batch or first_id})

    def id_of(self, number: int) -> str:
        """The task id of a row, by its number from 0. When the last three bytes overflow, the count carries into those
        before: the order stays, and nobody else's id has the same prefix."""
        return f"{int(self.first_id, 16) + number:0{_DIGITS}x}"

    @property
    def identity(self) -> Mapping[str, Any]:
        """The part of the note that says that it is still the record of this import."""
        return {"first_id": self.first_id}

    def to_document(self) -> Document:
        return {**{one.name: getattr(self, one.name) for one in dataclasses.fields(self)}, "fields": dict(self.fields)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Record:
        return cls(**{one.name: document[one.name] for one in dataclasses.fields(cls)})


def begin(
    store: Store, name: str, fields: Mapping[str, Any], batch: str | None, *, begins_again: bool
) -> tuple[Record, bool]:
    """The record of an import, and whether it existed: if so, the import was begun but not finished. With
    `begins_again` an existing record is discarded."""
    while True:
        found = store.read_note(name)
        if found is not None and not begins_again:
            return Record.from_document(found), True
        if found is not None:
            store.write_note(name, None)
        record = Record.new(store, fields, batch)
        if store.write_note(name, record.to_document(), is_new=True):
            return record, False
        begins_again = False  # another process was faster, and its record is new


def is_ours(found: Mapping[str, Any] | None, record: Record) -> bool:
    """Whether the note in the store is still the record of this import."""
    return found is not None and all(found.get(name) == value for name, value in record.identity.items())
