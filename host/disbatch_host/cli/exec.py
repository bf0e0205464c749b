"""`disbatch-host exec`: one task, no node, no database."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from disbatch_host.cli import common, parameters, render
from disbatch_host.cli.main import common_options
from disbatch_host.errors import ExitCode, NotFoundError, PluginError
from disbatch_host.local_run import run_once
from disbatch_host.plugins import BrokenPlugin, Catalog, Plugin, load_plugins
from disbatch_host.process.child import Stream
from disbatch_protocol import status as statuses
from disbatch_protocol.faults import Severity, near_name


@click.command("exec")
@click.argument("plugin")
@click.argument("json_text", metavar="[JSON]", required=False)
@click.option("-p", "pairs", multiple=True, metavar="KEY=VALUE", help="A parameter, as in `task push`.")
@common_options
def exec_(plugin: str, json_text: str | None, pairs: tuple[str, ...]) -> int:
    """Run one task of a plugin exactly as a node would; its output comes live.

    \b
      disbatch-host exec Text::Count -p path=/etc/hosts
      disbatch-host exec ./plugins/mail '{"user": "matt"}' --json

    PLUGIN is a name or a directory. With --json the resulting task document is printed instead of the output. Exit
    code 0 where the task concluded well, else 1.
    """
    found = find_plugin(plugin)
    values = parameters.parameters_of(json_text, pairs)
    result = run_once(found, values, listener=None if common.wants_json() else _print_live)
    document = result.document
    if common.wants_json():
        render.print_json({**document, "parameters": found.schema.masked(values)})
        return ExitCode.DONE if result.succeeded else ExitCode.FAILED
    if not result.succeeded:
        error = document.get("error") or {}
        message = str(error.get("message", "")).splitlines()
        status = statuses.name(int(document["status"]))
        # What is on stderr has just been seen; only what the host itself has to say is new.
        said = message[0].removeprefix("disbatch-host: ") if message and message[0].startswith("disbatch-host:") else ""
        code = f"exit code {document['run']['exit_code']}" if "exit_code" in document["run"] else ""
        click.echo(f"disbatch-host: {status}{': ' if said or code else ''}{said or code}", err=True)
        return ExitCode.FAILED
    return ExitCode.DONE


def find_plugin(name: str) -> Plugin:
    """The plugin of this name, or in this directory. Raises NotFoundError, PluginError with its faults."""
    path = Path(name)
    if path.is_dir() and ("/" in name or (path / "plugin.json").exists()):
        catalog = load_plugins([path])
        candidates: list[Plugin | BrokenPlugin] = [*catalog.plugins.values(), *catalog.broken]
        if not candidates:
            raise NotFoundError(f"no plugin.json in {name}; name the directory that holds it")
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
        else "`disbatch-host plugins` shows those there are; --plugins DIR names others"
    )
    raise NotFoundError(f"no plugin {name!r} below {where}; {hint}")


def _usable(one: Plugin | BrokenPlugin) -> Plugin:
    if isinstance(one, Plugin):
        return one
    faults = "; ".join(str(fault) for fault in one.faults if fault.severity is Severity.ERROR)
    raise PluginError(f"{one.manifest_path} cannot be used: {faults}")


def _print_live(stream: Stream, data: bytes) -> None:
    target = sys.stdout if stream is Stream.STDOUT else sys.stderr
    target.buffer.write(data)
    target.buffer.flush()
