"""The process host of a node: at one supervisor after another, since one may end.

Responsible for: what follows when one ends: another one at once, what is left of its runs killed, and their end told as
one that nobody saw; when a connection ends: another one. Must not know: how a supervisor is found (`meeting`), tasks,
plugins, what a run makes of its end.

Rules:
1. It is a program of its own where that works, else the class in this process.
2. The runs of one that has ended are told of their end once nothing of them is left. Others are not affected.
3. One that does not answer is not taken for ended, and never killed. Nor is one that outlives this process when the
   connection to it ends: only its process tells. The connection is made again, and the runs go on with it.
4. Where another process has taken it over, nothing more is said to it, and nothing is killed.
5. One of an earlier version of the program, or with earlier limits and rights, goes on with what it has, and takes what
   is started meanwhile; as soon as it has nothing, another takes its place.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from disbatch_host.process import family
from disbatch_host.process.connection import SocketLink, SupervisorError
from disbatch_host.process.frames import Bye, FrameError
from disbatch_host.process.home import SupervisorHome, SupervisorRefusedError
from disbatch_host.process.host import DRAIN_SECONDS, FrameHost
from disbatch_host.process.interface import KeptRun, Process, ProcessListener, Start, StartListener
from disbatch_host.process.link import LinkClosedError
from disbatch_host.process.meeting import ANSWERS_SECONDS, Meeting
from disbatch_host.process.memory_kills import memory_kills
from disbatch_host.process.remains import kill_remains
from disbatch_host.process.written_ends import WrittenFile

log = logging.getLogger(__name__)

_REAP_SECONDS = 5.0  # between two looks for orphans that have ended
_RENEWED_SECONDS = 1.0  # for a supervisor that has nothing to do to end
_ENDS_MAX, _ENDS_SECONDS = 3, 60.0  # so many ends in so short a time are the program's own fault
_PAUSE_SECONDS, _PAUSE_MAX_SECONDS = 0.02, 5.0  # before a connection is made again: longer each time
_FORGOTTEN_SECONDS = 1.0  # between two looks whether the runs of one that has ended are forgotten


class SupervisedHost:
    """See `interface.ProcessHost`. Made and used in one event loop; `open` comes first."""

    def __init__(
        self, *, drain_seconds: float = DRAIN_SECONDS, may_use_program: bool = True, program: Path | None = None
    ) -> None:
        """`program`: another than the one of this package."""
        self._drain_seconds = drain_seconds
        self._loop = asyncio.get_running_loop()
        self._meeting = Meeting(
            drain_seconds=drain_seconds, may_use_program=may_use_program, program=program, on_lost=self._on_lost
        )
        self._lost: dict[FrameHost, asyncio.Task[None]] = {}
        self._orphans = family.Orphans() if family.is_subreaper() else None
        self._own_session = os.getsid(0)
        self._ends: list[float] = []  # of programs, by the loop's clock
        self._memory_kills = 0  # before the last of them
        self._at: FrameHost | None = None
        self._of_earlier: dict[KeptRun, FrameHost] = {}  # undecided ones, and where they are
        self._written: tuple[WrittenFile, list[FrameHost]] | None = None
        self._reap_timer: asyncio.TimerHandle | None = None
        self._losses: list[float] = []  # of connections to one that lives on
        self._connecting: asyncio.Task[None] | None = None
        self.on_change: Callable[[], None] = lambda: None  # called when another supervisor is there
        self.on_taken_over: Callable[[], None] = lambda: None  # called when it is another process's

    async def open(self, home: SupervisorHome | None = None) -> None:
        """Have a supervisor: the one in this home, which is started if none is there; without a home, one that ends
        with this process. Then `kept` has the runs of an earlier node. Raises SupervisorRefusedError."""
        self._at = await self._meeting.first(home)
        self._memory_kills = memory_kills()
        self._at.listen()
        if home is not None:
            self._read_written(home)
            for host in self._earlier_hosts():
                self._of_earlier |= dict.fromkeys(host.undecided.runs(), host)
        self._reap_timer = self._loop.call_later(_REAP_SECONDS, self._reap)

    @property
    def why_class(self) -> str | None:
        """Why it is the class in this process, or will be; None if it need not be."""
        return self._meeting.why_class

    @property
    def _home(self) -> SupervisorHome | None:
        return self._meeting.home

    @property
    def _link(self) -> SocketLink | None:
        return self._meeting.link  # None: the class

    @property
    def _host(self) -> FrameHost:
        assert self._at is not None, "it was not opened"
        return self._at

    @property
    def facts(self) -> dict[str, str | int]:
        """For `run` in a document: where runs are started now. No other supervisor ever has the same id; the session is
        that of the node, and only there with a home."""
        if self._at is None:
            return {}
        session = {} if self._home is None or self._link is None else {"session": self._home.session}
        return {"supervisor": self._at.supervisor_id.hex(), **session}

    @property
    def outliving(self) -> dict[str, str | int] | None:
        """What identifies the supervisor if it outlives this process, for others on this machine."""
        hello = None if self._at is None else self._at.hello
        if hello is None or self._home is None or self._link is None:
            return None
        return {
            "id": hello.supervisor_id.hex(),
            "pid": self._link.pid,
            "pid_started": hello.started,
            "directory": str(self._home.directory),
        }

    @property
    def keeps_runs(self) -> bool:
        """Whether runs go on without this process."""
        return self._home is not None and self._link is not None

    @property
    def description(self) -> str:
        """Which supervisor it is, and why not the other, for the log."""
        if self._link is None:
            return f"this node runs its programs itself, without disbatch-supervisor: {self.why_class}"
        pid = self._link.pid
        if self._home is not None:
            return f"disbatch-supervisor (process {pid}, {self._home.directory}) runs the programs of this node"
        return f"disbatch-supervisor (process {pid}) runs the programs of this node"

    def _read_written(self, home: SupervisorHome) -> None:
        """The ends that an earlier supervisor wrote down."""
        try:
            written = WrittenFile(home.directory)
        except (FrameError, OSError) as error:
            log.error("ends of runs that a supervisor wrote in %s cannot be read: %s", home.directory, error)
            return
        hosts = []
        for life in written.lives:
            host = FrameHost(life, drain_seconds=self._drain_seconds)
            host.meet(ANSWERS_SECONDS)
            host.listen()
            hosts.append(host)
        self._written = (written, hosts)

    def _earlier_hosts(self) -> list[FrameHost]:
        return [self._host, *(self._written[1] if self._written is not None else ())]

    async def look(self, home: SupervisorHome) -> Sequence[KeptRun]:
        """What the supervisor in a home has, before it is opened."""
        return await asyncio.to_thread(self._meeting.look, home)

    def kept(self) -> Sequence[KeptRun]:
        """The runs of an earlier node about which nothing is decided."""
        return list(self._of_earlier)

    def left_over(self) -> Sequence[bytes]:
        """The notes of runs of an earlier node whose end it has recorded, and of which something could not be ended."""
        return list(self._host.undecided.left_over.values())

    def adopt(self, kept: KeptRun, listener: StartListener, *, keeps_stdin_open: bool = False) -> Process:
        """Go on with it: the listener is told everything from its beginning on, but nothing before this returns.
        `keeps_stdin_open`: as it was started."""
        return self._of_earlier.pop(kept).adopt(kept, listener, keeps_stdin_open=keeps_stdin_open)

    def disown(self, kept: KeptRun) -> None:
        """Stop it, and forget it with its end."""
        self._of_earlier.pop(kept).undecided.disown(kept.run)

    def leave_alone(self, kept: KeptRun) -> None:
        """Let it run on, and forget it with its end."""
        self._of_earlier.pop(kept).undecided.leave_alone(kept.run)

    def begin(self, start: Start, listener: StartListener) -> Process:
        return self._host.begin(start, listener)

    async def start(self, start: Start, listener: ProcessListener) -> Process:
        return await self._host.start(start, listener)

    def runs(self) -> Sequence[Process]:
        hosts = [] if self._at is None else [*self._lost, *self._earlier_hosts()]
        return [run for host in hosts for run in host.runs()]

    def counts(self) -> tuple[int, int]:
        """How many of its runs have not ended, and how many have, and were not forgotten. In any thread."""
        runs = self.runs()
        ended = sum(run.has_ended for run in runs)
        return len(runs) - ended, ended

    def why_not_now(self) -> str | None:
        return None if self._at is None else self._at.why_not_now()

    def close(self, *, keep: bool = False) -> None:
        """`keep`: runs that can go on without this process do; else there should be none. Twice is fine."""
        if self._reap_timer is not None:
            self._reap_timer.cancel()
        if self._at is not None and self.keeps_runs:
            self._at.say_goodbye(Bye.KEEP if keep else Bye.ENDS)
        if self._connecting is not None:
            self._connecting.cancel()
        for host, clearing in self._lost.items():
            clearing.cancel()
            host.close()
        self._lost.clear()
        if self._at is not None:
            for host in self._earlier_hosts():
                host.close()
            self._forget_written()
            self._at = None
        if self._orphans is not None:
            self._orphans.close()

    def _forget_written(self) -> None:
        """Once nothing of it is needed any more."""
        if self._written is not None and not any(host.runs() or host.undecided.runs() for host in self._written[1]):
            self._written[0].forget()
            self._written = None

    def _on_lost(self, host: FrameHost, why: str) -> None:
        if host.bye is not None and host.bye.reason == Bye.TAKEN_OVER:
            self.on_taken_over()
        elif self.keeps_runs:
            self._connecting = self._loop.create_task(self._connect_again(host, why))
        else:
            self._replace(host, why)

    async def _connect_again(self, host: FrameHost, why: str) -> None:
        """The end of a connection means nothing by itself: whether a supervisor has ended, its process tells."""
        link, home = self._link, self._home
        assert link is not None and home is not None
        log.warning("the connection to the supervisor of the runs (process %d) is lost: %s", link.pid, why)
        link.hang_up()
        pause_seconds = self._pause_before_connecting()
        while not link.is_peer_gone:
            await asyncio.sleep(pause_seconds)
            try:
                met = await asyncio.to_thread(self._meeting.again)
            except SupervisorRefusedError as error:
                log.error("the supervisor of the runs refuses this node: %s", error)
                self.on_taken_over()
                return
            except (SupervisorError, LinkClosedError, FrameError, OSError) as error:
                log.debug("the supervisor cannot be reached: %s", error)
                continue
            if met.supervisor_id != host.supervisor_id:  # it has just ended, and somebody has started another
                met.close()
                break
            self._at = met
            met.take_from(host)
            self._of_earlier |= dict.fromkeys([kept for kept, at in self._of_earlier.items() if at is host], met)
            host.close()
            log.warning("the connection to the supervisor of the runs (process %d) is there again", link.pid)
            return
        self._meeting.link = link
        self._replace(host, why)

    def _pause_before_connecting(self) -> float:
        """Longer each time: a frame that it does not accept would be said again and again."""
        now = self._loop.time()
        self._losses = [*[at for at in self._losses if now - at < _ENDS_SECONDS], now]
        return float(min(_PAUSE_MAX_SECONDS, _PAUSE_SECONDS * 2 ** len(self._losses)))

    def _replace(self, host: FrameHost, why: str) -> None:
        """The supervisor of this host has ended."""
        assert self._link is not None
        pid, before, known = self._link.pid, self._memory_kills, ""
        self._memory_kills = memory_kills()
        if self._memory_kills > before:
            known = "the kernel killed processes of its control group for want of memory"
            why = f"{why}; {known}"
        self._link.hang_up()
        host.give_up()
        now = self._loop.time()
        self._ends = [*[at for at in self._ends if now - at < _ENDS_SECONDS], now]
        if len(self._ends) == _ENDS_MAX:
            self._meeting.why_class = f"{_ENDS_MAX} of them ended within a minute ({why})"
        self._of_earlier = {kept: at for kept, at in self._of_earlier.items() if at is not host}
        self._at = self._meeting.next()
        self._at.listen()
        self.on_change()
        log.error(
            "the supervisor of the runs (process %d) has ended: %s; what is left of its runs (%d) is killed; %s",
            pid, why, len(host.runs()), self.description,
        )  # fmt: skip
        self._lost[host] = self._loop.create_task(self._clear(host, known))

    async def _clear(self, host: FrameHost, why: str) -> None:
        left = await kill_remains(host.unended())
        for pid in {one.pid for some in left.values() for one in some}:
            log.error("process %d of a run whose supervisor has ended cannot be ended", pid)
        host.close()
        host.end_unseen(left, why)
        # Until each of its runs is forgotten it is one of `runs`.
        while host.runs():
            await asyncio.sleep(_FORGOTTEN_SECONDS)
        del self._lost[host]

    def _renew(self) -> None:
        """Have another supervisor in place of one of an earlier version, or of other surroundings, that has nothing to
        do (rule 5)."""
        host, link = self._host, self._link
        if not self._meeting.is_outdated or link is None or not host.has_nothing:
            return
        host.say_goodbye(Bye.ENDS)
        until = time.monotonic() + _RENEWED_SECONDS
        while not link.is_peer_gone:  # milliseconds
            if time.monotonic() > until:
                return  # the end of its connection is heard, and dealt with as any other
            time.sleep(_PAUSE_SECONDS / 4)
        pid = link.pid
        host.close()
        try:
            self._at = self._meeting.next()
        except SupervisorRefusedError:
            self.on_taken_over()  # in just that moment
            return
        self._at.listen()
        self.on_change()
        log.info("the supervisor of earlier runs (process %d) is not needed any more; %s", pid, self.description)

    def _reap(self) -> None:
        """What comes to this process as the subreaper of its descendants: of runs whose supervisor has ended, and, in a
        container, of whatever else. The class reaps itself."""
        self._reap_timer = self._loop.call_later(_REAP_SECONDS, self._reap)
        self._forget_written()
        self._renew()
        if self._at is not None and not self._at.is_lost:
            self._memory_kills = memory_kills()  # those of a program have not ended the supervisor
        if self._orphans is not None and self._link is not None:
            for pid in self._orphans.pids(()) or ():
                if family.session_of(pid) not in (self._own_session, 0):
                    family.reaped(pid)
