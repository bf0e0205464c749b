"""`disbatch-host queue …`."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from disbatch_host import suggested
from disbatch_host.cli import common, render, terminal
from disbatch_host.cli.frame import Subcommands, common_options
from disbatch_host.cli.kinds import OneOf, Whole
from disbatch_host.client.classes import unknown_class
from disbatch_host.client.published import is_published
from disbatch_host.client.queues import (
    LIMIT_MAX,
    LIMITS,
    LISTS,
    Queues,
    QueueState,
    changes_of,
    check_settable,
    new_queue,
)
from disbatch_host.client.remedies import remedy
from disbatch_host.clock import SystemClock
from disbatch_host.decide.why import Code
from disbatch_host.documents.records import KEEP_ATTEMPTS, KEEP_ATTEMPTS_MAX, Queue, Sort
from disbatch_host.errors import DisbatchError, NotFoundError, UsageError
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.quantities import format_duration

if TYPE_CHECKING:  # most commands need no manifest
    from disbatch_host.client.plugin_help import PluginHelp


@click.group(cls=Subcommands)
@common_options
def queue() -> None:
    """Create, list, show, change, pause and delete queues."""


@queue.command()
@click.argument("id")
@click.option("--class", "class_name", required=True, metavar="CLASS", help="The plugin that runs its tasks.")
@click.option("--maxthreads", type=Whole(0, LIMIT_MAX), metavar="N", help="Run at most this many at once on each node.")
@click.option(
    "--maxtotal", type=Whole(0, LIMIT_MAX), metavar="N", help="Run at most this many at once across all nodes."
)
@click.option("--rate", metavar="N/T", help="Limit on starts across all nodes: 100/m, 5/s, 10/30s.")
@click.option(
    "--sort",
    type=OneOf([one.value for one in Sort]),
    help="Which goes first (fifo: the oldest).",
)
@click.option("--keep", metavar="DURATION", help="Delete tasks this long after they end, like 30d. Default: never.")
@click.option(
    "--keep-attempts",
    type=Whole(1, KEEP_ATTEMPTS_MAX),
    metavar="N",
    help="Keep the output of this many attempts of a task, with the last one (3).",
)
@click.option(
    "--pause-on-failures",
    metavar="N/T|P%/N",
    help="Pause it when so many tasks failed in a time (50/10m), or of the last ones (20%/100).",
)
@click.option("--description", metavar="T", help="For people.")
@click.option("--pin", multiple=True, metavar="NODE", help="Run only on this node; may be given several times.")
@click.option("--ignore", multiple=True, metavar="NODE", help="Do not run on this node; may be given several times.")
@common_options
def create(id: str, class_name: str, pin: tuple[str, ...], ignore: tuple[str, ...], **fields: Any) -> None:
    """Create a queue.

    \b
      disbatch-host queue create mail --class Mail::Move --maxthreads 50
      disbatch-host queue create nightly --class Import --pin db01 --keep 30d
      disbatch-host queue create api --class Call --maxtotal 4 --rate 100/m --pause-on-failures 50/10m
    """
    fields |= {"nodes_pin": list(pin), "nodes_ignore": list(ignore)}
    with common.options_named(nodes_pin="pin", nodes_ignore="ignore"):
        new_queue(id, class_name, now=SystemClock().now(), **fields)  # errors are reported before a file is created
    with common.opened_store(creates=True) as store:
        created = Queues(store, common.who()).create(id, class_name, **fields)
        if common.wants_json():
            render.print_json(created.document, store.extended_json)
        else:
            click.echo(id)
        _say_unknown_class(store, created, "created")


def _say_unknown_class(store: Store, queue: Queue, was: str) -> None:
    """A typo in a class is otherwise noticed only when its tasks wait. `was`: created or changed, since a warning alone
    looks like a refusal."""
    here = None
    with contextlib.suppress(DisbatchError):  # a missing plugin directory is not this command's concern
        here = common.catalog()
    unknown = unknown_class(store, here, queue.class_name)
    if unknown is not None:
        where = ", ".join(str(one) for one in common.settings().plugins)
        hint = "its tasks wait until one has it"
        if unknown.near is not None:
            change = suggested.hint("queue set", queue.id, f"class={unknown.near}")
            hint = f"did you mean {unknown.near!r}? {change} corrects it"
        text = (
            f"queue {queue.id} was {was}, but neither a living node nor {where} has a plugin {queue.class_name}; {hint}"
        )
        click.echo(f"disbatch-host: {render.printable(text)}", err=True)


@queue.command("list")
@click.option("--class", "class_name", metavar="CLASS", help="Only queues of this plugin.")
@click.option("--node", metavar="ID", help="Only queues that this node may run, by pin and ignore.")
@click.option("--paused/--not-paused", default=None, help="Only queues that are paused, or not.")
@common_options
def list_(class_name: str | None, node: str | None, paused: bool | None) -> None:
    """List the queues, with their waiting and running tasks.

    \b
      disbatch-host queue list --paused
      disbatch-host queue list --json | jq ._id
    """
    with common.opened_store() as store:
        states = Queues(store, common.who()).list(class_name=class_name, node=node, is_paused=paused)
        if common.wants_json():
            for one in states:
                numbers = {"waiting": one.waiting, "running": one.running}
                render.print_json({**one.queue.document, **numbers}, store.extended_json)
            return
        columns = ("queue", "class", "maxthreads", "waiting", "running", "nodes", "description")
        render.print_table(columns, [_row(one) for one in states], right=(2, 3, 4))


def _row(state: QueueState) -> Sequence[Any]:
    one = state.queue
    nodes = f"only {', '.join(one.nodes_pin)}" if one.nodes_pin else ""
    nodes = nodes or (f"not {', '.join(one.nodes_ignore)}" if one.nodes_ignore else "all")
    limit = "-" if one.maxthreads is None else one.maxthreads
    waits = _waits_in_words(state) if state.waiting else []
    notes = [*waits, *_rules_in_words(one), *([one.description] if one.description else [])]
    return (one.id, one.class_name, limit, state.waiting, state.running, nodes, one.fault or "; ".join(notes))


def _waits_in_words(state: QueueState) -> list[str]:
    """Why no node runs its tasks, apart from what is shown anyway."""
    return [one.sentence for one in state.causes if one.code not in _SHOWN_ANYWAY]


_SHOWN_ANYWAY = (Code.PAUSED, Code.PAUSED_ON_FAILURES, Code.QUEUE_FAULT)


def _rules_in_words(queue: Queue) -> list[str]:
    """The queue's settings beyond the usual ones."""
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
    if queue.keep_attempts != KEEP_ATTEMPTS:
        rules.append(f"output of {queue.keep_attempts} attempts kept")
    if queue.pause_on_failures is not None:
        rules.append(f"paused on {queue.document['pause_on_failures']} failures")
    return rules


