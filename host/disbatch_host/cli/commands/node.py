"""`disbatch-host node …`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from disbatch_host.cli import bars, common, render
from disbatch_host.cli.frame import Subcommands, common_options
from disbatch_host.cli.kinds import OneOf
from disbatch_host.cli.node_table import life_cell, print_nodes, say_none
from disbatch_host.client.nodes import Asked, Nodes, silence_of, to_json
from disbatch_host.decide import readings
from disbatch_host.decide.readings import number
from disbatch_host.documents.records import NodeRecord
from disbatch_host.store.contract import Store

STATES = ("running", "draining", "drained", "stopping", "away")


@click.group(cls=Subcommands)
@common_options
def node() -> None:
    """List and show nodes, drain and stop them, forget dead ones."""


@node.command("list")
@click.option("--class", "class_name", metavar="CLASS", help="Only nodes that have this plugin.")
@click.option("--alive/--dead", "alive", default=None, help="Only nodes that are alive, or dead (not those away).")
@click.option("--state", type=OneOf(STATES), help="Only nodes in this state, those that are dead left out.")
@common_options
def list_(class_name: str | None, alive: bool | None, state: str | None) -> None:
    """List the nodes of the cluster.

    \b
      disbatch-host node list
      disbatch-host node list --alive --class mail
    """
    with common.opened_store() as store:
        found = _nodes(store).list(class_name=class_name, is_alive=alive, state=state)
        if common.wants_json():
            for one in found:
                render.print_json(to_json(one), store.extended_json)
        elif found or store.nodes():
            print_nodes(found)
        else:
            say_none()


@node.command()
@click.argument("id")
@common_options
def show(id: str) -> None:
    """Show a node: what it can run, what is running, and which plugins it does not run and why.

    \b
      disbatch-host node show mig01
    """
    with common.opened_store() as store:
        found = _nodes(store).get(id)
        if common.wants_json():
            render.print_json(to_json(found), store.extended_json)
            return
        document = found.document
        heartbeat = readings.object_of(found, "heartbeat")
        facts: list[tuple[str, Any]] = [
            ("node", found.id),
            ("state", life_cell(found)),
            *_kept_in_words(found),
            *_requests_in_words(found),
            *_why_it_claims_nothing(found),
            ("version", document.get("version")),
            ("machine", readings.object_of(found, "host").get("name")),
            ("process", heartbeat.get("pid")),
            ("started", render.moment(document.get("started"))),
            ("heartbeat", render.moment(heartbeat.get("datetime"))),
        ]
        facts += [
            ("plugin", f"{kind.get('class')} {kind.get('version') or ''}".rstrip())
            for kind in readings.records_of(document.get("queuetypes"))
        ]
        facts += [
            ("queue", f"{one.get('queue')}: {number(one, 'processing')} of {number(one, 'threads')} running")
            for one in readings.heartbeat_queues(found)
        ]
        facts += [
            ("set aside", (f"{one.get('class')} since {render.moment(one.get('since'))}: {one.get('reason')}", "red"))
            for one in readings.records_of(document.get("set_aside"))
        ]
        facts += [
            ("broken", (f"{name}: {render.printable(reason)}", "red"))
            for name, reason in readings.broken_of(found).items()
        ]
        facts += [("passed over", (render.printable(sentence), "red")) for sentence in readings.passed_over_of(found)]
        facts += [("trouble", (render.printable(sentence), "red")) for sentence in readings.troubles_of(found)]
        render.print_facts(facts)


def _why_it_claims_nothing(record: NodeRecord) -> list[tuple[str, Any]]:
    if readings.is_away(record):
        why = f"nothing: it {readings.away_in_words(record)}; other nodes leave its tasks alone until then"
    elif not readings.is_alive(record):
        why = f"nothing: {silence_of(record)}; the other nodes settle its tasks"
    elif record.state != "running":
        why = f"nothing: it is {record.state}"
    elif record.is_ours and not readings.classes_to_claim(record):
        why = "nothing: it has no plugin that it can use"
    else:
        return []
    return [("claims", (why, "yellow"))]


def _kept_in_words(record: NodeRecord) -> list[tuple[str, Any]]:
    """The runs that go on without it, as far as its last heartbeat knew."""
    kept = readings.kept_of(record)
    if not kept or readings.is_alive(record):
        return []
    at = render.moment(readings.object_of(record, "heartbeat").get("datetime"))
    return [("kept", (f"{kept} run{'' if kept == 1 else 's'} there, as of {at}", "yellow"))]


def _requests_in_words(record: NodeRecord) -> list[tuple[str, Any]]:
    """The request to the node, if there is one."""
    return [
        (name, f"asked for by {request.get('by')} at {render.moment(request.get('at'))}{_why(request)}")
        for name, request in sorted(record.requests.items())
        if isinstance(request, Mapping) and name in ("drain", "stop")
    ]


def _why(request: Mapping[str, Any]) -> str:
    return f": {request['why']}" if request.get("why") else ""


@node.command()
@click.argument("id")
@common.reason_option
@click.option("--wait", "waits", is_flag=True, help="Wait until nothing is running there.")
@common_options
def drain(id: str, reason: str | None, waits: bool) -> None:
    """Let a node claim no more tasks; its running tasks finish. Works from any machine.

    \b
      disbatch-host node drain mig01 --reason 'new disk' --wait
      disbatch-host node resume mig01

    Once it has returned, the node claims nothing. It waits up to 3 seconds for the node to confirm that, and says so if
    it has not.
    """
    with common.opened_store() as store:
        nodes = _nodes(store)
        asked = nodes.drain(id, why=reason)
        if not asked.is_confirmed:
            click.echo(f"node {id} has not confirmed yet that it claims nothing more", err=True)
        if waits:
            with bars.waiting(f"until node {id} is drained"):
                nodes.wait(asked)
        _say(store, asked, "is drained: it runs nothing any more" if waits else "is asked to drain")


@node.command()
@click.argument("id")
@common_options
def resume(id: str) -> None:
    """Let a drained node claim tasks again.

    \b
      disbatch-host node resume mig01
    """
    with common.opened_store() as store:
        asked = _nodes(store).resume(id)
        if not asked.was_drained:
            click.echo(f"node {id} is not drained", err=True)
        _say(store, asked, "claims tasks again" if asked.was_drained else "")


@node.command()
@click.argument("id")
@common.reason_option
@click.option("--wait", "waits", is_flag=True, help="Wait until the node has ended.")
@click.option("--keep-runs", is_flag=True, help="Let it leave at once; its running tasks go on without it.")
@common_options
def stop(id: str, reason: str | None, waits: bool, keep_runs: bool) -> None:
    """Stop a node gracefully, from any machine.

    \b
      disbatch-host node stop mig01 --reason upgrade --wait
      disbatch-host node stop mig01 --reason upgrade --keep-runs --wait

    Its running tasks finish, or are stopped after the node's --stop-grace. A second request is like a second Ctrl-C:
    the running tasks are asked to stop; a third kills them.

    With --keep-runs nothing is stopped: the tasks run on under the node's supervisor, and the node goes on with them
    when it is started again. Other nodes leave them alone for the node's --away-for.
    """
    with common.opened_store() as store:
        nodes = _nodes(store)
        asked = nodes.stop(id, why=reason, keep_runs=keep_runs)
        if waits:
            with bars.waiting(f"until node {id} is stopped"):
                nodes.wait(asked)
        done, begun = (
            ("has left its runs", "is asked to leave its runs") if keep_runs else ("has ended", "is asked to stop")
        )
        _say(store, asked, done if waits else begun)


@node.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@common_options
def delete(ids: tuple[str, ...]) -> None:
    """Forget dead nodes that will not come back, so that nothing mentions them any more.

    \b
      disbatch-host node list --dead
      disbatch-host node delete mig01

    Exit 1 if one is alive, or still holds tasks, which the living nodes settle.
    """
    with common.opened_store() as store:
        nodes = _nodes(store)
        for found in [nodes.get(one) for one in dict.fromkeys(ids)]:  # if one does not exist, none is deleted
            nodes.delete(found.id)
            if common.wants_json():
                render.print_json({"_id": found.id, "deleted": True}, store.extended_json)


def _nodes(store: Store) -> Nodes:
    return Nodes(store, common.who())


def _say(store: Store, asked: Asked, what: str) -> None:
    """What came of a request. With --json, the node's current document; nothing if it is gone."""
    if not common.wants_json():
        if what:
            click.echo(f"node {asked.node.id} {what}")
        return
    found = store.get_node(asked.node.id)
    if found is not None:
        render.print_json(to_json(found), store.extended_json)
