"""Something that many people watch, looked at once for all of them.

Responsible for: when it is looked at. Must not know: what it is.

Rules:
1. It is looked at only while somebody wants to see it; two looks are never under way at once.
2. After a look comes a pause nine times as long: looking takes at most a tenth of the time, whatever it costs.
3. While the store is away the last picture stays, with the words of the error and its age.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from disbatch_host.errors import DisbatchError, StoreError, in_words
from disbatch_host.web.problems import Problem

PAUSE_FACTOR = 9
PATIENCE_SECONDS = 2.0  # for a look that is under way, where there is an older picture
_AGAIN_SECONDS = 1.0  # after one that has failed

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen(Generic[T]):
    """What the last look has brought."""

    picture: T
    at: float  # by the monotonic clock
    trouble: str = ""  # why there is no newer one

    @property
    def age_seconds(self) -> float:
        return max(0.0, time.monotonic() - self.at)


class Looks(Generic[T]):
    """Made in the event loop that uses it."""

    def __init__(self, look: Callable[[], Awaitable[T]], *, least_seconds: float = 1.0) -> None:
        """`look` raises StoreError if the store is away. Looks begin at least `least_seconds` apart."""
        self._look = look
        self._least_seconds = least_seconds
        self._due = 0.0
        self._picture: tuple[T, float] | None = None
        self._trouble = ""
        self._failure: DisbatchError | Problem | None = None
        self._is_gone = False
        self._running: asyncio.Task[None] | None = None
        self._began = 0.0
        self.looks = 0
        self.failed = 0
        self.took_seconds = 0.0  # the last one

    @property
    def pause_seconds(self) -> float:
        """Until the next look may begin."""
        return max(0.0, self._due - time.monotonic())

    @property
    def last(self) -> Seen[T] | None:
        """What there is, however old; None before the first look."""
        if self._picture is None:
            return None
        picture, at = self._picture
        trouble = self._trouble
        if not trouble and self._running is not None and time.monotonic() - self._began > PATIENCE_SECONDS:
            trouble = f"the store has not answered for {time.monotonic() - self._began:.0f} s"
        return Seen(picture=picture, at=at, trouble=trouble)

    async def fresh(self) -> Seen[T]:
        """As new as the pause allows. Raises StoreError, Problem if there has never been a picture, and any other error
        of the last look: what was looked at is not there any more."""
        if self._running is None and self.pause_seconds <= 0:
            self._running = asyncio.ensure_future(self._one())
        if self._running is not None:
            await asyncio.wait({self._running}, timeout=None if self._picture is None else PATIENCE_SECONDS)
        if not self._is_gone and (found := self.last) is not None:
            return found
        assert self._failure is not None
        raise self._failure

    async def changes(self) -> AsyncGenerator[Seen[T], None]:
        """One after another, whenever there is a new picture or another trouble; never ends. Raises as `fresh` does."""
        shown: tuple[float, bool] | None = None
        while True:
            seen = await self.fresh()
            if (seen.at, bool(seen.trouble)) != shown:
                shown = seen.at, bool(seen.trouble)
                yield seen
            await asyncio.sleep(max(self.pause_seconds, 0.05))

    async def _one(self) -> None:
        began = self._began = time.monotonic()
        pause = _AGAIN_SECONDS
        try:
            picture = await self._look()
            self.took_seconds = time.monotonic() - began
            self._picture, self._trouble, self._failure = (picture, time.monotonic()), "", None
            pause = max(self._least_seconds - self.took_seconds, PAUSE_FACTOR * self.took_seconds)
        except (DisbatchError, Problem) as error:
            self._trouble, self._failure = in_words(error), error
            self._is_gone = not isinstance(error, (StoreError, Problem))
            self.failed += 1
        finally:
            self.looks += 1
            self._due = time.monotonic() + pause
            self._running = None

    def hurry(self) -> None:
        """The next look may begin at once."""
        self._due = 0.0

    async def close(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})


class Together(Generic[T]):
    """Looks by name, each as long as somebody watches."""

    def __init__(self) -> None:
        self._looks: dict[str, Looks[T]] = {}
        self._watching: dict[str, int] = {}

    @contextlib.contextmanager
    def of(self, name: str, look: Callable[[], Awaitable[T]]) -> Iterator[Looks[T]]:
        """Those of this name; `look` is called if nobody watches it yet."""
        found = self._looks.setdefault(name, Looks(look))
        self._watching[name] = self._watching.get(name, 0) + 1
        try:
            yield found
        finally:
            self._watching[name] -= 1
            if not self._watching[name]:
                del self._watching[name], self._looks[name]
