"""`disbatch-host node …`"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import click

from disbatch_host.cli import common, render
from disbatch_host.cli.frame import Subcommands, common_options
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Document, NodeRecord
from disbatch_host.errors import DisbatchError, NotFoundError
from disbatch_host.store.contract import Store
from disbatch_protocol.faults import near_name
from disbatch_protocol.quantities import format_duration
from disbatch_protocol.status import Status

DEAD_AFTER_SECONDS = 30.0  # for nodes that do not say themselves


@click.group(cls=Subcommands)
@common_options
def node() -> None:
    """List and show nodes, drain and stop them, forget dead ones."""


STATES = ("running", "draining", "drained", "stopping")


@node.command("list")
@click.option("--class", "class_name", metavar="CLASS", help="Only those that have this plugin.")
@click.option("--alive/--dead", "alive", default=None, help="Only those that are alive, or that are not.")
@click.option("--state", type=click.Choice(STATES), help="Only those that are alive and in this state.")
@common_options
def list_(class_name: str | None, alive: bool | None, state: str | None) -> None:
    """List the nodes of the cluster.

    \b
      disbatch-host node list
      disbatch-host node list --alive --class mail
    """
    with common.opened_store() as store:
        every = store.nodes()
        nodes = [
            one
            for one in every
            if (class_name is None or class_name in _classes(one))
            and alive in (None, is_alive(one))
            and (state is None or (is_alive(one) and one.state == state))
        ]
        if common.wants_json():
            for one in nodes:
                render.print_json(json_document(one), store.extended_json)
            return
        if every:
            print_nodes(nodes)
        else:
            click.echo(NONE_YET)


NONE_YET = "no nodes; `disbatch-host --plugins DIR` runs one"


def print_nodes(nodes: list[NodeRecord]) -> None:
    """A line a node."""
    rows = []
    for one in nodes:
        queues = heartbeat_queues(one)
        processing = sum(number(queue, "processing") for queue in queues)
        threads = sum(number(queue, "threads") for queue in queues)
        classes = _classes(one)
        aside = [str(kind.get("class")) for kind in records(one.document.get("set_aside"))]
        host = one.document.get("host")
        rows.append(
            (
                one.id,
                life_cell(one),
                "-" if one.age_seconds is None else f"{one.age_seconds:.0f} s ago",
                f"{processing}/{threads}" if is_alive(one) else "-",  # what it said last is not true any more
                host.get("name") if isinstance(host, dict) else "-",
                one.document.get("version"),
                ", ".join(name + (" (set aside)" if name in aside else "") for name in classes) or "-",
            )
        )
    render.print_table(("node", "state", "heartbeat", "load", "machine", "version", "plugins"), rows, right=(2, 3))


@node.command()
@click.argument("id")
@common_options
def show(id: str) -> None:
    """Show a node: what it can run, what it runs, and what it does not run any more and why.

    \b
      disbatch-host node show mig01
    """
    with common.opened_store() as store:
        found = _find(store, id)
        if common.wants_json():
            render.print_json(json_document(found), store.extended_json)
            return
        document = found.document
        heartbeat, host = document.get("heartbeat"), document.get("host")
        facts: list[tuple[str, Any]] = [
            ("node", found.id),
            ("state", life_cell(found)),
            *_requests_in_words(found),
            ("version", document.get("version")),
            ("machine", host.get("name") if isinstance(host, dict) else None),
            ("process", heartbeat.get("pid") if isinstance(heartbeat, dict) else None),
            ("started", render.moment(document.get("started"))),
            ("heartbeat", render.moment(heartbeat.get("datetime")) if isinstance(heartbeat, dict) else None),
        ]
        facts += [
            ("plugin", f"{kind.get('class')} {kind.get('version') or ''}".rstrip())
            for kind in records(document.get("queuetypes"))
        ]
        facts += [
            ("queue", f"{one.get('queue')}: {number(one, 'processing')} of {number(one, 'threads')} running")
            for one in heartbeat_queues(found)
        ]
        facts += [
            ("set aside", (f"{one.get('class')} since {render.moment(one.get('since'))}: {one.get('reason')}", "red"))
            for one in records(document.get("set_aside"))
        ]
        render.print_facts(facts)


def _classes(record: NodeRecord) -> list[str]:
    return [str(kind.get("class")) for kind in records(record.document.get("queuetypes"))]


def _requests_in_words(record: NodeRecord) -> list[tuple[str, Any]]:
    """Who wants what of the node."""
    return [
        (name, f"asked for by {request.get('by')} at {render.moment(request.get('at'))}{_why(request)}")
        for name, request in sorted(record.requests.items())
        if isinstance(request, Mapping)
    ]


def _why(request: Mapping[str, Any]) -> str:
    return f": {request['why']}" if request.get("why") else ""


@node.command()
@click.argument("id")
@common.reason_option
@click.option("--wait", "waits", is_flag=True, help="Return when nothing runs there any more.")
@common_options
def drain(id: str, reason: str | None, waits: bool) -> None:
    """Let a node claim nothing more; what runs there goes on to its end. From any machine.

    \b
      disbatch-host node drain mig01 --reason 'new disk' --wait
      disbatch-host node resume mig01
    """
    with common.opened_store() as store:
        found = _find_to_talk_to(store, id)
        _ask(store, found, "drain", common.request(reason, store.now()))
        if waits:
            _wait(store, found, "drained", lambda one: one.state == "drained")
        _say(store, found)


@node.command()
@click.argument("id")
@common_options
def resume(id: str) -> None:
    """Let a drained node claim tasks again.

    \b
      disbatch-host node resume mig01
    """
    with common.opened_store() as store:
        found = _find_to_talk_to(store, id)
        if found.state == "stopping":
            raise NodeDeafError(f"node {id} is stopping and cannot be resumed; start it again when it has ended")
        if "drain" not in found.requests:
            click.echo(f"node {id} is not drained", err=True)
        _ask(store, found, "drain", None)
        _say(store, found)


@node.command()
@click.argument("id")
@common.reason_option
@click.option("--wait", "waits", is_flag=True, help="Return when the node has ended.")
@common_options
def stop(id: str, reason: str | None, waits: bool) -> None:
    """Stop a node in an orderly way, from any machine.

    \b
      disbatch-host node stop mig01 --reason upgrade --wait

    What runs there goes on to its end, or to the node's --stop-grace. Once more is like a second Ctrl-C there: the
    running tasks are asked to stop; a third time kills them.
    """
    with common.opened_store() as store:
        found = _find_to_talk_to(store, id)
        _ask(store, found, "stop", common.request(reason, store.now()))
        if waits:
            _wait(store, found, "stopped", lambda _: False)
        _say(store, found)


@node.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@common_options
def delete(ids: tuple[str, ...]) -> None:
    """Forget dead nodes that will not come back, so that nothing speaks of them any more.

    \b
      disbatch-host node list --dead
      disbatch-host node delete mig01

    Exit 1 where one is alive, or still has tasks in hand, which the living nodes settle.
    """
    with common.opened_store() as store:
        for found in [_find(store, one) for one in dict.fromkeys(ids)]:
            _delete(store, found)
            if common.wants_json():
                render.print_json({"_id": found.id, "deleted": True}, store.extended_json)


def _delete(store: Store, record: NodeRecord) -> None:
    """Raises NodeNotGoneError."""
    if is_alive(record):
        stop_it = f"`disbatch-host node stop {record.id} --wait` ends it" if record.is_ours else "stop it first"
        heard = "" if record.age_seconds is None else f", {_silence(record)}"
        raise NodeNotGoneError(f"node {record.id} is alive{heard}; {stop_it}")
    in_hand = store.count_tasks(TaskFilter(node=record.id, statuses=_IN_HAND))
    if in_hand:
        raise NodeNotGoneError(
            f"node {record.id} is dead and {common.count_of(in_hand, 'task')} {'is' if in_hand == 1 else 'are'} still "
            f"in its hands; any living node settles that, see `disbatch-host task list --node {record.id}`"
        )
    store.hold(record.id, {})  # no place of a queue with `maxtotal` stays taken
    if not store.remove_node(record.id, record.session):
        raise NodeNotGoneError(f"node {record.id} has been started again just now, or is deleted already")


_IN_HAND = frozenset({int(Status.CLAIMED), int(Status.RUNNING)})


class NodeNotGoneError(DisbatchError):
    """A node is still there, or what it had in hand is."""


class NodeDeafError(DisbatchError):
    """A node cannot do what is asked of it."""


def _find(store: Store, node_id: str) -> NodeRecord:
    """Raises NotFoundError that names a near one."""
    found = store.get_node(node_id)
    if found is None:
        near = near_name(node_id, [one.id for one in store.nodes()])
        hint = f"did you mean {near!r}?" if near else "`disbatch-host node list` shows those there are"
        raise NotFoundError(f"no node {node_id!r} in {store.description}; {hint}")
    return found


def _find_to_talk_to(store: Store, node_id: str) -> NodeRecord:
    """A node that will do what it is asked for. Raises NotFoundError, and NodeDeafError for one that cannot hear."""
    found = _find(store, node_id)
    if not found.is_ours:
        raise NodeDeafError(
            f"node {node_id} is of another program ({found.document.get('version')}), which cannot be asked from here; "
            "stop it on its own machine"
        )
    if not is_alive(found):
        raise NodeDeafError(f"node {node_id} is not alive, {_silence(found)}; other nodes take its tasks over")
    return found


def _silence(record: NodeRecord) -> str:
    age = record.age_seconds
    return "it has never been heard of" if age is None else f"it was heard of {format_duration(age)} ago"


def _ask(store: Store, record: NodeRecord, name: str, value: Document | None) -> None:
    if not store.request_of_node(record.id, name, value):
        raise NotFoundError(f"no node {record.id!r} any more; it has just stopped")


def _wait(store: Store, record: NodeRecord, what: str, is_so: Callable[[NodeRecord], bool]) -> None:
    """Until it is so, or the node has stopped. Raises NodeDeafError where it dies."""
    mark, heartbeats = record.heartbeat_mark, 0
    with render.waiting(f"until node {record.id} is {what}"):
        while True:
            found = store.get_node(record.id)
            if found is None or found.session != record.session:
                return
            if found.heartbeat_mark != mark:
                mark, heartbeats = found.heartbeat_mark, heartbeats + 1
            # It hears with one heartbeat and says with the next what came of it: what stood there before tells nothing.
            if heartbeats >= _HEARD and is_so(found):
                return
            if not is_alive(found):
                raise NodeDeafError(f"node {record.id} has died before it was {what}, {_silence(found)}")
            time.sleep(_LOOK_SECONDS)


_HEARD = 2  # heartbeats
_LOOK_SECONDS = 0.1  # a node's document changes once a heartbeat, and nothing tells of that


def _say(store: Store, record: NodeRecord) -> None:
    """With --json: how the node's document is now; nothing where it is gone."""
    found = store.get_node(record.id)
    if common.wants_json() and found is not None:
        render.print_json(json_document(found), store.extended_json)


def is_alive(record: NodeRecord) -> bool:
    return not record.is_stale(DEAD_AFTER_SECONDS)


def life_cell(record: NodeRecord) -> tuple[str, str]:
    """Whether the node lives, by the age of its heartbeat, and where it claims nothing more, that."""
    if not is_alive(record):
        return "dead", "red"
    return ("alive", "green") if record.state == "running" else (record.state, "yellow")


def json_document(record: NodeRecord) -> dict[str, Any]:
    """The node's document, and what only a reader can know."""
    alive = not record.is_stale(DEAD_AFTER_SECONDS)
    return {**record.document, "_id": record.id, "alive": alive, "age_seconds": record.age_seconds}


def heartbeat_queues(record: NodeRecord) -> list[dict[str, Any]]:
    heartbeat = record.document.get("heartbeat")
    return records(heartbeat.get("queues")) if isinstance(heartbeat, dict) else []


def records(value: Any) -> list[dict[str, Any]]:
    """The objects of a list in a document that another program may have written."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def number(record: dict[str, Any], name: str) -> int:
    value = record.get(name)
    return int(value) if isinstance(value, (int, float)) else 0
