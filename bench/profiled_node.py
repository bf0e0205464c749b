"""A node under a profiler: `python -P profiled_node.py FILE OPTION...` writes what each function took into FILE, from
the start or, if it gets one, from SIGUSR1 on.

Each thread is profiled by its own CPU clock, so that waiting takes nothing. `-P`, since this directory has a module
whose name is that of one in the standard library.
"""

from __future__ import annotations

import cProfile
import marshal
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from disbatch_host.cli.main import cli

# As `pstats` has it: of each function the calls, those of them that are not recursive, the time in it alone, that with
# what it calls, and the same again by caller.
Stats = dict[Any, Any]

_profiles: dict[cProfile.Profile, Stats] = {}  # with what is not to be counted


def _profile_this_thread(*_: object) -> None:
    profile = cProfile.Profile(time.thread_time)
    _profiles[profile] = {}
    profile.enable()


def _begin_again(*_: object) -> None:
    for profile in list(_profiles):
        profile.snapshot_stats()  # type: ignore[no-untyped-call]
        _profiles[profile] = dict(profile.stats)  # type: ignore[attr-defined]


def _sum(one: Stats, other: Stats, sign: int) -> Stats:
    """Both together; with sign -1 the first without the second."""
    found = dict(one)
    for function, value in other.items():
        of_one = found.get(function)
        *numbers, callers = value if len(value) == 5 else (*value, {})
        if of_one is None:
            zero = (0,) * len(numbers)
            of_one = (*zero, {}) if len(value) == 5 else zero
        new = tuple(a + sign * b for a, b in zip(of_one, numbers, strict=False))
        found[function] = (*new, _sum(of_one[4], callers, sign)) if len(value) == 5 else new
    return found


def main(file: str, *options: str) -> int:
    # From Python 3.12 on there is one profiler for a whole interpreter: there it sees the main thread alone.
    if sys.version_info < (3, 12):
        threading.setprofile(_profile_this_thread)
    signal.signal(signal.SIGUSR1, _begin_again)
    _profile_this_thread()
    code = cli.main(options, standalone_mode=False)
    threading.setprofile(None)
    whole: Stats = {}
    for profile, before in _profiles.items():
        profile.disable()
        profile.create_stats()
        whole = _sum(whole, _sum(profile.stats, before, -1), 1)  # type: ignore[attr-defined]
    Path(file).write_bytes(marshal.dumps(whole))
    return int(code or 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
