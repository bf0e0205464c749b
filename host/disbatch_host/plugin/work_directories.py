"""The directories of programs that start in one of their own (`cwd: work`).

Responsible for: making them under safe names, and removing them; in threads of their own where anything is in them: a
tree of any size or depth holds up neither the event loop nor another tree. Must not know: runs, what a program does
there, whether a directory is kept.

Rules:
1. A name is made of harmless letters, whatever the id of the task.
2. Removal begins by renaming. A directory that a host leaves behind half removed, because it was killed or had no more
   time, has that name (`removal.ASIDE_PREFIX`), and the next node of the same user in the same place removes it, unless
   the process that began is still there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import stat
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from disbatch_host.plugin import removal
from disbatch_host.plugin.removal import RemovalError
from disbatch_host.process.interface import Account

log = logging.getLogger(__name__)

_THREADS_MAX = 4  # so that three trees of millions of files do not keep the small ones waiting
_NAME_MAX = 40  # characters of the name that are the caller's
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


class WorkDirectories:
    """The work directories below one directory. Used in an event loop, except for `text_of`."""

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self._changed = threading.Condition()
        self._waiting: deque[Callable[[], None]] = deque()
        self._threads = 0  # each has a tree in hand, or is about to see that none waits

    def make(self, name: str, account: Account | None) -> Path:
        """A new directory, for this account only, else for the host's own; `name` becomes a part of its name. Raises
        OSError, with nothing left behind."""
        safe_name = _UNSAFE.sub("_", name)[:_NAME_MAX]
        directory = Path(tempfile.mkdtemp(prefix=f"disbatch-{safe_name}-", dir=self._parent))
        if account is not None:
            try:
                os.chown(directory, account.uid, account.gid)
            except OSError:
                directory.rmdir()
                raise
        return directory

    def remove(self, directory: Path, on_left: Callable[[str], None] | None = None) -> None:
        """Remove a directory, soon. If it cannot be removed, that is logged, and `on_left` is told in the event loop
        where it is left."""
        with contextlib.suppress(OSError):  # whatever it is, the thread finds out
            directory.rmdir()  # most are empty: one call, of which a thread would be many times the cost
            return
        loop = asyncio.get_running_loop()

        def remove() -> None:
            try:
                removal.remove_tree(directory)
            except RemovalError as error:
                left = text_of(error.path)
                log.warning("work directory %s cannot be removed: %s", left, error)
                if on_left is not None:
                    _tell(loop, on_left, left)

        self._hand_in(remove)

    def remove_leftovers(self) -> None:
        """Remove, soon, what hosts of this user had begun to remove here (rule 2)."""

        def look() -> None:
            for path in _leftovers(self._parent):
                try:
                    removal.remove_aside(path)
                except RemovalError as error:
                    log.warning(
                        "work directory %s, left by an earlier host, cannot be removed: %s", text_of(path), error
                    )

        self._hand_in(look)

    async def finish(self, seconds: float) -> None:
        """Wait until everything is removed, at most this long; what is left then is said. Calling it twice is fine."""
        with self._changed:
            if not self._threads:
                return
        left = await asyncio.get_running_loop().run_in_executor(None, self._wait, seconds)
        if left:
            log.warning(
                "removing work directories takes too long, %d are left in %s; the next node here removes them",
                left, text_of(self._parent),
            )  # fmt: skip

    def _hand_in(self, action: Callable[[], None]) -> None:
        with self._changed:
            self._waiting.append(action)
            if self._threads == _THREADS_MAX:
                return
            self._threads += 1
        threading.Thread(target=self._work, name="work directories", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._threads -= 1
                    self._changed.notify_all()
                    return
                action = self._waiting.popleft()
            try:
                action()
            except Exception:  # a defect: the others must be removed all the same
                log.exception("a work directory was not removed")

    def _wait(self, seconds: float) -> int:
        """How many are left after this long."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._threads and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            return self._threads + len(self._waiting)


def text_of(path: Path) -> str:
    """A path as text that can be stored and shown, whatever bytes are in it."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _leftovers(parent: Path) -> list[Path]:
    """Trees of this user that have the name for removal, and whose host is gone. Others may write there too: theirs are
    left alone."""
    found = []
    try:
        with os.scandir(parent) as entries:
            for entry in entries:
                if entry.name.startswith(removal.ASIDE_PREFIX) and not _is_in_hand(entry.name):
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
                        found.append(parent / entry.name)
    except OSError as error:
        log.debug("%s cannot be looked through for leftovers: %s", parent, error)
    return found


def _is_in_hand(name: str) -> bool:
    """Whether another process that is still there began to remove the tree with this name."""
    pid = name.removeprefix(removal.ASIDE_PREFIX).partition("-")[0]
    return pid.isdecimal() and int(pid) != os.getpid() and Path("/proc", pid).exists()


def _tell(loop: asyncio.AbstractEventLoop, on_left: Callable[[str], None], left: str) -> None:
    try:
        loop.call_soon_threadsafe(on_left, left)
    except RuntimeError:
        log.debug("the host had ended before it could be told of %s", left)
