"""The fields of a task's document, and the columns of its row that hold them.

Responsible for: which fields have columns, and how each is written. Must not know: a connection, who writes, how a row
is read. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from disbatch_host.documents.records import NOBODY, whole_number
from disbatch_host.errors import StoreRefusedError
from disbatch_host.store.sqlite import json_text, moments
from disbatch_protocol.faults import kind_of

# In the order in which rows are read and written.
COLUMNS = (
    "id", "queue", "status", "node", "priority", "ctime", "mtime", "not_before", "claim_token", "claimed_at",
    "parameters", "stdout", "stderr", "run", "after", "unique_key", "expires", "cancel", "awaited", "parent", "batch",
    "created_by", "rest",
)  # fmt: skip


def columns_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that hold these fields."""
    columns: dict[str, Any] = {}
    for name, value in fields.items():
        write = _FIELD_WRITERS.get(name)
        if write is not None:
            columns[name] = write(value)
        elif name == "claim":
            claim = value if isinstance(value, Mapping) else {}
            columns["claim_token"], columns["claimed_at"] = claim.get("token"), moments.to_milliseconds(claim.get("at"))
    return columns


def text_id(value: Any) -> str:
    """An id itself. Raises StoreRefusedError if it is not a string."""
    if not isinstance(value, str) or not value:
        raise StoreRefusedError(f"expected an id that is a string, found {value!r:.60}")
    return value


def _status_column(value: Any) -> int:
    number = whole_number(value)
    if number is None:
        raise StoreRefusedError(f'expected a whole number as "status", found {value!r:.40}')
    return number


def _node_column(value: Any) -> str | None:
    return None if value is None else str(NOBODY) if value == NOBODY else str(value)


def _text_column(value: Any) -> str:
    return "" if value is None else str(value)


def _list_column(name: str) -> Callable[[Any], str | None]:
    def write(value: Any) -> str | None:
        if value is not None and not isinstance(value, (list, tuple)):
            raise StoreRefusedError(f'expected a list as "{name}", found {kind_of(value)}')
        return None if value is None else json_text.encode(value)

    return write


def _optional_text_column(name: str) -> Callable[[Any], str | None]:
    def write(value: Any) -> str | None:
        if value is not None and not isinstance(value, str):
            raise StoreRefusedError(f'expected a string as "{name}", found {kind_of(value)}')
        return value

    return write


def _object_column(value: Any) -> str | None:
    return None if value is None else json_text.encode(value)


def _flag_column(value: Any) -> int | None:
    return None if value is None else int(bool(value))


# The fields that have a column of their own name, and how each is written; `claim` has two columns.
_FIELD_WRITERS: Mapping[str, Callable[[Any], Any]] = {
    "queue": text_id,
    "status": _status_column,
    "node": _node_column,
    "priority": lambda value: whole_number(value) or 0,
    "ctime": moments.to_milliseconds,
    "mtime": moments.to_milliseconds,
    "not_before": moments.to_milliseconds,
    "parameters": json_text.encode,
    "run": json_text.encode,
    "stdout": _text_column,
    "stderr": _text_column,
    "after": _list_column("after"),
    "unique_key": _optional_text_column("unique_key"),
    "expires": moments.to_milliseconds,
    "cancel": _object_column,
    "awaited": _flag_column,
    "parent": _optional_text_column("parent"),
    "batch": _optional_text_column("batch"),
    "created_by": _optional_text_column("created_by"),
}
IN_COLUMNS = frozenset({*_FIELD_WRITERS, "claim", "_id"})
EMPTY_COLUMNS: Mapping[str, Mapping[str, Any]] = {
    "claim": {"claim_token": None, "claimed_at": None},
    "not_before": {"not_before": None},
    "priority": {"priority": 0},
    "run": {"run": None},
    **{
        name: {name: None}
        for name in ("after", "unique_key", "expires", "cancel", "awaited", "parent", "batch", "created_by")
    },
}
