"""Processes that an earlier life of a node left on this machine: finding them and killing them.

Responsible for: processes known by pid *and* start time, since a pid alone is reused sooner or later; ending the
supervisor of another node with all its runs.
Must not know: stores, tasks beyond their ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from disbatch_host.process.facts import process_started
from disbatch_host.process.family import Member, Processes

_PROC = Path("/proc")
_LOOK_SECONDS = 0.05  # between two looks whether what was to end has ended
_EMPTY_LOOKS = 2  # in a row: a process that forks may hide its child from one


def is_alive(pid: object, started: object) -> bool:
    """Whether exactly this process is still running."""
    return isinstance(pid, int) and isinstance(started, int) and process_started(pid) == started


def kill(pid: int, started: int) -> None:
    """Send SIGKILL to a process, and to its group if it leads one, if it is still exactly this process."""
    if not is_alive(pid, started):
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)


def find_runs(node_id: str, task_ids: Collection[str]) -> Iterator[tuple[int, int, str]]:
    """Processes that an earlier life of node `node_id` started for these tasks: (pid, started, task id).

    They are found by the DISBATCH_ variables of their environment, so even if their pid was never recorded, and so are
    their children. Only processes of this user can be examined (root: all).
    """
    node = f"DISBATCH_NODE={node_id}".encode()
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # ended meanwhile, or another user's
        if node not in variables:
            continue
        task_id = next((v[17:].decode() for v in variables if v.startswith(b"DISBATCH_TASK_ID=")), None)
        started = process_started(int(entry.name))
        if task_id in task_ids and started is not None and int(entry.name) != os.getpid():
            yield int(entry.name), started, str(task_id)


def find_of_supervisors(supervisor_ids: Collection[str]) -> Iterator[tuple[int, int, str]]:
    """What is left of the runs of supervisors that are dead, whatever it has shed: (pid, started, id)."""
    processes = Processes()
    for supervisor_id in supervisor_ids:
        for member in processes.of_supervisor(supervisor_id):
            yield member.pid, member.started, supervisor_id


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherSupervisor:
    """The supervisor of another node on this machine, as that node's document names it."""

    id: str
    pid: int
    pid_started: int
    directory: str

    @property
    def is_alive(self) -> bool:
        return is_alive(self.pid, self.pid_started)


async def end_supervisor(supervisor: OtherSupervisor, *, stop_seconds: float, kill_seconds: float) -> bool:
    """End a supervisor with all its runs: it is asked to, which has it stop them in their own way and find what they
    have left; after `stop_seconds` it and they are killed. Returns whether nothing is left, within `kill_seconds`
    more."""
    itself = Member(supervisor.pid, supervisor.pid_started)
    if not itself.send(signal.SIGTERM):
        return False  # another user's, as its runs are, whose marks cannot even be read
    if await _is_gone(supervisor, stop_seconds, killing=False):
        return True
    itself.send(signal.SIGKILL)
    return await _is_gone(supervisor, kill_seconds, killing=True)


async def _is_gone(supervisor: OtherSupervisor, seconds: float, *, killing: bool) -> bool:
    """Whether none of its runs is left. It may still be there itself, for a node that wants to know how they ended."""
    loop = asyncio.get_running_loop()
    until, empty_looks = loop.time() + seconds, 0
    while True:
        found = Processes().of_supervisor(supervisor.id)
        for member in found if killing else ():
            member.send(signal.SIGKILL)
        empty_looks = 0 if found or (killing and supervisor.is_alive) else empty_looks + 1
        if empty_looks == _EMPTY_LOOKS:
            return True
        if loop.time() >= until:
            return False
        await asyncio.sleep(_LOOK_SECONDS)
