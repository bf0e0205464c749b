"""Threads that start programs, so that the event loop does not stand still while the kernel does it.

Responsible for: `spawn` in another thread, and its answer in the event loop. Must not know: which program it starts.

Starting a program takes until it has begun to run: some 0.3 ms if a core is free for it, many times that if not. The
interpreter's lock is not held meanwhile, so the event loop can read from others.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import signal
import threading
from collections import deque

from disbatch_host.process.interface import Start
from disbatch_host.process.spawn import ThreadMask, spawn

_THREADS = 2  # the rest of the time belongs to the programs


class Spawner:
    """Made anywhere, used in the thread of one event loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wanted: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()
        self._done: deque[tuple[_Pending, int | BaseException]] = deque()
        self._is_told = False  # the event loop is going to look at `_done`
        self._threads: list[threading.Thread] = []
        # Held from before the pipes are made until the program has its ends: at most this many starts at once have
        # twice as many descriptors open as they will need.
        self.turn = asyncio.Semaphore(2 * _THREADS)

    def spawn(self, start: Start, descriptors: tuple[int, int, int, int]) -> asyncio.Future[int]:
        """See `spawn.spawn`: the future yields the pid, or raises StartError. The descriptors are closed here, once the
        program has them. A program whose future was cancelled meanwhile is killed at once."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        if len(self._threads) < _THREADS:
            thread = threading.Thread(target=self._work, args=(self._loop,), name="spawner", daemon=True)
            self._threads.append(thread)
            thread.start()
        pending = _Pending(start, descriptors, self._loop.create_future())
        self._wanted.put(pending)
        return pending.answer

    def close(self) -> None:
        """End the threads. Closing twice is fine."""
        for _ in self._threads:
            self._wanted.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._loop = None

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        mask = ThreadMask()
        while (pending := self._wanted.get()) is not None:
            result: int | BaseException
            try:
                result = spawn(pending.start, pending.descriptors, mask)
            except BaseException as error:
                result = error
            for descriptor in pending.descriptors:
                os.close(descriptor)
            self._done.append((pending, result))
            if not self._is_told:  # two threads may both see that and tell it twice, which does no harm
                self._is_told = True
                try:
                    loop.call_soon_threadsafe(self._answer)
                except RuntimeError:  # the event loop is closed
                    self._answer()

    def _answer(self) -> None:
        self._is_told = False
        while self._done:
            pending, result = self._done.popleft()
            if isinstance(result, BaseException):
                if not pending.answer.done():
                    pending.answer.set_exception(result)
            elif not pending.answer.done():
                pending.answer.set_result(result)
            else:
                _kill(result)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


class _Pending:
    __slots__ = ("answer", "descriptors", "start")

    def __init__(self, start: Start, descriptors: tuple[int, int, int, int], answer: asyncio.Future[int]) -> None:
        self.start = start
        self.descriptors = descriptors
        self.answer = answer
