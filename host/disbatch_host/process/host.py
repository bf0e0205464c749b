"""The process host of a node: the verbs of `interface`, said in frames to a supervisor.

Responsible for: the runs that this node has at a supervisor, and the frames to and from it. Must not know: how a
supervisor does it (`link`), what a frame says of a run (`hosted`), tasks, plugins.
"""

from __future__ import annotations

import asyncio
import logging
import select
import time
from collections.abc import Callable, Mapping, Sequence

from disbatch_host.process import family
from disbatch_host.process.frames import (
    PART_MAX,
    VERSION_MAX,
    VERSION_MIN,
    Ack,
    Acknowledged,
    Bye,
    Frame,
    FrameError,
    Gone,
    Hello,
    KeptPlugin,
    Log,
    Look,
    NodeBye,
    Ping,
    Pong,
    Ready,
    Stdin,
    SupervisorBye,
    SupervisorHello,
)
from disbatch_host.process.hosted import HostedProcess
from disbatch_host.process.interface import (
    KeptRun,
    LeftOver,
    Process,
    ProcessListener,
    Start,
    StartError,
    StartListener,
)
from disbatch_host.process.link import Link, LinkClosedError
from disbatch_host.process.named_plugins import NamedPlugins, start_frame
from disbatch_host.process.pulse import Pulse
from disbatch_host.process.remains import LostRun
from disbatch_host.process.undecided import Undecided

log = logging.getLogger(__name__)

# To a supervisor that ends with this process.
OF_ITS_OWN = Hello(VERSION_MIN, VERSION_MAX, session=1, keep=0, store_id=b"", node_id=b"", key=b"")
DRAIN_SECONDS = 2.0  # plugin contract: how long a background child may hold the output


class Numbers:
    """Of runs: they only rise, at whichever supervisor a run is started."""

    def __init__(self) -> None:
        self._next = 1

    def begin_at(self, number: int) -> None:
        """All below may be those of other runs."""
        self._next = max(self._next, number)

    def next(self) -> int:
        number = self._next
        self._next = number + 1
        return number


