"""`disbatch-host plugins`: the plugins here, and what one takes, wherever it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import click

from disbatch_host import suggested
from disbatch_host.cli import common, parameter_table, plugin_facts, render
from disbatch_host.cli.frame import Subcommands, common_options
from disbatch_host.client.plugin_help import PluginHelp, exit_codes_of, plugin_help
from disbatch_host.client.published import HavingNode, PublishedPlugin
from disbatch_host.errors import DisbatchError, StoreError
from disbatch_host.plugin.catalog import Catalog, Plugin, load_plugins
from disbatch_host.store.contract import Store
from disbatch_protocol.manifest import Manifest
from disbatch_protocol.quantities import format_duration, format_size


@click.group(cls=Subcommands, invoke_without_command=True)
@common_options
@click.pass_context
def plugins(context: click.Context) -> None:
    """Show the plugins that a node here would serve; `plugins show CLASS` what one takes, wherever it is.

    \b
      disbatch-host plugins
      disbatch-host --plugins /opt/disbatch/plugins plugins --json
      disbatch-host plugins show Mail::Move
    """
    if context.invoked_subcommand is not None:
        return
    catalog = load_plugins(common.settings().plugins)
    usable = sorted(catalog.plugins.values(), key=lambda one: one.name)
    if common.wants_json():
        for one in usable:
            render.print_json(plugin_facts.document_of(one))
        return
    if not usable:
        click.echo(f"no usable plugin; {suggested.hint('check')} says why")
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
        click.echo(f"{len(catalog.broken)} left out; {suggested.hint('check')} says why", err=True)


@plugins.command()
@click.argument("class_name", metavar="CLASS")
@common_options
def show(class_name: str) -> None:
    """Show what a class takes, its limits, its README, and which nodes have which version.

    \b
      disbatch-host plugins show Mail::Move
      disbatch-host plugins show Mail::Move --json | jq .parameters

    A plugin in a directory here is shown as it is here, any other as nodes publish it: with several versions, the
    highest one.
    """
    with _known_here() as (store, here):
        found = plugin_help(store, here, class_name)
    if common.wants_json():
        render.print_json(found.to_json())
        return
    render.print_facts(_facts(found))
    parameter_table.print_parameters(
        found.rows, is_open=found.manifest is not None and found.manifest.parameters is None
    )
    for example in found.examples:
        shown = parameter_table.in_json(example["parameters"])
        click.echo(f"\nexample {render.printable(example['name'])}: {shown}{_left_out(found, example['parameters'])}")
    if found.published.nodes:
        click.echo()
        rows = [(one.id, one.version or "-", one.program, _state(one)) for one in found.published.nodes]
        render.print_table(("node", "version", "program", "publishes"), rows)
    if found.readme:
        more = "\n… (the rest is not published)" if found.readme_is_cut else ""
        click.echo(f"\n{render.printable(found.readme).rstrip()}{more}")
    parameter_table.say_what_differs(found)


def _left_out(found: PluginHelp, parameters: Any) -> str:
    """Which secrets somebody who tries an example has to add."""
    given = parameters if isinstance(parameters, Mapping) else {}
    names = [row.name for row in found.rows if row.is_secret and row.is_required and row.name not in given]
    return f" and a secret: {', '.join(names)}" if names else ""


@contextlib.contextmanager
def _known_here() -> Iterator[tuple[Store | None, Catalog | None]]:
    """The store and the plugins here. Where one of the two cannot be had, and the other can, that is said."""
    here = None
    try:
        here = common.catalog()
    except DisbatchError as error:
        parameter_table.say(f"the plugins here are not known: {error}")
    with contextlib.ExitStack() as stack:
        store: Store | None = None
        try:
            store = stack.enter_context(common.opened_store())
        except StoreError as error:
            if here is None:
                raise
            parameter_table.say(f"what nodes publish is not known: {error}")
        yield store, here


def _facts(found: PluginHelp) -> list[tuple[str, Any]]:
    manifest = found.manifest
    if manifest is None:
        return [("class", found.class_name), ("from", "no node publishes what it takes"), *_queues(found)]
    texts = (("description", manifest.description), ("homepage", manifest.homepage), ("license", manifest.license))
    limits = ", ".join(f"{name} {value}" for name, value in found.to_json()["limits"].items())
    codes = ", ".join(f"{codes} {rule.outcome}" for codes, rule in exit_codes_of(manifest))
    return [
        ("class", found.class_name),
        ("version", manifest.version or "-"),
        *((name, text) for name, text in texts if text),
        ("from", _origin(found)),
        ("mode", str(manifest.mode)),
        ("timeout", _seconds(manifest.timeout_seconds)),
        *([("idle timeout", _seconds(manifest.idle_timeout_seconds))] if manifest.idle_timeout_seconds else []),
        ("retries", _retries(manifest)),
        ("run twice", "harmless (idempotent)" if manifest.idempotent else "not harmless"),
        ("at once", "no limit of its own" if manifest.concurrency is None else f"{manifest.concurrency} on each node"),
        ("output", f"at most {format_size(manifest.max_output_bytes)} of each stream"),
        *([("limits", limits)] if limits else []),
        *([("exit codes", codes)] if codes else []),
        *([("requires", ", ".join(manifest.requires))] if manifest.requires else []),
        *_queues(found),
    ]


def _origin(found: PluginHelp) -> str:
    if isinstance(found.plugin, Plugin):
        return common.in_here(found.plugin.manifest_path)
    assert isinstance(found.plugin, PublishedPlugin)
    return f"as {found.plugin.origin} it, {render.moment(found.plugin.published)}"


def _queues(found: PluginHelp) -> list[tuple[str, Any]]:
    return [("queues", ", ".join(found.queues))] if found.queues else []


def _seconds(seconds: float | None) -> str:
    return "none" if seconds is None else format_duration(seconds)


def _retries(manifest: Manifest) -> str:
    retry = manifest.retry
    return f"{retry.max}, the first after {format_duration(retry.delay_seconds)}" if retry.max else "none"


def _state(one: HavingNode) -> tuple[str, str]:
    if one.broken is not None:
        return f"broken there: {one.broken}", "red"
    words = f"nothing: node {one.id} publishes no manifest" if one.digest is None else f"{one.digest[:12]}"
    aside = f"; set aside there: {one.set_aside}" if one.set_aside is not None else ""
    return f"{words}{aside}", "yellow" if one.digest is None or aside else "default"
