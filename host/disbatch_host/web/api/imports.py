"""Files that are sent, and imports of them: tried first, then carried out in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from disbatch_host.client.importing.requested import Prepared, Trial
from disbatch_host.client.jobs import Job, Jobs
from disbatch_host.errors import DisbatchError
from disbatch_host.web import bad_rows, imports, schemas, spool, trials
from disbatch_host.web.api.operations import jobs_answer
from disbatch_host.web.bad_rows import FaultsTable
from disbatch_host.web.call import Answer, Call, Parts
from disbatch_host.web.documents import plain
from disbatch_host.web.impression import impression_of
from disbatch_host.web.opening import Opening
from disbatch_host.web.problems import Code, Fault, Problem
from disbatch_host.web.queries import PAGING
from disbatch_host.web.role import Role
from disbatch_host.web.route import Body, Route
from disbatch_host.web.small_lists import ANSWER
from disbatch_host.web.spool import Received

_SAMPLES = 5


def _upload(call: Call) -> Answer:
    received: Received = call.body
    try:
        found = impression_of(received).to_json()
    except DisbatchError:
        spool.required(call.spool).remove(received.id)
        raise
    body = {"upload": received.id, "name": received.name, "sha256": received.sha256, "bytes": received.size, **found}
    return Answer(body=body)


async def _post(opening: Opening) -> Answer:
    """The rows are looked at beside the store."""
    body = opening.body
    is_dry = bool(body.get("dry_run"))
    received, prepared = await opening.call(prepared_of)
    if is_dry or body.get("on_error", "stop") == "stop":
        with opening.shared.exports.of(opening.who):
            files = spool.required(opening.shared.spool)
            trial = await asyncio.to_thread(trials.tried, prepared, received, files, _SAMPLES)
        if is_dry:
            return await opening.call(lambda call: Answer(status=200, body=trial_json(call, trial)))
        if trial.faulty:
            raise await opening.call(lambda call: _refused(call, trial))
    return await opening.call(lambda call: begun(call, received))


def prepared_of(call: Call) -> tuple[Received, Prepared]:
    """What the body asks for, as far as it can be. Raises NotFoundError, Problem, UsageError."""
    call.who.require_queue(call.body["queue"])
    received = upload_of(call, call.body["upload"])
    return received, call.client.prepared_import(imports.requested_of(call.body))


def upload_of(call: Call, upload: str) -> Received:
    """A file that this person has sent. Raises Problem; an admin may use any."""
    found = spool.required(call.spool).find(upload)
    if found is None or (found.by != call.who.by and call.who.role < Role.ADMIN):
        detail = f"no upload {upload!r:.80} of {call.who.name} here; it is kept for 24 hours, or until it is imported"
        raise Problem(Code.UPLOAD, detail)
    return found


def trial_json(call: Call, trial: Trial) -> dict[str, Any]:
    """What would come of an import."""
    return {
        "rows": trial.rows,
        "fit": trial.rows - trial.faulty,
        "faults": [*map(bad_rows.fault_json, trial.faults)],
        "sample": [plain(call, {**one, "queue": str(one["queue"])}) for one in trial.sample],
        "secret_columns": list(trial.secret_columns),
        "notices": trial.notices,
    }


def _refused(call: Call, trial: Trial) -> Problem:
    faults = [Fault(pointer=f"line {one.line}", message=one.reason) for one in trial.faults]
    detail = f"{trial.faulty:,} of {trial.rows:,} rows do not fit; nothing was created"
    return Problem(Code.FAULTS, detail, faults=faults, more={"trial": trial_json(call, trial)})


def begun(call: Call, received: Received, *, job_id: str | None = None, rows: int | None = None) -> Answer:
    """It goes on in the background. `job_id`: that it was promised; `rows`: of the file, if they were counted."""
    job_id = job_id or str(call.new_ids(1)[0])
    job = _jobs(call).create(job_id, _document(call, received, rows))
    call.wake()
    told = f"import {job.id} of {received.name!r:.80} into {call.body['queue']!r:.80}"
    headers = {"Location": call.link("imports", job.id)}
    return Answer(status=202, body=import_json(call, job), headers=headers, told=told)


def _document(call: Call, received: Received, rows: int | None) -> dict[str, Any]:
    return imports.document_of(received, call.body, call.who.by, now=call.client.store.now(), rows=rows)


def _jobs(call: Call) -> Jobs:
    return Jobs(call.client.store, imports.KIND)


def import_json(call: Call, job: Job) -> dict[str, Any]:
    """An import as its note has it."""
    document = job.document
    names = (
        "file", "sha256", "queue", "by", "step", "rows", "total", "per_second", "created", "existing", "skipped",
        "empty", "faults", "error", "ended",
    )  # fmt: skip
    shown = {name: document.get(name) for name in names}
    # Until it has ended, every job has the time of its creation in the place of this count.
    is_counted = isinstance(shown["created"], int)
    shown |= {"begun": document.get("begun"), "created": shown["created"] if is_counted else 0}
    firsts = [orjson.loads(one) for one in document["first_faults"]]
    links = {
        "self": call.link("imports", job.id), "batch": call.link("batches", job.id),
        "faults": call.link("imports", job.id, "faults.csv"),
    }  # fmt: skip
    return {
        **plain(call, {"id": job.id, "state": str(job.state), "batch": job.id, **shown}),
        "first_faults": firsts,
        "_links": links,
    }


def _seen(call: Call) -> Job:
    job = _jobs(call).get(call.path["i"])
    if not call.who.sees(str(job.document["queue"])):
        raise Problem(Code.IMPORT, f"no import {job.id!r:.80} for {call.who.name}")
    return job


def _list(call: Call) -> Answer:
    return jobs_answer(call, _jobs(call), lambda one: call.who.sees(str(one.document["queue"])), import_json, "imports")


def _get(call: Call) -> Answer:
    return Answer(body=import_json(call, _seen(call)), has_tag=True)


def _stop(call: Call) -> Answer:
    job = _jobs(call).ask_to_stop(_seen(call).id, call.who.by)
    call.wake()
    return Answer(body=import_json(call, job))


async def _faults(opening: Opening) -> Parts:
    job = await opening.call(_seen)
    path = spool.required(opening.shared.spool).faults_path(job.id)
    return await _table(path, job.id, f"the rows of import {job.id}", "that has imported them")


async def _tried_faults(opening: Opening) -> Parts:
    received = await opening.call(lambda call: upload_of(call, call.path["u"]))
    path = spool.required(opening.shared.spool).tried_path(received.id)
    return await _table(path, received.id, f"the rows of upload {received.id}", "that has tried them")


async def _table(path: Path, name: str, what: str, by: str) -> Parts:
    try:
        table = await asyncio.to_thread(FaultsTable, path)
    except OSError as error:
        raise Problem(Code.NOT_KEPT, f"{what} are not kept here: for 24 hours, by the server {by}") from error
    headers = {"Content-Disposition": f'attachment; filename="faults-{name}.csv"'}
    return Parts(parts=table.parts(), headers=headers)


_BODY = schemas.object_of(
    ("upload", "queue"),
    upload=schemas.ID,
    queue=schemas.ID,
    map={
        "type": "object",
        "additionalProperties": {"type": "string", "minLength": 1},
        "description": "Columns and their parameters; without it each column is the parameter of its name.",
    },
    set={"type": "object", "description": "Parameters that all tasks get."},
    delimiter={"type": "string", "maxLength": 3},
    unique_key_from={"type": "string", "description": "The column whose value is the unique key of the task."},
    on_error={"type": "string", "enum": ["stop", "skip"], "default": "stop"},
    priority={"type": "integer"},
    delay={"type": ["string", "number"]},
    at={"type": "string"},
    expires={"type": ["string", "number"]},
    dry_run={"type": "boolean", "description": "Look through all rows, and create nothing."},
)
_IMPORT: Mapping[str, Any] = {"type": "object", "required": ["id", "state", "rows", "created", "existing", "faults"]}
_TRIAL: Mapping[str, Any] = {"type": "object", "required": ["rows", "fit", "faults", "sample", "secret_columns"]}
_RECEIVED: Mapping[str, Any] = {"type": "object", "required": ["upload", "sha256", "bytes", "format", "columns"]}
ROUTES = (
    Route(
        method="POST", path="/uploads", role=Role.OPERATE, does=_upload, takes_file=True, answers={201: _RECEIVED},
        about=Code.UPLOAD, words="Send a file of rows (CSV or NDJSON, also packed by gzip); it is kept for 24 hours.",
        problems=(Code.TOO_LARGE, Code.MEDIA, Code.FAULTS, Code.SPOOL),
    ),
    Route(
        method="GET", path="/uploads/{u}/faults.csv", role=Role.OPERATE, opens=_tried_faults, about=Code.UPLOAD,
        answers={200: {"type": "string"}}, media_type="text/csv; charset=utf-8",
        problems=(Code.NOT_KEPT, Code.SPOOL),
        words="The rows that did not fit when the file was last tried, with line and reason; secrets masked.",
    ),
    Route(
        method="POST", path="/imports", role=Role.OPERATE, opens=_post, about=Code.QUEUE, is_once=True,
        body=Body(schema=_BODY), answers={200: _TRIAL, 202: _IMPORT},
        words="A task for each row of a file that was sent: a dry run says which rows fit.",
        problems=(Code.UPLOAD, Code.FAULTS, Code.KEY_REUSED, Code.RUNNING, Code.SPOOL),
    ),
    Route(
        method="GET", path="/imports", role=Role.READ, does=_list, query=PAGING, about=Code.IMPORT,
        answers={200: ANSWER}, problems=(Code.CURSOR,), words="Of all imports, the newest first.",
    ),
    Route(
        method="GET", path="/imports/{i}", role=Role.READ, does=_get, about=Code.IMPORT, answers={200: _IMPORT},
        words="One import: how far it is, what came of its rows. Its batch has the same id.",
    ),
    Route(
        method="POST", path="/imports/{i}/stop", role=Role.OPERATE, does=_stop, about=Code.IMPORT,
        body=Body(schema=schemas.object_of(), is_required=False), answers={200: _IMPORT},
        words="Stop it after the rows that are being created; their tasks stay.",
    ),
    Route(
        method="GET", path="/imports/{i}/faults.csv", role=Role.READ, opens=_faults, about=Code.IMPORT,
        answers={200: {"type": "string"}}, media_type="text/csv; charset=utf-8", problems=(Code.NOT_KEPT,),
        words="The rows that do not fit, with line and reason, to be mended and sent again; secrets masked.",
    ),
)  # fmt: skip
