"""Group commit, on both stores: what is written together, and what a call is told of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from disbatch_host.documents.changes import Place, RunChange, RunKey, Want
from disbatch_host.documents.records import new_task
from disbatch_host.errors import StoreRefusedError
from disbatch_host.node.pace import Pace
from disbatch_host.node.store_thread import StoreThread
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status


def claimed(store: Store, count: int) -> list[RunKey]:
    store.insert_tasks([new_task("q", {}, now=store.now()) for _ in range(count)])
    return [RunKey(task.id, "n1", "t") for task in store.claim("n1", [Want("q", count)], "t")]


def start(key: RunKey, token: str = "t") -> RunChange:
    key = RunKey(key.task_id, key.node, token)
    return RunChange(key=key, statuses=(Status.CLAIMED,), set={"status": int(Status.RUNNING), "run": {"attempt": 1}})


def statuses(store: Store, keys: list[RunKey]) -> list[int]:
    found = [store.get_task(key.task_id) for key in keys]
    return [task.status for task in found if task is not None]


def carry_out(store: Store, what: Callable[[StoreThread], Awaitable[Any]], pace: Pace = Pace()) -> Any:
    async def run() -> Any:
        thread = StoreThread(store, pace=pace)
        try:
            return await what(thread)
        finally:
            await thread.stop()

    return asyncio.run(run())


def test_a_call_is_told_what_was_recorded_after_it_and_is_written_before_it(store: Store) -> None:
    keys = claimed(store, 4)

    def look(store: Store, freed: Any) -> tuple[list[Any], list[int]]:
        # A look makes the store write what it has in hand.
        return list(freed), statuses(store, keys[:1])

    async def run(thread: StoreThread) -> None:
        answers = [thread.record(start(keys[0]), frees=Place("q", "before"))]
        call = thread.call_after_records(look)
        answers += [thread.record(start(keys[1]), frees=Place("q", "first")), thread.record(start(keys[2]))]
        answers += [thread.record(start(keys[3]), frees=Place("q", "second"))]
        thread.start()  # so all of it is there at once
        freed, seen = await call
        assert freed == [Place("q", "first"), Place("q", "second")]
        assert await asyncio.gather(*answers) == [True] * 4
        # MongoDB has no transactions here, and leaves the changes to the next write.
        assert seen in ([int(Status.RUNNING)], [int(Status.CLAIMED)])

    carry_out(store, run)
    assert statuses(store, keys) == [Status.RUNNING] * 4


def test_what_was_recorded_waits_for_the_call_that_is_about_to_come(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = claimed(store, 2)
    commits: list[str] = []
    together = store.together

    @contextlib.contextmanager
    def counted() -> Iterator[None]:
        commits.append("together")
        with together():
            yield

    monkeypatch.setattr(store, "together", counted)

    async def run(thread: StoreThread) -> None:
        thread.start()
        assert await thread.record(start(keys[0]), frees=Place("q", "ended")) and commits == []
        thread.expect_call(60)
        answer = thread.record(start(keys[1]))
        assert await thread.call_after_records(lambda _, freed: list(freed)) == []
        assert await answer and commits == ["together"]

    carry_out(store, run)


def test_a_call_that_does_not_come_is_not_waited_for_for_ever(store: Store) -> None:
    keys = claimed(store, 1)

    async def run(thread: StoreThread) -> None:
        thread.start()
        thread.expect_call(0.05)
        assert await asyncio.wait_for(thread.record(start(keys[0])), 20)

    carry_out(store, run)


def test_ends_without_end_do_not_put_off_what_was_recorded(store: Store) -> None:
    """Each end that made room for a claim put the write off by 2 ms; where no claim came (a node that is drained, say)
    nothing was written while ends came every millisecond."""
    keys = claimed(store, 1)

    async def run(thread: StoreThread) -> None:
        thread.start()
        thread.expect_call(0.05)
        answer = thread.record(start(keys[0]))
        deadline = time.monotonic() + 30
        while not answer.done() and time.monotonic() < deadline:
            thread.expect_call(0.05)
            await asyncio.sleep(0)
        assert answer.done() and answer.result()

    carry_out(store, run)


def test_a_call_that_comes_while_a_turn_gathers_waits_for_nothing_that_may_come_after_it(store: Store) -> None:
    """Where nothing else came, as at the end of a node, it waited for ever."""
    keys = claimed(store, 2)

    async def run(thread: StoreThread) -> None:
        thread.start()
        assert await thread.record(start(keys[0]))
        answer = thread.record(start(keys[1]))
        while not thread.turns.records and not answer.done():  # until it is taken in, and the turn gathers
            await asyncio.sleep(0)
        found = await asyncio.wait_for(thread.call(lambda store: store.get_task(keys[0].task_id)), 20)
        assert found is not None and await answer

    carry_out(store, run, Pace(turn_seconds=0.3))


def test_a_place_is_not_free_where_the_store_has_refused_its_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = claimed(store, 2)
    commit = store.commit

    def refuse_first(changes: Any, chunks: Any = ()) -> Any:
        if any(change.key == keys[0] for change in changes):
            raise StoreRefusedError("too large")
        return commit(changes, chunks)

    monkeypatch.setattr(store, "commit", refuse_first)

    async def run(thread: StoreThread) -> None:
        call = thread.call_after_records(lambda _, freed: list(freed))
        answers = [thread.record(start(key), frees=Place("q", str(number))) for number, key in enumerate(keys)]
        thread.start()
        assert await call == [Place("q", "1")]
        results = await asyncio.gather(*answers, return_exceptions=True)
        assert isinstance(results[0], StoreRefusedError) and results[1] is True

    carry_out(store, run)


def test_of_changes_that_are_written_together_the_refused_ones_are_told_apart(store: Store) -> None:
    keys = claimed(store, 5)

    async def run(thread: StoreThread) -> None:
        answers = [thread.record(start(key, "other" if number in (1, 3) else "t")) for number, key in enumerate(keys)]
        thread.start()
        assert await asyncio.gather(*answers) == [True, False, True, False, True]

    carry_out(store, run)
    assert statuses(store, keys) == [Status.RUNNING, Status.CLAIMED] * 2 + [Status.RUNNING]
