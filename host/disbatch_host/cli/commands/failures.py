"""`disbatch-host task failures` and `batch failures`: why tasks failed, by cause."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import click

from disbatch_host.cli import common, render
from disbatch_host.cli.frame import common_options
from disbatch_host.cli.kinds import Whole
from disbatch_host.client import failures as causes
from disbatch_host.client import finding
from disbatch_host.client.batch_finding import batch_id_of
from disbatch_host.client.failures import FailureFacts, Failures
from disbatch_host.client.finding import Selection
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.store.contract import Store

_LIMIT = 20
_NAMES_SHOWN = 5  # nodes and versions of a cause


_LIMIT_OPTION = click.option(
    "--limit", type=Whole(1, causes.GROUPS_MAX), metavar="N", help=f"Show at most this many causes ({_LIMIT})."
)


@click.command()
@click.option("--queue", metavar="Q", help="Only tasks of this queue.")
@click.option("--batch", metavar="B", help="Only tasks of this batch.")
@click.option("--since", metavar="DURATION|TIME", help="Failed at or after this, or within this long.")
@click.option("--class", "class_name", metavar="CLASS", help="Only tasks that this plugin ran.")
@click.option("--version", metavar="V", help="Only tasks that this version of their plugin ran.")
@click.option("--node", metavar="ID", help="Only tasks that failed on this node.")
@_LIMIT_OPTION
@common_options
def failures(
    queue: str | None,
    batch: str | None,
    since: str | None,
    class_name: str | None,
    version: str | None,
    node: str | None,
    limit: int | None,
) -> None:
    """Show why tasks failed, by cause, the most frequent first.

    \b
      disbatch-host task failures --queue mail
      disbatch-host task failures --since 2h --class Mail::Move --version 1.4
      disbatch-host task failures --json | jq -r 'select(.key) | "\\(.count) \\(.text)"'

    Messages that differ only in numbers, names, paths and the like are one cause. For each: how many failed, when, with
    which version of the plugin and on which nodes, some of the tasks, and the command that runs just these again.
    Orphaned tasks, of which nobody knows whether they failed, and those that expired are counted beside.
    """
    with common.opened_store() as store:
        with common.options_named(ended_since="since", class_name="class"):
            selected = Selection(
                queue=queue, batch=batch, ended_since=since, class_name=class_name, version=version, node=node
            )
            which = finding.filter_of(store, selected, common.who())
        _show(store, which, limit)


@click.command("failures")
@click.argument("id")
@_LIMIT_OPTION
@common_options
def of_batch(id: str, limit: int | None) -> None:
    """Show why tasks of a batch failed, by cause, the most frequent first, as `task failures` does.

    \b
      disbatch-host batch failures @last
      disbatch-host batch failures 65f0c1 --json | jq -r 'select(.key) | .retry'
    """
    with common.opened_store() as store:
        _show(store, TaskFilter(batch=batch_id_of(store, id, common.who())), limit)


def _show(store: Store, which: TaskFilter, limit: int | None) -> None:
    as_json = common.wants_json()
    found = causes.find_failures(store, which, limit=limit or (causes.GROUPS_MAX if as_json else _LIMIT))
    if as_json:
        for one in found.reasons:
            retry = causes.retry_command(one, which)
            render.print_json({**one.to_json(), "retry": retry}, store.extended_json)
        if found.other_groups:
            others = {"key": None, "text": "other", "groups": found.other_groups, "count": found.other_total}
            render.print_json(others, store.extended_json)
    else:
        _print(found, which, store.now())
    if not found.is_complete:
        click.echo("there are more failures than could be counted in time: these are some of them", err=True)


def _print(found: Failures, which: TaskFilter, now: datetime) -> None:
    if not found.reasons:
        click.echo("no failures")
        return
    width = max(len(_count_of(one)) for one in found.reasons)
    for one in found.reasons:
        head = f"{_count_of(one):>{width}}"
        click.echo(f"{render.style(head, 'red')}  {render.style(render.printable(one.text), 'bold')}")
        for line in _lines_of(one, which, now):
            click.echo(f"{' ' * width}  {render.printable(line)}")
    click.echo()
    if found.other_groups:
        more = common.count_of(found.other_groups, "other cause")
        click.echo(f"and {common.count_of(found.other_total, 'task')} of {more}; --limit shows them")
    beside = [f"{count} {word}" for count, word in ((found.orphaned, "orphaned"), (found.expired, "expired")) if count]
    click.echo(", ".join([f"{found.total} failed", *beside]))


def _count_of(one: FailureFacts) -> str:
    return str(one.total)


def _lines_of(one: FailureFacts, which: TaskFilter, now: datetime) -> list[str]:
    lines = []
    # A message that says no more than the group is left out.
    if one.message and one.message not in one.text:
        lines.append(f"such as: {one.message}")
    beside = [f"{count} {word}" for count, word in ((one.orphaned, "orphaned"), (one.expired, "expired")) if count]
    if beside:
        lines.append(f"{', '.join(beside)}, which are not counted as failed")
    when = f"first {render.age(one.first, now)}, last {render.age(one.last, now)}" if one.last is not None else ""
    places = [_some("queue", one.queues), _some("version", one.versions), _some("node", one.nodes)]
    lines.append("; ".join(part for part in (when, *places) if part))
    if one.tasks:
        lines.append(f"{_some('task', [str(task) for task in one.tasks], is_part=one.total > len(one.tasks))}")
    lines.append(causes.retry_command(one, which))
    return lines


def _some(noun: str, names: Sequence[str], *, is_part: bool = False) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ", …" if is_part else ""
    return f"{noun}{'' if len(names) == 1 and not is_part else 's'} {', '.join(names[:_NAMES_SHOWN])}{more}"
