"""`disbatch-host queue …`"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from disbatch_host.cli import common, render
from disbatch_host.cli.frame import Subcommands, common_options
from disbatch_host.clock import SystemClock
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Queue, Sort
from disbatch_host.errors import NotFoundError, UsageError
from disbatch_host.settings.forms import NODE_ID_PATTERN
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.faults import near_name
from disbatch_protocol.manifest import NAME_PATTERN
from disbatch_protocol.quantities import format_duration

_SETTABLE = ("class", "maxthreads", "maxtotal", "rate", "sort", "keep", "description", "nodes_pin", "nodes_ignore")
_LISTS = ("nodes_pin", "nodes_ignore")
_LIMITS = ("maxthreads", "maxtotal")
_LIMIT_MAX = 2**31 - 1  # what every program that reads the database can hold


@click.group(cls=Subcommands)
@common_options
def queue() -> None:
    """Create, list, show, change, pause and delete queues."""


@queue.command()
@click.argument("id")
@click.option("--class", "class_name", required=True, metavar="CLASS", help="The plugin that runs its tasks.")
@click.option(
    "--maxthreads", type=click.IntRange(0, _LIMIT_MAX), metavar="N", help="Most of its tasks at once on each node."
)
@click.option(
    "--maxtotal", type=click.IntRange(0, _LIMIT_MAX), metavar="N", help="Most of its tasks at once over all nodes."
)
@click.option("--rate", metavar="N/T", help="Most starts in any such time over all nodes: 100/m, 5/s, 10/30s.")
@click.option(
    "--sort",
    type=click.Choice([one.value for one in Sort]),
    help="Which goes first (fifo: the oldest).",
)
@click.option("--keep", metavar="S", help="Delete its tasks so long after their ends, like 30d (never).")
@click.option("--description", metavar="T", help="For people.")
@click.option("--pin", multiple=True, metavar="NODE", help="Run only on this node; may be given several times.")
@click.option("--ignore", multiple=True, metavar="NODE", help="Not on this node; may be given several times.")
@common_options
def create(id: str, class_name: str, pin: tuple[str, ...], ignore: tuple[str, ...], **fields: Any) -> None:
    """Create a queue.

    \b
      disbatch-host queue create mail --class Mail::Move --maxthreads 50
      disbatch-host queue create nightly --class Import --pin db01 --keep 30d
      disbatch-host queue create api --class Call --maxtotal 4 --rate 100/m
    """
    common.check_id("an id for the queue", id)
    _check_class(class_name)
    for option, nodes in (("--pin", pin), ("--ignore", ignore)):
        _check_nodes(option, nodes)
    document: dict[str, Any] = {"_id": id, "class": class_name, "ctime": SystemClock().now()}
    document |= {name: value for name, value in fields.items() if value is not None}
    if pin:
        document["nodes_pin"] = list(pin)
    if ignore:
        document["nodes_ignore"] = list(ignore)
    _check_document(document)
    with common.opened_store(creates=True) as store:
        store.insert_queue(document)
        if common.wants_json():
            render.print_json(document, store.extended_json)
        else:
            click.echo(id)


def _check_document(document: Mapping[str, Any]) -> None:
    """Raises UsageError where a node could not use it."""
    if fault := Queue.from_document(document).fault:
        raise UsageError(fault)


@queue.command("list")
@click.option("--class", "class_name", metavar="CLASS", help="Only those of this plugin.")
@click.option("--node", metavar="ID", help="Only those that pin and ignore let this node run.")
@click.option("--paused/--not-paused", default=None, help="Only those that are paused, or that are not.")
@common_options
def list_(class_name: str | None, node: str | None, paused: bool | None) -> None:
    """List the queues, with what waits and runs.

    \b
      disbatch-host queue list --paused
      disbatch-host queue list --json | jq ._id
    """
    with common.opened_store() as store:
        counts = store.count_by_status()
        queues = [
            one
            for one in store.queues()
            if class_name in (None, one.class_name)
            and (node is None or one.is_for(node))
            and paused in (None, one.paused is not None)
        ]
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
            notes = [*_rules_in_words(one), *([one.description] if one.description else [])]
            note = one.fault or "; ".join(notes)
            rows.append((one.id, one.class_name, limit, waiting, running, nodes, note))
        columns = ("queue", "class", "maxthreads", "waiting", "running", "nodes", "description")
        render.print_table(columns, rows, right=(2, 3, 4))


def _rules_in_words(queue: Queue) -> list[str]:
    """What holds for the queue beyond what most have."""
    rules = []
    if queue.paused is not None:
        rules.append(_paused_in_words(queue.paused))
    if queue.maxtotal is not None:
        rules.append(f"{queue.maxtotal} at once in all")
    if queue.rate is not None:
        rules.append(f"at most {queue.document['rate']}")
    if queue.sort is not Sort.FIFO:
        rules.append(str(queue.sort))
    if queue.keep_seconds is not None:
        rules.append(f"kept {format_duration(queue.keep_seconds)}")
    return rules


def _paused_in_words(paused: Mapping[str, Any]) -> str:
    why = f": {paused['why']}" if paused.get("why") else ""
    return f"paused by {paused.get('by') or 'somebody'}{why}"


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
    """Show a queue and how many of its tasks are in which status.

    \b
      disbatch-host queue show mail
    """
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
            ("maxtotal", "-" if found.maxtotal is None else found.maxtotal),
            ("rate", "-" if found.rate is None else found.document["rate"]),
            ("sort", str(found.sort)),
            ("keep", "for ever" if found.keep_seconds is None else format_duration(found.keep_seconds)),
            ("nodes_pin", ", ".join(found.nodes_pin) or "-"),
            ("nodes_ignore", ", ".join(found.nodes_ignore) or "-"),
            ("created", render.moment(found.ctime)),
        ]
        if found.paused is not None:
            since = f", since {render.moment(found.paused['at'])}" if "at" in found.paused else ""
            facts.insert(1, ("state", (f"{_paused_in_words(found.paused)}{since}", "yellow")))
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
      disbatch-host queue set mail maxtotal=4 rate=100/m sort=lifo keep=30d
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
    _check_document({"_id": id, "class": "any", **values})
    with common.opened_store() as store:
        found = common.find_queue(store, id)
        _update(store, found, values, removed)


def _update(store: Store, queue: Queue, values: Mapping[str, Any], removed: Sequence[str]) -> None:
    if not store.update_queue(queue.id, values, removed):
        raise NotFoundError(f"no queue {str(queue.id)!r} any more; somebody has just deleted it")
    if common.wants_json():
        document = {name: value for name, value in queue.document.items() if name not in removed}
        render.print_json({**document, **values}, store.extended_json)


@queue.command()
@click.argument("id")
@common.reason_option
@common_options
def pause(id: str, reason: str | None) -> None:
    """Start no more tasks of a queue, on any node; those that run go on. Nodes follow within a second.

    \b
      disbatch-host queue pause mail --reason 'the server is down'
    """
    with common.opened_store() as store:
        found = common.find_queue(store, id)
        if found.paused is not None:
            click.echo(f"queue {id} was {_paused_in_words(found.paused)} before", err=True)
        _update(store, found, {"paused": common.request(reason, store.now())}, ())


@queue.command()
@click.argument("id")
@common_options
def resume(id: str) -> None:
    """Start tasks of a paused queue again.

    \b
      disbatch-host queue resume mail
    """
    with common.opened_store() as store:
        found = common.find_queue(store, id)
        if found.paused is None:
            click.echo(f"queue {id} is not paused", err=True)
        _update(store, found, {}, ("paused",))


def _value_of(name: str, text: str) -> Any:
    if name in _LISTS:
        nodes = [one.strip() for one in text.split(",") if one.strip()]
        _check_nodes(name, nodes)
        return nodes
    if name in _LIMITS:
        if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > _LIMIT_MAX:
            raise UsageError(f"{name}: expected a whole number from 0 to {_LIMIT_MAX}, found {text!r:.40}")
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
    """Delete a queue. Its tasks stay; those that wait are not run until a queue of this id is there again.

    \b
      disbatch-host queue delete mail
      disbatch-host queue delete mail --yes
    """
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
