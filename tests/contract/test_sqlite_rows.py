"""Rows of every sort that people and other programs write into the file: each costs only itself, in every call."""

from __future__ import annotations

import itertools
import logging
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from disbatch_host.clock import SystemClock
from disbatch_host.documents.changes import RunChange, RunKey, TaskFilter, Want
from disbatch_host.documents.records import Task
from disbatch_host.node.compartment import Troubles
from disbatch_host.node.duties.due import settle_due
from disbatch_host.node.pace import Pace
from disbatch_host.store.sqlite import SqliteStore, fields
from disbatch_protocol.quantities import Rate
from disbatch_protocol.status import Status
from helpers.stores import PAST, change, push

NOT_UTF_8 = object()  # a text that is not UTF-8: the driver cannot bind one
DEEP = {depth: '{"a":' * depth + "1" + "}" * depth for depth in (200, 400, 1000, 5000)}
VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.binary(max_size=20),
    st.text(max_size=20),
    st.sampled_from(
        [
            NOT_UTF_8, "{bad", "NaN", "[]", "null", "5", '"x"', '{"$date": 1e400}', '{"$date": 999999999999999999}',
            '{"$oid": 5}', "{\"a\\u0000b\": 1}", "a\0b", "x" * 300, "2026-01-01", "", "-1", "n1", "true",
            *DEEP.values(),
            '{"at": 5}', '["a", 5, null]', '["", {}]', "9" * 400, b"{}", b"\xff\x00", 0.5, 1e300, -2, 0, 1, -4,
        ]
    ),
)  # fmt: skip
COLUMNS = [name for name in fields.COLUMNS if name not in ("id",)]
numbers = itertools.count(1)


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    """A row with some odd columns, of any status; its id odd as well now and then."""
    row: dict[str, Any] = {"queue": "q", "status": draw(st.sampled_from([-2, -2, -2, -4, -1, 0, 1, 2, -6, 7]))}
    for name in draw(st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=4, unique=True)):
        row[name] = draw(VALUES)
    number = next(numbers)
    odd = st.sampled_from(
        [number, number + 0.5, b"\0%d" % number, f"{number}/" * 60, f"{number}\0x", (NOT_UTF_8, number)]
    )
    row["id"] = draw(st.one_of(st.just(f"odd-{number}"), odd))
    return row


def plant(connection: sqlite3.Connection, table: str, row: dict[str, Any]) -> bool:
    """Insert a row as it is; False if the file itself does not take it (a NULL where none may be)."""
    names, places, values = [], [], []
    for name, value in row.items():
        names.append(name)
        is_odd_id = isinstance(value, tuple)
        if value is NOT_UTF_8 or is_odd_id:
            places.append("CAST(? AS TEXT)")
            values.append(b"\xff\xfe" + (b"%d" % value[1] if is_odd_id else b""))
        else:
            places.append("?")
            values.append(value)
    try:
        connection.execute(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(places)})", values)
    except sqlite3.IntegrityError:
        return False
    return True


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SqliteStore, Path]]:
    file = tmp_path_factory.mktemp("rows") / "test.db"
    store = SqliteStore(file, SystemClock())
    store.open()
    yield store, file
    store.close()


def begin(store: SqliteStore, file: Path, rows: list[dict[str, Any]]) -> list[Any]:
    """An empty store, then a good task, odd rows, and another good task; returns the good ones."""
    with sqlite3.connect(file) as by_hand:
        for table in ("tasks", "queues", "nodes", "output", "followers", "rates"):
            by_hand.execute(f"DELETE FROM {table}")
    (first,) = push(store, {"n": 1})
    with sqlite3.connect(file) as by_hand:
        for row in rows:
            plant(by_hand, "tasks", row)
    (last,) = push(store, {"n": 2})
    by_hand.close()
    return [first, last]


