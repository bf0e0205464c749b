"""The one suite that both stores must pass: what `store.base` promises, on SQLite and on the real MongoDB."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from disbatch_host.clock import SystemClock
from disbatch_host.documents.changes import OUTPUT_CHUNK_SIZE, OutputChunk, RunChange, RunKey, TaskFilter, Want
from disbatch_host.documents.records import NOBODY, NodeRecord, new_task
from disbatch_host.errors import DuplicateIdError, StoreRefusedError, StoreTooNewError
from disbatch_host.store.contract import SCHEMA_VERSION, Store
from disbatch_host.store.open import open_store
from disbatch_protocol.status import Status
from helpers.stores import NOW, change, claim_one, push, stored


def test_a_new_task_is_as_den_1_0_wants_it(store: Store) -> None:
    (task_id,) = push(store, {"name": "Matt"})
    document = stored(store, task_id)
    assert document == {
        "_id": task_id,
        "queue": "q",
        "ctime": NOW,
        "mtime": NOW,
        "parameters": {"name": "Matt"},
        "stdout": "",
        "stderr": "",
        "status": -2,
        "node": -1,
    }
    assert len(str(task_id)) == 24


VALUES: list[Any] = [
    None,
    True,
    0,
    -(2**63),
    2**63 - 1,
    1.5,
    "",
    "nul \0 and 𝄞 and \u2028",
    [],
    {},
    {"$date": "not a date"},
    {"$date": 5},
    {"$$double": {"$one": 1}},
    {"a.b": 1, "": 2},
    [1, "two", {"three": [None]}],
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_parameters_and_free_fields_come_back_as_they_were(store: Store, value: Any) -> None:
    (task_id,) = push(store, {"value": value}, free={"value": value, "at": NOW})
    document = stored(store, task_id)
    assert document["parameters"] == {"value": value}
    assert document["free"] == {"value": value, "at": NOW}


@pytest.mark.parametrize("value", [2**70, object()], ids=["too large", "no document type"])
def test_what_cannot_be_stored_is_refused(store: Store, value: Any) -> None:
    with pytest.raises(StoreRefusedError):
        push(store, {"value": value})
    assert store.count_tasks(TaskFilter()) == 0


def test_a_document_above_sixteen_mebibytes_is_refused_in_words(store: Store) -> None:
    with pytest.raises(StoreRefusedError, match="at most 16777216 bytes"):
        push(store, {"data": "x" * (17 * 2**20)})


def test_an_id_that_exists_is_refused(store: Store) -> None:
    (task_id,) = push(store, {})
    with pytest.raises(DuplicateIdError):
        push(store, {}, _id=task_id)


def test_ten_thousand_tasks_in_one_go_keep_their_order(store: Store) -> None:
    ids = push(store, *({"n": number} for number in range(10_000)))
    assert len(set(ids)) == 10_000
    seen = [task.parameters["n"] for task in store.find_tasks(TaskFilter(queue="q"))]
    assert seen == list(range(10_000))
    newest = store.find_tasks(TaskFilter(queue="q"), limit=3, newest_first=True)
    assert [task.parameters["n"] for task in newest] == [9999, 9998, 9997]


def test_filters_narrow(store: Store) -> None:
    mine = push(store, {}, {}, queue="q")
    push(store, {}, queue="other")
    (failed,) = push(store, {}, queue="q", status=7)
    (claimed,) = store.claim("n1", [Want("q", 1)], "t1")
    find = lambda **which: {task.id for task in store.find_tasks(TaskFilter(**which))}  # noqa: E731
    assert find(queue="q") == {*mine, failed}
    assert find(node="n1") == {claimed.id}
    assert find(ids=[failed, mine[0]]) == {failed, mine[0]}
    assert find(ids=[]) == set()
    assert find(queue="q", statuses=frozenset({2})) == set()
    assert find(queue="q", statuses=frozenset({2}), or_failed=True) == {failed}
    assert store.count_tasks(TaskFilter(queue="q", statuses=frozenset({-2, -1}))) == 2


def test_counts_are_by_queue_and_status(store: Store) -> None:
    push(store, {}, {}, {})
    push(store, {}, queue="other", status=7)
    store.claim("n1", [Want("q", 1)], "t1")
    assert store.count_by_status() == {"q": {-2: 2, -1: 1}, "other": {7: 1}}


def test_without_output_documents_are_small(store: Store) -> None:
    push(store, {}, stdout="much")
    (task,) = store.find_tasks(TaskFilter(), with_output=False)
    assert "stdout" not in task.document and "stderr" not in task.document


def test_a_task_is_found_by_the_text_of_its_id(store: Store) -> None:
    (task_id,) = push(store, {})
    parsed = store.parse_id(str(task_id))
    assert store.get_task(parsed) is not None
    for text in ("", "nonsense", "0" * 24):
        parsed = store.parse_id(text)
        assert parsed is None or store.get_task(parsed) is None


def test_deleted_tasks_are_gone_with_their_output(store: Store) -> None:
    task, key = claim_one(store)
    store.commit([], [OutputChunk(key=key, stream="stdout", number=0, data=b"x")])
    assert store.delete_tasks([task.id]) == 1
    assert store.delete_tasks([task.id]) == 0
    assert store.get_task(task.id) is None
    assert list(store.read_output(task.id, "t1", "stdout")) == []


def test_a_claim_marks_the_task_and_gives_it_back(store: Store) -> None:
    push(store, {"n": 1})
    (task,) = store.claim("n1", [Want("q", 10)], "t1")
    document = stored(store, task.id)
    assert dict(task.document) == document
    assert (document["status"], document["node"], document["claim"]["token"]) == (Status.CLAIMED, "n1", "t1")
    assert document["mtime"] == document["claim"]["at"] > NOW
    assert (task.status, task.node, task.token) == (Status.CLAIMED, "n1", "t1")


def test_a_claimed_task_is_not_claimed_again(store: Store, second_store: Store) -> None:
    push(store, {})
    assert len(store.claim("n1", [Want("q", 1)], "t1")) == 1
    assert second_store.claim("n2", [Want("q", 1)], "t2") == []


def test_claims_are_in_the_order_of_creation_and_as_many_as_asked_for(store: Store) -> None:
    ids = push(store, *({} for _ in range(5)))
    assert [task.id for task in store.claim("n1", [Want("q", 2)], "t1")] == ids[:2]
    assert [task.id for task in store.claim("n1", [Want("q", 9)], "t2")] == ids[2:]


def test_higher_priority_comes_first(store: Store) -> None:
    low, high, middle = (push(store, {}, priority=priority)[0] for priority in (0, 5, 3))
    assert [task.id for task in store.claim("n1", [Want("q", 3)], "t1")] == [high, middle, low]


def test_several_queues_are_claimed_in_one_call_and_others_left_alone(store: Store) -> None:
    a, b, c = (push(store, {}, {}, queue=name) for name in "abc")
    assert [task.id for task in store.claim("n1", [Want("b", 1), Want("a", 5)], "t1")] == [
        b[0],
        *a,
    ]
    assert stored(store, c[0])["status"] == Status.CREATED


@pytest.mark.parametrize("node", [-1, None, "missing"])
def test_unclaimed_is_minus_one_null_or_missing_alike(store: Store, node: Any) -> None:
    document = new_task("q", {}, now=NOW)
    del document["node"]
    store.insert_tasks([document if node == "missing" else {**document, "node": node}])
    assert len(store.claim("n1", [Want("q", 1)], "t1")) == 1


def test_a_task_that_somebody_holds_is_not_claimed_whatever_its_status_says(store: Store) -> None:
    push(store, {}, node="perl01")
    assert store.claim("n1", [Want("q", 1)], "t1") == []


@pytest.mark.parametrize("status", [-6, -5, -4, -3, -1, 0, 1, 2, 99, -9])
def test_only_created_tasks_are_claimed(store: Store, status: int) -> None:
    push(store, {}, status=status)
    assert store.claim("n1", [Want("q", 1)], "t1") == []
    assert store.waiting_queues() == set()


def test_numbers_that_a_shell_writes_as_doubles_are_the_same_numbers(store: Store) -> None:
    push(store, {}, status=-2.0, node=-1.0)
    (task,) = store.claim("n1", [Want("q", 1)], "t1")
    assert task.status == Status.CLAIMED


def test_foreign_fields_survive_a_claim_and_a_run(store: Store) -> None:
    push(store, {}, log=[], mailbox={"x": 1}, run=None)
    (task,) = store.claim("n1", [Want("q", 1)], "t1")
    key = RunKey(task.id, "n1", "t1")
    changes = [
        change(key, Status.CLAIMED, Status.RUNNING, run={"attempt": 1}),
        change(key, Status.RUNNING, Status.CONCLUDED, stdout="done"),
    ]
    assert store.commit(changes) == set()
    document = stored(store, task.id)
    assert (document["log"], document["mailbox"], document["run"]) == ([], {"x": 1}, {"attempt": 1})


def test_waiting_queues_are_those_with_created_tasks(store: Store) -> None:
    push(store, {}, {}, queue="a")
    push(store, {}, queue="b")
    push(store, {}, queue="c", status=1)
    assert store.waiting_queues() == {"a", "b"}
    store.claim("n1", [Want("b", 1)], "t1")
    assert store.waiting_queues() == {"a"}


def test_many_claimers_at_once_share_without_overlap(store: Store, store_url: str) -> None:
    total = 400
    push(store, *({} for _ in range(total)))
    got: list[Any] = []
    lock = threading.Lock()

    def claim_all(name: str) -> None:
        mine = open_store(store_url, SystemClock())
        mine.open()
        round_number = empty = 0
        while empty < 3:
            round_number += 1
            tasks = mine.claim(name, [Want("q", 7)], f"{name}-{round_number}")
            empty = 0 if tasks else empty + 1
            with lock:
                got.extend(task.id for task in tasks)
        mine.close()

    threads = [threading.Thread(target=claim_all, args=(f"n{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == len(set(got)) == total


def test_a_change_is_carried_out_where_key_and_status_hold(store: Store) -> None:
    task, key = claim_one(store)
    assert store.commit([change(key, Status.CLAIMED, Status.RUNNING, run={"at": NOW}, stdout="ä\0")]) == set()
    document = stored(store, task.id)
    assert (document["status"], document["run"], document["stdout"]) == (0, {"at": NOW}, "ä\0")


@pytest.mark.parametrize(
    "key_of",
    [
        lambda task: RunKey(task.id, "n1", "another token"),
        lambda task: RunKey(task.id, "n2", "t1"),
        lambda task: RunKey(task.id, "n1", None),
        lambda task: RunKey("0" * 24, "n1", "t1"),
    ],
)
def test_a_wrong_key_is_refused_and_changes_nothing(store: Store, key_of: Any) -> None:
    task, _ = claim_one(store)
    before = stored(store, task.id)
    key = key_of(task)
    assert store.commit([change(key, Status.CLAIMED, Status.RUNNING, stdout="x")]) == {key}
    assert stored(store, task.id) == before


def test_a_wrong_status_is_refused(store: Store) -> None:
    task, key = claim_one(store)
    assert store.commit([change(key, Status.RUNNING, Status.CONCLUDED)]) == {key}
    assert store.commit([change(key, Status.RUNNING, stdout="x")]) == {key}
    assert stored(store, task.id)["status"] == Status.CLAIMED


def test_one_refused_change_does_not_hinder_the_others_of_its_batch(store: Store) -> None:
    push(store, {}, {}, {})
    tasks = store.claim("n1", [Want("q", 3)], "t1")
    keys = [RunKey(task.id, "n1", "t1" if number != 1 else "wrong") for number, task in enumerate(tasks)]
    refused = store.commit([change(key, Status.CLAIMED, Status.RUNNING, stdout="x") for key in keys])
    assert refused == {keys[1]}
    assert [stored(store, task.id)["status"] for task in tasks] == [0, -1, 0]


def test_several_changes_of_one_run_are_carried_out_in_their_order(store: Store) -> None:
    task, key = claim_one(store)
    changes = [
        change(key, Status.CLAIMED, Status.RUNNING, run={"attempt": 1}),
        change(key, Status.RUNNING, stdout="a"),
        change(key, Status.RUNNING, stdout="ab"),
        change(key, Status.RUNNING, Status.CONCLUDED, stdout="abc"),
    ]
    assert store.commit(changes) == set()
    assert (stored(store, task.id)["status"], stored(store, task.id)["stdout"]) == (1, "abc")


def test_the_same_commit_sent_twice_is_not_refused(store: Store) -> None:
    task, key = claim_one(store)
    start = [change(key, Status.CLAIMED, Status.RUNNING, run={"attempt": 1}, mtime=NOW)]
    end = [change(key, Status.RUNNING, Status.CONCLUDED, run={"attempt": 1, "ended": NOW}, mtime=NOW)]
    for changes in (start, start, end, end):
        assert store.commit(changes) == set()
    assert stored(store, task.id)["status"] == Status.CONCLUDED


def test_finish_after_orphaning_changes_nothing(store: Store) -> None:
    task, key = claim_one(store)
    store.commit([change(key, Status.CLAIMED, Status.RUNNING, run={"attempt": 1})])
    store.commit([change(key, Status.RUNNING, Status.ORPHANED, run={"attempt": 1, "reason": "lost"})])
    before = stored(store, task.id)
    assert store.commit([change(key, Status.RUNNING, Status.CONCLUDED, run={"attempt": 1, "reason": "exited"})]) == {
        key
    }
    assert stored(store, task.id) == before


def test_a_run_whose_task_was_given_to_another_cannot_write(store: Store) -> None:
    task, old = claim_one(store)
    store.commit([change(old, Status.CLAIMED, Status.RUNNING, run={"attempt": 1})])
    back = RunChange(key=old, statuses=(Status.RUNNING,), set={"status": -2, "node": NOBODY}, unset=("claim",))
    assert store.commit([back]) == set()
    assert stored(store, task.id)["node"] == NOBODY and "claim" not in stored(store, task.id)
    (again,) = store.claim("n1", [Want("q", 1)], "t2")
    new = RunKey(again.id, "n1", "t2")
    assert store.commit([change(new, Status.CLAIMED, Status.RUNNING, run={"attempt": 2})]) == set()
    for late in (
        change(old, Status.RUNNING, stdout="late"),
        change(old, Status.RUNNING, Status.CONCLUDED, stdout="late"),
    ):
        assert store.commit([late]) == {old}
    assert stored(store, task.id)["stdout"] == ""


def test_unset_removes_fields_and_those_that_are_not_there_do_not_matter(store: Store) -> None:
    (task_id,) = push(store, {}, error={"code": "x"}, priority=3, keep=1)
    store.claim("n1", [Want("q", 1)], "t1")
    key = RunKey(task_id, "n1", "t1")
    names = ("error", "nothing", "not_before")
    assert store.commit([RunChange(key=key, statuses=(Status.CLAIMED,), set={"status": 0}, unset=names)]) == set()
    document = stored(store, task_id)
    assert "error" not in document and document["keep"] == 1 and document["priority"] == 3


def test_odd_values_of_fields_are_kept_by_changes_too(store: Store) -> None:
    task, key = claim_one(store)
    value = {"$date": "x", "a.b": [{"$c": 1}], "at": NOW}
    assert store.commit([change(key, Status.CLAIMED, Status.RUNNING, result=value)]) == set()
    assert stored(store, task.id)["result"] == value


def test_an_empty_commit_is_fine(store: Store) -> None:
    assert store.commit([]) == set()
    assert store.claim("n1", [], "t1") == []
    assert store.insert_tasks([]) == []


def test_a_second_commit_of_one_turn_comes_after_the_first_and_loses_nothing_of_it(store: Store) -> None:
    """On MongoDB the changes of the first one are left to the next write; another commit in between, as when a dead
    node's tasks are settled in the same turn, took their place, and runs that had ended stayed Running for ever."""
    first, first_key = claim_one(store)
    second, second_key = claim_one(store, token="t2")
    with store.together():
        refused = store.commit([change(first_key, Status.CLAIMED, status=int(Status.CREATED), node=-1)])
        also_refused = store.commit([change(second_key, Status.CLAIMED, Status.RUNNING)])
        assert store.commit([change(first_key, Status.CLAIMED, Status.RUNNING)]) == {first_key}
    assert refused == also_refused == set()
    assert stored(store, first.id)["status"] == Status.CREATED
    assert stored(store, second.id)["status"] == Status.RUNNING