class FrameHost:
    """See `interface.ProcessHost`."""

    def __init__(
        self,
        link: Link,
        *,
        drain_seconds: float,
        hello: Hello | Look = OF_ITS_OWN,
        numbers: Numbers | None = None,
        on_lost: Callable[[FrameHost, str], None] | None = None,
    ) -> None:
        """`hello`: what it says first. `numbers`: of its runs. `on_lost` is told, once and why, when the supervisor is
        heard no more; without it, that is raised."""
        self._link = link
        self._numbers = Numbers() if numbers is None else numbers
        self._on_lost = on_lost
        self._version = hello.version_max if isinstance(hello, Hello) else VERSION_MIN  # until it has answered
        self.is_lost = False
        self._pulse = Pulse(lambda number: self.send(Ping(number)), lambda: bool(self._processes))
        self.supervisor_id = b""  # until it has answered
        self.hello: SupervisorHello | None = None
        self.bye: SupervisorBye | None = None  # once it has said why it closes the connection
        self._first_run = 0  # the numbers of its runs begin there
        self._is_ready = False  # every run that it had was told
        self._left_over: set[int] = set()  # runs of this node whose end is stored, and of which something is there
        self._plugins = NamedPlugins(link.send, drain_seconds=drain_seconds)
        self.undecided = Undecided(self.send, self._plugins.note_of)
        self._processes: dict[int, HostedProcess] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_flush_due = False
        self._link.send(hello)
        self._link.flush()

    @property
    def keeps_output(self) -> bool:
        """See `link.Link`."""
        return self._link.keeps_output

    def meet(self, seconds: float) -> None:
        """Wait until the supervisor has answered, for so long at most: from then on its processes can be found, and
        `undecided` has the runs of an earlier node. Raises LinkClosedError and FrameError."""
        until = time.monotonic() + seconds
        while True:
            for frame in self._link.receive():
                self._take_own(frame)
            if self._is_ready:
                return
            if time.monotonic() >= until:
                raise LinkClosedError(f"it did not answer within {seconds:g} s")
            select.select([self._link.fileno()], [], [], until - time.monotonic())

    def listen(self) -> None:
        """Hear the supervisor from now on, in the event loop that runs. A start does it as well."""
        if self._loop is None and not self.is_lost:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._link.fileno(), self.receive)

    def begin(self, start: Start, listener: StartListener) -> Process:
        return self._begin(start, listener, listener.begun, listener.not_started, is_held=False)

    async def start(self, start: Start, listener: ProcessListener) -> Process:
        loop = asyncio.get_running_loop()
        begun: asyncio.Future[None] = loop.create_future()

        def on_begun() -> None:
            if not begun.done():
                begun.set_result(None)

        def on_failed(error: StartError) -> None:
            if not begun.done():
                begun.set_exception(error)

        process = self._begin(start, listener, on_begun, on_failed, is_held=True)
        try:
            await begun
        except BaseException:
            process.abandon()
            raise
        loop.call_soon(process.open)  # once the caller has it
        return process

    def _begin(
        self,
        start: Start,
        listener: ProcessListener,
        on_begun: Callable[[], None],
        on_failed: Callable[[StartError], None],
        *,
        is_held: bool,
    ) -> HostedProcess:
        self.listen()
        plugin = self._plugins.number_of(start, self._version)
        run = self._numbers.next()
        process = HostedProcess(run, start, listener, self, on_begun, on_failed, is_held=is_held)
        self._processes[run] = process
        self._send_start(run, start, plugin)
        if start.keeps_stdin_open:
            process.follow()
        self._pulse.begin()
        return process

    def _send_start(self, run: int, start: Start, plugin: int) -> None:
        self.send(start_frame(run, start, plugin, is_live=not self.keeps_output))
        self.send_input(run, (start.stdin or b"")[PART_MAX:])

    def adopt(self, kept: KeptRun, listener: StartListener, *, keeps_stdin_open: bool) -> Process:
        """Go on with a run of an earlier node. Its listener is told everything from its beginning on, but nothing
        before this has returned."""
        self.listen()
        frame, frames = self.undecided.adopt(kept.run)
        process = HostedProcess.adopted(frame, frames, listener, self, keeps_stdin_open=keeps_stdin_open)
        self._processes[kept.run] = process
        asyncio.get_running_loop().call_soon(process.open)
        self._pulse.begin()
        return process

    def take_from(self, other: FrameHost) -> None:
        """This is another connection to the supervisor of `other`, which has lost its own: go on with its runs."""
        self.listen()
        unheard = []
        for process in other._processes.values():
            try:
                kept, frames = self.undecided.adopt(process.run)
            except KeyError:
                kept, frames = None, []
            self._processes[process.run] = process
            if process.resume(self, kept, frames):
                del self._processes[process.run]
                unheard.append(process)
        other._processes = {}
        self.undecided.take_from(other.undecided)
        # A number that was used is not taken again: what came of that START was told to nobody.
        for process in sorted(unheard, key=lambda one: one.run):
            assert process.start is not None
            if process.run < self._first_run:
                process.run = self._numbers.next()
            self._processes[process.run] = process
            plugin = self._plugins.number_of(process.start, self._version)
            self._send_start(process.run, process.start, plugin)
            process.ask_again()
        self._pulse.begin()

    def runs(self) -> Sequence[Process]:
        return list(self._processes.values())

    def why_not_now(self) -> str | None:
        if self.is_lost:
            return "the connection to the supervisor of its runs is lost, and is made again"
        if self._pulse.is_silent:
            return "the supervisor of its runs does not answer; nothing is lost, and nothing is claimed until it does"
        return None

    def unended(self) -> dict[int, LostRun]:
        """Those of its runs that have not ended, by number: by what their processes are found."""
        start = f"{family.RUN_VARIABLE}={self.supervisor_id.hex()}"
        return {
            run: LostRun(f"{start}-{run}".encode(), one.pid, one.pid_started)
            for run, one in self._processes.items()
            if not one.has_ended
        }

    def end_unseen(self, left_over: Mapping[int, tuple[LeftOver, ...]], why: str) -> None:
        """Nothing is left of the runs that it had when the supervisor was lost, but for these processes of some."""
        for run, process in list(self._processes.items()):
            process.end_unseen(left_over.get(run, ()), why)

    def say_goodbye(self, reason: Bye) -> None:
        """Tell the supervisor that this node leaves."""
        if not self.is_lost:
            self._link.send(NodeBye(reason))
            self._link.flush()

    def close(self) -> None:
        self._leave_loop()
        self._link.close()

    def _leave_loop(self) -> None:
        self._pulse.end()
        if self._loop is not None:
            self._loop.remove_reader(self._link.fileno())
            self._loop = None
        if self._timer is not None:
            self._timer.cancel()

    def send(self, frame: Frame) -> None:
        """For a process of this host; with everything else that is said in this turn of the event loop."""
        if self.is_lost:
            return
        self._link.send(frame)
        if not self._is_flush_due and self._loop is not None:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flush_due = False
        if self._loop is not None:
            self._link.flush()
            self._set_timer()

    def send_input(self, run: int, data: bytes) -> None:
        """More of its input, in parts."""
        for position in range(0, len(data), PART_MAX):
            self.send(Stdin(run, data[position : position + PART_MAX]))

    def after_answer(self, callback: Callable[[], None]) -> None:
        """See `Pulse.after_answer`."""
        self._pulse.after_answer(callback)

    def forget(self, run: int, *, is_anything_left: bool = False) -> None:
        """A process of this host is over. `is_anything_left`: of its run."""
        self._processes.pop(run, None)
        if is_anything_left:
            self._left_over.add(run)

    @property
    def has_nothing(self) -> bool:
        """Whether its supervisor has nothing to do, and may be replaced by another."""
        return not (self.is_lost or self._processes or self._left_over) and self.undecided.is_over

    def receive(self) -> None:
        """Take what the supervisor says, and do what is due."""
        is_within, self._is_flush_due = self._is_flush_due, True  # what is said meanwhile goes at the end
        try:
            for frame in self._link.receive():
                process = self._processes.get(getattr(frame, "run", 0))
                if process is not None:
                    self._take(process, frame)
                else:
                    self._take_own(frame)
        except (LinkClosedError, FrameError) as error:
            self._lose(error)
            return
        finally:
            self._is_flush_due = is_within
        self._link.flush()
        self._set_timer()

    def _take_own(self, frame: Frame) -> None:
        if isinstance(frame, Pong):
            self._pulse.hear(frame.number)
        elif isinstance(frame, SupervisorHello):
            self._version = _checked_version(frame.version, self._version)
            self.hello = frame
            self.supervisor_id = frame.supervisor_id
            self._first_run = frame.next_run
            self._numbers.begin_at(frame.next_run)
        elif isinstance(frame, KeptPlugin):
            self._plugins.keep(frame)
        elif isinstance(frame, Ready):
            self._is_ready = True
        elif isinstance(frame, SupervisorBye):
            self.bye = frame
        elif isinstance(frame, Log):
            log.log(frame.level, "supervisor: %s", frame.words.decode("utf-8", "replace"))
        elif isinstance(frame, Gone):  # the last of what an ended run had left over; there is nothing to record
            self.send(Ack(frame.run, 0, 0, 0, Acknowledged.GONE))
            self.undecided.left_over.pop(frame.run, None)
            self._left_over.discard(frame.run)
        else:
            self.undecided.take(frame)

    def _lose(self, error: Exception) -> None:
        """Raises the error if nobody else is to deal with it."""
        if self.is_lost:
            return
        if self._on_lost is None:
            raise error
        self.is_lost = True
        self._leave_loop()
        self._on_lost(self, str(error))

    def give_up(self) -> None:
        """The supervisor has ended."""
        for process in self._processes.values():
            process.lose()

    def _take(self, process: HostedProcess, frame: Frame) -> None:
        try:
            process.take(frame)
        except Exception as error:  # a failure with one run must not stop the others from being heard
            if self._loop is None:
                raise
            context = {"message": f"a callback of run {process.run} failed", "exception": error}
            self._loop.call_exception_handler(context)

    def _set_timer(self) -> None:
        seconds = self._link.due_seconds()
        if seconds is None or self._loop is None:
            return
        when = self._loop.time() + seconds
        if self._timer is None or self._timer.cancelled() or self._timer.when() > when:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(when, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self.receive()


def _checked_version(found: int, last: int) -> int:
    """The version of an answer, if it is up to `last`. Raises FrameError."""
    if not VERSION_MIN <= found <= last:
        raise FrameError(f"expected a version of the frames from {VERSION_MIN} to {last}, found {found}")
    return found
