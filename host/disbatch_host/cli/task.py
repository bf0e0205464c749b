"""`disbatch-host task …`"""

from __future__ import annotations

import codecs
import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import click

from disbatch_host.cli import common, render, selection
from disbatch_host.cli.main import Subcommands, common_options
from disbatch_host.errors import DisbatchError, ExitCode, NotFoundError, UsageError
from disbatch_host.model import Task, TaskFilter
from disbatch_host.plugins import Plugin
from disbatch_host.store.base import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.document import PROTECTED, to_json
from disbatch_protocol.outcome import Reason
from disbatch_protocol.parameters import masked_at
from disbatch_protocol.quantities import format_size, parse_duration
from disbatch_protocol.status import Status

_LIST_LIMIT = 50
_LOOK_SECONDS = 0.5  # between two looks at a task that is followed or waited for, where the store does not wake us
_TAIL_LINES = 10  # of each stream in `task show`


_ELSEWHERE = {
    "cancel": "cancel.cancel",
    "delete": "delete.delete",
    "export": "exporting.export",
    "import": "importing.import_",
    "push": "push.push",
    "release": "retry.release",
    "retry": "retry.retry",
    "set": "task_set.set_",
}


@click.group(cls=Subcommands, elsewhere=_ELSEWHERE)
@common_options
def task() -> None:
    """Push, list, show, cancel and delete tasks, run them again, read their output, and wait for them."""


# --- list and show


@task.command("list")
@selection.filter_options
@click.option(
    "--limit", type=click.IntRange(1), default=_LIST_LIMIT, show_default=True, metavar="N", help="At most so many."
)
@common_options
def list_(filters: Mapping[str, Any], limit: int) -> None:
    """List tasks, the newest first.

    \b
      disbatch-host task list --queue mail --status failed --since 2h
      disbatch-host task list --error timeout --before 2026-11-25 --limit 1000 --json
    """
    with common.opened_store() as store:
        which = selection.filter_of(store, filters)
        tasks = list(store.find_tasks(which, limit=limit + 1, newest_first=True, with_output=False))
        if common.wants_json():
            masker = _Masker(store)
            for one in tasks[:limit]:
                render.print_json(masker.document(one), store.extended_json)
        else:
            now = store.now()
            rows = [
                (
                    one.id,
                    one.queue,
                    render.status_cell(one.status),
                    one.node or "-",
                    render.age(one.document.get("ctime"), now),
                    render.duration(None if one.run.get("reason") == Reason.LOST else one.run.get("seconds")),
                    _in_short(one),
                )
                for one in tasks[:limit]
            ]
            columns = ("task", "queue", "status", "node", "created", "ran", "error")
            render.print_table(columns, rows)
        if len(tasks) > limit:
            click.echo(f"the newest {limit}; there are more, --limit shows them", err=True)


def _in_short(one: Task) -> str:
    if one.fault is not None:
        return f"damaged: {one.fault}"[:60]
    error = one.document.get("error")
    message = error.get("message") if isinstance(error, Mapping) else None
    if not isinstance(message, str) or not message.strip():
        return ""
    line = message.strip().splitlines()[-1].removeprefix("disbatch-host: ")
    return line if len(line) <= 60 else f"{line[:57]}..."


@task.command()
@click.argument("id")
@common_options
def show(id: str) -> None:
    """Show a task: what ran, how it ended, and why."""
    with common.opened_store() as store:
        found = common.find_task(store, id)
        if common.wants_json():
            render.print_json(_Masker(store).document(found), store.extended_json)
            return
        _show(store, found)


def _show(store: Store, found: Task) -> None:
    now = store.now()
    document, run = found.document, found.run
    facts: list[tuple[str, Any]] = [
        ("task", found.id),
        ("queue", found.queue),
        ("status", render.status_cell(found.status)),
    ]
    if found.fault is not None:
        facts.append(("damaged", (f"{found.fault}; no node runs it like that", "red")))
    if found.status == Status.BLOCKED and "not_before" in document:
        facts.append(
            ("not before", f"{render.moment(document['not_before'])} ({render.age(document['not_before'], now)})")
        )
    facts.append(("created", f"{render.moment(document.get('ctime'))} ({render.age(document.get('ctime'), now)})"))
    if "parent" in document:
        facts.append(("parent", f"{document['parent']}, whose run has created this one"))
    claim = document.get("claim")
    if isinstance(claim, Mapping) and found.node is not None and run.get("reason") != Reason.LOST:
        facts.append(("claimed", f"{render.moment(claim.get('at'))} by node {found.node}"))
    facts += [_attempt_fact(one) for one in found.attempts if isinstance(one, Mapping)]
    if run:
        facts += _run_facts(run)
    error = document.get("error")
    if isinstance(error, Mapping):
        facts.append(("error", (f"{error.get('code', '')}: {error.get('message', '')}", "red")))
    facts.append(("parameters", _pretty(_Masker(store).document(found)["parameters"], store)))
    if "progress" in document:
        facts.append(("progress", _progress_in_words(document["progress"])))
    if "result" in document:
        facts.append(("result", _pretty(document["result"], store)))
    own = {name: value for name, value in document.items() if name not in PROTECTED and name != "secrets"}
    facts += [(name, _shortened(_pretty(value, store))) for name, value in own.items()]
    if document.get("log"):
        facts.append(("log", _log_in_words(document["log"], store)))
    for stream in ("stdout", "stderr"):
        facts.append((stream, _tail_of(document.get(stream), run, stream)))
    render.print_facts(facts)


