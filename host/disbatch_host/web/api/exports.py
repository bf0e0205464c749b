"""Tasks as files, and everything about one task in an archive."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from disbatch_host.client import Selection, exporting
from disbatch_host.client.finding import filter_of
from disbatch_host.client.paged_export import PagedExport
from disbatch_host.client.tables import Format
from disbatch_host.documents.records import Task
from disbatch_host.web.api.batches import batch_of
from disbatch_host.web.api.tasks import task_of
from disbatch_host.web.call import Call, Parts
from disbatch_host.web.documents import without_tokens
from disbatch_host.web.opening import Opening
from disbatch_host.web.problems import Code
from disbatch_host.web.queries import FILTER, selection_of
from disbatch_host.web.role import Role
from disbatch_host.web.route import Route

_BLOCK = 2**20
_MEDIA = {Format.NDJSON: "application/x-ndjson", Format.CSV: "text/csv; charset=utf-8"}


async def _tasks(opening: Opening) -> Parts:
    return await _export(opening, lambda call: selection_of(call.query, call.who), _name_of(opening))


async def _batch(opening: Opening) -> Parts:
    batch = await opening.call(batch_of)
    return await _export(opening, lambda _: Selection(batch=batch.id), batch.id)


def _name_of(opening: Opening) -> str:
    """Of the batch or the queue that the tasks are of: one file is told from another by it."""
    return str(opening.query.get("batch") or opening.query.get("queue") or "tasks")


async def _export(opening: Opening, selection: Callable[[Call], Selection], name: str) -> Parts:
    with opening.shared.exports.of(opening.who):  # another one is a problem, not a file that is cut
        pass
    query = opening.query
    columns = [one for text in query.get("columns", ()) for one in text.split(",")]
    shape = exporting.shape_of(
        None, form=query.get("format", "ndjson"), columns=columns, with_output=query.get("output", False)
    )
    spool = opening.shared.spool
    which = await opening.call(lambda call: filter_of(call.client.store, selection(call), call.client.by))
    export = PagedExport(which, shape, None if spool is None else str(spool.directory))
    parts = _pieces(opening, export)
    return Parts(parts=parts, media_type=_MEDIA[shape.form], headers=attachment(f"{name}.{shape.form}"))


async def _pieces(opening: Opening, export: PagedExport) -> AsyncGenerator[bytes, None]:
    """One call of the store for each."""
    with opening.shared.exports.of(opening.who), contextlib.closing(export):
        while (piece := await opening.call(functools.partial(_next, export))) is not None:
            if piece:
                yield piece


def _next(export: PagedExport, call: Call) -> bytes | None:
    masked = call.client.masker().document

    def shown(task: Task) -> Mapping[str, Any]:
        return without_tokens(masked(task))

    return export.next(call.client.store, shown)


def attachment(name: str) -> dict[str, str]:
    """A name for the file that is sent: of letters that every header can hold."""
    plain = "".join(one if one.isascii() and (one.isalnum() or one in "._-") else "_" for one in name)
    return {"Content-Disposition": f'attachment; filename="{plain}"'}


async def _bundle(opening: Opening) -> Parts:
    task = await opening.call(task_of)
    return Parts(parts=_archive(opening, task), headers=attachment(f"task-{task.id}.tar.gz"))


async def _archive(opening: Opening, task: Task) -> AsyncGenerator[bytes, None]:
    """Made as a whole, then sent."""
    spool = opening.shared.spool
    with tempfile.TemporaryFile(dir=None if spool is None else spool.directory) as file:
        await opening.call(lambda call: call.client.bundle(task, file))
        file.seek(0)
        while data := file.read(_BLOCK):
            yield data


_SHAPE: Mapping[str, Any] = {
    "format": {"type": "string", "enum": ["ndjson", "csv"], "default": "ndjson", "description": "Lines, or a table."},
    "columns": {
        "type": "array",
        "items": {"type": "string"},
        "description": "These alone, also with commas, such as task,status,user,result.size.",
    },
    "output": {"type": "boolean", "description": "With all of stdout and stderr, in NDJSON."},
}
_WORDS = (
    'as a file: NDJSON, whose last line is {"end": n} where it is whole, or CSV, in which no cell is a formula. '
    "Secrets are masked."
)
ROUTES = (
    Route(
        method="GET", path="/tasks/export", role=Role.READ, opens=_tasks, query={**FILTER, **_SHAPE}, about=Code.QUEUE,
        answers={200: {"type": "string"}}, media_type=_MEDIA[Format.NDJSON], words=f"All tasks that fit {_WORDS}",
    ),
    Route(
        method="GET", path="/batches/{b}/export", role=Role.READ, opens=_batch, query=_SHAPE, about=Code.BATCH,
        answers={200: {"type": "string"}}, media_type=_MEDIA[Format.NDJSON], words=f"The tasks of a batch {_WORDS}",
    ),
    Route(
        method="GET", path="/tasks/{id}/bundle", role=Role.OPERATE, opens=_bundle, about=Code.TASK,
        answers={200: {"type": "string"}}, media_type="application/gzip",
        words="Everything about one task, as an archive. Secret parameters are masked; outputs are not.",
    ),
)  # fmt: skip
