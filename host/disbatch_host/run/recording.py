"""The news of a run on its way into the store while the run goes on.

Responsible for: turning new output and events into fields of the document (`news_of`), deciding when they are written,
and acknowledging durable output to the process host. Must not know: how the program is started or ends.

Rules:
1. A short run writes nothing here: everything goes into the record of its end.
2. One write of a run is under way at a time, so its changes are recorded in their order.
3. The more there is to rewrite each time, the less often it is written.
4. Only output that the store has is acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from disbatch_host import errors
from disbatch_host.clock import Clock
from disbatch_host.documents import transitions
from disbatch_host.documents.changes import OutputChunk
from disbatch_host.documents.records import Document
from disbatch_host.errors import StoreRefusedError
from disbatch_host.process.interface import Stream
from disbatch_host.run.context import NewsPace, Recorder
from disbatch_host.run.execution import Execution
from disbatch_host.run.same_delay import SameDelay, Waiting
from disbatch_host.run.state import RunState
from disbatch_protocol.events import BadLine, Event

log = logging.getLogger(__name__)

NEWS_BYTES_PER_SECOND = 2**18  # of text written again and again into the document: the more there is, the less often
PENDING_FROM = 2**23  # bytes of events, from which on `run.pending` has what they do at the end
LARGE_RECORD = 2**15  # bytes of output; a record with more must wait for the write budget, smaller ones go at once
_TOLD_SECONDS = 0.05  # for a process host to tell what it has kept
CHUNKS_AT_ONCE = 8 * 2**20  # bytes of an output file handed over in one go
CHUNKS_URGENT = 4 * 2**20  # bytes waiting for the output file that are worth a write of their own


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """One write of everything that is new since the last one."""

    fields: Document = field(repr=False)  # top-level fields with their current values
    chunks: Sequence[OutputChunk] = ()
    counts: Mapping[Stream, int] = field(default_factory=dict)  # bytes of each stream that the store then has


def news_of(state: RunState, *, pid_started: int | None = None, event_bytes: int = 0) -> News:
    """The fields that new output and events change; each change is returned once. `pid_started`: of its process, if
    that is known by now and not yet written. `event_bytes`: see `Execution`."""
    fields = state.events.changed_fields()
    facts = state.events.run_facts()
    if pid_started is not None:
        facts["pid_started"] = pid_started
    # A process that replaced another is in `run` already, and not yet in the document.
    if pid_started is not None or any(state.run.get(name) != value for name, value in facts.items()):
        state.run = state.run_with(facts)
        fields["run"] = dict(state.run)
    # A process host does not keep all of them, and, with a session, another node may go on with the run.
    is_many = event_bytes >= PENDING_FROM and "session" in state.run and not state.is_pending_refused
    if is_many and ("run" in fields or event_bytes > state.pending_bytes):
        fields["run"] = {**state.run, "pending": state.events.pending(event_bytes)}
        state.pending_bytes = event_bytes
    for stream, output in state.streams:
        if output.version != state.written[stream] and output.inline_size >= state.least_text[stream]:
            state.written[stream] = output.version
            fields[str(stream)] = output.inline_text()
    chunks = next_chunks(state)
    counts = {stream: count for stream, output in state.streams if (count := output.delivered_bytes)}
    return News(fields=fields, chunks=chunks, counts=counts)


def next_chunks(state: RunState) -> list[OutputChunk]:
    """The next pieces of output that is too large for the document; each is handed out once."""
    return [
        OutputChunk(key=state.key, stream=str(stream), number=number, data=data)
        for stream, output in state.streams
        for number, data in output.take_chunks(CHUNKS_AT_ONCE)
    ]


def pause_seconds(state: RunState, news: News, least: float) -> float:
    """How long to wait until the next write: `least` or longer (rule 3)."""
    size = sum([len(news.fields.get(stream, "")) for stream, _ in state.streams]) + state.events.size
    if state.pending_bytes:
        size += state.events.follow_up_bytes
    return max(least, size / NEWS_BYTES_PER_SECOND)


class Recording:
    """Listens to one run, and writes its news from `start` to `stop`."""

    def __init__(
        self,
        state: RunState,
        recorder: Recorder,
        clock: Clock,
        *,
        pace: NewsPace,
        first_news: SameDelay,
        listener: Callable[[Stream, bytes], None] | None,
    ) -> None:
        """`listener` is told everything as well, as it comes."""
        self._pace = pace
        self._first_news = first_news
        self._state = state
        self._recorder = recorder
        self._clock = clock
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        # Set while its news are to be written. No longer, or a run and its recording would hold each other, and only
        # the garbage collector would free them.
        self._execution: Execution | None = None
        self._on_lost: Callable[[], Awaitable[None]] | None = None
        self._timer: asyncio.TimerHandle | Waiting | None = None
        self._write: asyncio.Task[None] | None = None
        self._fault: Exception | None = None  # why some of its output could not be kept
        self._has_failed = False  # a write: it is no longer known exactly what the store has

    def start(self, execution: Execution, *, on_lost: Callable[[], Awaitable[None]]) -> None:
        """The program is running: from now on its news are written. `on_lost` is called when a write is refused: the
        task is another node's now."""
        self._execution = execution
        self._on_lost = on_lost
        self._timer = self._first_news.after(self._pace.first_seconds, self._on_long_enough)

    def _on_long_enough(self) -> None:
        """It is not a short run: whatever was not told so far is told now, and written when it has come."""
        if self._execution is not None and self._execution.follow():
            self._timer = self._loop.call_later(_TOLD_SECONDS, self._start_write)
        else:
            self._start_write()

    def receive(self, stream: Stream, data: bytes) -> None:
        """The program wrote something."""
        if self._listener is not None:
            self._listener(stream, data)
        if stream is Stream.EVENTS:
            return
        output = self._state.stdout if stream is Stream.STDOUT else self._state.stderr
        try:
            output.feed(data)
        except Exception as error:  # told at the end: the output is no longer what the program wrote
            self._fault = self._fault or error
        if output.pending_chunk_bytes >= CHUNKS_URGENT:
            self._start_write()

    def miss(self, stream: Stream, count: int) -> None:
        """So many bytes, which come next, were kept by nobody."""
        if stream is Stream.EVENTS:
            self._state.events.miss()
        else:
            (self._state.stdout if stream is Stream.STDOUT else self._state.stderr).skip(count)

    def hear(self, heard: Event | BadLine) -> None:
        """The program wrote an event, or a bad line, to descriptor 3."""
        now = self._clock.now()
        try:
            self._state.events.take(heard, now=now)
        except Exception as error:  # it costs this event, as any other that cannot be taken
            why = f"expected an event that can be recorded, found one that cannot: {errors.in_words(error)}"
            self._state.events.take(BadLine(start=b"", message=why), now=now)

    @property
    def is_small(self) -> bool:
        """Whether nothing has to be waited for, and nothing written, before the record of the end."""
        size = 0
        for _, output in self._state.streams:
            size += output.bytes_seen
            if output.is_in_file:
                return False
        return size < LARGE_RECORD and self._write is None and self._fault is None

    def stop(self) -> None:
        """Start no further write. Stopping twice is fine."""
        self._execution = self._on_lost = None
        if self._timer is not None:
            self._timer.cancel()

    async def finish(self) -> None:
        """The program has ended: end its output, after the write in progress. Raises the exception, if any, for which
        some of the output could not be kept."""
        self.stop()
        if self._write is not None:
            await self._write
        if self._fault is not None:
            raise self._fault
        self.finish_small()

    def finish_small(self) -> None:
        """`finish` for one that `is_small`."""
        self.stop()
        for _, output in self._state.streams:
            output.finish()

    async def record_pieces(self) -> None:
        """Write the pieces that are left once it has finished. Afterwards there is budget for the record that follows
        at once."""
        while await self._record_next_pieces():
            pass

    async def _record_next_pieces(self) -> bool:
        """Returns whether there were any. A function of its own, so that they are freed before the wait for the next:
        kept until then, those of all runs together would far exceed the write budget."""
        await self._wait_for_budget()
        chunks = next_chunks(self._state)
        if chunks:
            await self._recorder.record(None, chunks)
        return bool(chunks)

    def _start_write(self) -> None:
        if self._write is None and self._execution is not None and self._on_lost is not None:
            self._write = self._loop.create_task(self._record_news(self._execution, self._on_lost))

    async def _record_news(self, execution: Execution, on_lost: Callable[[], Awaitable[None]]) -> None:
        state = self._state
        await self._wait_for_budget()
        pid_started = None
        if not state.is_pid_written:
            pid_started = execution.pid_started
            state.is_pid_written = pid_started is not None
        news, accepted = News(fields={}), True
        try:
            news = news_of(state, pid_started=pid_started, event_bytes=execution.event_bytes)
            if news.fields:
                accepted = await self._record(news)
            elif news.chunks:
                accepted = await self._recorder.record(None, news.chunks)
        except Exception as error:  # if it lasts, the end of the run will meet it as well
            self._has_failed = True
            log.error(
                "task %s: its output so far could not be written: %s", state.task.id, errors.in_words(error),
                extra=state.log_ids,
            )  # fmt: skip
        self._write = None
        if not accepted:
            self.stop()
            await on_lost()
            return
        if not self._has_failed:
            execution.acknowledge(news.counts)
        if self._execution is None:
            return
        if any(output.pending_chunk_bytes >= CHUNKS_URGENT for _, output in state.streams):
            self._start_write()
        else:
            self._timer = self._loop.call_later(pause_seconds(state, news, self._pace.seconds), self._start_write)

    async def _record(self, news: News) -> bool:
        """Without `run.pending` where the store refuses it: then another node does not know what earlier events do at
        the end, and everything else goes on."""
        state = self._state
        try:
            return await self._recorder.record(transitions.progress_change(state.key, news.fields), news.chunks)
        except StoreRefusedError as refusal:
            if "pending" not in news.fields.get("run", ()):
                raise
            log.warning("task %s: run.pending is not kept: %s", state.task.id, refusal, extra=state.log_ids)
            state.is_pending_refused = True
            fields = {**news.fields, "run": dict(state.run)}
            return await self._recorder.record(transitions.progress_change(state.key, fields), news.chunks)

    async def _wait_for_budget(self) -> None:
        """Wait until the news to be written now may be held in memory a second time, on their way into the store."""
        if self._state.stdout.held_bytes + self._state.stderr.held_bytes >= LARGE_RECORD:
            await self._recorder.wait_for_budget()