def _attempt_fact(attempt: Mapping[str, Any]) -> tuple[str, Any]:
    error = attempt.get("error")
    why = f": {error.get('message', '')}".splitlines()[-1] if isinstance(error, Mapping) else ""
    text = f"{render.moment(attempt.get('started'))} on {attempt.get('node')}, {_how_it_ended(attempt)}{why}"
    return f"attempt {attempt.get('attempt', '?')}", text


def _run_facts(run: Mapping[str, Any]) -> list[tuple[str, Any]]:
    plugin = run.get("plugin")
    if isinstance(plugin, Mapping):
        ran = f"{plugin.get('class')} {plugin.get('version') or ''}".rstrip() + f" from {plugin.get('directory')}"
    else:
        ran = "-"
    facts: list[tuple[str, Any]] = [
        ("ran", ran),
        (
            "attempt",
            f"{run.get('attempt')} on node {run.get('node')}, machine {run.get('host')}, process {run.get('pid', '-')}",
        ),
        ("started", render.moment(run.get("started"))),
    ]
    if run.get("reason") == Reason.LOST:
        facts.append(("ended", f"lost with its node, nobody knows when; found at {render.moment(run.get('ended'))}"))
    elif "ended" in run:
        facts.append(("ended", f"{render.moment(run['ended'])}, {_how_it_ended(run)}"))
    if "cpu_seconds" in run:
        memory = format_size(run.get("peak_memory_bytes", 0))
        memory = f"at most {memory} memory" if run.get("peak_memory_is_bound") else f"{memory} memory at its peak"
        facts.append(("used", f"{render.duration(run['cpu_seconds'])} CPU, {memory}"))
    notes = [text for name, text in _NOTES.items() if run.get(name)]
    if "work_directory" in run:
        notes.append(f"its work directory was kept: {run['work_directory']}")
    snooze = run.get("snooze")
    if isinstance(snooze, Mapping):
        why = f": {snooze['message']}" if snooze.get("message") else ""
        notes.append(f"it asked for {render.duration(snooze.get('seconds'))} of sleep{why}")
    if run.get("own_status"):
        notes.append(f"it gave itself status {run['own_status']}")
    notes += _event_notes(run.get("event_errors"))
    if run.get("log_dropped"):
        notes.append(f"the {run['log_dropped']} oldest entries of its log had to go")
    if notes:
        facts.append(("notes", "\n".join(notes)))
    return facts


def _event_notes(errors: Any) -> list[str]:
    if not isinstance(errors, Mapping):
        return []
    first = [one for one in errors.get("first", ()) if isinstance(one, Mapping)]
    lines = [f"{errors.get('count')} lines on descriptor 3 were no events, or were refused:"]
    for one in first[:_EVENT_ERRORS_SHOWN]:
        line = f" {render.printable(str(one['line']))!r:.60}" if one.get("line") else ""
        lines.append(f"  {one.get('message')}{line}")
    return lines


def _progress_in_words(progress: Any) -> str:
    if not isinstance(progress, Mapping):
        return str(progress)
    value, message = progress.get("value"), progress.get("message")
    parts = [f"{100 * value:.0f} %"] if isinstance(value, (int, float)) else []
    return ", ".join([*parts, str(message)] if message else parts) or "-"


def _log_in_words(log: Any, store: Store) -> str:
    entries = list(log) if isinstance(log, (list, tuple)) else [log]
    lines = []
    if len(entries) > _TAIL_LINES:
        lines.append(f"(the last {_TAIL_LINES} of {len(entries)}; all: `disbatch-host task show ID --json`)")
    for entry in entries[-_TAIL_LINES:]:
        if isinstance(entry, Mapping) and "message" in entry and "level" in entry:
            fields = " ".join(f"{name}={value}" for name, value in (entry.get("fields") or {}).items())
            text = f"{render.moment(entry.get('time'))} {str(entry['level']).upper():7} {entry['message']} {fields}"
        else:
            text = _pretty(entry, store)
        lines.append(render.printable(text).rstrip().replace("\n", " "))
    return "\n".join(lines)


