"""The processes of a run besides its first one: finding them, signalling them, and telling when none is left.

Responsible for: reading /proc, and signals that hit exactly the process that was meant. Must not know: why a run is
stopped, what becomes of it afterwards.

Rules:
1. A process belongs to a run if it is in its session or process group, descends from its first process, carries
   `DISBATCH_RUN` of it in its environment, or is in a control group of its supervisor (native/groups.h).
2. This process can be the subreaper of its descendants: then those whose parent has ended become its children, and the
   list of its children says at once whether any are left. Where it is not, only /proc as a whole can tell.
3. A process is signalled through a pidfd that was opened before its start time was looked at: its number may be another
   process's by then.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from disbatch_host.c_library import c_library
from disbatch_host.process import facts
from disbatch_host.process.framing import Left

_PROC = Path("/proc")
_PR_GET_CHILD_SUBREAPER = 37  # <sys/prctl.h>
RUN_VARIABLE = "DISBATCH_RUN"
_MARK_BITS = 40  # of the number of a run in a mark; above them, bits of the supervisor's id, and the highest bit
_MARK_LEVEL_MIN = _MARK_BITS + 9


def is_subreaper() -> bool:
    """Whether the descendants of this process become its children when their parents end (`this_process`)."""
    answer = ctypes.c_int()
    c_library().prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0)
    return bool(answer.value)


@dataclass(frozen=True, slots=True)
class Member:
    """A process as it was seen."""

    pid: int
    started: int  # clock ticks since boot

    def send(self, number: int) -> bool:
        """Send it a signal if it is still this process. False if it is another user's and may not be signalled."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except OSError:
            return True  # gone
        try:
            if facts.process_started(self.pid) == self.started:
                signal.pidfd_send_signal(descriptor, number)
        except PermissionError:
            return False
        except ProcessLookupError:
            pass
        finally:
            os.close(descriptor)
        return True

    @property
    def is_alive(self) -> bool:
        return facts.process_started(self.pid) == self.started

    def described(self) -> Left:
        """For an End."""
        try:
            name = (_PROC / str(self.pid) / "comm").read_bytes().rstrip(b"\n").decode("utf-8", "replace")
            uid = (_PROC / str(self.pid)).stat().st_uid
        except OSError:
            name, uid = "", 0
        return Left(self.pid, uid, name)


class Processes:
    """All processes of the machine, as they were when it was made. One for all that happens at the same moment: reading
    /proc takes milliseconds."""

    def __init__(self) -> None:
        self._started: dict[int, int] = {}
        self._children: dict[int, list[int]] = {}
        self._of_leader: dict[int, list[int]] = {}  # by the number of its session or group
        self._marked: dict[bytes, list[int]] | None = None
        for pid, parent, group, session, started in _all_processes():
            self._started[pid] = started
            self._children.setdefault(parent, []).append(pid)
            for leader in {group, session}:
                self._of_leader.setdefault(leader, []).append(pid)

    def members_of(self, leader: int, mark: bytes) -> list[Member]:
        """The living processes of a run but its first one, `leader`. `mark`: its `DISBATCH_RUN=…`."""
        found = self._with_descendants([leader, *self._of_leader.get(leader, ()), *self._by_mark().get(mark, ())])
        return self._members(found - {leader})

    def of_runs(
        self, marks: Collection[bytes], leaders: Collection[Member], others: Collection[int] = ()
    ) -> list[Member]:
        """The living processes of all runs that have one of these `DISBATCH_RUN=…`, or of which one of these is the
        first process; with the first processes. `others`: processes that are known to be theirs."""
        roots = [*others, *(pid for mark in marks for pid in self._by_mark().get(mark, ()))]
        for leader in leaders:
            if self._started.get(leader.pid, leader.started) == leader.started:  # else its number is another's now
                roots += (leader.pid, *self._of_leader.get(leader.pid, ()))
        return self._members(self._with_descendants(roots))

    def of_supervisor(self, supervisor_id: str) -> list[Member]:
        """The living processes of all runs of a supervisor, by what they carry of it, and what descends from them."""
        start = f"{RUN_VARIABLE}={supervisor_id}-".encode()
        roots = [pid for mark, pids in self._by_mark().items() if mark.startswith(start) for pid in pids]
        with contextlib.suppress(ValueError):  # another program's id
            roots += self.numbered(bytes.fromhex(supervisor_id))
        roots += self.in_groups_of(supervisor_id)
        return self._members(self._with_descendants(roots))

    def numbered(self, supervisor_id: bytes) -> dict[int, int]:
        """The processes of runs of a supervisor, whatever they have shed, each with the number of its run. None for the
        class, whose runs have no such mark."""
        found = {pid: _number_marked(pid, supervisor_id) for pid in self._started}
        return {pid: number for pid, number in found.items() if number is not None}

    def in_groups_of(self, supervisor_id: str) -> list[int]:
        """The processes in control groups of a supervisor, but for those of runs whose processes may go on."""
        return [pid for pid in self._started if _is_in_group_of(pid, supervisor_id.encode())]

    def _with_descendants(self, roots: list[int]) -> set[int]:
        found: set[int] = set()
        while roots:
            pid = roots.pop()
            if pid not in found:
                found.add(pid)
                roots += self._children.get(pid, ())
        return found

    def _members(self, pids: set[int]) -> list[Member]:
        pids.discard(os.getpid())
        return [Member(pid, self._started[pid]) for pid in sorted(pids) if pid in self._started]

    def _by_mark(self) -> dict[bytes, list[int]]:
        if self._marked is None:
            self._marked = {}
            for pid in self._started:
                mark = mark_of(pid)
                if mark is not None:
                    self._marked.setdefault(mark, []).append(pid)
        return self._marked


