"""The start of a run: its fields in the task document, and the input of its program. Pure, but for the clock.

Responsible for: `run` as it is when a run starts, the line that the plugin reads. Must
not know: how anything is started or recorded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from disbatch_host.documents.records import Document, Task
from disbatch_host.documents.storable import storable
from disbatch_host.errors import TaskFaultError
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.process.interface import Trust
from disbatch_host.run import checking, modes, notes
from disbatch_host.run.context import RunContext
from disbatch_host.run.execution import Assignment
from disbatch_host.run.worker.process import Worker
from disbatch_protocol.command_line import Made
from disbatch_protocol.document import parameter_input, stdin_line
from disbatch_protocol.encodings import Encoding
from disbatch_protocol.manifest import StdinKind
from disbatch_protocol.status import Status

# Of `run`: the node's own marks, and a list for commands that show the task.
_NOT_FOR_PLUGINS = frozenset({"token", "secrets", "supervisor", "session", "arguments", "arguments_left_out"})
_ID_BYTES_MAX = 1024  # far above any id that somebody made on purpose, far below what exec takes as one variable
# Bytes of `run.arguments`, with what each word takes besides its text: for people, in documents of very many tasks.
_ARGUMENTS_MAX, _BESIDE_A_WORD = 2**13, 8
_OF_EARLIER_ATTEMPT = frozenset({"error", "result", "progress"})  # see `transitions.start_change`


def run_fields(
    task: Task,
    plugin: Plugin,
    context: RunContext,
    *,
    now: datetime,
    secrets: Sequence[str],
    has_words: bool = True,
) -> Document:
    """`run` in the task document, as it is when a run of the task starts at `now`. `secrets`: the JSON pointers of its
    secret parameters. `has_words`: its program gets words that are made of them."""
    same = context.same_fields.get(plugin)
    if same is None:
        same = context.same_fields[plugin] = _same_fields(plugin, context)
    run = {"token": task.token, "attempt": task.next_attempt, "started": now, **same}
    if secrets:
        run["secrets"] = list(secrets)
    if has_words and plugin.manifest.command_line is not None:
        run |= _arguments(plugin.schema.made_of(task.parameters, secrets))
    return run


def _arguments(made: Made) -> Document:
    """The words that the program gets from its task's parameters, as far as a document keeps them."""
    if made.faults or not made.words:
        return {}
    left, shown = _ARGUMENTS_MAX, list[str]()
    for number, word in enumerate(made.words):
        data = word.encode()
        left -= len(data) + _BESIDE_A_WORD
        if left < 0:
            part = data[: max(len(data) + left - len("…".encode()), 0)].decode("utf-8", "ignore")
            return {
                "arguments": [*shown, part + "…"] if part else shown,
                "arguments_left_out": len(made.words) - number,
            }
        shown.append(word)
    return {"arguments": shown}


def _same_fields(plugin: Plugin, context: RunContext) -> Document:
    """The fields of `run` that are the same for all runs of a plugin on one host."""
    manifest = plugin.manifest
    return {
        "node": context.site.node_id,
        "host": context.machine_name,
        **context.supervisor,
        "plugin": {
            "class": manifest.name,
            "version": storable(manifest.version),
            "directory": storable(plugin.directory),
        },
        "idempotent": manifest.idempotent,
        **_bytes_of_output(plugin),
    }


def all_secret(plugin: Plugin) -> Sequence[str]:
    """The JSON pointers if nothing is known of the parameters: a pointer to the whole, if the plugin has secrets."""
    return ("",) if plugin.schema.has_secrets else ()


def _bytes_of_output(plugin: Plugin) -> Document:
    """Which of its streams are no text: told from the start, to those who read them while it runs."""
    encoding = plugin.manifest.encoding
    if Encoding.BINARY not in (encoding.stdout, encoding.stderr):
        return {}
    streams = {"stdout": encoding.stdout, "stderr": encoding.stderr}
    told = {
        name: {"bytes": 0, "in_file": False, "encoding": str(one)}
        for name, one in streams.items()
        if one is Encoding.BINARY
    }
    return {"output": told}


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
    run = run_fields(task, plugin, context, now=now, secrets=checked.secrets)
    if not needs_worker or worker is None:
        return run, None
    return {**run, **worker.facts}, worker


def input_of(
    task: Task, plugin: Plugin, run: Mapping[str, Any], *, extended_json: Callable[[object], object] | None = None
) -> bytes | None:
    """The input of the task's program, as its manifest wants it (SPEC, section 4): the task as a line of JSON, or one
    of its parameters. None: it has no stdin but /dev/null. `run` as it is when the run starts.

    Raises TaskFaultError if the task holds a value that JSON cannot represent.
    """
    stdin = plugin.manifest.stdin
    if stdin.kind is StdinKind.NULL:
        return None
    parameters = plugin.schema.with_defaults(task.parameters)
    try:
        if stdin.parameter is not None:
            return parameter_input(parameters, stdin.parameter, other=extended_json)
        return stdin_line(_document_for_plugin(task, run, parameters), other=extended_json)
    except (TypeError, ValueError, RecursionError) as error:  # a value of another program
        why = f"expected a task that JSON can represent, found one that it cannot: {error}"
        raise TaskFaultError(f"it cannot be handed to its program: {why}") from error


def _document_for_plugin(task: Task, run: Mapping[str, Any], parameters: Any) -> Document:
    document = {
        **task.document,
        "status": int(Status.RUNNING),
        "mtime": run["started"],
        "parameters": parameters,
        "run": {name: value for name, value in run.items() if name not in _NOT_FOR_PLUGINS},
    }
    if not _OF_EARLIER_ATTEMPT.isdisjoint(document):
        document = {name: value for name, value in document.items() if name not in _OF_EARLIER_ATTEMPT}
    if "attempts" in document:
        document["attempts"] = [_attempt_for_plugin(one) for one in task.attempts]
    return document


def _attempt_for_plugin(attempt: Any) -> Any:
    if not isinstance(attempt, Mapping):
        return attempt
    return {name: value for name, value in attempt.items() if name not in _NOT_FOR_PLUGINS}


def assignment_of(task: Task, plugin: Plugin, run: Mapping[str, Any], trust: Trust | None) -> Assignment:
    """The part of the task that its execution must know. `trust`: that it is this host's. Raises TaskFaultError if its
    id, or its queue's, cannot be the value of an environment variable."""
    words: Sequence[bytes] = ()
    variables = None
    if plugin.manifest.command_line is not None:
        made = plugin.schema.made_of(task.parameters)
        words = [word.encode() for word in made.words]
        # Whatever the locale of this process makes of text, the program gets UTF-8.
        variables = {name: os.fsdecode(value.encode()) for name, value in made.variables.items()}
    return Assignment(
        task_id=_id_for_programs("id", task.id),
        queue=_id_for_programs("queue", task.queue),
        attempt=run["attempt"],
        note=notes.note_of(task, run),
        trust=trust,
        words=words,
        variables=variables,
    )


def _id_for_programs(what: str, value: object) -> str:
    text = str(value)
    if text.isascii() and len(text) <= _ID_BYTES_MAX and "\0" not in text:
        return text
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        found = "one with half a character"
    else:
        if size <= _ID_BYTES_MAX and "\0" not in text:
            return text
        found = f"one of {size} bytes" if size > _ID_BYTES_MAX else "one with a NUL character"
    raise TaskFaultError(
        f"it cannot be handed to a program: expected a task whose {what} is text of at most {_ID_BYTES_MAX} bytes "
        f"without NUL, found {found}"
    )
