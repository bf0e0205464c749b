"""Ends that a supervisor wrote down for the next node, since nobody was there to hear them: as if it still lived.

Responsible for: telling them as a supervisor would, and removing the file once nothing of it is needed. Must not know:
whose runs they were, what becomes of them.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from disbatch_host.process import connection
from disbatch_host.process.frames import End, Frame, Output, Said, SupervisorHello, Window


class WrittenEnds:
    """See `link.Link`: the supervisor of one life, of which the frames are."""

    keeps_output = True

    def __init__(self, frames: list[Frame]) -> None:
        self._frames = frames
        self._ends = {frame.run: frame for frame in frames if isinstance(frame, End)}
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        return self._event

    def send(self, frame: Frame) -> None:
        """Everything that was kept is told without being asked for. A node that still waits for more of a stream waits
        for what was lost: it is told where the stream ends."""
        if isinstance(frame, Window) and frame.run in self._ends:
            end = self._ends[frame.run]
            offset = end.stdout_end if frame.stream == Output.STDOUT else end.stderr_end
            self._frames.append(Said(frame.run, frame.stream, offset, b""))
            os.eventfd_write(self._event, 1)

    def flush(self) -> None:
        """Nothing waits."""

    def receive(self) -> list[Frame]:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)
        frames, self._frames = self._frames, []
        return frames

    def due_seconds(self) -> float | None:
        return None

    def close(self) -> None:
        if self._event >= 0:
            os.close(self._event)
            self._event = -1


class WrittenFile:
    """The file in the directory of a supervisor; nothing if there is none. Raises FrameError."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / connection.ENDS
        self._status = self._look()
        lives: list[list[Frame]] = []
        for frame in connection.read_ends(directory):
            if isinstance(frame, SupervisorHello):
                lives.append([])
            lives[-1].append(frame)
        self.lives = [WrittenEnds(frames) for frames in lives]  # of each supervisor that has written there

    def forget(self) -> None:
        """The store has all of them. What another supervisor has added meanwhile stays for the next node."""
        if self._status is not None and self._look() == self._status:
            self._path.unlink(missing_ok=True)

    def _look(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_size
