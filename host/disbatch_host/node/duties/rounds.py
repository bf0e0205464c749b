"""The rounds of a node's duties: each is repeated at its own interval until the node stops.

Responsible for: the rhythm, and carrying out a failed duty again at its next turn. Must not know: what the duties
are.

Each turn of a duty is a compartment.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Protocol

from disbatch_host.errors import StoreUnreachableError
from disbatch_host.node.compartment import Troubles
from disbatch_host.node.pace import Pace
from disbatch_host.node.store_health import StoreHealth


class Duty(Protocol):
    """Something that a node does repeatedly."""

    @property
    def name(self) -> str:
        """What people call it, when something in it fails."""

    @property
    def interval_seconds(self) -> float:
        """From the start of one turn to the start of the next. It may change at any time, which counts within seconds
        (`Pace.interval_check_seconds`)."""

    async def turn(self) -> None:
        """Do it once. May raise StoreError; the next turn tries again."""


class Rounds:
    """A service: the duties, each in a task of its own. Used in the event loop."""

    def __init__(
        self,
        duties: Sequence[Duty],
        health: StoreHealth,
        troubles: Troubles,
        pace: Pace,
        *,
        wakes: Mapping[Duty, asyncio.Event] | None = None,
    ) -> None:
        """`wakes`: the events that make a duty's next turn come at once; each is cleared before the turn."""
        self._duties = duties
        self._wakes = wakes or {}
        self._health = health
        self._troubles = troubles
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the duties; each has its first turn one interval from now."""
        self._tasks = [self._loop.create_task(self._repeat(duty)) for duty in self._duties]

    def check(self) -> None:
        """Raises whatever has ended a duty, which nothing but a broken interpreter does."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def stop(self) -> None:
        """End them, even in the middle of a turn. Stopping twice is fine."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _repeat(self, duty: Duty) -> None:
        """Keep a steady rhythm, which a slow turn does not shift."""
        due, wake = self._loop.time(), self._wakes.get(duty, asyncio.Event())
        while True:
            last = due
            while not wake.is_set() and (left := last + duty.interval_seconds - self._loop.time()) > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, self._pace.interval_check_seconds)):
                        await wake.wait()
            due = self._loop.time() if wake.is_set() else max(last + duty.interval_seconds, self._loop.time())
            wake.clear()
            try:
                with self._troubles.contained("duty", duty.name):
                    await duty.turn()
            except StoreUnreachableError as error:
                self._health.report_trouble(error)
