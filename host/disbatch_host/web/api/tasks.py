"""Tasks: lists, counts, one task, and what people do with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from disbatch_host.client import Selection, columns, story
from disbatch_host.client.columns import Column
from disbatch_host.client.control import Changes, Outcome, Result
from disbatch_host.client.history import Event, reason_in_short
from disbatch_host.client.masks import MASKED, masks_in
from disbatch_host.client.other_parameters import parameters_of
from disbatch_host.decide.absence import absence_of
from disbatch_host.documents.records import Task
from disbatch_host.errors import DisbatchError
from disbatch_host.web import filling, schemas
from disbatch_host.web.call import Answer, Call
from disbatch_host.web.documents import plain, task_json, task_links, without_tokens
from disbatch_host.web.problems import Code, Fault, Problem
from disbatch_host.web.queries import FILTER, LIMIT, PAGING, cursor_of, page_answer, selection_of
from disbatch_host.web.role import Role
from disbatch_host.web.route import Body, Route
from disbatch_protocol import status as statuses
from disbatch_protocol.status import Status

if TYPE_CHECKING:
    from disbatch_host.client.published import AnyPlugin


def task_of(call: Call) -> Task:
    """The task that the path names, as far as this person may see it. Raises NotFoundError, Problem."""
    task = call.client.get(call.path["id"])
    if not call.who.sees(str(task.queue)):
        raise Problem(Code.TASK, f"no task {call.path['id']!r:.80} for {call.who.name}")
    return task


def _list(call: Call) -> Answer:
    selection, chosen = selection_of(call.query, call.who), _columns(call)
    page = call.client.page(
        selection, limit=call.query.get("limit", LIMIT), newest_first=call.query.get("order") != "oldest",
        cursor=cursor_of(call),
    )  # fmt: skip
    masked = call.client.masker().document
    if chosen:
        now = call.client.store.now()
        items = [_cells(call, one, masked(one), chosen, now) for one in page.tasks]
    else:
        items = [task_json(call, one, masked(one), is_whole=False) for one in page.tasks]
    return page_answer(call, page, items, "tasks", count=_count_json(call, selection, exact=False))


def _columns(call: Call) -> dict[str, Column]:
    """Those that are asked for, by the names that they have in the query. Raises FieldError."""
    if "columns" not in call.query:
        return {}
    given = [name.strip() for text in call.query["columns"] for name in text.split(",")]
    names = [name for name in given if name]
    found = columns.columns_of([_OF_PARAMETERS.sub("parameters.", name) for name in names])
    return dict(zip(names, found, strict=True))


_OF_PARAMETERS = re.compile(r"^p\.")  # as in the addresses of the page


def _cells(
    call: Call, task: Task, masked: Mapping[str, Any], chosen: Mapping[str, Column], now: datetime
) -> dict[str, Any]:
    shown = without_tokens(masked)
    cells = {name: one.value(task, shown, now) for name, one in chosen.items()}
    return {"_id": str(task.id), "columns": plain(call, cells), "_links": task_links(call, task)}


def _count(call: Call) -> Answer:
    selection = selection_of(call.query, call.who)
    return Answer(body=_count_json(call, selection, exact=call.query.get("exact", False)), has_tag=True)


def _count_json(call: Call, selection: Selection, *, exact: bool) -> dict[str, Any]:
    counted = call.client.count_within(selection, None if exact else _COUNT_SECONDS)
    return {"value": counted.value, "is_exact": counted.is_exact}


_COUNT_SECONDS = 0.1  # for the count beside a list, which is to be there in 150 ms; of more it is "at least"


def _get(call: Call) -> Answer:
    return Answer(body=whole_task(call, task_of(call)), has_tag=True)


def whole_task(call: Call, task: Task) -> dict[str, Any]:
    """Everything about a task but its output, with its story and what can be done with it now."""
    client = call.client
    document = task_json(call, task, client.masked(task))
    why = None
    if task.status in _WAITING or absence_of(task, client.store.nodes()) is not None:
        found = client.why(task.id)
        why = {"code": str(found.code), "sentence": found.sentence}
    return {
        **document,
        "status_name": statuses.name(task.status),
        "reason": reason_in_short(task),
        "story": [_event_json(call, one, task) for one in client.history(task.id)],
        "why": why,
        "actions": actions_of(task),
    }


def _event_json(call: Call, event: Event, task: Task) -> dict[str, Any]:
    tasks = [str(one) for one in event.tasks]
    return plain(
        call,
        {
            "kind": str(event.kind), "name": story.name_of(event), "at": event.at, "until": event.until,
            "by": event.by, "why": event.why, "node": event.node, "words": story.in_words(event, task),
            "tasks": tasks,
        },
    )  # fmt: skip


def actions_of(task: Task) -> list[str]:
    """What can be done with a task in its state, by people with any role."""
    if task.status in statuses.UNFINISHED:
        return ["cancel", *(["release"] if task.status == Status.BLOCKED else [])]
    orphaned = ["cancel"] if task.status == Status.ORPHANED else []
    return [*orphaned, "retry", "delete"]


_WAITING = (Status.CREATED, Status.BLOCKED)


def _cancel(call: Call) -> Answer:
    task = task_of(call)
    return _changed(call, task, call.client.cancel(task.id, why=reason_in(call)))


def _retry(call: Call) -> Answer:
    task = task_of(call)
    values = (call.body or {}).get("parameters")
    if values is None:
        return _changed(call, task, call.client.retry(task.id, why=reason_in(call)))
    plugin = call.client.plugins.of_queue(str(task.queue))
    faults = faults_of(plugin, {**parameters_of(task), **values}, "/parameters")
    if faults:
        raise Problem(Code.FAULTS, "the parameters do not fit; it is not run again", faults=faults)
    return _changed(call, task, call.client.retry(task.id, why=reason_in(call), values=values, checks=False))


def faults_of(plugin: AnyPlugin | None, parameters: Mapping[str, Any], at: str) -> list[Fault]:
    """What of the parameters of a task does not fit, masks among them. `at`: their place in the body. Raises Problem if
    the check takes too long."""
    if plugin is None:
        return [Fault(pointer=f"{at}{one}", message=MASKED) for one in filling.masks_in(parameters)]
    examined = plugin.schema.examined_in_time(parameters)
    if examined.took_too_long:
        raise Problem(Code.TOO_SLOW, f"{at}: the parameters {'; '.join(map(str, examined.faults))}")
    return [
        *(Fault(pointer=f"{at}{one.pointer}", message=one.message, hint=one.hint) for one in examined.faults),
        *(Fault(pointer=f"{at}{one}", message=MASKED) for one in masks_in(plugin.schema, parameters)),
    ]


def _release(call: Call) -> Answer:
    task = task_of(call)
    return _changed(call, task, call.client.release(task.id))


def _delete(call: Call) -> Answer:
    task = task_of(call)
    _require_done(call.client.delete(task.id))
    return Answer()


def reason_in(call: Call) -> str | None:
    """The reason that a body may give."""
    found = (call.body or {}).get("reason")
    return str(found) if found else None


def _changed(call: Call, task: Task, changes: Changes) -> Answer:
    _require_done(changes)
    (outcome,) = changes.counts
    try:
        now = whole_task(call, call.client.get(task.id))
    except DisbatchError:  # it is done, and somebody has deleted the task since
        now = {"_id": str(task.id)}
    notes = [str(one.why) for one in call.client.unreachable_nodes(changes.stopping.values())]
    return Answer(body={"outcome": str(outcome), "task": now, "notes": notes})


def _require_done(changes: Changes) -> None:
    """Raises Problem if the task was not changed."""
    if changes.left:
        raise problem_of(changes.left[0])


_REFUSALS = {
    Outcome.ENDED: (Code.ENDED, "task {id} has ended: {status}"),
    Outcome.NOT_ENDED: (Code.NOT_ENDED, "task {id} has not ended: {status}"),
    Outcome.NOT_BLOCKED: (Code.NOT_BLOCKED, "task {id} is not blocked: {status}"),
    Outcome.UNIQUE_KEY: (Code.UNIQUE_KEY, "task {other} of the same queue has the unique key of task {id}"),
    Outcome.AWAITED: (Code.AWAITED, "another task waits for the end of task {id}"),
    Outcome.IN_BATCH: (Code.IN_BATCH, "the batch of task {id} is not done"),
    Outcome.OWES: (Code.CHANGED, "follow-up tasks of task {id} are still to be created"),
    Outcome.REFUSED: (Code.CHANGED, "others keep changing task {id}; try again"),
    Outcome.STORE_REFUSED: (Code.REFUSED, "the store refuses to change task {id}: {why}"),
    Outcome.GONE: (Code.TASK, "task {id} was deleted meanwhile"),
}


def problem_of(result: Result) -> Problem:
    """Why a task was not changed."""
    code, words = _REFUSALS.get(result.outcome, (Code.CHANGED, "task {id} was not changed"))
    other = None if result.other is None else str(result.other.id)
    detail = words.format(
        id=result.task.id, status=statuses.name(result.task.status), other=other or "another", why=result.why
    )
    return Problem(code, detail, more={} if other is None else {"task": other})


_TASK = {"type": "object", "description": "A task: schemas/task.json without output, with links."}
_CHANGED = {"type": "object", "required": ["outcome", "task"]}
_AGAIN = schemas.object_of(
    reason=schemas.REASON,
    parameters={"type": "object", "description": "Other values of some of its parameters; it keeps the rest."},
)
_ACTIONS = (
    (
        "cancel", _cancel, "Cancel it if it waits; ask its node to stop it if it runs.", schemas.WITH_REASON,
        (Code.ENDED,),
    ),
    (
        "retry", _retry, "Run it again, also with other values of some parameters.", _AGAIN,
        (Code.NOT_ENDED, Code.UNIQUE_KEY, Code.FAULTS, Code.TOO_SLOW),
    ),
    ("release", _release, "Let it run now, whatever it waits for.", schemas.WITH_REASON, (Code.NOT_BLOCKED,)),
)  # fmt: skip
_COLUMNS: Mapping[str, Any] = {
    "type": "array", "items": {"type": "string"},
    "description": "Of each task these alone (its `columns`), also with commas: p.user,status,result.size.",
}  # fmt: skip
ROUTES = (
    Route(
        method="GET", path="/tasks", role=Role.READ, does=_list, words="Tasks, without output, log and attempts.",
        query={**FILTER, **PAGING, "columns": _COLUMNS}, about=Code.QUEUE, problems=(Code.CURSOR,),
        answers={200: {"type": "object", "required": ["items", "next", "previous", "count", "looked_at"]}},
    ),
    Route(
        method="GET", path="/tasks/count", role=Role.READ, does=_count, words="How many tasks fit.",
        query={**FILTER, "exact": {"type": "boolean", "description": "However long it takes."}}, about=Code.QUEUE,
        answers={200: {"type": "object", "required": ["value", "is_exact"]}},
    ),
    Route(
        method="GET", path="/tasks/{id}", role=Role.READ, does=_get, about=Code.TASK, answers={200: _TASK},
        words="One task, with its story, why it waits or is stuck, and what can be done with it.",
    ),
    *(
        Route(
            method="POST", path=f"/tasks/{{id}}/{name}", role=Role.OPERATE, does=does, words=words, about=Code.TASK,
            body=Body(schema=schema, is_required=False), answers={200: _CHANGED}, problems=problems,
        )
        for name, does, words, schema, problems in _ACTIONS
    ),
    Route(
        method="DELETE", path="/tasks/{id}", role=Role.ADMIN, does=_delete, about=Code.TASK, answers={204: None},
        words="Delete it, with its output.", problems=(Code.NOT_ENDED, Code.AWAITED, Code.IN_BATCH),
    ),
)  # fmt: skip
