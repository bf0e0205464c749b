"""One supervisor of a node, and the connection to it.

Responsible for: another connection where that ends and the supervisor lives, what identifies it for others, and sending
it away. Must not know: what follows when the supervisor ends, which one takes new runs (`supervised`).

Rules:
1. One that does not answer is not taken for ended, and never killed. Nor is one that outlives this process when the
   connection to it ends: only its process tells.
2. Where another process has taken it over, nothing more is said to it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol

from disbatch_host.process.connection import SocketLink
from disbatch_host.process.frames import Bye
from disbatch_host.process.home import SupervisorHome, SupervisorRefusedError
from disbatch_host.process.host import FrameHost
from disbatch_host.process.interface import KeptRun
from disbatch_host.process.meeting import FAILURES, Means, Meeting

log = logging.getLogger(__name__)

_LEAVES_SECONDS = 1.0  # for a supervisor that has nothing to do to end
_LOOK_SECONDS = 0.005
_LOSSES_SECONDS = 60.0  # within which losses of connections count together
_PAUSE_SECONDS, _PAUSE_MAX_SECONDS = 0.02, 5.0  # before a connection is made again: longer each time


class Owner(Protocol):
    """Who is told what becomes of a supervisor."""

    def on_ended(self, seat: Seat, why: str) -> None:
        """Its process has ended. Others than those of the connection that was lost are not told."""

    def on_connected(self, before: FrameHost, now: FrameHost) -> None:
        """The connection is another one."""

    def on_refused(self) -> None:
        """It is another process's by now."""


class Seat:
    """See the module. One of the `open` calls comes first."""

    def __init__(self, means: Means, home: SupervisorHome | None, owner: Owner) -> None:
        self._meeting = Meeting(means, home, self._on_lost)
        self._owner = owner
        self._losses: list[float] = []  # of connections to one that lives on, by the monotonic clock
        self._connecting: asyncio.Task[None] | None = None
        self._host: FrameHost | None = None

    async def open(self) -> None:
        """See `Meeting.first`."""
        self._host = await self._meeting.first()

    def open_next(self) -> None:
        """See `Meeting.next`."""
        self._host = self._meeting.next()

    @property
    def host(self) -> FrameHost:
        assert self._host is not None, "it was not opened"
        return self._host

    @property
    def link(self) -> SocketLink | None:
        """None: it is the class in this process."""
        return self._meeting.link

    @property
    def home(self) -> SupervisorHome | None:
        return self._meeting.home

    @property
    def keeps_runs(self) -> bool:
        """Whether runs go on without this process."""
        return self.home is not None and self.link is not None

    @property
    def described(self) -> dict[str, str | int] | None:
        """What identifies the supervisor if it outlives this process, for others on this machine."""
        hello = None if self._host is None else self._host.hello
        if hello is None or self.home is None or self.link is None:
            return None
        return {
            "id": hello.supervisor_id.hex(),
            "pid": self.link.pid,
            "pid_started": hello.started,
            "directory": str(self.home.directory),
        }

    async def is_outdated(self) -> bool:
        """Whether it is of another version than this package's, or was started in other surroundings."""
        return self.keeps_runs and not await asyncio.to_thread(self._meeting.is_as_now, self.host)

    def look(self) -> list[KeptRun]:
        """See `Meeting.look`. Waits; in any thread."""
        return self._meeting.look()

    def leave(self, reason: Bye) -> None:
        """Say goodbye to one that lives on."""
        if self.keeps_runs and self._host is not None:
            self._host.say_goodbye(reason)

    def sent_away(self) -> bool:
        """End one that has nothing to do. Takes milliseconds. False: it still has something, or does not end at once:
        then the end of its connection is heard, and dealt with as any other."""
        link = self.link
        if link is None or not self.host.has_nothing:
            return False
        self.host.say_goodbye(Bye.ENDS)
        until = time.monotonic() + _LEAVES_SECONDS
        while not link.is_peer_gone:
            if time.monotonic() > until:
                return False
            time.sleep(_LOOK_SECONDS)
        self.close()
        return True

    def close(self) -> None:
        """The connection. Twice is fine."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._host is not None:
            self._host.close()

    def _on_lost(self, host: FrameHost, why: str) -> None:
        if host.bye is not None and host.bye.reason == Bye.TAKEN_OVER:
            self._owner.on_refused()
        elif self.keeps_runs:
            self._connecting = asyncio.get_running_loop().create_task(self._connect_again(host, why))
        else:
            self._owner.on_ended(self, why)

    async def _connect_again(self, host: FrameHost, why: str) -> None:
        """The end of a connection means nothing by itself: whether a supervisor has ended, its process tells."""
        link = self.link
        assert link is not None
        log.warning("the connection to the supervisor of the runs (process %d) is lost: %s", link.pid, why)
        link.hang_up()
        pause_seconds = self._pause_before_connecting()
        while not link.is_peer_gone:
            await asyncio.sleep(pause_seconds)
            try:
                met = await asyncio.to_thread(self._meeting.again)
            except SupervisorRefusedError as error:
                log.error("the supervisor of the runs refuses this node: %s", error)
                self._owner.on_refused()
                return
            except FAILURES as error:
                log.debug("the supervisor cannot be reached: %s", error)
                continue
            if met.supervisor_id != host.supervisor_id:  # it has just ended, and somebody has started another
                met.close()
                break
            self._host = met
            met.take_from(host)
            self._owner.on_connected(host, met)
            host.close()
            log.warning("the connection to the supervisor of the runs (process %d) is there again", link.pid)
            return
        self._meeting.link = link
        self._owner.on_ended(self, why)

    def _pause_before_connecting(self) -> float:
        """Longer each time: a frame that it does not accept would be said again and again."""
        now = time.monotonic()
        self._losses = [*[at for at in self._losses if now - at < _LOSSES_SECONDS], now]
        return float(min(_PAUSE_MAX_SECONDS, _PAUSE_SECONDS * 2 ** len(self._losses)))
