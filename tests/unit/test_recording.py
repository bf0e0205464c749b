"""What new output and events make of a task document, and how much of the output is then acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disbatch_host.clock import SystemClock
from disbatch_host.documents.changes import OUTPUT_CHUNK_SIZE, OutputChunk, Place, RunChange, RunKey
from disbatch_host.documents.records import Task
from disbatch_host.errors import StoreError
from disbatch_host.plugin.catalog import load_plugins
from disbatch_host.process.interface import StopReason, Stream
from disbatch_host.run.context import NewsPace
from disbatch_host.run.execution import ExecutionEnd, HeardSoFar, Listener
from disbatch_host.run.output import OutputStream
from disbatch_host.run.recording import NEWS_BYTES_PER_SECOND, PENDING_FROM, News, Recording, news_of, pause_seconds
from disbatch_host.run.same_delay import SameDelay
from disbatch_host.run.state import RunState
from disbatch_protocol.events import FollowUp, FollowUps, Progress
from helpers.nodes import write_plugin

OUT, ERR, EVENTS = Stream.STDOUT, Stream.STDERR, Stream.EVENTS
MIB = 2**20


@pytest.fixture
def state(tmp_path: Path) -> RunState:
    write_plugin(tmp_path, "P", "exit 0")
    task = Task.from_document({"_id": "t", "queue": "q", "status": -1, "claim": {"token": "abc"}})
    run = {"token": "abc", "attempt": 1, "pid": 7}
    return RunState(
        task, load_plugins([tmp_path]).plugins["P"], RunKey("t", "n1", "abc"), run, spool_directory=tmp_path
    )


class Ledger:
    """A recorder that gives each answer when it is told to."""

    def __init__(self) -> None:
        self.records: list[tuple[RunChange | None, Sequence[OutputChunk]]] = []
        self.answers: list[asyncio.Future[bool]] = []

    def record(
        self, change: RunChange | None, chunks: Sequence[OutputChunk] = (), *, frees: Place | None = None
    ) -> asyncio.Future[bool]:
        self.records.append((change, chunks))
        self.answers.append(asyncio.get_running_loop().create_future())
        return self.answers[-1]

    async def wait_for_budget(self) -> None:
        pass

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.records) < count:
                await asyncio.sleep(0.001)


class Lost:
    """Counts how often it is told that the task is another node's."""

    def __init__(self) -> None:
        self.count = 0

    async def __call__(self) -> None:
        self.count += 1


class Running:
    """An execution of which only the acknowledgments are looked at."""

    pid_started = 42
    work_directory = None
    event_bytes = 0

    def __init__(self) -> None:
        self.process_facts: dict[str, Any] = {}
        self.acknowledged: list[Mapping[Stream, int]] = []

    async def start(self, task_line: bytes, listener: Listener) -> asyncio.Future[ExecutionEnd]:
        raise NotImplementedError

    def stop(self, reason: StopReason) -> None: ...

    def kill(self, reason: StopReason) -> None: ...

    def follow(self) -> bool:
        return False

    def acknowledge(self, counts: Mapping[Stream, int]) -> None:
        self.acknowledged.append(counts)

    def settle(self) -> None: ...

    def clean_up(self) -> None: ...


def test_what_many_events_do_at_the_end_is_written_where_another_node_may_go_on_and_only_when_it_changes(
    state: RunState,
) -> None:
    def fields(event_bytes: int) -> Any:
        return news_of(state, event_bytes=event_bytes).fields

    state.events.take(FollowUps(tasks=(FollowUp(queue="q", parameters={}),), faults=()), now=SystemClock().now())
    assert fields(PENDING_FROM) == {}, "its runs end with its node"
    state.run = {**state.run, "session": 1}
    assert fields(PENDING_FROM - 1) == {}
    pending = fields(PENDING_FROM)["run"]["pending"]
    assert (pending["event_bytes"], pending["follow_ups"]) == (PENDING_FROM, [{"queue": "q", "parameters": {}}])
    assert fields(PENDING_FROM) == {}
    assert fields(PENDING_FROM + 1)["run"]["pending"]["event_bytes"] == PENDING_FROM + 1
    assert "pending" in news_of(state, pid_started=7, event_bytes=PENDING_FROM + 1).fields["run"], "it would be lost"
    assert "pending" not in state.run
    state.is_pending_refused = True
    assert fields(PENDING_FROM + 2) == {}


def test_news_hold_what_is_new_and_each_of_it_once(state: RunState) -> None:
    state.stdout.feed(b"one\n")
    state.events.take(Progress(value=0.5, message=None), now=SystemClock().now())
    news = news_of(state)
    assert news.fields == {"stdout": "one\n", "progress": {"value": 0.5}}
    assert news.counts == {OUT: 4} and not news.chunks
    assert news_of(state).fields == {}
    state.stderr.feed(b"err")
    news = news_of(state)
    assert news.fields == {"stderr": "err"} and news.counts == {OUT: 4, ERR: 3}


def test_the_start_of_the_process_is_written_even_where_the_run_holds_it_already(state: RunState) -> None:
    """The process that took the place of a reserved worker process was not in the document while it ran: a node that
    had to kill what was left of the run knew only the one that was gone."""
    state.run |= {"pid": 8, "pid_started": 99}
    assert news_of(state, pid_started=99).fields == {"run": {"token": "abc", "attempt": 1, "pid": 8, "pid_started": 99}}


