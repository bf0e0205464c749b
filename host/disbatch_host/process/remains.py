"""What the runs of a supervisor that has ended have left: it is killed until nothing of it is there.

Responsible for: finding it by the marks of the runs, and by their first processes. Must not know: why the
supervisor ended, what becomes of the runs.

What has shed the environment, the session and the parents of its run comes to this process, if that is the subreaper:
there the mark that no process can remove tells. Elsewhere it does not, since another supervisor may use the same.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Collection

from disbatch_host.process import family
from disbatch_host.process.family import Member, Processes

_PASS_SECONDS = 0.02  # between two looks
_LONGEST_SECONDS = 5.0  # what is then alive is in uninterruptible sleep, or another user's
_EMPTY_LOOKS = 2  # in a row: a process that forks may hide its child from one


async def kill_remains(marks: Collection[bytes], leaders: Collection[Member]) -> list[Member]:
    """Kill every process of the runs with these marks, of which `leaders` are the first processes as far as they are
    known. Returns those that could not be ended."""
    loop = asyncio.get_running_loop()
    numbers = frozenset(int(mark.rpartition(b"-")[2]) for mark in marks)
    orphans = family.Orphans() if family.is_subreaper() else None
    until, empty_looks = loop.time() + _LONGEST_SECONDS, 0
    killed: dict[int, Member] = {one.pid: one for one in leaders}
    while True:
        adopted = () if orphans is None else orphans.pids(()) or ()
        found = Processes().of_runs(marks, leaders, [pid for pid in adopted if family.number_marked(pid) in numbers])
        for member in found:
            member.send(signal.SIGKILL)
            killed[member.pid] = member
        empty_looks = 0 if found else empty_looks + 1
        for pid in killed:  # they are this process's children now, if it is a subreaper
            family.reaped(pid)
        if empty_looks == _EMPTY_LOOKS or loop.time() >= until:
            break
        await asyncio.sleep(_PASS_SECONDS)
    if orphans is not None:
        orphans.close()
    return found
