"""`disbatch-host status`: the cluster in two tables; with --watch, as a view that refreshes itself."""

from __future__ import annotations

from collections.abc import Sequence

import click

from disbatch_host import suggested
from disbatch_host.cli import common, render
from disbatch_host.cli.frame import common_options
from disbatch_host.cli.node_table import print_nodes, say_none
from disbatch_host.client.failures import Failures, find_failures
from disbatch_host.client.overview import QueueSummary, summary
from disbatch_host.client.remedies import remedy
from disbatch_host.decide import readings
from disbatch_host.decide.why import Code
from disbatch_host.documents.records import NodeRecord
from disbatch_host.errors import UsageError
from disbatch_protocol.quantities import parse_duration

_SHOWN = ("waiting", "running", "concluded", "failed")  # always
_NOTED = ("cancelled", "orphaned")  # if there are any; terminated tasks are among the failed ones
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
            click.echo(f"no queues; {suggested.hint('queue create ID --class CLASS')} makes one")
        click.echo()
        if found.nodes:
            print_nodes(found.nodes)
            _print_unusable(found.nodes)
            _print_troubles(found.nodes)
        else:
            say_none()
        _print_paused(found.queues)
        if any(one.counts[name] for one in found.queues for name in ("failed", "orphaned")):
            _print_causes(find_failures(store, limit=_CAUSES_MAX, seconds=_CAUSES_SECONDS))


def _interval(watch: bool, text: str | None) -> float:
    if text is None:
        return 1.0
    if not watch:
        raise UsageError("--interval is for --watch; give both, or neither")
    try:
        return max(_INTERVAL_MIN_SECONDS, parse_duration(text))
    except ValueError as error:
        raise UsageError(f"--interval: {error}") from error


def _print_paused(queues: Sequence[QueueSummary]) -> None:
    """How those go on that were paused because of their failures."""
    for one in queues:
        if one.queue is not None and one.queue.is_paused_on_failures:
            helps = remedy(Code.PAUSED_ON_FAILURES, queue=str(one.queue.id))
            click.echo(f"queue {render.printable(str(one.queue.id))} has paused itself: {helps}")


_STYLES = {"failed": "red", "running": "cyan", "concluded": "green"}


def _count_cell(name: str, count: int) -> tuple[str, str]:
    return (str(count), _STYLES.get(name, "default")) if count else ("0", "dim")


def _note(one: QueueSummary) -> tuple[str, str]:
    """The rarer ends, why the queue's tasks do not run, if that can be seen from here, and what makes them slow."""
    notes = [f"{one.counts[name]} {name}" for name in _NOTED if one.counts[name]]
    if one.causes:
        notes.append(one.note)
    elif one.queue is not None and one.queue.rate is not None and one.counts["waiting"]:
        notes.append(f"at most {one.queue.document['rate']}")
    return "; ".join(notes), "yellow"


def _print_causes(found: Failures) -> None:
    """The most frequent causes of failures."""
    if not found.reasons:
        return
    click.echo()
    rows = [(one.total, render.printable(one.text), "" if one.key is None else one.key) for one in found.reasons]
    render.print_table(("failed", "cause", "key"), [(str(count), text, key) for count, text, key in rows], right=(0,))
    rest = f"; {common.count_of(found.other_groups, 'cause')} more" if found.other_groups else ""
    click.echo(f"{suggested.hint('task failures')} shows them with their tasks, and how to run them again{rest}")


_CAUSES_MAX = 3
_CAUSES_SECONDS = 0.5  # for counting them


def _print_unusable(records: Sequence[NodeRecord]) -> None:
    """Why nodes do not run classes that they have, for anyone who wonders why nothing happens."""
    lines: list[tuple[str, str]] = []
    first_nodes: list[str] = []
    for word, unusable_of, hint in _UNUSABLE:
        nodes: dict[tuple[str, str], list[str]] = {}  # the same fault of a deployment is on all of them
        for record in records:
            if readings.is_alive(record):
                for name, reason in unusable_of(record).items():
                    nodes.setdefault((name, reason), []).append(record.id)
        for (name, reason), ids in nodes.items():
            head = f"{name} is {word} on node{'' if len(ids) == 1 else 's'} {', '.join(ids)}"
            lines.append((head, f"{' '.join(reason.split())}; {hint}"))
            first_nodes.append(ids[0])
    if lines:
        click.echo()
    for head, rest in lines[:_UNUSABLE_MAX]:
        click.echo(f"{render.style(head, 'yellow')}: {rest}")
    if len(lines) > _UNUSABLE_MAX:
        shows = suggested.hint("node show", first_nodes[_UNUSABLE_MAX])
        click.echo(f"and {len(lines) - _UNUSABLE_MAX} more; {shows} lists those of a node")


def _print_troubles(records: Sequence[NodeRecord]) -> None:
    """What the nodes had to leave out so that the rest goes on."""
    lines = [
        f"{render.style(f'node {record.id}', 'yellow')}: {sentence}"
        for record in records
        if readings.is_alive(record)
        for sentence in (*readings.passed_over_of(record), *readings.troubles_of(record))
    ]
    if lines:
        click.echo()
    for line in lines:
        click.echo(line)


_UNUSABLE_MAX = 20
_UNUSABLE = (
    ("set aside", readings.set_aside_of, "it is tried again when its files change"),
    ("broken", readings.broken_of, f"{suggested.plain_hint('check')} there says what to do"),
)
