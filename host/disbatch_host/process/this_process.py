"""Precautions that this process takes about itself before it starts programs. Linux only.

Responsible for: everything that a program could inherit or steal from it. Must not know: which programs it will start.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from disbatch_host.c_library import c_library

_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 4, 36  # <sys/prctl.h>


def close_others_on_exec() -> None:
    """Mark every descriptor above 2 that this process inherited as close-on-exec. Once, at the start."""
    for entry in list(Path("/proc/self/fd").iterdir()):
        descriptor = int(entry.name)
        if descriptor > 2:  # 0, 1 and 2 are replaced in each child anyway
            try:
                os.set_inheritable(descriptor, False)
            except OSError as error:  # the descriptor of the listing itself is gone by now
                if error.errno != errno.EBADF:
                    raise


def hide_from_same_user() -> None:
    """Keep this process's memory, environment and descriptors from other processes of its own user, which the programs
    that it starts usually are: no /proc/PID/environ or mem, no debugger, no core dump. The programs themselves are not
    hidden; root sees everything. Once, at the start."""
    c_library().prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def adopt_orphans() -> None:
    """Descendants whose parent ends become this process's children from now on, not init's: so nothing that a program
    leaves behind can hide. They have to be reaped (`family.Orphans`). Once, at the start."""
    c_library().prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
