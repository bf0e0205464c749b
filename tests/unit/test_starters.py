"""Threads that start programs: none is forgotten, and a machine that is short of something fails one start."""

from __future__ import annotations

import errno
import os
import resource
import select
import time

from disbatch_host.process import framing
from disbatch_host.process.frames import NotStarted, Start, Step
from disbatch_host.process.spawn import Launch
from disbatch_host.process.starters import Starters
from disbatch_host.process.watching import Watching
from helpers.processes import descriptors


def order(run: int) -> Start:
    return Start(run, 1, 0, 0, 0, 0, 0, 1, b"", framing.packed([]), b"", b"")


class Started:
    """What has come of the starts of one test. Each program that ran is reaped."""

    def __init__(self) -> None:
        self.watching = Watching(time.monotonic)
        self.starters = Starters(self.watching)
        self.pids: list[int] = []
        self.failures: list[NotStarted] = []

    def start(self, run: int, program: bytes) -> None:
        launch = Launch(argv=[program], directory=b"/", environment=[])
        self.starters.start(launch, order(run), b"X=1", on_started=self._on_started, on_failed=self.failures.append)

    def _on_started(self, pid: int, descriptors: tuple[int, int, int, int]) -> None:
        self.pids.append(pid)
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)
        os.waitpid(pid, 0)

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + 60
        while len(self.pids) + len(self.failures) < count and time.monotonic() < deadline:
            select.select([self.watching], [], [], 1)
            self.watching.work()
        assert len(self.pids) + len(self.failures) == count

    def close(self) -> None:
        self.starters.close()
        self.watching.close()


def test_no_start_is_forgotten_however_many_come_at_once() -> None:
    """A thread that told nobody, because it took another's word for still unheard, left starts unheard for ever."""
    started = Started()
    for run in range(1, 400):
        started.start(run, b"/bin/true" if run % 3 else b"/no/such/program")
        if run % 7 == 0:
            started.watching.work()
    started.wait_for(399)
    assert len(started.failures) == 133
    assert {(one.errno, one.step) for one in started.failures} == {(errno.ENOENT, Step.EXEC)}
    started.close()


def test_a_machine_without_descriptors_fails_this_start_and_not_the_next() -> None:
    started = Started()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        started.start(1, b"/bin/true")
        assert [(one.errno, one.step) for one in started.failures] == [(errno.EMFILE, Step.PIPES)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    started.start(2, b"/bin/true")
    started.wait_for(2)
    assert len(started.pids) == 1
    started.close()


def test_a_machine_without_threads_fails_the_start() -> None:
    class NoThreads(Starters):
        def _have_threads(self) -> bool:
            return False

    started, before = Started(), descriptors()
    started.starters.close()
    started.starters = NoThreads(started.watching)
    started.start(1, b"/bin/true")
    assert [(one.errno, one.step) for one in started.failures] == [(errno.EAGAIN, Step.FORK)]
    started.close()
    assert descriptors() <= before
