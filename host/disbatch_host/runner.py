"""One run: from a claimed task to its durable end.

Responsible for: checking the parameters, making `Running` durable, starting the program with what the plugin contract
promises it, passing on what it prints while it runs, and recording truly how it ended. Must not know: how many runs
there are, which queue is next, which store is behind the recorder.

The steps of a run, in order; each waits for the one before it to be durable where a promise hangs on it:

    parameters fit? ── no ──────────────────────────────────────► concluded without a start
    record Running ─── refused: somebody else owns the task ────► nothing was started
    start the program ─ impossible ─────────────────────────────► back to the queue, the class is suspected
    pass on output, pid ─ refused: the task was taken over ─────► stop the program, say so, write nothing more
    the program has ended: record the end (guarded, once)
"""

from __future__ import annotations

import asyncio
import grp
import logging
import os
import pwd
import random
import resource
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from disbatch_host import environment, machine, run_document
from disbatch_host.clock import Clock
from disbatch_host.errors import StoreError, StoreRefusedError
from disbatch_host.model import Document, OutputChunk, RunChange, RunKey, Task
from disbatch_host.output import OutputStream
from disbatch_host.plugins import Plugin
from disbatch_host.process.child import Child, Deadlines, ProcessEnd, StopReason, Stream
from disbatch_host.process.spawn import Account, Command, StartError
from disbatch_protocol.document import stdin_line
from disbatch_protocol.manifest import Limits, Manifest
from disbatch_protocol.outcome import Conclusion, Outcome, Reason, RunEnd, conclude
from disbatch_protocol.status import Status

log = logging.getLogger(__name__)

FIRST_NEWS_SECONDS = 0.2  # output this old is written; a shorter run writes everything once, at its end
NEWS_SECONDS = 1.0  # between two writes of one run's output
NEWS_BYTES_PER_SECOND = 2**18  # of text written again and again into the document: the more there is, the rarer
CHUNKS_AT_ONCE = 8 * 2**20  # bytes of an output file handed over in one go
CHUNKS_URGENT = 4 * 2**20  # bytes waiting for the output file that are worth a write of their own
BUSY_PROGRAM_TRIES, BUSY_PROGRAM_SECONDS = 5, 0.2  # a program that is being replaced (ETXTBSY), as CNI does it


class Recorder(Protocol):
    """Where a run's changes are made durable."""

    def record(self, change: RunChange | None, chunks: Sequence[OutputChunk] = ()) -> asyncio.Future[bool]: ...


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
    why_not_started: str | None = None
    is_machines_fault: bool = False  # it could not be started for want of descriptors, processes or memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all runs of a node share."""

    node_id: str
    machine_name: str
    recorder: Recorder
    clock: Clock  # the store's: what other nodes compare the dates in documents with
    local_clock: Clock  # this machine's: what a plugin compares its deadline with
    host_environment: Mapping[str, str] = field(repr=False)
    temporary_directory: Path  # for work directories and spools
    extended_json: Callable[[object], object] | None = None  # of types that only the store knows


