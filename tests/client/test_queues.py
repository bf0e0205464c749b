"""Queues: created, found, changed, paused and deleted; what a node could not use is refused."""

from __future__ import annotations

from typing import Any

import pytest

from client.documents import put_task
from disbatch_host.client import Client
from disbatch_host.client.queues import LIMIT_MAX
from disbatch_host.errors import ChangedMeanwhileError, DuplicateIdError, FieldError, NotFoundError, UsageError
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status


def test_a_new_queue_is_as_it_was_asked_for(client: Client, store: Store) -> None:
    made = client.queues.create(
        "mail", "Mail::Move", maxthreads=3, maxtotal=7, rate="100/m", sort="lifo", keep="30d", description="letters",
        nodes_pin=["n1", "n2"], nodes_ignore=[],
    )  # fmt: skip
    found = client.queues.get("mail")
    assert found.document == made.document and found.document["rate"] == "100/m"
    assert (found.class_name, found.maxthreads, found.maxtotal, found.nodes_pin) == ("Mail::Move", 3, 7, ("n1", "n2"))
    assert found.ctime is not None and abs((store.now() - found.ctime).total_seconds()) < 60
    assert "nodes_ignore" not in found.document
    with pytest.raises(DuplicateIdError):
        client.queues.create("mail", "Other")


def test_a_queue_that_is_not_there_is_named_with_a_near_one(client: Client) -> None:
    client.queues.create("mail", "Mail")
    for verb in (client.queues.get, client.queues.state, client.queues.pause, client.queues.delete):
        with pytest.raises(NotFoundError, match="no queue 'mial' in .*; did you mean 'mail'"):  # noqa: RUF043
            verb("mial")


def test_queues_are_listed_with_what_waits_and_runs(client: Client, store: Store) -> None:
    client.queues.create("a", "A", nodes_pin=["n1"])
    client.queues.create("b", "B", nodes_ignore=["n1"])
    client.queues.pause("b", why="server down")
    for status in (-2, -2, -4, -1, 0, 1, 2, 9):
        put_task(store, "a", status=status)

    def listed(**which: Any) -> list[str]:
        return [one.queue.id for one in client.queues.list(**which)]

    assert listed() == ["a", "b"]
    assert (listed(class_name="B"), listed(node="n1"), listed(node="n2")) == (["b"], ["a"], ["b"])
    assert (listed(is_paused=True), listed(is_paused=False)) == (["b"], ["a"])
    state = client.queues.state("a")
    assert (state.waiting, state.running, client.queues.unfinished("a")) == (3, 2, 5)
    assert state.by_status == {-2: 2, -4: 1, -1: 1, 0: 1, 1: 1, 2: 1, 9: 1}
    assert client.queues.list()[0] == state and client.queues.state("b").by_status == {}


def test_fields_are_set_and_removed(client: Client) -> None:
    client.queues.create("mail", "Mail", maxthreads=3, description="letters")
    changed = client.queues.set("mail", maxthreads=0, description=None, nodes_pin=("n1",), **{"class": "Letter"})
    found = client.queues.get("mail")
    assert found.document == changed.document
    assert (found.class_name, found.maxthreads, found.description, found.nodes_pin) == ("Letter", 0, "", ("n1",))


def test_what_somebody_else_has_changed_meanwhile_is_told_and_not_overwritten(client: Client, store: Store) -> None:
    client.queues.create("mail", "Mail", maxthreads=3, nodes_pin=["n1"])
    read = client.queues.get("mail").document
    store.update_queue("mail", {"maxthreads": 5})
    for values in ({"maxthreads": 4}, {"maxthreads": None, "rate": "5/s"}):
        with pytest.raises(
            ChangedMeanwhileError, match=r"queue mail was changed.*: maxthreads is 5, was 3; look"
        ) as told:
            client.queues.set("mail", only_if={name: read.get(name) for name in values}, **values)
        assert told.value.exit_code == 1
    assert (client.queues.get("mail").maxthreads, client.queues.get("mail").rate) == (5, None)
    changed = client.queues.set("mail", only_if={"nodes_pin": ["n1"]}, nodes_pin=["n2"])
    assert (changed.maxthreads, changed.nodes_pin) == (5, ("n2",)), "what nobody else has changed is"
    already = client.queues.set("mail", only_if={"nodes_pin": ["n1"]}, nodes_pin=["n2"])
    assert already.nodes_pin == ("n2",), "it says so already: nobody loses anything"
    store.delete_queue("mail")
    with pytest.raises(NotFoundError):
        client.queues.set("mail", only_if={"maxthreads": 5}, maxthreads=6)


