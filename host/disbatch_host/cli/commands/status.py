"""`disbatch-host status`: the cluster in two tables; with --watch, as a view that refreshes itself."""

from __future__ import annotations

from collections.abc import Sequence

import click

from disbatch_host.cli import common, render
from disbatch_host.cli.frame import common_options
from disbatch_host.cli.node_table import NONE_YET, print_nodes
from disbatch_host.client.overview import QueueSummary, summary
from disbatch_host.decide import readings
from disbatch_host.documents.records import NodeRecord
from disbatch_host.errors import UsageError
from disbatch_protocol.quantities import parse_duration

_SHOWN = ("waiting", "running", "concluded", "failed")  # always; the other ends only if there are any
_INTERVAL_MIN_SECONDS = 0.1  # of --watch; nobody reads faster


@click.command()
@click.option("--watch", is_flag=True, help="A full-screen view that refreshes itself; q or Ctrl-C quits.")
@click.option("--interval", metavar="S", help="With --watch: seconds between refreshes (1); more if the store is slow.")
@common_options
def status(watch: bool, interval: str | None) -> None:
    """Show the tasks of each queue by status, and which nodes are alive.

    \b
      disbatch-host status
      disbatch-host status --json
      disbatch-host status --watch
      disbatch-host status --watch --interval 5 --json | jq .queues
    """
    seconds = _interval(watch, interval)
    with common.opened_store() as store:
        if watch:
            from disbatch_host.cli.watch.screen import watch_status  # noqa: PLC0415

            watch_status(store, every_seconds=seconds)
            return
        found = summary(store, with_oldest=common.wants_json())
        if common.wants_json():
            for document in found.to_json():
                render.print_json(document, store.extended_json)
            return
        rows = [(one.id, *(_count_cell(name, one.counts[name]) for name in _SHOWN), _note(one)) for one in found.queues]
        if rows:
            render.print_table(("queue", *_SHOWN, "note"), rows, right=range(1, len(_SHOWN) + 1))
        else:
            click.echo("no queues; `disbatch-host queue create ID --class CLASS` makes one")
        click.echo()
        if found.nodes:
            print_nodes(found.nodes)
            _print_set_aside(found.nodes)
        else:
            click.echo(NONE_YET)


def _interval(watch: bool, text: str | None) -> float:
    if text is None:
        return 1.0
    if not watch:
        raise UsageError("--interval is for --watch; give both, or neither")
    try:
        return max(_INTERVAL_MIN_SECONDS, parse_duration(text))
    except ValueError as error:
        raise UsageError(f"--interval: {error}") from error


_STYLES = {"failed": "red", "running": "cyan", "concluded": "green"}


def _count_cell(name: str, count: int) -> tuple[str, str]:
    return (str(count), _STYLES.get(name, "default")) if count else ("0", "dim")


def _note(one: QueueSummary) -> tuple[str, str]:
    """The rarer ends, and why the queue's tasks do not run, if that can be seen from here."""
    notes = [f"{count} {name}" for name, count in one.counts.items() if count and name not in _SHOWN]
    return "; ".join([*notes, *([one.note] if one.causes else [])]), "yellow"


def _print_set_aside(records: Sequence[NodeRecord]) -> None:
    """Why a node does not run a class that it has, for anyone who wonders why nothing happens."""
    lines = [
        f"{render.style(f'{name} is set aside on node {record.id}', 'yellow')}: {reason}; it is tried again when its "
        "files change"
        for record in records
        if readings.is_alive(record)
        for name, reason in readings.set_aside_of(record).items()
    ]
    if lines:
        click.echo()
    for line in lines:
        click.echo(line)
