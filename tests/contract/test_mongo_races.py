"""Claims and guarded changes on MongoDB when somebody else is faster, or when an answer gets lost.

The lost answers are real ones: the server's own fail points carry a write out and then report an error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import bson
import gridfs
import pymongo
import pytest
from bson import ObjectId

from disbatch_host.clock import SystemClock
from disbatch_host.decide.placement import Load
from disbatch_host.documents import transitions
from disbatch_host.documents.changes import (
    OUTPUT_CHUNK_SIZE,
    OutputChunk,
    RunChange,
    RunKey,
    TaskChange,
    TaskFilter,
    Want,
)
from disbatch_host.documents.records import NOBODY, Queue, Task, new_task
from disbatch_host.errors import StoreError, StoreRefusedError, StoreUnreachableError
from disbatch_host.node.claim_ledger import ClaimLedger, ClaimRequest
from disbatch_host.node.pace import Pace
from disbatch_host.node.starter import Starts
from disbatch_host.store.mongo import MongoStore
from disbatch_host.store.mongo.updates import Updates
from disbatch_protocol.status import Status
from helpers.mongod import Mongod
from helpers.stores import NOW, change, claim_one, push, stored

pytestmark = pytest.mark.mongodb

# The write is carried out and its answer is an error that the driver does not mend by itself.
_LOST = {"code": 64, "errmsg": "waiting for replication timed out"}


@contextlib.contextmanager
def failing(server: Mongod, mode: Any, **what: Any) -> Iterator[None]:
    """The server fails the named commands of the store."""
    with pymongo.MongoClient(server.url) as client:
        fail_point = {"configureFailPoint": "failCommand"}
        client.admin.command({**fail_point, "mode": mode, "data": what})
        try:
            yield
        finally:
            client.admin.command({**fail_point, "mode": "off"})


CLOCK_ERROR_SECONDS = 0.2  # of a process that asks the server for its time while the machine is busy


def ids_of(tasks: list[Task]) -> list[Any]:
    return [task.id for task in tasks]


def test_a_task_without_priority_has_priority_zero(mongo: MongoStore, raw: Any) -> None:
    (none,) = push(mongo, {})
    (low,) = push(mongo, {}, priority=-5)
    (zero,) = push(mongo, {}, priority=0)
    (high,) = push(mongo, {}, priority=3)
    (null,) = push(mongo, {}, priority=None)
    wanted = [high, none, zero, null, low]
    assert [ids_of(mongo.claim("n1", [Want("q", 1)], f"t{number}")) for number in range(5)] == [[one] for one in wanted]
    raw["tasks"].update_many({}, {"$set": {"status": -2, "node": -1}, "$unset": {"claim": ""}})
    assert ids_of(mongo.claim("n1", [Want("q", 5)], "t")) == wanted


def test_tasks_that_several_processes_push_within_a_second_keep_their_order(mongo: MongoStore, mongo_url: str) -> None:
    program = """
import sys
from disbatch_host.clock import SystemClock
from disbatch_host.documents.records import new_task
from disbatch_host.store.mongo import MongoStore
store = MongoStore(sys.argv[1], SystemClock())
store.open()
for line in sys.stdin:
    (task_id,) = store.insert_tasks([new_task("q", {}, now=store.now())])
    print(task_id, flush=True)
store.close()
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, mongo_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    made: list[tuple[str, float, float]] = []  # id, and when it began and had ended to be made
    begun = time.monotonic()
    while time.monotonic() < begun + 0.8 or len(made) < 40:
        for process in (None, *processes):
            before = time.monotonic()
            if process is None:
                task_id = str(push(mongo, {})[0])
            else:
                assert process.stdin is not None and process.stdout is not None
                process.stdin.write("push\n")
                process.stdin.flush()
                task_id = process.stdout.readline().strip()
            made.append((task_id, before, time.monotonic()))
    for process in processes:
        process.communicate()
        assert process.wait(10) == 0
    claimed = [str(one) for one in ids_of(mongo.claim("n1", [Want("q", len(made))], "t1"))]
    assert sorted(claimed) == sorted(task_id for task_id, _, _ in made)
    place = {task_id: number for number, task_id in enumerate(claimed)}
    own = [place[task_id] for task_id, _, _ in made[::4]]
    assert own == sorted(own)  # of one process, exactly
    for number, (first, _, ended) in enumerate(made):
        for second, started, _ in made[number + 1 :]:
            assert place[first] < place[second] or started - ended < CLOCK_ERROR_SECONDS
    made_at = ObjectId(claimed[-1]).generation_time  # any driver can read it
    assert abs((made_at - mongo.now()).total_seconds()) < 10


