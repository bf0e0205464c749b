"""What is only SQLite's: several processes on one file, rows that people insert by hand, the plans of hot queries."""

from __future__ import annotations

import dataclasses
import sqlite3
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.clock import SystemClock
from disbatch_host.documents.changes import RunChange, RunKey, TaskChange, TaskFilter, Want
from disbatch_host.documents.records import NOBODY, new_task
from disbatch_host.errors import StoreRefusedError
from disbatch_host.store.sqlite import SqliteStore
from disbatch_protocol.quantities import Rate
from disbatch_protocol.status import Status
from helpers.stores import NOW, change, claim_one, push

BUSY_PROCESS = """
import sys, time
from pathlib import Path
from disbatch_host.clock import SystemClock
from disbatch_host.documents.changes import RunChange, RunKey, Want
from disbatch_host.documents.records import new_task
from disbatch_host.store.sqlite import SqliteStore
from disbatch_protocol.status import Status

name, clock = sys.argv[2], SystemClock()
store = SqliteStore(Path(sys.argv[1]), clock)
store.open()
store.put_node({"_id": name, "session": name, "heartbeat": {"pid": 1}}, replacing=None)
ended = rounds = 0
stop = time.monotonic() + 2
while time.monotonic() < stop:
    rounds += 1
    store.insert_tasks([new_task("q", {}, now=clock.now()) for _ in range(3)])
    assert store.heartbeat(name, name, {"heartbeat": {"pid": rounds}}) is not None
    tasks = store.claim(name, [Want("q", 3)], f"{name}-{rounds}")
    keys = [RunKey(task.id, name, task.token) for task in tasks]
    for left, new in ((Status.CLAIMED, Status.RUNNING), (Status.RUNNING, Status.CONCLUDED)):
        changes = [RunChange(key=key, statuses=(left,), set={"status": int(new), "stdout": "x" * 1000}) for key in keys]
        assert store.commit(changes) == set()
    ended += len(tasks)
    store.count_by_status(), store.promote_due(), store.has_unfinished(["q"])
store.close()
print(ended)
"""


def test_six_processes_on_one_file_never_find_it_locked(sqlite: SqliteStore, sqlite_file: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BUSY_PROCESS, str(sqlite_file), f"n{number}"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(6)
    ]  # fmt: skip
    ended = 0
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        ended += int(out)
    assert ended > 20
    assert sqlite.count_tasks(TaskFilter(statuses=frozenset({1}))) == ended
    assert sqlite.count_tasks(TaskFilter(statuses=frozenset({-1, 0}))) == 0


def test_a_row_inserted_by_hand_is_a_conforming_task(sqlite: SqliteStore, sqlite_file: Path) -> None:
    with sqlite3.connect(sqlite_file) as by_hand:
        by_hand.execute("""INSERT INTO tasks (queue, parameters) VALUES ('q', '{"name": "Matt"}')""")
        by_hand.execute("INSERT INTO tasks (queue, node) VALUES ('q', NULL)")
        by_hand.execute("INSERT INTO tasks (queue, node, rest) VALUES ('q', -1, '{\"log\": [], \"note\": 1}')")
    tasks = sqlite.claim("n1", [Want("q", 9)], "t1")
    assert [task.parameters for task in tasks] == [{"name": "Matt"}, {}, {}]
    document = tasks[2].document
    assert (document["log"], document["note"], document["stdout"]) == ([], 1, "")
    assert all(len(task.id) == 24 and task.document["ctime"] <= sqlite.now() for task in tasks)
    assert len({task.id for task in tasks}) == 3


