"""What the system says about writes to a file (inotify).

Responsible for: one watched file, the descriptor on which its writes are announced, and what is read from that. Must
not know: what is in the file, who has written (the system does not say).

Rules:
1. The file is watched by its inode and is never opened here: closing a file of SQLite's would drop all locks that this
   process has on it (POSIX).
2. A descriptor that somebody may be waiting for stays the same until `close`: only the watch on it comes and goes.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import struct
import termios
from pathlib import Path

from disbatch_host.c_library import c_library

_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK  # the system has the same numbers for IN_CLOEXEC and IN_NONBLOCK
_MODIFY, _IGNORED = 0x2, 0x8000
_EVENT = struct.Struct("iIII")  # watch, what has happened, and two that are 0 for a file that is not in a directory
_READ_BYTES = 64 * _EVENT.size  # equal events that follow each other are one, so there are hardly ever more than two
_NOTHING = bytes(4)


class WriteEvents:
    """Announces writes to one file. Used by one thread at a time, but `stop` by any."""

    def __init__(self) -> None:
        """Raises OSError if the system has no descriptor for it (`fs.inotify.max_user_instances`, for instance)."""
        self.descriptor = _checked(c_library().inotify_init1(_FLAGS), "inotify_init1")
        self._watch: int | None = None

    @property
    def is_watching(self) -> bool:
        """Not before `watch`, and no longer once the file is gone, as far as `take` has read."""
        return self._watch is not None

    def watch(self, path: Path) -> None:
        """Announce writes to the file that is there now. Raises OSError if it cannot be watched
        (`fs.inotify.max_user_watches`, for instance)."""
        answer = c_library().inotify_add_watch(self.descriptor, os.fsencode(path), ctypes.c_uint32(_MODIFY))
        self._watch = _checked(answer, "inotify_add_watch")

    def is_pending(self) -> bool:
        """Whether `take` would find something."""
        return fcntl.ioctl(self.descriptor, termios.FIONREAD, _NOTHING) != _NOTHING

    def take(self) -> bool:
        """Whether anything was announced since the last time. Afterwards the descriptor has nothing to read."""
        try:
            events = os.read(self.descriptor, _READ_BYTES)
        except BlockingIOError:
            return False
        for watch, what, _, _ in _EVENT.iter_unpack(events):
            if what & _IGNORED and watch == self._watch:
                self._watch = None
        return True

    def stop(self) -> None:
        """Announce nothing more, after a last event."""
        if self._watch is not None:
            c_library().inotify_rm_watch(self.descriptor, self._watch)

    def close(self) -> None:
        """Nobody may be waiting for the descriptor. Closing twice is fine."""
        descriptor, self.descriptor, self._watch = self.descriptor, -1, None
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _checked(answer: int, name: str) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return answer