def follow_up(**parameters: Any) -> dict[str, Any]:
    return new_task("next", parameters, now=NOW, parent="p")


def end_with(key: RunKey, *creates: dict[str, Any]) -> RunChange:
    one = change(key, Status.RUNNING, Status.CONCLUDED, run={"attempt": 1, "ended": NOW}, mtime=NOW)
    return dataclasses.replace(one, creates=creates)


def test_tasks_that_a_change_creates_are_there_once_however_often_it_is_sent(store: Store) -> None:
    task, key = claim_one(store)
    store.commit([change(key, Status.CLAIMED, Status.RUNNING, run={"attempt": 1})])
    end = end_with(key, follow_up(n=1), follow_up(n=2))
    for _ in range(3):
        assert store.commit([end]) == set()
    first, second = store.find_tasks(TaskFilter(queue="next"))
    assert (first.document["parameters"], second.document["parameters"]) == ({"n": 1}, {"n": 2})
    assert (first.status, first.node, first.document["parent"]) == (Status.CREATED, None, "p")
    assert "follow_ups" not in stored(store, task.id)
    store.promote_due()
    assert store.count_tasks(TaskFilter(queue="next")) == 2
    assert len(store.claim("n1", [Want("next", 9)], "t2")) == 2


def test_a_refused_change_creates_nothing(store: Store) -> None:
    _, key = claim_one(store)  # Claimed, not Running
    assert store.commit([end_with(key, follow_up(n=1))]) == {key}
    assert store.count_tasks(TaskFilter(queue="next")) == 0


