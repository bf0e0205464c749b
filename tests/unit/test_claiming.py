"""When a node asks for tasks, and what it does with those that it gets."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disbatch_host.decide import placement
from disbatch_host.decide.placement import Load
from disbatch_host.documents.changes import Place
from disbatch_host.documents.records import Queue
from disbatch_host.node.claim_ledger import ClaimLedger, ClaimRequest
from disbatch_host.node.pace import Pace
from disbatch_protocol.status import Status
from helpers.parts import Bench, on_bench

# Only the first round reads the queues, and the store's thread looks only once whether others have written.
NO_REFRESH = Pace(refresh_seconds=1000.0, watch_seconds=1000.0)


def count_asks(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Grows with each round that goes to the store."""
    asks: list[Any] = []
    ask = bench.parts.store_thread.call_after_records

    def counted(function: Any) -> Any:
        asks.append(function)
        return ask(function)

    monkeypatch.setattr(bench.parts.store_thread, "call_after_records", counted)
    return asks


@given(
    st.lists(st.tuples(st.sampled_from("AB"), st.none() | st.integers(0, 3), st.integers(0, 4)), max_size=5),
    st.integers(0, 3),
    st.none() | st.integers(0, 6),
    st.none() | st.integers(0, 4),
)
def test_there_is_room_where_anything_would_be_allotted(
    of_queues: list[tuple[str, int | None, int]], per_queue: int, max_total: int | None, concurrency: int | None
) -> None:
    queues = [
        Queue.from_document({"_id": f"q{number}", "class": name, "maxthreads": most})
        for number, (name, most, _) in enumerate(of_queues)
    ]
    load = Load(
        max_per_queue=per_queue,
        max_total=max_total,
        running={f"q{number}": running for number, (_, _, running) in enumerate(of_queues)},
        running_of_class={name: sum(running for one, _, running in of_queues if one == name) for name in "AB"},
        concurrency_of_class={"A": concurrency, "B": None},
    )
    assert placement.has_room(queues, load) is bool(placement.allot(queues, load))


