"""`disbatch-host check` and `disbatch-host plugins`: what is known of plugins without running them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from disbatch_host.cli import common, render
from disbatch_host.cli.main import common_options
from disbatch_host.errors import ExitCode
from disbatch_host.plugins import BrokenPlugin, Catalog, Plugin, load_plugins
from disbatch_protocol.faults import Fault, Severity
from disbatch_protocol.quantities import format_duration


@click.command()
@click.argument("names", nargs=-1, metavar="[PLUGIN]...")
@common_options
def check(names: tuple[str, ...]) -> int:
    """Validate plugins without running them: by name, by directory, or all of the plugin directories.

    \b
      disbatch-host check
      disbatch-host check ./plugins/mail
      disbatch-host check Mail::Move --plugins /opt/disbatch/plugins

    Exit codes: 0 fine, 1 errors, 2 nothing found.
    """
    found = _find(names)
    if not found:
        what = f"no plugin {', '.join(names)}" if names else "no plugin.json"
        where = ", ".join(str(one) for one in common.settings().plugins)
        click.echo(f"disbatch-host: {what} found below {where}; name a directory with --plugins DIR", err=True)
        return ExitCode.USAGE
    if common.wants_json():
        for one in found:
            render.print_json(_document_of(one))
    else:
        rows = [(_name_of(one), _result_cell(one), _in_here(one.manifest_path)) for one in found]
        render.print_table(("plugin", "result", "manifest"), rows)
        for one in found:
            for fault in _faults_of(one):
                style = "red" if fault.severity is Severity.ERROR else "yellow"
                where = (
                    f"{_in_here(one.manifest_path)} {fault}"
                    if fault.pointer
                    else f"{_in_here(one.manifest_path)}: {fault}"
                )
                click.echo(f"{click.style(str(fault.severity), fg=style)}: {where}")
    return ExitCode.FAILED if any(isinstance(one, BrokenPlugin) for one in found) else ExitCode.DONE


@click.command()
@common_options
def plugins() -> None:
    """Show what a node here would serve."""
    catalog = load_plugins(common.settings().plugins)
    usable = sorted(catalog.plugins.values(), key=lambda one: one.name)
    if common.wants_json():
        for one in usable:
            render.print_json(_document_of(one))
        return
    if not usable:
        click.echo("no usable plugin; `disbatch-host check` says why")
    else:
        rows = [
            (
                one.name,
                one.manifest.version,
                one.manifest.mode,
                format_duration(one.manifest.timeout_seconds) if one.manifest.timeout_seconds else "-",
                one.manifest.retry.max or "-",
                one.manifest.concurrency,
                one.manifest.description,
            )
            for one in usable
        ]
        columns = ("class", "version", "mode", "timeout", "retries", "at once", "description")
        render.print_table(columns, rows, right=(4, 5))
    if catalog.broken:
        click.echo(f"{len(catalog.broken)} left out; `disbatch-host check` says why", err=True)


def _find(names: Sequence[str]) -> list[Plugin | BrokenPlugin]:
    """The plugins of these names or directories; all where none is named."""
    if not names:
        return _all_of(load_plugins(common.settings().plugins))
    found: dict[Path, Plugin | BrokenPlugin] = {}
    for name in names:
        path = Path(name)
        if path.name == "plugin.json" and path.is_file():
            path = path.parent
        if path.is_dir():
            matches: Iterable[Plugin | BrokenPlugin] = _all_of(load_plugins([path]))
        else:
            matches = [one for one in _all_of(common.known_plugins()) if _name_of(one) == name]
        found.update({one.manifest_path: one for one in matches})
    return list(found.values())


def _all_of(catalog: Catalog) -> list[Plugin | BrokenPlugin]:
    return sorted([*catalog.plugins.values(), *catalog.broken], key=lambda one: one.manifest_path)


def _name_of(one: Plugin | BrokenPlugin) -> str:
    return one.name or one.manifest_path.parent.name


def _faults_of(one: Plugin | BrokenPlugin) -> tuple[Fault, ...]:
    return one.warnings if isinstance(one, Plugin) else one.faults


def _result_cell(one: Plugin | BrokenPlugin) -> tuple[str, str]:
    count = len(_faults_of(one))
    noun = "fault" if count == 1 else "faults"
    if isinstance(one, BrokenPlugin):
        return f"{count} {noun}", "red"
    return (f"fine, {count} warnings", "yellow") if count else ("fine", "green")


def _in_here(path: Path) -> str:
    """The path as the person would type it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _document_of(one: Plugin | BrokenPlugin) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": _name_of(one),
        "manifest": str(one.manifest_path),
        "ok": isinstance(one, Plugin),
    }
    if isinstance(one, Plugin):
        manifest = one.manifest
        document |= {
            "version": manifest.version,
            "description": manifest.description,
            "mode": str(manifest.mode),
            "command": one.argv,
            "idempotent": manifest.idempotent,
            "concurrency": manifest.concurrency,
            "timeout_seconds": manifest.timeout_seconds,
        }
    document["faults"] = [
        {"severity": str(f.severity), "pointer": f.pointer, "message": f.message, "hint": f.hint}
        for f in _faults_of(one)
    ]
    return document