def test_in_a_batch_each_change_creates_its_own(store: Store) -> None:
    push(store, *({} for _ in range(3)))
    keys = [RunKey(task.id, "n1", "t1") for task in store.claim("n1", [Want("q", 3)], "t1")]
    store.commit([change(key, Status.CLAIMED, Status.RUNNING, run={"attempt": 1}) for key in (keys[0], keys[2])])
    assert store.commit([end_with(key, follow_up(n=n)) for n, key in enumerate(keys)]) == {keys[1]}
    assert [task.document["parameters"]["n"] for task in store.find_tasks(TaskFilter(queue="next"))] == [0, 2]


def test_pieces_come_back_in_order_and_written_twice_is_written_once(store: Store) -> None:
    task, key = claim_one(store)
    first, last = b"x" * (OUTPUT_CHUNK_SIZE - 1) + b"\xc3", b"\xa9 end"
    pieces = [OutputChunk(key=key, stream="stdout", number=n, data=data) for n, data in enumerate((first, last))]
    store.commit([], pieces[:1])
    store.commit([change(key, Status.CLAIMED, Status.RUNNING)], pieces)
    assert b"".join(store.read_output(task.id, "t1", "stdout")) == first + last
    assert list(store.read_output(task.id, "t1", "stderr")) == []
    assert list(store.read_output(task.id, "other", "stdout")) == []


