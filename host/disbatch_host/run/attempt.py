"""One run: from a claimed task to its durable end.

Responsible for: checking the parameters, making `Running` durable, starting the program with what the plugin contract
promises it, passing on what it prints while it runs, and recording truly how it ended. Must not know: how many runs
there are, which queue is next, which store is behind the recorder.

The steps of a run, in order; each waits for the one before it to be durable where a promise hangs on it:

    parameters fit? ── no ──────────────────────────────────────► concluded without a start
    record Running ─── refused: somebody else owns the task ────► nothing was started
    was that long ago? record once more that it is ours ─ refused ► nothing was started
    start the program ─ impossible ─────────────────────────────► back to the queue, the class is suspected
    pass on output, pid ─ refused: the task was taken over ─────► stop the program, say so, write nothing more
    the program has ended: record the end (guarded, once)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol

from disbatch_host import logs
from disbatch_host.clock import Clock
from disbatch_host.documents import records, requests, run_record, transitions
from disbatch_host.documents.changes import OutputChunk, Place, RunChange, RunKey
from disbatch_host.documents.records import Document, Task
from disbatch_host.errors import StoreError, StoreRefusedError
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.plugin.program import LaunchSite
from disbatch_host.process import machine
from disbatch_host.process.interface import StartError, StopReason, Stream
from disbatch_host.run.cpu_limit import OutOfTimeError, cpu_limit
from disbatch_host.run.events import EventEffects
from disbatch_host.run.execution import Assignment, Execution, ExecutionEnd, Listener, OneshotExecution
from disbatch_host.run.output import OutputStream
from disbatch_host.run.worker.pool import Worker, WorkerExecution, WorkerPool
from disbatch_protocol.document import stdin_line
from disbatch_protocol.events import BadLine, Event
from disbatch_protocol.manifest import Manifest, Mode
from disbatch_protocol.outcome import FAILED_FOR_GOOD, Conclusion, Outcome, Reason, RunEnd, conclude
from disbatch_protocol.quantities import format_duration
from disbatch_protocol.status import Status

log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0  # of CPU time for a task's parameters: everything else waits; 8 MiB take less
FIRST_NEWS_SECONDS = 0.2  # output this old is written; a shorter run writes everything once, at its end
NEWS_SECONDS = 1.0  # between two writes of one run's output and events
NEWS_BYTES_PER_SECOND = 2**18  # of text written again and again into the document: the more there is, the rarer
LARGE_RECORD = 2**15  # bytes of output in one record from which on there must be room for it; others go at once
CHUNKS_AT_ONCE = 8 * 2**20  # bytes of an output file handed over in one go
CHUNKS_URGENT = 4 * 2**20  # bytes waiting for the output file that are worth a write of their own

_NOT_FOR_PLUGINS = ("token", "secrets")  # of `run`: the node's own mark, and a note for whoever shows the task

# Ends that this host has brought about: what the plugin said of an error before is not why it ended.
_ENDED_BY_HOST = frozenset({Reason.TIMEOUT, Reason.IDLE_TIMEOUT, Reason.CANCELLED, Reason.SHUTDOWN, Reason.LOST})


class Recorder(Protocol):
    """Where a run's changes are made durable."""

    def record(
        self, change: RunChange | None, chunks: Sequence[OutputChunk] = (), *, frees: Place | None = None
    ) -> asyncio.Future[bool]:
        """`frees`: the place that is free when this is durable."""

    async def room(self) -> None:
        """Awaited directly before a large record; see `LARGE_RECORD`."""