def begin_run(task: Task) -> RunChange:
    """What a node writes with a claim; it says nothing against any task that it is asked about."""
    key = RunKey(task.id, "n1", task.token)
    run = {"attempt": task.next_attempt, "token": task.token}
    return RunChange(
        key=key,
        statuses=(Status.CLAIMED,),
        set={"status": int(Status.RUNNING), "run": run, "stdout": "", "stderr": ""},
        unset=("result", "error", "progress", "not_before"),
    )


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(odd=st.lists(rows(), min_size=1, max_size=6), newest_first=st.booleans())
def test_good_tasks_beside_rows_of_every_sort_are_claimed_and_recorded(
    shared: tuple[SqliteStore, Path], odd: list[dict[str, Any]], newest_first: bool
) -> None:
    store, file = shared
    logging.disable(logging.ERROR)
    try:
        good = begin(store, file, odd)
        look_at_everything(store)
        assert settle_due(store, "n1", Troubles(SystemClock(), Pace()), seconds=5) is not None
        store.promote_due()
        claimed: dict[Any, Task] = {}
        for number in range(2):
            for task in store.claim("n1", [Want("q", 20, newest_first=newest_first)], f"t{number}", begin_run):
                claimed[task.id] = task
        assert set(good) <= claimed.keys()
        key = {task_id: RunKey(task_id, "n1", claimed[task_id].token) for task_id in good}
        ends = [change(key[one], Status.RUNNING, Status.CONCLUDED, stdout="done", result={"x": 1}) for one in good]
        assert store.commit(ends) == set()
        for one in good:
            found = store.get_task(one)
            assert found is not None and (found.status, found.document["stdout"]) == (Status.CONCLUDED, "done")
        # Nothing that is left there to claim: all else is passed over, or was claimed.
        assert store.claim("n1", [Want("q", 20)], "t9", begin_run) == []
        look_at_everything(store)
        assert set(good) <= set(store.ended_before("q", store.now() + timedelta(days=1), 100))
        assert store.delete_tasks(good) == 2
    finally:
        logging.disable(logging.NOTSET)


def look_at_everything(store: SqliteStore) -> None:
    """Every call that reads, as commands and nodes make it: it comes back, and what it gives has usable ids."""
    for which in (
        TaskFilter(),
        TaskFilter(queue="q"),
        TaskFilter(error_code="x"),
        TaskFilter(after="a"),
        TaskFilter(node="n1"),
    ):
        for in_any_order, with_output in itertools.product((False, True), repeat=2):
            found = store.find_tasks(
                which, in_any_order=in_any_order, with_output=with_output, with_parameters=with_output
            )
            for task in found:
                assert isinstance(task.id, str) and isinstance(task.queue, str) and isinstance(task.status, int)
                assert task.node is None or isinstance(task.node, str)
                if task.fault is None:
                    assert not any(isinstance(value, bytes) for value in task.document.values())
        assert store.count_tasks(which) >= 0
    assert all(isinstance(queue, str) for queue in store.count_by_status())
    assert all(isinstance(queue, str) for queue in store.waiting_queues())
    store.oldest_waiting()
    store.has_unfinished(["q"])
    store.due("n1")
    store.ended_before("q", store.now(), 10)
    assert all(isinstance(one.why, str) and one.count > 0 for one in store.passed_over())


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    documents=st.lists(VALUES, min_size=1, max_size=4),
    ids=st.lists(VALUES, min_size=4, max_size=4),
    at=VALUES,
    session=VALUES,
)
def test_good_queues_and_nodes_beside_rows_of_every_sort_are_read_and_written(
    shared: tuple[SqliteStore, Path], documents: list[Any], ids: list[Any], at: Any, session: Any
) -> None:
    store, file = shared
    begin(store, file, [])
    store.insert_queue({"_id": "q", "class": "A"})
    assert store.put_node({"_id": "n1", "session": "s1"}, replacing=None)
    with sqlite3.connect(file) as by_hand:
        for task_id, document in zip(ids, documents, strict=False):
            plant(by_hand, "queues", {"id": task_id, "document": document})
            plant(by_hand, "nodes", {"id": task_id, "document": document, "heartbeat_at": at, "session": session})
        plant(by_hand, "rates", {"queue": "q", "used_until": at})
    by_hand.close()
    queues, nodes = store.queues(), store.nodes()
    assert all(isinstance(one.id, str) for one in (*queues, *nodes))
    assert [one.class_name for one in queues if one.id == "q"] == ["A"]
    assert "s1" in [one.session for one in nodes if one.id == "n1"]
    assert store.heartbeat("n1", "s1", {"heartbeat": {"pid": 1}}) == {}
    assert store.request_of_node("n1", "stop", {"by": "me"})
    claimed = store.claim("n1", [Want("q", 2, rate=Rate(1000, 1.0))], "t1")
    assert len(claimed) == 2 or not claimed  # the rate counts as used up if nobody can read it
    assert store.update_queue("q", {"maxthreads": 1}) and store.remove_node("n1", "s1")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=VALUES)