class Run:
    """One attempt at one task."""

    def __init__(
        self,
        task: Task,
        plugin: Plugin,
        around: Surroundings,
        *,
        listener: Callable[[Stream, bytes], None] | None = None,
    ) -> None:
        self._task = task
        self._plugin = plugin
        self._manifest: Manifest = plugin.manifest
        self._around = around
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._key = RunKey(task.id, around.node_id, task.token)
        self._attempt = task.next_attempt
        self._streams = {
            stream: OutputStream(max_bytes=self._manifest.max_output_bytes, spool_directory=around.temporary_directory)
            for stream in (Stream.STDOUT, Stream.STDERR)
        }
        self._written_versions = dict.fromkeys(self._streams, 0)
        self._run: Document = {}
        self._child: Child | None = None
        self._ended: asyncio.Future[ProcessEnd] = self._loop.create_future()
        self._news_timer: asyncio.TimerHandle | None = None
        self._news_write: asyncio.Task[None] | None = None
        self._is_pid_written = False
        self._stop_before_start: StopReason | None = None
        self._is_held_back = False
        self._is_lost = False
        self._work_directory: Path | None = None
        self._account: Account | None = None

    @property
    def task(self) -> Task:
        return self._task

    @property
    def plugin(self) -> Plugin:
        return self._plugin

    def stop(self, reason: StopReason) -> None:
        """Stop the program, with its grace; before its start: do not start it."""
        if self._child is None:
            self._stop_before_start = self._stop_before_start or reason
        else:
            self._child.stop(reason)

    def kill(self, reason: StopReason) -> None:
        """Stop the program at once."""
        if self._child is None:
            self._stop_before_start = self._stop_before_start or reason
        else:
            self._child.kill(reason)

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
        if self._is_held_back or self._stop_before_start is not None:
            return await self._give_back()
        self._run = self._beginning()
        faults = self._plugin.schema.check(self._task.parameters)
        if faults:
            return await self._conclude_unfit([str(fault) for fault in faults])
        if not await self._record(
            run_document.start_change(self._task, self._key, self._run, now=self._run["started"])
        ):
            log.warning("task %s was claimed here but belongs to another node now; it is not started", self._task.id)
            return RunReport(result=RunResult.REFUSED)
        try:
            await self._start()
        except StartError as error:
            return await self._return_unstarted(error)
        if self._stop_before_start is not None:
            self.stop(self._stop_before_start)
        process_end = await self._ended
        return await self._record_end(process_end)

    def _beginning(self) -> Document:
        manifest = self._manifest
        return {
            "token": self._key.token,
            "attempt": self._attempt,
            "node": self._around.node_id,
            "host": self._around.machine_name,
            "plugin": {
                "class": manifest.name,
                "version": manifest.version,
                "directory": str(self._plugin.directory),
            },
            "idempotent": manifest.idempotent,
            "started": self._around.clock.now(),
        }

    # --- ends without a start

    async def _give_back(self) -> RunReport:
        await self._record(run_document.give_back_change(self._key, now=self._around.clock.now()))
        return RunReport(result=RunResult.GIVEN_BACK)

    async def _conclude_unfit(self, faults: Sequence[str]) -> RunReport:
        message = f"disbatch-host: the parameters do not fit the plugin, it was not started: {'; '.join(faults)}"
        return await self._conclude_unstarted(
            RunEnd(reason=Reason.PARAMETERS), Status.CLAIMED, {"code": "parameters", "message": message}
        )

    async def _return_unstarted(self, error: StartError) -> RunReport:
        why = str(error)
        log.error("task %s: plugin %s %s", self._task.id, self._plugin.name, why)
        self._remove_work_directory()
        report = await self._conclude_unstarted(
            RunEnd(reason=Reason.START_FAILED),
            Status.RUNNING,
            {"code": "start_failed", "message": f"disbatch-host: {why}"},
        )
        if report.result is not RunResult.ENDED:
            return report
        return RunReport(
            result=RunResult.NOT_STARTED,
            conclusion=report.conclusion,
            why_not_started=why,
            is_machines_fault=error.is_machines_fault,
        )

    async def _conclude_unstarted(self, end: RunEnd, left: Status, error: Document) -> RunReport:
        return await self._record_conclusion(end, left, error, {"stdout": "", "stderr": ""})

    # --- the start

    async def _start(self) -> None:
        try:
            self._account = _account_of(self._manifest)
            self._work_directory = self._make_work_directory()
        except (OSError, KeyError) as error:
            raise StartError(f"cannot be prepared: {error}") from error
        deadlines = Deadlines(
            timeout_seconds=self._manifest.timeout_seconds,
            idle_timeout_seconds=self._manifest.idle_timeout_seconds,
            kill_grace_seconds=self._manifest.kill_grace_seconds,
            stop_signal=self._manifest.stop_signal,
        )
        command = self._command()
        document = self._input()
        child = Child(command, deadlines, receive=self._receive, ended=self._ended.set_result)
        for tries_left in reversed(range(BUSY_PROGRAM_TRIES)):
            try:
                child.start()
                break
            except StartError as error:
                if not (error.is_busy and tries_left):
                    raise
                await asyncio.sleep(BUSY_PROGRAM_SECONDS)
        self._child = child
        child.write(document, close=True)
        self._run["pid"] = child.pid
        self._news_timer = self._loop.call_later(FIRST_NEWS_SECONDS, self._write_news)

    def _command(self) -> Command:
        manifest = self._manifest
        base = environment.base_environment(
            manifest, self._around.host_environment, user=manifest.run_as.user if manifest.run_as else None
        )
        deadline = None
        if manifest.timeout_seconds is not None:
            deadline = self._around.local_clock.now().timestamp() + manifest.timeout_seconds
        return Command(
            argv=self._plugin.argv,
            directory=self._work_directory or self._plugin.directory,
            environment=environment.run_environment(
                base,
                manifest=manifest,
                directory=self._plugin.directory,
                task_id=str(self._task.id),
                queue=str(self._task.queue),
                node=self._around.node_id,
                attempt=self._attempt,
                deadline=deadline,
                work_directory=self._work_directory,
            ),
            limits=_rlimits(manifest.limits),
            account=self._account,
        )

    def _input(self) -> bytes:
        document = {
            **self._task.document,
            "status": int(Status.RUNNING),
            "mtime": self._run["started"],
            "parameters": self._plugin.schema.with_defaults(self._task.parameters),
            "run": {name: value for name, value in self._run.items() if name != "token"},  # the node's own mark
        }
        for name in ("error", "result", "progress"):  # of an earlier attempt; see start_change
            document.pop(name, None)
        try:
            return stdin_line(document, other=self._around.extended_json)
        except (TypeError, ValueError) as error:  # a value that another program wrote and JSON cannot hold
            raise StartError(f"cannot be given its task as JSON: {error}") from error

    def _make_work_directory(self) -> Path | None:
        if self._manifest.cwd != "work":
            return None
        path = Path(tempfile.mkdtemp(prefix=f"disbatch-{self._task.id}-", dir=self._around.temporary_directory))
        if self._account is not None:
            os.chown(path, self._account.uid, self._account.gid)
        return path

    # --- while it runs

    def _receive(self, stream: Stream, data: bytes) -> None:
        if stream is Stream.EVENTS:
            return
        output = self._streams[stream]
        output.feed(data)
        if self._listener is not None:
            self._listener(stream, data)
        if output.pending_chunk_bytes >= CHUNKS_URGENT and self._news_write is None:
            self._write_news()

    def _write_news(self) -> None:
        """Begin a write of what has come up since the last one, unless one is under way."""
        if self._news_write is None and not self._is_lost:
            self._news_write = self._loop.create_task(self._record_news())

    async def _record_news(self) -> None:
        assert self._child is not None
        fields: Document = {}
        if not self._is_pid_written:
            self._is_pid_written = True
            started = machine.process_started(self._child.pid)
            if started is not None:  # it has not ended in between
                self._run["pid_started"] = started
                fields["run"] = dict(self._run)
        fields |= self._new_output()
        chunks = self._next_chunks()
        accepted = True
        try:
            if fields:
                accepted = await self._record(run_document.progress_change(self._key, fields), chunks)
            elif chunks:
                accepted = await self._around.recorder.record(None, chunks)
        except StoreError as error:
            log.error("task %s: what it has printed so far could not be written: %s", self._task.id, error)
        self._news_write = None
        if not accepted:
            self._lose_task()
            return
        if self._ended.done():
            return
        if any(output.pending_chunk_bytes >= CHUNKS_URGENT for output in self._streams.values()):
            self._write_news()
            return
        size = sum(len(fields.get(stream, "")) for stream in self._streams)
        pause_seconds = max(NEWS_SECONDS, size / NEWS_BYTES_PER_SECOND)
        self._news_timer = self._loop.call_later(pause_seconds, self._write_news)

    def _new_output(self) -> Document:
        fields = {}
        for stream, output in self._streams.items():
            if output.version != self._written_versions[stream]:
                self._written_versions[stream] = output.version
                fields[str(stream)] = output.inline_text()
        return fields

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
        )
        if self._child is not None:
            self._child.stop(StopReason.LOST)

    # --- the end

    async def _record_end(self, process_end: ProcessEnd) -> RunReport:
        if self._news_timer is not None:
            self._news_timer.cancel()
        if self._news_write is not None:
            await self._news_write  # changes of one run are recorded in their order
        for output in self._streams.values():
            output.finish()
        self._run |= _facts_of(process_end)
        end = _run_end_of(process_end)
        stderr = self._streams[Stream.STDERR]
        error = run_document.error_of(
            end,
            manifest=self._manifest,
            stderr=stderr.last_lines(run_document.STDERR_LINES, run_document.STDERR_BYTES),
            was_killed=process_end.killed,
        )
        self._run["output"] = {str(stream): output.summary() for stream, output in self._streams.items()}
        if self._is_lost or process_end.stopped is StopReason.LOST:
            self._remove_work_directory()
            return RunReport(result=RunResult.REFUSED)
        while chunks := self._next_chunks():
            await self._around.recorder.record(None, chunks)
        output_fields = {str(stream): output.inline_text() for stream, output in self._streams.items()}
        return await self._record_conclusion(end, Status.RUNNING, error, output_fields)

    async def _record_conclusion(
        self, end: RunEnd, left: Status, error: Document, fields: Mapping[str, Any]
    ) -> RunReport:
        now = self._around.clock.now()
        conclusion = conclude(end, self._manifest, attempt=self._attempt, chance=random.random())
        succeeded = conclusion.outcome is Outcome.SUCCESS
        if self._work_directory is not None:
            if succeeded:
                self._remove_work_directory()
            else:
                self._run["work_directory"] = str(self._work_directory)  # kept, for whoever looks into it
        self._run |= {
            "ended": now,
            "seconds": round((now - self._run["started"]).total_seconds(), 3),
            "reason": str(end.reason),
            "outcome": str(conclusion.outcome),
            "attempt_used": conclusion.attempt_used,
        }
        if end.exit_code is not None:
            self._run["exit_code"] = end.exit_code
        if end.signal is not None:
            self._run["signal"] = run_document.signal_name(end.signal)
        not_before = None
        if conclusion.delay_seconds is not None:
            not_before = now + timedelta(seconds=conclusion.delay_seconds)

        def change(error: Mapping[str, Any] | None, fields: Mapping[str, Any]) -> RunChange:
            return run_document.end_change(
                self._task,
                self._key,
                left=left,
                run=self._run,
                conclusion=conclusion,
                error=error,
                fields=fields,
                not_before=not_before,
                now=now,
            )

        wants_error = not succeeded and conclusion.outcome is not Outcome.SNOOZE
        try:
            accepted = await self._record(change(error if wants_error else None, fields))
        except StoreRefusedError as refusal:
            # Too large together with what others have put into the document, say. How it ended must be recorded all the
            # same; what cannot be stored is named.
            message = f"disbatch-host: the store refused its output: {refusal}"
            accepted = await self._record(change({"code": "not_stored", "message": message}, {}))
        if not accepted:
            log.warning("task %s was taken over; the end of its run here is not recorded", self._task.id)
            return RunReport(result=RunResult.REFUSED)
        return RunReport(result=RunResult.ENDED, conclusion=conclusion)

    def _remove_work_directory(self) -> None:
        if self._work_directory is not None:
            shutil.rmtree(self._work_directory, ignore_errors=True)

    async def _record(self, change: RunChange, chunks: Sequence[OutputChunk] = ()) -> bool:
        return await self._around.recorder.record(change, chunks)


