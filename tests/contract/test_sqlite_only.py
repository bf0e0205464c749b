"""What is only SQLite's: several processes on one file, rows that people insert by hand, the plans of hot queries."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contract.test_store import NOW, change, claim_one, push
from disbatch_host.clock import SystemClock
from disbatch_host.errors import StoreRefusedError
from disbatch_host.model import NOBODY, RunChange, RunKey, TaskFilter, Want, new_task
from disbatch_host.store.sqlite import SqliteStore
from disbatch_protocol.status import Status

BUSY_PROCESS = """
import sys, time
from pathlib import Path
from disbatch_host.clock import SystemClock
from disbatch_host.model import RunChange, RunKey, Want, new_task
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


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "test.db"


@pytest.fixture
def sqlite(file: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(file, SystemClock())
    store.open()
    yield store
    store.close()


def test_six_processes_on_one_file_never_find_it_locked(sqlite: SqliteStore, file: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BUSY_PROCESS, str(file), f"n{number}"],
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


def test_a_row_inserted_by_hand_is_a_conforming_task(sqlite: SqliteStore, file: Path) -> None:
    with sqlite3.connect(file) as by_hand:
        by_hand.execute("""INSERT INTO tasks (queue, parameters) VALUES ('q', '{"name": "Matt"}')""")
        by_hand.execute("INSERT INTO tasks (queue, node) VALUES ('q', NULL)")
        by_hand.execute("INSERT INTO tasks (queue, node, rest) VALUES ('q', -1, '{\"log\": [], \"note\": 1}')")
    tasks = sqlite.claim("n1", [Want("q", 9)], "t1")
    assert [task.parameters for task in tasks] == [{"name": "Matt"}, {}, {}]
    document = tasks[2].document
    assert (document["log"], document["note"], document["stdout"]) == ([], 1, "")
    assert all(len(task.id) == 24 and task.document["ctime"] <= sqlite.now() for task in tasks)
    assert len({task.id for task in tasks}) == 3


def test_no_hot_statement_reads_all_tasks(sqlite: SqliteStore, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    sqlite._connection.set_trace_callback(None)
    looked_at = 0
    for statement in statements:
        if not statement.lstrip().upper().startswith(("SELECT", "UPDATE", "WITH", "DELETE")):
            continue
        plan = [row[3] for row in sqlite._connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
        looked_at += 1
        assert not [step for step in plan if step.startswith("SCAN tasks") and "INDEX" not in step], (statement, plan)
        # What a node has in hand is little, and may be sorted.
        assert "tasks_in_hand" in str(plan) or "TEMP B-TREE" not in str(plan), (statement, plan)
    assert looked_at >= 7


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
    with pytest.raises(StoreRefusedError, match="expected an id that is a text"):
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
    sqlite: SqliteStore, file: Path, caplog: pytest.LogCaptureFixture, column: str, value: Any
) -> None:
    before, damaged, behind = push(sqlite, {"n": 1}, {"n": 2}, {"n": 3})
    with sqlite3.connect(file) as by_hand:
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
    commit = [change(RunKey(one, "n1", "t1"), Status.CLAIMED, Status.CONCLUDED) for one in (before, behind)]
    assert sqlite.commit(commit) == set()
    assert not sqlite.has_unfinished(["q"])  # nothing that a node could do


def test_a_task_that_was_mended_is_claimed(sqlite: SqliteStore, file: Path) -> None:
    (task,) = push(sqlite, {})
    with sqlite3.connect(file) as by_hand:
        by_hand.execute("UPDATE tasks SET parameters = '{' WHERE id = ?", (task,))
    assert sqlite.claim("n1", [Want("q", 1)], "t1") == [] and not sqlite.has_unfinished(["q"])
    with sqlite3.connect(file) as by_hand:
        by_hand.execute("UPDATE tasks SET parameters = '{}' WHERE id = ?", (task,))
    assert [one.id for one in sqlite.claim("n1", [Want("q", 1)], "t2")] == [task] and sqlite.has_unfinished(["q"])


def test_text_that_is_no_utf_8_costs_only_its_row(sqlite: SqliteStore, file: Path) -> None:
    damaged, behind = push(sqlite, {}, {})
    with sqlite3.connect(file) as by_hand:
        latin = "CAST(x'7b2261223a22fc227d' AS TEXT)"
        by_hand.execute(f"UPDATE tasks SET parameters = {latin} WHERE id = ?", (damaged,))
        by_hand.execute(f"INSERT INTO queues VALUES ('latin', {latin})")
    assert [task.id for task in sqlite.claim("n1", [Want("q", 2)], "t1")] == [behind]
    assert [task.fault is None for task in sqlite.find_tasks(TaskFilter())] == [False, True]
    assert [queue.fault is None for queue in sqlite.queues()] == [False]


def test_what_a_column_says_wins_over_the_rest_of_a_row(sqlite: SqliteStore, file: Path) -> None:
    """`rest` with an `_id`, a status or a node of its own left the row Claimed after an orderly stop."""
    (task_id,) = push(sqlite, {})
    with sqlite3.connect(file) as by_hand:
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


def test_the_end_of_a_run_is_recorded_where_its_row_was_damaged_meanwhile(sqlite: SqliteStore, file: Path) -> None:
    task, key = claim_one(sqlite)
    with sqlite3.connect(file) as by_hand:
        by_hand.execute("UPDATE tasks SET rest = '{\"note\": oops}'")
    ended = change(key, Status.CLAIMED, Status.CONCLUDED, result=5)
    assert sqlite.commit([ended]) == sqlite.commit([ended]) == set()
    found = sqlite.get_task(task.id)
    assert found is not None and found.fault is None
    assert (found.status, found.document["result"], found.document["damaged_rest"]) == (1, 5, '{"note": oops}')


@pytest.mark.parametrize("document", ["oops", "[]", "null", "", '{"class": 5}', b"\xff"])
def test_a_queue_that_cannot_be_read_has_a_fault_and_costs_no_other(
    sqlite: SqliteStore, file: Path, document: Any
) -> None:
    sqlite.insert_queue({"_id": "good", "class": "A"})
    with sqlite3.connect(file) as by_hand:
        by_hand.execute("INSERT INTO queues VALUES ('bad', ?)", (document,))
    bad, good = sqlite.queues()
    assert (bad.id, good.id, good.fault) == ("bad", "good", None) and bad.fault
    assert sqlite.find_queue("bad") == bad
    if "class" not in str(document):
        with pytest.raises(StoreRefusedError, match="'bad' cannot be changed"):
            sqlite.update_queue("bad", {"class": "B"})
    assert sqlite.delete_queue("bad")


def test_the_id_of_a_queue_is_its_column(sqlite: SqliteStore, file: Path) -> None:
    """A document without `_id` stopped the node."""
    with sqlite3.connect(file) as by_hand:
        by_hand.execute("""INSERT INTO queues VALUES ('bare', '{"class": "D::Small"}')""")
        by_hand.execute("""INSERT INTO queues VALUES ('other', '{"_id": "x", "class": "D::Small"}')""")
    assert [(queue.id, queue.class_name, queue.fault) for queue in sqlite.queues()] == [
        ("bare", "D::Small", None), ("other", "D::Small", None),
    ]  # fmt: skip


@pytest.mark.parametrize(("column", "value"), [("document", "oops"), ("document", "[]"), ("heartbeat_at", "now")])
def test_a_node_that_cannot_be_read_is_one_that_nobody_knows_and_mends_itself(
    sqlite: SqliteStore, file: Path, column: str, value: str
) -> None:
    for name in ("a", "b"):
        assert sqlite.put_node({"_id": name, "session": name}, replacing=None)
    with sqlite3.connect(file) as by_hand:
        by_hand.execute(f"UPDATE nodes SET {column} = ? WHERE id = 'a'", (value,))
    assert [(node.id, node.session) for node in sqlite.nodes()] == [("a", "a"), ("b", "b")]
    assert sqlite.heartbeat("a", "a", {"heartbeat": {"pid": 1}}) is not None
    node = sqlite.get_node("a")
    assert node is not None and node.document["heartbeat"]["pid"] == 1 and node.age_seconds is not None


def test_a_status_that_is_no_number_is_counted_as_blocked(sqlite: SqliteStore, file: Path) -> None:
    push(sqlite, {}, {})
    with sqlite3.connect(file) as by_hand:
        by_hand.execute("UPDATE tasks SET status = 'done' WHERE seq = 1")
    assert sqlite.count_by_status() == {"q": {-2: 1, -4: 1}}