def test_a_node_that_was_too_slow_gets_the_next_ones_at_once(
    mongo: MongoStore, second_mongo: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both nodes look at the head of the queue and one takes all of it: the other must not go away with nothing, or it
    takes the queue for empty until its next look."""
    push(mongo, *({} for _ in range(40)))
    take = mongo._claims._take
    taken: list[Any] = []

    def be_overtaken(*arguments: Any) -> Any:
        if not taken:
            taken.extend(ids_of(second_mongo.claim("n2", [Want("q", 10)], "t2")))
        return take(*arguments)

    monkeypatch.setattr(mongo._claims, "_take", be_overtaken)
    mine = ids_of(mongo.claim("n1", [Want("q", 10)], "t1"))
    assert len(taken) == len(mine) == 10
    assert not set(taken) & set(mine)
    assert mine == sorted(mine)


def test_tasks_of_a_claim_that_the_node_never_heard_of_can_be_given_back(
    mongo: MongoStore, mongod_server: Mongod
) -> None:
    """The server had claimed them; they would stay Claimed for as long as the node lives."""
    ids = push(mongo, {}, {})
    with (
        failing(mongod_server, {"times": 1}, failCommands=["update"], writeConcernError=_LOST),
        pytest.raises(StoreUnreachableError),
    ):
        mongo.claim("n1", [Want("q", 2)], "t1")
    assert [stored(mongo, one)["status"] for one in ids] == [Status.CLAIMED] * 2
    assert ClaimLedger("n1", Pace()).return_orphaned_claims(mongo, known=frozenset()) == 2
    assert ids_of(mongo.claim("n1", [Want("q", 2)], "t2")) == ids


def test_running_tasks_of_a_claim_that_the_node_never_heard_of_are_given_back_and_no_others(
    mongo: MongoStore, mongod_server: Mongod
) -> None:
    """A claim makes tasks Running at once. One whose answer was lost was started by nobody; one whose end could not be
    recorded has run, and must not run again."""
    mongo.insert_queue({"_id": "q", "class": "C"})
    (ran,) = push(mongo, {})
    load = Load(max_per_queue=2, max_total=None)

    class StartAll(Starts):
        def __init__(self) -> None:
            self.started = {}

        def start_with_claim(self, task: Task, queue: Queue) -> RunChange:
            run = {"token": task.token, "attempt": task.next_attempt, "started": NOW}
            return transitions.start_change(task, RunKey(task.id, "n1", task.token), run, now=NOW)

    def request(*, refresh: bool) -> ClaimRequest:
        return ClaimRequest(classes=frozenset({"C"}), load=load, refresh=refresh, new_starts=StartAll)

    ledger = ClaimLedger("n1", Pace())
    heard = ledger.round(request(refresh=True), mongo)
    ledger.confirm(heard)
    assert ids_of(heard.tasks) == [ran] and not ledger.has_unanswered_claims
    unheard = push(mongo, {}, {})
    with (
        failing(mongod_server, {"times": 1}, failCommands=["update"], writeConcernError=_LOST),
        pytest.raises(StoreUnreachableError),
    ):
        ledger.round(request(refresh=False), mongo)
    assert [stored(mongo, one)["status"] for one in unheard] == [Status.RUNNING] * 2
    assert ledger.has_unanswered_claims
    assert ledger.return_orphaned_claims(mongo, known=frozenset()) == 2
    assert stored(mongo, ran)["status"] == Status.RUNNING
    for one in unheard:
        document = stored(mongo, one)
        assert document["status"] == Status.CREATED and document["node"] == -1
        task = mongo.get_task(one)
        assert task is not None and task.next_attempt == 1
        assert "nothing was started" in document["error"]["message"]


def test_a_commit_whose_answer_was_lost_is_sent_again_and_not_refused(mongo: MongoStore, mongod_server: Mongod) -> None:
    task, key = claim_one(mongo)
    changes = [
        change(key, Status.CLAIMED, Status.RUNNING, run={"attempt": 1}, mtime=NOW),
        change(key, Status.RUNNING, stdout="a"),
        change(key, Status.RUNNING, Status.CONCLUDED, run={"attempt": 1, "ended": NOW}, mtime=NOW, stdout="ab"),
    ]
    with (
        failing(mongod_server, {"times": 1}, failCommands=["update"], writeConcernError=_LOST),
        pytest.raises(StoreUnreachableError),
    ):
        mongo.commit(changes)
    assert mongo.commit(changes) == set()
    assert (stored(mongo, task.id)["status"], stored(mongo, task.id)["stdout"]) == (Status.CONCLUDED, "ab")


_MONGOS_ENDS = {"errorCode": 90}  # it is not carried out
_CUT = {"closeConnection": True}  # before it is carried out
_STEPPING_DOWN = {"writeConcernError": {"code": 189, "errmsg": "primary stepped down"}}  # after it


@pytest.mark.parametrize("failure", [_CUT, _STEPPING_DOWN, _MONGOS_ENDS], ids=["cut", "stepping down", "mongos ends"])
def test_ends_and_a_claim_whose_answer_is_lost_are_sent_again_at_once(
    mongo: MongoStore, mongod_server: Mongod, failure: Any
) -> None:
    """They go without the driver's own second try, which costs the server much."""
    _, first = claim_one(mongo)
    _, second = claim_one(mongo)
    waiting = push(mongo, {}, {})
    ends = [change(key, Status.CLAIMED, Status.FAILED, run={"token": key.token}, mtime=NOW) for key in (first, second)]
    gone = RunKey(first.task_id, "n1", "of another claim")
    with failing(mongod_server, {"times": 1}, failCommands=["update"], **failure), mongo.together():
        refused = mongo.commit([*ends, change(gone, Status.RUNNING, Status.CONCLUDED, run={}, mtime=NOW)])
        tasks = mongo.claim("n1", [Want("q", 2)], "t9")
    assert refused == {gone}
    assert ids_of(tasks) == waiting
    assert [stored(mongo, key.task_id)["status"] for key in (first, second)] == [Status.FAILED] * 2
    with failing(mongod_server, {"times": 1}, failCommands=["update"], **failure):
        late = [change(RunKey(task.id, "n1", "t9"), Status.CLAIMED, Status.RUNNING, mtime=NOW) for task in tasks]
        assert mongo.commit(late) == set()


def test_what_a_server_that_leaves_does_not_take_is_kept_for_later(mongo: MongoStore, mongod_server: Mongod) -> None:
    """Called refused, it would be given up."""
    _, key = claim_one(mongo)
    with (
        failing(mongod_server, "alwaysOn", failCommands=["update"], **_MONGOS_ENDS),
        pytest.raises(StoreUnreachableError),
    ):
        mongo.commit([change(key, Status.CLAIMED, Status.RUNNING)])


def test_more_than_a_command_holds_is_written_all_the_same(mongo: MongoStore) -> None:
    keys = [claim_one(mongo)[1] for _ in range(4)]
    long = "\N{EURO SIGN}" * 2 * 2**20  # 6 MiB
    assert mongo.commit([change(key, Status.CLAIMED, Status.RUNNING, stdout=long) for key in keys]) == set()
    assert [len(stored(mongo, key.task_id)["stdout"]) for key in keys] == [len(long)] * 4
    updates = [({"_id": key.task_id}, {"$set": {"stderr": long}}) for key in keys]
    assert Updates(mongo._tasks).send(updates, ordered=True)
    assert [len(stored(mongo, key.task_id)["stderr"]) for key in keys] == [len(long)] * 4


def test_a_task_that_has_no_room_for_its_claim_stops_no_other(mongo: MongoStore, raw: Any, caplog: Any) -> None:
    """It made every claim of the node fail, of whatever queue."""
    task = {"_id": "a large one", **new_task("q", {}, now=NOW), "priority": 1, "ballast": ""}
    task["ballast"] = "x" * (16 * 2**20 - len(bson.encode(task)) - 10)
    raw["tasks"].insert_one(task)
    _, key = claim_one_of_another_queue(mongo)
    (other,) = push(mongo, {})
    for number in range(2):
        with mongo.together():
            end = change(key, Status.CLAIMED, Status.FAILED, mtime=NOW) if number == 0 else None
            mongo.commit([] if end is None else [end])
            tasks = mongo.claim("n1", [Want("q", 2)], f"t{number}")
        assert ids_of(tasks) == [[other], []][number]
    assert stored(mongo, key.task_id)["status"] == Status.FAILED
    assert caplog.text.count("task a large one is passed over") == 1
    with pytest.raises(StoreRefusedError, match="16777216"):
        mongo.commit([change(RunKey(other, "n1", "t0"), Status.CLAIMED, Status.RUNNING, stdout="x" * 2**24)])


def claim_one_of_another_queue(mongo: MongoStore) -> tuple[Task, RunKey]:
    mongo.insert_tasks([new_task("another", {}, now=NOW)])
    (task,) = mongo.claim("n1", [Want("another", 1)], "t9")
    return task, RunKey(task.id, "n1", "t9")


@pytest.mark.parametrize("command", ["update", "findAndModify", "find", "aggregate", "insert", "distinct", "delete"])
def test_a_cut_connection_is_said_as_such_or_mended(mongo: MongoStore, mongod_server: Mongod, command: str) -> None:
    calls: dict[str, Any] = {
        "update": lambda: mongo.update_queue("q", {"maxthreads": 1}),
        "findAndModify": lambda: mongo.heartbeat("n1", "s", {"heartbeat": {}}),
        "find": lambda: list(mongo.find_tasks(TaskFilter())),
        "aggregate": mongo.count_by_status,
        "insert": lambda: push(mongo, {}),
        "distinct": mongo.waiting_queues,
        "delete": lambda: mongo.delete_queue("q"),
    }
    with failing(mongod_server, {"times": 1}, failCommands=[command], closeConnection=True):
        calls[command]()  # sent again by the driver
    with (
        failing(mongod_server, "alwaysOn", failCommands=[command], closeConnection=True),
        pytest.raises(StoreUnreachableError),
    ):
        calls[command]()
    calls[command]()


def test_only_what_was_refused_is_called_refused_when_claims_are_replaced(mongo: MongoStore) -> None:
    """A sweep puts its own token on the tasks of a dead node; one of them has moved on meanwhile."""
    push(mongo, {}, {})
    keys = [RunKey(task.id, "n1", "t1") for task in mongo.claim("n1", [Want("q", 2)], "t1")]
    mongo.commit([change(keys[0], Status.CLAIMED, Status.RUNNING)])
    fence = [RunChange(key=key, statuses=(Status.CLAIMED,), set={"claim": {"token": "t2", "at": NOW}}) for key in keys]
    assert mongo.commit(fence) == {keys[0]}
    assert mongo.commit(fence) == {keys[0]}


@pytest.mark.parametrize("one_by_one", [True, False])
def test_of_changes_one_by_one_none_is_called_refused_because_another_was(
    mongo: MongoStore, monkeypatch: pytest.MonkeyPatch, one_by_one: bool
) -> None:
    """The server says how many it made, not which: a task that a person had released was said to be running already."""
    released, other = push(mongo, {}, {}, status=int(Status.BLOCKED))
    changes = [
        TaskChange(task_id=one, statuses=frozenset({int(status)}), set={"status": int(Status.CREATED), "mtime": NOW})
        for one, status in ((released, Status.BLOCKED), (other, Status.ORPHANED))
    ]
    look = mongo._task_changes._unseen

    def look_late(of: Any) -> Any:
        assert ids_of(mongo.claim("n1", [Want("q", 2)], "t")) == [released]
        return look(of)

    monkeypatch.setattr(mongo._task_changes, "_unseen", look_late)
    assert mongo.change_tasks(changes, one_by_one=one_by_one) == ({other} if one_by_one else {released, other})


def test_a_dead_run_on_the_same_node_is_refused_though_the_task_looks_as_it_wanted(mongo: MongoStore) -> None:
    task, new = claim_one(mongo, token="new")
    mongo.commit([change(new, Status.CLAIMED, Status.RUNNING)])
    old = RunKey(task.id, "n1", "old")
    assert mongo.commit([change(old, Status.CLAIMED, Status.RUNNING)]) == {old}


def test_giving_back_twice_is_not_refused(mongo: MongoStore) -> None:
    _, key = claim_one(mongo)
    fields = {"status": int(Status.CREATED), "node": NOBODY, "mtime": NOW}
    back = [RunChange(key=key, statuses=(Status.CLAIMED,), set=fields, unset=("claim",))]
    assert mongo.commit(back) == mongo.commit(back) == set()


def test_a_change_of_nothing_says_whether_the_run_still_owns_its_task(mongo: MongoStore) -> None:
    _, key = claim_one(mongo)
    wrong = RunKey(key.task_id, "n1", "wrong")
    nothing = [RunChange(key=one, statuses=(Status.CLAIMED,), set={}) for one in (key, wrong)]
    assert mongo.commit(nothing) == {wrong}


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [2**64, "\ud800", {"a\0b": 1}, {5: 1}, object(), deep(300), deep(100_000), "x" * 17 * 2**20],
    ids=["int", "surrogate", "nul in key", "key", "object", "deep", "very deep", "large"],
)
def test_a_value_that_cannot_be_stored_is_refused_by_itself(mongo: MongoStore, value: Any) -> None:
    task, key = claim_one(mongo)
    with pytest.raises(StoreRefusedError):
        mongo.commit([change(key, Status.CLAIMED, Status.RUNNING, result=value)])
    with pytest.raises(StoreRefusedError):
        push(mongo, value)
    assert mongo.commit([change(key, Status.CLAIMED, Status.RUNNING, result=1)]) == set()
    assert stored(mongo, task.id)["status"] == Status.RUNNING