def test_a_place_that_is_freed_on_the_way_is_claimed_for(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        queue = bench.queue("Echo", "echo", maxthreads=1)
        ids = bench.push(queue, 2)
        ledger, full = ClaimLedger("n1", Pace()), Load(max_per_queue=9, max_total=None, running={queue: 1})
        request = ClaimRequest(classes=frozenset({"Echo"}), load=full, refresh=True)
        none = ledger.round(request, bench.store)
        assert not none.tasks and none.may_have_more and not none.tokens
        one = ledger.round(request, bench.store, [Place(queue, "Echo")])
        assert [task.id for task in one.tasks] == ids[:1] and one.may_have_more
        assert ledger.has_unanswered_claims
        ledger.confirm(one)
        assert not ledger.has_unanswered_claims
        assert full.running == {queue: 1}  # the request is as it was: the next try starts from it again

    on_bench(tmp_path, test)


def test_a_node_without_room_does_not_ask_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(bench: Bench) -> None:
        queue = bench.queue("Sleep", "sleep 60", maxthreads=1)
        ids = bench.push(queue, 2)
        asks, claiming = count_asks(bench, monkeypatch), bench.parts.claiming
        await claiming.turn()
        assert len(bench.parts.runs) == len(asks) == 1
        for _ in range(3):
            claiming.on_change()
            await claiming.turn()
        assert len(asks) == 1 and bench.statuses(ids) == [Status.RUNNING, Status.CREATED]
        await bench.end_runs()  # and then it has room again
        await claiming.turn()
        assert len(asks) == 2 and len(bench.parts.runs) == 1

    on_bench(tmp_path, test, NO_REFRESH)


def test_a_turn_without_a_reason_does_not_ask_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(bench: Bench) -> None:
        queue = bench.queue("Echo", "echo")
        asks, claiming = count_asks(bench, monkeypatch), bench.parts.claiming
        await claiming.turn()
        await bench.parts.store_thread.call(lambda _: None)  # it has told what it has seen of the queue by now
        await claiming.turn()
        assert not claiming.needs_look
        asks.clear()
        bench.push(queue)
        await claiming.turn()
        assert asks == []
        claiming.on_change()
        await claiming.wait()  # a reason wakes it at once
        await claiming.turn()
        assert len(asks) == len(bench.parts.runs) == 1

    on_bench(tmp_path, test, NO_REFRESH)


def test_a_node_that_is_told_of_every_change_does_not_look_again_for_what_it_was_not_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(bench: Bench) -> None:
        queue = bench.queue("Echo", "echo")
        asks, claiming = count_asks(bench, monkeypatch), bench.parts.claiming
        await claiming.turn()
        await bench.parts.store_thread.call(lambda _: None)  # it has told what it has seen of the queue by now
        await claiming.turn()
        await claiming.turn()
        assert len(asks) == 3  # as long as it is not told of every change
        claiming.is_told = lambda: True
        past = datetime(2020, 1, 1, tzinfo=UTC)
        (late,) = bench.push(queue, status=int(Status.BLOCKED), not_before=past)
        await claiming.turn()
        assert len(asks) == 3 and bench.statuses([late]) == [Status.CREATED]  # what is due, nobody else would tell
        claiming.on_change()
        await claiming.turn()
        assert len(asks) == 4 and len(bench.parts.runs) == 1
        await claiming.turn()
        assert len(asks) == 5  # something runs here
        await bench.end_runs()
        read: list[bool] = []
        claiming.read_queues_again(lambda: read.append(True))
        await claiming.turn()
        assert len(asks) == 6 and read == [True]  # somebody waits for it

    on_bench(tmp_path, test, Pace(refresh_seconds=0.0, unchanged_seconds=1000.0, watch_seconds=1000.0))


def test_a_change_that_came_between_two_reads_of_the_queues_is_read_with_the_next(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.queue("Other", "other")
        claiming = bench.parts.claiming
        claiming.is_told = lambda: True
        await claiming.turn()
        queue = bench.queue("Echo", "echo")
        claiming.on_change()
        await claiming.turn()  # too early to read the queues again
        async with asyncio.timeout(20):
            while queue not in [one.id for one in claiming.queues]:
                await claiming.turn()

    on_bench(tmp_path, test, Pace(refresh_seconds=1.0, unchanged_seconds=1000.0, watch_seconds=1000.0))


def test_a_node_that_is_told_of_every_change_makes_sure_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(bench: Bench) -> None:
        asks, claiming = count_asks(bench, monkeypatch), bench.parts.claiming
        claiming.is_told = lambda: True
        async with asyncio.timeout(20):
            while len(asks) < 3:
                await claiming.turn()
        assert not claiming.needs_look

    on_bench(tmp_path, test, Pace(refresh_seconds=0.0, unchanged_seconds=0.05, watch_seconds=1000.0))


def test_nothing_is_claimed_for_a_moment_after_the_machine_was_short_of_something(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(bench: Bench) -> None:
        bench.push(bench.queue("Echo", "echo"))
        claiming = bench.parts.claiming
        claiming.on_shortage("no descriptors")
        claiming.on_shortage("no descriptors")
        await claiming.turn()
        assert not bench.parts.runs
        assert caplog.text.count("this machine is short of something: no descriptors") == 1

        async def claims() -> None:
            while not bench.parts.runs:
                await claiming.turn()
                await claiming.wait()

        await claims()

    on_bench(tmp_path, test, Pace(shortage_seconds=0.2, refresh_seconds=0.05))


def test_while_the_machine_is_short_of_something_no_more_run_than_it_could(tmp_path: Path) -> None:
    """Nothing was claimed for five seconds, however many programs ended meanwhile: a node that could run ten of 200
    tasks at once ran two in a second."""

    async def test(bench: Bench) -> None:
        claiming, runs = bench.parts.claiming, bench.parts.runs
        (first,) = bench.push(bench.queue("First", f"while [ ! -e {tmp_path}/go ]; do sleep 0.1; done"))
        bench.push(bench.queue("Long", "exec sleep 60"))
        await claiming.turn()
        await bench.until(lambda: runs.programs == 2, "they do not run")
        claiming.on_shortage("no descriptors")
        bench.push("Long", 3)
        claiming.on_change()
        await claiming.turn()
        assert len(runs) == runs.places_taken == 2
        (tmp_path / "go").touch()
        await bench.until(lambda: bench.task(first).status == Status.CONCLUDED and len(runs) == 1, "it does not end")
        await claiming.turn()
        assert len(runs) == 2  # not all that wait: only in place of the one that has ended

    on_bench(tmp_path, test, NO_REFRESH)


def test_a_drained_node_claims_nothing_until_it_is_resumed(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        (task_id,) = bench.push(bench.queue("Echo", "echo"))
        claiming, heartbeat = bench.parts.claiming, bench.parts.heartbeat
        heartbeat.set_drain({"by": "kim"})
        await claiming.turn()
        assert claiming.classes == frozenset() and bench.statuses([task_id]) == [Status.CREATED]
        heartbeat.set_drain(None)
        claiming.on_change()
        await claiming.turn()
        assert len(bench.parts.runs) == 1

    on_bench(tmp_path, test, NO_REFRESH)


def test_a_task_that_cannot_become_running_with_its_claim_is_started_all_the_same(tmp_path: Path) -> None:
    """Its parameters do not fit: that is concluded by its run."""

    async def test(bench: Bench) -> None:
        schema = {"type": "object", "required": ["name"]}
        queue = bench.queue("Fit", "echo", manifest={"parameters": schema})
        (task_id,) = bench.push(queue)
        await bench.parts.claiming.turn()
        assert bench.statuses([task_id]) == [Status.CLAIMED] and len(bench.parts.runs) == 1
        await bench.until(lambda: not bench.parts.runs, "the run has not ended")
        assert bench.task(task_id).document["error"]["code"] == "parameters"

    on_bench(tmp_path, test)
