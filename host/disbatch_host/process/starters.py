"""Threads that start programs, so that the thread of a supervisor does not stand still while the kernel does it.

Responsible for: pipes and `spawn` for each start, a few at a time, and their results in the supervisor's thread. Must
not know: what becomes of a program that runs.

A start takes until the program has begun to run: some 0.3 ms if a core is free for it, many times that if not. The
interpreter's lock is not held meanwhile, so the supervisor can hear of others.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from disbatch_host.process import spawn
from disbatch_host.process.flags import Input
from disbatch_host.process.frames import NotStarted, Start, Step, Stop
from disbatch_host.process.framing import unpacked_two
from disbatch_host.process.pipes import open_pipes
from disbatch_host.process.spawn import Launch, ThreadMask
from disbatch_host.process.watching import Watching

_THREADS = 2  # the rest of the time belongs to the programs
# From before the pipes are made until the program has its ends: at most so many starts have twice as many descriptors
# open as they will need.
_AT_ONCE = 2 * _THREADS

Descriptors = tuple[int, int, int, int]
OnStarted = Callable[[int, Descriptors], None]  # pid, this side of its pipes
OnFailed = Callable[[NotStarted], None]


class _Order(NamedTuple):
    launch: Launch
    frame: Start
    mark: bytes
    on_started: OnStarted
    on_failed: OnFailed


class Starters:
    """Used in the supervisor's thread, in which everything is called back."""

    def __init__(self, watching: Watching) -> None:
        self._watching = watching
        self._waiting: deque[_Order] = deque()
        self._under_way = 0
        self._wanted: queue.SimpleQueue[tuple[_Order, Descriptors, Descriptors] | None] = queue.SimpleQueue()
        self._done: deque[tuple[_Order, Descriptors, int | spawn.SpawnError]] = deque()
        self._is_told = False  # somebody is going to look at `_done`
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._threads: list[threading.Thread] = []
        watching.readable(self._event, self._take_done)

    def start(self, launch: Launch, frame: Start, mark: bytes, *, on_started: OnStarted, on_failed: OnFailed) -> None:
        """Start a program; `mark` is the variable by which its processes are found. Returns at once."""
        self._waiting.append(_Order(launch, frame, mark, on_started, on_failed))
        self._go_on()

    def close(self) -> None:
        """End the threads; what was not started will not be. Closing twice is fine."""
        for _ in self._threads:
            self._wanted.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._waiting.clear()
        if self._event >= 0:
            self._take_done()
            self._watching.forget(self._event)
            os.close(self._event)
            self._event = -1

    def _go_on(self) -> None:
        while self._waiting and self._under_way < _AT_ONCE:
            order = self._waiting.popleft()
            try:
                own, others = open_pipes(order.launch.account, has_stdin=not order.frame.flags & Input.NULL)
            except OSError as error:
                order.on_failed(NotStarted(order.frame.run, error.errno or errno.EIO, Step.PIPES, Stop.NOT))
                continue
            if not self._have_threads():
                _close(*own, *others)
                order.on_failed(NotStarted(order.frame.run, errno.EAGAIN, Step.FORK, Stop.NOT))
                continue
            self._under_way += 1
            self._wanted.put((order, own, others))

    def _have_threads(self) -> bool:
        """Whether there is one at least: a machine may be short of them."""
        if len(self._threads) < _THREADS:
            thread = threading.Thread(target=self._work, name="starter", daemon=True)
            with contextlib.suppress(RuntimeError):
                thread.start()
                self._threads.append(thread)
        return bool(self._threads)

    def _work(self) -> None:
        mask = ThreadMask()
        while (wanted := self._wanted.get()) is not None:
            order, own, others = wanted
            result: int | spawn.SpawnError
            try:
                variables, words = unpacked_two(order.frame.environment)
                result = spawn.spawn(
                    order.launch,
                    directory=order.frame.work_directory or order.launch.directory,
                    variables=[*variables, order.mark],
                    words=words,
                    descriptors=others,
                    mask=mask,
                )
            except spawn.SpawnError as error:
                result = error
            except Exception:  # whatever it is, only this start is to fail
                result = spawn.SpawnError(errno.EINVAL, Step.EXEC)
            _close(*others)
            self._done.append((order, own, result))
            if not self._is_told:  # two threads may both see that and tell it twice, which does no harm
                self._is_told = True
                os.eventfd_write(self._event, 1)

    def _take_done(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)
        # After the read: that may take away what a thread has told since, and then nobody would tell again.
        self._is_told = False
        while self._done:
            order, own, result = self._done.popleft()
            self._under_way -= 1
            if isinstance(result, spawn.SpawnError):
                _close(*own)
                order.on_failed(NotStarted(order.frame.run, result.errno, result.step, Stop.NOT))
            else:
                order.on_started(result, own)
        self._go_on()


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        if descriptor >= 0:
            os.close(descriptor)