def test_a_document_that_grows_too_large_is_refused_in_words(mongo: MongoStore) -> None:
    _, key = claim_one(mongo)
    part = "x" * (9 * 2**20)
    mongo.commit([change(key, Status.CLAIMED, Status.RUNNING, result=part)])
    with pytest.raises(StoreRefusedError, match="at most 16777216 bytes"):
        mongo.commit([change(key, Status.RUNNING, more=part)])


def test_a_piece_that_is_sent_again_does_not_shorten_the_file(mongo: MongoStore, raw: Any) -> None:
    task, key = claim_one(mongo)
    pieces = [
        OutputChunk(key=key, stream="stdout", number=number, data=data)
        for number, data in enumerate((b"x" * OUTPUT_CHUNK_SIZE, b"end"))
    ]
    mongo.commit([], pieces)
    mongo.commit([], pieces[:1])
    bucket = gridfs.GridFSBucket(raw, bucket_name="tasks")
    assert bucket.open_download_stream(f"{task.id}:t1:stdout").read() == b"x" * OUTPUT_CHUNK_SIZE + b"end"


class JumpingClock(SystemClock):
    """A machine whose clock is set while the program runs."""

    ahead = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self.ahead


def test_a_local_clock_that_jumps_makes_no_node_look_dead(mongo_url: str, mongo: MongoStore) -> None:
    clock = JumpingClock()
    store = MongoStore(mongo_url, clock)
    store.open()
    node = {"_id": "n1", "session": "s", "heartbeat": {"pid": 1}}
    assert store.put_node(node, replacing=None)
    for ahead in (timedelta(minutes=-5), timedelta(minutes=5)):
        clock.ahead = ahead
        assert store.heartbeat("n1", "s", {"heartbeat": {"pid": 1}}) is not None
        for one in (store, mongo):
            (record,) = one.nodes()
            assert record.age_seconds is not None and record.age_seconds < 2
        assert abs((store.now() - mongo.now()).total_seconds()) < 1
    store.close()


