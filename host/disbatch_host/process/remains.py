"""What the runs of a supervisor that has ended have left: it is killed until nothing of it is there.

Responsible for: finding it by the marks of the runs, and by their first processes. Must not know: why the
supervisor ended, what becomes of the runs.

What has shed the environment, the session and the parents of its run is found by the mark that no process can remove,
and where its run had a control group, by that.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Collection, Mapping
from typing import NamedTuple

from disbatch_host.process import family
from disbatch_host.process.family import Member, Processes
from disbatch_host.process.interface import LeftOver

_PASS_SECONDS = 0.02  # between two looks
_LONGEST_SECONDS = 5.0  # what is then alive is in uninterruptible sleep, or another user's
_EMPTY_LOOKS = 2  # in a row: a process that forks may hide its child from one


class LostRun(NamedTuple):
    """By what the processes of a run are found."""

    mark: bytes  # `DISBATCH_RUN=…` in their environment
    pid: int  # of the first one; 0 if that is not known
    pid_started: int | None

    @property
    def leaders(self) -> list[Member]:
        return [Member(self.pid, self.pid_started)] if self.pid and self.pid_started is not None else []


async def kill_remains(runs: Mapping[int, LostRun], supervisor_id: bytes) -> dict[int, tuple[LeftOver, ...]]:
    """Kill every process of these runs of a supervisor, by number. Returns those that could not be ended, by run; of
    which it is not known whose they are, with each."""
    loop = asyncio.get_running_loop()
    marks = [run.mark for run in runs.values()]
    leaders = [leader for run in runs.values() for leader in run.leaders]
    until, empty_looks = loop.time() + _LONGEST_SECONDS, 0
    killed: dict[int, Member] = {one.pid: one for one in leaders}
    while True:
        processes = Processes()
        numbered = processes.numbered(supervisor_id)
        others = [pid for pid, number in numbered.items() if number in runs]
        # In a group of the supervisor, and of none of its runs that have ended: what has shed all marks.
        others += [pid for pid in processes.in_groups_of(supervisor_id.hex()) if pid not in numbered]
        found = processes.of_runs(marks, leaders, others)
        for member in found:
            member.send(signal.SIGKILL)
            killed[member.pid] = member
        empty_looks = 0 if found else empty_looks + 1
        for pid in killed:  # they are this process's children now, if it is a subreaper
            family.reaped(pid)
        if empty_looks == _EMPTY_LOOKS or loop.time() >= until:
            break
        await asyncio.sleep(_PASS_SECONDS)
    return _by_run(found, runs, supervisor_id) if found else {}


def _by_run(
    found: Collection[Member], runs: Mapping[int, LostRun], supervisor_id: bytes
) -> dict[int, tuple[LeftOver, ...]]:
    left = {one.pid: LeftOver(one.pid, one.started, *one.described()[1:]) for one in found}
    processes = Processes()
    numbered = processes.numbered(supervisor_id)
    of = {
        number: {
            one.pid
            for one in processes.of_runs([run.mark], run.leaders, [pid for pid, of in numbered.items() if of == number])
        }
        for number, run in runs.items()
    }
    known = set().union(*of.values())
    return {
        number: tuple([one for pid, one in left.items() if pid in pids or pid not in known])
        for number, pids in of.items()
    }
