"""The process host of a node: at one supervisor after another, since one may end or be of an earlier version.

Responsible for: which one takes new runs; what follows when one ends: another one at once, what is left of its runs
killed, and their end told as one that nobody saw. Must not know: how a supervisor is found (`meeting`), how a
connection is kept (`seat`), tasks, plugins, what a run makes of its end.

Rules:
1. It is a program of its own where that works, else the class in this process.
2. The runs of one that has ended are told of their end once nothing of them is left. Others are not affected.
3. Nothing is killed for want of an answer, or of a connection (see `seat`).
4. Where another process has taken it over, nothing more is said to it, and nothing is killed.
5. One of an earlier version of the program, or with earlier limits and rights, goes on with what it has, beside another
   that takes what is started from now on; it is sent away as soon as it has nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from disbatch_host.process import connection, family
from disbatch_host.process.frames import VERSION_MAX, Bye, FrameError
from disbatch_host.process.home import SupervisorHome, SupervisorRefusedError, another_directory, directories
from disbatch_host.process.host import DRAIN_SECONDS, FrameHost
from disbatch_host.process.interface import KeptRun, Process, ProcessListener, Start, StartListener
from disbatch_host.process.meeting import ANSWERS_SECONDS, Means
from disbatch_host.process.memory_kills import kills_together, memory_kills
from disbatch_host.process.remains import kill_remains
from disbatch_host.process.seat import Seat
from disbatch_host.process.written_ends import WrittenFile

log = logging.getLogger(__name__)

_REAP_SECONDS = 5.0  # between two looks for orphans that have ended
_ENDS_MAX, _ENDS_SECONDS = 3, 60.0  # so many ends in so short a time are the program's own fault
_FORGOTTEN_SECONDS = 1.0  # between two looks whether the runs of one that has ended are forgotten


class SupervisedHost:
    """See `interface.ProcessHost`. Made and used in one event loop; `open` comes first."""

    def __init__(
        self, *, drain_seconds: float = DRAIN_SECONDS, may_use_program: bool = True, program: Path | None = None,
        version_max: int = VERSION_MAX,
    ) -> None:  # fmt: skip
        """`program`: another than the one of this package; `version_max`: another last version of the frames."""
        self._loop = asyncio.get_running_loop()
        why_class = connection.why_not_usable(program) if may_use_program else "DISBATCH_SUPERVISOR=no"
        self._means = Means(
            drain_seconds=drain_seconds, program=program, version_max=version_max, why_class=why_class
        )  # fmt: skip
        self._at: Seat | None = None  # the one that takes new runs
        self._older: list[Seat] = []  # rule 5
        self._lost: dict[FrameHost, asyncio.Task[None]] = {}
        self._orphans = family.Orphans() if family.is_subreaper() else None
        self._own_session = os.getsid(0)
        self._ends: list[float] = []  # of programs, by the loop's clock
        self._memory_kills = 0  # before the last of them
        self._of_earlier: dict[KeptRun, FrameHost] = {}  # undecided ones, and where they are
        self._written: list[tuple[WrittenFile, list[FrameHost]]] = []
        self._reap_timer: asyncio.TimerHandle | None = None
        self.on_change: Callable[[], None] = lambda: None  # called when there are other supervisors
        self.on_taken_over: Callable[[], None] = lambda: None  # called when they are another process's

    async def open(self, home: SupervisorHome | None = None) -> None:
        """Have a supervisor: the one in this home, which is started if none is there; without a home, one that ends
        with this process. Then `kept` has the runs of an earlier node. Raises SupervisorRefusedError."""
        seats: list[Seat] = []
        try:
            for one in _inhabited(home):
                seats.append(Seat(self._means, one, self))
                await seats[-1].open()
            self._at = await self._up_to_date(seats)
        except BaseException:
            for seat in seats:
                seat.close()
            raise
        self._older = [seat for seat in seats if seat is not self._at]
        self._memory_kills = memory_kills()
        if home is not None and (together := kills_together()) is not None:
            log.warning(
                "where one program takes too much memory, the kernel ends all others with it, and this node: %s is 1; "
                "let the unit say OOMPolicy=continue, or write 0 there", together,
            )  # fmt: skip
        if home is not None:
            for directory in directories(home.directory):
                self._read_written(directory)
        for host in self._hosts():
            host.listen()
            self._of_earlier |= dict.fromkeys(host.undecided.runs(), host)
        self._reap_timer = self._loop.call_later(_REAP_SECONDS, self._reap)

    async def _up_to_date(self, seats: list[Seat]) -> Seat:
        """The one of these that takes new runs, or another beside them (rule 5). One that has nothing may be used as it
        is: it has just been started."""
        for seat in seats:
            if seat.host.undecided.is_over or not await seat.is_outdated():
                return seat
        first = seats[0]
        assert first.home is not None
        try:
            another = Seat(self._means, first.home.at(_free_directory(first.home.directory)), self)
            await another.open()
        except OSError as error:
            log.warning("no second supervisor can be had beside an older one: %s", error)
            return first
        if another.link is None:
            log.warning("no second supervisor can be had beside an older one: %s", self._means.why_class)
            another.close()
            self._means.why_class = None
            return first
        return another

    @property
    def why_class(self) -> str | None:
        """Why it is the class in this process, or will be; None if it need not be."""
        return self._means.why_class

    @property
    def _now(self) -> Seat:
        assert self._at is not None, "it was not opened"
        return self._at

    @property
    def _seats(self) -> list[Seat]:
        return [] if self._at is None else [self._at, *self._older]

    @property
    def facts(self) -> dict[str, str | int]:
        """For `run` in a document: where runs are started now. No other supervisor ever has the same id; the session is
        that of the node, and only there with a home."""
        if self._at is None:
            return {}
        home = self._at.home
        session = {} if home is None or self._at.link is None else {"session": home.session}
        return {"supervisor": self._at.host.supervisor_id.hex(), **session}

    @property
    def ids(self) -> frozenset[str]:
        """Of all supervisors that are there: they have told all runs that they have."""
        return frozenset(seat.host.supervisor_id.hex() for seat in self._seats)

    @property
    def outliving(self) -> list[dict[str, str | int]]:
        """What identifies the supervisors that outlive this process, for others on this machine."""
        return [described for seat in self._seats if (described := seat.described) is not None]

    @property
    def keeps_runs(self) -> bool:
        """Whether runs go on without this process."""
        return self._at is not None and self._at.keeps_runs

    @property
    def description(self) -> str:
        """Which supervisor it is, and why not the other, for the log."""
        home, link = self._now.home, self._now.link
        if link is None:
            return f"this node runs its programs itself, without disbatch-supervisor: {self.why_class}"
        if home is None:
            return f"disbatch-supervisor (process {link.pid}) runs the programs of this node"
        words = f"disbatch-supervisor (process {link.pid}, {home.directory}) runs the programs of this node"
        older = [str(seat.link.pid) for seat in self._older if seat.link is not None]
        if older:
            words += f"; earlier ones (process {', '.join(older)}) go on with the runs that they have"
        return words

    def _read_written(self, directory: Path) -> None:
        """The ends that an earlier supervisor wrote down."""
        try:
            written = WrittenFile(directory)
        except (FrameError, OSError) as error:
            log.error("ends of runs that a supervisor wrote in %s cannot be read: %s", directory, error)
            return
        hosts = []
        for life in written.lives:
            host = FrameHost(life, drain_seconds=self._means.drain_seconds)
            host.meet(ANSWERS_SECONDS)
            hosts.append(host)
        self._written.append((written, hosts))

    def _hosts(self) -> list[FrameHost]:
        """All that may have runs of an earlier node."""
        return [*(seat.host for seat in self._seats), *(host for _, hosts in self._written for host in hosts)]

    async def look(self, home: SupervisorHome) -> Sequence[KeptRun]:
        """What the supervisors in a home have, before it is opened."""
        kept: list[KeptRun] = []
        for one in _inhabited(home):
            kept += await asyncio.to_thread(Seat(self._means, one, self).look)
        return kept

    def kept(self) -> Sequence[KeptRun]:
        """The runs of an earlier node about which nothing is decided."""
        return list(self._of_earlier)

    def left_over(self) -> Sequence[bytes]:
        """The notes of runs of an earlier node whose end it has recorded, and of which something could not be ended."""
        return [note for seat in self._seats for note in seat.host.undecided.left_over.values()]

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
        return self._now.host.begin(start, listener)

    async def start(self, start: Start, listener: ProcessListener) -> Process:
        return await self._now.host.start(start, listener)

    def runs(self) -> Sequence[Process]:
        return [run for host in (*self._lost, *self._hosts()) for run in host.runs()]

    def counts(self) -> tuple[int, int]:
        """How many of its runs have not ended, and how many have, and were not forgotten. In any thread."""
        runs = self.runs()
        ended = sum(run.has_ended for run in runs)
        return len(runs) - ended, ended

    def why_not_now(self) -> str | None:
        return None if self._at is None else self._at.host.why_not_now()

    def close(self, *, keep: bool = False) -> None:
        """`keep`: runs that can go on without this process do; else there should be none. Twice is fine."""
        if self._reap_timer is not None:
            self._reap_timer.cancel()
        for seat in self._seats:
            seat.leave(Bye.KEEP if keep else Bye.ENDS)
            seat.close()
        for host, clearing in self._lost.items():
            clearing.cancel()
            host.close()
        self._lost.clear()
        for _, hosts in self._written:
            for host in hosts:
                host.close()
        self._forget_written()
        self._at, self._older = None, []
        if self._orphans is not None:
            self._orphans.close()

    def _forget_written(self) -> None:
        """Once nothing of it is needed any more."""
        for one in list(self._written):
            written, hosts = one
            if not any(host.runs() or host.undecided.runs() for host in hosts):
                written.forget()
                self._written.remove(one)

    def on_refused(self) -> None:
        """See `seat.Owner`."""
        self.on_taken_over()

    def on_connected(self, before: FrameHost, now: FrameHost) -> None:
        """See `seat.Owner`."""
        self._of_earlier |= dict.fromkeys([kept for kept, at in self._of_earlier.items() if at is before], now)

    def on_ended(self, seat: Seat, why: str) -> None:
        """See `seat.Owner`."""
        link, host = seat.link, seat.host
        assert link is not None
        before, known = self._memory_kills, ""
        self._memory_kills = memory_kills()
        if self._memory_kills > before:
            known = "the kernel killed processes of its control group for want of memory"
            why = f"{why}; {known}"
        link.hang_up()
        host.give_up()
        self._of_earlier = {kept: at for kept, at in self._of_earlier.items() if at is not host}
        try:
            if seat is self._at:
                self._have_another(why)
            else:
                self._older.remove(seat)
        except SupervisorRefusedError:
            self.on_taken_over()  # in just that moment
            return
        self.on_change()
        log.error(
            "the supervisor of the runs (process %d) has ended: %s; what is left of its runs (%d) is killed; %s",
            link.pid, why, len(host.runs()), self.description,
        )  # fmt: skip
        self._lost[host] = self._loop.create_task(self._clear(host, known))

    def _have_another(self, why: str) -> None:
        now = self._loop.time()
        self._ends = [*[at for at in self._ends if now - at < _ENDS_SECONDS], now]
        if len(self._ends) == _ENDS_MAX:
            self._means.why_class = f"{_ENDS_MAX} of them ended within a minute ({why})"
        self._now.open_next()
        self._now.host.listen()

    async def _clear(self, host: FrameHost, why: str) -> None:
        left = await kill_remains(host.unended(), host.supervisor_id)
        for pid in {one.pid for some in left.values() for one in some}:
            log.error("process %d of a run whose supervisor has ended cannot be ended", pid)
        host.close()
        host.end_unseen(left, why)
        # Until each of its runs is forgotten it is one of `runs`.
        while host.runs():
            await asyncio.sleep(_FORGOTTEN_SECONDS)
        del self._lost[host]

    def _send_away(self) -> None:
        """Rule 5."""
        for seat in list(self._older):
            pid = None if seat.link is None else seat.link.pid
            if seat.sent_away():
                self._older.remove(seat)
                self.on_change()
                log.info("the supervisor of earlier runs (process %s) is not needed any more", pid)

    def _reap(self) -> None:
        """What comes to this process as the subreaper of its descendants: of runs whose supervisor has ended, and, in a
        container, of whatever else. The class reaps itself."""
        self._reap_timer = self._loop.call_later(_REAP_SECONDS, self._reap)
        self._forget_written()
        self._send_away()
        if self._at is not None and not self._at.host.is_lost:
            self._memory_kills = memory_kills()  # those of a program have not ended the supervisor
        if self._orphans is not None and self._at is not None and self._at.link is not None:
            for pid in self._orphans.pids(()) or ():
                if family.session_of(pid) not in (self._own_session, 0):
                    family.reaped(pid)


def _inhabited(home: SupervisorHome | None) -> list[SupervisorHome | None]:
    """The home in each directory where a supervisor lives, or in its first one; without a home, none."""
    if home is None:
        return [None]
    inhabited = [one for one in directories(home.directory) if connection.is_inhabited(one)]
    return [home.at(one) for one in inhabited or [home.directory]]


def _free_directory(home: Path) -> Path:
    """Where a supervisor may be started beside those that live. Raises OSError."""
    free = (one for one in directories(home) if not connection.is_inhabited(one))
    return next(free, None) or another_directory(home)