def test_registering_twice_is_harmless_where_the_first_answer_was_lost(mongo: MongoStore) -> None:
    node = {"_id": "n1", "version": "$version", "session": "s", "settings": {"$x": "$$NOW", "a.b": 1}}
    node["heartbeat"] = {"pid": 1, "note": "$heartbeat"}
    assert mongo.put_node(node, replacing=None) and mongo.put_node(node, replacing=None)
    record = mongo.get_node("n1")
    assert record is not None
    document = dict(record.document)
    assert document.pop("heartbeat").items() >= node.pop("heartbeat").items()
    assert document.pop("node") == ":n1" and document.pop("timestamp") is not None
    assert document == node  # strings that begin with "$" are text
    assert mongo.heartbeat("n1", "s", {"heartbeat": {"pid": 2}, "queuetypes": [{"class": "$pid"}]}) is not None
    again = mongo.get_node("n1")
    assert again is not None and again.document["queuetypes"] == [{"class": "$pid"}]
    assert set(again.document["heartbeat"]) == {"datetime", "pid"}


def test_a_node_of_another_program_is_not_taken_for_ours(mongo: MongoStore, raw: Any) -> None:
    raw["nodes"].insert_one({"_id": "n1", "version": "Disbatch.pm 4", "heartbeat": {"datetime": NOW}})
    ours = {"_id": "n1", "session": "s", "heartbeat": {}}
    assert not mongo.put_node(ours, replacing=None)
    assert not mongo.put_node({"_id": "n1", "heartbeat": {}}, replacing=None)
    record = mongo.get_node("n1")
    assert record is not None and record.session is None
    assert mongo.put_node(ours, replacing=record)
    assert not mongo.remove_node("n1", None)


