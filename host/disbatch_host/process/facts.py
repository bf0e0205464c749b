"""The kernel's facts about one process: when it started, the CPU time and memory that it uses.

Responsible for: reading them. Must not know: who started the process, what it does.
"""

from __future__ import annotations

import os
import time

_STAT_SIZE = 2**12  # bytes of /proc/PID/stat, which has about 300
_STATUS_SIZE = 2**13  # bytes of /proc/PID/status, which has about 1,500


def process_started(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if there is none, or only its zombie."""
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # The name, in parentheses, may contain anything: count from the last closing one. Field 3 is the state, field
        # 22 the time.
        fields = os.read(descriptor, _STAT_SIZE).rpartition(b")")[2].split()
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used so far, all its threads, without its children; 0 if it is gone."""
    try:
        # Linux makes the number of a process's CPU clock from its pid (clock_getcpuclockid(3) does the same).
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return 0.0


class ProcessMemory:
    """The memory of a process that is checked again and again. Close it."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._descriptor = -1  # kept open: one system call per check instead of three

    def read(self) -> tuple[int, int]:
        """Resident bytes now, and at their peak so far; zeros if the process is gone."""
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
    """The bytes of a line like `VmRSS:   1234 kB`; 0 if there is none, as for a zombie."""
    _, found, rest = status.partition(name)
    return int(rest.split(None, 1)[0]) * 1024 if found else 0
