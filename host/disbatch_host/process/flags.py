"""The flags of frames (`frames`).

Responsible for: what each bit means. Must not know: the rest of the frames.
"""

from __future__ import annotations

from typing import Final


class Has:
    """Flags of PLUGIN: plain numbers, since enumerations of flags are slow."""

    ACCOUNT: Final = 1  # uid, gid and groups are to be used
    LEAVE_RUNNING: Final = 2  # what has left the session is left alone at a normal end


class Input:
    """Flags of START."""

    NULL: Final = 1  # stdin is /dev/null
    OPEN: Final = 2  # stdin stays open after its input: a worker process
    TELL: Final = 4  # STARTED is wanted at once
    LIVE: Final = 8  # everything is told as it comes and not kept; the program waits where the node takes no more


class How:
    """Flags of END."""

    HELD_OPEN: Final = 1  # somebody still held its output when the time for that was over
    STDIN_REFUSED: Final = 2  # it ended, or closed its stdin, before everything was written
    PEAK_IS_BOUND: Final = 4  # the peak is not above that of the process that started it
    MEMORY_BY_GROUP: Final = 8  # its limit of address space was one of what its control group uses
    MEMORY_LIMIT: Final = 16  # and because of that the kernel has ended processes of it