def test_a_new_attempt_takes_the_pieces_of_the_earlier_one_with_it(store: Store) -> None:
    task, key = claim_one(store)
    store.commit([], [OutputChunk(key=key, stream=name, number=0, data=b"x") for name in ("stdout", "stderr")])
    refused = RunChange(key=key, statuses=(Status.RUNNING,), set={"status": 1}, forgets=("t1",))
    assert store.commit([refused]) == {key}
    assert list(store.read_output(task.id, "t1", "stdout")) == [b"x"]
    assert store.commit([RunChange(key=key, statuses=(Status.CLAIMED,), set={"status": 0}, forgets=("t1",))]) == set()
    assert list(store.read_output(task.id, "t1", "stdout")) == list(store.read_output(task.id, "t1", "stderr")) == []


def test_forty_mebibytes_of_pieces_in_one_commit(store: Store) -> None:
    task, key = claim_one(store)
    count = 40 * 2**20 // OUTPUT_CHUNK_SIZE
    blocks = [bytes([number % 256]) * OUTPUT_CHUNK_SIZE for number in range(count)]
    pieces = [OutputChunk(key=key, stream="stdout", number=n, data=data) for n, data in enumerate(blocks)]
    assert store.commit([], pieces) == set()
    assert list(store.read_output(task.id, "t1", "stdout")) == blocks