class RunResult(StrEnum):
    """What became of a run, for whoever asked for it."""

    ENDED = "ended"
    NOT_STARTED = "not_started"  # the program could not be started; the task is back in its queue
    GIVEN_BACK = "given_back"  # the node is stopping and nothing was started
    REFUSED = "refused"  # somebody else owns the task; nothing of this run was recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """How a run went. `conclusion` is None where nothing was concluded."""

    result: RunResult
    conclusion: Conclusion | None = None
    reason: Reason | None = None  # why it ended
    seconds: float = 0.0  # from its start to its end
    how: str = ""  # it ended: exit code, signal or reason, in short; nothing of what the plugin said
    why_not_started: str | None = None
    is_machines_fault: bool = False  # it could not be started for want of descriptors, processes, memory or room
    why_process_lost: str | None = None  # worker mode: its process ended by itself with the task in hand


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all runs of a node share."""

    machine_name: str
    recorder: Recorder
    clock: Clock  # the store's: what other nodes compare the dates in documents with
    site: LaunchSite
    workers: WorkerPool
    trust_seconds: float  # how old "it is ours" may be when a program is started: by far less than `dead_after`
    extended_json: Callable[[object], object] | None = None  # of types that only the store knows


def beginning(task: Task, plugin: Plugin, around: Surroundings) -> Document:
    """`run` in the task document, as it is when a run of the task starts now."""
    manifest = plugin.manifest
    secrets = plugin.schema.secrets(task.parameters)
    return {
        **({"secrets": list(secrets)} if secrets else {}),
        "token": task.token,
        "attempt": task.next_attempt,
        "node": around.site.node_id,
        "host": around.machine_name,
        "plugin": {"class": manifest.name, "version": manifest.version, "directory": str(plugin.directory)},
        "idempotent": manifest.idempotent,
        "started": around.clock.now(),
    }


def beginning_at_once(
    task: Task, plugin: Plugin, around: Surroundings, worker: Worker | None
) -> tuple[Document, Worker | None] | None:
    """`run` of a task that can become Running as soon as it is claimed, and the worker process that it is given: its
    parameters fit, and nothing has to be prepared first, or it can have `worker`, an idle process that is reserved.
    None for any other task, and where the check may take its time. Called in the thread of the store, which must not
    wait."""
    is_oneshot = plugin.manifest.mode is Mode.ONESHOT
    if not (is_oneshot or worker) or plugin.schema.may_be_slow or plugin.schema.check(task.parameters):
        return None
    if has_expired(task, around) or task.cancel is not None:
        return None
    run = beginning(task, plugin, around)
    if is_oneshot or worker is None:
        return run, None
    return {**run, **worker.facts}, worker


def has_expired(task: Task, around: Surroundings) -> bool:
    """Whether it must not be started any more."""
    expires = task.document.get("expires")
    return isinstance(expires, datetime) and expires <= around.clock.now()


def input_line(
    task: Task, plugin: Plugin, run: Mapping[str, Any], *, extended_json: Callable[[object], object] | None = None
) -> bytes:
    """What a plugin gets of its task: a line of JSON (SPEC, section 4). `run` as it is when the run starts.

    Raises StartError where the task holds what JSON cannot.
    """
    document = {
        **task.document,
        "status": int(Status.RUNNING),
        "mtime": run["started"],
        "parameters": plugin.schema.with_defaults(task.parameters),
        "run": {name: value for name, value in run.items() if name not in _NOT_FOR_PLUGINS},
    }
    for name in ("error", "result", "progress"):  # of an earlier attempt; see start_change
        document.pop(name, None)
    try:
        return stdin_line(document, other=extended_json)
    except (TypeError, ValueError) as error:  # a value that another program wrote and JSON cannot hold
        raise StartError(f"cannot be given its task as JSON: {error}") from error


class Run:
    """One attempt at one task."""

    def __init__(
        self,
        task: Task,
        plugin: Plugin,
        around: Surroundings,
        *,
        begun: Document | None = None,
        worker: Worker | None = None,
        asked_at: float | None = None,
        listener: Callable[[Stream, bytes], None] | None = None,
        on_place_free: Callable[[Run], None] | None = None,
    ) -> None:
        """`begun`: `run` as it stands in the task where it is Running already; else it is Claimed. `worker`: the
        process that was reserved for it. `asked_at`: when the store was asked for it, by the monotonic clock."""
        self._task = task
        self._plugin = plugin
        self._manifest: Manifest = plugin.manifest
        self._around = around
        self._listener = listener
        self._on_place_free = on_place_free
        self.holds_place = True  # whether it counts as one of those that run at once
        self._loop = asyncio.get_running_loop()
        self._key = RunKey(task.id, around.site.node_id, task.token)
        self._attempt = task.next_attempt
        spool_directory = around.site.temporary_directory
        self._streams = {
            stream: OutputStream(max_bytes=self._manifest.max_output_bytes, spool_directory=spool_directory)
            for stream in (Stream.STDOUT, Stream.STDERR)
        }
        self._written_versions = dict.fromkeys(self._streams, 0)
        self._effects = EventEffects(task)
        self._has_begun = begun is not None
        self._run: Document = begun or {}
        self._owned_at = around.clock.monotonic() if asked_at is None else asked_at  # when it was certainly ours
        self._began = around.clock.monotonic()  # of one that was begun with its claim; else `_begin` says when
        self._is_pid_written = "pid_started" in self._run
        self._execution = self._new_execution(worker)
        self._is_started = False
        self._ended: asyncio.Future[ExecutionEnd] | None = None
        self._news_timer: asyncio.TimerHandle | None = None
        self._news_write: asyncio.Task[None] | None = None
        self._stop_before_start: asyncio.Future[StopReason] = self._loop.create_future()
        self._cancel: Mapping[str, Any] | None = None
        self._is_held_back = False
        self._is_lost = False

    @property
    def task(self) -> Task:
        return self._task

    @property
    def plugin(self) -> Plugin:
        return self._plugin

    @property
    def log_ids(self) -> dict[str, Any]:
        """For `extra=` of what is logged about it."""
        return logs.ids(
            task=self._task.id,
            queue=self._task.queue,
            class_name=self._plugin.name,
            attempt=self._attempt,
            pid=self._run.get("pid"),
        )

    def stop(self, reason: StopReason) -> None:
        """Stop the program, with its grace; before its start: do not start it."""
        if self._is_started:
            self._execution.stop(reason)
        elif not self._stop_before_start.done():
            self._stop_before_start.set_result(reason)

    def cancel(self, request: Mapping[str, Any]) -> None:
        """Stop it because somebody wants that; `request` says who, when and why. Asking again changes nothing."""
        if self._cancel is None:
            self._cancel = request
            self.stop(StopReason.CANCELLED)

    def kill(self, reason: StopReason) -> None:
        """Stop the program at once."""
        if self._is_started:
            self._execution.kill(reason)
        elif not self._stop_before_start.done():
            self._stop_before_start.set_result(reason)

    def hold_back(self) -> None:
        """Do not start it any more, but let it run where it has been started: the node is stopping."""
        self._is_held_back = True

    async def perform(self) -> RunReport:
        """Carry the task from Claimed to its end. Raises StoreError where the end could not be recorded."""
        try:
            return await self._perform()
        finally:
            if self._news_timer is not None:
                self._news_timer.cancel()
            for stream in self._streams.values():
                stream.close()

    async def _perform(self) -> RunReport:
        if self._shall_not_start:
            return await self._give_back()
        if not self._has_begun and (ended_early := await self._begin()) is not None:
            return ended_early
        if not await self._is_still_ours():
            log.warning("task %s was given to others before it was started here; it is not started", self._task.id)
            self._execution.abandon()
            return RunReport(result=RunResult.REFUSED)
        try:
            line = input_line(self._task, self._plugin, self._run, extended_json=self._around.extended_json)
            self._ended = await self._execution.start(line, Listener(receive=self._receive, hear=self._hear))
        except StartError as error:
            self._execution.abandon()
            return await self._return_unstarted(error, Status.RUNNING)
        self._is_started = True
        if self._stop_before_start.done():
            self.stop(self._stop_before_start.result())
        facts = self._process_facts()
        if facts.get("pid_started") != self._run.get("pid_started"):
            self._is_pid_written = False  # another process than the one that was expected
        self._run |= facts
        self._news_timer = self._loop.call_later(FIRST_NEWS_SECONDS, self._write_news)
        return await self._record_end(await self._ended)

    async def _is_still_ours(self) -> bool:
        """This process may have stood still (SIGSTOP, a machine that swaps) since the store was asked, for so long that
        the task was taken for lost and given to another node; a program must not be started then."""
        while (asked_at := self._around.clock.monotonic()) - self._owned_at > self._around.trust_seconds:
            if not await self._record(transitions.progress_change(self._key, {"node": self._key.node})):
                return False
            self._owned_at = asked_at
        return True

    async def _begin(self) -> RunReport | None:
        """Claimed → Running, durable. A report where it does not come to that."""
        if self._task.cancel is not None:  # asked for while it ran before, and it waits again
            await self._record(
                transitions.cancelled_claim_change(
                    self._task, self._key, self._task.cancel, now=self._around.clock.now()
                )
            )
            return RunReport(result=RunResult.GIVEN_BACK)
        if has_expired(self._task, self._around):
            await self._record(transitions.expired_claim_change(self._key, now=self._around.clock.now()))
            return RunReport(result=RunResult.GIVEN_BACK)
        self._run = self._beginning()
        faults = self._parameter_faults()
        if faults:
            return await self._conclude_unfit(faults)
        try:
            is_prepared = await self._prepare()
        except StartError as error:
            return await self._return_unstarted(error, Status.CLAIMED)
        if not is_prepared or self._shall_not_start:
            self._execution.abandon()
            return await self._give_back()
        self._began = self._around.clock.monotonic()
        self._run |= {"started": self._around.clock.now(), **self._process_facts()}
        self._is_pid_written = "pid_started" in self._run
        change = transitions.start_change(self._task, self._key, self._run, now=self._run["started"])
        self._owned_at = self._began
        try:
            self._has_begun = await self._record(change)
        except StoreError:
            self._execution.abandon()
            raise
        if not self._has_begun:
            log.warning(
                "task %s was claimed here but belongs to another node now; it is not started", self._task.id,
                extra=self.log_ids,
            )  # fmt: skip
            self._execution.abandon()
            return RunReport(result=RunResult.REFUSED)
        return None

    def _parameter_faults(self) -> list[str]:
        schema = self._plugin.schema
        try:
            with cpu_limit(CHECK_SECONDS) if schema.may_be_slow else contextlib.nullcontext():
                return [str(fault) for fault in schema.check(self._task.parameters)]
        except OutOfTimeError:
            log.error(
                "plugin %s: its schema takes too long to check the parameters of a task", self._plugin.name,
                extra=self.log_ids,
            )  # fmt: skip
            return [
                f"expected a schema that can be checked within {format_duration(CHECK_SECONDS)}, found one that takes "
                "longer: a pattern that tries too many ways, or a list too long to be compared with itself"
            ]

    @property
    def _shall_not_start(self) -> bool:
        return self._is_held_back or self._stop_before_start.done()

    def _new_execution(self, worker: Worker | None) -> Execution:
        assignment = Assignment(task_id=str(self._task.id), queue=str(self._task.queue), attempt=self._attempt)
        if self._manifest.mode is Mode.WORKER:
            return WorkerExecution(self._plugin, self._around.workers, assignment, worker)
        return OneshotExecution(self._plugin, self._around.site, assignment)

    async def _prepare(self) -> bool:
        """False where it was told to stop in the meantime."""
        if self._manifest.mode is Mode.ONESHOT:
            await self._execution.prepare()
            return True
        preparation = self._loop.create_task(self._execution.prepare())
        # Where this run is stopped, or cancelled, nobody asks how the preparation ended; asyncio would complain.
        preparation.add_done_callback(lambda done: done.cancelled() or done.exception())
        either: list[asyncio.Future[Any]] = [preparation, self._stop_before_start]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not preparation.done():
            preparation.cancel()
            await asyncio.wait({preparation})
            return False
        preparation.result()
        return True

    def _process_facts(self) -> Document:
        """What tells its process from any other, so that it can be found and killed when this node is gone."""
        return self._execution.process_facts

    def _beginning(self) -> Document:
        return beginning(self._task, self._plugin, self._around)

    # --- ends without a start

    async def _give_back(self) -> RunReport:
        now = self._around.clock.now()
        if self._has_begun:
            self._execution.abandon()
            change = transitions.take_back_change(self._task, self._key, now=now)
        else:
            change = transitions.give_back_change(self._key, now=now)
        await self._record(change)
        return RunReport(result=RunResult.GIVEN_BACK)

    async def _conclude_unfit(self, faults: Sequence[str]) -> RunReport:
        message = f"disbatch-host: the parameters do not fit the plugin, it was not started: {'; '.join(faults)}"
        error = {"code": "parameters", "message": message}
        return await self._conclude_unstarted(RunEnd(reason=Reason.PARAMETERS), Status.CLAIMED, error)

    async def _return_unstarted(self, error: StartError, left: Status) -> RunReport:
        why = str(error)
        log.error("task %s: plugin %s %s", self._task.id, self._plugin.name, why, extra=self.log_ids)
        report = await self._conclude_unstarted(
            RunEnd(reason=Reason.START_FAILED),
            left,
            {"code": "start_failed", "message": f"disbatch-host: {why}"},
        )
        if report.result is not RunResult.ENDED:
            return report
        return replace(
            report,
            result=RunResult.NOT_STARTED,
            why_not_started=why,
            is_machines_fault=error.is_machines_fault,
        )

    async def _conclude_unstarted(self, end: RunEnd, left: Status, error: Document) -> RunReport:
        return await self._record_conclusion(end, left, lambda: error, {"stdout": "", "stderr": ""})

    # --- while it runs

    def _receive(self, stream: Stream, data: bytes) -> None:
        if self._listener is not None:
            self._listener(stream, data)
        if stream is Stream.EVENTS:
            return
        output = self._streams[stream]
        output.feed(data)
        if output.pending_chunk_bytes >= CHUNKS_URGENT and self._news_write is None:
            self._write_news()

    def _hear(self, heard: Event | BadLine) -> None:
        self._effects.take(heard, now=self._around.clock.now())

    def _write_news(self) -> None:
        """Begin a write of what has come up since the last one, unless one is under way."""
        if self._news_write is None and not self._is_lost and self._is_started:
            self._news_write = self._loop.create_task(self._record_news())

    async def _record_news(self) -> None:
        await self._room()
        fields = self._new_fields()
        chunks = self._next_chunks()
        accepted = True
        try:
            if fields:
                accepted = await self._record(transitions.progress_change(self._key, fields), chunks)
            elif chunks:
                accepted = await self._around.recorder.record(None, chunks)
        except StoreError as error:
            log.error(
                "task %s: what it has said so far could not be written: %s", self._task.id, error,
                extra=self.log_ids,
            )  # fmt: skip
        self._news_write = None
        if not accepted:
            self._lose_task()
            return
        if self._ended is None or self._ended.done():
            return
        if any(output.pending_chunk_bytes >= CHUNKS_URGENT for output in self._streams.values()):
            self._write_news()
            return
        size = sum(len(fields.get(stream, "")) for stream in self._streams) + self._effects.size
        pause_seconds = max(NEWS_SECONDS, size / NEWS_BYTES_PER_SECOND)
        self._news_timer = self._loop.call_later(pause_seconds, self._write_news)

    async def _room(self) -> None:
        """Until what there is to write now may be held in memory once more, on its way into the store."""
        if sum(output.held_bytes for output in self._streams.values()) >= LARGE_RECORD:
            await self._around.recorder.room()

    def _new_fields(self) -> Document:
        fields = self._effects.changed_fields()
        facts = self._effects.run_facts()
        if not self._is_pid_written:
            self._is_pid_written = True
            started = machine.process_started(self._run["pid"])
            if started is not None:  # it has not ended in between
                facts["pid_started"] = started
        if any(self._run.get(name) != value for name, value in facts.items()):
            self._take_facts(facts)
            fields["run"] = dict(self._run)
        for stream, output in self._streams.items():
            if output.version != self._written_versions[stream]:
                self._written_versions[stream] = output.version
                fields[str(stream)] = output.inline_text()
        return fields

    def _take_facts(self, facts: Mapping[str, Any]) -> None:
        """None takes back what was written earlier."""
        self._run = {name: value for name, value in {**self._run, **facts}.items() if value is not None}

    def _next_chunks(self) -> list[OutputChunk]:
        return [
            OutputChunk(key=self._key, stream=str(stream), number=number, data=data)
            for stream, output in self._streams.items()
            for number, data in output.take_chunks(CHUNKS_AT_ONCE)
        ]

    def _lose_task(self) -> None:
        """The task is somebody else's by now: this process was away for too long, or a person took the task back."""
        self._is_lost = True
        log.warning(
            "task %s was taken over while this node did not write; its process is stopped, nothing more is recorded",
            self._task.id,
            extra=self.log_ids,
        )
        self._execution.stop(StopReason.LOST)

    # --- the end

    async def _record_end(self, ended: ExecutionEnd) -> RunReport:
        if self._news_timer is not None:
            self._news_timer.cancel()
        if self._news_write is not None:
            await self._news_write  # changes of one run are recorded in their order
        for output in self._streams.values():
            output.finish()
        if self._is_lost or ended.end.reason is Reason.LOST:
            self._execution.clean_up()
            return RunReport(result=RunResult.REFUSED)
        if ended.was_not_reached:
            why = "was gone before it had read its task; the next one is started anew"
            return await self._return_unstarted(StartError(why), Status.RUNNING)
        self._take_facts({**ended.facts, **self._effects.run_facts()})
        self._run["output"] = {str(stream): output.summary() for stream, output in self._streams.items()}
        while await self._record_pieces():
            pass
        fields = {
            **self._effects.all_fields(),
            **{str(stream): output.inline_text() for stream, output in self._streams.items()},
        }
        report = await self._record_conclusion(ended.end, Status.RUNNING, lambda: self._error_of(ended), fields)
        if ended.is_process_lost:
            return replace(report, why_process_lost=self._error_of(ended)["message"])
        return report

    async def _record_pieces(self) -> bool:
        """The next pieces of output, if there are any; else there is room now for the record that follows at once."""
        await self._room()
        chunks = self._next_chunks()
        if chunks:
            await self._around.recorder.record(None, chunks)
        return bool(chunks)

    def _error_of(self, ended: ExecutionEnd) -> Document:
        said = self._effects.error
        is_why = ended.end.reason not in _ENDED_BY_HOST
        if said is not None and is_why and "message" in said:
            return said
        error = run_record.error_of(
            ended.end,
            manifest=self._manifest,
            stderr=self._streams[Stream.STDERR].last_lines(run_record.STDERR_LINES, run_record.STDERR_BYTES),
            was_killed=ended.was_killed,
            said=self._effects.said,
            fault=ended.fault,
            cancel=self._cancel,
        )
        if not said:
            return error
        return {**error, **said} if is_why else {**error, "said": said}

    async def _record_conclusion(
        self, end: RunEnd, left: Status, error: Callable[[], Document], fields: Mapping[str, Any]
    ) -> RunReport:
        conclusion = conclude(
            end,
            self._manifest,
            attempt=self._attempt - self._task.attempts_forgiven,
            chance=random.random(),
            said=self._effects.said,
        )
        # The store's clock is only about known: what a slow server says of it may set it back while the program runs.
        now = max(self._around.clock.now(), self._run["started"])
        creates = self._follow_ups(conclusion, now)
        self._run |= {
            "ended": now,
            "seconds": round(self._around.clock.monotonic() - self._began, 3),  # dates may jump
            "reason": str(end.reason),
        }
        if end.exit_code is not None:
            self._run["exit_code"] = end.exit_code
        if end.signal is not None:
            self._run["signal"] = run_record.signal_name(end.signal)
        if end.reason is Reason.CANCELLED and self._cancel is not None:
            self._run = requests.with_cancel(self._run, self._cancel)

        async def record(
            conclusion: Conclusion, error: Document | None, more: Mapping[str, Any], creates: Sequence[Document]
        ) -> bool:
            self._run |= {"outcome": str(conclusion.outcome), "attempt_used": conclusion.attempt_used}
            self._keep_or_remove_work_directory(conclusion)
            delay = conclusion.delay_seconds
            answer = self._record(
                transitions.end_change(
                    self._task,
                    self._key,
                    left=left,
                    run=self._run,
                    conclusion=conclusion,
                    error=error,
                    fields=more,
                    not_before=None if delay is None else now + timedelta(seconds=delay),
                    now=now,
                    creates=creates,
                ),
                frees=self._place if self.holds_place else None,
            )
            self._leave_place()
            return await answer

        wants_error = conclusion.outcome not in (Outcome.SUCCESS, Outcome.SNOOZE)
        try:
            accepted = await record(conclusion, error() if wants_error else None, fields, creates)
        except StoreRefusedError as refusal:
            # Too large together with what others have put into the document, say. How it ended must be recorded all the
            # same; what cannot be stored is named. Follow-up tasks that cannot be created are work that would be lost.
            not_stored = {"code": "not_stored", "message": f"disbatch-host: the store refused what it said: {refusal}"}
            if creates:
                conclusion = conclude(end, self._manifest, attempt=1, chance=0.0, said=FAILED_FOR_GOOD)
            accepted = await record(conclusion, not_stored, {}, ())
        if not accepted:
            log.warning(
                "task %s was taken over; the end of its run here is not recorded", self._task.id, extra=self.log_ids
            )
            return RunReport(result=RunResult.REFUSED)
        return RunReport(
            result=RunResult.ENDED,
            conclusion=conclusion,
            reason=end.reason,
            seconds=self._run["seconds"],
            how=_in_short(end),
        )

    def _follow_ups(self, conclusion: Conclusion, now: Any) -> list[Document]:
        if conclusion.outcome is not Outcome.SUCCESS:
            return []
        return [
            records.new_task(one.queue, dict(one.parameters), now=now, parent=str(self._task.id))
            for one in self._effects.follow_ups
        ]

    def _keep_or_remove_work_directory(self, conclusion: Conclusion) -> None:
        directory = self._execution.work_directory
        if directory is not None and conclusion.outcome is not Outcome.SUCCESS:
            self._run["work_directory"] = directory  # kept, for whoever looks into it
        else:
            self._execution.clean_up()

    def _leave_place(self) -> None:
        """The next task may be claimed: after the end of this one, which is on its way into the store."""
        if self.holds_place:
            self.holds_place = False
            if self._on_place_free is not None:
                self._on_place_free(self)

    @property
    def _place(self) -> Place:
        return Place(self._task.queue, self._plugin.name)

    def _record(
        self, change: RunChange, chunks: Sequence[OutputChunk] = (), *, frees: Place | None = None
    ) -> asyncio.Future[bool]:
        return self._around.recorder.record(change, chunks, frees=frees)


def _in_short(end: RunEnd) -> str:
    if end.reason is Reason.EXITED or (end.exit_code is not None and end.reason is Reason.DONE):
        return f"exit code {end.exit_code}"
    if end.reason is Reason.SIGNALED and end.signal is not None:
        return f"signal {run_record.signal_name(end.signal)}"
    return str(end.reason).replace("_", " ")
