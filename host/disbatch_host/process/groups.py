"""The control groups of the runs of a supervisor that is started here, in words: for a person who looks into a machine.

Responsible for: asking the program that would use them (native/groups.h), and what the kernel does for want of memory.
Must not know: runs.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

from disbatch_host.process import connection, memory_kills

_ANSWERS_SECONDS = 5.0


class GroupState(NamedTuple):
    """What runs of a supervisor that is started by this process would have."""

    words: str  # the sentence that the supervisor has in its log
    is_used: bool  # each place has a control group
    limits_memory: bool  # and `limits.memory` is what all processes of a run use, not address space
    kills_together: Path | None  # the `memory.oom.group` by which one that takes too much ends all others with it


def group_state(program: Path | None = None) -> GroupState:
    """Changes nothing. `program`: another than the one of this package."""
    words = "runs have no control groups: disbatch-supervisor cannot be used here; limits.memory is address space"
    path = program or connection.program_path()
    try:
        asked = subprocess.run(
            [path, "--groups"], capture_output=True, text=True, timeout=_ANSWERS_SECONDS, check=True, errors="replace"
        )
        words = asked.stdout.strip() or words
    except (OSError, subprocess.SubprocessError):
        pass  # it is not there, or of an earlier version
    is_used = words.startswith("runs have control groups")
    return GroupState(words, is_used, is_used and "address space" not in words, memory_kills.kills_together())
