"""Names of parameters that no task has: a misspelt column, or a misspelt condition.

Responsible for: noticing them, and the sentence that says so. Must not know: terminals, what
else a table or a filter is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from disbatch_host.client import columns, conditions
from disbatch_host.client.columns import Column, Document
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.conditions import values_at
from disbatch_host.documents.records import Task
from disbatch_host.store.contract import Store
from disbatch_protocol.faults import near_name

_LOOKED_AT = 200  # tasks, for the names of their parameters
_LOOK_SECONDS = 0.5
_NAMES_MAX = 1000  # that are remembered
_NAMED = 8  # in a sentence


class Unfilled:
    """The columns for which none of the tasks that were seen has a value."""

    def __init__(self, shown: Sequence[Column]) -> None:
        self._left = [one for one in shown if not one.is_own]
        self._names: dict[str, None] = {}
        self._is_any = False

    def see(self, task: Task, document: Document, now: datetime) -> None:
        if self._left:
            self._is_any = True
            self._left = [one for one in self._left if one.value(task, document, now) is None]
            _remember(self._names, document)

    def notes(self, *, only_near: bool = False) -> list[str]:
        """A sentence for each such column. `only_near`: where another name was probably meant."""
        if not self._is_any:
            return []
        found = []
        for one in self._left:
            near = near_name(one.name, [*columns.NAMES, *self._names])
            if near is not None or not only_near:
                found.append(_sentence("none of these", one.name, near, list(self._names)))
        return found


def unmet(store: Store, which: TaskFilter) -> list[str]:
    """For a filter that has found nothing: a sentence for each condition about something that none of the newest tasks
    has, which the rest of the filter selects."""
    wanted = [one for one in which.where if not one.negated]
    if not wanted:
        return []
    others = store.find_page(
        replace(which, where=()), limit=_LOOKED_AT, newest_first=True, budget_seconds=_LOOK_SECONDS
    )
    documents = [one.document for one in others.tasks]
    names: dict[str, None] = {}
    for one in documents:
        _remember(names, one)
    found = []
    for condition in wanted if documents else ():
        if not any(True for one in documents for _ in values_at(one, condition.path)):
            name = _name_of(condition.path)
            whose = f"none of the newest {len(documents)} tasks" if len(documents) > 1 else "no task"
            found.append(_sentence(whose, name, near_name(name, names), list(names)))
    return found


def _remember(names: dict[str, None], document: Document) -> None:
    for field, prefix in (("parameters", ()), ("result", ("result",))):
        value = document.get(field)
        if isinstance(value, Mapping) and len(names) < _NAMES_MAX:
            names.update(dict.fromkeys(columns.path_text([*prefix, one]) for one in value if isinstance(one, str)))


def _name_of(path: Sequence[str]) -> str:
    """A path as somebody types it."""
    if path[0] == "parameters":
        return columns.path_text(path[1:])
    return columns.path_text(path) if path[0] == "result" else f".{columns.path_text(path)}"


def _sentence(whose: str, name: str, near: str | None, names: Sequence[str]) -> str:
    is_parameter = conditions.path_of(name)[0] == "parameters"
    what = f"a parameter {name!r:.60}" if is_parameter else f"{name:.60}"
    hint = ""
    names = [one for one in names if one.startswith("result.") is not is_parameter]
    if near is not None:
        hint = f"; did you mean {near!r:.60}?"
    elif names:
        hint = f"; there are {', '.join(names[:_NAMED])}{', …' if len(names) > _NAMED else ''}"
    return f"{whose} has {what}{hint}"