def _is_in_group_of(pid: int, supervisor_id: bytes) -> bool:
    try:
        groups = Path(f"/proc/{pid}/cgroup").read_bytes()
    except OSError:
        return False
    _, found, place = groups.partition(b"/disbatch-runs-" + supervisor_id + b"/")
    return bool(found) and not place.startswith(b"left-")


def _all_processes() -> Iterator[tuple[int, int, int, int, int]]:
    """pid, parent, group, session and start of each that is not a zombie."""
    with os.scandir(_PROC) as entries:
        names = [entry.name for entry in entries if entry.name.isdigit()]
    for name in names:
        try:
            descriptor = os.open(f"/proc/{name}/stat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fields = os.read(descriptor, 4096).rpartition(b")")[2].split()
        except OSError:
            continue
        finally:
            os.close(descriptor)
        if fields[0] not in (b"Z", b"X"):
            yield int(name), int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19])


class Orphans:
    """The children that this process has not started itself: what runs have left behind."""

    def __init__(self) -> None:
        """For a process that is a subreaper; made in its main thread or not, but orphans come to its main thread."""
        path = f"/proc/self/task/{os.getpid()}/children"
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._descriptor = -1  # a kernel without that file

    def pids(self, leaders: Collection[int]) -> list[int] | None:
        """Those that are not in `leaders`; None if the kernel does not tell."""
        if self._descriptor < 0:
            return None
        data, position = b"", 0
        while block := os.pread(self._descriptor, 2**16, position):
            data += block
            position += len(block)
        return [pid for word in data.split() if (pid := int(word)) not in leaders]

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def reaped(pid: int) -> float | None:
    """Reap a child that has ended: its CPU seconds, with those of the children that it waited for. None if it is alive
    or is not a child."""
    with contextlib.suppress(ChildProcessError):
        found, _, usage = os.wait4(pid, os.WNOHANG)
        if found:
            return usage.ru_utime + usage.ru_stime
    return None


def mark_of(pid: int) -> bytes | None:
    """The `DISBATCH_RUN=…` that a process was started with; None if there is none, or it may not be read."""
    try:
        environment = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return None
    start = f"{RUN_VARIABLE}=".encode()
    return next((one for one in environment.split(b"\0") if one.startswith(start)), None)


def _number_marked(pid: int, supervisor_id: bytes) -> int | None:
    """The number of its run at this supervisor, which a process carries as a mark that it cannot remove: see
    docs/supervisor.md, Starting, rule 6."""
    try:
        lines = (_PROC / str(pid) / "limits").read_bytes().splitlines()
    except OSError:
        return None
    hard = next((line.split()[4] for line in lines if line.startswith(b"Max realtime timeout")), b"")
    level = int(hard).bit_length() - 1 if hard.isdigit() else 0
    if level < _MARK_LEVEL_MIN:
        return None
    of_id, number = divmod(int(hard) - (1 << level), 1 << _MARK_BITS)
    return number if of_id == int.from_bytes(supervisor_id[:8]) % (1 << level - _MARK_BITS) else None


def session_of(pid: int) -> int:
    """The session that a process is in; 0 if there is none."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        return os.getsid(pid)
    return 0


def group_of(pid: int) -> int:
    """The process group that a process is in; 0 if there is none."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        return os.getpgid(pid)
    return 0