def test_what_is_due_is_promoted_and_the_rest_is_not(store: Store) -> None:
    due, later = (store.now() + timedelta(seconds=seconds) for seconds in (-1, 60))
    (a,) = push(store, {}, status=-4, not_before=due)
    (b,) = push(store, {}, status=-4, not_before=later)
    (c,) = push(store, {}, status=-4, after=[a])
    assert store.promote_due() == 1
    assert store.promote_due() == 0
    document = stored(store, a)
    assert (document["status"], "not_before" in document) == (Status.CREATED, False)
    assert [stored(store, one)["status"] for one in (b, c)] == [Status.BLOCKED, Status.BLOCKED]
    assert stored(store, b)["not_before"] == later


def test_at_most_as_many_as_allowed_are_promoted_at_once(store: Store) -> None:
    push(store, {}, {}, {}, status=-4, not_before=store.now() - timedelta(seconds=1))
    assert [store.promote_due(limit=2) for _ in range(3)] == [2, 1, 0]


@pytest.mark.parametrize(
    ("fields", "unfinished"),
    [
        ({"status": -2}, True),
        ({"status": -1, "node": "n1"}, True),
        ({"status": 0, "node": "n1"}, True),
        ({"status": -4, "not_before": NOW}, True),
        ({"status": -2, "node": "perl01"}, False),
        ({"status": -4}, False),
        ({"status": 1}, False),
        ({"status": -6}, False),
        ({"status": 7}, False),
    ],
)
def test_unfinished_is_what_waits_or_runs(store: Store, fields: dict[str, Any], unfinished: bool) -> None:
    push(store, {}, **fields)
    assert store.has_unfinished(["q"]) is unfinished
    assert store.has_unfinished(["another", "q"]) is unfinished
    assert store.has_unfinished(["another"]) is store.has_unfinished([]) is False


