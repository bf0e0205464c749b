"""How the process host of a node comes to a supervisor.

Responsible for: which one it is (the program where that works, else the class in this process), and the first words to
it. Must not know: what follows when one ends (`supervised`), runs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from disbatch_host.process import connection
from disbatch_host.process.connection import SocketLink, SupervisorError
from disbatch_host.process.ends import micro
from disbatch_host.process.frames import VERSION, Bye, FrameError, Hello, Look
from disbatch_host.process.home import SupervisorHome, SupervisorRefusedError
from disbatch_host.process.host import OF_ITS_OWN, FrameHost, Numbers
from disbatch_host.process.inline import InlineSupervisor
from disbatch_host.process.interface import KeptRun
from disbatch_host.process.link import LinkClosedError

log = logging.getLogger(__name__)

ANSWERS_SECONDS = 5.0  # from its start; the node does nothing else meanwhile
_PATIENCE_SECONDS = 30.0  # for one that is there before; the heartbeat goes on meanwhile
_PAUSE_SECONDS = 0.02
_TRIES = 2  # where none is there: one that was just ending may have closed the connection
_FAILURES = (SupervisorError, LinkClosedError, FrameError, OSError)


class Meeting:
    """Of one process host."""

    def __init__(
        self,
        *,
        drain_seconds: float,
        may_use_program: bool,
        program: Path | None,
        on_lost: Callable[[FrameHost, str], None],
    ) -> None:
        """`program`: another than the one of this package. `on_lost`: see `FrameHost`."""
        self.why_class = connection.why_not_usable(program) if may_use_program else "DISBATCH_SUPERVISOR=no"
        self.home: SupervisorHome | None = None  # without one, a supervisor ends with this process
        self.link: SocketLink | None = None  # None: the class
        self.is_outdated = False  # it is another program than this package's, or was started in other surroundings
        self._program = program
        self._drain_seconds = drain_seconds
        self._numbers = Numbers()
        self._on_lost = on_lost

    async def first(self, home: SupervisorHome | None) -> FrameHost:
        """The supervisor in this home, which is started if none is there; without a home, one that ends with this
        process. One that lives has the runs of an earlier node, whether it answers at once or not. Raises
        SupervisorRefusedError."""
        self.home = home
        if home is None:
            return self.next()
        until, tries = time.monotonic() + _PATIENCE_SECONDS, 0
        while True:
            host = await asyncio.to_thread(self.next)
            is_inhabited = connection.is_inhabited(home.directory)
            tries += not is_inhabited
            if self.link is not None or tries >= _TRIES:
                self.is_outdated = not host.undecided.is_over and not await asyncio.to_thread(self._is_as_now, host)
                return host
            host.close()
            if is_inhabited and time.monotonic() >= until:
                raise SupervisorRefusedError(
                    f"the supervisor in {home.directory} has the runs of this node and cannot be reached: "
                    f"{self.why_class}; let it go on (kill -CONT), or end it with them: "
                    f"disbatch-supervisor --stop {home.directory}"
                )
            self.why_class = None
            await asyncio.sleep(_PAUSE_SECONDS)

    def look(self, home: SupervisorHome) -> list[KeptRun]:
        """The runs of the supervisor in a home, without taking over anything: the time for which they may go on without
        a node does not begin again. Empty if it does not say."""
        try:
            return self._looked(home).undecided.runs()
        except _FAILURES as error:
            log.debug("the supervisor does not say what it has: %s", error)
            return []

    def next(self) -> FrameHost:
        """The one that is there, or another: in the same home, if there is one. May wait for a moment; in any thread.
        Raises SupervisorRefusedError."""
        self.link, self.is_outdated = None, False
        if self.why_class is None:
            try:
                if self.home is None:
                    return self._met(connection.paired(self._program), OF_ITS_OWN)
                return self._met_at_home(self.home, *connection.connect_or_start(self.home.directory, self._program))
            except _FAILURES as error:
                self.why_class = str(error)
        host = FrameHost(InlineSupervisor(), drain_seconds=self._drain_seconds, numbers=self._numbers)
        host.meet(ANSWERS_SECONDS)
        return host

    def again(self) -> FrameHost:
        """Another connection to the one in the home. In any thread. Raises SupervisorRefusedError, SupervisorError,
        LinkClosedError, FrameError and OSError."""
        assert self.home is not None
        return self._met_at_home(self.home, *connection.connect_in(self.home.directory))

    def _met_at_home(self, home: SupervisorHome, link: SocketLink, key: bytes, _: int) -> FrameHost:
        hello = Hello(
            VERSION, VERSION, session=home.session, keep=micro(home.keep_seconds), store_id=home.store_id,
            node_id=home.node_id, key=key,
        )  # fmt: skip
        try:
            return self._met(link, hello)
        except SupervisorRefusedError as error:
            known = self._known_session(home)
            raise SupervisorRefusedError(str(error), session=known if known >= home.session else None) from error

    def _is_as_now(self, host: FrameHost) -> bool:
        try:
            return host.hello is None or connection.is_as_now(host.hello, self._program)
        except SupervisorError as error:
            log.debug("it cannot be told whether a supervisor is as one would be now: %s", error)
            return True

    def _known_session(self, home: SupervisorHome) -> int:
        """The highest session that the supervisor has known; 0 if it does not even say that."""
        try:
            hello = self._looked(home).hello
        except _FAILURES as error:
            log.debug("the supervisor does not say which session it has known: %s", error)
            return 0
        return 0 if hello is None else hello.session

    def _looked(self, home: SupervisorHome) -> FrameHost:
        """Closed by then."""
        link, key, _ = connection.connect_in(home.directory)
        looking = FrameHost(link, drain_seconds=self._drain_seconds, hello=Look(key))
        try:
            looking.meet(ANSWERS_SECONDS)
        finally:
            looking.close()
        return looking

    def _met(self, link: SocketLink, hello: Hello) -> FrameHost:
        host = FrameHost(
            link, drain_seconds=self._drain_seconds, hello=hello, numbers=self._numbers, on_lost=self._on_lost
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
