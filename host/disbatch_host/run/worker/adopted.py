"""A worker process that an earlier node has started: it ends the task that it has in hand, and gets no other.

Responsible for: going on with its conversation where its tasks begin, and retiring it. Must not know: how it was found,
documents, stores, outcomes.

It may have ended tasks whose ends the store does not have: they come first. Where the output of each begins is known.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from disbatch_host.plugin import program
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.plugin.program import ProgramSite
from disbatch_host.process.interface import Process, ProcessEnd, ProcessHost, StartError, StartListener, Stream
from disbatch_host.run.execution import HeardSoFar, Listener
from disbatch_host.run.worker.hand import TaskInHand
from disbatch_host.run.worker.process import Worker

Adopt = Callable[[StartListener], Process]


class AdoptedWorker(Worker):
    """See `Worker`. What it said before the first of these tasks belongs to nobody."""

    def __init__(
        self,
        plugin: Plugin,
        site: ProgramSite,
        processes: ProcessHost,
        *,
        number: int,
        work_directory: Path | None,
        on_end: Callable[[Worker], object],
    ) -> None:
        super().__init__(plugin, site, processes, number=number, on_end=on_end, on_fault=None)
        self._ready.set_result(None)
        self._later: deque[tuple[TaskInHand, str]] = deque()  # tasks behind the one in hand, with their ids
        self._prepared = program.prepared_earlier(plugin, site, work_directory)

    @property
    def should_retire(self) -> bool:
        return True

    def go_on(
        self,
        adopt: Adopt,
        listener: Listener,
        *,
        task_id: str,
        line_size: int,
        begins_at: Mapping[Stream, int],
        is_last: bool,
    ) -> TaskInHand:
        """Go on with this task, once all before it have ended. `line_size`, `begins_at`: see `TaskInHand`. All of its
        tasks are named in one turn of the event loop."""
        is_first = self._process is None
        if self._process is None:
            self._heard = HeardSoFar(begins_at)
            self._process = adopt(self)
        task = TaskInHand(self._process, listener, line_size=line_size, begins_at=begins_at, is_usage_known=is_last)
        self._unsettled.append(task)
        if is_first:
            self._in_hand = task
            self._conversation.go_on(task_id)
        else:
            self._later.append((task, task_id))
        return task

    def end(self, adopt: Adopt) -> None:
        """It has no task that anybody waits for: let it end."""
        self._process = adopt(self)
        self.retire()

    def said(self, stream: Stream, offset: int, data: bytes) -> None:
        if self._in_hand is None and not self._unsettled:
            return  # of a task whose end the store has
        for at, part in self._parts(stream, offset, data):
            owner = next((one for one, _ in reversed(self._later) if one.begins_at[stream] <= at), None)
            if owner is None or stream is Stream.EVENTS:
                super().said(stream, at, part)
                continue
            missing, new = self._heard.new_part(stream, at, part)
            if missing:
                owner.listener.miss(stream, missing)
            owner.listener.receive(stream, new)

    def _parts(self, stream: Stream, offset: int, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Of one task each."""
        for edge in [one.begins_at[stream] for one, _ in self._later]:
            if offset < edge < offset + len(data):
                yield offset, data[: edge - offset]
                offset, data = edge, data[edge - offset :]
        yield offset, data

    def _finish_task(self, exit_code: int | None) -> None:
        task = self._in_hand
        if task is None or not self._later:
            super()._finish_task(exit_code)
            return
        self._in_hand, task_id = self._later.popleft()
        self._conversation.go_on(task_id)
        task.end_done(exit_code, ends_at=self._in_hand.begins_at)

    def closed(self, stream: Stream) -> None:
        if self._in_hand is not None:
            super().closed(stream)

    def ended(self, end: ProcessEnd) -> None:
        left = [task for task, _ in self._later]  # none, unless a part of what it said is lost
        self._later.clear()
        super().ended(end)
        for task in left:
            task.end_with(end, ends_at=task.begins_at)

    def begun(self) -> None:
        """It had begun long ago, or begins only now: its first task is not for it any more."""

    def not_started(self, error: StartError) -> None:
        """It was being started when its node ended, and is not needed."""
        self.gone.set_result(None)
        self._on_end(self)
