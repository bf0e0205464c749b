"""What is going on in the cluster: counts, causes, nodes, failures and running tasks, and what has changed since the
last look."""

from __future__ import annotations

from datetime import timedelta

import orjson

from client.documents import NEVER_ALIVE, away, put_node, put_task
from disbatch_host.client import Client
from disbatch_host.client.overview import Observer, summary
from disbatch_host.clock import SystemClock
from disbatch_host.store.contract import Store
from disbatch_protocol.document import plain_document
from disbatch_protocol.status import Status


class SteppingClock(SystemClock):
    """Two seconds pass between two questions for the time that has passed."""

    def __init__(self) -> None:
        self._at = 0.0

    def monotonic(self) -> float:
        self._at += 2.0
        return self._at


def test_an_empty_store_has_an_empty_summary(store: Store) -> None:
    found = summary(store)
    assert (list(found.queues), list(found.nodes), found.to_json()) == ([], [], [])


def test_the_summary_counts_says_what_is_in_the_way_and_keeps_tasks_of_queues_that_are_gone(store: Store) -> None:
    store.insert_queue({"_id": "mail", "class": "mail"})
    put_task(store, "mail", age_seconds=60)
    put_task(store, "mail", status=Status.FAILED)
    put_task(store, "mail", status=7)
    put_task(store, "gone", status=Status.CONCLUDED)
    found = summary(store)
    mail, gone = found.queues
    assert (mail.id, mail.counts["waiting"], mail.counts["failed"]) == ("mail", 1, 2)
    assert mail.by_status == {Status.CREATED: 1, Status.FAILED: 1, 7: 1}
    assert [str(cause.code) for cause in mail.causes] == ["no_node"]
    assert mail.oldest_seconds is not None and 50 < mail.oldest_seconds < 120
    assert (gone.id, gone.queue, gone.counts["concluded"]) == ("gone", None, 1)
    assert [str(cause.code) for cause in gone.causes] == ["no_queue"]
    document = mail.to_json()
    assert (document["class"], document["waiting"], document["reasons"]) == ("mail", 1, ["no_node"])
    assert document["oldest_waiting"] == mail.oldest


def test_the_summary_without_the_oldest_does_not_look_for_them(store: Store) -> None:
    store.insert_queue({"_id": "mail", "class": "mail"})
    put_task(store, "mail", age_seconds=60)
    (mail,) = summary(store, with_oldest=False).queues
    assert (mail.oldest, mail.oldest_seconds) == (None, None)


def test_a_plugin_that_is_set_aside_somewhere_is_a_cause_though_others_run_it(store: Store) -> None:
    store.insert_queue({"_id": "mail", "class": "mail"})
    put_node(store, "n1", queuetypes=[{"class": "mail"}])
    put_node(store, "n2", queuetypes=[{"class": "mail"}], set_aside=[{"class": "mail", "reason": "it crashes"}])
    put_node(store, "n3", settings=NEVER_ALIVE, set_aside=[{"class": "mail", "reason": "long ago"}])
    found = summary(store)
    assert found.queues[0].note == "set aside on n2, see below"
    assert [one["node"] for one in found.to_json()[1:]] == ["n1", "n2", "n3"]
    assert [one["alive"] for one in found.to_json()[1:]] == [True, True, False]


def test_an_observer_compares_with_its_last_look(store: Store) -> None:
    store.insert_queue({"_id": "mail", "class": "mail"})
    put_task(store, "mail", status=Status.CONCLUDED)
    observer = Observer(store, SteppingClock())
    first = observer.look()
    assert (first.queues[0].per_second, first.queues[0].failed_more, first.per_second) == (None, 0, None)
    put_task(store, "mail", status=Status.CONCLUDED)
    put_task(store, "mail", status=Status.CANCELLED)
    put_task(store, "mail", status=Status.FAILED)
    put_task(store, "mail", status=Status.ORPHANED)
    second = observer.look()
    (mail,) = second.queues
    assert (mail.per_second, mail.failed, mail.failed_more, mail.orphaned, mail.cancelled) == (
        1.0,
        1,
        1,
        1,
        1,
    )  # 4 in 4 seconds
    assert {one.code: (one.count, one.orphaned) for one in second.failures} == {"failed": (1, 0), "orphaned": (0, 1)}
    assert second.failures_seen == 2
    third = observer.look()
    assert (third.queues[0].per_second, third.queues[0].failed_more) == (0.0, 0)
    assert third.failures == second.failures


