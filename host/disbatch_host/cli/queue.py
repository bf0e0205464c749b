"""`disbatch-host queue …`"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from disbatch_host.cli import common, render
from disbatch_host.cli.main import Subcommands, common_options
from disbatch_host.cli.settings import NODE_ID_PATTERN
from disbatch_host.clock import SystemClock
from disbatch_host.errors import NotFoundError, UsageError
from disbatch_host.model import TaskFilter
from disbatch_protocol import status as statuses
from disbatch_protocol.faults import near_name
from disbatch_protocol.manifest import NAME_PATTERN

_SETTABLE = ("class", "maxthreads", "description", "nodes_pin", "nodes_ignore")
_LISTS = ("nodes_pin", "nodes_ignore")
_MAXTHREADS_MAX = 2**31 - 1  # what every program that reads the database can hold


@click.group(cls=Subcommands)
@common_options
def queue() -> None:
    """Create, list, show, change and delete queues."""


@queue.command()
@click.argument("id")
@click.option("--class", "class_name", required=True, metavar="CLASS", help="The plugin that runs its tasks.")
@click.option(
    "--maxthreads", type=click.IntRange(0, _MAXTHREADS_MAX), metavar="N", help="Most of its tasks at once on each node."
)
@click.option("--description", metavar="T", help="For people.")
@click.option("--pin", multiple=True, metavar="NODE", help="Run only on this node; may be given several times.")
@click.option("--ignore", multiple=True, metavar="NODE", help="Not on this node; may be given several times.")
@common_options
def create(id: str, class_name: str, maxthreads: int | None, description: str | None, pin: Any, ignore: Any) -> None:
    """Create a queue.

    \b
      disbatch-host queue create mail --class Mail::Move --maxthreads 50
      disbatch-host queue create nightly --class Import --pin db01
    """
    common.check_id("an id for the queue", id)
    _check_class(class_name)
    for option, nodes in (("--pin", pin), ("--ignore", ignore)):
        _check_nodes(option, nodes)
    document: dict[str, Any] = {"_id": id, "class": class_name, "ctime": SystemClock().now()}
    if maxthreads is not None:
        document["maxthreads"] = maxthreads
    if description is not None:
        document["description"] = description
    if pin:
        document["nodes_pin"] = list(pin)
    if ignore:
        document["nodes_ignore"] = list(ignore)
    with common.opened_store(creates=True) as store:
        store.insert_queue(document)
        if common.wants_json():
            render.print_json(document, store.extended_json)
        else:
            click.echo(id)


@queue.command("list")
@common_options
def list_() -> None:
    """List the queues, with what waits and runs."""
    with common.opened_store() as store:
        queues, counts = store.queues(), store.count_by_status()
        if common.wants_json():
            for one in queues:
                count = counts.get(one.id, {})
                numbers = {word: _sum_of(count, word) for word in _STATUSES}
                render.print_json({**one.document, **numbers}, store.extended_json)
            return
        rows = []
        for one in queues:
            count = counts.get(one.id, {})
            waiting, running = _sum_of(count, "waiting"), _sum_of(count, "running")
            nodes = f"only {', '.join(one.nodes_pin)}" if one.nodes_pin else ""
            nodes = nodes or (f"not {', '.join(one.nodes_ignore)}" if one.nodes_ignore else "all")
            limit = "-" if one.maxthreads is None else one.maxthreads
            rows.append((one.id, one.class_name, limit, waiting, running, nodes, one.fault or one.description))
        columns = ("queue", "class", "maxthreads", "waiting", "running", "nodes", "description")
        render.print_table(columns, rows, right=(2, 3, 4))


_STATUSES = {
    "waiting": statuses.parse("created")[0] | statuses.parse("blocked")[0],
    "running": statuses.parse("running")[0] | statuses.parse("claimed")[0],
}


def _sum_of(counts: Mapping[int, int], word: str) -> int:
    return sum(number for status, number in counts.items() if status in _STATUSES[word])


@queue.command()
@click.argument("id")
@common_options
def show(id: str) -> None:
    """Show a queue and how many of its tasks are in which status."""
    with common.opened_store() as store:
        found = common.find_queue(store, id)
        counts = store.count_by_status().get(found.id, {})
        if common.wants_json():
            tasks = {str(status): count for status, count in sorted(counts.items())}
            render.print_json({**found.document, "tasks": tasks}, store.extended_json)
            return
        facts: list[tuple[str, Any]] = [
            ("queue", found.id),
            ("class", found.class_name),
            ("description", found.description or "-"),
            ("maxthreads", "the node's --max" if found.maxthreads is None else found.maxthreads),
            ("nodes_pin", ", ".join(found.nodes_pin) or "-"),
            ("nodes_ignore", ", ".join(found.nodes_ignore) or "-"),
            ("created", render.moment(found.ctime)),
        ]
        if found.fault is not None:
            facts.append(("fault", (found.fault, "red")))
        ends = ", ".join(f"{count} {statuses.name(status)}" for status, count in sorted(counts.items(), reverse=True))
        facts.append(("tasks", ends or "none"))
        render.print_facts(facts)


@queue.command("set")
@click.argument("id")
@click.argument("changes", nargs=-1, required=True, metavar="KEY=VALUE...")
@common_options
def set_(id: str, changes: tuple[str, ...]) -> None:
    """Change fields of a queue; nodes follow within a second. An empty value removes the field.

    \b
      disbatch-host queue set mail maxthreads=20
      disbatch-host queue set mail nodes_pin=mig01,mig02 description=
    """
    values: dict[str, Any] = {}
    removed = []
    for change in changes:
        name, mark, text = change.partition("=")
        if not mark:
            raise UsageError(f"expected KEY=VALUE, found {change!r}")
        if name not in _SETTABLE:
            near = near_name(name, _SETTABLE)
            hint = f"did you mean {near!r}?" if near else f"known are {', '.join(_SETTABLE)}"
            raise UsageError(f"a queue has no field {name!r} that can be set; {hint}")
        if text:
            values[name] = _value_of(name, text)
        elif name == "class":
            raise UsageError("expected a class, found nothing; a queue without one cannot run")
        else:
            removed.append(name)
    with common.opened_store() as store:
        found = common.find_queue(store, id)
        if not store.update_queue(found.id, values, removed):
            raise NotFoundError(f"no queue {id!r} any more; somebody has just deleted it")


def _value_of(name: str, text: str) -> Any:
    if name in _LISTS:
        nodes = [one.strip() for one in text.split(",") if one.strip()]
        _check_nodes(name, nodes)
        return nodes
    if name == "maxthreads":
        if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > _MAXTHREADS_MAX:
            raise UsageError(f"maxthreads: expected a whole number from 0 to {_MAXTHREADS_MAX}, found {text!r:.40}")
        return int(text)
    if name == "class":
        _check_class(text)
    return text


def _check_class(name: str) -> None:
    if NAME_PATTERN.fullmatch(name) is None:
        raise UsageError(
            "expected a class, the name of a plugin like Greet or Mail::Move (letters, digits, _ . : -), "
            f"found {name!r:.80}"
        )


def _check_nodes(where: str, nodes: Sequence[str]) -> None:
    for one in nodes:
        if NODE_ID_PATTERN.fullmatch(one) is None:
            raise UsageError(
                f"{where}: expected node ids of 1 to 8 characters ([a-zA-Z][a-zA-Z_0-9]*), found {one!r:.40}; "
                "`disbatch-host node list` shows those there are"
            )


@queue.command()
@click.argument("id")
@click.option("--yes", is_flag=True, help="Do not ask.")
@common_options
def delete(id: str, yes: bool) -> None:
    """Delete a queue. Its tasks stay; those that wait are not run until a queue of this id is there again."""
    with common.opened_store() as store:
        found = common.find_queue(store, id)
        unfinished, _ = statuses.parse("unfinished")
        left = store.count_tasks(TaskFilter(queue=found.id, statuses=unfinished))
        if left and not yes:
            tasks = f"{common.count_of(left, 'task')} of queue {id} {'has' if left == 1 else 'have'}"
            question = f"{tasks} not ended and will not be run; delete the queue?"
            if not sys.stdin.isatty():
                raise UsageError(f"{tasks} not ended and would not be run; --yes deletes it anyhow")
            click.confirm(question, abort=True)
        store.delete_queue(found.id)
