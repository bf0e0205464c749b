"""A task from a row: its parameters, whether they fit, which of them are secret.

Responsible for: every decision about one row. Must not know: where rows come from, the record of an import,
terminals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from disbatch_host.client.importing.mapping import Mapper, RowError
from disbatch_host.client.importing.rows import ROW_MAX, BadRow
from disbatch_host.client.masks import MASKED, masks_in
from disbatch_host.client.parameters import check_size
from disbatch_host.documents.records import Document, QueueId, new_task
from disbatch_host.errors import UsageError
from disbatch_protocol.masks import MASK
from disbatch_protocol.parameters import ParameterSchema


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFault:
    """A row that does not fit."""

    line: int
    reason: str
    row: Any  # safe to show: secrets are masked, or it is None
    column: str | None = None  # that is to be mended, if it is known


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskMaker:
    """Turns a row into a task. `schema` is set even without checks: it says what is secret."""

    queue: QueueId
    mapper: Mapper
    schema: ParameterSchema | None
    is_checking: bool
    key: Callable[[Any], str] | None  # the unique key of a row
    columns: tuple[str, ...] | None
    secret_columns: frozenset[str]
    column_of: Mapping[str, str] = field(default_factory=dict)  # by parameter

    def made(self, row: Any, size: int, *, is_checked: bool) -> tuple[dict[str, Any], str | None]:
        """Parameters and unique key. Raises RowError, but not with `is_checked`: then an earlier call succeeded."""
        if type(row) is BadRow:
            raise RowError(row.reason)
        values = self.mapper(row)
        key = None if self.key is None else self.key(row)
        if is_checked:
            return values, key
        if size > ROW_MAX // 8:  # stored no longer than written, except for a line of escapes
            try:
                check_size(values)
            except UsageError as error:
                raise RowError(str(error)) from error
        if self.is_checking and self.schema is not None and (faults := self.schema.check(values)):
            raise RowError("; ".join(str(fault) for fault in faults), self._column(faults[0].pointer))
        if self.schema is not None and self.schema.has_secrets and (masked := masks_in(self.schema, values)):
            raise RowError(f"{masked[0]}: {MASKED}", self._column(masked[0]))
        return values, key

    def _column(self, pointer: str) -> str | None:
        name = pointer.split("/")[1].replace("~1", "/").replace("~0", "~") if "/" in pointer else ""
        is_same = self.columns is None and not self.column_of  # an object, whose names are those of the parameters
        return (name or None) if is_same else self.column_of.get(name)

    def document(self, values: dict[str, Any], key: str | None, fields: Mapping[str, Any], now: datetime) -> Document:
        """The document of a new task, without its `_id`."""
        document = new_task(self.queue, values, now=now, **fields)
        if key is not None:
            document["unique_key"] = key
        if self.schema is not None and (places := self.schema.secrets(values)):
            document["secrets"] = list(places)
        return document

    def shown(self, row: Any) -> Any:
        """A row for a report. In an unreadable one, any text may be a secret."""
        if type(row) is BadRow:
            has_secrets = self.secret_columns or (self.schema is not None and self.schema.has_secrets)
            return None if has_secrets else row.row
        if self.columns is not None:
            row = dict(zip(self.columns, row, strict=True))
        shown = {name: MASK if name in self.secret_columns else value for name, value in row.items()}
        return shown if self.columns is not None or self.schema is None else self.schema.masked(shown)