def test_a_pause_names_who_and_why(client: Client, store: Store) -> None:
    client.queues.create("mail", "Mail")
    paused = client.queues.pause("mail", why="server down").paused
    assert paused is not None and (paused["by"], paused["why"]) == ("me@here", "server down")
    assert client.queues.get("mail").paused == paused
    assert client.queues.resume("mail").paused is None
    assert client.queues.get("mail").paused is None
    with pytest.raises(UsageError, match="expected a reason"):
        client.queues.pause("mail", why=" ")


def test_a_queue_with_unfinished_tasks_is_deleted_only_where_that_is_meant(client: Client, store: Store) -> None:
    client.queues.create("mail", "Mail")
    task_id = put_task(store, "mail")
    with pytest.raises(UsageError, match="queue mail is not deleted: 1 of its tasks has not ended"):
        client.queues.delete("mail")
    assert client.queues.delete("mail", leaves_unfinished=True).class_name == "Mail"
    assert client.queues.list() == () and client.get(task_id).status == Status.CREATED
    client.queues.create("mail", "Mail")
    client.cancel(task_id)
    client.queues.delete("mail")
    assert client.queues.list() == ()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"maxthreads": -1}, f"maxthreads: expected a whole number from 0 to {LIMIT_MAX}, found -1"),
        ({"maxtotal": True}, "maxtotal: expected a whole number"),
        ({"maxtotal": "4"}, "maxtotal: expected a whole number"),
        ({"rate": "many"}, '"rate": expected'),
        ({"sort": "random"}, '"sort" must be "fifo" or "lifo"'),
        ({"keep": "long"}, 'keep: expected a duration like "90s", "1h30m" or "30d", found \'long\''),
        ({"keep": "30"}, 'keep: expected a duration with its unit, such as "30s", "30m", "30h" or "30d", found \'30\''),
        ({"keep": -1}, "keep: expected seconds"),
        ({"description": 7}, "description: expected a text, found int"),
        ({"nodes_pin": ["a long name"]}, "nodes_pin: expected node ids of 1 to 8 characters"),
        ({"nodes_ignore": [1]}, "nodes_ignore: expected node ids"),
        ({"maxthread": 1}, "a queue has no field 'maxthread' that can be set; did you mean 'maxthreads'"),
        ({"class": "no name"}, "expected a class, the name of a plugin"),
        ({"class": 7}, "expected a class, the name of a plugin"),
    ],
)
def test_what_a_node_could_not_use_is_refused(client: Client, fields: dict[str, Any], reason: str) -> None:
    if "class" not in fields:
        with pytest.raises(UsageError, match=reason):
            client.queues.create("new", "Mail", **fields)
    client.queues.create("mail", "Mail")
    before = client.queues.get("mail")
    with pytest.raises(UsageError, match=reason) as caught:
        client.queues.set("mail", **fields)
    assert isinstance(caught.value, FieldError) is reason.startswith(f"{next(iter(fields))}:")
    assert [one.queue for one in client.queues.list()] == [before]


def test_an_id_that_tables_cannot_show_and_a_queue_without_a_class_are_refused(client: Client) -> None:
    for queue_id in ("", " ", "a\nb"):
        with pytest.raises(UsageError, match="expected an id for the queue"):
            client.queues.create(queue_id, "Mail")
    client.queues.create("mail", "Mail")
    with pytest.raises(UsageError, match="a queue without a class cannot run"):
        client.queues.set("mail", **{"class": None})


def test_a_queue_that_is_deleted_meanwhile_is_not_made_again(client: Client, store: Store) -> None:
    queue = client.queues.create("mail", "Mail")

    class Deleting:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def find_queue(self, text: str) -> Any:
            return queue if store.delete_queue(queue.id) else store.find_queue(text)

    deleting: Any = Deleting()
    with pytest.raises(NotFoundError, match="no queue 'mail' any more; somebody has just deleted it"):
        Client(deleting, None, "me@here").queues.set("mail", maxthreads=1)
    assert client.queues.list() == ()
