"""What the tests ask about processes."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path


def group_members(group: int) -> list[int]:
    """The living processes of a group; a zombie that only waits for its parent is not living."""
    members = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] not in (b"Z", b"X"):
            members.append(int(entry.name))
    return members


def assert_group_is_gone(group: int, within_seconds: float = 5.0) -> None:
    """A killed process is gone a moment after the kill: wait for that moment, not longer."""
    wait_until(lambda: not group_members(group), within_seconds, f"group {group} has living members")


def state_of(pid: int) -> str:
    """As the kernel calls it: R, S, T (stopped), Z; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def stop(pid: int) -> None:
    """SIGSTOP. Until each of its threads has really stopped, a process may still take and answer what comes."""
    os.kill(pid, signal.SIGSTOP)
    threads = Path(f"/proc/{pid}/task")
    wait_until(lambda: {state_of(int(one.name)) for one in threads.iterdir()} == {"T"}, 10, f"{pid} did not stop")


def wait_until(condition: Callable[[], object], within_seconds: float = 10.0, what: str = "the condition") -> None:
    """Poll until the condition holds; fails with `what` where it does not in time.

    The longer it takes, the longer are the pauses: what everybody waits for is not to be held up by who waits.
    """
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        if waited > within_seconds:
            raise AssertionError(f"after {within_seconds} s: {what}")
        time.sleep(min(max(0.01, waited / 10), 0.05))


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal by now."""
    found = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.M)
    return found is not None and bool(int(found[1], 16) & 1 << (number - 1))


def is_pending(pid: int, number: signal.Signals) -> bool:
    """Whether a signal was sent to a process that it has not been given yet."""
    found = re.search(r"^ShdPnd:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.M)
    return found is not None and bool(int(found[1], 16) & 1 << (number - 1))


def descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def peak_memory(pid: int) -> int:
    """Bytes that a process has had resident at most."""
    found = re.search(r"^VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)
    return int(found[1]) * 1024 if found is not None else 0