def _paused_in_words(paused: Mapping[str, Any]) -> str:
    why = f": {paused['why']}" if paused.get("why") else ""
    return f"paused by {paused.get('by') or 'somebody'}{why}"


@queue.command()
@click.argument("id")
@common_options
def show(id: str) -> None:
    """Show a queue, its number of tasks in each status, and why they wait.

    \b
      disbatch-host queue show mail
    """
    with common.opened_store() as store:
        state = Queues(store, common.who()).state(id)
        found, by_status = state.queue, state.by_status
        taken = _taken_by(store, found)
        if common.wants_json():
            tasks = {str(status): count for status, count in sorted(by_status.items())}
            causes = [{"reason": str(one.code), "sentence": one.sentence} for one in state.causes]
            plugin = None if taken is None else taken.to_json()
            shown = {**found.document, "tasks": tasks, "waits": causes, "plugin": plugin}
            render.print_json(shown, store.extended_json)
            return
        facts: list[tuple[str, Any]] = [
            ("queue", found.id),
            ("class", found.class_name),
            ("description", found.description or "-"),
            ("maxthreads", "the node's --max" if found.maxthreads is None else found.maxthreads),
            ("maxtotal", "-" if found.maxtotal is None else found.maxtotal),
            ("rate", "-" if found.rate is None else found.document["rate"]),
            ("sort", str(found.sort)),
            ("keep", "forever" if found.keep_seconds is None else format_duration(found.keep_seconds)),
            ("keep_attempts", found.keep_attempts),
            ("pause_on_failures", "-" if found.pause_on_failures is None else found.document["pause_on_failures"]),
            ("nodes_pin", ", ".join(found.nodes_pin) or "-"),
            ("nodes_ignore", ", ".join(found.nodes_ignore) or "-"),
            ("created", render.moment(found.ctime)),
        ]
        if found.paused is not None:
            since = f", since {render.moment(found.paused['at'])}" if "at" in found.paused else ""
            facts.insert(1, ("state", (f"{_paused_in_words(found.paused)}{since}", "yellow")))
        if found.fault is not None:
            facts.append(("fault", (found.fault, "red")))
        ends = ", ".join(
            f"{count} {statuses.name(status)}" for status, count in sorted(by_status.items(), reverse=True)
        )
        facts.append(("tasks", ends or "none"))
        facts += [("waits", (render.printable(words), "yellow")) for words in _waits_in_words(state)]
        helps = [remedy(one.code, queue=str(found.id)) for one in state.causes]
        facts += [("to do", render.printable(words)) for words in dict.fromkeys(helps) if words is not None]
        render.print_facts(facts)
        if taken is not None:
            from disbatch_host.cli import parameter_table  # noqa: PLC0415

            if taken.manifest is not None:
                parameter_table.print_parameters(taken.rows, is_open=taken.manifest.parameters is None)
            parameter_table.say_what_differs(taken)


def _taken_by(store: Store, queue: Queue) -> PluginHelp | None:
    """What its plugin takes, as far as a directory here or a node says it."""
    here = None
    with contextlib.suppress(DisbatchError):  # a missing plugin directory is not this command's concern
        here = common.catalog()
    if not is_published(store, queue.class_name) and (here is None or queue.class_name not in here.plugins):
        return None
    from disbatch_host.client.plugin_help import plugin_help  # noqa: PLC0415

    try:
        return plugin_help(store, here, queue.class_name)
    except NotFoundError:
        return None


