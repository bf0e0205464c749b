"""The start of a run: its fields in the task document, and the input of its program. Pure, but for the clock.

Responsible for: `run` as it is when a run starts, the line that the plugin reads, the note for the process host. Must
not know: how anything is started or recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson

from disbatch_host.documents.records import Document, Task
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.process.interface import StartError
from disbatch_host.run import checking, modes
from disbatch_host.run.context import RunContext
from disbatch_host.run.worker.process import Worker
from disbatch_protocol.document import stdin_line
from disbatch_protocol.status import Status

_NOT_FOR_PLUGINS = ("token", "secrets")  # of `run`: the node's own mark, and a list for commands that show the task
_OF_EARLIER_ATTEMPT = ("error", "result", "progress")  # see `transitions.start_change`


def run_fields(task: Task, plugin: Plugin, context: RunContext, *, secrets: Sequence[str], now: datetime) -> Document:
    """`run` in the task document, as it is when a run of the task starts at `now`. `secrets`: the JSON pointers of the
    secret ones among its parameters."""
    manifest = plugin.manifest
    return {
        **({"secrets": list(secrets)} if secrets else {}),
        "token": task.token,
        "attempt": task.next_attempt,
        "node": context.site.node_id,
        "host": context.machine_name,
        "plugin": {"class": manifest.name, "version": manifest.version, "directory": str(plugin.directory)},
        "idempotent": manifest.idempotent,
        "started": now,
    }


def start_with_claim(
    task: Task, plugin: Plugin, context: RunContext, worker: Worker | None
) -> tuple[Document, Worker | None] | None:
    """`run` of a task that can become Running as soon as it is claimed, and the worker process that it is given: its
    parameters fit, and nothing has to be prepared first, or it can have `worker`, an idle process that is reserved.
    None for any other task, and if the check may take long. Called in the thread of the store, which must not wait."""
    needs_worker = modes.needs_worker(plugin)
    if needs_worker and worker is None:
        return None
    checked = checking.examined_at_once(task, plugin)
    if checked is None or checked.faults:
        return None
    now = context.clock.now()
    if checking.has_expired(task, now) or task.cancel is not None:
        return None
    run = run_fields(task, plugin, context, secrets=checked.secrets, now=now)
    if not needs_worker or worker is None:
        return run, None
    return {**run, **worker.facts}, worker


def input_line(
    task: Task, plugin: Plugin, run: Mapping[str, Any], *, extended_json: Callable[[object], object] | None = None
) -> bytes:
    """The task as its plugin gets it: a line of JSON (SPEC, section 4). `run` as it is when the run starts.

    Raises StartError if the task holds a value that JSON cannot represent.
    """
    document = {
        **task.document,
        "status": int(Status.RUNNING),
        "mtime": run["started"],
        "parameters": plugin.schema.with_defaults(task.parameters),
        "run": {name: value for name, value in run.items() if name not in _NOT_FOR_PLUGINS},
    }
    for name in _OF_EARLIER_ATTEMPT:
        document.pop(name, None)
    try:
        return stdin_line(document, other=extended_json)
    except (TypeError, ValueError) as error:  # a value of another program that JSON cannot represent
        raise StartError(f"cannot be given its task as JSON: {error}") from error


def note_of(task: Task, run: Mapping[str, Any]) -> bytes:
    """The note that the process host keeps with the run: which attempt at which task it is."""
    return orjson.dumps(
        {
            "task": str(task.id),
            "queue": str(task.queue),
            "token": task.token,
            "attempt": run["attempt"],
            "started": run["started"],
        }
    )
