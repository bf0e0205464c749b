"""Many who wait equally long, and one timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from disbatch_host.run.same_delay import SameDelay


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts the timers that are set."""

    timers = 0

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, **more: Any) -> asyncio.TimerHandle:
        self.timers += 1
        return super().call_at(when, callback, *args, **more)


async def all_of(called: list[int], count: int) -> None:
    async with asyncio.timeout(10):
        while len(called) < count:
            await asyncio.sleep(0.001)


def test_each_is_called_back_in_order_unless_it_is_cancelled() -> None:
    async def wait() -> list[int]:
        delay, called = SameDelay(), list[int]()
        waiting = [delay.after(0.02, lambda number=number: called.append(number)) for number in range(6)]
        waiting[0].cancel()
        waiting[3].cancel()
        await all_of(called, 4)
        waiting[5].cancel()  # afterwards, which is fine
        delay.after(0.02, lambda: called.append(6))
        await all_of(called, 5)
        return called

    assert asyncio.run(wait()) == [1, 2, 4, 5, 6]


def test_a_thousand_take_one_timer_and_cancelled_ones_leave_nothing() -> None:
    loop = CountingLoop()

    async def wait() -> None:
        delay, called = SameDelay(), list[int]()
        before = loop.timers
        waiting = [delay.after(0.05, lambda: called.append(1)) for _ in range(1000)]
        assert loop.timers == before + 1
        for one in waiting[:-1]:
            one.cancel()
        await all_of(called, 1)
        assert not delay._waiting and delay._timer is None

    try:
        loop.run_until_complete(wait())
    finally:
        loop.close()


def test_one_that_fails_keeps_no_other_from_its_turn() -> None:
    async def wait() -> list[int]:
        delay, called, failures = SameDelay(), list[int](), list[str]()
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(str(context["exception"])))

        def fail() -> None:
            raise ValueError("of one")

        delay.after(0.01, fail)
        delay.after(0.01, lambda: called.append(1))
        await all_of(called, 1)
        assert failures == ["of one"]
        return called

    assert asyncio.run(wait()) == [1]
