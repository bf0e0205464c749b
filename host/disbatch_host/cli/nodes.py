"""`disbatch-host node …`"""

from __future__ import annotations

from typing import Any

import click

from disbatch_host.cli import common, render
from disbatch_host.cli.main import Subcommands, common_options
from disbatch_host.errors import NotFoundError
from disbatch_host.model import NodeRecord
from disbatch_protocol.faults import near_name

DEAD_AFTER_SECONDS = 30.0  # for nodes that do not say themselves


@click.group(cls=Subcommands)
@common_options
def node() -> None:
    """List and show nodes."""


@node.command("list")
@common_options
def list_() -> None:
    """List the nodes of the cluster."""
    with common.opened_store() as store:
        nodes = store.nodes()
        if common.wants_json():
            for one in nodes:
                render.print_json(json_document(one), store.extended_json)
            return
        if nodes:
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
        classes = [str(kind.get("class")) for kind in records(one.document.get("queuetypes"))]
        aside = [str(kind.get("class")) for kind in records(one.document.get("set_aside"))]
        host = one.document.get("host")
        rows.append(
            (
                one.id,
                life_cell(one),
                "-" if one.age_seconds is None else f"{one.age_seconds:.0f} s ago",
                f"{processing}/{threads}",
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
    """Show a node: what it can run, what it runs, and what it does not run any more and why."""
    with common.opened_store() as store:
        found = store.get_node(id)
        if found is None:
            near = near_name(id, [one.id for one in store.nodes()])
            hint = f"did you mean {near!r}?" if near else "`disbatch-host node list` shows those there are"
            raise NotFoundError(f"no node {id!r} in {store.description}; {hint}")
        if common.wants_json():
            render.print_json(json_document(found), store.extended_json)
            return
        document = found.document
        heartbeat, host = document.get("heartbeat"), document.get("host")
        facts: list[tuple[str, Any]] = [
            ("node", found.id),
            ("state", life_cell(found)),
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


def life_cell(record: NodeRecord) -> tuple[str, str]:
    """Whether the node lives, by the age of its heartbeat."""
    return ("dead", "red") if record.is_stale(DEAD_AFTER_SECONDS) else ("alive", "green")


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
