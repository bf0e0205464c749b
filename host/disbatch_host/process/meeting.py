"""How the process host of a node comes to a supervisor.

Responsible for: which one it is (the program where that works, else the class in this process), and the first words to
it. Must not know: what follows when one ends (`supervised`), runs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from disbatch_host.process import connection
from disbatch_host.process.connection import SocketLink, SupervisorError
from disbatch_host.process.ends import micro
from disbatch_host.process.frames import VERSION_MIN, Bye, FrameError, Hello, Look
from disbatch_host.process.home import SupervisorHome, SupervisorRefusedError
from disbatch_host.process.host import OF_ITS_OWN, FrameHost, Numbers
from disbatch_host.process.inline import InlineSupervisor
from disbatch_host.process.interface import KeptRun
from disbatch_host.process.link import LinkClosedError

log = logging.getLogger(__name__)

ANSWERS_SECONDS = 5.0  # from its start; the node does nothing else meanwhile
FAILURES = (SupervisorError, LinkClosedError, FrameError, OSError)  # of a meeting
_PATIENCE_SECONDS = 30.0  # for one that is there before; the heartbeat goes on meanwhile
_PAUSE_SECONDS = 0.02
_TRIES = 2  # where none is there: one that was just ending may have closed the connection


@dataclass(slots=True, kw_only=True)
class Means:
    """What all meetings of one process host have in common."""

    drain_seconds: float
    program: Path | None  # another than the one of this package
    version_max: int  # of the frames
    why_class: str | None  # why it is the class in this process, or will be; None if it need not be
    numbers: Numbers = field(default_factory=Numbers)


class Meeting:
    """In one directory, or, without a home, with supervisors that end with this process."""

    def __init__(self, means: Means, home: SupervisorHome | None, on_lost: Callable[[FrameHost, str], None]) -> None:
        """`on_lost`: see `FrameHost`."""
        self.home = home
        self.link: SocketLink | None = None  # None: the class
        self._means = means
        self._on_lost = on_lost

    async def first(self) -> FrameHost:
        """The supervisor in the home, which is started if none is there; without a home, one that ends with this
        process. One that lives has the runs of an earlier node, whether it answers at once or not. Raises
        SupervisorRefusedError."""
        if self.home is None:
            return self.next()
        until, tries = time.monotonic() + _PATIENCE_SECONDS, 0
        while True:
            host = await asyncio.to_thread(self.next)
            is_inhabited = connection.is_inhabited(self.home.directory)
            tries += not is_inhabited
            if self.link is not None or tries >= _TRIES:
                return host
            host.close()
            if is_inhabited and time.monotonic() >= until:
                raise SupervisorRefusedError(
                    f"the supervisor in {self.home.directory} has the runs of this node and cannot be reached: "
                    f"{self._means.why_class}; let it go on (kill -CONT), or end it with them: "
                    f"disbatch-supervisor --stop {self.home.directory}"
                )
            self._means.why_class = None
            await asyncio.sleep(_PAUSE_SECONDS)

    def look(self) -> list[KeptRun]:
        """The runs of the supervisor in the home, without taking over anything: the time for which they may go on
        without a node does not begin again. Empty if it does not say."""
        try:
            return self._looked().undecided.runs()
        except FAILURES as error:
            log.debug("the supervisor does not say what it has: %s", error)
            return []

    def next(self) -> FrameHost:
        """The one that is there, or another: in the same home, if there is one. May wait for a moment; in any thread.
        Raises SupervisorRefusedError."""
        means, self.link = self._means, None
        if means.why_class is None:
            try:
                if self.home is None:
                    return self._met(connection.paired(means.program), OF_ITS_OWN)
                return self._met_at_home(*connection.connect_or_start(self.home.directory, means.program))
            except FAILURES as error:
                means.why_class = str(error)
        host = FrameHost(InlineSupervisor(), drain_seconds=means.drain_seconds, numbers=means.numbers)
        host.meet(ANSWERS_SECONDS)
        return host

    def again(self) -> FrameHost:
        """Another connection to the one in the home. In any thread. Raises SupervisorRefusedError, and what is one of
        FAILURES."""
        assert self.home is not None
        return self._met_at_home(*connection.connect_in(self.home.directory))

    def is_as_now(self, host: FrameHost) -> bool:
        """Whether a supervisor is what one would be that is started now: the same program, in the same surroundings.
        Waits for a moment; in any thread."""
        try:
            return host.hello is None or connection.is_as_now(host.hello, self._means.program)
        except SupervisorError as error:
            log.debug("it cannot be told whether a supervisor is as one would be now: %s", error)
            return True

    def _met_at_home(self, link: SocketLink, key: bytes, _: int) -> FrameHost:
        home = self.home
        assert home is not None
        hello = Hello(
            VERSION_MIN, self._means.version_max, session=home.session, keep=micro(home.keep_seconds),
            store_id=home.store_id, node_id=home.node_id, key=key,
        )  # fmt: skip
        try:
            return self._met(link, hello)
        except SupervisorRefusedError as error:
            known = self._known_session()
            raise SupervisorRefusedError(str(error), session=known if known >= home.session else None) from error

    def _known_session(self) -> int:
        """The highest session that the supervisor has known; 0 if it does not even say that."""
        try:
            hello = self._looked().hello
        except FAILURES as error:
            log.debug("the supervisor does not say which session it has known: %s", error)
            return 0
        return 0 if hello is None else hello.session

    def _looked(self) -> FrameHost:
        """Closed by then."""
        assert self.home is not None
        link, key, _ = connection.connect_in(self.home.directory)
        looking = FrameHost(link, drain_seconds=self._means.drain_seconds, hello=Look(key))
        try:
            looking.meet(ANSWERS_SECONDS)
        finally:
            looking.close()
        return looking

    def _met(self, link: SocketLink, hello: Hello) -> FrameHost:
        means = self._means
        host = FrameHost(
            link, drain_seconds=means.drain_seconds, hello=hello, numbers=means.numbers, on_lost=self._on_lost
        )
        try:
            host.meet(ANSWERS_SECONDS)
        except Exception as error:
            host.close()
            if host.bye is not None and host.bye.reason == Bye.REFUSED:
                raise SupervisorRefusedError(str(error)) from error
            raise
        self.link = link
        return host