def test_every_error_of_the_store_is_one_of_ours(mongo: MongoStore) -> None:
    mongo.close()
    with pytest.raises(StoreError):
        mongo.waiting_queues()


def concluding(mongo: MongoStore, count: int = 2) -> tuple[Any, RunChange]:
    task, key = claim_one(mongo)
    mongo.commit([change(key, Status.CLAIMED, Status.RUNNING, run={"attempt": 1})])
    end = change(key, Status.RUNNING, Status.CONCLUDED, run={"attempt": 1, "ended": NOW}, mtime=NOW)
    creates = tuple(new_task("next", {"n": n}, now=NOW) for n in range(count))
    return task.id, dataclasses.replace(end, creates=creates)


@pytest.mark.parametrize("command", ["insert", "update"])
def test_a_node_that_dies_between_the_conclusion_and_its_tasks_leaves_them_to_the_next(
    mongo: MongoStore, second_mongo: MongoStore, mongod_server: Mongod, command: str
) -> None:
    """The conclusion is written; then the tasks cannot be (or they are, and cannot be taken out of the document), and
    the node never comes back."""
    task_id, end = concluding(mongo)
    # The conclusion itself is the first update.
    mode: Any = {"skip": 1} if command == "update" else "alwaysOn"
    with failing(mongod_server, mode, failCommands=[command], errorCode=10107), pytest.raises(StoreError):
        mongo.commit([end])
    assert stored(second_mongo, task_id)["status"] == Status.CONCLUDED
    for _ in range(2):
        second_mongo.promote_due()
        found = list(second_mongo.find_tasks(TaskFilter(queue="next")))
        assert [one.document["parameters"]["n"] for one in found] == [0, 1]
    assert "follow_ups" not in stored(second_mongo, task_id)
    # The node was only slow: it sends its conclusion again.
    assert mongo.commit([end]) == set()
    assert mongo.count_tasks(TaskFilter(queue="next")) == 2


