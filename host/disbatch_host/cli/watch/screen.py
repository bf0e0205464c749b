"""`disbatch-host status --watch`: takes snapshots of the cluster and shows them.

Responsible for: the terminal (alternate screen, keys, its size), the timing, and restoring everything. Must not know:
what a snapshot contains (`overview`) and how it is laid out (`dashboard`).

Rules:
1. The store is queried by its own thread, so that `q` works while a query runs.
2. A query is followed by a pause at least nine times as long: it takes at most a tenth of the time, however
   large the store is.
3. An unreachable store ends nothing: the last picture stays, with the store's error above it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

from disbatch_host.cli import bars, common, render
from disbatch_host.cli.watch import dashboard
from disbatch_host.client.overview import Observer, Overview
from disbatch_host.clock import SystemClock
from disbatch_host.errors import StoreError, UsageError
from disbatch_host.store.contract import Store

BUSY_PART = 0.1  # of the time, at most, is spent on queries
_LEAVE_SECONDS = 2.0  # how long to wait for a running query on quitting
_LEAVE_KEYS = frozenset("qQ\x03\x04\x1b")  # Ctrl-C if it arrives as a key, Ctrl-D, Escape
_REDRAW_SECONDS = 0.5  # between checks of the terminal's size, at most


def watch_status(store: Store, *, every_seconds: float) -> None:
    """Show it until the user quits. Raises UsageError if there is no terminal to show it on."""
    observer = Observer(store, SystemClock())
    if common.wants_json():
        _print_documents(store, observer, every_seconds)
        return
    console = bars.console(is_stderr=False)
    if not (console.is_terminal and sys.stdin.isatty()) or console.is_dumb_terminal:
        raise UsageError(
            "--watch needs a terminal that can be drawn on, found none; --json prints a document for each refresh"
        )
    _Screen(store, observer, console, every_seconds).run()


def pause_seconds(every_seconds: float, took_seconds: float) -> float:
    """The pause after a query that took this long."""
    return max(every_seconds - took_seconds, took_seconds * (1 - BUSY_PART) / BUSY_PART, 0.0)


def _print_documents(store: Store, observer: Observer, every_seconds: float) -> None:
    stop = threading.Event()
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            seen = observer.look()
            render.print_json(seen.to_json(), store.extended_json)
            sys.stdout.flush()
            stop.wait(pause_seconds(every_seconds, seen.took_seconds))


class _Screen:
    def __init__(self, store: Store, observer: Observer, console: Console, every_seconds: float) -> None:
        self._store = store
        self._observer = observer
        self._console = console
        self._every_seconds = every_seconds
        self._seen: Overview | None = None
        self._trouble = ""

    def run(self) -> None:
        clock, shown_at = SystemClock(), self._console.size
        look: Future[Overview] | None = _in_thread(self._observer.look)
        due = 0.0
        with (
            contextlib.suppress(KeyboardInterrupt),
            _keys() as key_within,
            _signals_leave(),
            Live(_Lines(self._lines), console=self._console, screen=True, auto_refresh=False) as live,
        ):
            live.refresh()
            key: str | None = None
            while key not in _LEAVE_KEYS:
                if look is not None and look.done():
                    pause, look = self._take(look), None
                    due = clock.monotonic() + pause
                    live.refresh()
                elif look is None and clock.monotonic() >= due:
                    look = _in_thread(self._observer.look)
                wait_seconds = _ANSWER_SECONDS if look is not None else max(0.0, due - clock.monotonic())
                key = key_within(min(wait_seconds, _REDRAW_SECONDS))
                if self._console.size != shown_at:
                    shown_at = self._console.size
                    live.refresh()
        if look is not None:
            self._store.hurry()
            with contextlib.suppress(Exception):  # the answer is no longer needed
                look.result(_LEAVE_SECONDS)

    def _take(self, look: Future[Overview]) -> float:
        """Store the result of a query; returns the pause before the next one."""
        try:
            self._seen = look.result()
        except StoreError as error:
            if self._seen is None:
                raise
            self._trouble = f"not refreshed: {error}"
            return self._every_seconds
        self._trouble = ""
        return pause_seconds(self._every_seconds, self._seen.took_seconds)

    def _lines(self, width: int, height: int) -> list[Text]:
        if self._seen is None:
            return [Text(render.printable(f"asking {self._store.description} ...")[:width], no_wrap=True)]
        took = self._seen.took_seconds
        every_seconds = took + pause_seconds(self._every_seconds, took)
        return dashboard.lay_out(
            self._seen, width=width, height=height, every_seconds=every_seconds, trouble=self._trouble
        )


_ANSWER_SECONDS = 0.05  # between checks for an answer


class _Lines:
    """Lines that fill the whole display."""

    def __init__(self, lines: Callable[[int, int], list[Text]]) -> None:
        self._lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = options.max_width, options.height or options.max_height
        for index, line in enumerate(self._lines(width, height)):
            if index:
                yield Segment.line()
            yield from line.render(console)


def _in_thread(look: Callable[[], Overview]) -> Future[Overview]:
    """A call's result, from a thread that nobody has to wait for."""
    future: Future[Overview] = Future()

    def ask() -> None:
        try:
            future.set_result(look())
        except BaseException as error:  # raised again for the caller that reads the result
            future.set_exception(error)

    threading.Thread(target=ask, name="status", daemon=True).start()
    return future


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str | None]]:
    """Reads single keys, without Return and without echo; yields a function that waits that many seconds for one."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def key_within(seconds: float) -> str | None:
        ready, _, _ = select.select([descriptor], [], [], seconds)
        if not ready:
            return None
        pressed = os.read(descriptor, 64)
        if not pressed:
            raise KeyboardInterrupt  # the terminal is gone
        # A key like an arrow arrives as Escape and more characters; only single characters count here.
        return pressed.decode(errors="replace") if len(pressed) == 1 else ""

    tty.setcbreak(descriptor)
    try:
        yield key_within
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _signals_leave() -> Iterator[None]:
    """Signals that would end this program quit it like Ctrl-C, and it cannot be suspended: the terminal must not
    stay as it is."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
