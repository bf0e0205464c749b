"""Conditions on the content of tasks, evaluated where the rows are: SQL that calls functions of this module.

Responsible for: which column holds a field and in what form, and these functions. Must not know: who asks; what a
condition means (`documents.conditions`).

Rules:
1. What cannot be read holds no value: a damaged row must not make a statement fail.
2. A text is handed to a function as bytes: the driver refuses one that is not UTF-8.
3. Paths and values are values of placeholders, never part of a statement.
"""

from __future__ import annotations

import functools
import re
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from disbatch_host.documents.conditions import Condition, Scalar, index_of, meets
from disbatch_host.documents.records import NOBODY


def _quoted(column: str) -> str:
    """The JSON of a column that a person may have put anything into; NULL for what has none."""
    return f"CASE WHEN typeof({column}) NOT IN ('blob', 'null') THEN json_quote({column}) END"


JSON_COLUMNS = frozenset({"parameters", "run", "after", "cancel"})
# The other columns as the JSON that their fields have in a document; a date is no value that a condition can have.
AS_JSON: Mapping[str, str] = {
    **{
        name: _quoted(name)
        for name in ("queue", "status", "stdout", "stderr", "unique_key", "parent", "batch", "created_by")
    },
    **dict.fromkeys(("ctime", "mtime", "not_before", "expires"), "NULL"),
    "_id": _quoted("id"),
    "node": f"CASE WHEN node IS NULL OR node = '{NOBODY}' THEN '{NOBODY}' ELSE {_quoted('node')} END",
    "priority": f"CASE WHEN priority != 0 THEN {_quoted('priority')} END",
    "claim": "CASE WHEN typeof(claim_token) = 'text' THEN json_object('token', claim_token) END",
    "awaited": "CASE awaited WHEN 1 THEN 'true' WHEN 0 THEN 'false' END",
}


def condition_of(condition: Condition) -> tuple[str, list[Any]]:
    """The SQL for one condition, and the values of its placeholders."""
    name, path = condition.path[0], condition.path[1:]
    if name in JSON_COLUMNS:
        column = name
    elif name in AS_JSON:
        column = AS_JSON[name]
    else:
        column, path = "rest", condition.path
    stored_path = [_stored_key(one) for one in path]
    asked = orjson.dumps([stored_path, condition.values, condition.negated, condition.order]).decode()
    call = f"disbatch_meets(CAST({column} AS BLOB), ?)"
    is_json = column == "rest" or column in JSON_COLUMNS
    marks = _marks(stored_path, condition) if is_json and not condition.negated else None
    if marks is None:
        return call, [asked]
    may_meet = [*([f"instr({column}, ?)"] * len(marks)), *(one.format(column) for one in _BY_HAND)]
    return f"({' OR '.join(may_meet)}) AND {call}", [*marks, asked]


def grep_condition(text: str) -> tuple[str, list[Any]]:
    """The SQL for a text in the code or message of the error."""
    return "instr(rest, '\"error\"') AND disbatch_greps(CAST(rest AS BLOB), ?)", [text]


def register(connection: sqlite3.Connection) -> None:
    """Make the functions known to a connection."""
    connection.create_function("disbatch_meets", 2, _meets, deterministic=True)
    connection.create_function("disbatch_greps", 2, _greps, deterministic=True)


def _stored_key(name: str) -> str:
    return f"${name}" if name.startswith("$") else name  # see `json_text`


def _marks(path: Sequence[str], condition: Condition) -> list[str] | None:
    """Texts of which a JSON that meets a condition has at least one, if this program wrote it: to look for them is much
    cheaper than to read the JSON. None if there are no such texts."""
    if not path or index_of(path[-1]) is not None:
        return None
    key = orjson.dumps(path[-1]).decode()
    if condition.order is not None:
        return [f"{key}:"]
    beginnings = [_beginning(one) for one in condition.values]
    return None if None in beginnings else [f"{key}:{one}" for one in (*beginnings, "[")]


def _beginning(value: Scalar) -> str | None:
    """How the JSON of a value begins; None for a number that has several forms."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _PLAIN_BELOW:
        value = int(value)  # 1 and 1.0 begin alike
    elif isinstance(value, float) and not _PLAIN_FROM <= abs(value) < _PLAIN_BELOW:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and (value == 0 or abs(value) >= _PLAIN_BELOW):
        return None  # 0 is -0.0 as well
    return orjson.dumps(value).decode()


_PLAIN_FROM, _PLAIN_BELOW = 1e-4, 1e15  # numbers between these are written without an exponent
# What a JSON may have only if somebody else wrote it: escapes, blanks behind a quote or a key, lines, tabs.
_BY_HAND = (
    "instr({0}, '\\')", "instr({0}, '\": ')", "instr({0}, '\" :')", "instr({0}, char(10))", "instr({0}, char(9))",
)  # fmt: skip


def _meets(data: bytes | None, asked: str) -> bool:
    path, values, negated, order = _parsed(asked)
    try:
        value = None if data is None else orjson.loads(data)
    except ValueError:
        return bool(negated)
    if data is None:
        return bool(negated)
    return meets(value, path, values, negated=negated, order=order)


@functools.lru_cache(maxsize=64)
def _parsed(asked: str) -> Any:
    return orjson.loads(asked)


def _greps(data: bytes | None, text: str) -> bool:
    try:
        document = None if data is None else orjson.loads(data)
    except ValueError:
        return False
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict):
        return False
    pattern = _pattern(text)
    return any(isinstance(one, str) and pattern.search(one) for one in (error.get("code"), error.get("message")))


@functools.lru_cache(maxsize=64)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(re.escape(text), re.IGNORECASE)
