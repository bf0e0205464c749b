"""The queues whose limit across all nodes is used up, as far as a node has found out.

Responsible for: not asking the store again for tasks that `rate` or `maxtotal` does not allow yet, and when to ask
again. Must not know: how places are shared, how a store counts.

Rules:
1. A queue rests only if it had waiting tasks and a claim got none of them: one that got some may just be empty now, and
   must not keep the next task from starting at once.
2. A rest ends at the moment from which the rate allows another start, so far as that is known: a start uses it up for
   one interval at most. It also ends when the queue is changed, and, with `maxtotal`, when a task of it has ended here.
3. No rest is longer than the time between two reads of the queues: another clock, or a node that has died, may have
   made room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from disbatch_host.clock import Clock
from disbatch_host.decide.placement import Load
from disbatch_host.documents.changes import Want
from disbatch_host.documents.records import Queue, QueueId
from disbatch_host.node.pace import Pace
from disbatch_protocol.quantities import Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rest:
    until: float  # by the monotonic clock
    in_hand: int
    maxtotal: int | None
    rate: Rate | None


class LimitedQueues:
    """The memory of one node."""

    def __init__(self, clock: Clock, pace: Pace) -> None:
        """`clock`: this machine's; only its monotonic time is used."""
        self._clock = clock
        self._pace = pace
        self._rests: dict[QueueId, _Rest] = {}
        self._next_start: dict[QueueId, float] = {}  # of queues with a rate: when it allows another, at the latest

    def resting(self, queues: Sequence[Queue], load: Load) -> set[QueueId]:
        """Those of these queues that it is useless to ask for tasks now."""
        return {queue.id for queue in queues if self._rests_now(queue, load)} if self._rests else set()

    def _rests_now(self, queue: Queue, load: Load) -> bool:
        rest = self._rests.get(queue.id)
        if rest is None:
            return False
        has_changed = (rest.maxtotal, rest.rate) != (queue.maxtotal, queue.rate)
        has_room = queue.maxtotal is not None and load.running.get(queue.id, 0) < rest.in_hand
        if has_changed or has_room or self._clock.monotonic() >= rest.until:
            del self._rests[queue.id]
            return False
        return True

    def note(self, want: Want, got: int) -> float | None:
        """A claim from a queue that has waiting tasks got so many. Returns the seconds until it may start another, if
        it got fewer than wanted and anything is known of that."""
        if want.rate is None and want.maxtotal is None:
            return None
        now = self._clock.monotonic()
        next_start = None
        if want.rate is not None:
            known = self._next_start.get(want.queue, now)
            if got or known <= now:
                known = now + want.rate.interval_seconds
            next_start = self._next_start[want.queue] = known
        if got == want.count:
            return None
        if not got:
            longest = self._pace.refresh_seconds if want.maxtotal is None else self._pace.limited_seconds
            self._rest(want, now + longest if next_start is None else min(next_start, now + longest))
        return None if next_start is None else next_start - now

    def let_rest(self, want: Want) -> None:
        """A claim got none of the waiting tasks of a queue, for whatever reason, and so many queues are in the same
        situation that others do not get their turn."""
        if want.queue not in self._rests:
            self._rest(want, self._clock.monotonic() + self._pace.limited_seconds)

    def _rest(self, want: Want, until: float) -> None:
        self._rests[want.queue] = _Rest(until=until, in_hand=want.in_hand, maxtotal=want.maxtotal, rate=want.rate)

    def seconds_left(self, queue: Queue) -> float:
        """How long this queue rests from now on."""
        rest = self._rests.get(queue.id)
        return 0.0 if rest is None else max(0.0, rest.until - self._clock.monotonic())

    def forget_all_but(self, queues: set[QueueId]) -> None:
        """The other queues no longer exist."""
        self._rests = {queue: rest for queue, rest in self._rests.items() if queue in queues}
        self._next_start = {queue: at for queue, at in self._next_start.items() if queue in queues}