def test_tasks_that_are_known_are_left_out_of_those_that_are_unfinished(store: Store) -> None:
    first, second = push(store, {}, {})
    assert store.has_unfinished(["q"], besides=[first]) and not store.has_unfinished(["q"], besides=[first, second])


def test_what_is_due_later_than_asked_for_is_not_unfinished(store: Store) -> None:
    push(store, {}, status=-4, not_before=NOW + timedelta(days=1))
    push(store, {}, status=-4, not_before=NOW, after=["another"])
    push(store, {}, queue="other", status=-4, not_before=NOW)
    assert store.has_unfinished(["q"])
    assert not store.has_unfinished(["q"], due_before=NOW + timedelta(hours=1))
    assert store.has_unfinished(["q"], due_before=NOW + timedelta(days=1))
    assert store.has_unfinished(["q", "other"], due_before=NOW)


def test_queues_come_and_go(store: Store) -> None:
    document = {"_id": "mail", "class": "Mail", "maxthreads": 5, "nodes_pin": ["n1"], "ctime": NOW, "x": {"$y": 1}}
    assert store.insert_queue(document) == "mail"
    (queue,) = store.queues()
    assert queue.document.items() >= document.items()  # MongoDB adds some for other programs
    assert (queue.class_name, queue.maxthreads, queue.nodes_pin) == ("Mail", 5, ("n1",))
    with pytest.raises(DuplicateIdError, match="'mail' exists already"):
        store.insert_queue(document)
    assert store.update_queue("mail", {"maxthreads": 7}, ["nodes_pin"])
    found = store.find_queue("mail")
    assert found is not None and (found.maxthreads, found.nodes_pin, found.document["x"]) == (7, (), {"$y": 1})
    assert store.delete_queue("mail")
    assert not store.delete_queue("mail") and not store.update_queue("mail", {"maxthreads": 1})
    assert store.find_queue("mail") is None and store.queues() == []