def _run_end_of(process_end: ProcessEnd) -> RunEnd:
    if process_end.stopped is not None:
        reason = Reason(process_end.stopped.value)
    else:
        reason = Reason.EXITED if process_end.signal is None else Reason.SIGNALED
    return RunEnd(reason=reason, exit_code=process_end.exit_code, signal=process_end.signal)


def _facts_of(process_end: ProcessEnd) -> Document:
    facts: Document = {
        "cpu_seconds": round(process_end.cpu_seconds, 6),
        "peak_memory_bytes": process_end.peak_memory_bytes,
    }
    # Only what is out of the ordinary is said.
    for name in ("stdin_unread", "output_held_open", "killed"):
        if getattr(process_end, name):
            facts[name] = True
    return facts


def _rlimits(limits: Limits) -> dict[int, int]:
    values = {
        resource.RLIMIT_CPU: limits.cpu_seconds,
        resource.RLIMIT_AS: limits.memory_bytes,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_NPROC: limits.processes,
        resource.RLIMIT_FSIZE: limits.file_size_bytes,
    }
    return {limit: value for limit, value in values.items() if value is not None}


def _account_of(manifest: Manifest) -> Account | None:
    """The user, group and further groups of `run_as`. Raises KeyError where the machine does not know them."""
    if manifest.run_as is None:
        return None
    entry = pwd.getpwnam(manifest.run_as.user)
    gid = grp.getgrnam(manifest.run_as.group).gr_gid if manifest.run_as.group is not None else entry.pw_gid
    return Account(uid=entry.pw_uid, gid=gid, groups=tuple(os.getgrouplist(entry.pw_name, gid)))
