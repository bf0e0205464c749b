"""The outputs of earlier attempts, on SQLite and on the real MongoDB: kept together with the start of another one, also
with its claim, and deleted with their task."""

from __future__ import annotations

from typing import Any

import pytest

from disbatch_host.documents import transitions
from disbatch_host.documents.changes import OUTPUT_CHUNK_SIZE, RunChange, RunKey, Want
from disbatch_host.documents.records import Task
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status
from helpers.stores import NOW, claim_one, end, push, stored, task_of

TEXT = "ä" * OUTPUT_CHUNK_SIZE  # of three pieces, whose borders are in characters
RUN = {"attempt": 1, "pid": 7, "output": {"stdout": {"bytes": 2 * OUTPUT_CHUNK_SIZE, "in_file": False}}}


def ran(store: Store, *, stdout: str = TEXT, times: int = 1) -> Any:
    """The id of a task that waits for another attempt after so many of them."""
    attempts = [
        {"attempt": number, "token": f"t{number}", "status": -4, "output": RUN["output"]}
        for number in range(1, times + 1)
    ]
    run = {**RUN, "attempt": times, "token": f"t{times}"}
    (task_id,) = push(store, {}, stdout=stdout, run=run, attempts=attempts)
    return task_id


def start_with_claim(task: Task) -> RunChange:
    run = {"attempt": task.next_attempt, "token": task.token}
    return transitions.start_change(task, RunKey(task.id, "n1", task.token), run, now=NOW, keep_attempts=2)


def read(store: Store, task_id: Any, token: str, stream: str = "stdout") -> str:
    return b"".join(store.read_output(task_id, token, stream)).decode()


@pytest.mark.parametrize("with_claim", [True, False], ids=["with its claim", "after its claim"])
def test_the_start_of_another_attempt_keeps_the_output_of_the_one_before(store: Store, *, with_claim: bool) -> None:
    task_id = ran(store)
    for number in (2, 3):
        (task,) = store.claim("n1", [Want("q", 1)], f"t{number}", start_with_claim if with_claim else None)
        if not with_claim:
            assert store.commit([start_with_claim(task)]) == set()
        document = stored(store, task_id)
        assert document["status"] == Status.RUNNING and document["stdout"] == document["stderr"] == ""
        last = f"attempt {number}"
        key = RunKey(task_id, "n1", f"t{number}")
        back = {"status": int(Status.CREATED), "node": -1, "stdout": last, "stderr": "no"}
        entry = {"attempt": number, "token": f"t{number}", "status": -2, "output": {}}
        back |= {"attempts": [*document["attempts"], entry], "run": {**document["run"], "output": {}}}
        assert store.commit([RunChange(key=key, statuses=(Status.RUNNING,), set=back)]) == set()
    assert read(store, task_id, "t1") == ""  # of two attempts, with the current one
    assert read(store, task_id, "t2") == "attempt 2" and read(store, task_id, "t2", "stderr") == "no"
    assert ["output" in one for one in stored(store, task_id)["attempts"]] == [False, True, True]
    assert read(store, task_id, "t3") == ""  # it is in the document


def test_text_of_several_pieces_comes_back_as_it_was_from_any_of_them(store: Store) -> None:
    task_id = ran(store)
    store.claim("n1", [Want("q", 1)], "t2", start_with_claim)
    pieces = list(store.read_output(task_id, "t1", "stdout"))
    assert [len(one) for one in pieces] == [OUTPUT_CHUNK_SIZE, OUTPUT_CHUNK_SIZE]
    assert b"".join(pieces).decode() == TEXT
    assert list(store.read_output(task_id, "t1", "stdout", first=1)) == pieces[1:]


def test_a_start_that_is_refused_neither_writes_nor_deletes(store: Store) -> None:
    task_id = ran(store, times=3)
    (task,) = store.claim("n1", [Want("q", 1)], "t9")
    change = start_with_claim(task)
    assert change.keeps and change.forgets
    store.commit([RunChange(key=change.key, statuses=(Status.CLAIMED,), set={"status": -2, "node": -1})])
    assert store.commit([change]) == {change.key}
    assert stored(store, task_id)["stdout"] == TEXT and len(stored(store, task_id)["attempts"]) == 3


def test_a_task_that_is_deleted_meanwhile_leaves_no_output(store: Store) -> None:
    ran(store)
    (task,) = store.claim("n1", [Want("q", 1)], "t9")
    change = start_with_claim(task)
    assert store.delete_tasks([task.id]) == 1
    assert store.commit([change]) == {change.key}
    assert read(store, task.id, "t1") == ""


def test_a_task_is_deleted_with_the_outputs_of_all_its_attempts(store: Store) -> None:
    task_id, other = ran(store), ran(store)
    for number in (2, 3):
        for task in store.claim("n1", [Want("q", 2)], f"t{number}", start_with_claim):
            key = RunKey(task.id, "n1", f"t{number}")
            document = stored(store, task.id)
            entry = {"attempt": number, "token": f"t{number}", "status": -2, "output": {}}
            back = {"status": -2, "node": -1, "stdout": "x", "attempts": [*document["attempts"], entry]}
            store.commit([RunChange(key=key, statuses=(Status.RUNNING,), set=back)])
    assert read(store, task_id, "t2") == read(store, other, "t2") == "x"
    end(store, task_id, int(Status.FAILED))
    assert store.delete_tasks([task_id]) == 1
    assert [read(store, task_id, f"t{number}") for number in (1, 2, 3)] == ["", "", ""]
    assert read(store, other, "t2") == "x"


def test_a_first_start_writes_nothing_besides(store: Store) -> None:
    task, _ = claim_one(store)
    change = start_with_claim(task_of(store, task.id))
    assert change.keeps == () and change.forgets == () and "attempts" not in change.set
