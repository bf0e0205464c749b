"""What people ask of nodes, without a terminal: what is found, what is asked, what is refused, and the wait for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from client.documents import NEVER_ALIVE, away, beat, put_node, put_task
from disbatch_host.client.nodes import Nodes, life_of, to_json
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import NodeRecord
from disbatch_host.errors import NodeNotGoneError, NodeUnreachableError, NotFoundError, UsageError
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status

BY = "ann@here"


@pytest.fixture
def nodes(store: Store) -> Nodes:
    return Nodes(store, BY, within_seconds=0)  # the nodes of these tests do not live


def ids(found: tuple[NodeRecord, ...]) -> list[str]:
    return [one.id for one in found]


def test_nodes_are_listed_by_class_life_and_state(store: Store, nodes: Nodes) -> None:
    put_node(store, "n1", queuetypes=[{"class": "mail"}])
    put_node(store, "n2", state="drained", queuetypes=[{"class": "mail"}, {"class": "move"}])
    put_node(store, "n3", state="drained", settings=NEVER_ALIVE)
    assert ids(nodes.list()) == ["n1", "n2", "n3"]
    assert ids(nodes.list(class_name="mail")) == ["n1", "n2"]
    assert ids(nodes.list(is_alive=False)) == ["n3"]
    assert ids(nodes.list(is_alive=True, class_name="move")) == ["n2"]
    assert ids(nodes.list(state="drained")) == ["n2"]  # a dead one is in no state any more


def test_a_node_is_asked_to_leave_only_where_its_runs_go_on(store: Store, nodes: Nodes) -> None:
    put_node(store, "n1", home="/var/lib/disbatch/n1-0123abcd")
    put_node(store, "n2", home=None)
    put_node(store, "n3")  # of a version that knows nothing of it: it would wait for its runs
    nodes.stop("n1", why="upgrade", keep_runs=True)
    request = nodes.get("n1").requests["stop"]
    assert (request["by"], request["why"], request["keep_runs"]) == (BY, "upgrade", True)
    for node_id in ("n2", "n3"):
        with pytest.raises(NodeUnreachableError, match=f"node {node_id} cannot leave its runs: they would end with it"):
            nodes.stop(node_id, keep_runs=True)
        assert nodes.get(node_id).requests == {}
    nodes.stop("n1")
    assert "keep_runs" not in nodes.get("n1").requests["stop"]


def test_a_node_that_cannot_leave_its_runs_any_more_is_not_waited_for(store: Store, nodes: Nodes) -> None:
    put_node(store, home="/var/lib/disbatch/n1-0123abcd")
    asked = nodes.stop("n1", keep_runs=True)
    assert not nodes.wait(asked, within_seconds=0.0)
    looks = 0

    def look(_: NodeRecord) -> None:
        nonlocal looks
        looks += 1
        beat(store, "running", home=None)

    with pytest.raises(NodeUnreachableError, match="cannot leave its runs"):
        nodes.wait(asked, within_seconds=30, on_look=look)
    assert looks > 1, "what it said before it was asked counts for nothing"


def test_a_node_that_is_away_is_neither_alive_nor_dead(store: Store, nodes: Nodes) -> None:
    put_node(store, "n1", settings=NEVER_ALIVE, **away(store))
    put_node(store, "n2", **away(store))
    put_node(store, "n3", settings=NEVER_ALIVE, **away(store, seconds=-1))
    assert ids(nodes.list(state="away")) == ["n1", "n2"]
    assert ids(nodes.list(is_alive=True)) == []
    assert ids(nodes.list(is_alive=False)) == ["n3"]
    assert [life_of(one) for one in nodes.list()] == ["away", "away", "dead"]
    first, _, last = (to_json(one) for one in nodes.list())
    assert first["alive"] is False and 590 < first["away_seconds"] <= 600 and first["away"]["by"] == "ann@here"
    assert last["away_seconds"] is None


def test_nobody_asks_or_deletes_a_node_whose_runs_go_on(store: Store, nodes: Nodes) -> None:
    put_node(store, **away(store, why="upgrade"))
    for ask in (nodes.drain, nodes.resume, nodes.stop):
        with pytest.raises(
            NodeUnreachableError, match=r"node n1 is away until .* \(upgrade; ann@here\); start it again"
        ):
            ask("n1")
    assert nodes.get("n1").requests == {}
    put_task(store, status=Status.RUNNING, node="n1", claim={"token": "t"})
    with pytest.raises(NodeNotGoneError, match=r"is away until .*, and 1 task runs there without it"):
        nodes.delete("n1")
    store.delete_tasks([one.id for one in store.find_tasks(TaskFilter())], statuses=frozenset({Status.RUNNING}))
    assert nodes.delete("n1").id == "n1"


def test_a_node_is_found_by_its_id_and_a_near_one_is_named(store: Store, nodes: Nodes) -> None:
    put_node(store, "mig01")
    found = nodes.get("mig01")
    facts = {"alive": True, "age_seconds": found.age_seconds, "away_seconds": None}
    assert to_json(found) == {**found.document, "_id": "mig01", **facts}
    with pytest.raises(NotFoundError, match="did you mean 'mig01'"):
        nodes.get("mig10")


def test_drain_says_who_why_and_when_and_resume_takes_it_back(store: Store, nodes: Nodes) -> None:
    put_node(store)
    asked = nodes.drain("n1", why="new disk")
    assert not asked.was_drained and asked.node.requests == {}
    request = nodes.get("n1").requests["drain"]
    assert (request["by"], request["why"]) == (BY, "new disk")
    assert abs((request["at"] - store.now()).total_seconds()) < 60
    assert nodes.drain("n1").was_drained
    assert nodes.resume("n1").was_drained
    assert "drain" not in nodes.get("n1").requests
    assert not nodes.resume("n1").was_drained


def test_a_drain_is_confirmed_by_what_the_node_says_after_it_was_asked(store: Store, nodes: Nodes) -> None:
    put_node(store)
    assert not nodes.drain("n1").is_confirmed
    beat(store, "drained")
    assert nodes.drain("n1").is_confirmed  # it has been drained since the first request
    nodes.resume("n1")
    assert not nodes.drain("n1").is_confirmed  # it may have heard of the resume, and not yet of the drain


def test_a_reason_that_no_table_can_show_asks_for_nothing(store: Store, nodes: Nodes) -> None:
    put_node(store)
    for why in ("", "\x1b[2J"):
        with pytest.raises(UsageError, match="reason"):
            nodes.drain("n1", why=why)
    assert nodes.get("n1").requests == {}


@pytest.mark.parametrize("ask", [Nodes.drain, Nodes.resume, Nodes.stop])
def test_nothing_is_asked_of_a_node_that_would_not_see_it(
    store: Store, nodes: Nodes, ask: Callable[[Nodes, str], object]
) -> None:
    put_node(store, "dead", settings=NEVER_ALIVE)
    put_node(store, "other", version="Disbatch 4.0")
    for node_id, sentence in (
        ("dead", "is not alive, it was last heard from"),
        ("other", "belongs to another program"),
    ):
        with pytest.raises(NodeUnreachableError, match=sentence):
            ask(nodes, node_id)
        assert nodes.get(node_id).requests == {}
    with pytest.raises(NotFoundError):
        ask(nodes, "none")


def test_a_node_that_stops_cannot_be_resumed(store: Store, nodes: Nodes) -> None:
    put_node(store, state="stopping")
    with pytest.raises(NodeUnreachableError, match="is stopping and cannot be resumed"):
        nodes.resume("n1")


def test_the_wait_for_a_drain_ends_with_the_answer_of_the_node_not_with_what_it_said_before(
    store: Store, nodes: Nodes
) -> None:
    put_node(store, state="drained")  # as an earlier drain has left it
    states = iter(["drained", "draining"])
    seen: list[str] = []

    def node_works(record: NodeRecord) -> None:
        seen.append(record.state)
        beat(store, next(states, "drained"))

    assert nodes.wait(nodes.drain("n1"), on_look=node_works)
    # Before the request, then after each heartbeat: the one that reads it, the one that answers, the one that is done.
    assert seen == ["drained", "drained", "draining", "drained"]


def test_the_wait_for_a_stop_ends_when_the_node_has_gone_or_another_has_its_id(store: Store, nodes: Nodes) -> None:
    put_node(store)
    asked = nodes.stop("n1", why="upgrade")
    assert nodes.get("n1").requests["stop"]["why"] == "upgrade"
    assert nodes.wait(asked, on_look=lambda one: store.remove_node("n1", one.session))
    put_node(store, session="s2")
    assert nodes.wait(asked)


def test_a_wait_ends_when_its_time_is_over_and_says_so(store: Store, nodes: Nodes) -> None:
    put_node(store)
    assert not nodes.wait(nodes.stop("n1"), within_seconds=0.05, on_look=lambda _: beat(store, "stopping"))


def test_a_wait_for_a_node_that_dies_meanwhile_raises(store: Store, nodes: Nodes) -> None:
    put_node(store)

    def dies(record: NodeRecord) -> None:
        assert store.heartbeat("n1", "s1", {"heartbeat": {"pid": 7, "queues": []}, "settings": NEVER_ALIVE}) is not None

    with pytest.raises(NodeUnreachableError, match="died before it was drained"):
        nodes.wait(nodes.drain("n1"), on_look=dies)


def test_only_a_dead_node_without_tasks_in_hand_is_deleted(store: Store, nodes: Nodes) -> None:
    put_node(store, "alive")
    put_node(store, "busy", settings=NEVER_ALIVE)
    put_node(store, "dead", settings=NEVER_ALIVE)
    put_task(store, status=Status.RUNNING, node="busy")
    with pytest.raises(NodeNotGoneError, match="is alive, it was last heard from"):
        nodes.delete("alive")
    with pytest.raises(NodeNotGoneError, match="1 task is still in its hands"):
        nodes.delete("busy")
    assert nodes.delete("dead").id == "dead"
    assert ids(nodes.list()) == ["alive", "busy"]
    with pytest.raises(NotFoundError):
        nodes.delete("dead")
