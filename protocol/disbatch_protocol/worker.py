"""The conversation with one worker process (SPEC, section 6). Pure: bytes in, bytes out.

Responsible for: whose turn it is, and what a line means in that turn. Must not know: processes, time limits, the effect
of an event on a task.

Rules:
1. WorkerState is the whole state; `_turn` is the table of what a line does in which state.
2. An event without a current task belongs to no task: it is returned as a BadLine and changes nothing.
3. An unexpected `done` means that plugin and host are out of step: no further answer of this process can
   be trusted, so the conversation is broken, and stays so. A `done` that does not name its task is unexpected while
   the process has not read the task: it was meant for an earlier one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import orjson

from disbatch_protocol import PROTOCOL_VERSION
from disbatch_protocol.events import BadLine, Done, Event, EventReader, Ready


class WorkerState(StrEnum):
    """The state of a conversation."""

    STARTING = "starting"  # waiting for `ready`
    IDLE = "idle"  # it can take a task
    BUSY = "busy"  # it has a task
    BROKEN = "broken"  # the process must be replaced


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """The end of a conversation that cannot go on."""

    message: str  # what was expected and what was found


Heard = Event | BadLine | Broken


class WorkerConversation:
    """The conversation: reads the process's side, writes the host's."""

    def __init__(self, *, has_read_task: Callable[[], bool] = lambda: True) -> None:
        """`has_read_task`: whether the process has read the line of its task, which may be all but its line feed; asked
        only where it decides."""
        self.state = WorkerState.STARTING
        self._has_read_task = has_read_task
        self._reader = EventReader(worker_mode=True)
        self._task_id = ""

    def hello(self, *, host: str, number: int) -> bytes:
        """The first line to the process. `number`: its number among the processes of its class, from 1."""
        return _line({"type": "hello", "protocol": PROTOCOL_VERSION, "host": host, "worker": number})

    def hand_over(self, task_line: bytes, *, task_id: str, attempt: int, deadline: float | None) -> bytes:
        """The line that hands over a task; the worker is busy from now on. `task_line`: the document as one line of
        JSON (as on stdin of a oneshot run); `deadline` in Unix seconds."""
        if self.state is not WorkerState.IDLE:
            raise ValueError(f"a worker that is {self.state} cannot take a task")
        self.state = WorkerState.BUSY
        self._task_id = task_id
        more = f',"attempt":{attempt}' + ("" if deadline is None else f',"deadline":{int(deadline)}')
        return b'{"type":"task","task":' + task_line.rstrip(b"\n") + more.encode("ascii") + b"}\n"

    def go_on(self, task_id: str) -> None:
        """Another host has begun the conversation, and has handed over this task, of which nothing was heard so far."""
        self.state = WorkerState.BUSY
        self._task_id = task_id

    def receive(self, data: bytes) -> list[Heard]:
        """Take more bytes from descriptor 3; their events, in order. `Ready` and `Done` have already changed the state
        when they are returned."""
        return [self._turn(one) for one in self._reader.feed(data) if self.state is not WorkerState.BROKEN]

    def finish(self) -> list[Heard]:
        """The process has ended: a last line without a line feed counts."""
        return [self._turn(one) for one in self._reader.finish() if self.state is not WorkerState.BROKEN]

    def _turn(self, heard: Event | BadLine) -> Heard:
        if isinstance(heard, BadLine):
            return heard
        match self.state, heard:
            case WorkerState.STARTING, Ready(protocol=protocol):
                if protocol != PROTOCOL_VERSION:
                    return self._break(f"expected it to be ready for protocol {PROTOCOL_VERSION}, found {protocol}")
                self.state = WorkerState.IDLE
                return heard
            case _, Ready():
                return _out_of_turn(heard, "it had already said so")
            case WorkerState.BUSY, Done(task=task, fault=fault):
                if fault:
                    return self._break(fault)
                if task is not None and task != self._task_id:
                    return self._break(f"expected done for task {self._task_id}, found one for {task:.40}")
                if task is None and not self._has_read_task():
                    return self._break("expected done for a task that it has read, found one before it read its task")
                self.state = WorkerState.IDLE
                return heard
            case _, Done():
                return self._break("expected done only while it has a task, found one without a task")
            case WorkerState.BUSY, _:
                return heard
        return _out_of_turn(heard, "it has no task")

    def _break(self, message: str) -> Broken:
        self.state = WorkerState.BROKEN
        return Broken(message=message)


def _out_of_turn(event: Event, why: str) -> BadLine:
    name = type(event).__name__.lower()
    return BadLine(start=name.encode(), message=f"expected no {name} now, found one: {why}")


def _line(value: object) -> bytes:
    return orjson.dumps(value) + b"\n"
