"""How long a program takes from the START that a supervisor is told to its exec, one at a time.

Of the time from START to STARTED that from PING to PONG is taken away: the way there and back. Beside it a bare
`posix_spawn` of the same program, which as well returns at exec.
"""

from __future__ import annotations

import os
import select
import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import own
from disbatch_host.process import connection
from disbatch_host.process.flags import Input
from disbatch_host.process.frames import End, Frame, Ping, Pong, Started, StdinEof
from disbatch_host.process.inline import InlineSupervisor
from disbatch_host.process.link import Link
from figures import Table
from helpers import supervisors
from place import Place

_SECONDS = 20.0  # for any answer

F = TypeVar("F", bound=Frame)


def run(place: Place, table: Table, rounds: int) -> None:
    count = 50 if place.quick else 500
    why = own.why_no_supervisor()
    if why is not None:
        table.notice(f"the supervisor's starts are left out: {why}")
    for _ in range(rounds):
        bare = of_spawn(place, count)
        table.add("starts", "bare posix_spawn, p50", 1e6 * bare, "µs")
        if why is None:
            _add(table, "supervisor, START to exec, p50", of_supervisor(place, count), bare)
        _add(table, "without a supervisor, START to exec, p50", without_supervisor(place, count), bare)


def _add(table: Table, what: str, seconds: float, bare: float) -> None:
    table.add("starts", what, 1e6 * seconds, "µs", beside=("posix_spawn", 1e6 * bare))


def of_spawn(place: Place, count: int) -> float:
    """Seconds, the median."""
    path = str(place.program)
    actions = [(os.POSIX_SPAWN_OPEN, descriptor, os.devnull, os.O_RDWR, 0) for descriptor in (0, 1)]
    found = []
    for _ in range(count):
        began = time.perf_counter()
        pid = os.posix_spawn(path, [path], os.environ, file_actions=actions)
        found.append(time.perf_counter() - began)
        os.waitpid(pid, 0)
    return statistics.median(found)


def of_supervisor(place: Place, count: int) -> float:
    """Seconds, the median."""
    return _of(connection.paired(), place, count)


def without_supervisor(place: Place, count: int) -> float:
    """Seconds, the median, of the class that a node uses then."""
    return _of(InlineSupervisor(), place, count)


def _of(link: Link, place: Place, count: int) -> float:
    talk = _Talk(link)
    try:
        talk.hello()
        talk.say(supervisors.plugin(1, place.program))
        found = []
        for number in range(1, count + 1):
            there_and_back = _seconds(lambda number=number: (talk.say(Ping(number)), talk.hear(Pong)))
            # Its input stays open until then: a program that has ended by the next look is not told as started.
            start = supervisors.start(number, 1, flags=Input.TELL | Input.OPEN)
            found.append(_seconds(lambda start=start: (talk.say(start), talk.hear(Started))) - there_and_back)
            talk.say(StdinEof(number))
            talk.end(number)
        return statistics.median(found)
    finally:
        link.close()


class _Talk(supervisors.Talk):
    """With either supervisor: the class has to be called when something is due."""

    link: Link  # type: ignore[assignment]

    def __init__(self, link: Link) -> None:
        super().__init__(link)  # type: ignore[arg-type]

    def hear(self, kind: type[F], seconds: float = _SECONDS, *, where: Callable[[F], bool] = lambda _: True) -> F:
        until = time.monotonic() + seconds
        while True:
            for place, frame in enumerate(self.kept):
                if isinstance(frame, kind) and where(frame):
                    del self.kept[place]
                    return frame
            left = until - time.monotonic()
            assert left > 0, f"no {kind} within {seconds} s"
            due = self.link.due_seconds()
            select.select([self.link.fileno()], [], [], left if due is None else min(left, due))
            self.kept += self.link.receive()

    def end(self, run: int, seconds: float = _SECONDS) -> End:
        end = super().end(run, seconds)
        self.kept.clear()  # a second STARTED, what it said
        return end


def _seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
