"""How often somebody may do something.

Responsible for: counting, in this process alone. Must not know: who, and what.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable

_KNOWN_MAX = 10_000  # people and peers; the ones that were seen least recently are forgotten


class Rate:
    """At most `most` in any `seconds`, for each of many."""

    def __init__(self, most: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._seconds = seconds
        self._clock = clock
        self._moments: OrderedDict[str, deque[float]] = OrderedDict()

    def seconds_left(self, who: str) -> float:
        """Until `who` may do it again; 0: now."""
        moments = self._recent(who)
        if moments is None or len(moments) < self._most:
            return 0.0
        return max(0.0, moments[0] + self._seconds - self._clock())

    def count(self, who: str) -> None:
        """`who` has done it."""
        moments = self._recent(who)
        if moments is None:
            moments = self._moments[who] = deque(maxlen=self._most)
            while len(self._moments) > _KNOWN_MAX:
                self._moments.popitem(last=False)
        moments.append(self._clock())

    def _recent(self, who: str) -> deque[float] | None:
        moments = self._moments.get(who)
        if moments is None:
            return None
        self._moments.move_to_end(who)
        while moments and moments[0] <= self._clock() - self._seconds:
            moments.popleft()
        return moments


class Places:
    """So many at once in all, and for each of many."""

    def __init__(self, in_all: int, each: int) -> None:
        self._in_all = in_all
        self._each = each
        self._taken: dict[str, int] = {}

    @property
    def taken(self) -> int:
        return sum(self._taken.values())

    def take(self, who: str) -> str | None:
        """Take one; None: it was taken, else what there are too many of: `in all` or `each`."""
        if self.taken >= self._in_all:
            return "in all"
        if self._taken.get(who, 0) >= self._each:
            return "each"
        self._taken[who] = self._taken.get(who, 0) + 1
        return None

    def give_back(self, who: str) -> None:
        left = self._taken.get(who, 0) - 1
        if left > 0:
            self._taken[who] = left
        else:
            self._taken.pop(who, None)
