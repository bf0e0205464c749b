"""Queues: lists, one queue, changes of it, and the tasks that are pushed into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from disbatch_host.client.masks import MASKED, masks_in
from disbatch_host.client.pushing import Timing
from disbatch_host.client.queues import SETTABLE, QueueState
from disbatch_host.client.several import Several, TaskFault, Wanted
from disbatch_host.decide import counts
from disbatch_host.documents.records import KEEP_ATTEMPTS_MAX
from disbatch_host.errors import BatchClosedError, ChangedMeanwhileError, NotFoundError
from disbatch_host.web import schemas
from disbatch_host.web.api.tasks import faults_of, reason_in
from disbatch_host.web.call import Answer, Call, require_match, tag_of
from disbatch_host.web.documents import queue_json
from disbatch_host.web.problems import Code, Fault, Problem
from disbatch_host.web.queries import PAGING
from disbatch_host.web.role import Role
from disbatch_host.web.route import Body, Route
from disbatch_host.web.small_lists import ANSWER, small_page
from disbatch_protocol import status as statuses

PUSHED_MAX = 1000  # tasks in one request


def _list(call: Call) -> Answer:
    """By name, or by creation where an order is asked for."""
    order = call.query.get("order", _BY_NAME)
    states = {_key(order, one): one for one in _states(call)}
    page = small_page(call, list(states), order=order, is_descending=order == "newest")
    return page.answer(call, _items(call, [states[key] for key in page.keys]), "queues")


_BY_NAME = "name"


def _key(order: str, state: QueueState) -> str:
    name, created = str(state.queue.id), state.queue.document.get("ctime")
    if order == _BY_NAME:
        return name
    return f"{created.isoformat() if isinstance(created, datetime) else ''} {name}"


def _states(call: Call) -> list[QueueState]:
    return [one for one in call.client.queues.list() if call.who.sees(str(one.queue.id))]


def _items(call: Call, states: Sequence[QueueState]) -> list[dict[str, Any]]:
    oldest = {str(queue): moment for queue, moment in call.client.store.oldest_waiting().items()}
    now = call.client.store.now()
    items = []
    for state in states:
        since = oldest.get(str(state.queue.id))
        waited = None if since is None else max(0.0, (now - since).total_seconds())
        items.append({**_state_json(call, state), "oldest_waiting_seconds": waited})
    return items


def all_queues(call: Call) -> list[dict[str, Any]]:
    """All that this person sees, as in the list."""
    return _items(call, _states(call))


def _state_json(call: Call, state: QueueState) -> dict[str, Any]:
    exact = {statuses.name(status): count for status, count in sorted(state.by_status.items())}
    causes = [{"code": str(one.code), "sentence": one.sentence, "short": one.short} for one in state.causes]
    return {
        **queue_json(call, state.queue),
        "counts": dict(counts.totals(state.by_status)),
        "by_status": exact,
        "reasons": [one["code"] for one in causes],
        "notes": causes,
    }


def _state(call: Call) -> QueueState:
    call.who.require_queue(call.path["q"])
    return call.client.queues.state(call.path["q"])


def _get(call: Call) -> Answer:
    call.who.require_queue(call.path["q"])
    try:
        state = call.client.queues.state(call.path["q"])
    except NotFoundError:
        by_status = call.client.store.count_by_status().get(call.path["q"], {})
        if not by_status:
            raise
        gone = {"_id": call.path["q"], "exists": False, "counts": dict(counts.totals(by_status))}
        return Answer(body=gone)
    # The tag is of the document alone: counts change all the time.
    tag = tag_of(queue_json(call, state.queue))
    return Answer(body={**_state_json(call, state), "exists": True}, headers={"ETag": tag})


def _create(call: Call) -> Answer:
    fields = dict(call.body)
    name, class_name = str(fields.pop("_id")), str(fields.pop("class"))
    queue = call.client.queues.create(name, class_name, **fields)
    body = queue_json(call, queue)
    headers = {"Location": call.link("queues", name), "ETag": tag_of(body)}
    return Answer(body=body, headers=headers, told=f"q {name!r:.80}, class {class_name!r:.80}")


def _patch(call: Call) -> Answer:
    state = _state(call)
    require_match(call, queue_json(call, state.queue))
    only_if = {name: state.queue.document.get(name) for name in SETTABLE}
    try:
        changed = call.client.queues.set(str(state.queue.id), only_if=only_if, **call.body)
    except ChangedMeanwhileError as error:
        now = queue_json(call, call.client.queues.get(str(state.queue.id)))
        raise Problem(Code.STALE, str(error), headers={"ETag": tag_of(now)}, more={"document": now}) from error
    body = queue_json(call, changed)
    return Answer(body=body, headers={"ETag": tag_of(body)})


def _delete(call: Call) -> Answer:
    state = _state(call)
    require_match(call, queue_json(call, state.queue))
    total = sum(state.by_status.values())
    if total and call.query.get("tasks") != "keep":
        raise Problem(
            Code.HAS_TASKS,
            f"queue {state.queue.id} has {total:,} tasks, which stay; tasks=keep says that this is meant",
        )
    call.client.queues.delete(str(state.queue.id), leaves_unfinished=True)
    return Answer()


def _pause(call: Call) -> Answer:
    _state(call)
    queue = call.client.queues.pause(call.path["q"], why=reason_in(call))
    return Answer(body=queue_json(call, queue))


def _resume(call: Call) -> Answer:
    _state(call)
    queue = call.client.queues.resume(call.path["q"])
    return Answer(body=queue_json(call, queue))


def _push(call: Call) -> Answer:
    call.who.require_queue(call.path["q"])
    checks = _checks(call)
    wanted = _wanted(call.body)
    several = _several(call, wanted)
    faults = [*_faults_of(call, wanted, checks=checks), *map(_fault_of, several.faults)]
    closed = [one.error for one in several.faults if isinstance(one.error, BatchClosedError)]
    if closed and len(closed) == len(faults):
        raise closed[0]
    if faults:
        raise Problem(Code.FAULTS, _summed_up(faults, len(wanted)), faults=faults)
    pushed = several.create(None if call.once is None else call.new_ids(len(wanted)))
    created = sum(one.is_new for one in pushed)
    body = {"ids": [str(one.id) for one in pushed], "created": created, "existing": len(pushed) - created}
    headers = {"Location": call.link("tasks", str(pushed[0].id))} if len(pushed) == 1 else {}
    return Answer(body=body, headers=headers, told=f"{created:,} created, {len(pushed) - created:,} existing")


def _several(call: Call, wanted: Sequence[Mapping[str, Any]]) -> Several:
    tasks = [
        Wanted(
            parameters=one["parameters"], unique_key=one.get("unique_key"), batch=one.get("batch"),
            timing=cast("Timing", {name: one[name] for name in _TIMING if name in one}),
        )
        for one in wanted
    ]  # fmt: skip
    return call.client.several(call.path["q"], tasks)


def _fault_of(found: TaskFault) -> Fault:
    at = f"/tasks/{found.number}"
    return Fault(pointer=f"{at}/{found.field}" if found.field else at, message=found.reason)


def _summed_up(faults: Sequence[Fault], count: int) -> str:
    if len(faults) == 1 and count == 1:
        return f"{faults[0].pointer.removeprefix('/tasks/0').lstrip('/')}: {faults[0].message}; nothing was created"
    return f"{len(faults)} faults in {count} tasks; nothing was created"


def _check(call: Call) -> Answer:
    call.who.require_queue(call.path["q"])
    wanted = _wanted(call.body)
    faults = [*_faults_of(call, wanted), *map(_fault_of, _several(call, wanted).faults)]
    return Answer(body={"faults": [one.to_json() for one in faults]})


def _checks(call: Call) -> bool:
    if call.query.get("check", True):
        return True
    call.who.require(Role.ADMIN)
    return False


def _wanted(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(body["tasks"]) if "tasks" in body else [body]


def _faults_of(call: Call, wanted: list[Mapping[str, Any]], *, checks: bool = True) -> list[Fault]:
    """What does not fit, of every task, by its place in the body. Raises Problem if a check takes too long."""
    plugin = call.client.plugins.of_queue(call.path["q"])
    if plugin is None:
        return []
    found: list[Fault] = []
    for number, one in enumerate(wanted):
        at = f"/tasks/{number}/parameters"
        if checks:
            found += faults_of(plugin, one["parameters"], at)
        else:
            found += [Fault(pointer=f"{at}{one}", message=MASKED) for one in masks_in(plugin.schema, one["parameters"])]
    return found


def _of_lines(rows: list[Any]) -> Any:
    """Lines of NDJSON are the parameters of tasks."""
    return {"tasks": [{"parameters": one} for one in rows]}


_TIMING = ("priority", "delay", "at", "expires", "after", "after_any")
_DURATION = {"type": ["string", "number"], "description": 'Like "1h30m", or seconds.'}
_FIELDS: Mapping[str, Any] = {
    "description": {"type": ["string", "null"], "maxLength": 4000},
    "maxthreads": {"type": ["integer", "null"], "minimum": 0},
    "maxtotal": {"type": ["integer", "null"], "minimum": 0},
    "rate": {"type": ["string", "null"]},
    "sort": {"enum": ["fifo", "lifo", None]},
    "keep": {"type": ["string", "number", "null"]},
    "keep_attempts": {"type": ["integer", "null"], "minimum": 1, "maximum": KEEP_ATTEMPTS_MAX},
    "pause_on_failures": {"type": ["string", "null"]},
    "nodes_pin": {"type": ["array", "null"], "items": {"type": "string"}},
    "nodes_ignore": {"type": ["array", "null"], "items": {"type": "string"}},
}
_TASK = schemas.object_of(
    ("parameters",),
    parameters={"type": "object"},
    priority={"type": "integer"},
    delay=_DURATION,
    at={"type": "string"},
    expires={"type": ["string", "number"]},
    unique_key={"type": "string"},
    after={"type": "array", "items": schemas.ID},
    after_any={"type": "boolean"},
    batch={"type": "string"},
)
_TASKS = {
    "oneOf": [
        _TASK,
        schemas.object_of(
            ("tasks",), tasks={"type": "array", "items": _TASK, "minItems": 1, "maxItems": PUSHED_MAX},
        ),
    ]
}  # fmt: skip
_NEW = schemas.object_of(("_id", "class"), _id=schemas.ID, **{"class": schemas.ID}, **_FIELDS)
_CHANGES = schemas.object_of((), **{"class": schemas.ID}, **_FIELDS)
_PUSH = Body(schema=_TASKS, max_bytes=16 * 2**20, of_lines=_of_lines)
_ORDER: Mapping[str, Any] = {
    "type": "string", "enum": ["newest", "oldest"], "description": "By creation; without it, by name.",
}  # fmt: skip
ROUTES = (
    Route(
        method="GET", path="/queues", role=Role.READ, does=_list, words="Queues with their counts, by name.",
        query={**PAGING, "order": _ORDER}, problems=(Code.CURSOR,),
        answers={200: ANSWER},
    ),
    Route(
        method="POST", path="/queues", role=Role.ADMIN, does=_create, words="Create a queue.", body=Body(schema=_NEW),
        answers={201: {"type": "object"}}, problems=(Code.EXISTS, Code.FAULTS), about=Code.QUEUE,
    ),
    Route(
        method="GET", path="/queues/{q}", role=Role.READ, does=_get, about=Code.QUEUE,
        words="One queue with its counts, and why its tasks do not run; also a deleted one that still has tasks.",
    ),
    Route(
        method="PATCH", path="/queues/{q}", role=Role.ADMIN, does=_patch, about=Code.QUEUE, body=Body(schema=_CHANGES),
        words="Change fields (RFC 7396); null unsets one.", problems=(Code.STALE, Code.IF_MATCH, Code.FAULTS),
    ),
    Route(
        method="DELETE", path="/queues/{q}", role=Role.ADMIN, does=_delete, about=Code.QUEUE, answers={204: None},
        query={"tasks": {"type": "string", "enum": ["keep"], "description": "Its tasks stay, and that is meant."}},
        words="Delete it; its tasks stay.", problems=(Code.HAS_TASKS, Code.STALE, Code.IF_MATCH),
    ),
    Route(
        method="POST", path="/queues/{q}/pause", role=Role.OPERATE, does=_pause, about=Code.QUEUE,
        body=Body(schema=schemas.WITH_REASON, is_required=False), words="No node claims from it any more.",
    ),
    Route(
        method="POST", path="/queues/{q}/resume", role=Role.OPERATE, does=_resume, about=Code.QUEUE,
        body=Body(schema=schemas.WITH_REASON, is_required=False), words="Nodes claim from it again.",
    ),
    Route(
        method="POST", path="/queues/{q}/tasks", role=Role.OPERATE, does=_push, about=Code.QUEUE, body=_PUSH,
        query={"check": {"type": "boolean", "description": "no: whether the parameters fit or not (admin)."}},
        answers={201: {"type": "object", "required": ["ids", "created", "existing"]}},
        words="Create one task, or up to 1,000; lines of NDJSON are parameters.", is_once=True,
        problems=(Code.FAULTS, Code.TOO_SLOW, Code.CLOSED, Code.TOO_LARGE, Code.KEY_REUSED, Code.RUNNING),
    ),
    Route(
        method="POST", path="/queues/{q}/tasks/check", role=Role.READ, does=_check, about=Code.QUEUE, body=_PUSH,
        answers={200: {"type": "object", "required": ["faults"]}},
        words="Whether they would fit; nothing is created.", problems=(Code.TOO_SLOW, Code.TOO_LARGE),
    ),
)  # fmt: skip
