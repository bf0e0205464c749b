"""Nodes as `node list` and `status` show them: a table, and each node's state as a word with a color."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import click

from disbatch_host import suggested
from disbatch_host.cli import common, render
from disbatch_host.client.nodes import life_of
from disbatch_host.decide import readings
from disbatch_host.documents import local_time
from disbatch_host.documents.records import NodeRecord

_AWAY_STYLE = "yellow"
_STYLES = {"dead": "red", "alive": "green"}


def say_none() -> None:
    """That there is no node, and how to run one: with the plugins that there are here."""
    there = [common.in_here(one) for one in common.settings().plugins if one.is_dir()]
    shown = [one if one.startswith(("/", ".")) else f"./{one}" for one in there]
    click.echo(f"no nodes; {suggested.a_node(shown)} runs one")


def print_nodes(nodes: Sequence[NodeRecord]) -> None:
    """One line per node."""
    rows = []
    for one in nodes:
        queues = readings.heartbeat_queues(one)
        processing = sum(readings.number(queue, "processing") for queue in queues)
        aside = readings.set_aside_of(one)
        classes = [str(kind.get("class")) for kind in readings.records_of(one.document.get("queuetypes"))]
        rows.append(
            (
                one.id,
                life_cell(one),
                "-" if one.age_seconds is None else f"{one.age_seconds:.0f} s ago",
                f"{processing}/{readings.places_of(one)}"
                if readings.is_alive(one)
                else f"{kept} kept"
                if (kept := readings.kept_of(one))
                else "-",  # its last report is outdated
                readings.object_of(one, "host").get("name"),
                one.document.get("version"),
                ", ".join(f"{name} (set aside)" if name in aside else name for name in classes) or "-",
            )
        )
    render.print_table(("node", "state", "heartbeat", "load", "machine", "version", "plugins"), rows, right=(2, 3))


def life_cell(record: NodeRecord) -> tuple[str, str]:
    """Whether the node is alive, by the age of its heartbeat, how it is being stopped or drained, or until when it is
    away."""
    life = life_of(record)
    until = readings.object_of(record, "away").get("until")
    if life == "away" and isinstance(until, datetime):
        return f"away until {local_time.shown(until, 'seconds')}", _AWAY_STYLE
    return life, _STYLES.get(life, "yellow")
