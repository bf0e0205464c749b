"""Operations: one action on all tasks that fit, tried first, then carried out in the background."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from disbatch_host.client import Selection, operations
from disbatch_host.client.jobs import Job, Jobs
from disbatch_host.client.operations import ACTIONS, IDS_MAX, Operation
from disbatch_host.errors import FieldError
from disbatch_host.web import schemas
from disbatch_host.web.call import Answer, Call
from disbatch_host.web.documents import plain, task_json
from disbatch_host.web.problems import Code, Fault, Problem
from disbatch_host.web.queries import FILTER, PAGING, selection_of
from disbatch_host.web.role import Role
from disbatch_host.web.route import Body, Route
from disbatch_host.web.small_lists import ANSWER, small_page
from disbatch_protocol.document import rfc3339

_SAMPLES = 5
_MAY_BE_SECRET = ("where", "grep")
_WORDS = {"class_name": "class", "ids": "id"}  # of a filter, which a selection calls otherwise


def jobs_of(call: Call) -> Jobs:
    return Jobs(call.client.store, operations.KIND)


def _post(call: Call) -> Answer:
    body = call.body
    if body["action"] == "delete":
        call.who.require(Role.ADMIN)
    wanted = Operation(action=body["action"], selection=_selection(call), reason=body.get("reason"))
    try:
        settled = operations.settled(call.client.store, wanted)
        if body.get("dry_run"):
            return _tried(call, settled)
        return _begun(call, settled)
    except FieldError as error:
        if error.field != "status":
            raise
        pointer = Fault(pointer="/filter/status", message=error.reason)
        raise Problem(Code.ACTION_FOR_STATUS, f"{body['action']}: {error.reason}", faults=[pointer]) from error


def _selection(call: Call) -> Selection:
    """The tasks that the body names, of those that this person may see. Raises Problem."""
    given = {name: _as_list(name, value) for name, value in call.body.get("filter", {}).items()}
    if ids := call.body.get("ids"):
        if "id" in given:
            raise Problem(Code.FAULTS, "expected either ids or id in the filter, found both")
        given["id"] = ids
    found = selection_of(given, call.who)
    for one in found.ids or ():
        call.who.require_task(one, call.client.get(one).queue)
    return found


def _as_list(name: str, value: Any) -> Any:
    return [value] if FILTER[name].get("type") == "array" and not isinstance(value, list) else value


def _tried(call: Call, operation: Operation) -> Answer:
    until = call.client.store.now()
    found = operations.preview(call.client.store, operation, until, samples=_SAMPLES)
    masked = call.client.masker().document
    return Answer(
        status=200,
        body={
            "matching": found.matching,
            "eligible": found.eligible,
            "is_exact": found.is_exact,
            "others": dict(found.others),
            "samples": [task_json(call, one, masked(one), is_whole=False) for one in found.samples],
            "by_status": dict(found.by_status),
            "by_queue": dict(found.by_queue),
            "by_error": dict(found.by_error),
            "looked_at": {"tasks": found.looked_at, "is_all": found.looked_at >= found.eligible},
            "until": rfc3339(until),
        },
    )


def _begun(call: Call, operation: Operation) -> Answer:
    body = call.body
    missing = [name for name in ("until", "expect") if name not in body]
    if missing:
        faults = [Fault(pointer=f"/{one}", message="expected, and missing") for one in missing]
        detail = f"expected {' and '.join(missing)} of a dry run ({{'dry_run': true}}), which says what would be done"
        raise Problem(Code.FAULTS, detail, faults=faults)
    until = _moment(call, body["until"])
    found = operations.preview(call.client.store, operation, until, samples=0)
    more_than = found.is_exact or found.eligible > body["expect"]
    if more_than and operations.differs(found.eligible, body["expect"]):
        raise Problem(
            Code.COUNT_DIFFERS,
            f"expected {body['expect']:,} tasks, found {found.eligible:,}; a new dry run shows which",
            more={"eligible": found.eligible, "expect": body["expect"]},
        )
    return begun(call, operation, until, found.eligible)


def begun(call: Call, operation: Operation, until: datetime, of: int) -> Answer:
    """It goes on in the background."""
    job_id = str(call.new_ids(1)[0])
    job = operations.begin(call.client.store, jobs_of(call), operation, call.who.by, until, of, job_id)
    call.wake()
    return accepted(call, job, f"operation {job.id}: {operation.action} {of:,} tasks of {_in_short(job)}")


def _in_short(job: Job) -> str:
    """Its selection on one line. A value of a parameter may be a secret."""
    selection = job.document["selection"].items()
    return ", ".join(name if name in _MAY_BE_SECRET else f"{name} {value!r:.80}" for name, value in selection)


def accepted(call: Call, job: Job, told: str = "") -> Answer:
    """202, and where it is."""
    headers = {"Location": call.link("operations", job.id)}
    return Answer(status=202, body=operation_json(call, job), headers=headers, told=told)


def _moment(call: Call, text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is None:
            raise ValueError
    except ValueError as error:
        raise FieldError("until", f"expected the until of a dry run, found {text!r:.60}") from error
    if found > call.client.store.now():
        raise FieldError("until", "expected the until of a dry run, found a time that is still to come")
    return found


def operation_json(call: Call, job: Job) -> dict[str, Any]:
    """An operation as its note has it, without what is for those who work at it."""
    document = job.document
    asked: Mapping[str, Any] = document["request"]
    shown = {
        "id": job.id,
        "action": document["action"],
        "filter": {_WORDS.get(name, name): value for name, value in document["selection"].items() if name != "queues"},
        "state": str(job.state),
        "is_stopping": job.is_to_stop and job.state == "running",
        "by": asked.get("by"),
        "reason": asked.get("why"),
        **{name: document.get(name) for name in ("until", "of", "done", "outcomes", "created", "ended", "error")},
        "refused": document["refused"],
        "notes": document.get("notes") or [],
    }
    links = {"self": call.link("operations", job.id), "stop": call.link("operations", job.id, "stop")}
    return {**plain(call, shown), "_links": links}


def _seen(call: Call) -> Job:
    """The operation of the path. Raises NotFoundError, Problem."""
    job = jobs_of(call).get(call.path["o"])
    if not _is_seen(call, job):
        raise Problem(Code.OPERATION, f"no operation {job.id!r:.80} for {call.who.name}")
    return job


def _is_seen(call: Call, job: Job) -> bool:
    """Somebody who is bound to queues sees what is bound to no others."""
    selection = job.document["selection"]
    queues = selection.get("queues") or [one for one in [selection.get("queue")] if one is not None]
    return call.who.queues is None or (bool(queues) and all(map(call.who.sees, queues)))


def _list(call: Call) -> Answer:
    return jobs_answer(call, jobs_of(call), lambda one: _is_seen(call, one), operation_json, "operations")


def jobs_answer(
    call: Call, jobs: Jobs, is_seen: Callable[[Job], bool], told: Callable[[Call, Job], Mapping[str, Any]], path: str
) -> Answer:
    """One page of operations, or of imports."""
    order = call.query.get("order", "newest")
    page = small_page(call, jobs.ids(), order=order, is_descending=order == "newest")
    items = [told(call, one) for one in jobs.read(page.keys) if is_seen(one)]
    return page.answer(call, items, path, seen=None if call.who.queues is None else len(items))


def _get(call: Call) -> Answer:
    return Answer(body=operation_json(call, _seen(call)), has_tag=True)


def _stop(call: Call) -> Answer:
    job = _seen(call)
    if job.document["action"] == "delete":
        call.who.require(Role.ADMIN)
    stopped = jobs_of(call).ask_to_stop(job.id, call.who.by)
    call.wake()
    return Answer(body=operation_json(call, stopped))


def _filter_schema() -> Mapping[str, Any]:
    """The filter of lists as an object. What may be several there may be one text or a list here."""
    properties = {
        name: {"type": ["string", "array"], "items": {"type": "string"}} if one.get("type") == "array" else one
        for name, one in FILTER.items()
    }
    return schemas.object_of((), **properties)


_BODY = schemas.object_of(
    ("action",),
    action={"type": "string", "enum": list(ACTIONS)},
    filter=_filter_schema(),
    ids={"type": "array", "items": schemas.ID, "minItems": 1, "maxItems": IDS_MAX},
    reason=schemas.REASON,
    dry_run={"type": "boolean", "description": "Say what would be done, and do nothing."},
    until={"type": "string", "description": "Of a dry run: what has changed since is left alone."},
    expect={**schemas.COUNT, "description": "The number `eligible` of that dry run."},
)
_NAMES: Sequence[str] = ("id", "action", "state", "done", "of", "outcomes", "refused")
OPERATION: Mapping[str, Any] = {"type": "object", "required": list(_NAMES)}
ROUTES = (
    Route(
        method="POST", path="/operations", role=Role.OPERATE, does=_post, about=Code.QUEUE, is_once=True,
        body=Body(schema=_BODY), answers={200: {"type": "object", "required": ["eligible", "until"]}, 202: OPERATION},
        words="Cancel, retry, release or (admin) delete all tasks that fit: a dry run first, then in the background.",
        problems=(Code.ACTION_FOR_STATUS, Code.FAULTS, Code.COUNT_DIFFERS, Code.KEY_REUSED, Code.RUNNING),
    ),
    Route(
        method="GET", path="/operations", role=Role.READ, does=_list, query=PAGING, about=Code.OPERATION,
        answers={200: ANSWER}, problems=(Code.CURSOR,), words="Of all operations, the newest first.",
    ),
    Route(
        method="GET", path="/operations/{o}", role=Role.READ, does=_get, about=Code.OPERATION, answers={200: OPERATION},
        words="One operation: how far it is, what came of each task, which were refused.",
    ),
    Route(
        method="POST", path="/operations/{o}/stop", role=Role.OPERATE, does=_stop, about=Code.OPERATION,
        body=Body(schema=schemas.object_of(), is_required=False), answers={200: OPERATION},
        words="Stop it after the batch that is being done; what is done stays.",
    ),
)  # fmt: skip