@queue.command("set")
@click.argument("id")
@click.argument("changes", nargs=-1, required=True, metavar="KEY=VALUE...")
@common_options
def set_(id: str, changes: tuple[str, ...]) -> None:
    """Change fields of a queue; nodes follow before it returns. An empty value removes the field.

    \b
      disbatch-host queue set mail maxthreads=20
      disbatch-host queue set mail nodes_pin=mig01,mig02 description=
      disbatch-host queue set mail maxtotal=4 rate=100/m sort=lifo keep=30d
      disbatch-host queue set mail pause_on_failures=20%/100 keep_attempts=5
    """
    values: dict[str, Any] = {}
    for change in changes:
        name, mark, text = change.partition("=")
        if not mark:
            raise UsageError(f"expected KEY=VALUE, found {change!r}")
        check_settable(name)
        values[name] = _value_of(name, text) if text else None
    changes_of(values)
    with common.opened_store() as store:
        queues = Queues(store, common.who(), on_unread=_say_unread)
        before = queues.get(id)
        changed = queues.set(id, only_if={name: before.document.get(name) for name in values}, **values)
        if "class" in values:
            _say_unknown_class(store, changed, "changed")
        if changed.class_name != before.class_name and (left := queues.unfinished(id)):
            tasks = "1 unfinished task was" if left == 1 else f"{left} unfinished tasks were"
            text = f"{tasks} created for {before.class_name}; {changed.class_name} gets the same parameters"
            click.echo(f"disbatch-host: {text}, and fails the tasks whose parameters do not fit it", err=True)
        _print_changed(store, changed)


def _say_unread(nodes: Sequence[str]) -> None:
    have = "node has" if len(nodes) == 1 else "nodes have"
    click.echo(
        f"{len(nodes)} {have} not confirmed the change and may still claim by what the queue said before: "
        f"{', '.join(nodes)}; {suggested.hint('node list')} shows when they were last heard from",
        err=True,
    )


def _value_of(name: str, text: str) -> Any:
    if name in LISTS:
        return [one.strip() for one in text.split(",") if one.strip()]
    is_number = name in LIMITS and re.fullmatch(r"[0-9]{1,10}", text) and int(text) <= LIMIT_MAX
    return int(text) if is_number else text


def _print_changed(store: Store, queue: Queue) -> None:
    if common.wants_json():
        render.print_json(queue.document, store.extended_json)


@queue.command()
@click.argument("id")
@common.reason_option
@common_options
def pause(id: str, reason: str | None) -> None:
    """Start no more tasks of a queue, on any node; running ones finish.

    \b
      disbatch-host queue pause mail --reason 'the server is down'

    Once it has returned, no task of the queue is claimed. It waits up to 3 seconds for the nodes to confirm that, and
    names those that have not.
    """
    with common.opened_store() as store:
        queues = Queues(store, common.who(), on_unread=_say_unread)
        before = queues.get(id).paused
        if before is not None:
            click.echo(f"queue {id} was already {_paused_in_words(before)}", err=True)
        _print_changed(store, queues.pause(id, why=reason))


@queue.command()
@click.argument("id")
@common_options
def resume(id: str) -> None:
    """Start tasks of a paused queue again; pause_on_failures counts failures from then.

    \b
      disbatch-host queue resume mail
    """
    with common.opened_store() as store:
        queues = Queues(store, common.who())
        if queues.get(id).paused is None:
            click.echo(f"queue {id} is not paused", err=True)
        _print_changed(store, queues.resume(id))


@queue.command()
@click.argument("id")
@click.option("--yes", is_flag=True, help="Do not ask, even if tasks have not ended.")
@common_options
def delete(id: str, yes: bool) -> None:
    """Delete a queue. Its tasks stay; waiting ones do not run until a queue with this id exists again.

    \b
      disbatch-host queue delete mail
      disbatch-host queue delete mail --yes

    If it has unfinished tasks, a person is asked first, and a script needs --yes.
    """
    with common.opened_store() as store:
        queues = Queues(store, common.who(), on_unread=_say_unread)
        left = queues.unfinished(id)
        if left and not yes:
            tasks = f"{common.count_of(left, 'task')} of queue {id} {'has' if left == 1 else 'have'}"
            question = f"{tasks} not ended and will never run; delete the queue?"
            if not sys.stdin.isatty():
                raise UsageError(f"{tasks} not ended and would never run; --yes deletes it anyway")
            terminal.confirm(question)
        kept = sum(queues.state(id).by_status.values())
        queues.delete(id, leaves_unfinished=True)
        if kept:
            their = "its task is" if kept == 1 else f"its {kept} tasks are"
            click.echo(
                f"queue {id} deleted; {their} kept, and shown by {suggested.hint('task list', '--queue', id)}",
                err=True,
            )
