"""The task that a worker process has in hand: where its output began, and how it ended.

Responsible for: the part of the process's output, CPU time and end that is this task's. Must not know: the conversation
with the process, other tasks, documents.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from disbatch_host.process.interface import Process, ProcessEnd, StopReason, Stream
from disbatch_host.run.execution import ExecutionEnd, Listener, facts_of, is_unseen, reason_of, without_unread_stdin
from disbatch_protocol.outcome import Reason, RunEnd


class TaskInHand:
    """Made when the task is handed over."""

    def __init__(
        self,
        process: Process,
        listener: Listener,
        *,
        line_size: int,
        begins_at: Mapping[Stream, int],
        note: bytes = b"",
        is_usage_known: bool = True,
    ) -> None:
        """`line_size`: bytes that the process must read to have the task. `begins_at`: the offset in each stream of the
        process at which the output of this task begins. `is_usage_known`: whether what the process tells of its
        resources is about this task."""
        self.note = note
        self.begins_at = begins_at
        self._is_usage_known = is_usage_known
        self.listener = listener
        self.ended: asyncio.Future[ExecutionEnd] = asyncio.get_running_loop().create_future()
        self.fault: str | None = None
        self._process = process
        self._line_size = line_size
        self._ends_at: Mapping[Stream, int] = begins_at
        self.is_settled = False  # the store has its end, or never will

    def end_done(self, exit_code: int | None, *, ends_at: Mapping[Stream, int]) -> None:
        """The process said that it is done, and lives on."""
        self._ends_at = ends_at
        usage = self._process.usage()
        facts = {"cpu_seconds": round(usage.cpu_seconds, 6), "peak_memory_bytes": usage.peak_memory_bytes}
        if not self._is_usage_known:
            facts = {}
        self.ended.set_result(ExecutionEnd(end=RunEnd(reason=Reason.DONE, exit_code=exit_code), facts=facts))

    def end_with(self, process_end: ProcessEnd, *, ends_at: Mapping[Stream, int]) -> None:
        """The process ended, and the task with it."""
        self._ends_at = ends_at
        was_not_reached = (
            process_end.stopped in (None, StopReason.REPLACED)
            and not process_end.is_unseen
            and process_end.stdin_left_bytes >= self._line_size  # not a byte of the task has been read
        )
        # Out of step: its exit code says nothing, even if it ended by itself a moment before it was killed.
        was_broken = process_end.stopped is StopReason.REPLACED or (
            process_end.stopped is None and self.fault is not None
        )
        reason = Reason.WORKER_EXITED if was_broken else reason_of(process_end, Reason.WORKER_EXITED)
        fault = self.fault
        if fault is None and reason is Reason.WORKER_EXITED and process_end.exit_code == 0:
            fault = "its process ended with exit code 0, without saying done"
        self.ended.set_result(
            ExecutionEnd(
                end=RunEnd(
                    reason=reason,
                    exit_code=None if was_broken else process_end.exit_code,
                    signal=process_end.signal,
                ),
                facts=facts_of(without_unread_stdin(process_end)),
                killed_after_seconds=process_end.killed_after_seconds,
                hit_memory_limit=process_end.hit_memory_limit,
                fault=fault,
                was_not_reached=was_not_reached,
                is_process_lost=process_end.stopped in (None, StopReason.REPLACED) and not process_end.is_unseen,
                is_unseen=reason is Reason.LOST and is_unseen(process_end),
                why_unseen=process_end.why_unseen,
            )
        )

    def acknowledge(self, counts: Mapping[Stream, int]) -> None:
        """See `Execution.acknowledge`."""
        self._process.acknowledge({stream: self.begins_at[stream] + count for stream, count in counts.items()})

    def acknowledge_end(self) -> None:
        """The store has the ends of this task, and of all that the process had before it."""
        self._process.acknowledge(self._ends_at, with_end=True)