def test_a_heartbeat_is_written_whatever_somebody_put_into_the_document(
    shared: tuple[SqliteStore, Path], document: Any
) -> None:
    store, file = shared
    begin(store, file, [])
    with sqlite3.connect(file) as by_hand:
        is_there = plant(by_hand, "nodes", {"id": "n1", "session": "s1", "document": document})
    by_hand.close()
    if is_there:
        assert store.heartbeat("n1", "s1", {"heartbeat": {"pid": 1}}) is not None
        node = store.get_node("n1")
        assert node is not None and node.document["heartbeat"]["pid"] == 1 and node.session == "s1"


def damage(file: Path, *tasks: Any, column: str = "parameters", value: Any = "{bad") -> None:
    with sqlite3.connect(file) as by_hand:
        by_hand.executemany(f"UPDATE tasks SET {column} = ? WHERE id = ?", [(value, one) for one in tasks])
    by_hand.close()


def test_what_cannot_be_claimed_is_counted_holds_no_place_and_is_not_read_again_until_it_changes(
    sqlite: SqliteStore, sqlite_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = push(sqlite, *({} for _ in range(30)))
    (other,) = push(sqlite, {}, queue="w")
    damage(sqlite_file, *damaged[:20])
    damage(sqlite_file, *damaged[20:], column="stdout", value=b"\xff")
    assert sqlite.passed_over() == []
    assert sqlite.claim("n1", [Want("q", 1), Want("w", 1)], "t1") != []
    found = {(one.queue, one.count, one.why) for one in sqlite.passed_over()}
    assert found == {
        ("q", 20, '"parameters" of its row cannot be read'),
        ("q", 10, '"stdout" of its row cannot be read'),
    }
    assert sqlite.waiting_queues() == set() and not sqlite.has_unfinished(["q"])
    assert sum(record.levelno == logging.ERROR for record in caplog.records) == 20  # said one by one, up to a bound
    # Not read again: with nobody else writing, a claim does not look at them.
    read: list[str] = []
    assert sqlite._connection is not None
    sqlite._connection.set_trace_callback(read.append)
    assert sqlite.claim("n1", [Want("q", 1)], "t2") == [] and sqlite.waiting_queues() == set()
    assert not any("FROM tasks WHERE seq IN" in one for one in read)
    sqlite._connection.set_trace_callback(None)
    (fresh,) = push(sqlite, {})
    assert sqlite.waiting_queues() == {"q"}
    damage(sqlite_file, damaged[3], value="{}")  # mended
    assert {one.id for one in sqlite.claim("n1", [Want("q", 9)], "t3")} == {fresh, damaged[3]}
    assert sum(one.count for one in sqlite.passed_over()) == 29
    with sqlite3.connect(sqlite_file) as by_hand:
        by_hand.execute("DELETE FROM tasks WHERE id != ?", (other,))
    by_hand.close()
    assert sqlite.claim("n1", [Want("q", 9)], "t4") == [] and sqlite.passed_over() == []


def test_a_passed_over_task_that_this_store_changes_is_looked_at_again(sqlite: SqliteStore, sqlite_file: Path) -> None:
    (task_id,) = push(sqlite, {})
    damage(sqlite_file, task_id)
    assert sqlite.claim("n1", [Want("q", 1)], "t1") == [] and len(sqlite.passed_over()) == 1
    assert sqlite.delete_tasks([task_id]) == 1
    assert sqlite.claim("n1", [Want("q", 1)], "t2") == [] and sqlite.passed_over() == []


def test_thousands_of_passed_over_rows_cost_a_claim_little(sqlite: SqliteStore, sqlite_file: Path) -> None:
    with sqlite3.connect(sqlite_file) as by_hand:
        by_hand.executemany("INSERT INTO tasks (queue, parameters) VALUES (?, ?)", [("q", "{bad")] * 5000)
    by_hand.close()
    (good,) = push(sqlite, {})
    assert [one.id for one in sqlite.claim("n1", [Want("q", 1)], "t1", begin_run)] == [good]
    read: list[str] = []
    assert sqlite._connection is not None
    for number in range(10):
        push(sqlite, {})
        with sqlite3.connect(sqlite_file) as by_hand:  # others write all the time
            by_hand.execute("UPDATE tasks SET rest = '{}' WHERE id = ?", (good,))
        by_hand.close()
        sqlite._connection.set_trace_callback(read.append)
        assert len(sqlite.claim("n1", [Want("q", 1)], f"u{number}", begin_run)) == 1
        sqlite._connection.set_trace_callback(None)
    # A hundred rows at once: looking at all after each write would be five hundred looks.
    assert sum("FROM tasks WHERE seq IN" in one for one in read) < 100


UNIQUE = "CREATE UNIQUE INDEX theirs ON tasks (json_extract(parameters, '$.user')) WHERE status IN (-1, 0)"
TRIGGER = """CREATE TRIGGER theirs BEFORE UPDATE OF status ON tasks WHEN NEW.status IN (-1, 0)
    AND json_extract(NEW.parameters, '$.user') = 'b' BEGIN SELECT RAISE(ABORT, 'not this one'); END"""


@pytest.mark.parametrize("theirs", [UNIQUE, TRIGGER], ids=["index", "trigger"])
def test_a_task_that_somebodys_index_or_trigger_refuses_stops_no_other(
    sqlite: SqliteStore, sqlite_file: Path, theirs: str
) -> None:
    with sqlite3.connect(sqlite_file) as by_hand:
        by_hand.execute(theirs)
    by_hand.close()
    users = ("a", "b", "b", "c")
    a, b, _, c = push(sqlite, *({"user": one} for one in users))
    claimed = [one.id for one in sqlite.claim("n1", [Want("q", 9)], "t1", begin_run)]
    assert claimed == ([a, b, c] if theirs is UNIQUE else [a, c])
    assert sum(one.count for one in sqlite.passed_over()) == len(users) - len(claimed)
    assert sqlite.waiting_queues() == set()
    assert sqlite.count_tasks(TaskFilter(statuses=frozenset({0}), node="n1")) == len(claimed)


def test_a_delayed_task_that_somebodys_index_refuses_keeps_no_other_from_its_promotion(
    sqlite: SqliteStore, sqlite_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with sqlite3.connect(sqlite_file) as by_hand:
        by_hand.execute("CREATE UNIQUE INDEX theirs ON tasks (json_extract(parameters, '$.user')) WHERE status = -2")
    by_hand.close()
    push(sqlite, {"user": "a"})
    push(sqlite, {"user": "a"}, {"user": "b"}, {"user": "c"}, status=-4, not_before=PAST)
    assert sqlite.promote_due() == 3  # there were, though one is refused
    assert sqlite.promote_due() == 0 and caplog.text.count("is due, but cannot go on") == 1
    assert sqlite.count_by_status() == {"q": {-2: 3, -4: 1}}


def test_a_change_that_somebodys_index_refuses_costs_only_itself(sqlite: SqliteStore, sqlite_file: Path) -> None:
    with sqlite3.connect(sqlite_file) as by_hand:
        by_hand.execute("CREATE UNIQUE INDEX theirs ON tasks (json_extract(rest, '$.error.code')) WHERE status = -5")
    by_hand.close()
    tasks = push(sqlite, {}, {}, {}, expires=PAST)
    settle_due(sqlite, "n1", Troubles(SystemClock(), Pace()), seconds=30)
    assert sorted(sqlite.get_task(one).status for one in tasks) == [-5, -2, -2]  # type: ignore[union-attr]


def test_an_odd_cancel_is_no_request_and_makes_nothing_expire(sqlite: SqliteStore, sqlite_file: Path) -> None:
    """Such a task was found each second, and cancelled as expired."""
    odd, ended, fine = push(sqlite, {}, {}, {})
    damage(sqlite_file, odd, column="cancel", value="5")
    damage(sqlite_file, ended, column="status", value="done")
    damage(sqlite_file, ended, column="awaited", value=1)
    damage(sqlite_file, fine, column="expires", value=5)
    for _ in range(2):
        settle_due(sqlite, "n1", Troubles(SystemClock(), Pace()), seconds=30)
    assert sqlite.due("n1") == []
    counts = sqlite.count_by_status()
    assert counts == {"q": {-2: 1, -4: 1, -5: 1}}


def test_rows_with_which_nothing_can_be_done_keep_no_due_one_from_being_found(
    sqlite: SqliteStore, sqlite_file: Path
) -> None:
    with sqlite3.connect(sqlite_file) as by_hand:
        by_hand.executemany(
            "INSERT INTO tasks (id, queue, expires) VALUES (?, 'q', 5)", [(b"\0%d" % number,) for number in range(50)]
        )
    by_hand.close()
    (fine,) = push(sqlite, {}, expires=PAST)
    assert [one.id for _ in range(10) for one in sqlite.due("n1", limit=10)] == [fine] * 5
