"""Opening a MongoDB that is not there, does not answer, refuses, or is no replica set; and watching one."""

from __future__ import annotations

import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pymongo
import pytest

from disbatch_host.clock import SystemClock
from disbatch_host.documents.changes import RunKey, TaskFilter, Want
from disbatch_host.errors import StoreRefusedError, StoreUnreachableError, UsageError
from disbatch_host.store.contract.answers import Access
from disbatch_host.store.mongo import MongoStore
from disbatch_protocol.status import Status
from helpers.mongod import Mongod
from helpers.stores import change, push

pytestmark = pytest.mark.mongodb


def opened(url: str) -> MongoStore:
    store = MongoStore(url, SystemClock())
    store.open()
    return store


def test_an_unreachable_server_is_said_soon_with_host_and_port_and_without_the_password() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can answer there
        port = unused.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(StoreUnreachableError, match=f"127.0.0.1:{port}") as caught:
            opened(f"mongodb://me:s3cret@127.0.0.1:{port}/x")
    assert time.monotonic() - began < 5
    assert "s3cret" not in str(caught.value)


def test_a_server_that_accepts_and_says_nothing_is_unreachable_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(StoreUnreachableError):
            opened(f"mongodb://127.0.0.1:{silent.getsockname()[1]}/x")
    assert time.monotonic() - began < 6


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://",
        "mongodb://me:s3cret@/x",
        "mongodb://me:s3cret@host:port/x",
        "mongodb://me:s3cret@host:99999/x",
        "mongodb://me:s3c/ret@host/x",
        "mongodb://me:s3c@ret@host/x",
        "mongodb://me:s3cret@host/x?readPreference=nonsense",
        "mongodb://me:s3cret@host/x y",
    ],
)
def test_a_url_that_is_none_is_wrong_use(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        opened(url)
    assert "s3c" not in str(caught.value) and "\n" not in str(caught.value)


def test_options_of_the_url_do_not_weaken_what_is_promised(mongo_url: str) -> None:
    store = opened(f"{mongo_url}&w=0&journal=false&readPreference=secondaryPreferred&retryWrites=false")
    ids = push(store, *({} for _ in range(50)))
    assert [task.id for task in store.claim("n1", [Want("q", 50)], "t1")] == ids
    store.close()


def test_a_server_that_stops_to_answer_holds_no_call_for_ever(own_mongod: Callable[..., Mongod]) -> None:
    with own_mongod() as server:
        store = opened(server.database_url("x") + "&socketTimeoutMS=500&serverSelectionTimeoutMS=500")
        push(store, {})
        server.signal(signal.SIGSTOP)
        began = time.monotonic()
        for call in (
            lambda: push(store, {}),
            store.waiting_queues,
            lambda: store.claim("n1", [Want("q", 1)], "t1"),
        ):
            with pytest.raises(StoreUnreachableError):
                call()
        assert time.monotonic() - began < 20
        server.signal(signal.SIGCONT)
        assert store.waiting_queues() == {"q"}
        store.close()


@pytest.fixture(scope="module")
def standalone(own_mongod: Callable[..., Mongod]) -> Iterator[Mongod]:
    with own_mongod(is_standalone=True, wants_login=True) as server:
        with pymongo.MongoClient(server.url) as client:  # the first user may be made without a login from this machine
            client.admin.command("createUser", "root", pwd="s3cret", roles=["root"])
        with pymongo.MongoClient(server.database_url("admin", login="root:s3cret")) as client:
            for user, role in (("node", "readWrite"), ("guest", "read")):
                client["x"].command("createUser", user, pwd="s3cret", roles=[role])
        yield server


def test_a_standalone_server_works_without_change_streams(standalone: Mongod) -> None:
    store = opened(standalone.database_url("x", login="node:s3cret"))
    ids = push(store, {}, {})
    watcher = store.watch()
    assert watcher.wait(10)  # looks from time to time
    tasks = store.claim("n1", [Want("q", 2)], "t1")
    assert [task.id for task in tasks] == ids
    key = RunKey(ids[0], "n1", "t1")
    ends = [change(key, Status.CLAIMED, Status.RUNNING), change(key, Status.RUNNING, Status.CONCLUDED)]
    assert store.commit(ends) == set()
    began = time.monotonic()
    assert not watcher.wait(0.2) or time.monotonic() - began >= 0.2
    watcher.close()
    store.delete_tasks(ids)
    store.close()


def test_who_may_only_read_can_look_and_is_told_when_writing(standalone: Mongod) -> None:
    opened(standalone.database_url("x", login="node:s3cret")).close()
    store = opened(standalone.database_url("x", login="guest:s3cret"))
    assert list(store.find_tasks(TaskFilter())) == []
    with pytest.raises(StoreRefusedError, match="rights") as caught:
        push(store, {})
    assert "s3cret" not in str(caught.value)
    store.close()


def test_what_a_login_may_not_do_is_found_without_doing_it(standalone: Mongod) -> None:
    opened(standalone.database_url("x", login="node:s3cret")).close()
    conditions = {}
    for user in ("node", "guest"):
        looking = MongoStore(standalone.database_url("x", login=f"{user}:s3cret"), SystemClock(), Access.LOOK)
        looking.open()
        conditions[user] = looking.condition()
        looking.close()
    node, guest = conditions["node"], conditions["guest"]
    assert (node.why_not_write, node.why_not_index, node.missing_indexes) == (None, None, ())
    assert (node.form, node.announces) == ("standalone server", False)
    assert str(guest.why_not_write).startswith("this user lacks insert, update, remove on x.tasks; ")
    assert str(guest.why_not_index).startswith("this user lacks createIndex on x.tasks; ")
    nobody = MongoStore(standalone.database_url("x"), SystemClock(), Access.LOOK)
    with pytest.raises(StoreRefusedError):
        nobody.open()
        nobody.condition()
    nobody.close()


def test_who_may_not_even_read_is_told_so(standalone: Mongod) -> None:
    with pytest.raises(StoreRefusedError, match="rights"):
        opened(standalone.database_url("another", login="guest:s3cret") + "?authSource=x")


def test_who_may_only_read_sees_a_database_that_no_node_of_ours_has_opened(standalone: Mongod) -> None:
    with pymongo.MongoClient(standalone.database_url("admin", login="root:s3cret")) as client:
        client["perl"]["queues"].insert_one({"_id": "mail", "class": "Mail"})
        client["perl"].command("createUser", "guest", pwd="s3cret", roles=["read"])
    store = opened(standalone.database_url("perl", login="guest:s3cret"))
    assert [queue.id for queue in store.queues()] == ["mail"]
    store.close()


@pytest.mark.parametrize("login", ["node:wr0ng", "nobody:wr0ng", ""])
def test_a_login_that_is_refused_is_said_in_words(standalone: Mongod, login: str) -> None:
    with pytest.raises(StoreRefusedError) as caught:
        opened(standalone.database_url("x", login=login))
    assert "wr0ng" not in str(caught.value)


@pytest.mark.own_database
def test_a_watcher_goes_on_after_its_database_was_dropped(mongo: MongoStore, raw: Any) -> None:
    push(mongo, {})
    watcher = mongo.watch()
    while watcher.wait(0.3):
        pass
    raw.client.drop_database(raw.name)
    deadline = time.monotonic() + 10
    used = resource.getrusage(resource.RUSAGE_THREAD).ru_utime
    while watcher.wait(0.5):
        assert time.monotonic() < deadline, "it wakes without end"
    assert resource.getrusage(resource.RUSAGE_THREAD).ru_utime - used < 0.3, "it spins"
    push(mongo, {})
    assert watcher.wait(5)
    watcher.close()


def test_a_nodes_own_steps_wake_nobody(mongo: MongoStore) -> None:
    push(mongo, {})
    watcher = mongo.watch()
    while watcher.wait(0.3):
        pass
    (task,) = mongo.claim("n1", [Want("q", 1)], "t1")
    key = RunKey(task.id, "n1", "t1")
    mongo.commit([change(key, Status.CLAIMED, Status.RUNNING), change(key, Status.RUNNING, stdout="x")])
    mongo.put_node({"_id": "n1", "session": "s", "heartbeat": {}}, replacing=None)
    mongo.heartbeat("n1", "s", {"heartbeat": {}})
    assert not watcher.wait(0.5)
    watcher.close()


def test_a_closed_watcher_leaves_no_thread(mongo: MongoStore) -> None:
    before = set(threading.enumerate())
    watcher = mongo.watch()
    while watcher.wait(0.3):
        pass
    assert set(threading.enumerate()) - before
    watcher.close()
    deadline = time.monotonic() + 10
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        watcher.wait(0.1)
    assert not set(threading.enumerate()) - before


def test_the_watcher_of_a_node_uses_the_connections_of_its_store(mongo: MongoStore) -> None:
    before = set(threading.enumerate())
    watcher = mongo.watch(ends=False)
    assert not watcher.is_listening
    while watcher.wait(0.1):
        pass
    assert watcher.is_listening
    assert set(threading.enumerate()) <= before
    push(mongo, {})
    assert watcher.wait(10)
    watcher.close()
    assert not watcher.is_listening
    assert mongo.queues() == []  # its client is still there
    late = mongo.watch(ends=False)
    mongo.close()
    assert not late.wait(0.1)
    late.close()