def test_a_queue_without_id_gets_one_and_is_found_by_its_text(store: Store) -> None:
    queue_id = store.insert_queue({"class": "Mail"})
    found = store.find_queue(str(queue_id))
    assert found is not None and found.id == queue_id
    push(store, {}, queue=queue_id)
    assert store.waiting_queues() == {queue_id}
    assert [task.queue for task in store.claim("n1", [Want(queue_id, 1)], "t1")] == [queue_id]


def node_document(session: str, **more: Any) -> dict[str, Any]:
    return {
        "_id": "n1",
        "version": "disbatch-host 0",
        "session": session,
        "heartbeat": {"pid": 7, "queues": []},
        **more,
    }


def record_of(store: Store) -> NodeRecord:
    record = store.get_node("n1")
    assert record is not None
    return record


def test_a_node_is_dated_by_the_store(store: Store) -> None:
    assert store.put_node(node_document("s1", started=NOW), replacing=None)
    record = record_of(store)
    assert record.session == "s1" and record.age_seconds is not None and record.age_seconds < 5
    heartbeat = record.document["heartbeat"]
    assert heartbeat["pid"] == 7 and abs((heartbeat["datetime"] - store.now()).total_seconds()) < 5
    assert record.document["started"] == NOW
    assert [one.id for one in store.nodes()] == ["n1"]


def test_how_long_a_node_is_away_is_told_by_the_clock_of_the_store(store: Store) -> None:
    assert store.put_node(node_document("s1"), replacing=None)
    assert record_of(store).away_seconds is None
    until = store.now() + timedelta(minutes=10)
    assert store.heartbeat("n1", "s1", {"heartbeat": {"pid": 7}, "away": {"until": until, "by": "a"}}) is not None
    for record in (record_of(store), *store.nodes()):
        assert record.away_seconds is not None and 590 < record.away_seconds <= 600
        assert record.document["away"]["by"] == "a"
    over = store.now() - timedelta(seconds=1)
    assert store.heartbeat("n1", "s1", {"heartbeat": {"pid": 7}, "away": {"until": over}}) is not None
    assert record_of(store).away_seconds is None


def test_an_id_that_is_there_is_not_taken_without_naming_whom_it_replaces(store: Store) -> None:
    store.put_node(node_document("s1"), replacing=None)
    assert not store.put_node(node_document("s2"), replacing=None)
    first = record_of(store)
    assert store.put_node(node_document("s2", x=1), replacing=first)
    assert not store.put_node(node_document("s3"), replacing=first)
    assert record_of(store).session == "s2"


def test_heartbeat_and_release_belong_to_the_session(store: Store) -> None:
    store.put_node(node_document("s1", keep=1, queuetypes=[]), replacing=None)
    fields = {"heartbeat": {"pid": 8, "queues": [{"queue": "q", "threads": 3}]}, "queuetypes": [{"class": "A"}]}
    assert store.heartbeat("n1", "s1", fields) is not None
    document = record_of(store).document
    assert (document["keep"], document["queuetypes"], document["heartbeat"]["pid"]) == (1, [{"class": "A"}], 8)
    assert store.heartbeat("n1", "other", fields) is None
    assert store.heartbeat("n9", "s1", fields) is None
    assert not store.remove_node("n1", "other")
    assert store.remove_node("n1", "s1")
    assert store.get_node("n1") is None and not store.remove_node("n1", "s1")