def test_output_that_is_too_large_for_the_document_comes_in_pieces(state: RunState) -> None:
    state.stdout.feed(b"x" * (2 * MIB))
    news = news_of(state)
    assert len(news.fields["stdout"]) == MIB
    assert [len(chunk.data) for chunk in news.chunks] == [OUTPUT_CHUNK_SIZE] * (2 * MIB // OUTPUT_CHUNK_SIZE)
    given = len(news.chunks) * OUTPUT_CHUNK_SIZE
    assert given - 3 <= news.counts[OUT] <= given < 2 * MIB


def test_the_more_there_is_to_write_again_the_rarer_it_is_written(state: RunState) -> None:
    assert pause_seconds(state, News(fields={}), 1.0) == 1.0
    text = "x" * (4 * NEWS_BYTES_PER_SECOND)
    assert pause_seconds(state, News(fields={"stdout": text}), 1.0) == 4.0


@given(st.lists(st.one_of(st.binary(max_size=40), st.text(max_size=20).map(str.encode)), max_size=30))
def test_no_byte_counts_as_given_out_whose_text_is_not(blocks: list[bytes]) -> None:
    """What is acknowledged too early is lost with the node; so the text up to there must be the same whatever
    follows."""
    output = OutputStream(max_bytes=MIB)
    whole = b"".join(blocks)
    for block in blocks:
        output.feed(block)
        count = output.delivered_bytes
        assert count <= output.bytes_seen
        # All characters that are whole before `count` stand in the text.
        again = OutputStream(max_bytes=MIB)
        again.feed(whole[:count])
        assert output.inline_text().startswith(again.inline_text())
        again.close()
    output.close()


@given(st.binary(max_size=20), st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=10))
def test_bytes_that_are_said_again_count_once(stream: bytes, parts: list[tuple[int, int]]) -> None:
    """`parts`: from how far back it goes on after a break in the connection, and how far it gets beyond."""
    heard, kept, told = HeardSoFar(), b"", 0
    for back, further in (*parts, (0, len(stream))):
        offset, end = max(0, told - back), min(len(stream), told + further)
        if offset < end:
            kept += heard.new_part(OUT, offset, stream[offset:end])[1]
        told = end
    assert kept == stream and heard.offsets() == {OUT: len(stream), ERR: 0, EVENTS: 0}


AT_ONCE = NewsPace(first_seconds=0.0, seconds=0.0)


def a_recording(state: RunState, ledger: Ledger) -> Recording:
    return Recording(state, ledger, SystemClock(), pace=AT_ONCE, first_news=SameDelay(), listener=None)


def test_output_is_acknowledged_only_when_it_is_durable(state: RunState) -> None:
    async def perform() -> None:
        ledger, execution, lost = Ledger(), Running(), Lost()
        news = a_recording(state, ledger)
        news.start(execution, on_lost=lost)
        news.receive(OUT, b"durable")
        await ledger.wait_for(1)
        news.receive(OUT, b", not yet")
        assert execution.acknowledged == []
        ledger.answers[0].set_result(True)
        await news.finish()
        assert execution.acknowledged == [{OUT: 7}] and not lost.count
        change = ledger.records[0][0]
        assert change is not None and change.set["run"]["pid_started"] == 42

    asyncio.run(perform())


def test_a_refused_write_is_not_acknowledged_and_is_the_last(state: RunState) -> None:
    async def perform() -> None:
        ledger, execution, lost = Ledger(), Running(), Lost()
        news = a_recording(state, ledger)
        news.start(execution, on_lost=lost)
        news.receive(OUT, b"somebody else's")
        await ledger.wait_for(1)
        ledger.answers[0].set_result(False)
        await news.finish()
        news.receive(OUT, b"more")
        await asyncio.sleep(0.02)
        assert lost.count == 1 and execution.acknowledged == [] and len(ledger.records) == 1

    asyncio.run(perform())


def test_after_a_write_that_failed_nothing_is_acknowledged(state: RunState) -> None:
    """What the store has is not known then: the text that it did not take is not written again before the end."""

    async def perform() -> None:
        ledger, execution, lost = Ledger(), Running(), Lost()
        news = a_recording(state, ledger)
        news.start(execution, on_lost=lost)
        news.receive(OUT, b"one")
        await ledger.wait_for(1)
        ledger.answers[0].set_exception(StoreError("too large"))
        news.receive(ERR, b"two")
        await ledger.wait_for(2)
        ledger.answers[1].set_result(True)
        await news.finish()
        assert execution.acknowledged == [] and not lost.count

    asyncio.run(perform())


def test_a_short_run_writes_nothing_before_its_end(state: RunState) -> None:
    async def perform() -> None:
        ledger = Ledger()
        news = a_recording(state, ledger)
        news.start(Running(), on_lost=Lost())
        news.receive(OUT, b"all of it")
        await news.finish()
        await news.record_pieces()
        assert ledger.records == [] and state.stdout.inline_text() == "all of it"

    asyncio.run(perform())
