"""`disbatch-host status`: the cluster in two tables; with --watch as a view that renews itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from disbatch_host.cli import common, render
from disbatch_host.cli.commands import node
from disbatch_host.cli.frame import common_options
from disbatch_host.decide import readings, why
from disbatch_host.decide.why import Code, Why
from disbatch_host.documents.records import NodeRecord, Queue
from disbatch_host.errors import UsageError
from disbatch_protocol.quantities import parse_duration
from disbatch_protocol.status import Status

_SHOWN = ("waiting", "running", "concluded", "failed")  # always; the other ends only where there are some
_COLUMNS = ("waiting", "running", "concluded", "failed", "terminated", "cancelled", "orphaned")


_INTERVAL_MIN_SECONDS = 0.1  # of --watch; nobody reads faster


@click.command()
@click.option("--watch", is_flag=True, help="A full-screen view that renews itself; q or Ctrl-C leaves it.")
@click.option("--interval", metavar="S", help="With --watch: between two looks (1). Longer where a look takes long.")
@common_options
def status(watch: bool, interval: str | None) -> None:
    """Show what waits, runs and has ended in each queue, and which nodes are alive.

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
        queues, counts, records, now = store.queues(), store.count_by_status(), store.nodes(), store.now()
        known = {queue.id for queue in queues}
        lines: list[tuple[object, Queue | None, dict[str, int]]] = [
            (queue.id, queue, totals(counts.get(queue.id, {}))) for queue in queues
        ]
        # Tasks of a queue that was deleted are still there, as are follow-up tasks of one that nobody has made, and
        # somebody will wonder where they are.
        lines += [(queue_id, None, totals(count)) for queue_id, count in counts.items() if queue_id not in known]
        if common.wants_json():
            oldest = store.oldest_waiting()
            for queue_id, queue, total in lines:
                causes = why_waiting(queue, total, records, now)
                since = oldest.get(queue_id)
                document: dict[str, Any] = {
                    "queue": queue_id,
                    "class": queue.class_name if queue else None,
                    **total,
                    "note": "; ".join(cause.short for cause in causes),
                    "reasons": [str(cause.code) for cause in causes],
                    "paused": queue.paused if queue else None,
                    "oldest_waiting": since,
                    "oldest_waiting_seconds": None if since is None else max(0.0, (now - since).total_seconds()),
                }
                render.print_json(document, store.extended_json)
            for record in records:
                render.print_json({"node": record.id, **node.json_document(record)}, store.extended_json)
            return
        rows = [
            (queue_id, *(_count_cell(name, total[name]) for name in _SHOWN), _note(queue, total, records, now))
            for queue_id, queue, total in lines
        ]
        if rows:
            render.print_table(("queue", *_SHOWN, "note"), rows, right=range(1, len(_SHOWN) + 1))
        else:
            click.echo("no queues; `disbatch-host queue create ID --class CLASS` makes one")
        click.echo()
        if records:
            node.print_nodes(records)
            _print_set_aside(records)
        else:
            click.echo(node.NONE_YET)


def _interval(watch: bool, text: str | None) -> float:
    if text is None:
        return 1.0
    if not watch:
        raise UsageError("--interval is for --watch; give both, or neither")
    try:
        return max(_INTERVAL_MIN_SECONDS, parse_duration(text))
    except ValueError as error:
        raise UsageError(f"--interval: {error}") from error


def totals(counts: dict[int, int]) -> dict[str, int]:
    """The counts of single statuses, gathered under the words of the columns."""
    total = dict.fromkeys(_COLUMNS, 0)
    for value, count in counts.items():
        word = "failed" if value >= Status.FAILED else _WORDS.get(value)
        if word is not None:
            total[word] += count
    return total


_WORDS: dict[int, str] = {
    Status.CREATED: "waiting",
    Status.BLOCKED: "waiting",
    Status.CLAIMED: "running",
    Status.RUNNING: "running",
    Status.CONCLUDED: "concluded",
    Status.TERMINATED: "terminated",
    Status.CANCELLED: "cancelled",
    Status.ORPHANED: "orphaned",
}
_STYLES = {"failed": "red", "running": "cyan", "concluded": "green"}


def _count_cell(name: str, count: int) -> tuple[str, str]:
    return (str(count), _STYLES.get(name, "default")) if count else ("0", "dim")


def _note(queue: Queue | None, total: dict[str, int], records: Sequence[NodeRecord], now: datetime) -> tuple[str, str]:
    """The rarer ends, and why the queue's tasks do not run, where that can be seen from here."""
    notes = [f"{count} {name}" for name, count in total.items() if count and name not in _SHOWN]
    return "; ".join([*notes, *(cause.short for cause in why_waiting(queue, total, records, now))]), "yellow"


def why_waiting(
    queue: Queue | None, total: Mapping[str, int], records: Sequence[NodeRecord], now: datetime
) -> list[Why]:
    """Why no node runs the queue's tasks; empty where one can, or where none waits and no node is there either."""
    found = why.queue_obstacles(queue, records, now=now, dead_after_seconds=node.DEAD_AFTER_SECONDS)
    if queue is not None and not any(why.code is Code.SET_ASIDE for why in found):
        # Others run them, so it is no reason why nothing happens; but somebody has to mend it.
        alive = (one for one in records if not one.is_stale(node.DEAD_AFTER_SECONDS) and queue.is_for(one.id))
        aside = [one.id for one in alive if queue.class_name in readings.set_aside_of(one)]
        if aside:
            found.append(Why(Code.SET_ASIDE, f"set aside on {', '.join(aside)}, see below"))
    return [why for why in found if why.code is not Code.NO_NODE or total["waiting"]]


def _print_set_aside(records: list[NodeRecord]) -> None:
    """Why a node does not run a class that it has: whoever wonders why nothing happens finds it here."""
    lines = [
        f"{click.style(f'{name} is set aside on node {record.id}', fg='yellow')}: {reason}; it is tried again when its "
        "files change"
        for record in records
        if not record.is_stale(node.DEAD_AFTER_SECONDS)
        for name, reason in readings.set_aside_of(record).items()
    ]
    if lines:
        click.echo()
    for line in lines:
        click.echo(line)
