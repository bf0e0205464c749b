"""Processes that an earlier life of a node left on this machine: finding them and killing them.

Responsible for: processes known by pid *and* start time, since a pid alone is reused sooner or later.
Must not know: stores, tasks beyond their ids.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection, Iterator
from pathlib import Path

from disbatch_host.process.facts import process_started

_PROC = Path("/proc")


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