class HaltedClock(SystemClock):
    """A clock that jumps forward, as the machine's does for a process that stood still."""

    def __init__(self) -> None:
        self.halted_seconds = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.halted_seconds


def test_a_process_that_stood_still_does_not_create_once_more_what_was_run_and_deleted(
    mongo_url: str, second_mongo: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = HaltedClock()
    owed = [{"_id": ObjectId(), **new_task("next", {"n": 1}, now=NOW)}]
    push(second_mongo, {}, status=1, follow_ups=owed)
    halted = MongoStore(mongo_url, clock)
    with contextlib.closing(halted):
        halted.open()
        look = halted._tasks.find

        def look_and_stand_still(*arguments: Any, **more: Any) -> Any:
            if clock.halted_seconds or "follow_ups._id" not in arguments[0]:
                return look(*arguments, **more)
            found = list(look(*arguments, **more))
            if found and second_mongo.promote_due():
                assert second_mongo.delete_tasks([owed[0]["_id"]]) == 1
                clock.halted_seconds += 60
            return contextlib.nullcontext(found)

        monkeypatch.setattr(halted._tasks, "find", look_and_stand_still)
        assert halted.promote_due() == 0
    assert clock.halted_seconds == 60 and second_mongo.count_tasks(TaskFilter(queue="next")) == 0


def test_a_follow_up_finds_a_queue_with_a_generated_id_by_its_text(mongo: MongoStore) -> None:
    queue_id = mongo.insert_queue({"class": "C"})
    assert isinstance(queue_id, ObjectId)
    _, end = concluding(mongo)
    creates = (new_task(str(queue_id), {}, now=NOW), new_task("f" * 24, {}, now=NOW))
    mongo.commit([dataclasses.replace(end, creates=creates)])
    assert [task.queue for task in mongo.find_tasks(TaskFilter(statuses=frozenset({-2})))] == [queue_id, "f" * 24]


def test_looking_for_owed_tasks_costs_nothing_where_there_are_none(mongo: MongoStore, raw: Any) -> None:
    push(mongo, *({} for _ in range(500)))
    stats = raw["tasks"].find({"follow_ups._id": {"$exists": True}}).explain()["executionStats"]
    assert (stats["totalKeysExamined"], stats["totalDocsExamined"]) == (0, 0)