def test_running_tasks_come_with_their_progress_the_longest_first(store: Store) -> None:
    put_node(store, "n1")
    now = store.now()
    short = put_task(
        store, status=Status.RUNNING, node="n1",
        run={"started": now - timedelta(seconds=5)}, progress={"value": 0.5, "message": "1 of 2"},
    )  # fmt: skip
    long = put_task(
        store, status=Status.RUNNING, node="n1", run={"started": now - timedelta(seconds=50)}, progress={"value": True}
    )
    put_task(store, status=Status.CLAIMED, node="n1")
    found = Observer(store, SystemClock()).look().running
    assert [one.task for one in found] == [str(long), str(short)]
    assert (found[1].progress, found[1].message, found[1].queue, found[1].node) == (0.5, "1 of 2", "q", "n1")
    assert (found[0].progress, found[0].message) == (None, "")
    assert found[0].seconds is not None and 49 < found[0].seconds < 120


def test_a_running_task_whose_node_is_dead_is_told(store: Store) -> None:
    put_node(store, "n1", settings=NEVER_ALIVE)
    put_task(store, status=Status.RUNNING, node="n1", claim={"token": "t"}, progress={"message": "1 of 2"})
    (found,) = Observer(store, SystemClock()).look().running
    assert found.message == "1 of 2" and found.absence.startswith(
        "node n1 was last heard from 0 s ago and is taken for"
    )


def test_nodes_come_with_their_load_and_what_is_the_matter_with_them(store: Store) -> None:
    put_node(
        store, "n1", state="draining", settings={"max_total": 8}, host={"name": "host1"},
        heartbeat={"queues": [{"queue": "a", "processing": 2, "threads": 4}, {"processing": 1, "threads": 3}]},
        requests={"drain": {"by": "ann@here", "why": "new disk"}},
        set_aside=[{"class": "mail", "reason": "it crashes"}], broken=[{"class": "move", "reason": "no program"}],
    )  # fmt: skip
    put_node(store, "n2", settings=NEVER_ALIVE, state="draining", requests={"drain": {"by": "ann@here"}})
    one, two = Observer(store, SystemClock()).look().nodes
    assert (one.state, one.is_alive, one.running, one.threads, one.max_total) == ("draining", True, 3, 7, 8)
    assert one.machine == "host1"
    assert one.notes == ("asked by ann@here: new disk", "mail set aside: it crashes", "move broken: no program")
    assert (two.state, two.is_alive, two.notes) == ("dead", False, ())


def test_runs_that_go_on_without_their_node_are_counted(store: Store) -> None:
    heartbeat = {"queues": [], "running": 3, "kept": 3}
    put_node(store, "n1", settings=NEVER_ALIVE, heartbeat=heartbeat, **away(store, why="upgrade"))
    put_node(store, "n2", settings=NEVER_ALIVE, heartbeat=heartbeat)
    put_node(store, "n3", heartbeat=heartbeat)
    one, two, three = Observer(store, SystemClock()).look().nodes
    assert (one.state, one.is_alive, one.kept) == ("away", False, 3)
    assert one.notes[0].startswith("is away until ") and one.notes[1:] == ("3 runs kept there",)
    assert (two.state, two.notes) == ("dead", ("3 runs kept there",))
    assert (three.state, three.notes, three.to_json()["kept"]) == ("running", (), 3)


def test_documents_of_nodes_that_hold_anything_do_no_harm(store: Store) -> None:
    put_node(store, heartbeat={"queues": [1, {"processing": "many"}], "running": "x"}, set_aside="?", host=3)
    (one,) = Observer(store, SystemClock()).look().nodes
    assert (one.running, one.threads, one.machine, one.notes) == (0, 0, "", ())


def test_an_overview_is_json(store: Store) -> None:
    store.insert_queue({"_id": "mail", "class": "mail"})
    put_node(store)
    put_task(store, "mail", status=Status.FAILED)
    put_task(store, "mail", status=Status.RUNNING, node="n1")
    document = Observer(store, SystemClock()).look().to_json()
    shown = orjson.loads(orjson.dumps(plain_document(document)))
    assert shown.keys() == {"at", "took_seconds", "queues", "nodes", "failures", "failures_seen", "running"}
    assert [len(shown[name]) for name in ("queues", "nodes", "failures", "running")] == [1, 1, 1, 1]


def test_a_client_looks_once_or_again_and_again_and_has_the_nodes(client: Client) -> None:
    put_node(client.store)
    put_task(client.store, status=Status.CONCLUDED)
    assert [one.name for one in client.overview().nodes] == [one.id for one in client.nodes.list()] == ["n1"]
    observer = client.observer()
    assert (observer.look().per_second, observer.look().per_second) == (None, 0.0)
