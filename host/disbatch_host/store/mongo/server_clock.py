"""The server's clock, which is the clock of all nodes. See `ServerClock`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from disbatch_host.clock import Clock

_FOLLOW_SECONDS = 10.0  # how long it is followed without asking again


class ServerClock:
    """Follows the server's clock by this machine's monotonic one, so that the local time of day and its jumps do not
    matter. `ask` returns the server's time; its exceptions come out of `follow` and `now`."""

    def __init__(self, local: Clock, ask: Callable[[], datetime]) -> None:
        self._local = local
        self._ask = ask
        self._asked_at = float("-inf")  # by the monotonic clock
        self._answer = datetime.fromtimestamp(0, UTC)

    def follow(self) -> None:
        before = self._local.monotonic()
        answer = self._ask()
        # The server read its clock in the middle of the call, as far as anybody can tell.
        self._asked_at = (before + self._local.monotonic()) / 2
        self._answer = answer if answer.tzinfo is not None else answer.replace(tzinfo=UTC)

    def now(self) -> datetime:
        """To the microsecond, within some milliseconds of the server's own; asks the server if the last time was long
        ago."""
        if self._local.monotonic() - self._asked_at > _FOLLOW_SECONDS:
            self.follow()
        return self._answer + timedelta(seconds=self._local.monotonic() - self._asked_at)
