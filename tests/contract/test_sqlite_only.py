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
from disbatch_host.model import NOBODY, RunKey, TaskFilter, new_task
from disbatch_host.store.sqlite import SqliteStore
from disbatch_protocol.status import Status

BUSY_PROCESS = """
import sys, time
from pathlib import Path
from disbatch_host.clock import SystemClock
from disbatch_host.model import RunChange, RunKey, new_task
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
    assert store.heartbeat(name, name, {"heartbeat": {"pid": rounds}})
    tasks = store.claim(name, [("q", 3)], f"{name}-{rounds}")
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
    tasks = sqlite.claim("n1", [("q", 9)], "t1")
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
    sqlite.claim("n1", [("q", 5)], "t2")
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
