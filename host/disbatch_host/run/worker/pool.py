"""Worker mode: processes that take many tasks, one at a time, and who gets which of them.

Responsible for: starting a process when a task needs one and none is idle, handing tasks to it and hearing the answers
(`disbatch_protocol.worker` knows whose turn it is), attributing output to the task in hand, retiring and replacing.
Must not know: documents, stores, outcomes.

Rules:
1. A process has one task or none. Whatever it writes while it has one belongs to that task; what it writes otherwise
   belongs to nobody and is only used to say why it could not be started.
2. `done` is heard on another pipe than the output: before the task ends, what stdout and stderr hold is read.
3. A process that has been stopped, has died, has closed descriptor 3, or said what it must not say, gets no further
   task.
4. A process belongs to one `Plugin` object. When the plugin changes, its processes end after the task in hand.
5. All processes end by end of file on their stdin, and are stopped where that does not do.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Collection, Iterable
from typing import Any

from disbatch_host import __version__, logs
from disbatch_host.plugin import program
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.plugin.program import Launch, LaunchSite
from disbatch_host.process import machine
from disbatch_host.process.child import Child
from disbatch_host.process.interface import ProcessEnd, StartError, StopReason, Stream
from disbatch_host.run.execution import Assignment, ExecutionEnd, Listener, facts_of, reason_of
from disbatch_protocol.events import BadLine, Done, Ready
from disbatch_protocol.outcome import Reason, RunEnd
from disbatch_protocol.quantities import format_duration
from disbatch_protocol.worker import Broken, Heard, WorkerConversation, WorkerState

log = logging.getLogger(__name__)

_RESERVED_SECONDS = 1.0  # by then a run has come, or it is not reserved any more
_ENDING_SECONDS = 2.0  # a process that ends closes its descriptors first; one that lives after that has gone mute
_LAST_WORDS_MAX = 4096  # bytes kept of what a process says while it has no task


class WorkerPool:
    """The worker processes of a node."""

    def __init__(self, site: LaunchSite, *, on_fault: Callable[[str], object] | None = None) -> None:
        """`on_fault` hears why a process that has no task in hand must be replaced."""
        self._site = site
        self._on_fault = on_fault
        self._workers: dict[Worker, None] = {}  # in the order of their start
        self._current: Collection[Plugin] | None = None
        self._is_stopping = False

    async def acquire(self, plugin: Plugin) -> Worker:
        """An idle process of this plugin, else a new one that has said that it is ready. Raises StartError."""
        # The one that was busy last: the others may become idle for long enough to be retired.
        for worker in sorted(self._of(plugin), key=lambda one: one.idle_since, reverse=True):
            if worker.is_idle and not worker.shall_retire:
                worker.take()
                return worker
        taken = {worker.number for worker in self._of(plugin)}
        number = next(number for number in range(1, len(taken) + 2) if number not in taken)
        worker = Worker(plugin, self._site, number=number, on_end=self._forget, on_fault=self._on_fault)
        self._workers[worker] = None
        try:
            await worker.start()
        except BaseException:
            worker.kill(StopReason.REPLACED)
            if not worker.is_alive:
                self._forget(worker)
            raise
        return worker

    def reserve(self, plugin: Plugin) -> list[Worker]:
        """All idle processes of this plugin, the one that was busy last at the end. Nobody else gets them until they
        are given a task or are given back."""
        idle = [one for one in self._of(plugin) if one.is_idle and not one.shall_retire]
        for worker in idle:
            worker.is_reserved = True
        return sorted(idle, key=lambda one: one.idle_since)

    def unreserve(self, workers: Iterable[Worker]) -> None:
        """What of these no run has taken is free for others."""
        for worker in workers:
            worker.is_reserved = False
        if self._current is not None:
            self.keep_only(self._current)  # a plugin may have changed meanwhile

    def release(self, worker: Worker) -> None:
        """Its task is done, or it was not given one."""
        is_current = self._current is None or worker.plugin in self._current
        if self._is_stopping or not is_current or worker.shall_retire:
            worker.retire()
        else:
            worker.rest()

    def keep_only(self, plugins: Collection[Plugin]) -> None:
        """From now on only these plugins are current: processes of others end when they have no task."""
        self._current = plugins
        for worker in list(self._workers):
            if worker.is_idle and worker.plugin not in plugins:
                worker.retire()

    @property
    def size(self) -> int:
        """How many processes there are."""
        return len(self._workers)

    async def stop(self) -> None:
        """End all processes: end of file for their stdin, then the stop signal, then SIGKILL, each after the grace."""
        self._is_stopping = True
        for worker in list(self._workers):
            worker.retire()
        while self._workers:
            await asyncio.wait([worker.gone for worker in self._workers])

    def kill(self) -> None:
        """End all processes now."""
        for worker in list(self._workers):
            worker.kill(StopReason.SHUTDOWN)

    def _of(self, plugin: Plugin) -> list[Worker]:
        return [worker for worker in self._workers if worker.plugin is plugin]

    def _forget(self, worker: Worker) -> None:
        self._workers.pop(worker, None)


class Worker:
    """One process."""

    def __init__(
        self, plugin: Plugin, site: LaunchSite, *, number: int, on_end: Any, on_fault: Callable[[str], object] | None
    ) -> None:
        self.plugin = plugin
        self.number = number  # among the processes of its class on this node, from 1
        self.tasks = 0  # how many it has been given
        self.idle_since = 0.0
        self.is_reserved = False  # for a run that may come in a moment
        self.exit_code: int | None = None  # once it has ended, unless by a signal
        self._site = site
        self._on_end = on_end
        self._on_fault = on_fault
        self._loop = asyncio.get_running_loop()
        self._conversation = WorkerConversation()
        self._child: Child | None = None
        self._launch: Launch | None = None
        self._pid_started: int | None = None
        self._memory: machine.ProcessMemory | None = None
        self._started = self._loop.time()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self.gone: asyncio.Future[None] = self._loop.create_future()  # done when the process has ended
        self._hands: _Hands | None = None
        self._is_taken = True  # by a run that has not handed over its task yet
        self._is_retiring = False
        self._is_mute = False  # it has closed descriptor 3
        self._last_words = b""
        self._idle_timer: asyncio.TimerHandle | None = None
        self._retire_timer: asyncio.TimerHandle | None = None
        self._mute_timer: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int:
        return self._child.pid if self._child is not None else 0

    @property
    def facts(self) -> dict[str, Any]:
        """What tells the process from any other, so that it can be found and killed when this node is gone."""
        if self._pid_started is None:
            self._pid_started = machine.process_started(self.pid)
        facts = {"pid": self.pid, "worker": self.number}
        return facts if self._pid_started is None else {**facts, "pid_started": self._pid_started}

    @property
    def is_alive(self) -> bool:
        return self._child is not None and not self.gone.done()

    @property
    def is_idle(self) -> bool:
        """Whether it can be taken now."""
        return not self.is_reserved and not self._is_taken and not self._is_retiring and self.can_take_task

    @property
    def can_take_task(self) -> bool:
        """Whether it can be handed the task of the run that has taken it."""
        return (
            self.is_alive
            and self._child is not None
            and self._child.is_running
            and not self._is_mute
            and self._conversation.state is WorkerState.IDLE
        )

    @property
    def shall_retire(self) -> bool:
        """Whether it has done enough, is old, or too large."""
        rules = self.plugin.manifest.worker
        if self.tasks >= rules.max_tasks:
            return True
        if rules.max_age_seconds is not None and self._loop.time() - self._started >= rules.max_age_seconds:
            return True
        return rules.max_memory_bytes is not None and self.memory_bytes()[0] > rules.max_memory_bytes

    def memory_bytes(self) -> tuple[int, int]:
        """Resident bytes of the process now, and at their peak so far; zeros where it is gone."""
        return (0, 0) if self._memory is None else self._memory.read()

    # --- its life

    async def start(self) -> None:
        """Start the process and wait until it is ready. Raises StartError."""
        manifest = self.plugin.manifest
        self._launch = prepared = program.prepare(self.plugin, self._site, name=manifest.name[:20], variables={})
        limits = program.shared_of(self.plugin, self._site).idle_deadlines
        try:
            self._child = await program.start(
                lambda: self._site.child(
                    prepared.command,
                    limits,
                    receive=self._receive,
                    ended=self._on_process_end,
                    closed=self._on_closed,
                )
            )
        except BaseException:
            prepared.remove_work_directory()
            raise
        self._memory = machine.ProcessMemory(self.pid)
        self._child.write(
            self._conversation.hello(host=f"disbatch-host {__version__}", number=self.number), close=False
        )
        seconds = manifest.worker.start_timeout_seconds
        try:
            await asyncio.wait_for(asyncio.shield(self._ready), seconds)
        except TimeoutError:
            raise StartError(
                f"was not ready: expected a ready event on descriptor 3 within {format_duration(seconds)}, "
                f"found none{self._said_last()}"
            ) from None

    def take(self) -> None:
        """A run has chosen it."""
        self._is_taken = True
        self.is_reserved = False
        if self._idle_timer is not None:
            self._idle_timer.cancel()

    def rest(self) -> None:
        """It waits for its next task, for a while."""
        if not self.is_alive:
            return
        self._is_taken = False
        self.idle_since = self._loop.time()
        self._last_words = b""
        idle_exit_seconds = self.plugin.manifest.worker.idle_exit_seconds
        self._idle_timer = self._loop.call_later(idle_exit_seconds, self._retire_unused)

    def _retire_unused(self) -> None:
        if self.is_reserved:  # a task is on its way
            self._idle_timer = self._loop.call_later(_RESERVED_SECONDS, self._retire_unused)
        else:
            self.retire()

    def retire(self) -> None:
        """Let it end: end of file, and if it does not, the stop signal after the grace."""
        if self._is_retiring or not self.is_alive or self._child is None:
            return
        self._is_retiring = True
        self._child.close_stdin()
        grace_seconds = self.plugin.manifest.kill_grace_seconds
        self._retire_timer = self._loop.call_later(grace_seconds, self._child.stop, StopReason.REPLACED)

    def stop(self, reason: StopReason) -> None:
        if self._child is not None:
            self._child.stop(reason)

    def kill(self, reason: StopReason) -> None:
        if self._child is not None:
            self._child.kill(reason)

    def _on_process_end(self, process_end: ProcessEnd) -> None:
        self.exit_code = process_end.exit_code
        for heard in self._conversation.finish():
            self._take_heard(heard)
        for timer in (self._idle_timer, self._retire_timer, self._mute_timer):
            if timer is not None:
                timer.cancel()
        was_ready = self._ready.done() and self._ready.exception() is None
        if not self._ready.done():
            self._ready.set_exception(
                StartError(f"was not ready: it {_how(process_end)} before it said so{self._said_last()}")
            )
            self._ready.exception()  # nobody may be waiting any more
        hands, self._hands = self._hands, None
        if hands is not None:
            hands.end_with(process_end)
        elif was_ready and process_end.exit_code != 0 and process_end.stopped is None:
            log.warning(
                "plugin %s: an idle worker process (%d) %s%s",
                self.plugin.name, self.pid, _how(process_end), self._said_last(),
                extra=self._log_ids,
            )  # fmt: skip
        if self._launch is not None:
            self._launch.remove_work_directory()
        if self._memory is not None:
            self._memory.close()
            self._memory = None
        self.gone.set_result(None)
        self._on_end(self)

    # --- tasks

    def hand_over(self, task_line: bytes, assignment: Assignment, listener: Listener) -> asyncio.Future[ExecutionEnd]:
        """Give it a task. The future is done when the task has ended, in whatever way."""
        assert self._child is not None
        if not self.is_alive or self._is_mute or self._conversation.state is not WorkerState.IDLE:
            raise StartError("was gone before it could be given its task; the next one is started anew")
        manifest = self.plugin.manifest
        line = self._conversation.hand_over(
            task_line,
            task_id=assignment.task_id,
            attempt=assignment.attempt,
            deadline=program.deadline_of(manifest, self._site),
        )
        self.tasks += 1
        self._hands = hands = _Hands(self, listener, line_size=len(line))
        self._child.limit(program.shared_of(self.plugin, self._site).deadlines)
        self._child.write(line, close=False)
        return hands.ended

    def _receive(self, stream: Stream, data: bytes) -> None:
        if self._hands is not None:
            self._hands.listener.receive(stream, data)
        if stream is Stream.EVENTS:
            for heard in self._conversation.receive(data):
                self._take_heard(heard)
        elif self._hands is None:
            self._last_words = (self._last_words + data)[-_LAST_WORDS_MAX:]

    def _on_closed(self, stream: Stream) -> None:
        """Nothing can be heard of it any more, or it is just ending."""
        if stream is Stream.EVENTS:
            for heard in self._conversation.finish():
                self._take_heard(heard)
            self._is_mute = True
            self._mute_timer = self._loop.call_later(_ENDING_SECONDS, self._break_mute)

    def _break_mute(self) -> None:
        is_ending = self._child is None or not self._child.is_running or self._child.stopped is not None
        if not is_ending and (self._hands is not None or not self._is_retiring):
            self._break("it closed descriptor 3, the only place where it can be heard")

    def _take_heard(self, heard: Heard) -> None:
        match heard:
            case Broken(message=message):
                self._break(message)
            case Ready() if not self._ready.done():
                self._ready.set_result(None)
            case Done(exit_code=exit_code):
                self._finish_task(exit_code)
            case _ if self._hands is not None:
                self._hands.listener.hear(heard)
            case BadLine(message=message):
                log.warning(
                    "plugin %s: worker process %d: %s", self.plugin.name, self.pid, message, extra=self._log_ids
                )

    def _finish_task(self, exit_code: int | None) -> None:
        assert self._child is not None
        hands = self._hands
        if hands is None or self._child.stopped is not None:
            return  # it is being stopped: that is how this task ends, whatever it says in its last moments
        self._child.read_output()  # rule 2
        self._hands = None
        if self._child.is_running:
            self._child.limit(program.shared_of(self.plugin, self._site).idle_deadlines)
        hands.end_done(exit_code)

    def _break(self, message: str) -> None:
        log.error(
            "plugin %s: worker process %d is replaced: %s", self.plugin.name, self.pid, message, extra=self._log_ids
        )
        if not self._ready.done():
            self._ready.set_exception(StartError(f"was not ready: {message}"))
            self._ready.exception()
        if self._hands is not None:
            self._hands.fault = message
        elif self._on_fault is not None:
            self._on_fault(message)
        self.kill(StopReason.REPLACED)

    @property
    def _log_ids(self) -> dict[str, Any]:
        return logs.ids(class_name=self.plugin.name, pid=self.pid)

    def _said_last(self) -> str:
        lines = self._last_words.decode("utf-8", "replace").strip().splitlines()
        return f"; its last words: {lines[-1][:500]}" if lines else ""


class _Hands:
    """The task that a process has in its hands."""

    def __init__(self, worker: Worker, listener: Listener, *, line_size: int) -> None:
        self.listener = listener
        self.ended: asyncio.Future[ExecutionEnd] = asyncio.get_running_loop().create_future()
        self.fault: str | None = None
        self._worker = worker
        self._line_size = line_size
        self._cpu_seconds_before = machine.cpu_seconds(worker.pid)

    def end_done(self, exit_code: int | None) -> None:
        """The process has said that it is done, and lives on."""
        pid = self._worker.pid
        facts = {
            "cpu_seconds": round(max(0.0, machine.cpu_seconds(pid) - self._cpu_seconds_before), 6),
            "peak_memory_bytes": self._worker.memory_bytes()[1],
        }
        self.ended.set_result(ExecutionEnd(end=RunEnd(reason=Reason.DONE, exit_code=exit_code), facts=facts))

    def end_with(self, process_end: ProcessEnd) -> None:
        """The process has ended, and the task with it."""
        was_not_reached = (
            process_end.stopped is None
            and process_end.stdin_left_bytes >= self._line_size  # not a byte of the task has been read
        )
        was_broken = process_end.stopped is StopReason.REPLACED
        reason = Reason.WORKER_EXITED if was_broken else reason_of(process_end, Reason.WORKER_EXITED)
        fault = self.fault
        if fault is None and reason is Reason.WORKER_EXITED and process_end.exit_code == 0:
            fault = "its process ended with exit code 0, without saying done"
        facts = facts_of(dataclasses.replace(process_end, stdin_unread=False))
        facts["cpu_seconds"] = round(max(0.0, process_end.cpu_seconds - self._cpu_seconds_before), 6)
        self.ended.set_result(
            ExecutionEnd(
                end=RunEnd(reason=reason, exit_code=process_end.exit_code, signal=process_end.signal),
                facts=facts,
                was_killed=process_end.killed,
                fault=fault,
                was_not_reached=was_not_reached,
                is_process_lost=process_end.stopped in (None, StopReason.REPLACED),
            )
        )


class WorkerExecution:
    """One task in a worker process (see `execution.Execution`)."""

    def __init__(self, plugin: Plugin, pool: WorkerPool, assignment: Assignment, worker: Worker | None = None) -> None:
        """`worker`: one that was reserved for it; else `prepare` gets one."""
        self._plugin = plugin
        self._pool = pool
        self._assignment = assignment
        self._worker = worker
        if worker is not None:
            worker.take()

    @property
    def process_facts(self) -> dict[str, Any]:
        return {} if self._worker is None else self._worker.facts

    @property
    def work_directory(self) -> str | None:
        return None  # it belongs to the process, which other tasks share

    async def prepare(self) -> None:
        self._worker = await self._pool.acquire(self._plugin)

    def abandon(self) -> None:
        if self._worker is not None:
            self._pool.release(self._worker)

    async def start(self, task_line: bytes, listener: Listener) -> asyncio.Future[ExecutionEnd]:
        if self._worker is None or not self._worker.can_take_task:  # the one that was reserved has died meanwhile
            self.abandon()
            self._worker = None
            self._worker = await self._pool.acquire(self._plugin)
        ended = self._worker.hand_over(task_line, self._assignment, listener)
        ended.add_done_callback(lambda _: self.abandon())
        return ended

    def stop(self, reason: StopReason) -> None:
        if self._worker is not None:
            self._worker.stop(reason)

    def kill(self, reason: StopReason) -> None:
        if self._worker is not None:
            self._worker.kill(reason)

    def clean_up(self) -> None:
        """The work directory goes with the process."""


def _how(process_end: ProcessEnd) -> str:
    if process_end.signal is not None:
        return f"was ended by signal {process_end.signal}"
    return f"ended with exit code {process_end.exit_code}"
