"""`disbatch-host exec`: runs one task without a node or a database."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from disbatch_host import suggested
from disbatch_host.cli import common, parameters, render, terminal
from disbatch_host.cli.frame import common_options
from disbatch_host.client import bundling
from disbatch_host.client.finding import find_task
from disbatch_host.client.parameters import misspelt_note
from disbatch_host.documents.records import Document
from disbatch_host.errors import ExitCode, NotFoundError, PluginError, UsageError
from disbatch_host.plugin.catalog import BrokenPlugin, Catalog, Plugin, load_plugins
from disbatch_host.plugin.sources import outdated_build
from disbatch_host.process.interface import Stream
from disbatch_host.trial.local_host import Input, LocalHost, run_once
from disbatch_protocol import status as statuses
from disbatch_protocol.events import BadLine, parse_line
from disbatch_protocol.faults import Severity, near_name
from disbatch_protocol.outcome import EX_TEMPFAIL, Outcome, Reason, retry_delay
from disbatch_protocol.quantities import format_duration
from disbatch_protocol.status import Status


@click.command("exec")
@click.argument("plugin", required=False)
@click.argument("words", metavar="[JSON | -]", nargs=-1)
@click.option(
    "-p",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="A parameter, as in `task push`: KEY=VALUE, KEY:=JSON, KEY=@FILE.",
)
@click.option("--bundle", metavar="FILE", help="The input in a bundle that `task bundle` wrote.")
@click.option("--like", metavar="ID", help="The input of this task.")
@click.option("--events", is_flag=True, help="Show everything from descriptor 3, on stderr.")
@click.option("--show-input", is_flag=True, help="Show the plugin's input and how it would be started; run nothing.")
@click.option("--raw", is_flag=True, help="Show control characters of the output on a terminal as well.")
@common_options
def exec_(
    plugin: str | None,
    words: tuple[str, ...],
    pairs: tuple[str, ...],
    bundle: str | None,
    like: str | None,
    events: bool,
    show_input: bool,
    raw: bool,
) -> int:
    """Run one task of a plugin exactly as a node would, and show its output live.

    \b
      disbatch-host exec Text::Count -p path=/etc/hosts
      disbatch-host exec ./plugins/mail '{"user": "matt"}' --json
      disbatch-host exec ./plugins/mail - < parameters.json
      disbatch-host exec ./plugins/mail -p user=0815 -p text=@mail.txt
      disbatch-host exec ./plugins/mail -p user=matt --events
      disbatch-host exec ./plugins/mail -p user=matt --show-input
      disbatch-host exec --bundle broken.tar.gz -p password=@secret
      disbatch-host exec --like 5f0c… -p user=mat2

    With --bundle or --like, the input of a task is run again, with the parameters that -p gives in place of its own;
    PLUGIN may name another place of its plugin. Masked values have to be given.

    PLUGIN is a name or a directory; JSON is a JSON object, or - to read it from standard input. With --json the
    resulting task document is printed instead of the output. On a terminal the output is shown without control
    characters, unless --raw is given. Exit code 0 if the task concluded, else 1.
    """
    found, values = _again(plugin, words, pairs, bundle, like) if bundle or like else _new(plugin, words, pairs)
    if (note := misspelt_note(values, found.schema)) is not None:
        click.echo(f"disbatch-host: {note}", err=True)
    if show_input:
        return _show_input(found, values)
    if (outdated := outdated_build(found)) is not None:
        click.echo(f"disbatch-host: {render.printable(outdated.message)}; {render.printable(outdated.hint)}", err=True)
    live = _Live(shows_output=not common.wants_json(), shows_events=events, is_raw=raw)
    result = run_once(found, values, listener=live.receive)
    live.finish()
    document = result.document
    _tell_event_errors(result.run.get("event_errors"))
    if common.wants_json():
        more = {"follow_ups": list(result.follow_ups)} if result.follow_ups else {}
        render.print_json({**document, **more, "parameters": found.schema.masked(values)})
        return ExitCode.DONE if result.succeeded else ExitCode.FAILED
    if result.follow_ups:
        count = len(result.follow_ups)
        click.echo(f"disbatch-host: a node would create {count} follow-up task{'s' if count > 1 else ''}", err=True)
    if not result.succeeded:
        click.echo(f"disbatch-host: {_end_in_words(found, document)}", err=True)
        return ExitCode.FAILED
    return ExitCode.DONE


def _new(plugin: str | None, words: tuple[str, ...], pairs: tuple[str, ...]) -> tuple[Plugin, Mapping[str, Any]]:
    if plugin is None:
        raise UsageError("expected a plugin, or --bundle FILE or --like ID, found none")
    found = find_plugin(plugin)
    text = parameters.one_text(words, found.schema)
    return found, parameters.parameters_of(parameters.read_text() if text == "-" else text, pairs, found.schema)


def _again(
    plugin: str | None, words: tuple[str, ...], pairs: tuple[str, ...], bundle: str | None, like: str | None
) -> tuple[Plugin, Mapping[str, Any]]:
    """The plugin and the parameters of a task that is to be run again here."""
    if bundle and like:
        raise UsageError("expected either --bundle or --like, found both")
    if words:
        raise UsageError("with --bundle and --like, parameters are changed by -p, found a JSON object")
    if bundle:
        taken = bundling.read_input(bundle)
    else:
        with common.opened_store() as store:
            taken = bundling.input_of(store, find_task(store, str(like), common.who()), common.catalog())
    if plugin is None and not taken.class_name:
        raise UsageError("nobody knows which plugin ran this task; name it, as in `exec PLUGIN --like ID`")
    found = find_plugin(plugin or taken.class_name)
    return found, bundling.filled(taken, parameters.parameters_of(None, pairs, found.schema))


def _show_input(plugin: Plugin, values: Any) -> int:
    faults = plugin.schema.check(values)
    shown = asyncio.run(_describe(plugin, values))
    start = shown.start
    if common.wants_json():
        render.print_json(
            {
                "command": start.argv,
                "directory": str(start.directory),
                "environment": dict(start.environment.variables),
                "stdin": shown.stdin,
                "faults": [str(fault) for fault in faults],
            }
        )
    else:
        click.echo(f"command    {shlex.join(start.argv)}")
        click.echo(f"directory  {start.directory}")
        for number, (name, value) in enumerate(sorted(start.environment.variables.items())):
            click.echo(f"{'' if number else 'variables':9}  {name}={value}")
        for number, line in enumerate(["/dev/null"] if shown.stdin is None else shown.stdin.splitlines()):
            click.echo(f"{'' if number else 'stdin':9}  {line}")
    for fault in faults:
        click.echo(f"disbatch-host: it would not be started: {fault}", err=True)
    return ExitCode.FAILED if faults else ExitCode.DONE


async def _describe(plugin: Plugin, values: Any) -> Input:
    return LocalHost().describe(plugin, values)


def _tell_event_errors(errors: Mapping[str, Any] | None) -> None:
    """Report the lines on descriptor 3 that had no effect; a node puts them in `run.event_errors`."""
    if not errors:
        return
    count, first = errors["count"], errors["first"]
    what = "1 line on descriptor 3 was" if count == 1 else f"{count} lines on descriptor 3 were"
    line = f": {json.dumps(first[0]['line'], ensure_ascii=False):.80}" if first and "line" in first[0] else ""
    why = f"; the first: {first[0]['message']}{line}" if first else ""
    text = f"disbatch-host: {what} ignored{why}"
    click.echo(render.printable(text), err=True)


def _end_in_words(plugin: Plugin, document: Document) -> str:
    run, error = document.get("run", {}), document.get("error") or {}
    if "exit_code" not in run and "signal" not in run and document["status"] == Status.CREATED and not error:
        return "stopped before it was started"
    snooze = run.get("snooze") or {}
    if run.get("outcome") == Outcome.SNOOZE:
        after = f"to run again in {format_duration(snooze['seconds'])}" if "seconds" in snooze else "to run again later"
        why = f": {snooze['message']}" if snooze.get("message") else ""
        return render.printable(f"{statuses.name(int(document['status']))}: {after}{why}")
    message = str(error.get("message", "")).strip()
    code = f"exit code {run['exit_code']}" if "exit_code" in run else ""
    if message.startswith("disbatch-host:"):
        why = message.splitlines()[0].removeprefix("disbatch-host: ")
    elif error.get("code") not in (None, f"exit_{run.get('exit_code')}"):
        why = f"{error['code']}: {message.splitlines()[0] if message else ''}".rstrip(": ")
    else:  # the program's stderr was already shown; only the host's own messages are new
        why = code
    for line in message.splitlines()[1:]:
        if line.startswith("disbatch-host: "):  # the host's own, below what the program said
            why += f"; {line.removeprefix('disbatch-host: ')}"
    again = _again_in_words(plugin, run)
    is_by_exit = run.get("reason") in (Reason.EXITED, Reason.DONE, Reason.WORKER_EXITED)
    would_be = Status.FAILED if is_by_exit else Status.TERMINATED  # if there were no further attempt
    status = statuses.name(would_be if run.get("outcome") == Outcome.RETRY else int(document["status"]))
    return render.printable(f"{status}{': ' if why else ''}{why}{f'; {again}' if again else ''}")


def _again_in_words(plugin: Plugin, run: Mapping[str, Any]) -> str:
    """Whether a node would try it again, which cannot be seen here; empty if nothing in it asks for that."""
    policy, code = plugin.manifest.retry, run.get("exit_code")
    if run.get("outcome") != Outcome.RETRY:
        rule = plugin.manifest.exit_codes.get(code) if isinstance(code, int) else None
        asks = rule.outcome is Outcome.RETRY if rule is not None else code == EX_TEMPFAIL
        is_refused = asks and run.get("outcome") == Outcome.FAILURE
        hint = f'"retry": {{"max": {_SUGGESTED_RETRIES}}} in {common.in_here(plugin.manifest_path)} allows it'
        return f"it asks to be tried again, but a node would not do so; {hint}" if is_refused else ""
    delays = [
        format_duration(retry_delay(policy, attempt + 1, 0.5)) for attempt in range(min(policy.max, _DELAYS_SHOWN))
    ]
    times = "once more" if policy.max == 1 else f"up to {policy.max} times more"
    more = " and so on" if policy.max > _DELAYS_SHOWN else ""
    return f"a node would try it again {times}, after about {', '.join(delays)}{more}"


_SUGGESTED_RETRIES = 3
_DELAYS_SHOWN = 3


def find_plugin(name: str) -> Plugin:
    """The plugin with this name, or in this directory. Raises NotFoundError, PluginError with its faults."""
    path = Path(name)
    if path.is_dir() and ("/" in name or (path / "plugin.json").exists()):
        catalog = load_plugins([path])
        candidates: list[Plugin | BrokenPlugin] = [*catalog.plugins.values(), *catalog.broken]
        if not candidates:
            raise NotFoundError(f"no plugin.json in {name}; name the directory that contains it")
        if len(candidates) > 1:
            raise NotFoundError(
                f"expected one plugin in {name}, found {len(candidates)}; name one of their directories"
            )
        return _usable(candidates[0])
    catalog = common.known_plugins()
    if name in catalog.plugins:
        return catalog.plugins[name]
    return _usable(_broken_of(catalog, name))


def _broken_of(catalog: Catalog, name: str) -> BrokenPlugin:
    for one in catalog.broken:
        if name in (one.name, one.manifest_path.parent.name):
            return one
    near = near_name(name, catalog.plugins)
    where = ", ".join(str(one) for one in common.settings().plugins)
    hint = (
        f"did you mean {near!r}?"
        if near
        else f"{suggested.hint('plugins')} shows the plugins here; --plugins DIR adds others"
    )
    raise NotFoundError(f"no plugin {name!r} below {where}; {hint}")


def _usable(one: Plugin | BrokenPlugin) -> Plugin:
    if isinstance(one, Plugin):
        return one
    faults = "; ".join(str(fault) for fault in one.faults if fault.severity is Severity.ERROR)
    raise PluginError(f"{one.manifest_path} cannot be used: {faults}")


class _Live:
    """Prints output as it comes; events line by line, so that they stand out from stderr."""

    def __init__(self, *, shows_output: bool, shows_events: bool, is_raw: bool) -> None:
        self._targets = {
            Stream.STDOUT: terminal.raw(sys.stdout) if is_raw else sys.stdout.buffer,
            Stream.STDERR: terminal.raw(sys.stderr) if is_raw else sys.stderr.buffer,
        }
        self._shows_output = shows_output
        self._shows_events = shows_events
        self._rest = b""

    def receive(self, stream: Stream, data: bytes) -> None:
        if stream is not Stream.EVENTS:
            if self._shows_output:
                self._targets[stream].write(data)
                self._targets[stream].flush()
        elif self._shows_events:
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._print_event(line)

    def finish(self) -> None:
        if self._rest:
            self._print_event(self._rest)

    def _print_event(self, line: bytes) -> None:
        """The line as it came; after it, what is wrong with it."""
        sys.stdout.flush()
        sys.stderr.buffer.write(b"event: " + line + b"\n")
        sys.stderr.buffer.flush()
        if line and not line.isspace():
            event = parse_line(line)
            faults = [event.message] if isinstance(event, BadLine) else getattr(event, "faults", ())
            for fault in faults:
                click.echo(render.printable(f"       ^ ignored: {fault}"), err=True)
