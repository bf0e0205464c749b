"""Tasks as a table: the columns that are shown, and their cells on a terminal and in a pipe.

Responsible for: which columns a list has when nobody names them, and the text and color of a cell. Must not know: which
tasks are listed, where their values come from (`client.columns`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from disbatch_host.cli import render
from disbatch_host.client import history
from disbatch_host.client.columns import Column, column_of, path_text, seconds_of, telling_names
from disbatch_host.decide.absence import absence_of
from disbatch_host.documents.records import NodeRecord, Queue, Task
from disbatch_protocol.status import Status

if TYPE_CHECKING:  # most lists are of queues whose plugin is unknown here
    from disbatch_host.plugin.catalog import Catalog

Cell = str | tuple[str, str]
Document = Mapping[str, Any]

_BEFORE = ("task", "queue", "status", "node", "created", "ran")
_WIDE = ("changed", "attempt", "class", "version", "priority", "unique_key", "batch", "created_by")
_IF_ANY = frozenset({*_WIDE, "exit", "error"})  # shown only if a task has one
_DATES = frozenset({"created", "changed", "started", "ended"})
_CELL_MAX = 32  # characters of a value on a terminal, besides those of the last column
_NONE = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What a table needs besides its tasks."""

    now: datetime
    nodes: Sequence[NodeRecord]
    queues: Sequence[Queue]
    catalog: Catalog | None
    other: Callable[[object], object]


def print_tasks(
    tasks: Sequence[Task],
    documents: Sequence[Document],
    around: Around,
    *,
    shown: Sequence[Column] | None,
    is_wide: bool,
) -> None:
    """The table. `documents`: of these tasks, safe to show. `shown`: these columns; None for the usual ones, which are
    more if it `is_wide`."""
    pairs = list(zip(tasks, documents, strict=True))
    if shown is not None:
        rows = [[_cell(column, *pair, around) for column in shown] for pair in pairs]
        render.print_table([column.name for column in shown], rows, cuts_middle=True)
        return
    names = [*_BEFORE, "exit", "error", *(_WIDE if is_wide else ())]
    own = [
        column
        for column in map(column_of, names)
        if column.name not in _IF_ANY or any(column.value(*pair, around.now) is not None for pair in pairs)
    ]
    telling = _telling_of_queues(tasks, documents, around)
    if len(set(telling.values())) == 1:  # tasks of one kind: a column for each
        own[len(_BEFORE) : len(_BEFORE)] = [_parameter(name) for name in next(iter(telling.values()))]
        telling = {}
    rows = [[_cell(column, *pair, around) for column in own] for pair in pairs]
    header = [column.name for column in own]
    if any(telling.values()):
        header.append("parameters")
        rows = [[*row, _named(telling[pair[0].queue], *pair, around)] for row, pair in zip(rows, pairs, strict=True)]
    rows = [[*row, _remark(task, around.nodes)] for row, task in zip(rows, tasks, strict=True)]
    render.print_table([*header, "message"], rows, cuts_middle=True)


def _telling_of_queues(
    tasks: Sequence[Task], documents: Sequence[Document], around: Around
) -> dict[Any, tuple[str, ...]]:
    """For each queue the parameters that tell its tasks apart."""
    classes = {one.id: one.class_name for one in around.queues}
    plugins = {} if around.catalog is None else around.catalog.plugins
    by_queue: dict[Any, list[Document]] = {}
    for task, document in zip(tasks, documents, strict=True):
        by_queue.setdefault(task.queue, []).append(document)
    return {queue: telling_names(some, plugins.get(classes.get(queue, ""))) for queue, some in by_queue.items()}


def _named(names: Sequence[str], task: Task, document: Document, around: Around) -> str:
    """Parameters with their names, in one cell."""
    values = [(name, _parameter(name).value(task, document, around.now)) for name in names]
    return " ".join(f"{name}={_short(_text(value, around))}" for name, value in values if value is not None)


def _parameter(name: str) -> Column:
    return Column(name=name, value=column_of(path_text(("parameters", name))).value, is_own=False)


def _cell(column: Column, task: Task, document: Document, around: Around) -> Cell:
    name = column.name if column.is_own else ""
    if name == "status":
        return render.status_cell(task.status)
    if name == "message":
        return _remark(task, around.nodes)
    if name == "ran":
        return _ran(task, around.now)
    value = column.value(task, document, around.now)
    if value is None:
        return _NONE
    if name in _DATES:
        return render.age(value, around.now)
    return str(value) if name == "task" else _short(_text(value, around))


def _text(value: Any, around: Around) -> str:
    if isinstance(value, str):
        return value
    from disbatch_protocol.document import readable_line  # noqa: PLC0415

    text = readable_line({"": value}, other=around.other).decode().removeprefix('{"":').removesuffix("}")
    return text[1:-1] if isinstance(value, datetime) else text


def _short(text: str) -> str:
    return render.cut_middle(render.printable(text), _CELL_MAX) if sys.stdout.isatty() else text


def _ran(task: Task, now: datetime) -> str:
    """How long its last run took, or takes so far."""
    seconds = seconds_of(task, now)
    if seconds is not None and task.status == Status.RUNNING:
        return f"{render.duration(round(seconds))} so far"
    return render.duration(seconds)


def _remark(task: Task, nodes: Sequence[NodeRecord]) -> Cell:
    """Why it failed; of a task that concluded, what may be wrong all the same; of one in the hands of a node that is
    not there, that."""
    if absence := absence_of(task, nodes):
        return f"node {absence.node} {absence.heard}", "yellow"
    if task.status != Status.CONCLUDED:
        return history.reason_in_short(task)
    return "; ".join(history.doubts(task)), "dim"
