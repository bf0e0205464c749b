"""Columns of tables of tasks: what people call them, and the value that a task has in each.

Responsible for: the names, and which parameters tell tasks apart. Must not know: terminals, files, how a value is
shown; which parameters are secret: documents come masked.

Rules:
1. A name that is not in `NAMES` is a path, as in a condition (`conditions`): `user` and `parameters.user` are a
   parameter, `result.size` a part of the result, `.field` any other field.
2. A value is as it is in the document; None where there is none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from disbatch_host.client import conditions, history
from disbatch_host.documents.conditions import index_of
from disbatch_host.documents.records import Task
from disbatch_host.errors import FieldError, UsageError
from disbatch_protocol import status as statuses
from disbatch_protocol.masks import MASK
from disbatch_protocol.status import Status

if TYPE_CHECKING:  # most lists are of queues whose plugin is unknown here
    from disbatch_host.plugin.catalog import Plugin

Document = Mapping[str, Any]
Value = Callable[[Task, Document, datetime], Any]  # of a task, with its document as it may be shown, at a moment

TELLING_MAX = 2  # parameters that tell tasks apart
_SCALARS = (str, int, float, bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column."""

    name: str
    value: Value
    is_own: bool  # one of `NAMES`, and no path


def columns_of(names: str | Sequence[str]) -> tuple[Column, ...]:
    """The columns of these names, each of which may be several separated by commas. Raises FieldError."""
    given = [names] if isinstance(names, str) else names
    found = [column_of(one.strip()) for some in given for one in _split(some)]
    if not found:
        raise FieldError("columns", "expected names of columns, such as task,status,user, found none")
    double = next((name for name, count in Counter(one.name for one in found).items() if count > 1), None)
    if double is not None:
        raise FieldError("columns", f"expected each column once, found {double!r:.60} again")
    return tuple(found)


def column_of(name: str) -> Column:
    """Raises FieldError."""
    if name in _VALUES:
        return Column(name=name, value=_VALUES[name], is_own=True)
    try:
        path = conditions.path_of(name)
    except UsageError as error:
        raise FieldError("columns", str(error).partition(": ")[2]) from error
    return Column(name=name, value=lambda _, document, now: value_at(document, path), is_own=False)


def _split(text: str) -> list[str]:
    """The parts between commas; a backslash keeps a comma, and itself, in its part."""
    parts, position = [""], 0
    while position < len(text):
        if text[position] == "\\" and position + 1 < len(text):
            parts[-1] += text[position : position + 2] if text[position + 1] != "," else ","
            position += 2
            continue
        if text[position] == ",":
            parts.append("")
        else:
            parts[-1] += text[position]
        position += 1
    return [one for one in parts if one.strip()]


def value_at(document: Any, path: Sequence[str]) -> Any:
    """The one value at a path: through objects by keys, through lists by numbers."""
    for part in path:
        if isinstance(document, Mapping):
            document = document.get(part)
        elif isinstance(document, (list, tuple)):
            number = index_of(part)
            document = document[number] if number is not None and number < len(document) else None
        else:
            return None
    return document


def telling_names(documents: Sequence[Document], plugin: Plugin | None) -> tuple[str, ...]:
    """The parameters that tell tasks of one queue apart: the first that the plugin's schema requires, as far as tasks
    have them; else the first single values that most of them have. Those that are the same in all are left out, unless
    all are."""
    values: dict[str, list[Any]] = {}
    for document in documents:
        parameters = document.get("parameters")
        for name, value in parameters.items() if isinstance(parameters, Mapping) else ():
            if isinstance(name, str) and isinstance(value, _SCALARS) and value != MASK:
                values.setdefault(name, []).append(value)
    required = [one for one in _required(plugin) if one in values]
    names = required or [one for one, found in values.items() if 2 * len(found) > len(documents)]
    differing = [one for one in names if len(set(values[one])) > 1]
    return tuple((differing or names)[:TELLING_MAX])


def _required(plugin: Plugin | None) -> list[str]:
    schema = None if plugin is None else plugin.manifest.parameters
    names = schema.get("required") if isinstance(schema, Mapping) else None
    return [one for one in names if isinstance(one, str)] if isinstance(names, list) else []


def path_text(names: Sequence[str]) -> str:
    """The text of a path, which `conditions.path_of` reads again."""
    return ".".join("".join(f"\\{one}" if one in "\\.=!," else one for one in name) for name in names)


def _run(name: str) -> Value:
    return lambda task, _, now: task.run.get(name)


def _field(name: str) -> Value:
    return lambda _, document, now: document.get(name)


def _of_plugin(name: str) -> Value:
    return lambda task, _, now: value_at(task.run, ("plugin", name))


def _exit(task: Task, _: Document, now: datetime) -> Any:
    """The exit code, or the name of the signal that ended it."""
    signal = task.run.get("signal")
    return signal if signal is not None else task.run.get("exit_code")


def seconds_of(task: Task, now: datetime) -> float | None:
    """How long its last run took, or has been running."""
    if history.was_never_started(task.run) or task.run.get("reason") == history.LOST:
        return None
    started = task.run.get("started")
    if task.status == Status.RUNNING and isinstance(started, datetime):
        return round(max(0.0, (now - started).total_seconds()), 3)
    seconds = task.run.get("seconds")
    return seconds if isinstance(seconds, (int, float)) else None


def _code(_: Task, document: Document, now: datetime) -> Any:
    return value_at(document, ("error", "code"))


_VALUES: Mapping[str, Value] = {
    "task": lambda task, _, now: str(task.id),
    "queue": lambda task, _, now: str(task.queue),
    "status": lambda task, _, now: statuses.name(task.status),
    "node": lambda task, _, now: task.node,
    "created": _field("ctime"),
    "changed": _field("mtime"),
    "started": _run("started"),
    "ended": _run("ended"),
    "ran": lambda task, _, now: seconds_of(task, now),
    "attempt": _run("attempt"),
    "exit": _exit,
    "error": _code,
    "message": lambda task, _, now: history.reason_in_short(task) or None,
    "class": _of_plugin("class"),
    "version": _of_plugin("version"),
    "priority": _field("priority"),
    "unique_key": _field("unique_key"),
    "batch": _field("batch"),
    "created_by": _field("created_by"),
    "parent": _field("parent"),
}
NAMES = tuple(_VALUES)
