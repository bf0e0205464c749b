"""The supervisor in this process: its runs are children of this process, and end with it.

Responsible for: the runs by their numbers, the frames in both directions, and which run an orphan belongs to. Must not
know: how a child is started, read and ended (`child`), what the notes mean.

It does what docs/supervisor.md says, but for what only a program of its own can do: it keeps no output and no end,
since the node that has heard of them is as long-lived as itself.
"""

from __future__ import annotations

import errno
import os
import secrets
import select
import time
from collections.abc import Callable, Iterable

from disbatch_host.process import family
from disbatch_host.process.child import Child
from disbatch_host.process.frames import (
    VERSION_MAX,
    VERSION_MIN,
    Ack,
    Acknowledged,
    Bye,
    Frame,
    FrameError,
    Gone,
    Hello,
    KillRun,
    NodeBye,
    NotStarted,
    Ping,
    Plugin,
    Pong,
    Ready,
    Start,
    Stdin,
    StdinEof,
    Step,
    Stop,
    StopRun,
    SupervisorHello,
    Task,
    Window,
)
from disbatch_host.process.link import LinkClosedError
from disbatch_host.process.spawn import Launch
from disbatch_host.process.starters import Descriptors, Starters
from disbatch_host.process.watching import Watching

_CAPACITY = 1000  # runs; what really bounds them is the limit of descriptors
_LEFT_OVER_SECONDS = 1.0  # between two looks at what could not be ended
_REAP_SECONDS = 5.0  # between two looks for orphans of runs that go on