def test_of_many_nodes_that_want_one_id_exactly_one_gets_it(store: Store, store_url: str) -> None:
    won: list[str] = []

    def register(name: str) -> None:
        mine = open_store(store_url, SystemClock())
        mine.open()
        barrier.wait()
        if mine.put_node(node_document(name), replacing=None):
            won.append(name)
        mine.close()

    barrier = threading.Barrier(4)
    threads = [threading.Thread(target=register, args=(f"s{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [record_of(store).session] == won


@pytest.fixture
def watcher(store: Store) -> Iterator[Any]:
    one = store.watch()
    while one.wait(0.3):  # the first look may wake for what was before
        pass
    yield one
    one.close()


@pytest.mark.parametrize("what", ["task", "queue", "end of a task"])
def test_a_watcher_wakes_soon_after_a_change_by_somebody_else(store: Store, second_store: Store, what: str) -> None:
    _, key = claim_one(store)
    store.commit([change(key, Status.CLAIMED, Status.RUNNING)])
    watcher = store.watch()
    while watcher.wait(0.3):
        pass
    actions = {
        "task": lambda: push(second_store, {}),
        "queue": lambda: second_store.insert_queue({"_id": "new", "class": "X"}),
        "end of a task": lambda: second_store.commit([change(key, Status.RUNNING, Status.CONCLUDED)]),
    }
    began = time.monotonic()
    actions[what]()
    assert watcher.wait(10)
    assert time.monotonic() - began < 2
    watcher.close()


def test_a_watcher_gives_up_after_its_timeout(watcher: Any) -> None:
    began = time.monotonic()
    assert not watcher.wait(0.3)
    assert 0.25 < time.monotonic() - began < 2


def test_closing_ends_a_wait_of_another_thread(watcher: Any) -> None:
    thread = threading.Thread(target=watcher.wait, args=(60,))
    thread.start()
    watcher.close()
    thread.join(5)
    assert not thread.is_alive()
    watcher.close()


def test_opening_and_closing_twice_is_fine_and_everything_is_still_there(store: Store, store_url: str) -> None:
    (task_id,) = push(store, {"n": 1})
    store.open()
    store.close()
    store.close()
    again = open_store(store_url, SystemClock())
    again.open()
    task = again.get_task(task_id)
    assert task is not None and task.parameters == {"n": 1}
    again.close()


def test_many_first_opens_at_once_all_succeed(store_url: str) -> None:
    failures: list[BaseException] = []

    def first_open() -> None:
        one = open_store(store_url, SystemClock())
        try:
            barrier.wait()
            one.open()
            push(one, {})
        except BaseException as error:
            failures.append(error)
        finally:
            one.close()

    barrier = threading.Barrier(6)
    threads = [threading.Thread(target=first_open) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.own_database
def test_a_database_that_is_newer_than_the_program_is_refused(store: Store, store_url: str) -> None:
    store.close()
    plant_layout_version(store_url, SCHEMA_VERSION + 1)
    one = open_store(store_url, SystemClock())
    with pytest.raises(StoreTooNewError, match="install a newer disbatch-host"):
        one.open()


def plant_layout_version(url: str, version: int) -> None:
    if url.startswith("sqlite"):
        import sqlite3

        connection = sqlite3.connect(url.removeprefix("sqlite://"))
        connection.execute(f"PRAGMA user_version = {version}")
        connection.close()
        return
    import pymongo

    with pymongo.MongoClient(url) as client:
        client.get_default_database()["disbatch_host"].update_one({"_id": "layout"}, {"$set": {"version": version}})


def test_the_stores_clock_is_about_now_in_whole_milliseconds(store: Store) -> None:
    now = store.now()
    assert abs((now - datetime.now(UTC)).total_seconds()) < 2
    assert now.microsecond % 1000 == 0


def test_a_start_that_was_carried_out_is_refused_once_the_run_was_taken_over(store: Store) -> None:
    """Its answer was lost, and before it was sent again another node took this one for dead. On SQLite it was told that
    all was well, and would have started the program."""
    _, key = claim_one(store)
    start = change(key, Status.CLAIMED, Status.RUNNING, run={"token": key.token}, mtime=NOW)
    assert store.commit([start]) == store.commit([start]) == set()
    assert store.commit([change(key, Status.RUNNING, claim={"token": "settling-1", "at": NOW})]) == set()
    assert store.commit([start]) == {key}
