"""This machine and the processes on it, as far as nodes need to tell them apart.

Responsible for: a name for the machine that changes with each boot, and processes known by pid *and* start time, since
a pid alone is given to somebody else sooner or later. Must not know: stores, tasks beyond their ids.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

_PROC = Path("/proc")
_STATUS_SIZE = 2**13  # bytes of /proc/PID/status, which has about 1,500


@dataclass(frozen=True)
class Machine:
    """The machine that this process runs on. Two boots of one machine are two machines here: no process survives."""

    name: str
    boot_id: str

    @classmethod
    def this(cls) -> Machine:
        try:
            boot_id = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        except OSError:  # hidden from a container; then only the name tells machines apart
            boot_id = ""
        return cls(socket.gethostname(), boot_id)

    @cached_property
    def document(self) -> dict[str, str]:
        """As it is written into a node's document."""
        return {"name": self.name, "boot_id": self.boot_id, "pid_namespace": pid_namespace()}

    def is_same(self, document: object) -> bool:
        """Whether a node's `host` is this machine, in this boot, and its pids mean the same here."""
        return (
            isinstance(document, dict)
            and bool(self.boot_id)
            and all(document.get(name) == value for name, value in self.document.items())
        )


def pid_namespace() -> str:
    """Names the set of processes whose pids mean the same: containers on one machine each have their own."""
    try:
        return str((_PROC / "self/ns/pid").readlink())
    except OSError:
        return ""


def process_started(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None where there is none, or only its zombie."""
    try:
        # The name, in parentheses, may hold anything: count from the last closing one. Field 3 is the state, field 22
        # the time.
        fields = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used so far, all its threads, without its children; 0 where it is gone."""
    try:
        # Linux makes the number of a process's CPU clock from its pid (clock_getcpuclockid(3) does the same).
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return 0.0


class ProcessMemory:
    """The memory of a process that is looked at again and again. Close it."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._descriptor = -1  # kept open: one system call a look instead of three

    def read(self) -> tuple[int, int]:
        """Resident bytes now, and at their peak so far; zeros where the process is gone."""
        try:
            if self._descriptor < 0:
                self._descriptor = os.open(f"/proc/{self._pid}/status", os.O_RDONLY | os.O_CLOEXEC)
            status = os.pread(self._descriptor, _STATUS_SIZE, 0)
        except OSError:
            return 0, 0
        return _kibibytes(status, b"VmRSS:"), _kibibytes(status, b"VmHWM:")

    def close(self) -> None:
        """Closing twice is fine."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _kibibytes(status: bytes, name: bytes) -> int:
    """The bytes of a line like `VmRSS:   1234 kB`; 0 where there is none, as for a zombie."""
    _, found, rest = status.partition(name)
    return int(rest.split(None, 1)[0]) * 1024 if found else 0


def is_alive(pid: object, started: object) -> bool:
    """Whether exactly this process still runs."""
    return isinstance(pid, int) and isinstance(started, int) and process_started(pid) == started


def kill(pid: int, started: int) -> None:
    """SIGKILL to a process, and to its group where it leads one, if it is still exactly this process."""
    if not is_alive(pid, started):
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)


def find_runs(node_id: str, task_ids: Collection[str]) -> Iterator[tuple[int, int, str]]:
    """Processes that an earlier life of node `node_id` has started for these tasks: (pid, started, task id).

    Found by the DISBATCH_ variables of their environment, so also those whose pid was never written down, and their
    children. Only processes of this user can be looked at (root: all).
    """
    node = f"DISBATCH_NODE={node_id}".encode()
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # ended in between, or another user's
        if node not in variables:
            continue
        task_id = next((v[17:].decode() for v in variables if v.startswith(b"DISBATCH_TASK_ID=")), None)
        started = process_started(int(entry.name))
        if task_id in task_ids and started is not None and int(entry.name) != os.getpid():
            yield int(entry.name), started, str(task_id)
