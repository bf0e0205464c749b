"""What a node, the supervisor of its runs and its programs have used so far, as the kernel says.

Must not know: what is measured, or what a revision of the project calls anything but the supervisor's program.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from place import cpu_seconds

SUPERVISOR = "disbatch-superv"  # as much of the program's name as the kernel keeps
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """Seconds of CPU, from the start of each process. The first two are exact, the others to 10 ms each."""

    node: float
    supervisor: float  # 0.0 where there is none
    user: float  # of the node, outside the system
    system: float
    programs: float  # what the node and its supervisor have started
    threads: Mapping[int, float]  # of the node, those that are there; exact
    threads_of_supervisor: Mapping[int, float]


def supervisor_of(node: int, state: Path | None = None) -> int | None:
    """The process that runs the programs of a node: its child, or the one in a home below the state directory. None: it
    runs them itself."""
    for child in children_of(node):
        if _name_of(child) == SUPERVISOR:
            return child
    for description in () if state is None else state.glob("*/supervisor.json"):
        described = json.loads(description.read_text())
        if _started(described["pid"]) == described["started"]:
            return int(described["pid"])
    return None


def used(node: int, supervisor: int | None) -> Used:
    """By a living node and its supervisor."""
    user, system = _times(node)[:2]
    return Used(
        node=cpu_seconds(node),
        supervisor=0.0 if supervisor is None else cpu_seconds(supervisor),
        user=user,
        system=system,
        programs=_below(node, but=supervisor) + (0.0 if supervisor is None else _below(supervisor, but=None)),
        threads=_threads(node),
        threads_of_supervisor={} if supervisor is None else _threads(supervisor),
    )


def busiest(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """What the thread has used that used most meanwhile."""
    return max((seconds - before.get(thread, 0.0) for thread, seconds in after.items()), default=0.0)


def children_of(pid: int) -> list[int]:
    """Of all its threads."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            found += map(int, (thread / "children").read_text().split())
    return found


def _below(pid: int, *, but: int | None) -> float:
    """The time of its children: of those that have ended and were waited for, and of those that run."""
    user, system = _times(pid)[2:]
    living = 0.0
    for child in children_of(pid):
        if child != but:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                living += cpu_seconds(child)
    return user + system + living


def _times(pid: int) -> tuple[float, float, float, float]:
    """User and system time of a process, and of its children that have ended."""
    user, system, user_below, system_below = (int(one) / _TICKS for one in _stat(pid)[11:15])
    return user, system, user_below, system_below


def _threads(pid: int) -> dict[int, float]:
    found = {}
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found[int(thread.name)] = int((thread / "schedstat").read_text().split()[0]) / 1e9
    return found


def _started(pid: int) -> int | None:
    """In clock ticks since boot; None if there is no such process."""
    with contextlib.suppress(OSError):
        return int(_stat(pid)[19])
    return None


def _stat(pid: int) -> list[str]:
    """From the state on, which is the third field: the name before it may have spaces and parentheses."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _name_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""
