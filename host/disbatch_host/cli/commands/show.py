"""`disbatch-host task show`: everything that is known about a task, for people."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import click

from disbatch_host import suggested
from disbatch_host.cli import common, render, story
from disbatch_host.cli.frame import common_options
from disbatch_host.client import history
from disbatch_host.client.finding import find_task
from disbatch_host.client.output import attempts_with_output
from disbatch_host.client.why import why as why_of
from disbatch_host.decide.absence import absence_of
from disbatch_host.decide.words import parts_of_error
from disbatch_host.documents import run_processes
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.earlier_outputs import STREAMS, facts_of
from disbatch_host.documents.records import Task, TaskId
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.document import PROTECTED, to_json
from disbatch_protocol.quantities import format_size
from disbatch_protocol.status import IN_HAND, WAITING

_TAIL_LINES = 10  # of each stream
_LINE_MAX = 500  # characters


@click.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@common_options
def show(ids: tuple[str, ...]) -> None:
    """Show tasks: their history, what ran, how it ended, and why.

    \b
      disbatch-host task show 5f0c…
    """
    with common.opened_store() as store:
        # If one does not exist, none is shown.
        for number, found in enumerate([find_task(store, one, common.who()) for one in ids]):
            if common.wants_json():
                render.print_json(common.masker(store).document(found), store.extended_json)
                continue
            if number:
                click.echo()
            _show(store, found)


def _show(store: Store, found: Task) -> None:
    document, run = found.document, found.run
    facts: list[tuple[str, Any]] = [
        ("task", found.id),
        ("queue", found.queue),
        ("status", render.status_cell(found.status)),
    ]
    if found.fault is not None:
        facts.append(("damaged", (f"{found.fault}; no node can run it like this", "red")))
    absence = absence_of(found, store.nodes()) if found.status in IN_HAND else None
    if absence is not None:
        facts.append(("node", (absence.sentence.removeprefix("node "), "yellow")))
    facts += [(name, document[name]) for name in ("priority", "unique_key") if name in document]
    facts += story.told(found, now=store.now(), why=_why(store, found), is_at_work=absence is None or absence.is_away)
    if run.get("attempt"):
        facts += [*_run_facts(run), *_follow_ups(store, found)]
    error = document.get("error")
    if isinstance(error, Mapping):
        facts.append(("error", (f"{error.get('code', '')}: {_message_of(error, document.get('stderr'))}", "red")))
    facts.append(("parameters", _pretty(common.masker(store).document(found)["parameters"], store)))
    if "progress" in document:
        facts.append(("progress", _progress_in_words(document["progress"])))
    if "result" in document:
        facts.append(("result", _pretty(document["result"], store)))
    shown_whole = {name: value for name, value in document.items() if name not in PROTECTED or name in _ALSO_WHOLE}
    facts += [(name, _shortened(_pretty(value, store), found.id)) for name, value in shown_whole.items()]
    if document.get("log"):
        facts.append(("log", _log_in_words(document["log"], store, found.id)))
    facts += _earlier_outputs(found)
    for stream in ("stdout", "stderr"):
        facts.append((stream, _tail_of(found, document.get(stream), stream)))
    render.print_facts(facts)


def _why(store: Store, found: Task) -> str | None:
    """Why it has not started, in a sentence, if it waits."""
    return why_of(store, found.id).sentence.removeprefix("it waits: ") if found.status in WAITING else None


def _message_of(error: Mapping[str, Any], stderr: Any) -> str:
    """The error; of what is no more than the end of stderr, which is shown below, only the last line."""
    message = str(error.get("message", ""))
    own, ours = parts_of_error(message)
    said = message.strip()
    for line in reversed(ours):
        said = said.removesuffix(f"disbatch-host: {line}").rstrip()
    if not own or not isinstance(stderr, str) or said not in stderr:
        return message
    return "\n".join([own[-1], *(f"disbatch-host: {one}" for one in ours)])


def _run_facts(run: Mapping[str, Any]) -> list[tuple[str, Any]]:
    plugin = run.get("plugin")
    if isinstance(plugin, Mapping):
        ran = f"{plugin.get('class')} {plugin.get('version') or ''}".rstrip() + f" from {plugin.get('directory')}"
    else:
        ran = "-"
    is_started = not history.was_never_started(run)
    process = f"process {run.get('pid', '-')}" if is_started else "not started"
    facts: list[tuple[str, Any]] = [
        ("ran" if is_started else "plugin", ran),
        ("attempt", f"{run.get('attempt')} on node {run.get('node')}, machine {run.get('host', '-')}, {process}"),
    ]
    if isinstance(words := run.get("arguments"), list):
        more = f" … (and {left} more)" if isinstance(left := run.get("arguments_left_out"), int) else ""
        facts.append(("arguments", shlex.join(map(str, words)) + more))
    if "cpu_seconds" in run:
        # A peak that is only a bound is that of the node itself at the start: it says nothing about the program.
        is_known = "peak_memory_bytes" in run and not run.get("peak_memory_is_bound")
        memory = f", {format_size(run['peak_memory_bytes'])} memory at its peak" if is_known else ""
        facts.append(("used", f"{render.duration(run['cpu_seconds'])} CPU{memory}"))
    notes = [text for name, text in _NOTES.items() if run.get(name)]
    if (left := run_processes.processes_in_words(run, "left_over")) is not None:
        notes.append(f"not all of it could be ended: {left}")
    if (left := run_processes.processes_in_words(run, "ended_with_it")) is not None:
        notes.append(f"what it had left was ended with it: {left}")
    if isinstance(count := run.get("left_running"), int):
        notes.append(f"{count} process{'' if count == 1 else 'es'} of it went on after it, as its plugin wants")
    if "work_directory" in run:
        notes.append(f"its work directory was kept: {run['work_directory']}")
    snooze = run.get("snooze")
    if isinstance(snooze, Mapping):
        why = f": {snooze['message']}" if snooze.get("message") else ""
        notes.append(f"it asked to sleep for {render.duration(snooze.get('seconds'))}{why}")
    if run.get("own_status"):
        notes.append(f"it gave itself status {run['own_status']}")
    notes += _event_notes(run.get("event_errors"))
    if run.get("log_dropped"):
        notes.append(f"the {run['log_dropped']} oldest entries of its log were dropped")
    if notes:
        facts.append(("notes", "\n".join(notes)))
    return facts


def _follow_ups(store: Store, found: Task) -> list[tuple[str, Any]]:
    """The tasks that its run created, where they can be found without reading all others."""
    which = TaskFilter(parent=str(found.id))
    if not store.finds_by_parent or not (count := store.count_tasks(which)):
        return []
    first = store.find_tasks(which, limit=_FOLLOW_UPS_SHOWN, with_output=False, with_parameters=False)
    lines = [f"{one.id}, queue {one.queue}, {statuses.name(one.status)}" for one in first]
    more = [f"and {count - len(lines)} more"] if count > len(lines) else []
    return [("follow-ups", "\n".join([*lines, *more]))]


_FOLLOW_UPS_SHOWN = 5


def _event_notes(errors: Any) -> list[str]:
    if not isinstance(errors, Mapping):
        return []
    first = [one for one in errors.get("first", ()) if isinstance(one, Mapping)]
    count = errors.get("count")
    what = "1 line on descriptor 3 was" if count == 1 else f"{count} lines on descriptor 3 were"
    lines = [f"{what} ignored or refused:"]
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


def _log_in_words(log: Any, store: Store, task_id: TaskId) -> str:
    entries = list(log) if isinstance(log, (list, tuple)) else [log]
    lines = []
    if len(entries) > _TAIL_LINES:
        lines.append(f"(the last {_TAIL_LINES} of {len(entries)}; all: {_whole(task_id)})")
    for entry in entries[-_TAIL_LINES:]:
        if isinstance(entry, Mapping) and "message" in entry and "level" in entry:
            fields = " ".join(f"{name}={value}" for name, value in (entry.get("fields") or {}).items())
            text = f"{render.moment(entry.get('time'))} {str(entry['level']).upper():7} {entry['message']} {fields}"
        else:
            text = _pretty(entry, store)
        lines.append(render.printable(text).rstrip().replace("\n", " "))
    return "\n".join(lines)


_EVENT_ERRORS_SHOWN = 3
_ALSO_WHOLE = ("refused_follow_ups",)  # fields of the host that are shown as those of plugins are
_FREE_FIELD_MAX = 2000  # characters of a field added by the plugin or somebody else
_NOTES = {
    "stdin_unread": "it did not read all of its stdin",
    "output_held_open": "a background child still held its output open after it ended, and was killed",
    "killed": "it did not stop when asked to, and was killed",
}


def _tail_of(found: Task, text: Any, stream: str) -> str:
    if not isinstance(text, str) or not text:
        return "(nothing)"
    output = found.run.get("output")
    facts = output.get(stream) if isinstance(output, Mapping) else None
    lines = text.rstrip("\n").split("\n")
    shown = [_cut(render.printable(line)) for line in lines[-_TAIL_LINES:]]
    words = ["--stderr"] if stream == "stderr" else []
    reads = suggested.hint("task output", found.id, *words)
    if isinstance(facts, Mapping) and facts.get("encoding") == "binary":
        shown.append(f"({suggested.hint('task output', found.id, *words, then=' > FILE')})")
    elif isinstance(facts, Mapping) and facts.get("in_file"):
        shown.append(f"({format_size(facts.get('bytes', 0))} in all: {reads})")
    elif len(lines) > _TAIL_LINES:
        shown.insert(0, f"(the last {_TAIL_LINES} of {len(lines)} lines; all: {reads})")
    return "\n".join(shown)


def _earlier_outputs(found: Task) -> list[tuple[str, Any]]:
    """How to see what earlier attempts printed."""
    lines = []
    for one in attempts_with_output(found):
        sizes = {name: facts_of(one, name).get("bytes") for name in STREAMS}
        said = [f"{format_size(size)} on {name}" for name, size in sizes.items() if isinstance(size, int) and size]
        if said:
            words = ["--attempt", one["attempt"], *([] if sizes["stdout"] else ["--stderr"])]
            lines.append(f"{' and '.join(said)}: {suggested.hint('task output', found.id, *words)}")
    return [("earlier", "\n".join(lines))] if lines else []


def _cut(line: str) -> str:
    more = len(line) - _LINE_MAX
    return line if more <= 0 else f"{line[:_LINE_MAX]}… ({more} more character{'' if more == 1 else 's'})"


def _shortened(text: str, task_id: TaskId) -> str:
    return text if len(text) <= _FREE_FIELD_MAX else f"{text[:_FREE_FIELD_MAX]}… (all: {_whole(task_id)})"


def _whole(task_id: TaskId) -> str:
    return suggested.hint("task show", task_id, "--json")


def _pretty(value: Any, store: Store) -> str:
    import orjson  # noqa: PLC0415

    return orjson.dumps(to_json(value, other=store.extended_json), option=orjson.OPT_INDENT_2).decode()
