"""The parameters of a class on a terminal, and what is not alike on all nodes.

Must not know: which command shows them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from disbatch_host.cli import render

if TYPE_CHECKING:
    from disbatch_host.client.parameter_table import ParameterRow
    from disbatch_host.client.plugin_help import PluginHelp


def print_parameters(rows: Sequence[ParameterRow], *, is_open: bool) -> None:
    """The parameters of a class as a table. `is_open`: it has no schema at all."""
    click.echo()
    if not rows:
        click.echo("parameters: anything fits; its manifest does not say what" if is_open else "parameters: none")
        return
    table = [
        (
            row.name,
            row.types,
            "yes" if row.is_required else "-",
            in_json(row.default) if row.has_default else "-",
            "; ".join(
                filter(None, (("secret" if row.is_secret else ""), row.description.removesuffix("."), _examples(row)))
            ),
        )
        for row in rows
    ]
    render.print_table(("parameter", "type", "required", "default", "description"), table)


def _examples(row: ParameterRow) -> str:
    return f"such as {', '.join(map(in_json, row.examples))}" if row.examples else ""


def in_json(value: Any) -> str:
    """A value in a cell."""
    text = json.dumps(value, ensure_ascii=False)
    return render.printable(render.cut_middle(text, _VALUE_MAX))


_VALUE_MAX = 200  # columns of a value in a table


def say_what_differs(found: PluginHelp) -> None:
    """On stderr: nodes with different parameters, nodes that publish nothing, publications that cannot be used."""
    published = found.published
    if published.differing is not None:
        say(f"nodes have different parameters of {found.class_name}: {published.differing}")
    for one in published.silent:
        say(f"node {one.id} publishes no manifest ({one.program}); what it takes is known only there")
    for fault in published.faults:
        say(fault)


def say(text: str) -> None:
    """A line on stderr."""
    click.echo(f"disbatch-host: {render.printable(text)}", err=True)
