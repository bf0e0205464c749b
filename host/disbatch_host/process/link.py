"""The seam between a node and the supervisor of its runs: frames go out, frames come in.

Responsible for: what both supervisors offer. Must not know: which of them it is, what the frames mean.
"""

from __future__ import annotations

from typing import Protocol

from disbatch_host.process.frames import Frame


class LinkClosedError(Exception):
    """The supervisor closed the connection; the message says what it said, if it said anything."""


class Link(Protocol):
    """One connection to a supervisor, or the one in this process. Used in one thread."""

    @property
    def keeps_output(self) -> bool:
        """Whether it keeps what it has told until that is acknowledged; if not, it need not hear of offsets."""

    def fileno(self) -> int:
        """A descriptor that is readable when `receive` has something to do."""

    def send(self, frame: Frame) -> None:
        """Send a frame, sooner or later, in the order of the calls. Returns at once. Raises FrameError if the frame
        exceeds a limit, and sends nothing of it."""

    def flush(self) -> None:
        """Send what can be sent now. Returns at once; what is left goes with `receive`."""

    def receive(self) -> list[Frame]:
        """What has come, and do what is due. Returns at once. Raises LinkClosedError, and FrameError where the other
        side broke a rule."""

    def due_seconds(self) -> float | None:
        """After how many seconds `receive` is to be called although nothing is readable; None: not at all."""

    def close(self) -> None:
        """Closing twice is fine."""
