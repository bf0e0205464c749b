"""disbatch-supervisor is given random orders, most of them allowed: about runs that there are, that have ended, or that
there never were; by one node after another, and cut off anywhere. It never ends for it, and each run that it has begun
ends once.

In `make soak` for ten minutes, or a sixth of `DISBATCH_FUZZ_SECONDS`.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from disbatch_host.process import frames
from disbatch_host.process.flags import Has, Input
from disbatch_host.process.framing import encode
from disbatch_host.process.link import LinkClosedError
from helpers import supervisors
from helpers.processes import wait_until
from helpers.supervisors import MICROSECONDS, Home, Talk, shell, start

pytestmark = supervisors.usable()
SECONDS = int(os.environ.get("DISBATCH_FUZZ_SECONDS", "3600")) // 6
ORDERS = 60  # of one node
SCRIPTS = (
    "true",
    "cat",
    "echo out; echo err >&2; echo event >&3; exit 3",
    "while read line; do echo $line; echo done >&3; done",
    "trap '' TERM; echo deaf; sleep 5",
    "head -c 200000 /dev/zero; head -c 100000 /dev/zero >&3",
    "(setsid sleep 5 >/dev/null 2>&1 3>&- &); exit 1",
    "exec 1>&- 2>&- 3>&-; sleep 0.05",
)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    one = Home(tmp_path / "home")
    yield one
    one.close()


class Giving:
    """One node after another at the same supervisor."""

    def __init__(self, home: Home, chance: random.Random) -> None:
        self._home = home
        self._chance = chance
        self._next = 1
        self._open: list[int] = []  # runs that may get tasks
        self._owed: dict[int, int] = {}  # bytes of input that were announced and not said

    def a_node(self) -> None:
        """Comes, gives orders, and is gone: by itself, for a broken rule, or in the middle of a frame."""
        talk = self._come()
        try:
            for _ in range(self._chance.randrange(ORDERS)):
                talk.say(self._chance.choice(self._orders())())
                talk.kept += talk.link.receive()  # as a node does; else a BYE could not come behind what lies there
                if self._chance.random() < 0.1:
                    self._hear(talk)
            self._hear(talk)
        except LinkClosedError:
            assert any(
                isinstance(one, frames.SupervisorBye) and one.reason == frames.Bye.RULE_BROKEN for one in talk.kept
            ), talk.kept
        else:
            self._leave(talk)
        talk.link.close()

    def all_end(self) -> None:
        """What is left is killed; each run that there is ends once, and none stays."""
        talk = self._come()
        there = {one.run for one in talk.runs()}
        ends: Counter[int] = Counter()
        refused: set[int] = set()
        talk.say(*(frames.KillRun(run, frames.Stop.SHUTDOWN) for run in there))

        def hear() -> None:
            talk.in_step()
            for one in talk.kept:
                if isinstance(one, frames.End):
                    ends[one.run] += 1
                    talk.say(ack(one))
                elif isinstance(one, frames.NotStarted):
                    refused.add(one.run)
            talk.kept.clear()

        def is_over() -> bool:
            hear()
            return self._home.ask("--list").stdout == ""

        wait_until(is_over, 60, "not all runs end")
        hear()  # what was refused is not kept: it may have been told since
        assert {*ends, *refused} >= there and set(ends.values()) <= {1}, (there, ends, refused)
        talk.leave()

    def _come(self) -> Talk:
        talk = self._home.node(session=1, keep=60)
        self._next = max(self._next, talk.answer.next_run)
        talk.say(*(self._plugin(number) for number in range(1, 1 + len(SCRIPTS))))
        return talk

    def _leave(self, talk: Talk) -> None:
        how = self._chance.randrange(3)
        if how == 0:
            talk.say(frames.NodeBye(frames.Bye.KEEP))
        elif how == 1:
            frame = encode(self._start())
            os.write(talk.link._socket.fileno(), frame[: self._chance.randrange(len(frame))])

    def _hear(self, talk: Talk) -> None:
        """What has come by now; of the ends, some are acknowledged."""
        talk.in_step()
        for one in talk.kept:
            if isinstance(one, frames.End) and self._chance.random() < 0.7:
                talk.say(ack(one))
        talk.kept.clear()

    def _orders(self) -> list[Callable[[], frames.Frame]]:
        usual = [self._start, self._start, self._task, self._stdin, self._stop, self._kill, self._window]
        return [*usual * 4, self._eof, self._ack, lambda: self._plugin(self._number())]

    def _run(self) -> int:
        """Most often one of the last."""
        return max(1, self._next - self._chance.choice((0, 1, 1, 1, 2, 2, 3, 5, 9, 2**20)))

    def _number(self) -> int:
        return self._chance.randrange(1, 1 + len(SCRIPTS))

    def _seldom(self) -> bool:
        """Whether a rule is to be broken."""
        return self._chance.random() < 0.01

    def _plugin(self, number: int) -> frames.Plugin:
        flags = self._chance.choice((0, Has.LEAVE_RUNNING))
        tenth = MICROSECONDS // 10
        return shell(number, SCRIPTS[number - 1], grace=tenth, drain=tenth, flags=flags)

    def _start(self) -> frames.Start:
        chance = self._chance
        run = self._next - (1 if self._seldom() else 0)
        self._next = run + chance.choice((1, 1, 1, 2))
        data, owed = bytes(chance.randrange(200)), chance.choice((0, 0, 0, 1, 300))
        flags = chance.choice((0, 0, Input.OPEN, Input.TELL, Input.LIVE, Input.OPEN | Input.LIVE, Input.NULL))
        if flags & Input.OPEN:
            self._open.append(run)
        self._owed[run] = owed
        timeout, idle_timeout = (chance.choice((0, 0, 1, MICROSECONDS // 20)) for _ in range(2))
        more = {"timeout": timeout, "idle_timeout": idle_timeout, "flags": flags, "note": bytes(chance.randrange(50))}
        return start(run, 99 if self._seldom() else self._number(), data, total=len(data) + owed, **more)

    def _task(self) -> frames.Task:
        data = b"line\n" * self._chance.randrange(1, 4)
        run = self._run() if self._seldom() or not self._open else self._chance.choice(self._open[-5:])
        limit, owed = self._chance.choice((0, 0, MICROSECONDS // 20)), self._chance.choice((0, 0, 0, 5))
        self._owed[run] = owed
        return frames.Task(run, self._chance.randrange(9), limit, 0, 0, 0, len(data) + owed, b"note", data)

    def _stdin(self) -> frames.Stdin:
        run = self._run()
        size = 300 if self._seldom() else self._chance.randrange(1 + self._owed.get(run, 0))
        self._owed[run] = max(0, self._owed.get(run, 0) - size)
        return frames.Stdin(run, bytes(size))

    def _eof(self) -> frames.StdinEof:
        return frames.StdinEof(self._run())

    def _stop(self) -> frames.StopRun:
        return frames.StopRun(self._run(), self._chance.randrange(0 if self._seldom() else 1, 7))

    def _kill(self) -> frames.KillRun:
        return frames.KillRun(self._run(), self._chance.randrange(1, 7))

    def _window(self) -> frames.Window:
        offset, size = (self._chance.choice((0, 0, 5, 2**16, 2**40, 2**64 - 1)) for _ in range(2))
        return frames.Window(self._run(), 4 if self._seldom() else self._chance.randrange(1, 4), offset, size)

    def _ack(self) -> frames.Ack:
        return frames.Ack(
            self._run(), 0, 0, 0, frames.Acknowledged.END if self._seldom() else frames.Acknowledged.OFFSETS
        )


def ack(end: frames.End) -> frames.Ack:
    return frames.Ack(end.run, end.stdout_end, end.stderr_end, end.events_end, frames.Acknowledged.END)


def give(home: Home, seed: int, *, nodes: int) -> None:
    giving = Giving(home, random.Random(seed))
    pid = home.pid
    for _ in range(nodes):
        giving.a_node()
    giving.all_end()
    assert home.pid == pid, "it has ended"


@pytest.mark.parametrize("seed", range(3))
def test_no_order_ends_it_and_each_run_ends_once(home: Home, seed: int) -> None:
    give(home, seed, nodes=20)


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 600)
def test_ten_minutes_of_random_orders_end_it_as_little(home: Home) -> None:
    until, seed = time.monotonic() + SECONDS, 1000
    while time.monotonic() < until:
        give(home, seed, nodes=20)
        seed += 1
        print(f"seed {seed}", flush=True)