_EVENT_ERRORS_SHOWN = 3
_FREE_FIELD_MAX = 2000  # characters of a field that the plugin, or somebody else, has added
_NOTES = {
    "stdin_unread": "it did not read all of its stdin",
    "output_held_open": "a background child still held its output after it had ended, and was killed",
    "killed": "it did not stop when asked to, and was killed",
}


def _how_it_ended(run: Mapping[str, Any]) -> str:
    parts = []
    if "exit_code" in run:
        parts.append(f"exit code {run['exit_code']}")
    if "signal" in run:
        parts.append(f"signal {run['signal']}")
    reason = str(run.get("reason", ""))
    if reason not in ("", "exited", "signaled"):
        parts.append(reason.replace("_", " "))
    if "seconds" in run and reason != Reason.LOST:
        parts.append(f"after {render.duration(run['seconds'])}")
    return ", ".join(parts) or "still running"


def _tail_of(text: Any, run: Mapping[str, Any], stream: str) -> str:
    if not isinstance(text, str) or not text:
        return "(nothing)"
    output = run.get("output")
    facts = output.get(stream) if isinstance(output, Mapping) else None
    lines = text.rstrip("\n").split("\n")
    shown = [render.printable(line)[:500] for line in lines[-_TAIL_LINES:]]
    option = " --stderr" if stream == "stderr" else ""
    if isinstance(facts, Mapping) and facts.get("in_file"):
        shown.append(f"({format_size(facts.get('bytes', 0))} in all: `disbatch-host task output ID{option}`)")
    elif len(lines) > _TAIL_LINES:
        shown.insert(0, f"(the last {_TAIL_LINES} of {len(lines)} lines; all: `disbatch-host task output ID{option}`)")
    return "\n".join(shown)


def _shortened(text: str) -> str:
    return (
        text
        if len(text) <= _FREE_FIELD_MAX
        else f"{text[:_FREE_FIELD_MAX]}… (all: `disbatch-host task show ID --json`)"
    )


def _pretty(value: Any, store: Store) -> str:
    import orjson  # noqa: PLC0415

    return orjson.dumps(to_json(value, other=store.extended_json), option=orjson.OPT_INDENT_2).decode()


class _Masker:
    """Masks the secrets of tasks' parameters, as far as their plugins are known here."""

    def __init__(self, store: Store) -> None:
        self._classes = {queue.id: queue.class_name for queue in store.queues()}
        self._plugins: Mapping[str, Plugin] = {}
        with contextlib.suppress(DisbatchError):  # a plugin directory that is not there must not hide the task
            self._plugins = common.known_plugins().plugins

    def document(self, found: Task) -> dict[str, Any]:
        """The task's document, safe to show. What is secret says whoever knows: the document, from its creation and
        from its run, and the plugins that are known here. Of a task that nobody knew, nothing is masked."""
        places = {*_places(found.document.get("secrets")), *_places(found.run.get("secrets"))}
        for name in {self._classes.get(found.queue, ""), self._class_that_ran(found)}:
            if name in self._plugins:
                places.update(self._plugins[name].schema.secrets(found.parameters))
        if found.fault is not None:  # what says which of its parameters are secret may be what cannot be read
            return {**found.document, "parameters": None, "fault": found.fault}
        return {**found.document, "parameters": masked_at(found.parameters, places)}

    def _class_that_ran(self, found: Task) -> str:
        ran = found.run.get("plugin")
        return str(ran.get("class")) if isinstance(ran, Mapping) else ""


def _places(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, (list, tuple)) else []


# --- output


@task.command()
@click.argument("id")
@click.option("--stderr", "wants_stderr", is_flag=True, help="What it printed on stderr instead of stdout.")
@click.option("--follow", is_flag=True, help="Go on until the task has ended.")
@common_options
def output(id: str, wants_stderr: bool, follow: bool) -> None:
    """Print what the plugin printed, as it is. With --json a document: its text; with --follow one for each piece.

    \b
      disbatch-host task output 5f0c…
      disbatch-host task output 5f0c… --follow
    """
    stream = "stderr" if wants_stderr else "stdout"
    with common.opened_store() as store:
        found = common.find_task(store, id)
        reader = _OutputReader(store, stream, found.id)
        reader.print_new(found)
        if follow:
            watcher = store.watch()
            try:
                while not statuses.is_finished(found.status):
                    reader.finish_piece()
                    watcher.wait(_LOOK_SECONDS)
                    found = common.find_task(store, id)
                    reader.print_new(found)
            finally:
                watcher.close()
        reader.finish_piece(is_last=True)


