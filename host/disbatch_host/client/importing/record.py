"""The record of an import: how far it has come, so that one that was killed goes on where it was.

Responsible for: the note in the store, and the ids that follow from it. Must not know: rows, files, parameters.

Rules:
1. Ids follow from the record and the number of the row: the first is the store's, the others are counted on from it.
   A row that is created a second time, after a kill or by another process at the same time, means the same task.
2. Only one process makes the record (`write_note` with `is_new`); all others that import the same rows take it over.
3. The record is gone when everything is done: the same file then makes new tasks.
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


def begin(store: Store, name: str, fields: Mapping[str, Any], *, begins_again: bool) -> tuple[Record, bool]:
    """The record of an import, and whether it was there: then the import was begun and not finished. With
    `begins_again` a record that is there is forgotten."""
    while True:
        found = store.read_note(name)
        if found is not None and not begins_again:
            return Record.from_document(found), True
        if found is not None:
            store.write_note(name, None)
        record = Record(first_id=str(store.new_ids(1)[0]), begun=store.now(), fields=fields)
        if store.write_note(name, record.to_document(), is_new=True):
            return record, False
        begins_again = False  # another process was faster, and what it has made is new


def is_ours(found: Mapping[str, Any] | None, record: Record) -> bool:
    """Whether the note in the store is still the record of this import."""
    return found is not None and found.get("first_id") == record.first_id