class InlineSupervisor:
    """See `link.Link`. Used in one thread."""

    keeps_output = False

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self.watching = Watching(now)
        self._processes: family.Processes | None = None  # as they are in this turn
        self._id = secrets.token_hex(16)
        self._orphans = family.Orphans() if family.is_subreaper() else None
        self._session = os.getsid(0)
        self._plugins: dict[int, Launch] = {}
        self._children: dict[int, Child] = {}  # by number, until their end is acknowledged
        self._leaders: dict[int, Child] = {}  # by pid, until they have ended
        self._starters = Starters(self.watching)
        self._starting: dict[int, list[Frame]] = {}  # by number; what was said of each meanwhile
        self._next_run = 1
        self._in: list[Frame] = []
        self._out: list[Frame] = []
        self._is_closed = False
        self._handlers: dict[type[Frame], Callable[..., None]] = {
            Hello: self._hello,
            Plugin: self._plugin,
            Start: self._start,
            Task: self._task,
            Stdin: self._stdin,
            StdinEof: self._stdin_eof,
            StopRun: self._stop,
            KillRun: self._kill,
            Ack: self._acknowledge,
            Window: lambda _: None,  # everything is told at once
            Ping: lambda frame: self.tell(Pong(frame.number)),
            NodeBye: self._bye,
        }
        if self._orphans is not None:
            self.watching.after(_REAP_SECONDS, self._reap)

    def fileno(self) -> int:
        return self.watching.fileno()

    def send(self, frame: Frame) -> None:
        self._in.append(frame)

    def flush(self) -> None:
        self._processes = None
        while self._in and not self._is_closed:
            frames, self._in = self._in, []
            for frame in frames:
                waiting = self._starting.get(getattr(frame, "run", 0))
                if waiting is None:
                    self._handlers[type(frame)](frame)
                else:
                    waiting.append(frame)

    def receive(self) -> list[Frame]:
        self.flush()
        if self._is_closed:
            raise LinkClosedError("it was closed")
        self._processes = None
        self.watching.work()
        frames, self._out = self._out, []
        return frames

    def due_seconds(self) -> float | None:
        return 0.0 if self._out or self._in else self.watching.due_seconds()

    def close(self) -> None:
        """Kill what still runs."""
        if self._is_closed:
            return
        self._starters.close()
        for child in list(self._leaders.values()):
            child.kill(Stop.LOST)
        while self._leaders and (seconds := self.watching.due_seconds()) is not None:
            select.select([self.watching], [], [], min(seconds, 1.0))
            self._processes = None
            self.watching.work()
        self._is_closed = True
        self.watching.close()
        if self._orphans is not None:
            self._orphans.close()

    def processes(self) -> family.Processes:
        """See `child.Supervisor`."""
        if self._processes is None:
            self._processes = family.Processes()
        return self._processes

    def tell(self, frame: Frame) -> None:
        """See `child.Supervisor`."""
        self._out.append(frame)

    def may_have_left(self, leader: int) -> bool:
        """See `clearing.Surroundings`."""
        orphans = None if self._orphans is None else self._orphans.pids(self._leaders)
        if orphans is None:
            return True
        if not orphans:
            return False
        self._reap_ended(orphans)
        # Rule: children that this process starts for itself are in its session, which nothing of a run can be.
        strangers = [pid for pid in orphans if family.session_of(pid) not in (self._session, 0)]
        return any(self._owner_of(pid) is self._leaders[leader] for pid in strangers)

    def on_end(self, child: Child) -> None:
        """See `child.Supervisor`."""
        if child.is_running:
            self.watching.after(_LEFT_OVER_SECONDS, lambda: self._look_at_left_over(child))
            return
        del self._leaders[child.pid]
        if child.left_over:
            self.watching.after(_LEFT_OVER_SECONDS, lambda: self._look_at_left_over(child))

    def _owner_of(self, pid: int) -> Child | None:
        leader = self._leaders.get(family.session_of(pid))
        if leader is not None:
            return leader
        mark = family.mark_of(pid)
        return next((child for child in self._leaders.values() if child.mark == mark), None)

    def _reap(self) -> None:
        """Orphans that have ended, of runs that go on."""
        self.watching.after(_REAP_SECONDS, self._reap)
        if self._orphans is not None:
            self._reap_ended(self._orphans.pids(self._leaders) or ())

    def _reap_ended(self, orphans: Iterable[int]) -> None:
        for pid in orphans:
            if family.session_of(pid) != self._session:
                owner = self._owner_of(pid)
                cpu_seconds = family.reaped(pid)
                if owner is not None and cpu_seconds is not None:
                    owner.cpu_of_orphans += cpu_seconds

    def _look_at_left_over(self, child: Child) -> None:
        for member in child.left_over:
            family.reaped(member.pid)
        if any(member.is_alive for member in child.left_over):
            self.watching.after(_LEFT_OVER_SECONDS, lambda: self._look_at_left_over(child))
            return
        self._leaders.pop(child.pid, None)
        self.tell(Gone(child.run))

    def _hello(self, frame: Hello) -> None:
        if frame.version_min > VERSION_MAX or frame.version_max < VERSION_MIN:
            wanted = f"{frame.version_min} to {frame.version_max}"
            raise FrameError(f"expected a version from {VERSION_MIN} to {VERSION_MAX}, found {wanted}")
        self.tell(
            SupervisorHello(
                version=min(frame.version_max, VERSION_MAX),
                pid=os.getpid(),
                started=0,
                session=frame.session,
                next_run=self._next_run,
                capacity=_CAPACITY,
                mount_namespace=0,
                supervisor_id=bytes.fromhex(self._id),
                fingerprint=b"",
                program_hash=b"",
            )
        )
        self.tell(Ready())

    def _plugin(self, frame: Plugin) -> None:
        self._plugins[frame.number] = Launch.of(frame)

    def _start(self, frame: Start) -> None:
        launch = self._plugins.get(frame.plugin)
        if launch is None:
            raise FrameError(f"START of run {frame.run} names plugin {frame.plugin}, which is not known")
        if frame.run < self._next_run:
            raise FrameError(f"expected a run from {self._next_run} on, found {frame.run}")
        if len(frame.stdin) > frame.total:
            raise FrameError(f"expected at most {frame.total} bytes of input, found {len(frame.stdin)}")
        self._next_run = frame.run + 1
        if _is_too_old(frame):
            self.tell(NotStarted(frame.run, errno.ETIME, Step.TOO_OLD, Stop.NOT))
            return
        mark = f"{family.RUN_VARIABLE}={self._id}-{frame.run}".encode()
        self._starting[frame.run] = []

        def begin(pid: int, descriptors: Descriptors) -> None:
            child = Child(pid, launch, frame, self, self.watching, mark, descriptors)
            self._children[frame.run] = self._leaders[pid] = child
            for said in self._starting.pop(frame.run):
                self._handlers[type(said)](said)

        def fail(why: NotStarted) -> None:
            self._starting.pop(frame.run)
            self.tell(why)

        self._starters.start(launch, frame, mark, on_started=begin, on_failed=fail)

    def _task(self, frame: Task) -> None:
        child = self._children.get(frame.run)
        if child is None:
            return  # its end is stored
        if frame.total and not child.is_running:
            self.tell(NotStarted(frame.run, errno.ECANCELED, Step.STOPPED, Stop.NOT))
        elif frame.total and _is_too_old(frame):
            self.tell(NotStarted(frame.run, errno.ETIME, Step.TOO_OLD, Stop.NOT))
        else:
            child.take(frame)

    def _stdin(self, frame: Stdin) -> None:
        child = self._children.get(frame.run)
        if child is not None:
            child.write(frame.data)

    def _stdin_eof(self, frame: StdinEof) -> None:
        child = self._children.get(frame.run)
        if child is not None:
            child.close_stdin()

    def _stop(self, frame: StopRun) -> None:
        child = self._children.get(frame.run)
        if child is not None:
            child.stop(Stop(frame.reason))

    def _kill(self, frame: KillRun) -> None:
        child = self._children.get(frame.run)
        if child is not None:
            child.kill(Stop(frame.reason))

    def _acknowledge(self, frame: Ack) -> None:
        if frame.what == Acknowledged.END:
            self._children.pop(frame.run, None)

    def _bye(self, frame: NodeBye) -> None:
        if frame.reason != Bye.KEEP:
            self.close()


def _is_too_old(frame: Start | Task) -> bool:
    """Whether the node's knowledge that the task is its own is older than it may be."""
    if not frame.trusted:
        return False
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000 > frame.asked_at + frame.trusted
