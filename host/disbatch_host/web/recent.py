"""What has happened lately: tasks that ended and failed, as one look after another has counted them. Pure.

Responsible for: how many in each part of the last ten minutes, by queue. Must not know: stores, what is drawn of it.

Rules:
1. It knows what looks have told it, and nothing of the time before the first: `seconds` says how long that is.
2. What two looks differ by is spread over the time between them. Counts that have become smaller are no ends: tasks
   were deleted, or run again; so those that failed are compared for themselves, and all others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

STEP_SECONDS = 10
STEPS = 60  # ten minutes

Counts = Mapping[str, tuple[int, int]]  # by queue: tasks that have ended; those of them that have failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Lately:
    """The last ten minutes, or as much of them as is known; the newest part is the last."""

    seconds: float  # that are known
    ended: tuple[float, ...]  # in each part
    failed: tuple[float, ...]
    by_queue: Mapping[str, tuple[float, ...]]  # ended

    @property
    def failed_in_all(self) -> int:
        return round(sum(self.failed))


class Recent:
    """Of one store."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._last: tuple[float, Counts] | None = None
        self._steps: dict[int, dict[str, tuple[float, float]]] = {}  # by number of the step, then by queue

    def add(self, at: float, counts: Counts) -> None:
        """What a look has counted; `at`: when, in seconds of any clock that only goes on."""
        if self._began is None:
            self._began = at
        if self._last is not None and at > self._last[0]:
            self._spread(self._last[0], at, self._last[1], counts)
        self._last = at, counts
        oldest = int(at // STEP_SECONDS) - STEPS
        self._steps = {step: queues for step, queues in self._steps.items() if step >= oldest}

    def _spread(self, begin: float, end: float, before: Counts, now: Counts) -> None:
        more = {}
        for queue, (ended, failed) in now.items():
            ended_before, failed_before = before.get(queue, (0, 0))
            more_failed = max(0, failed - failed_before)
            more_ended = more_failed + max(0, (ended - failed) - (ended_before - failed_before))
            if more_ended:
                more[queue] = more_ended, more_failed
        first = max(int(begin // STEP_SECONDS), int(end // STEP_SECONDS) - STEPS)
        for step in range(first, int(end // STEP_SECONDS) + 1):
            share = (min(end, (step + 1) * STEP_SECONDS) - max(begin, step * STEP_SECONDS)) / (end - begin)
            queues = self._steps.setdefault(step, {})
            for queue, (ended, failed) in more.items():
                had = queues.get(queue, (0.0, 0.0))
                queues[queue] = had[0] + share * ended, had[1] + share * failed

    def of(self, queues: Collection[str] | None = None) -> Lately:
        """What is known about these queues; None: about all. The part that is not over yet is left out."""
        if self._last is None or self._began is None:
            return Lately(seconds=0.0, ended=(), failed=(), by_queue={})
        end, begin = int(self._last[0] // STEP_SECONDS), int(self._began // STEP_SECONDS) + 1
        steps = range(max(begin, end - STEPS), end)
        known = {name for step in steps for name in self._steps.get(step, {}) if queues is None or name in queues}
        nothing = 0.0, 0.0
        parts = {name: [self._steps.get(step, {}).get(name, nothing) for step in steps] for name in sorted(known)}
        return Lately(
            seconds=min(self._last[0] - self._began, STEPS * STEP_SECONDS),
            ended=tuple(sum(one[at][0] for one in parts.values()) for at in range(len(steps))),
            failed=tuple(sum(one[at][1] for one in parts.values()) for at in range(len(steps))),
            by_queue={name: tuple(ended for ended, _ in some) for name, some in parts.items()},
        )
