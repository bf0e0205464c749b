"""Why a task has not started, over made-up situations: as `policy` decides, and whatever others have written."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from disbatch_host.decide import placement, readings
from disbatch_host.decide.why import Code, Snapshot, Why, cause_of
from disbatch_host.documents import local_time
from disbatch_host.documents.records import NodeRecord, Queue, Task
from disbatch_protocol.status import Status

NOW = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC)


def queue(**fields: Any) -> Queue:
    return Queue.from_document({"_id": "q", "class": "A", **fields})


def node(node_id: str = "n1", *, age_seconds: float | None = 0.5, **document: Any) -> NodeRecord:
    document = {"version": "disbatch-host 1", "queuetypes": [{"class": "A", "version": "1"}], **document}
    return NodeRecord(id=node_id, session="s", age_seconds=age_seconds, document=document)


def task(status: int = Status.CREATED, **fields: Any) -> Task:
    return Task.from_document({"_id": "t1", "queue": "q", "status": int(status), "node": -1, "mtime": NOW, **fields})


def why(one: Task | None = None, queue_: Queue | None = None, *nodes: NodeRecord, **more: Any) -> Why:
    return cause_of(Snapshot(task=one or task(), queue=queue_ or queue(), nodes=nodes or (node(),), now=NOW, **more))


@given(
    max_per_queue=st.integers(1, 4),
    max_total=st.none() | st.integers(1, 6),
    concurrency=st.none() | st.integers(1, 4),
    maxthreads=st.none() | st.integers(1, 4),
    maxtotal=st.none() | st.integers(1, 4),
    here=st.integers(0, 5),
    in_other_queue=st.integers(0, 5),
)
def test_a_limit_is_named_exactly_where_the_policy_of_the_node_allots_nothing(
    max_per_queue: int,
    max_total: int | None,
    concurrency: int | None,
    maxthreads: int | None,
    maxtotal: int | None,
    here: int,
    in_other_queue: int,
) -> None:
    """What the node knows itself and what it publishes lead to the same decision."""
    one = queue(maxthreads=maxthreads, maxtotal=maxtotal)
    load = placement.Load(
        max_per_queue=max_per_queue,
        max_total=max_total,
        running={"q": here, "other": in_other_queue},
        running_of_class={"A": here + in_other_queue},
        concurrency_of_class={"A": concurrency},
    )
    kind = {"class": "A", "version": "1", **({} if concurrency is None else {"concurrency": concurrency})}
    record = node(
        queuetypes=[kind],
        settings={"max": max_per_queue, "max_total": max_total},
        heartbeat={
            "running": here + in_other_queue,
            "queues": [
                {"class": "A", "queue": "q", "threads": placement.limit_of(one, load), "processing": here},
                {"class": "A", "queue": "other", "threads": 9, "processing": in_other_queue},
            ],
        },
    )
    has_room = bool(placement.allot([one], load))
    assert (why(None, one, record).code is Code.TURN) is has_room


def test_a_node_of_another_program_that_publishes_little_has_room_until_its_threads_are_used() -> None:
    def perl(processing: int) -> NodeRecord:
        entry = {"class": "A", "queue": "q", "threads": 2, "idle": 2 - processing, "processing": processing}
        return node("den01", version="Disbatch.pm 3", heartbeat={"pid": 5, "queues": [entry]})

    assert why(None, None, perl(1)).code is Code.TURN
    full = why(None, None, perl(2))
    assert (full.code, "den01 runs 2 of 2" in full.sentence) == (Code.MAXTHREADS, True)


def test_one_node_with_room_is_enough() -> None:
    full = node("n1", settings={"max": 1}, heartbeat={"queues": [{"class": "A", "queue": "q", "processing": 1}]})
    assert why(None, None, full).code is Code.MAXTHREADS
    answer = why(None, None, full, node("n2"), ahead=3)
    assert answer.code is Code.TURN and "3 tasks of its queue come before it; n2 has room" in answer.sentence


def test_a_node_that_has_been_silent_for_some_heartbeats_is_said_not_to_have_room() -> None:
    """`task why` used to say "it waits its turn; mig03 has room" while the heartbeat of mig03 was 22 s old."""
    pinned = queue(nodes_pin=["mig03"])
    answer = why(None, pinned, node("mig03", age_seconds=22), node("n2"), ahead=8)
    assert answer.code is Code.NO_NODE
    assert "the only node that runs its tasks is silent: mig03 (last heard from 22 s ago)" in answer.sentence
    assert why(None, pinned, node("mig03", age_seconds=3), ahead=8).code is Code.TURN
    slow = node("mig03", age_seconds=22, settings={"heartbeat_seconds": 10})
    assert why(None, pinned, slow).code is Code.TURN
    assert why(None, queue(), node("mig03", age_seconds=22), node("n2")).code is Code.TURN


def test_a_task_on_a_node_that_has_been_silent_for_some_heartbeats_is_told_what_comes_of_it() -> None:
    running = task(Status.RUNNING, node="n1", claim={"token": "t"}, run={"started": NOW - timedelta(minutes=2)})
    answer = why(running, None, node(age_seconds=12), node("n2"))
    assert answer.code is Code.LOST_NODE
    assert "last heard from 12 s ago; if it stays silent for 18 s more, another node settles it" in answer.sentence
    alone = why(running, None, node(age_seconds=12)).sentence
    assert "if it stays silent for 18 s more, the next node that is started settles it" in alone
    assert why(running, None, node(age_seconds=3)).sentence == "it has been running on node n1 for 2m"
    other = why(running, None, node(age_seconds=40, version="Disbatch.pm 3"), node("n2")).sentence
    assert "belongs to another program (Disbatch.pm 3) and was last heard from 40 s ago; that program alone" in other


def test_the_places_of_a_node_are_those_that_all_its_limits_leave() -> None:
    served = [{"class": "A", "queue": "q", "threads": 20}, {"class": "B", "queue": "p", "threads": 40}]
    limited = [{"class": "A", "concurrency": 5}, {"class": "B"}]

    def places(**document: Any) -> int:
        return readings.places_of(node(heartbeat={"queues": served}, **document))

    assert places() == 60
    assert places(settings={"max_total": 50}) == 50
    assert places(settings={"max_total": None}, queuetypes=limited) == 45
    assert places(settings={"max_total": 10}, queuetypes=limited) == 10


def test_what_has_to_be_mended_is_all_said() -> None:
    answer = why(None, queue(paused={"by": "ann"}, maxthreads=0), node(age_seconds=None))
    assert answer.code is Code.PAUSED
    assert "paused by ann" in answer.sentence and "maxthreads is 0" in answer.sentence
    assert "no node is alive" in answer.sentence


def test_a_blocked_task_says_what_would_keep_it_even_then() -> None:
    later = task(Status.BLOCKED, not_before=NOW + timedelta(minutes=5))
    answer = why(later, queue(paused={"by": "ann"}))
    assert answer.code is Code.NOT_DUE
    assert ", in 5m; besides, queue q is paused by ann" in answer.sentence


@pytest.mark.parametrize(
    ("after_any", "status", "code"),
    [
        (False, Status.RUNNING, Code.AFTER),
        (False, Status.FAILED, Code.AFTER_FAILED),
        (True, Status.FAILED, Code.AFTER),
        (True, Status.ORPHANED, Code.AFTER_FAILED),
        (False, Status.ORPHANED, Code.AFTER_FAILED),
        (False, None, Code.AFTER_FAILED),
    ],
)
def test_the_end_of_a_predecessor_counts_as_the_node_counts_it(after_any: bool, status: Any, code: Code) -> None:
    other = {} if status is None else {"t0": Task.from_document({"_id": "t0", "queue": "p", "status": int(status)})}
    follower = task(Status.BLOCKED, after=["t0"], after_any=after_any)
    assert why(follower, predecessors=other).code is code


def test_a_node_that_stops_is_said() -> None:
    request = {"at": NOW, "by": "ann", "why": "new kernel"}
    answer = why(None, None, node(state="stopping", requests={"stop": request}))
    assert answer.code is Code.DRAINING
    assert "node n1 is stopping (asked by ann: new kernel)" in answer.sentence


NAMES = ["class", "queue", "processing", "threads", "running", "queues", "at", "by", "why", "max", "manifest", "reason"]
OF_NODES = ["queuetypes", "set_aside", "broken", "heartbeat", "settings", "state", "requests"]
OF_TASKS = ["after", "not_before", "expires", "claim", "run", "error", "cancel", "node"]
OF_QUEUES = ["paused", "maxthreads", "maxtotal", "rate", "nodes_pin", "class"]
odd = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.dictionaries(st.sampled_from(OF_NODES), odd),
    st.dictionaries(st.sampled_from(OF_TASKS), odd),
    st.integers(-9, 9),
    st.dictionaries(st.sampled_from(OF_QUEUES), odd),
)
@example({"heartbeat": {"queues": [{"queue": []}]}}, {"after": [[]]}, int(Status.BLOCKED), {})
@example({"heartbeat": {"queues": [{"queue": []}]}}, {}, int(Status.CREATED), {})
def test_there_is_an_answer_whatever_is_in_the_documents(
    node_fields: dict[str, Any], task_fields: dict[str, Any], status: int, queue_fields: dict[str, Any]
) -> None:
    answer = why(task(status, **task_fields), queue(**queue_fields), node(**node_fields))
    assert answer.code in Code and answer.sentence


def test_a_task_of_a_node_that_is_away_runs_and_is_left_to_it() -> None:
    until = NOW + timedelta(minutes=10)
    away = dataclasses.replace(
        node(age_seconds=100, state="away", away={"until": until, "by": "ann@here", "why": "upgrade"}),
        away_seconds=600.0,
    )
    running = task(Status.RUNNING, node="n1", claim={"token": "t"}, run={"started": NOW})
    found = why(running, None, away, node("n2"))
    shown = local_time.shown(until, "seconds")
    assert found.code is Code.RUNNING
    assert found.sentence.startswith(
        f"it runs on node n1, which is away until {shown} (upgrade; ann@here); its runs go on without it; if it is not "
        "back by then, another node settles it: it becomes orphaned"
    )
    later = dataclasses.replace(away, away_seconds=None)
    assert why(running, None, later, node("n2")).code is Code.LOST_NODE


def test_that_the_only_node_is_away_is_why_nothing_is_claimed() -> None:
    until = NOW + timedelta(minutes=10)
    away = dataclasses.replace(node(state="away", away={"until": until}), away_seconds=600.0)
    found = why(None, None, away)
    assert found.code is Code.NO_NODE
    assert f"no node is alive (n1 is away until {local_time.shown(until, 'seconds')})" in found.sentence
