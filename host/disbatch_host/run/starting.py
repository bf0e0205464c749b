"""The start of a run: its fields in the task document, and the input of its program. Pure, but for the clock.

Responsible for: `run` as it is when a run starts, the line that the plugin reads, the note for the process host. Must
not know: how anything is started or recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import orjson

from disbatch_host.documents.records import Document, Task
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.process.interface import StartError
from disbatch_host.run import checking, modes
from disbatch_host.run.context import RunContext
from disbatch_host.run.worker.process import Worker
from disbatch_protocol.document import parameter_input, stdin_line
from disbatch_protocol.encodings import Encoding
from disbatch_protocol.manifest import StdinKind
from disbatch_protocol.status import Status

_NOT_FOR_PLUGINS = ("token", "secrets")  # of `run`: the node's own mark, and a list for commands that show the task
_OF_EARLIER_ATTEMPT = ("error", "result", "progress")  # see `transitions.start_change`


def run_fields(task: Task, plugin: Plugin, context: RunContext, *, now: datetime) -> Document:
    """`run` in the task document, as it is when a run of the task starts at `now`."""
    manifest = plugin.manifest
    secrets = plugin.schema.secrets(task.parameters)
    return {
        **({"secrets": list(secrets)} if secrets else {}),
        "token": task.token,
        "attempt": task.next_attempt,
        "node": context.site.node_id,
        "host": context.machine_name,
        "plugin": {"class": manifest.name, "version": manifest.version, "directory": str(plugin.directory)},
        "idempotent": manifest.idempotent,
        "started": now,
        **_bytes_of_output(plugin),
    }


def _bytes_of_output(plugin: Plugin) -> Document:
    """Which of its streams are no text: told from the start, to those who read them while it runs."""
    encoding = plugin.manifest.encoding
    streams = {"stdout": encoding.stdout, "stderr": encoding.stderr}
    told = {
        name: {"bytes": 0, "in_file": False, "encoding": str(one)}
        for name, one in streams.items()
        if one is Encoding.BINARY
    }
    return {"output": told} if told else {}


def start_with_claim(
    task: Task, plugin: Plugin, context: RunContext, worker: Worker | None
) -> tuple[Document, Worker | None] | None:
    """`run` of a task that can become Running as soon as it is claimed, and the worker process that it is given: its
    parameters fit, and nothing has to be prepared first, or it can have `worker`, an idle process that is reserved.
    None for any other task, and if the check may take long. Called in the thread of the store, which must not wait."""
    needs_worker = modes.needs_worker(plugin)
    if (needs_worker and worker is None) or not checking.fits_at_once(task, plugin):
        return None
    now = context.clock.now()
    if checking.has_expired(task, now) or task.cancel is not None:
        return None
    run = run_fields(task, plugin, context, now=now)
    if not needs_worker or worker is None:
        return run, None
    return {**run, **worker.facts}, worker


def input_of(
    task: Task, plugin: Plugin, run: Mapping[str, Any], *, extended_json: Callable[[object], object] | None = None
) -> bytes | None:
    """The input of the task's program, as its manifest wants it (SPEC, section 4): the task as a line of JSON, or one
    of its parameters. None: it has no stdin but /dev/null. `run` as it is when the run starts.

    Raises StartError if the task holds a value that JSON cannot represent.
    """
    stdin = plugin.manifest.stdin
    if stdin.kind is StdinKind.NULL:
        return None
    parameters = plugin.schema.with_defaults(task.parameters)
    try:
        if stdin.parameter is not None:
            return parameter_input(parameters, stdin.parameter, other=extended_json)
        return stdin_line(_document_for_plugin(task, run, parameters), other=extended_json)
    except (TypeError, ValueError) as error:  # a value of another program that JSON cannot represent
        raise StartError(f"cannot be given its task as JSON: {error}") from error


def _document_for_plugin(task: Task, run: Mapping[str, Any], parameters: Any) -> Document:
    document = {
        **task.document,
        "status": int(Status.RUNNING),
        "mtime": run["started"],
        "parameters": parameters,
        "run": {name: value for name, value in run.items() if name not in _NOT_FOR_PLUGINS},
    }
    for name in _OF_EARLIER_ATTEMPT:
        document.pop(name, None)
    return document


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
