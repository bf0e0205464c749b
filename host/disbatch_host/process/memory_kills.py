"""What the kernel does for want of memory: how often it has killed something, and whether all at once.

Responsible for: reading that of this process's control group, which its supervisor and programs share. Must not know:
who was killed.
"""

from __future__ import annotations

from pathlib import Path

_OWN = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")


def memory_kills(own: Path = _OWN, groups: Path = _GROUPS) -> int:
    """How many processes it has killed so far; 0 where nothing tells."""
    for file in _files(own, groups):
        try:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, value = line.partition(" ")
            if name == "oom_kill" and value.isdecimal():
                return int(value)
    return 0


def kills_together(own: Path = _OWN, groups: Path = _GROUPS) -> Path | None:
    """The file that tells the kernel to kill everything in the group at once, or in one above it; None if none does."""
    for file in _files(own, groups):
        for above in file.relative_to(groups).parents:
            together = groups / above / "memory.oom.group"
            try:
                if together.read_text(encoding="ascii", errors="replace").strip() == "1":
                    return together
            except OSError:
                continue
    return None


def _files(own: Path, groups: Path) -> list[Path]:
    """Where the number may be, by the version of control groups."""
    try:
        lines = own.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            found.append(groups / "memory" / path.lstrip("/") / "memory.oom_control")
        elif not controllers:
            found += [groups / place / path.lstrip("/") / "memory.events" for place in ("", "unified")]
    return found
