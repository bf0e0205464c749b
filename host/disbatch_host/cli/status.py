"""`disbatch-host status`: the cluster in two tables."""

from __future__ import annotations

from collections.abc import Sequence

import click

from disbatch_host.cli import common, nodes, render
from disbatch_host.cli.main import common_options
from disbatch_host.model import NodeRecord, Queue
from disbatch_protocol.faults import near_name
from disbatch_protocol.status import Status

_SHOWN = ("waiting", "running", "concluded", "failed")  # always; the other ends only where there are some
_COLUMNS = ("waiting", "running", "concluded", "failed", "terminated", "cancelled", "orphaned")


@click.command()
@common_options
def status() -> None:
    """Show what waits, runs and has ended in each queue, and which nodes are alive."""
    with common.opened_store() as store:
        queues, counts, records = store.queues(), store.count_by_status(), store.nodes()
        known = {queue.id for queue in queues}
        lines: list[tuple[object, Queue | None, dict[str, int]]] = [
            (queue.id, queue, totals(counts.get(queue.id, {}))) for queue in queues
        ]
        # Tasks of a queue that was deleted are still there, as are follow-up tasks of one that nobody has made, and
        # somebody will wonder where they are.
        lines += [(queue_id, None, totals(count)) for queue_id, count in counts.items() if queue_id not in known]
        if common.wants_json():
            for queue_id, queue, total in lines:
                class_name = queue.class_name if queue else None
                note = "; ".join(why_waiting(queue, total, records))
                document = {"queue": queue_id, "class": class_name, **total, "note": note}
                render.print_json(document, store.extended_json)
            for record in records:
                render.print_json({"node": record.id, **nodes.json_document(record)}, store.extended_json)
            return
        rows = [
            (queue_id, *(_count_cell(name, total[name]) for name in _SHOWN), _note(queue, total, records))
            for queue_id, queue, total in lines
        ]
        if rows:
            render.print_table(("queue", *_SHOWN, "note"), rows, right=range(1, len(_SHOWN) + 1))
        else:
            click.echo("no queues; `disbatch-host queue create ID --class CLASS` makes one")
        click.echo()
        if records:
            nodes.print_nodes(records)
            _print_set_aside(records)
        else:
            click.echo(nodes.NONE_YET)


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


def _note(queue: Queue | None, total: dict[str, int], records: list[NodeRecord]) -> tuple[str, str]:
    """The rarer ends, and why the queue's tasks do not run, where that can be seen from here."""
    notes = [f"{count} {name}" for name, count in total.items() if count and name not in _SHOWN]
    return "; ".join([*notes, *why_waiting(queue, total, records)]), "yellow"


def why_waiting(queue: Queue | None, total: dict[str, int], records: list[NodeRecord]) -> list[str]:
    """Why no node runs the queue's tasks; empty where one can, or where none waits and no node is there either."""
    if queue is None:
        return ["no such queue (deleted, or never made)"]
    if queue.fault is not None:
        return [queue.fault]
    notes = ["maxthreads is 0, so none of its tasks is started"] if queue.maxthreads == 0 else []
    alive = [record for record in records if not record.is_stale(nodes.DEAD_AFTER_SECONDS)]
    if not alive:
        return [*notes, "no node is alive"] if total["waiting"] else notes
    meant = [one for one in alive if queue.is_for(one.id)]
    able = [one.id for one in alive if queue.class_name in _classes(one)]
    aside = [one.id for one in meant if queue.class_name in _set_aside(one)]
    if aside:
        notes.append(f"set aside on {', '.join(aside)}, see below")
    elif any(queue.is_for(one) for one in able):
        pass
    elif queue.nodes_pin and not meant:
        notes.append(f"pinned to {_some(queue.nodes_pin)}, {_not_alive(queue.nodes_pin)}")
    elif queue.nodes_pin:
        notes.append(f"pinned to {_some(queue.nodes_pin)}, where no plugin {queue.class_name} is")
    elif able:
        notes.append(f"ignored by {_some(able)}; no other living node has plugin {queue.class_name}")
    else:
        near = near_name(queue.class_name, sorted({name for one in alive for name in _classes(one)}))
        notes.append(f"no living node has plugin {queue.class_name}{f', did you mean {near}?' if near else ''}")
    return notes


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SOME]) + (f" and {len(names) - _SOME} more" if len(names) > _SOME else "")


_SOME = 3


def _not_alive(names: Sequence[str]) -> str:
    return "which is not alive" if len(names) == 1 else "of which none is alive"


def _print_set_aside(records: list[NodeRecord]) -> None:
    """Why a node does not run a class that it has: whoever wonders why nothing happens finds it here."""
    lines = [
        f"{click.style(f'{name} is set aside on node {record.id}', fg='yellow')}: {reason}; it is tried again when its "
        "files change"
        for record in records
        if not record.is_stale(nodes.DEAD_AFTER_SECONDS)
        for name, reason in _set_aside(record).items()
    ]
    if lines:
        click.echo()
    for line in lines:
        click.echo(line)


def _set_aside(record: NodeRecord) -> dict[str, str]:
    found = nodes.records(record.document.get("set_aside"))
    return {str(one.get("class")): str(one.get("reason")) for one in found}


def _classes(record: NodeRecord) -> set[str]:
    return {str(one.get("class")) for one in nodes.records(record.document.get("queuetypes"))} - set(_set_aside(record))