def test_no_hot_statement_reads_all_tasks(
    sqlite: SqliteStore, sqlite_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every statement that a node's round makes, with its plan: no scan of tasks, no sort of them."""
    for status in (-2, 1, -4):
        push(sqlite, *({} for _ in range(300)), status=status)
    _, key = claim_one(sqlite)
    statements: list[str] = []
    assert sqlite._connection is not None
    sqlite._connection.set_trace_callback(statements.append)
    sqlite.waiting_queues()
    sqlite.claim("n1", [Want("q", 5)], "t2")
    sqlite.commit([change(key, Status.CLAIMED, Status.RUNNING, stdout="x", run={"attempt": 1})])
    sqlite.promote_due()
    sqlite.has_unfinished(["q", "nothing"])
    list(sqlite.find_tasks(TaskFilter(node="n1", statuses=frozenset({-1, 0})), limit=10))
    push(sqlite, {}, unique_key="k")
    sqlite.claim("n1", [Want("q", 1, newest_first=True, maxtotal=9, rate=Rate(1, 1.0))], "t3")
    sqlite.change_tasks([TaskChange(task_id=key.task_id, statuses=frozenset({0}), set={"status": -2, "after": []})])
    sqlite.due("n1")
    sqlite.oldest_waiting()
    for which in (TaskFilter(after="x", statuses=frozenset({-4})), TaskFilter(parent="x")):
        list(sqlite.find_tasks(which))
    ended = frozenset({-5, -3, 1, 2})
    for statuses, or_failed in ((ended, True), (ended, False), (frozenset({1}), False), (None, False)):
        which = TaskFilter(queue="q", statuses=statuses, or_failed=or_failed, changed_before=NOW)
        list(sqlite.find_tasks(which, limit=10, in_any_order=True))
    sqlite._connection.set_trace_callback(None)
    looked_at = 0
    for statement in statements:
        if statement.startswith("--"):  # a trigger's
            continue
        if not statement.lstrip().upper().startswith(("SELECT", "UPDATE", "WITH", "DELETE")):
            continue
        plan = [row[3] for row in sqlite._connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
        looked_at += 1
        # `tasks_awaited` holds nothing but what is due.
        scans = [step for step in plan if step.startswith("SCAN tasks") and "tasks_awaited" not in step]
        assert not scans, (statement, plan)
        # What a node has in hand is little, and may be sorted.
        assert "tasks_in_hand" in str(plan) or "TEMP B-TREE" not in str(plan), (statement, plan)
    assert looked_at >= 25


def test_who_waits_for_nothing_stands_in_no_index_of_control(sqlite: SqliteStore, sqlite_file: Path) -> None:
    """What few tasks have costs the others nothing: such an index is empty while nobody has it."""
    push(sqlite, *({} for _ in range(50)))
    for task in sqlite.claim("n1", [Want("q", 20)], "t1"):
        sqlite.commit([change(RunKey(task.id, "n1", "t1"), Status.CLAIMED, Status.FAILED)])
    with sqlite3.connect(sqlite_file) as by_hand:
        for index, condition in by_hand.execute(
            "SELECT name, substr(sql, instr(sql, ' WHERE ') + 7) FROM sqlite_master WHERE type = 'index' AND name IN "
            "('tasks_due', 'tasks_delayed', 'tasks_unique', 'tasks_expiring', 'tasks_cancelled', 'tasks_awaited', "
            "'tasks_parent')"
        ).fetchall():
            found = by_hand.execute(f"SELECT count(*) FROM tasks INDEXED BY {index} WHERE {condition}")
            assert found.fetchone() == (0,), index
        assert by_hand.execute("SELECT count(*) FROM followers").fetchone() == (0,)


# The layouts of versions that were in use, as they made them, but for what no migration changes.
LAYOUT_1 = """
CREATE TABLE queues (id TEXT PRIMARY KEY NOT NULL, document TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE nodes (
    id TEXT PRIMARY KEY NOT NULL, session TEXT, heartbeat_at INTEGER, document TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE tasks (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE DEFAULT (lower(hex(randomblob(12)))), queue TEXT NOT NULL,
    status INTEGER NOT NULL DEFAULT -2, node TEXT DEFAULT '-1', priority INTEGER NOT NULL DEFAULT 0,
    ctime INTEGER NOT NULL DEFAULT 5, mtime INTEGER NOT NULL DEFAULT 5, not_before INTEGER, claim_token TEXT,
    claimed_at INTEGER, parameters TEXT NOT NULL DEFAULT '{}', stdout TEXT NOT NULL DEFAULT '',
    stderr TEXT NOT NULL DEFAULT '', rest TEXT NOT NULL DEFAULT '{}');
CREATE INDEX tasks_waiting ON tasks (queue, priority DESC, seq) WHERE status = -2;
CREATE INDEX tasks_in_hand ON tasks (node, status) WHERE status IN (-1, 0);
CREATE INDEX tasks_due ON tasks (not_before) WHERE status = -4 AND not_before IS NOT NULL;
CREATE INDEX tasks_status ON tasks (queue, status);
CREATE TABLE output (
    task TEXT NOT NULL, token TEXT NOT NULL, stream TEXT NOT NULL, number INTEGER NOT NULL, data BLOB NOT NULL,
    UNIQUE (task, token, stream, number));
PRAGMA user_version = 1;
"""
LAYOUT_2 = f"{LAYOUT_1}ALTER TABLE tasks ADD COLUMN run TEXT; PRAGMA user_version = 2;"


@pytest.mark.parametrize("layout", [LAYOUT_1, LAYOUT_2], ids=["1", "2"])
def test_a_file_of_an_older_layout_becomes_one_of_this_and_loses_nothing(sqlite_file: Path, layout: str) -> None:
    fields = {
        "a": '{"note": {"$$x": 1}, "error": {"code": "timeout"}}',
        "b": '{"after": ["a", "gone"], "unique_key": "k", "expires": {"$date": 5000}, "parent": "a", "log": [1]}',
        "c": '{"after": "a", "unique_key": 5, "awaited": false, "cancel": {"at": {"$date": 1}, "by": "me"}}',
        "d": "oops",
    }
    old = sqlite3.connect(sqlite_file)
    old.executescript(layout)
    for task_id, rest in fields.items():
        old.execute("INSERT INTO tasks (id, queue, status, rest) VALUES (?, 'q', -4, ?)", (task_id, rest))
    run = (
        "rest = json_set(rest, '$.run', json('{\"attempt\": 2}'))" if layout == LAYOUT_1 else "run = '{\"attempt\": 2}'"
    )
    old.execute(f"UPDATE tasks SET not_before = 5, {run} WHERE id = 'a'")
    old.commit()
    old.close()
    store = SqliteStore(sqlite_file, SystemClock())
    store.open()
    a, b, c, d = (dict(task.document) for task in store.find_tasks(TaskFilter()))
    assert (a["note"], a["error"], a["run"], a["awaited"]) == ({"$x": 1}, {"code": "timeout"}, {"attempt": 2}, True)
    assert (b["after"], b["unique_key"], b["parent"], b["log"]) == (["a", "gone"], "k", "a", [1])
    assert b["expires"].timestamp() == 5 and c["cancel"]["by"] == "me" and c["awaited"] is False
    assert d["_id"] == "d"
    assert [task.id for task in store.find_tasks(TaskFilter(after="a"))] == ["b"]
    assert push(store, {}, unique_key="k") == ["b"]
    assert {task.id for task in store.due("n1")} == {"b", "c"}  # expired, and to be cancelled
    assert store.promote_due() == 1
    store.close()
    fresh = sqlite_file.with_name("fresh.db")
    SqliteStore(fresh, SystemClock()).open()
    assert [layout_of(one) for one in (sqlite_file, fresh)] == [layout_of(fresh)] * 2


def layout_of(file: Path) -> list[Any]:
    """Tables with their columns, indexes and triggers."""
    with sqlite3.connect(file) as connection:
        names = connection.execute("SELECT type, name FROM sqlite_master ORDER BY type, name").fetchall()
        columns = [
            sorted((row[1], row[2]) for row in connection.execute(f"PRAGMA table_info({name})"))
            for kind, name in names
            if kind == "table"
        ]
        return [names, columns, connection.execute("PRAGMA user_version").fetchall()]


def test_a_row_inserted_by_hand_may_wait_for_others(sqlite: SqliteStore, sqlite_file: Path) -> None:
    (a,) = push(sqlite, {})
    with sqlite3.connect(sqlite_file) as by_hand:
        by_hand.execute(
            f"""INSERT INTO tasks (id, queue, status, after) VALUES ('x', 'q', -4, '["{a}", null, "{a}"]')"""
        )
        by_hand.execute("INSERT INTO tasks (id, queue, status, after) VALUES ('y', 'q', -4, '[oops')")
    assert [task.id for task in sqlite.find_tasks(TaskFilter(after=a))] == ["x"]
    awaited, damaged = sqlite.get_task(a), sqlite.get_task("y")
    assert awaited is not None and awaited.document["awaited"] is True
    assert damaged is not None and damaged.fault is not None and '"after"' in damaged.fault
    with sqlite3.connect(sqlite_file) as by_hand:
        by_hand.execute("UPDATE tasks SET after = ? WHERE id = 'y'", (f'["{a}"]',))
        by_hand.execute("DELETE FROM tasks WHERE id = 'x'")
    assert [task.id for task in sqlite.find_tasks(TaskFilter(after=a))] == ["y"]
    assert sqlite.delete_tasks(["y"]) == 1
    with sqlite3.connect(sqlite_file) as by_hand:
        assert by_hand.execute("SELECT count(*) FROM followers").fetchone() == (0,)


@pytest.mark.parametrize("name", ["after", "unique_key", "expires", "parent"])
def test_what_control_reads_must_be_of_its_kind(sqlite: SqliteStore, name: str) -> None:
    with pytest.raises(StoreRefusedError, match="expected a"):
        push(sqlite, {}, **{name: 5})
    assert sqlite.count_tasks(TaskFilter()) == 0


def test_keys_hold_for_follow_up_tasks_as_well(sqlite: SqliteStore) -> None:
    _, key = claim_one(sqlite)
    (holder,) = push(sqlite, {}, unique_key="k")
    creates = tuple(new_task("q", {}, now=NOW, **more) for more in ({"unique_key": "k"}, {}, {"after": [holder]}))
    ended = dataclasses.replace(change(key, Status.CLAIMED, Status.FAILED), creates=creates)
    assert sqlite.commit([ended]) == set()
    assert [one.id for one in sqlite.find_tasks(TaskFilter(unique_key="k"))] == [holder]
    assert sqlite.count_tasks(TaskFilter()) == 4 and sqlite.count_tasks(TaskFilter(after=holder)) == 1


def test_a_file_has_no_collections(sqlite: SqliteStore) -> None:
    with pytest.raises(StoreRefusedError, match="store with collections"):
        sqlite.documents_of("users", {})


def test_a_note_that_cannot_be_read_is_told(sqlite: SqliteStore, sqlite_file: Path) -> None:
    with sqlite3.connect(sqlite_file) as by_hand:
        by_hand.execute("INSERT INTO notes VALUES ('n', 'oops')")
    with pytest.raises(StoreRefusedError, match='note "n"'):
        sqlite.read_note("n")
    sqlite.write_note("n", {"a": 1})
    assert sqlite.read_note("n") == {"a": 1}


class StandingClock(SystemClock):
    """Stands still unless it is told to go on."""

    def __init__(self) -> None:
        self.at = NOW

    def now(self) -> datetime:
        return self.at


@pytest.mark.parametrize(
    "rate",
    [Rate(1, 1.0), Rate(7, 1.0), Rate(100, 60.0), Rate(1000, 1.0), Rate(3, 0.05), Rate(10, 0.1), Rate(1, 86400.0)],
    ids=str,
)
def test_a_rate_is_used_up_but_never_exceeded(sqlite_file: Path, rate: Rate) -> None:
    clock = StandingClock()
    store = SqliteStore(sqlite_file, clock)
    store.open()
    push(store, *({} for _ in range(4 * rate.count + 20)))
    step = timedelta(milliseconds=max(1, int(rate.seconds * 1000 / 97)))
    moments: list[datetime] = []
    while clock.at < NOW + timedelta(seconds=rate.seconds * 3):
        got = store.claim("n1", [Want("q", 1000, rate=rate)], f"t{clock.at}")
        moments += [clock.at] * len(got)
        clock.at += step
    for first, beyond in zip(moments, moments[rate.count :], strict=False):
        assert beyond - first >= timedelta(seconds=rate.seconds)
    assert len(moments) >= 2 * rate.count
    store.close()


def test_what_a_rate_grants_and_nobody_uses_is_not_used_up(sqlite_file: Path) -> None:
    clock, rate = StandingClock(), Rate(100, 1.0)  # ten at once
    store = SqliteStore(sqlite_file, clock)
    store.open()
    claim = lambda token, count: len(store.claim("n1", [Want("q", count, rate=rate)], token))  # noqa: E731
    for _ in range(3):
        assert claim("t0", 100) == 0
    push(store, *({} for _ in range(30)))
    assert [claim("t1", 4), claim("t2", 100), claim("t3", 100)] == [4, 6, 0]
    store.close()


@pytest.mark.parametrize("ahead", [timedelta(days=-400), timedelta(days=400)], ids=["back", "forth"])
def test_a_rate_goes_on_after_the_clock_was_set(sqlite_file: Path, ahead: timedelta) -> None:
    clock, rate = StandingClock(), Rate(1, 60.0)
    store = SqliteStore(sqlite_file, clock)
    store.open()
    push(store, {}, {}, {})
    claim = lambda token, one=rate: len(store.claim("n1", [Want("q", 9, rate=one)], token))  # noqa: E731
    assert claim("t1") == 1 and claim("t2") == 0
    clock.at += ahead
    if ahead < timedelta(0):  # what was claimed before the clock was set back may have been claimed just now
        assert claim("t3") == 0
        clock.at += timedelta(seconds=60)
    assert claim("t4") == 1
    assert claim("t5", Rate(5, 0.05)) == 0
    clock.at += timedelta(seconds=0.05)
    assert claim("t6", Rate(5, 0.05)) == 1  # a rate that was changed holds at once
    store.close()


def test_ids_rise_whatever_the_clock_does(sqlite_file: Path) -> None:
    clock = StandingClock()
    store = SqliteStore(sqlite_file, clock)
    ids = store.new_ids(100_000)  # more than there are numbers in a millisecond
    for seconds in (0, -3600, 0.5, 7200):
        clock.at += timedelta(seconds=seconds)
        ids += store.new_ids(3)
    assert ids == sorted(ids) and len(set(ids)) == len(ids) and {len(one) for one in ids} == {24}
    assert int(ids[-1][:8], 16) == int(clock.at.timestamp())


def test_the_same_rows_are_seen_with_their_changes_undone_after_a_failure(sqlite: SqliteStore) -> None:
    """A batch is written whole or not at all."""
    task, key = claim_one(sqlite)
    good = change(key, Status.CLAIMED, Status.RUNNING, stdout="x")
    bad = change(RunKey(task.id, "n1", "t1"), Status.RUNNING, value=float("nan"))
    with pytest.raises(StoreRefusedError, match="nan"):
        sqlite.commit([good, bad])
    found = sqlite.get_task(task.id)
    assert found is not None and found.status == Status.CLAIMED and found.document["stdout"] == ""


def test_ids_rise_also_over_the_processes_of_a_second(sqlite: SqliteStore) -> None:
    ids = [push(sqlite, {})[0] for _ in range(300)]
    assert ids == sorted(ids) and len(set(ids)) == 300


@pytest.mark.parametrize("queue", [None, 5, {"a": 1}, ""])
def test_a_queue_id_that_is_no_text_is_refused(sqlite: SqliteStore, queue: Any) -> None:
    with pytest.raises(StoreRefusedError, match="expected an id that is a string"):
        sqlite.insert_tasks([new_task(queue, {}, now=NOW)])


def test_a_task_given_a_node_and_back_is_nobodys(sqlite: SqliteStore) -> None:
    (task_id,) = push(sqlite, {}, node=None)
    found = sqlite.get_task(task_id)
    assert found is not None and found.document["node"] == NOBODY


# What people have written into the file by hand. Each of these stopped the node, and orphaned what it ran.
DAMAGE = {
    "parameters": ["{oops", b"\xff\x00", ""],
    "rest": ["not json", "[1]", "null", "5"],
    "run": ["{", b"{}"],
    "ctime": ["2026-01-01", 10**18],
    "mtime": ["today"],
    "claimed_at": ["x"],
}


@pytest.mark.parametrize(("column", "value"), [(column, value) for column in DAMAGE for value in DAMAGE[column]])
def test_a_task_that_cannot_be_read_costs_only_itself(
    sqlite: SqliteStore, sqlite_file: Path, caplog: pytest.LogCaptureFixture, column: str, value: Any
) -> None:
    before, damaged, behind = push(sqlite, {"n": 1}, {"n": 2}, {"n": 3})
    with sqlite3.connect(sqlite_file) as by_hand:
        if column == "claimed_at":
            by_hand.execute("UPDATE tasks SET claim_token = 'x' WHERE id = ?", (damaged,))
        by_hand.execute(f"UPDATE tasks SET {column} = ? WHERE id = ?", (value, damaged))
    assert [task.id for task in sqlite.claim("n1", [Want("q", 2)], "t1")] == [before, behind]
    assert sqlite.claim("n1", [Want("q", 2)], "t2") == []
    assert len(caplog.records) == 1 and f"task {damaged} of queue q" in caplog.text
    shown = sqlite.get_task(damaged)
    assert shown is not None and shown.fault is not None and f'"{column}"' in shown.fault
    assert (shown.status, shown.node, shown.queue) == (Status.CREATED, None, "q")
    assert {task.id for task in sqlite.find_tasks(TaskFilter())} == {before, damaged, behind}
    assert sqlite.count_by_status() == {"q": {-2: 1, -1: 2}}
    commit = [change(RunKey(one, "n1", "t1"), Status.CLAIMED, Status.FAILED) for one in (before, behind)]
    assert sqlite.commit(commit) == set()
    assert not sqlite.has_unfinished(["q"])  # nothing that a node could do


def test_a_task_that_was_mended_is_claimed(sqlite: SqliteStore, sqlite_file: Path) -> None:
    (task,) = push(sqlite, {})
    with sqlite3.connect(sqlite_file) as by_hand:
        by_hand.execute("UPDATE tasks SET parameters = '{' WHERE id = ?", (task,))
    assert sqlite.claim("n1", [Want("q", 1)], "t1") == [] and not sqlite.has_unfinished(["q"])
    with sqlite3.connect(sqlite_file) as by_hand:
        by_hand.execute("UPDATE tasks SET parameters = '{}' WHERE id = ?", (task,))
    assert [one.id for one in sqlite.claim("n1", [Want("q", 1)], "t2")] == [task] and sqlite.has_unfinished(["q"])


def test_text_that_is_no_utf_8_costs_only_its_row(sqlite: SqliteStore, sqlite_file: Path) -> None:
    damaged, behind = push(sqlite, {}, {})
    with sqlite3.connect(sqlite_file) as by_hand:
        latin = "CAST(x'7b2261223a22fc227d' AS TEXT)"
        by_hand.execute(f"UPDATE tasks SET parameters = {latin} WHERE id = ?", (damaged,))
        by_hand.execute(f"INSERT INTO queues VALUES ('latin', {latin})")
    assert [task.id for task in sqlite.claim("n1", [Want("q", 2)], "t1")] == [behind]
    assert [task.fault is None for task in sqlite.find_tasks(TaskFilter())] == [False, True]
    assert [queue.fault is None for queue in sqlite.queues()] == [False]


def test_what_a_column_says_wins_over_the_rest_of_a_row(sqlite: SqliteStore, sqlite_file: Path) -> None:
    """`rest` with an `_id`, a status or a node of its own left the row Claimed after an orderly stop."""
    (task_id,) = push(sqlite, {})
    with sqlite3.connect(sqlite_file) as by_hand:
        rest = '{"_id": "zz", "status": 1, "node": "evil", "claim": {"token": "x"}, "run": 1, "queue": "w", "note": 5}'
        by_hand.execute("UPDATE tasks SET rest = ?", (rest,))
    found = sqlite.get_task(task_id)
    assert found is not None and (found.id, found.status, found.node, found.token) == (task_id, -2, None, None)
    (task,) = sqlite.claim(
        "n1", [Want("q", 1)], "t1", lambda one: change(RunKey(one.id, "n1", "t1"), Status.CLAIMED, 0)
    )
    assert (task.id, task.queue, task.run, task.document["note"]) == (task_id, "q", {}, 5)
    back = RunChange(
        key=RunKey(task.id, "n1", task.token), statuses=(Status.RUNNING,), set={"status": -2, "node": NOBODY},
        unset=("claim",),
    )  # fmt: skip
    assert sqlite.commit([back]) == set()
    assert sqlite.count_by_status() == {"q": {-2: 1}}


def test_the_end_of_a_run_is_recorded_where_its_row_was_damaged_meanwhile(
    sqlite: SqliteStore, sqlite_file: Path
) -> None:
    task, key = claim_one(sqlite)
    with sqlite3.connect(sqlite_file) as by_hand:
        by_hand.execute("UPDATE tasks SET rest = '{\"note\": oops}'")
    ended = change(key, Status.CLAIMED, Status.FAILED, result=5)
    assert sqlite.commit([ended]) == sqlite.commit([ended]) == set()
    found = sqlite.get_task(task.id)
    assert found is not None and found.fault is None
    assert (found.status, found.document["result"], found.document["damaged_rest"]) == (2, 5, '{"note": oops}')


@pytest.mark.parametrize("document", ["oops", "[]", "null", "", '{"class": 5}', b"\xff"])
def test_a_queue_that_cannot_be_read_has_a_fault_and_costs_no_other(
    sqlite: SqliteStore, sqlite_file: Path, document: Any
) -> None:
    sqlite.insert_queue({"_id": "good", "class": "A"})
    with sqlite3.connect(sqlite_file) as by_hand:
        by_hand.execute("INSERT INTO queues VALUES ('bad', ?)", (document,))
    bad, good = sqlite.queues()
    assert (bad.id, good.id, good.fault) == ("bad", "good", None) and bad.fault
    assert sqlite.find_queue("bad") == bad
    if "class" not in str(document):
        with pytest.raises(StoreRefusedError, match="'bad' cannot be changed"):
            sqlite.update_queue("bad", {"class": "B"})
    assert sqlite.delete_queue("bad")


def test_the_id_of_a_queue_is_its_column(sqlite: SqliteStore, sqlite_file: Path) -> None:
    """A document without `_id` stopped the node."""
    with sqlite3.connect(sqlite_file) as by_hand:
        by_hand.execute("""INSERT INTO queues VALUES ('bare', '{"class": "D::Small"}')""")
        by_hand.execute("""INSERT INTO queues VALUES ('other', '{"_id": "x", "class": "D::Small"}')""")
    assert [(queue.id, queue.class_name, queue.fault) for queue in sqlite.queues()] == [
        ("bare", "D::Small", None), ("other", "D::Small", None),
    ]  # fmt: skip


@pytest.mark.parametrize(("column", "value"), [("document", "oops"), ("document", "[]"), ("heartbeat_at", "now")])
def test_a_node_that_cannot_be_read_is_one_that_nobody_knows_and_mends_itself(
    sqlite: SqliteStore, sqlite_file: Path, column: str, value: str
) -> None:
    for name in ("a", "b"):
        assert sqlite.put_node({"_id": name, "session": name}, replacing=None)
    with sqlite3.connect(sqlite_file) as by_hand:
        by_hand.execute(f"UPDATE nodes SET {column} = ? WHERE id = 'a'", (value,))
    assert [(node.id, node.session) for node in sqlite.nodes()] == [("a", "a"), ("b", "b")]
    assert sqlite.heartbeat("a", "a", {"heartbeat": {"pid": 1}}) is not None
    node = sqlite.get_node("a")
    assert node is not None and node.document["heartbeat"]["pid"] == 1 and node.age_seconds is not None


def test_a_status_that_is_no_number_is_counted_as_blocked(sqlite: SqliteStore, sqlite_file: Path) -> None:
    push(sqlite, {}, {})
    with sqlite3.connect(sqlite_file) as by_hand:
        by_hand.execute("UPDATE tasks SET status = 'done' WHERE seq = 1")
    assert sqlite.count_by_status() == {"q": {-2: 1, -4: 1}}
