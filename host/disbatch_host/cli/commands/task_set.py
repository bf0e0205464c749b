"""`disbatch-host task set`"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import click

from disbatch_host.cli import common, selection, times
from disbatch_host.cli.commands.push import PRIORITY_MAX
from disbatch_host.cli.frame import common_options
from disbatch_host.documents.changes import TaskChange
from disbatch_host.documents.records import Task
from disbatch_host.errors import ExitCode, UsageError
from disbatch_protocol import status as statuses
from disbatch_protocol.faults import near_name
from disbatch_protocol.status import Status

_SETTABLE = ("priority", "expires")
_WAITING = frozenset({int(Status.CREATED), int(Status.BLOCKED)})


@click.command("set")
@click.argument("id")
@click.argument("changes", nargs=-1, required=True, metavar="KEY=VALUE...")
@common_options
def set_(id: str, changes: tuple[str, ...]) -> int:
    """Change priority or expires of a task that waits. An empty value removes it.

    \b
      disbatch-host task set 5f0c… priority=10
      disbatch-host task set 5f0c… expires=2h
      disbatch-host task set 5f0c… expires=
    """
    with common.opened_store() as store:
        task = common.find_task(store, id)
        now = store.now()
        values: dict[str, Any] = {}
        for pair in changes:
            name, mark, text = pair.partition("=")
            if not mark:
                raise UsageError(f"expected KEY=VALUE, found {pair!r:.60}")
            values[name] = _value_of(name, text, now)

        def change_of(task: Task) -> TaskChange | None:
            if task.status not in _WAITING:
                return None
            return TaskChange(
                task_id=task.id,
                statuses=frozenset({int(task.status)}),
                # The date tells whoever has read the task before, such as a node that is about to let it expire.
                set={"mtime": now, **{name: value for name, value in values.items() if value is not None}},
                unset=tuple(name for name, value in values.items() if value is None),
            )

        changed = selection.change(store, [task], change_of)
        selection.say(store, changed.done, "set", "is changed")
        selection.say_gone(store, changed.gone)
        selection.say(
            store,
            [*changed.unfit, *changed.refused],
            "not_waiting",
            lambda one: f"is not changed: it does not wait any more, it is {statuses.name(one.status)}",
            more=selection.status_of,
        )
        return ExitCode.DONE if changed.done else ExitCode.FAILED


def _value_of(name: str, text: str, now: datetime) -> Any:
    if name not in _SETTABLE:
        near = near_name(name, _SETTABLE)
        hint = f"did you mean {near!r}?" if near else f"known are {', '.join(_SETTABLE)}"
        raise UsageError(f"a task has no field {name!r:.40} that can be set; {hint}")
    if not text:
        return None
    if name == "expires":
        return times.moment_to_come(name, text, now)
    if not re.fullmatch(r"-?[0-9]{1,10}", text) or abs(int(text)) > PRIORITY_MAX:
        raise UsageError(f"priority: expected a whole number of at most {PRIORITY_MAX}, found {text!r:.40}")
    return int(text)