class _OutputReader:
    """Prints what a stream has more than at the last call; from the start again where a new attempt has begun."""

    def __init__(self, store: Store, stream: str, task_id: Any) -> None:
        self._store = store
        self._stream = stream
        self._task_id = task_id
        self._token: Any = None
        self._printed = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text: list[str] = []  # of a piece, where it becomes a document
        self._has_printed = False

    def print_new(self, found: Task) -> None:
        token = found.run.get("token")
        if token != self._token:
            self._token, self._printed = token, 0
            self._decoder.reset()
        position = 0
        for piece in self._pieces(found):
            start = max(0, self._printed - position)
            if start < len(piece):
                self._write(piece[start:])
            position += len(piece)
        self._printed = max(self._printed, position)
        if not common.wants_json():
            sys.stdout.buffer.flush()

    def finish_piece(self, *, is_last: bool = False) -> None:
        """With --json: print what has come as a document; an empty one only where there is nothing at all."""
        if common.wants_json() and (any(self._text) or (is_last and not self._has_printed)):
            render.print_json({"_id": self._task_id, "stream": self._stream, "text": "".join(self._text)})
            self._text, self._has_printed = [], True

    def _write(self, data: bytes) -> None:
        if common.wants_json():
            self._text.append(self._decoder.decode(data))
        else:
            sys.stdout.buffer.write(data)

    def _pieces(self, found: Task) -> Iterator[bytes]:
        """The document's text, and where there is more, the file whose beginning it is."""
        facts = found.run.get("output")
        facts = facts.get(self._stream) if isinstance(facts, Mapping) else None
        is_running = not statuses.is_finished(found.status)
        if isinstance(self._token, str) and (is_running or (isinstance(facts, Mapping) and facts.get("in_file"))):
            seen = False
            for piece in self._store.read_output(found.id, self._token, self._stream):
                seen = True
                yield piece
            if seen:
                return
        text = found.document.get(self._stream)
        yield text.encode("utf-8", "replace") if isinstance(text, str) else b""


# --- wait


@task.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option("--timeout", metavar="S", help="Give up after so long.")
@common_options
def wait(ids: tuple[str, ...], timeout: str | None) -> int:
    """Wait until tasks have ended; exit 0 when all concluded well, 1 when one did not (or the time is over)."""
    try:
        limit_seconds = None if timeout is None else parse_duration(timeout)
    except ValueError as error:
        raise UsageError(f"--timeout: {error}") from error
    deadline = None if limit_seconds is None else time.monotonic() + limit_seconds
    with common.opened_store() as store, render.progress("waiting", total=len(ids)) as advance:
        open_tasks = {one.id: one for one in (common.find_task(store, text) for text in ids)}
        ended: dict[Any, Task] = {}
        watcher = store.watch()
        try:
            while True:
                for found in _tasks_now(store, list(open_tasks)):
                    if found is None:
                        raise NotFoundError("a task that was waited for is not there any more; somebody has deleted it")
                    open_tasks[found.id] = found
                    if statuses.is_finished(found.status):
                        ended[found.id] = found
                        del open_tasks[found.id]
                        advance(1)
                if not open_tasks or (deadline is not None and time.monotonic() >= deadline):
                    break
                left = _LOOK_SECONDS if deadline is None else min(_LOOK_SECONDS, max(0.0, deadline - time.monotonic()))
                watcher.wait(left)
        finally:
            watcher.close()
        return _report_wait(store, ended, open_tasks)


def _tasks_now(store: Store, ids: list[Any]) -> list[Task | None]:
    found = {one.id: one for one in store.find_tasks(TaskFilter(ids=ids), with_output=False)}
    return [found.get(one) for one in ids]


def _report_wait(store: Store, ended: Mapping[Any, Task], still_open: Mapping[Any, Task]) -> int:
    bad = [one for one in ended.values() if one.status != Status.CONCLUDED]
    if common.wants_json():
        for one in (*ended.values(), *still_open.values()):
            render.print_json({"_id": one.id, "status": one.status, "status_name": statuses.name(one.status)})
    for one in bad:
        click.echo(f"task {one.id} {statuses.name(one.status)}: {_in_short(one) or 'no reason given'}", err=True)
    if still_open:
        have = "task has" if len(still_open) == 1 else "tasks have"
        click.echo(f"{len(still_open)} {have} not ended in time: {', '.join(map(str, still_open))}", err=True)
    return ExitCode.FAILED if bad or still_open else ExitCode.DONE
